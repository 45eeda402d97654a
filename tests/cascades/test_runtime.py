"""Live batches through a cascade: each stage sees those that reached it, answers in order; the queue says the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from offramp.cascades.graph.routing import Routes, coins
from offramp.cascades.learning.fit import FitSettings
from offramp.cascades.learning.points import Fitted, fit_points
from offramp.cascades.measuring.race import Alone, Together, break_even, line, race
from offramp.cascades.runtime.decide import LiveCascade, Plan, live_cascade
from offramp.cascades.runtime.queue import Queue, worth_running
from offramp.cascades.runtime.run import Runtime, Served
from offramp.features.errors import InputError
from offramp.features.outputs import Outputs

torch = pytest.importorskip("torch", reason="the runtime needs torch: install offramp[models]")

N = 160
KEY = "as they are"


@dataclass(frozen=True)
class Plain:
    """Takes images as they are."""

    pixels_key: Any = KEY

    def normalise(self, x: Any) -> Any:
        return x.permute(0, 3, 1, 2).float()


@dataclass(frozen=True)
class Lookup:
    """A network that reads the number of the example off its pixels, and remembers what it was asked."""

    name: str
    table: Any
    preprocessing: Any = field(default_factory=Plain)
    asked: list[list[int]] = field(default_factory=list)
    wait: float = 0.0
    trunk: Any = None

    def inputs(self, pixels: Any) -> Any:
        return self.preprocessing.normalise(pixels)

    def logits(self, inputs: Any) -> Any:
        number = (inputs[:, 0, 0, 0] + 256 * inputs[:, 0, 0, 1]).long()
        self.asked.append(number.tolist())
        time.sleep(self.wait)
        return self.table[number]


@dataclass(frozen=True)
class World:
    fitted: Fitted
    test: Outputs
    networks: tuple[Any, ...]

    @property
    def pixels(self) -> dict[Any, Any]:
        number = np.arange(len(self.test))
        flat = np.stack([number % 256, number // 256], axis=1).astype(np.uint8)
        return {KEY: torch.from_numpy(flat.reshape(-1, 1, 2, 1))}

    def runtime(self, point: int) -> Runtime:
        return Runtime(self.networks, live_cascade(self.fitted, point), torch.device("cpu"))

    def plan(self, point: int) -> Any:
        return live_cascade(self.fitted, point).drawn(coins(self.test.ids, self.fitted.coin))

    @property
    def points(self) -> list[int]:
        """One of every kind: learned at several prices, one stage alone, thresholds, a mixture."""
        q, t = len(self.fitted.sweep.prices), len(self.fitted.plans)
        return [0, 2, 4, q - 1, q, q + t - 1, *range(q + t, len(self.fitted.names), 7)]


@pytest.fixture
def cascade(routes_of: Callable[..., Routes], world: Callable[..., Outputs]) -> World:
    fitted, _ = fit_points(world(500), None, routes_of(3), 5, FitSettings(("constant", "threshold", "value")))
    test = world(N, part="test")
    networks = tuple(Lookup(s.name, torch.from_numpy(np.asarray(s.logits))) for s in test.stages)
    return World(fitted, test, networks)


def test_routes_and_answers_are_those_of_stored_outputs(cascade: World) -> None:
    wanted = cascade.fitted.route(cascade.test)
    for point in cascade.points:
        served = cascade.runtime(point).run(cascade.pixels, cascade.plan(point))
        np.testing.assert_array_equal(served.path, wanted[point].path)
        np.testing.assert_array_equal(served.answer, wanted[point].answer)


def test_a_stage_sees_exactly_the_examples_that_reach_it_once(cascade: World) -> None:
    paths = cascade.fitted.sweep.routes.paths
    for point in cascade.points:
        for network in cascade.networks:
            network.asked.clear()
        served = cascade.runtime(point).run(cascade.pixels, cascade.plan(point))
        for s, network in enumerate(cascade.networks):
            reached = [i for i in range(N) if s in paths[served.path[i]]]
            assert network.asked == ([reached] if reached else [])
            assert [size for stage, size in served.batches if stage == s] == ([len(reached)] if reached else [])


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_the_order_is_the_inputs(cascade: World, batch: int) -> None:
    point = cascade.points[1]
    runtime, whole = cascade.runtime(point), cascade.runtime(point).run(cascade.pixels)
    parts = [
        runtime.run({key: x[start : start + batch] for key, x in cascade.pixels.items()})
        for start in range(0, N, batch)
    ]
    np.testing.assert_array_equal(np.concatenate([part.answer for part in parts]), whole.answer)
    np.testing.assert_array_equal(np.concatenate([part.path for part in parts]), whole.path)


def test_a_mixture_draws_by_its_shares(cascade: World) -> None:
    q, t = len(cascade.fitted.sweep.prices), len(cascade.fitted.plans)
    point = q + t
    live = live_cascade(cascade.fitted, point)
    runtime = cascade.runtime(point)
    assert len(live.plans) == 2
    visits = [runtime.run(cascade.pixels).path for _ in range(20)]
    one, other = (cascade.runtime(p).run(cascade.pixels).path for p in _two(cascade.fitted))
    differing = one != other
    taken = np.mean([(path == other)[differing].mean() for path in visits])
    assert abs(taken - live.shares[1]) < 0.1


def _two(fitted: Fitted) -> tuple[int, int]:
    return fitted.mixtures[0].one, fitted.mixtures[0].other


def test_networks_that_are_not_the_stages_are_refused(cascade: World) -> None:
    with pytest.raises(InputError, match="a, b, c"):
        Runtime(cascade.networks[::-1], live_cascade(cascade.fitted, 0), torch.device("cpu"))


def test_crops_and_inputs_are_made_once_for_stages_that_share_them(cascade: World) -> None:
    made = []

    @dataclass(frozen=True)
    class Counting(Plain):
        def normalise(self, x: Any) -> Any:
            made.append(len(x))
            return super().normalise(x)

    shared = Counting()
    networks = tuple(Lookup(n.name, n.table, shared) for n in cascade.networks)
    point = max(cascade.points, key=lambda p: len(cascade.runtime(p).run(cascade.pixels).batches))
    made.clear()
    Runtime(networks, live_cascade(cascade.fitted, point), torch.device("cpu")).run(cascade.pixels, cascade.plan(point))
    assert made == [N]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_are_told_by_their_network(cascade: World, bad: float) -> None:
    point = cascade.points[1]
    live = live_cascade(cascade.fitted, point)
    entry = live.routes.paths[live.plans[0].entry][-1]
    tables = [n.table.clone() for n in cascade.networks]
    tables[entry][7, 1] = bad
    networks = tuple(Lookup(n.name, table) for n, table in zip(cascade.networks, tables, strict=True))
    with pytest.raises(InputError, match="NaN or infinity") as raised:
        Runtime(networks, live, torch.device("cpu")).run(cascade.pixels)
    assert repr(networks[entry].name) in str(raised.value)


def test_decisions_on_tensors_are_those_on_arrays(cascade: World) -> None:
    """As on a GPU: features and rule as tensors, one transfer a stage."""
    for point in cascade.points[:4]:
        plan = cascade.plan(point)
        live = live_cascade(cascade.fitted, point, on_device=True)

        @dataclass(frozen=True)
        class Elsewhere(Runtime):
            def _there(self, logits: Any) -> Any:
                return logits

        found = Elsewhere(cascade.networks, live, torch.device("cpu")).run(cascade.pixels, plan)
        wanted = cascade.runtime(point).run(cascade.pixels, plan)
        np.testing.assert_array_equal(found.path, wanted.path)
        np.testing.assert_array_equal(found.answer, wanted.answer)


# --- the queue


@pytest.mark.parametrize("request_size", [1, 5, 64])
def test_the_queue_answers_as_the_runtime_does(cascade: World, request_size: int) -> None:
    for point in cascade.points:
        plan = cascade.plan(point)
        wanted = cascade.runtime(point).run(cascade.pixels, plan)
        live = live_cascade(cascade.fitted, point)
        with Queue(cascade.networks, live, torch.device("cpu"), (32, 16, 8), patience=0.01) as queue:
            futures = [
                queue.submit(
                    {key: x[start : start + request_size] for key, x in cascade.pixels.items()},
                    None if plan is None else plan[start : start + request_size],
                )
                for start in range(0, N, request_size)
            ]
            served = [future.result(timeout=30) for future in futures]
        np.testing.assert_array_equal(np.concatenate([each.answer for each in served]), wanted.answer)
        np.testing.assert_array_equal(np.concatenate([each.path for each in served]), wanted.path)
        sizes = np.zeros(3, int)
        for stage, size in queue.batches:
            assert size <= 64
            sizes[stage] += size
        reached = [sum(s in live.routes.paths[q] for q in wanted.path) for s in range(3)]
        assert sizes.tolist() == reached


def test_a_request_whose_examples_change_places_keeps_its_answers() -> None:
    """All examples of one request go on, but those of the second plan behind those of the first."""
    routes = Routes(("a", "b"), ((0,), (0, 1)), np.array([[1.0, 0.0], [1.0, 4.0]]), "ms")

    def go_on(seen: Any) -> Any:
        return np.ones(len(seen[0]), int), np.zeros(len(seen[0]), int)

    def stop(seen: Any) -> Any:
        return np.zeros(len(seen[1]), int), seen[1].argmax(1)

    plan = Plan(0, {0: go_on, 1: stop})
    live = LiveCascade(routes, (plan, plan), (0.5, 0.5))
    n = 6
    stages = tuple(Lookup(name, torch.eye(n)) for name in ("a", "b"))
    flat = np.stack([np.arange(n), np.zeros(n)], axis=1).astype(np.uint8)
    with Queue(stages, live, torch.device("cpu"), (1, 1), patience=0.01) as queue:
        pixels = {KEY: torch.from_numpy(flat.reshape(-1, 1, 2, 1))}
        served = queue.submit(pixels, np.array([1, 0, 0, 1, 1, 0])).result(30)
    np.testing.assert_array_equal(served.answer, np.arange(n))


def simple(
    stages: Any, worth: tuple[int, ...] = (1, 1), patience: float = 0.01, stops: Any = None, **more: Any
) -> Queue:
    """A queue before a and b: an example goes on to b unless ``stops`` (of the logits of a) says so."""
    routes = Routes(("a", "b"), ((0,), (0, 1)), np.array([[1.0, 0.0], [1.0, 4.0]]), "ms")

    def first(seen: Any) -> Any:
        going = np.ones(len(seen[0]), int) if stops is None else 1 - np.asarray(stops(seen[0])).astype(int)
        return going, seen[0].argmax(1)

    plan = Plan(0, {0: first, 1: lambda seen: (np.zeros(len(seen[1]), int), seen[1].argmax(1))})
    return Queue(stages, LiveCascade(routes, (plan,), (1.0,)), torch.device("cpu"), worth, patience, **more)


def numbered(*numbers: int) -> dict[Any, Any]:
    flat = np.stack([np.array(numbers), np.zeros(len(numbers))], axis=1).astype(np.uint8)
    return {KEY: torch.from_numpy(flat.reshape(-1, 1, 2, 1))}


def pair(n: int = 8, **more: Any) -> tuple[Lookup, Lookup]:
    return Lookup("a", torch.eye(n), **more), Lookup("b", torch.eye(n), **more)


def test_who_cancels_disturbs_nobody() -> None:
    with simple(pair(wait=0.02)) as queue:
        futures = [queue.submit(numbered(i)) for i in range(8)]
        assert not any(future.cancel() for future in futures[::2])
        assert [int(future.result(10).answer[0]) for future in futures] == list(range(8))
        assert int(queue.submit(numbered(3)).result(10).answer[0]) == 3


def test_patience_goes_before_full_batches() -> None:
    """Stage a is never idle; the one example that goes on to b is served all the same."""
    stages = pair(wait=0.002)
    with simple(stages, worth=(1, 99), patience=0.05, stops=lambda z: z.argmax(1) > 0, most=4) as queue:
        waiting = queue.submit(numbered(0))
        end = time.monotonic() + 10
        while not waiting.done() and time.monotonic() < end:
            queue.submit(numbered(*[1] * 8))
            time.sleep(0.001)
        assert waiting.done()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_queue_tells_of_logits_that_are_not_finite(bad: float) -> None:
    stages = pair()
    stages[1].table[2] = bad
    with simple(stages, worth=(4, 4), patience=0.5) as queue:
        futures = [queue.submit(numbered(i)) for i in range(4)]
        with pytest.raises(InputError, match="network 'b'"):
            futures[2].result(10)
        assert [int(futures[i].result(10).answer[0]) for i in (0, 1, 3)] == [0, 1, 3]


def test_an_error_while_deciding_reaches_those_it_concerns_and_later_ones_are_served() -> None:
    calls = []

    def stops(logits: Any) -> Any:
        calls.append(len(logits))
        if len(calls) == 1:
            raise ZeroDivisionError("once")
        return np.zeros(len(logits))

    with simple(pair(), stops=stops) as queue:
        with pytest.raises(ZeroDivisionError, match="once"):
            queue.submit(numbered(1)).result(10)
        assert int(queue.submit(numbered(5)).result(10).answer[0]) == 5


@pytest.mark.parametrize(
    ("pixels", "plan", "said"),
    [
        ({}, None, "found none"),
        ({KEY: torch.zeros(1, 1, 2, 1)}, None, "float32"),
        ({KEY: torch.zeros(1, 2, dtype=torch.uint8)}, None, "shape"),
        (numbered(1, 2), np.array([0]), "for each of 2"),
        (numbered(1), np.array([7]), "plan below 1"),
        (numbered(1), np.array([-1]), "plan below 1"),
    ],
)
def test_a_bad_request_is_refused_before_it_meets_others(pixels: Any, plan: Any, said: str) -> None:
    with simple(pair()) as queue:
        assert queue.submit(numbered(3)).result(10).answer.tolist() == [3]
        with pytest.raises(InputError, match=said):
            queue.submit(pixels, plan)
        assert queue.submit(numbered(4)).result(10).answer.tolist() == [4]


def test_an_error_in_the_block_does_not_wait_for_the_backlog() -> None:
    begin, futures = time.monotonic(), []

    def interrupted() -> None:
        with simple(pair(wait=0.05), most=1) as queue:
            futures.extend(queue.submit(numbered(1)) for _ in range(200))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - begin < 3
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError, match="closed"):
        futures[-1].result(0)


def test_examples_of_many_requests_are_gathered(cascade: World) -> None:
    point = cascade.points[1]
    queue = Queue(cascade.networks, live_cascade(cascade.fitted, point), torch.device("cpu"), (N, N, N), patience=60.0)
    futures = [queue.submit({key: x[i : i + 1] for key, x in cascade.pixels.items()}) for i in range(N)]
    queue.close()  # nothing is due before: not enough examples, endless patience
    assert all(future.done() for future in futures)
    entry = queue.batches[0]
    assert entry[1] == 64  # what is taken at once
    assert len(queue.batches) < N / 8


def test_a_lone_request_is_run_when_patience_ends(cascade: World) -> None:
    live = live_cascade(cascade.fitted, cascade.points[1])
    with Queue(cascade.networks, live, torch.device("cpu"), (64, 64, 64), patience=0.02) as queue:
        served = queue.submit({key: x[:1] for key, x in cascade.pixels.items()}).result(timeout=30)
    assert len(served.answer) == 1


def test_what_is_due_by_hand(cascade: World) -> None:
    clock = [100.0]
    live = live_cascade(cascade.fitted, cascade.points[1])
    entry = live.routes.paths[live.plans[0].entry][-1]
    queue = Queue(cascade.networks, live, torch.device("cpu"), (3, 3, 3), patience=5.0, clock=lambda: clock[0], most=2)
    assert queue.due(100.0) == (None, None)
    held = threading.Event()
    blocked = cascade.networks[entry]
    slow = blocked.logits

    def logits(inputs: Any) -> Any:
        held.wait(30)
        return slow(inputs)

    object.__setattr__(blocked, "logits", logits)
    for i in range(2):
        queue.submit({key: x[i : i + 1] for key, x in cascade.pixels.items()})
    assert queue.due(101.0) == (None, 4.0)  # two wait for a third, or for four seconds more
    assert queue.due(105.0) == (entry, None)
    assert queue.due(101.0, closing=True) == (entry, None)
    last = queue.submit({key: x[2:3] for key, x in cascade.pixels.items()})
    held.set()
    queue.close()
    assert len(last.result().answer) == 1
    with pytest.raises(RuntimeError, match="closed"):
        queue.submit(cascade.pixels)


def test_a_network_that_fails_fails_its_requests_and_no_others(cascade: World) -> None:
    live = live_cascade(cascade.fitted, cascade.points[1])
    entry = live.routes.paths[live.plans[0].entry][-1]
    network, good = cascade.networks[entry], cascade.networks[entry].logits
    failing = [True]

    def logits(inputs: Any) -> Any:
        if failing[0]:
            raise RuntimeError("out of memory")
        return good(inputs)

    object.__setattr__(network, "logits", logits)
    with Queue(cascade.networks, live, torch.device("cpu"), (1, 1, 1), patience=0.0) as queue:
        one = {key: x[:2] for key, x in cascade.pixels.items()}
        with pytest.raises(RuntimeError, match="out of memory"):
            queue.submit(one).result(timeout=30)
        failing[0] = False
        assert len(queue.submit(one).result(timeout=30).answer) == 2


def test_an_empty_request_is_answered_at_once(cascade: World) -> None:
    live = live_cascade(cascade.fitted, 0)
    with Queue(cascade.networks, live, torch.device("cpu"), (64, 64, 64), patience=60.0) as queue:
        served = queue.submit({key: x[:0] for key, x in cascade.pixels.items()}).result(timeout=1)
    assert isinstance(served, Served)
    assert served.answer.shape == (0,)


@pytest.mark.parametrize("overhead", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("slope", [0.0, 0.1, 2.0])
def test_a_batch_worth_running_spends_little_on_overhead(overhead: float, slope: float) -> None:
    batch = worth_running(overhead, slope, most=64)
    assert 1 <= batch <= 64
    small = [b for b in range(1, 65) if overhead <= 0.1 * (overhead + slope * b) + 1e-12]
    assert batch == (small[0] if small else 64)


# --- side by side


def test_a_race_runs_everybody_on_everything(cascade: World) -> None:
    device = torch.device("cpu")
    alone = [Alone(n.name, s, n, device) for s, n in enumerate(cascade.networks)]
    point = cascade.points[1]
    systems = [*alone, Together("cascade", cascade.runtime(point), cascade.plan(point))]
    heard: list[int] = []
    found = race(systems, cascade.networks, cascade.pixels, 64, 2, device, heard.append)
    assert found.seconds.shape == (4, 2, 3)
    assert (found.seconds > 0).all()
    assert len(heard) == 4
    for s in range(3):
        own = np.asarray(cascade.test.stages[s].logits).argmax(1)
        np.testing.assert_array_equal(np.concatenate([each.answer for each in found.served[s]]), own)
        assert [each.batches for each in found.served[s]] == [((s, 64),), ((s, 64),), ((s, 32),)]
    wanted = cascade.fitted.route(cascade.test)[point]
    np.testing.assert_array_equal(np.concatenate([each.path for each in found.served[3]]), wanted.path)
    cells = {cell for each in found.served for served in each for cell in served.batches}
    assert set(found.cells) == cells
    assert found.ideal(3).shape == (3,)


def test_a_race_measures_what_takes_time(cascade: World) -> None:
    """A network that sleeps ten milliseconds can't have been answered in less."""
    network = Lookup("a", cascade.networks[0].table, wait=0.01)
    found = race([Alone("a", 0, network, torch.device("cpu"))], [network], cascade.pixels, 64, 1, torch.device("cpu"))
    assert (found.seconds >= 0.01).all()
    assert min(found.cells.values()) >= 0.01


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("batch", [1, 64])
def test_break_even_is_where_both_ways_take_as_long(share: float, batch: int) -> None:
    saved = 0.7
    spent = saved * batch * share
    found = break_even(spent, saved, batch)
    assert spent + saved * batch * (1 - found) == pytest.approx(saved * batch)
    assert break_even(saved * batch * 1.01, saved, batch) == break_even(1.0, 0.0, batch) == float("inf")


def test_a_line_is_never_negative() -> None:
    overhead, slope = line([1, 2, 4, 8], [0.5, 2.0, 5.0, 11.0])  # the best line begins below zero
    assert overhead == 0
    assert slope > 0
