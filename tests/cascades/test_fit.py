from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.cascades.files.codec import to_plain
from offramp.cascades.graph.costs import Costs, StageCost
from offramp.cascades.graph.routing import Routes
from offramp.cascades.graph.topology import parse_topology, unroll
from offramp.cascades.learning import fit
from offramp.cascades.learning.answers import LOSSES
from offramp.cascades.learning.cascade import Routed, Sweep
from offramp.cascades.learning.fit import (
    FitSettings,
    HeldOut,
    fit_sweep,
    pick_family,
    place_prices,
    price_range,
    recalibrated,
)
from offramp.features.evidence import EvidenceSettings
from offramp.features.outputs import Floats, Ints, Outputs, Stage
from offramp.policies import POLICIES
from offramp.policies.constant import ConstantRules
from offramp.policies.policy import Decision, Policy, Rules

FAMILIES = ("constant", "threshold", "logistic", "value")
World = Callable[..., Outputs]
RoutesOf = Callable[..., Routes]


@pytest.fixture
def prices_are(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Floats]:
    """prices_are(0.1, 2): the prices that every sweep of the test is fitted at, in place of those it would choose."""

    def fix(*prices: float) -> Floats:
        monkeypatch.setattr(fit, "place_prices", lambda *_: np.array(prices))
        return np.array(prices)

    return fix


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> Callable[[Policy], tuple[str]]:
    """family(policy): the names to fit a sweep with so that this policy makes all rules."""

    def register(policy: Policy) -> tuple[str]:
        monkeypatch.setitem(POLICIES, "of this test", policy)
        return ("of this test",)

    return register


def wrong_of(outputs: Outputs) -> np.ndarray:
    """(n, k): whether each stage's own answer is wrong."""
    return np.stack([stage.logits.argmax(axis=1) != outputs.labels for stage in outputs.stages], axis=1)  # type: ignore[union-attr]


def objectives(routed: Routed, prices: Floats) -> Floats:
    """Mean loss + price * cost of the routing of each price."""
    points = [routed.at(i) for i in range(len(prices))]
    return np.array([point.error + price * point.mean_cost for point, price in zip(points, prices, strict=True)])


def through(routes: Routes, stage: int) -> np.ndarray:
    """Which paths call a stage."""
    return np.array([stage in path for path in routes.paths])


# --- what a policy is given to decide on


@dataclass(frozen=True)
class ByLooks:
    """Acts by what it sees in a way that nobody learned, and looks the same however it was fitted."""

    ways: int
    prices: int

    def actions(self, x: Floats) -> Ints:
        looks = np.abs(x[:, :3] * 1000).astype(np.int64).sum(axis=1)
        return ((looks[:, None] + np.arange(self.prices)) % self.ways).astype(np.int8)

    def take(self, prices: Ints) -> Rules:
        return ByLooks(self.ways, len(prices))

    def __str__(self) -> str:
        return "by looks"


@dataclass(frozen=True)
class Spy:
    """Keeps every decision that it is given, in their order."""

    make: Callable[[Decision], Rules] = lambda d: ByLooks(d.costs.shape[1], d.costs.shape[2])
    seen: list[Decision] = field(default_factory=list)

    def fit(self, decision: Decision) -> Rules:
        self.seen.append(decision)
        return self.make(decision)

    def search_space(self) -> dict[str, tuple[Any, ...]]:
        return {}

    def of_all(self, n: int) -> list[Decision]:
        """The decisions on all examples: one a path that can go on, the deepest first."""
        return [decision for decision in self.seen if len(decision.x) == n]


MIXED = Costs({"a": StageCost("a", 1.0, 0.0), "b": StageCost("net", 2.0, 0.5), "c": StageCost("net", 4.0, 0.25)}, "ms")
"""A model, and two exits of one network."""

COST = {(0,): 1.0, (1,): 2.5, (2,): 6.25, (0, 1): 3.5, (0, 2): 7.25, (1, 2): 6.75, (0, 1, 2): 7.75}
"""What the paths cost, worked out by hand."""

SOME_PRICES = (1e-3, 0.02, 0.5)


Ends = dict[tuple[int, ...], tuple[Floats, Floats]]
"""What examples lose and spend (n, prices) from the end of every path on."""

Spied = tuple[Outputs, Routes, Spy, Sweep, HeldOut, Ends]


@pytest.fixture
def spy_on(
    world: World, prices_are: Callable[..., Floats], family: Callable[[Policy], tuple[str]]
) -> Callable[..., Spied]:
    """spy_on(prices): a sweep by looks, the examples in the order fitted on, and how they end, from the root up."""

    def run(*prices: float, softness: float = 0.0, n: int = 150) -> Spied:
        q = len(prices_are(*prices))
        spy = Spy()
        routes = unroll(parse_topology("a_b_c", "abc"), MIXED)
        how = FitSettings(family(spy), "last", softness=softness)
        outputs = world(n)
        sweep, held_out = fit_sweep(outputs, routes, q, how)
        outputs = outputs.take(held_out.rows)
        wrong, decided = wrong_of(outputs), iter(spy.of_all(n))
        ends: Ends = {}
        for path in sorted(COST, key=len, reverse=True):
            lost = np.repeat(wrong[:, path[-1:]].astype(float), q, axis=1)
            spent = np.full(lost.shape, COST[path])
            onward = [(*path, stage) for stage in range(path[-1] + 1, 3)]
            action = ByLooks(1 + len(onward), q).actions(next(decided).x) if onward else np.zeros(lost.shape)
            for way, child in enumerate(onward, start=1):
                lost = np.where(action == way, ends[child][0], lost)
                spent = np.where(action == way, ends[child][1], spent)
            ends[path] = lost, spent
        return outputs, routes, spy, sweep, held_out, ends

    return run


@pytest.fixture
def spied(spy_on: Callable[..., Spied]) -> Spied:
    """A sweep by looks at three prices."""
    return spy_on(*SOME_PRICES)


def test_paths_cost_what_they_cost_by_hand() -> None:
    routes = unroll(parse_topology("a_b_c", "abc"), MIXED)
    assert dict(zip(routes.paths, routes.cost.tolist(), strict=True)) == COST


def test_a_policy_is_told_what_each_action_leads_to(spied: Spied) -> None:
    outputs, _, spy, _, _, ends = spied
    deciding = [path for path in sorted(COST, key=len, reverse=True) if path[-1] < 2]
    decisions = spy.of_all(len(outputs))
    assert len(decisions) == len(deciding) == 3
    assert {tuple(d.columns) for d in decisions} != {()}
    # the deepest come first; of equally deep paths, the one whose first column is of its first stage
    by_size = {d.costs.shape[1]: d for d in decisions}
    assert sorted(d.costs.shape for d in decisions) == [(150, 2, 3), (150, 2, 3), (150, 3, 3)]
    for path, decision in zip([(0, 1), (0,), (1,)], [decisions[0], by_size[3], decisions[-1]], strict=True):
        assert any(column.startswith("abc"[path[-1]]) for column in decision.columns)
        onward = [(*path, stage) for stage in range(path[-1] + 1, 3)]
        stop = wrong_of(outputs)[:, path[-1]].astype(float)
        np.testing.assert_array_equal(decision.costs[:, 0], np.repeat(stop[:, None], 3, axis=1))
        for way, child in enumerate(onward, start=1):
            lost, spent = ends[child]
            expected = lost + np.array(SOME_PRICES) * (spent - COST[path])
            np.testing.assert_allclose(decision.costs[:, way], expected, rtol=1e-6)


def test_a_policy_is_told_how_much_later_answers_save(spied: Spied) -> None:
    outputs, _, spy, _, _, _ = spied
    wrong = wrong_of(outputs).astype(float)
    first = next(d for d in spy.of_all(150) if d.costs.shape[1] == 3)
    # after a: the paths a > b, a > b > c and a > c, as they stand in the routes
    np.testing.assert_array_equal(first.outcome, wrong[:, [1, 2, 2]] - wrong[:, [0]])


def test_the_entry_is_the_cheapest_and_examples_stop_where_their_rules_stop_them(spied: Spied) -> None:
    outputs, routes, _, sweep, held_out, ends = spied
    for i, price in enumerate(SOME_PRICES):
        total = {(e,): float((ends[e,][0] + price * ends[e,][1])[:, i].mean()) for e in range(3)}
        entry = min(total, key=total.__getitem__)
        assert routes.paths[sweep.entry[i]] == entry
        routing = held_out.routed.at(i)
        np.testing.assert_allclose(routing.cost, ends[entry][1][:, i])
        np.testing.assert_array_equal(routing.wrong, ends[entry][0][:, i])
    assert sorted(held_out.rows) == list(range(len(outputs)))
    assert held_out.routed.part == "fit"


def test_the_entry_is_chosen_by_the_loss_that_came_whatever_rules_are_fitted_on(spy_on: Callable[..., Spied]) -> None:
    prices = np.geomspace(0.03, 1, 2000)
    _, routes, _, sweep, _, ends = spy_on(*prices, softness=1.0, n=40)
    total = np.stack([(ends[e,][0] + prices * ends[e,][1]).mean(axis=0) for e in range(3)])
    chosen = np.array([routes.paths[e][0] for e in sweep.entry[:2000]])
    assert len(set(chosen.tolist())) > 1
    np.testing.assert_allclose(total[chosen, np.arange(2000)], total.min(axis=0))


def test_costs_are_half_the_loss_that_came_and_half_the_loss_expected(
    world: World, routes_of: RoutesOf, prices_are: Callable[..., Floats], family: Callable[[Policy], tuple[str]]
) -> None:
    prices_are(0.01)
    outputs = world(400)
    stop = {}
    for softness in (0.0, 0.5, 1.0):
        spy = Spy()
        _, held_out = fit_sweep(outputs, routes_of(3), 1, FitSettings(family(spy), "last", softness=softness))
        stop[softness] = next(d for d in spy.of_all(400) if d.costs.shape[1] == 3).costs[:, 0, 0]
    wrong = wrong_of(outputs.take(held_out.rows))[:, 0]
    np.testing.assert_array_equal(stop[0.0], wrong)
    np.testing.assert_allclose(stop[0.5], (stop[0.0] + stop[1.0]) / 2, atol=1e-6)
    assert stop[1.0].mean() == pytest.approx(wrong.mean(), abs=1e-6)
    # expected by all stages together, the best of which is hardly ever wrong
    assert np.corrcoef(stop[1.0], wrong)[0, 1] > 0.95
    assert fit.SOFTNESS == FitSettings(()).softness == 0.5


# --- held out is held out


def test_what_upstream_sees_of_downstream_was_not_fitted_on_the_example(
    world: World, routes_of: RoutesOf, prices_are: Callable[..., Floats], family: Callable[[Policy], tuple[str]]
) -> None:
    """Rules fitted on all examples stop, those fitted without a fold go as far as they can."""
    (price,) = prices_are(0.01)
    outputs = world(100)

    def make(decision: Decision) -> Rules:
        ways, prices = decision.costs.shape[1:]
        return ConstantRules(np.full(prices, 0 if len(decision.x) == 100 else ways - 1))

    spy = Spy(make)
    sweep, held_out = fit_sweep(outputs, routes_of(3, "a>b>c"), 1, FitSettings(family(spy), "last", softness=0.0))
    wrong = wrong_of(outputs.take(held_out.rows))
    upstream = spy.of_all(100)[1]
    np.testing.assert_allclose(upstream.costs[:, 1, 0], wrong[:, 2] + price * (3 + 9), rtol=1e-6)
    assert (held_out.routed.at(0).exit == 2).all()
    assert (sweep.route(outputs).at(0).exit == 0).all()


@dataclass(frozen=True)
class Memory:
    """Knows by heart what was best for each example that it was fitted on, and goes by the last of them else."""

    def fit(self, decision: Decision) -> Rules:
        best = decision.costs.argmin(axis=1).astype(np.int8)
        return Remembered({row.tobytes(): best[i] for i, row in enumerate(decision.x)}, best[-1])

    def search_space(self) -> dict[str, tuple[Any, ...]]:
        return {}


@dataclass(frozen=True)
class Remembered:
    best: dict[bytes, Ints]
    otherwise: Ints

    @property
    def prices(self) -> int:
        return len(self.otherwise)

    @property
    def looks_at(self) -> Ints:
        return np.arange(len(next(iter(self.best), b"")) // 4)

    def actions(self, x: Floats) -> Ints:
        return np.stack([self.best.get(row.tobytes(), self.otherwise) for row in x])

    def take(self, prices: Ints) -> Rules:
        return Remembered({x: best[prices] for x, best in self.best.items()}, self.otherwise[prices])

    def __str__(self) -> str:
        return "by heart"


@pytest.mark.parametrize("answer", ["last", "fused"])
def test_noise_is_not_learned(
    world: World, routes_of: RoutesOf, family: Callable[[Policy], tuple[str]], answer: str
) -> None:
    """With labels that no stage knows anything of, no held-out point is better than chance, cheat who may."""
    n = 800
    outputs = world(n, (0.0, 0.0, 0.0), classes=2)
    names = (*FAMILIES, *family(Memory()))
    sweep, held_out = fit_sweep(outputs, routes_of(3), 8, FitSettings(names, answer))
    singles = wrong_of(outputs).mean(axis=0)
    slack = 4 * np.sqrt(0.25 / n)
    assert (singles > 0.5 - slack).all()
    for i, price in enumerate(sweep.prices):
        assert held_out.routed.at(i).error > 0.5 - slack, price
        assert sweep.route(world(n, (0.0,) * 3, 2, part="test")).at(i).error > 0.5 - slack


def test_memory_would_cheat_if_it_could(
    world: World, routes_of: RoutesOf, prices_are: Callable[..., Floats], family: Callable[[Policy], tuple[str]]
) -> None:
    """The test above can fail: on the examples that it was fitted on, memory is far ahead of chance."""
    prices_are(1e-6)
    outputs = world(400, (0.0, 0.0), classes=2)
    plain = EvidenceSettings(calibrate=False, stack=False, agreement=False)
    spy = Spy(Memory().fit)
    sweep, held_out = fit_sweep(
        outputs, routes_of(2, "a>b"), 1, FitSettings(family(spy), "last", evidence=plain, softness=0.0)
    )
    decision = spy.of_all(400)[0]
    taken = sweep.rules[0,].actions(decision.x)
    seen = np.take_along_axis(decision.costs[:, :, 0], taken[:, :1].astype(int), axis=1).mean()
    assert seen < 0.3
    assert held_out.routed.at(0).error > 0.4


def test_poisoned_labels_of_a_fold_do_not_reach_its_own_decisions(
    world: World, routes_of: RoutesOf, prices_are: Callable[..., Floats], family: Callable[[Policy], tuple[str]]
) -> None:
    """The rules that decide on a fold are fitted on the same costs, whatever the labels of the fold are."""
    prices_are(0.02)
    outputs, n = world(300, (1.0, 3.0), classes=40), 300
    how = FitSettings((), "last", evidence=EvidenceSettings(calibrate=False), softness=0.0)

    def fitted(labels: Ints) -> tuple[Ints, list[tuple[set[int], Floats]]]:
        """The order of the examples, and for every fit without a fold the examples left out, and the costs."""
        spy = Spy(POLICIES["threshold"].fit)
        case = replace(outputs, labels=labels)
        _, held_out = fit_sweep(case, routes_of(2, "a>b"), 1, replace(how, policies=family(spy)))
        (whole,) = spy.of_all(n)
        row_of = {row.tobytes(): i for i, row in zip(held_out.rows.tolist(), whole.x, strict=True)}
        parts = [d for d in spy.seen if len(d.x) < n]
        return held_out.rows, [(set(range(n)) - {row_of[row.tobytes()] for row in d.x}, d.costs) for d in parts]

    rows, parts = fitted(outputs.labels)
    assert sorted(row for left_out, _ in parts for row in left_out) == list(range(n))
    left_out, costs = parts[0]
    poisoned = outputs.labels.copy()
    poisoned[list(left_out)] = np.roll(poisoned[list(left_out)], 1)
    again, other = fitted(poisoned)
    np.testing.assert_array_equal(again, rows)
    (theirs,) = (c for rows_left, c in other if rows_left == left_out)
    np.testing.assert_array_equal(theirs, costs)
    assert all((c != d).any() for rows_left, c in other for r, d in parts if r == rows_left != left_out)


# --- the best there is, by brute force


def test_constant_rules_are_the_best_of_all_combinations(
    world: World, routes_of: RoutesOf, prices_are: Callable[..., Floats]
) -> None:
    prices = prices_are(*np.geomspace(1e-3, 3, 16))
    outputs, routes = world(600, (1.0, 2.0, 3.0), classes=10), routes_of(3)
    sweep, held_out = fit_sweep(outputs, routes, len(prices), FitSettings(("constant",), "last", softness=0.0))
    wrong = wrong_of(outputs).mean(axis=0)
    deciding = [q for q, children in enumerate(routes.children) if children]
    every = []
    for entry, *actions in product(routes.entries, *(range(1 + len(routes.children[q])) for q in deciding)):
        rule, at = dict(zip(deciding, actions, strict=True)), entry
        while rule.get(at):
            at = routes.children[at][rule[at] - 1]
        every.append(at)
    assert len(every) == 3 * 3 * 2 * 2
    clear = 0
    for i, price in enumerate(prices):
        objective = {at: wrong[routes.paths[at][-1]] + price * routes.cost[at] for at in set(every)}
        (least, best), (second, _) = sorted((value, at) for at, value in objective.items())[:2]
        assert objectives(held_out.routed, prices)[i] <= least + 0.02
        if second > least + 0.03:
            clear += 1
            assert (held_out.routed.path[:, i] == best).all()
            assert (sweep.route(outputs).path[:, i] == best).all()
    assert clear >= 6


def best_cuts(score: Floats, costs: Floats) -> float:
    """Least mean cost of giving each action an interval of the score, in any order, by trying all."""
    n, a = costs.shape
    places = [-np.inf, *np.unique(score).tolist(), np.inf]
    before = {place: costs[score < place].sum(axis=0) for place in places}
    least = np.inf
    for order in permutations(range(a)):
        for cuts in product(places, repeat=a - 1):
            if list(cuts) == sorted(cuts):
                edges = [before[-np.inf], *(before[cut] for cut in cuts), before[np.inf]]
                least = min(least, sum(edges[j + 1][v] - edges[j][v] for j, v in enumerate(order)) / n)
    return least


def test_every_threshold_is_the_best_of_all_cuts_given_what_is_downstream(
    world: World, routes_of: RoutesOf, prices_are: Callable[..., Floats], family: Callable[[Policy], tuple[str]]
) -> None:
    prices = prices_are(0.005, 0.05)
    spy = Spy(POLICIES["threshold"].fit)
    outputs = world(60, (1.0, 2.0, 3.0))
    sweep, _ = fit_sweep(outputs, routes_of(3), 2, FitSettings(family(spy), softness=0.3))
    decisions = spy.of_all(60)
    assert len(decisions) == 3
    for decision in decisions:
        (path,) = (path for path in sweep.rules if _is(sweep, path, decision))
        taken = sweep.rules[path].actions(decision.x)
        paid = np.take_along_axis(decision.costs, taken[:, None, :2].astype(int), axis=1)[:, 0].mean(axis=0)
        doubt = decision.x[:, decision.columns.index("belief.doubt")].astype(float)
        for i in range(len(prices)):
            assert paid[i] == pytest.approx(best_cuts(doubt, decision.costs[:, :, i].astype(float)), abs=1e-6)


def _is(sweep: Sweep, path: tuple[int, ...], decision: Decision) -> bool:
    """Whether a decision was made at the end of a path, as its columns tell."""
    stages = {column.partition(".")[0] for column in decision.columns if column.endswith(".on_belief")}
    return stages == {sweep.routes.stages[s] for s in path}


def test_a_cascade_of_one_cut_is_the_best_of_all_cuts_from_end_to_end(
    world: World, routes_of: RoutesOf, prices_are: Callable[..., Floats], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to what the evidence that is fitted on, held out, differs from the evidence that is applied."""
    prices = prices_are(1e-3, 0.01, 0.04, 0.2)
    monkeypatch.setattr("offramp.features.fitting.FEW", 0)  # pooling weights of all examples
    outputs = world(300, (2.0, 4.0), classes=40)
    sweep, _ = fit_sweep(outputs, routes_of(2, "a>b"), 4, FitSettings(("threshold",), "last", softness=0.0))
    view = sweep.reader.read(outputs).view((0,))
    doubt = view.x[:, view.columns.index("belief.doubt")].astype(float)
    wrong = wrong_of(outputs)
    found = objectives(sweep.route(outputs), prices)
    for i, price in enumerate(prices):
        costs = np.column_stack([wrong[:, 0] + price * 1, wrong[:, 1] + price * 4])
        least = best_cuts(doubt, costs)
        assert least - 1e-9 <= found[i] <= least + 0.01


# --- extreme prices, extreme stages


@pytest.mark.parametrize("answer", ["last", "any", "fused"])
def test_a_huge_price_stops_everyone_at_the_cheapest_entry(
    world: World, routes_of: RoutesOf, prices_are: Callable[..., Floats], answer: str
) -> None:
    prices_are(10.0, 1e6)
    # the cheapest stands in the middle
    routes = routes_of(3, costs=(3.0, 1.0, 9.0))
    sweep, held_out = fit_sweep(world(200), routes, 2, FitSettings(FAMILIES, answer))
    for routed in (held_out.routed, sweep.route(world(200, seed=1, part="test"))):
        assert {routes.paths[q] for q in np.unique(routed.path[:, :2])} == {(1,)}


@pytest.mark.parametrize("answer", ["last", "any", "fused"])
def test_when_cost_hardly_matters_nothing_is_lost(
    world: World, routes_of: RoutesOf, prices_are: Callable[..., Floats], answer: str
) -> None:
    prices_are(1e-9)
    sweep, _ = fit_sweep(world(600, (1.0, 2.0, 2.0)), routes_of(3), 1, FitSettings(FAMILIES, answer))
    test = world(2000, (1.0, 2.0, 2.0), seed=1, part="test")
    best = wrong_of(test)[:, 1 + int(wrong_of(test)[:, 1:].mean(axis=0).argmin())]
    difference = sweep.route(test).at(0).wrong.astype(float) - best
    assert difference.mean() <= 3 * difference.std() / np.sqrt(len(test))


def test_a_stage_that_is_never_right_is_not_where_anyone_stops(world: World, routes_of: RoutesOf) -> None:
    outputs, test = world(500, (1.5, 0.0, 4.0), 10), world(500, (1.5, 0.0, 4.0), 10, seed=1, part="test")
    rng = np.random.default_rng(3)

    def never_right(part: Outputs) -> Outputs:
        a, b, c = part.stages
        other = (part.labels + rng.integers(1, part.classes, len(part))) % part.classes
        logits = 3 * (other[:, None] == np.arange(part.classes)) + rng.normal(size=(len(part), part.classes)) / 4
        return replace(part, stages=(a, replace(b, logits=logits.astype(np.float32)), c))

    outputs, test = never_right(outputs), never_right(test)
    assert wrong_of(outputs)[:, 1].all()
    sweep, held_out = fit_sweep(outputs, routes_of(3), 8, FitSettings(FAMILIES, "last"))
    for routed in (held_out.routed, sweep.route(test)):
        for i in range(8):
            assert routed.at(i).exit_share[1] == 0
            assert routed.at(i).error < 1 - 0.2


def redundant(part: Outputs, kind: str) -> Outputs:
    """The last stage knows nothing that the one before it does not."""
    a, b, c = part.stages
    rng = np.random.default_rng(len(part.part))
    assert b.logits is not None
    noise = rng.normal(size=b.logits.shape).astype(np.float32)
    logits = {"copy": b.logits, "worse": b.logits + 2 * noise, "noise": noise, "nothing": np.zeros_like(noise)}
    return replace(part, stages=(a, b, replace(c, logits=logits[kind])))


@pytest.mark.parametrize("answer", ["last", "fused"])
@pytest.mark.parametrize("kind", ["copy", "worse", "noise", "nothing"])
def test_a_stage_dearer_and_no_better_than_another_is_not_worth_calling(
    world: World, routes_of: RoutesOf, kind: str, answer: str
) -> None:
    """Not where a call costs a mistake in ten; and where it is called, hardly anything is lost by it."""
    skills = (1.0, 3.0, 0.0)
    outputs, test = redundant(world(800, skills), kind), redundant(world(1000, skills, seed=1, part="test"), kind)
    routes = routes_of(3, costs=(1.0, 4.0, 8.0))
    sweep, held_out = fit_sweep(outputs, routes, 10, FitSettings(FAMILIES, answer))
    without = unroll(parse_topology("a_b", "ab"), _costs(a=1, b=4))
    other, _ = fit_sweep(outputs.of(("a", "b")), without, 10, FitSettings(FAMILIES, answer))
    points = [sweep.route(test).at(i) for i in range(len(sweep.prices))]
    others = [other.route(test.of(("a", "b"))).at(i) for i in range(len(other.prices))]
    for i, price in enumerate(sweep.prices[:10]):
        called = through(routes, 2)[sweep.route(test).path[:, i]].mean()
        if price * 8 >= 0.1:
            assert called <= 0.005
        assert called * price * 8 <= 0.003
        assert through(routes, 2)[held_out.routed.path[:, i]].mean() * price * 8 <= 0.003
        mine, theirs = (min(p.error + price * p.mean_cost for p in some) for some in (points, others))
        assert mine <= theirs + 0.01
        if answer == "last" and kind == "copy":
            assert called == 0


def test_two_identical_stages_are_one(world: World, routes_of: RoutesOf) -> None:
    def twins(part: Outputs) -> Outputs:
        a, b, c = part.stages
        return replace(part, stages=(a, replace(b, logits=a.logits), c))

    skills = (1.0, 0.0, 3.0)
    outputs, test = twins(world(600, skills)), twins(world(1500, skills, seed=1, part="test"))
    routes = routes_of(3, costs=(1.0, 1.0, 4.0))
    sweep, _ = fit_sweep(outputs, routes, 8, FitSettings(FAMILIES))
    routed = sweep.route(test)
    both = through(routes, 0) & through(routes, 1)
    for i in range(8):
        if sweep.prices[i] > 1e-3:  # below, it does not matter
            assert both[routed.path[:, i]].mean() <= 0.02
    alone, _ = fit_sweep(
        outputs.of(("a", "c")), unroll(parse_topology("a_c", "ac"), _costs(a=1, c=4)), 8, FitSettings(FAMILIES)
    )
    other = alone.route(test.of(("a", "c")))
    for price in alone.prices[:8]:
        mine, theirs = (min(p.error + price * p.mean_cost for p in map(r.at, range(8))) for r in (routed, other))
        assert mine <= theirs + 0.03


def _costs(**stages: float) -> Costs:
    return Costs({name: StageCost(name, float(cost), 0.0) for name, cost in stages.items()}, "ms")


@pytest.mark.parametrize("cost", [5.0, 1e-9, 0.0])
def test_one_stage_only(world: World, cost: float) -> None:
    """Nothing to decide, even where the one stage is free."""
    routes = unroll(
        parse_topology("a", ("a", "b")), Costs({"a": StageCost("a", cost, 0.0), "b": StageCost("b", 1.0, 0.0)}, "ms")
    )
    outputs = world(60, (2.0,))
    sweep, held_out = fit_sweep(outputs, routes, 4, FitSettings(FAMILIES))
    assert len(sweep.prices) == 5
    assert np.isfinite(sweep.prices[:4]).all()
    assert (np.diff(sweep.prices[:4]) > 0).all()
    assert sweep.rules == {}
    for routed in (held_out.routed, sweep.route(world(40, (2.0,), part="test"))):
        assert (routed.path == 0).all()
    own = sweep.route(outputs.take(held_out.rows))
    np.testing.assert_array_equal(held_out.routed.at(0).wrong, own.at(0).wrong)


@pytest.mark.parametrize("text", ["a_b", "a>b"])
@pytest.mark.parametrize("costs", [(0.0, 3.0), (3.0, 0.0), (0.0, 0.0), (2.0, 2.0), (5.0, 1.0), (1e-6, 1e6)])
def test_free_equal_and_odd_costs(world: World, costs: tuple[float, float], text: str) -> None:
    three = Costs({name: StageCost(name, cost, 0.0) for name, cost in zip("abc", (*costs, 1.0), strict=True)}, "ms")
    routes = unroll(parse_topology(text, "abc"), three)
    sweep, held_out = fit_sweep(world(150, (1.0, 3.0)), routes, 5, FitSettings(FAMILIES))
    assert (np.diff(sweep.prices[:5]) > 0).all()
    test = world(400, (1.0, 3.0), seed=1, part="test")
    for i in range(5):
        routing = sweep.route(test).at(i)
        assert routing.error <= wrong_of(test)[:, 0].mean() + 0.05
        assert 0 <= routing.mean_cost <= sum(costs)
    assert np.isfinite(held_out.families[0,]).all()


@pytest.mark.parametrize("kind", ["logits", "answers"])
def test_one_class_is_always_right_and_costs_the_least(
    world: World, answering: Callable[..., Outputs], routes_of: RoutesOf, kind: str
) -> None:
    outputs = world(60, classes=1)
    outputs = answering(outputs) if kind == "answers" else outputs
    sweep, held_out = fit_sweep(outputs, routes_of(3), 4, FitSettings(FAMILIES))
    for routed in (held_out.routed, sweep.route(outputs)):
        for i in range(4):
            assert (routed.at(i).error, routed.at(i).mean_cost) == (0, 1)


@pytest.mark.parametrize("kind", ["logits", "answers", "confidence"])
@pytest.mark.parametrize(("n", "classes"), [(1000, 2), (60, 20_000)])
def test_any_number_of_classes(
    world: World, answering: Callable[..., Outputs], routes_of: RoutesOf, n: int, classes: int, kind: str
) -> None:
    skills = (1.0, 3.0) if classes == 2 else (3.0, 8.0)
    outputs, test = world(n, skills, classes), world(n, skills, classes, seed=1, part="test")
    if kind != "logits":
        outputs, test = (answering(part, measured=["confidence"] * (kind == "confidence")) for part in (outputs, test))
    sweep, _ = fit_sweep(outputs, routes_of(2), 4, FitSettings(FAMILIES))
    routed = sweep.route(test)
    for i in range(4):
        paid, single = (routed.at(j).error + sweep.prices[i] * routed.at(j).mean_cost for j in (i, 5))
        assert paid <= single + 0.05
    assert (routed.answer >= 0).all()
    assert (routed.answer < classes).all()


@pytest.mark.parametrize("loss", ["top1", "top5", "excess"])
@pytest.mark.parametrize("kind", ["logits", "answers"])
def test_constant_features_leave_constant_decisions(
    world: World, answering: Callable[..., Outputs], routes_of: RoutesOf, kind: str, loss: str
) -> None:
    outputs = world(100, (0.0, 5.0), classes=6)
    a, b = outputs.stages
    flat = np.tile(np.arange(6, dtype=np.float32), (100, 1))
    outputs = replace(outputs, stages=(replace(a, logits=flat), b))
    outputs = answering(outputs) if kind == "answers" else outputs
    sweep, _ = fit_sweep(outputs, routes_of(2, "a>b"), 4, FitSettings(FAMILIES, "last", loss))
    routed = sweep.route(outputs)
    for i in range(4):
        assert len(set(routed.path[:, i])) == 1


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_the_type_of_the_logits_hardly_matters(world: World, routes_of: RoutesOf, dtype: str) -> None:
    outputs, test = world(300, dtype=dtype), world(300, seed=1, part="test", dtype=dtype)
    plain = world(300), world(300, seed=1, part="test")
    routed, usual = (
        fit_sweep(one, routes_of(3), 4, FitSettings(("constant", "value")))[0].route(other)
        for one, other in ((outputs, test), plain)
    )
    for i in range(4):
        assert routed.at(i).error == pytest.approx(usual.at(i).error, abs=0.03)


# --- the whole sweep


@pytest.mark.parametrize("points", [1, 2, 7])
def test_there_are_as_many_prices_as_wanted_and_the_stages_alone(
    world: World, routes_of: RoutesOf, points: int
) -> None:
    sweep, held_out = fit_sweep(world(100), routes_of(3, "a>b,c;b>c;b"), points, FitSettings(("constant", "value")))
    assert np.isfinite(sweep.prices).sum() == points
    assert (np.diff(sweep.prices[:points]) > 0).all()
    assert [sweep.routes.paths[e] for e in sweep.entry[points:]] == [(0,), (1,)]
    assert held_out.routed.path.shape == (100, points + 2)
    assert set(sweep.rules) == {(0,), (0, 1), (1,)}
    for path, rules in sweep.rules.items():
        assert rules.prices == points + 2
        families = held_out.families[path]
        assert families.shape == (2, points)
        np.testing.assert_array_equal(rules.pick[:points], pick_family(families))


def test_seed_decides_everything(world: World, routes_of: RoutesOf) -> None:
    def written(seed: int) -> str:
        return json.dumps(to_plain(fit_sweep(world(200), routes_of(3), 4, FitSettings(FAMILIES, seed=seed))[0]))

    assert written(3) == written(3)
    assert written(3) != written(4)


def test_the_unit_of_cost_does_not_matter(world: World, routes_of: RoutesOf) -> None:
    outputs = world(300)
    one, other = (
        fit_sweep(outputs, routes_of(3, costs=[scale * c for c in (1, 3, 9)]), 5, FitSettings(FAMILIES))
        for scale in (1.0, 1024.0)
    )
    np.testing.assert_allclose(one[0].prices, 1024 * other[0].prices)
    assert (one[1].routed.path == other[1].routed.path).mean() > 0.99


def test_a_large_part_is_fitted_on_in_part(world: World, routes_of: RoutesOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "FIT_ROWS", 120)
    outputs = world(300)
    sweep, held_out = fit_sweep(outputs, routes_of(2), 3, FitSettings(("value",), "last"))
    assert len(held_out.rows) == len(held_out.routed.path) == 120
    assert len(set(held_out.rows.tolist())) == 120
    # from all over, and in no order: parts of the fit use the first so many
    assert (held_out.rows > 200).sum() > 20
    assert 40 < (np.diff(held_out.rows) > 0).sum() < 80
    paths = [path[-1] for path in sweep.routes.paths]
    np.testing.assert_array_equal(held_out.routed.wrong, wrong_of(outputs)[held_out.rows][:, paths])


def test_answers_are_fused_only_where_that_helps_on_the_examples_fitted_on(world: World, routes_of: RoutesOf) -> None:
    outputs = world(300, (0.0, 3.0))
    sweep, held_out = fit_sweep(outputs, routes_of(2), 2, FitSettings(("constant",)))
    assert set(sweep.modes) == set(sweep.routes.paths)
    losses = {}
    for mode in ("last", "any", "fused"):
        other, _ = fit_sweep(outputs, routes_of(2), 2, FitSettings(("constant",), mode))
        losses[mode] = held_out.routed.wrong.mean(axis=0) if mode == "fused" else None
        if mode != "fused":
            assert set(other.modes.values()) == {mode}
    own = wrong_of(outputs).mean(axis=0)
    for q, path in enumerate(sweep.routes.paths):
        assert held_out.routed.wrong[:, q].mean() <= own[path[-1]]


def test_held_out_losses_are_those_of_the_answers_given(world: World, routes_of: RoutesOf) -> None:
    outputs = world(200, classes=9)
    for loss in LOSSES:
        _, held_out = fit_sweep(outputs, routes_of(3), 2, FitSettings(("constant",), "last", loss))
        own = wrong_of(outputs.take(held_out.rows))
        for q, path in enumerate(held_out.routed.routes.paths):
            expected = own[:, path[-1]] if loss == "top1" else own[:, path[-1]] & ~own[:, 2]
            if loss != "top5":
                np.testing.assert_array_equal(held_out.routed.wrong[:, q], expected)
            else:
                assert (held_out.routed.wrong[:, q] <= own[:, path[-1]]).all()


def test_more_to_see_buys_something(world: World, routes_of: RoutesOf) -> None:
    """A learned sweep is ahead of what constants reach: it sends on those whom that helps."""
    outputs, test = world(800), world(2000, seed=1, part="test")
    learned, _ = fit_sweep(outputs, routes_of(3), 6, FitSettings(FAMILIES, "last"))
    routed = learned.route(test)
    own = wrong_of(test).mean(axis=0)
    gains = []
    for i in range(6):
        price, point = learned.prices[i], routed.at(i)
        gains.append((own + price * np.array([1, 3, 9])).min() - point.error - price * point.mean_cost)
    assert max(gains) > 0.02
    assert min(gains) > -0.02


# --- the parts


@given(
    st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=2, max_size=40),
)
@settings(max_examples=100, deadline=None)
def test_recalibrated_losses_are_the_least_squares_line(pairs: list[tuple[float, bool]]) -> None:
    expected, wrong = np.array([p for p, _ in pairs], np.float32), np.array([w for _, w in pairs], dtype=float)
    found = recalibrated(expected, wrong)
    assert found.mean() == pytest.approx(wrong.mean(), abs=1e-9)
    if np.ptp(expected) > 1e-3:
        slope, constant = np.polyfit(expected.astype(float), wrong, 1)
        np.testing.assert_allclose(found, constant + slope * expected, atol=1e-6)
        # doing it again changes nothing, and neither does another scale of what was expected
        if abs(slope) > 1e-6:
            np.testing.assert_allclose(recalibrated(found, wrong), found, atol=1e-6)
        np.testing.assert_allclose(recalibrated(3 - 2 * expected, wrong), found, atol=1e-6)
    elif np.ptp(expected) == 0:
        np.testing.assert_allclose(found, wrong.mean())


def test_recalibrating_truth_values_and_truths() -> None:
    wrong = np.array([True, False, True])
    np.testing.assert_allclose(recalibrated(wrong.astype(np.float32), wrong), [1, 0, 1])
    np.testing.assert_allclose(recalibrated(np.full(3, 0.25, np.float32), wrong), [2 / 3] * 3)


@given(st.integers(1, 5), st.lists(st.floats(0.001, 1e3), min_size=1, max_size=5), st.data())
@settings(max_examples=60, deadline=None)
def test_prices_reach_from_where_cost_hardly_matters_to_where_it_is_all(
    k: int, costs: list[float], data: st.DataObject
) -> None:
    costs = (costs * 5)[:k]
    free = data.draw(st.integers(0, k - 1)) if k > 1 and data.draw(st.booleans()) else None
    if free is not None:
        costs[free] = 0.0
    routes = unroll(
        parse_topology("_".join("abcde"[:k]), "abcde"[:k]), _costs(**dict(zip("abcde", costs, strict=False)))
    )
    prices = price_range(routes)
    assert len(prices) == fit.SCOUTING_PRICES
    assert np.isfinite(prices).all()
    assert (np.diff(prices) > 0).all()
    if routes.cost.any():
        assert prices[0] * routes.cost.max() == pytest.approx(fit.LEAST_WEIGHT)
    # a second stage can save one mistake at most, which the highest price makes dearer than any of them
    steps = [routes.spent[q][path[-1]] for q, path in enumerate(routes.paths) if len(path) > 1]
    for step in steps:
        assert step == 0 or prices[-1] * step >= 1 - 1e-9


def test_the_price_range_by_hand(routes_of: RoutesOf) -> None:
    prices = price_range(routes_of(3))  # costs 1, 3, 9; the dearest path costs 13, the cheapest second stage 3
    np.testing.assert_allclose([prices[0], prices[-1]], [1e-4 / 13, 1 / 3])
    np.testing.assert_allclose(np.diff(np.log(prices)), np.log(prices[-1] / prices[0]) / 99)


falling = st.lists(st.floats(1e-9, 100) | st.just(0.0), min_size=2, max_size=30).map(
    lambda costs: sorted(costs, reverse=True)
)
noisy = st.lists(
    st.floats(1e-9, 100) | st.sampled_from([0.0, 1.0 - 2**-53, 1.0, 1.0 + 2**-52]), min_size=2, max_size=30
)


@given(falling | noisy, st.integers(1, 40))
@settings(max_examples=300, deadline=None)
def test_placed_prices_rise_within_the_range_scouted(cost: list[float], points: int) -> None:
    scouts = np.geomspace(1e-5, 10, len(cost))
    prices = place_prices(scouts, np.array(cost), points)
    assert prices.shape == (points,)
    assert np.isfinite(prices).all()
    assert (np.diff(prices) > 0).all()
    assert prices[0] >= scouts[0] * (1 - 1e-9)
    assert prices[-1] <= scouts[-1] * (1 + 1e-9)


def test_prices_are_placed_where_the_cost_falls() -> None:
    scouts = np.geomspace(1e-4, 1, 1001)
    # falls evenly between the 400th and the 600th price, and nowhere else
    cost = np.interp(np.arange(1001), [0, 400, 600, 1000], [10.0, 10.0, 1.0, 1.0])
    prices = place_prices(scouts, cost, 9)
    assert prices[0] == pytest.approx(scouts[400])
    assert prices[-1] == pytest.approx(scouts[600])
    seen = np.interp(np.log(prices), np.log(scouts), cost)
    assert (np.diff(seen) < 0).all()
    # half by the cost, half by its logarithm: neither end of the frontier is left bare
    linear, logarithmic = -np.diff(seen) / 9, -np.diff(np.log(seen)) / np.log(10)
    np.testing.assert_allclose((linear + logarithmic) / 2, 1 / 8, atol=0.005)


def test_a_jump_in_the_cost_does_not_draw_all_prices() -> None:
    scouts = np.geomspace(1e-4, 1, 101)
    # half of all the cost falls between two prices, the rest evenly before
    cost = np.where(np.arange(101) < 80, 20 - np.arange(101) / 10, 2.0)
    prices = place_prices(scouts, cost, 30)
    assert ((prices > scouts[79]) & (prices < scouts[80])).sum() <= 4
    assert ((prices > scouts[0]) & (prices < scouts[79])).sum() >= 20


def test_where_the_cost_never_falls_prices_are_even() -> None:
    scouts = np.geomspace(1e-4, 1, 11)
    for cost in (np.full(11, 3.0), np.arange(11.0)):
        np.testing.assert_allclose(place_prices(scouts, cost, 5), np.geomspace(1e-4, 1, 5))
    # a rise between two equal costs is chance, not a fall
    cost = np.array([3.0, 4.0, 3.0, 4.0, 3.0])
    np.testing.assert_allclose(place_prices(scouts[:5], cost, 3), np.geomspace(scouts[0], scouts[4], 3))


def test_a_cost_that_falls_to_nothing() -> None:
    prices = place_prices(np.geomspace(0.01, 1, 5), np.array([4.0, 3.0, 2.0, 1.0, 0.0]), 5)
    assert (np.diff(prices) > 0).all()


@given(st.integers(1, 4), st.integers(1, 20), st.integers(0, 1000))
@settings(max_examples=80, deadline=None)
def test_families_are_picked_by_the_mean_regret_of_neighbours(f: int, q: int, seed: int) -> None:
    paid = np.random.default_rng(seed).uniform(0.5, 1.5, (f, q))
    regret = paid / paid.min(axis=0) - 1
    expected = []
    for i in range(q):
        near = [min(max(j, 0), q - 1) for j in range(i - fit.SMOOTH, i + fit.SMOOTH + 1)]
        expected.append(int(regret[:, near].mean(axis=1).argmin()))
    found = pick_family(paid)
    assert found.tolist() == expected
    assert pick_family(7 * paid).tolist() == expected


def test_the_family_that_is_best_everywhere_is_picked_everywhere_and_of_equal_ones_the_first() -> None:
    paid = np.array([[2.0, 3.0, 4.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    assert pick_family(paid).tolist() == [1, 1, 1]
    assert pick_family(np.zeros((3, 4))).tolist() == [0] * 4


def test_families_that_lose_nothing_or_less_can_be_told_apart() -> None:
    """Expected losses are moved along a line, so a mean of few of them may fall below zero."""
    assert pick_family(np.array([[1e-3, 0.0, 2e-3], [0.0, 0.0, 0.0]])).tolist() == [1, 1, 1]
    assert pick_family(np.array([[0.0, 1e-3], [-1e-3, -1e-5]])).tolist() == [1, 1]


@pytest.mark.parametrize("skills", [(60.0, 1.0), (1.0, 60.0), (60.0, 60.0)])
def test_a_stage_that_is_always_right(world: World, routes_of: RoutesOf, skills: tuple[float, float]) -> None:
    outputs, test = world(300, skills), world(300, skills, seed=1, part="test")
    sweep, _ = fit_sweep(outputs, routes_of(2), 5, FitSettings(FAMILIES))
    points = list(map(sweep.route(test).at, range(5)))
    if skills[0] == 60:
        assert [(p.error, p.mean_cost) for p in points] == [(0, 1)] * 5
    else:
        assert any(p.error == 0 for p in map(sweep.route(test).at, range(7)))


def test_stages_of_answers_and_of_logits_can_be_mixed(
    world: World, answering: Callable[..., Outputs], routes_of: RoutesOf
) -> None:
    outputs, test = world(400), world(600, seed=1, part="test")

    def mixed(part: Outputs) -> Outputs:
        return replace(part, stages=(answering(part).stages[0], *part.stages[1:]))

    sweep, _ = fit_sweep(mixed(outputs), routes_of(3), 5, FitSettings(FAMILIES))
    routed = sweep.route(mixed(test))
    own = wrong_of(test).mean(axis=0)
    assert routed.at(0).error <= own.min() + 0.03
    assert routed.at(4).mean_cost <= routed.at(0).mean_cost
    assert isinstance(mixed(test).stages[0], Stage)
