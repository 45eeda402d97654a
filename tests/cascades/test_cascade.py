from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from offramp.cascades.graph.routing import Routes, Routing
from offramp.cascades.learning import cascade
from offramp.cascades.learning.answers import ANSWERS, LOSSES
from offramp.cascades.learning.cascade import Routed, Sweep, UnionRules, follow
from offramp.cascades.learning.fit import FitSettings, HeldOut, fit_sweep
from offramp.features.outputs import Outputs
from offramp.policies import POLICIES
from offramp.policies.constant import ConstantRules
from offramp.policies.threshold import ThresholdRules

FAMILIES = ("constant", "threshold", "logistic", "value")
POINTS = 6


@pytest.fixture(scope="module", params=["fused", "any", "last"])
def fitted(
    request: pytest.FixtureRequest, world: Callable[..., Outputs], routes_of: Callable[..., Routes]
) -> tuple[Sweep, HeldOut, Outputs]:
    """A sweep over three stages with every jump, what it does held out, and examples of a test part."""
    how = FitSettings(FAMILIES, answer=request.param)
    sweep, held_out = fit_sweep(world(400), routes_of(3), POINTS, how)
    return sweep, held_out, world(501, seed=1, part="test")


# --- unions of rules


def below(cut: float, column: int = 0, prices: int = 2) -> ThresholdRules:
    """Goes on below a cut, at every price."""
    order = np.tile([1, 0], (prices, 1))
    return ThresholdRules(np.full(prices, column), np.full((prices, 1), cut), order, ("x",) * prices)


def test_a_union_asks_the_member_picked_for_each_price() -> None:
    x = np.array([[-1.0], [1.0]], np.float32)
    union = UnionRules(
        ("never", "some"), (ConstantRules(np.array([0, 0, 0])), below(0.0, prices=3)), np.array([1, 0, 1])
    )
    assert union.prices == 3
    assert union.actions(x).tolist() == [[1, 0, 1], [0, 0, 0]]
    assert union.actions(x).dtype == np.int8
    assert [union.family(i) for i in range(3)] == ["some", "never", "some"]
    assert str(union) == "go 1 if x < 0, stop from 0"


def test_prices_of_a_union_can_be_taken_in_any_order() -> None:
    x = np.array([[-1.0], [1.0]], np.float32)
    union = UnionRules(("c", "t"), (ConstantRules(np.array([2, 0, 1])), below(0.0, prices=3)), np.array([0, 1, 0]))
    some = union.take(np.array([2, 1, 1]))
    assert some.actions(x).tolist() == union.actions(x)[:, [2, 1, 1]].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert [some.family(i) for i in range(3)] == ["c", "t", "t"]


def test_stops_are_added_behind() -> None:
    x = np.array([[-1.0], [1.0]], np.float32)
    union = UnionRules(("go",), (ConstantRules(np.array([1, 2])),), np.array([0, 0])).with_stops(2)
    assert union.prices == 4
    assert union.actions(x).tolist() == [[1, 2, 0, 0], [1, 2, 0, 0]]
    assert [union.family(i) for i in range(4)] == ["go", "go", "constant", "constant"]
    assert union.take(np.array([3])).actions(x).tolist() == [[0], [0]]
    one = UnionRules(("go",), (ConstantRules(np.array([1])),), np.array([0])).with_stops(1)
    assert one.actions(x).tolist() == [[1, 0], [1, 0]]


def test_following_by_hand() -> None:
    # paths 0 with children 1 and 2; where their examples stop is known
    stop = {0: np.zeros((3, 2), int), 1: np.array([[1, 4], [4, 1], [1, 1]]), 2: np.full((3, 2), 2)}
    follow(stop, 0, (1, 2), np.array([[0, 1], [1, 2], [2, 0]]))
    assert stop[0].tolist() == [[0, 4], [4, 2], [2, 0]]
    assert stop[1].tolist() == [[1, 4], [4, 1], [1, 1]]


# --- routings of all prices


def test_routed_by_hand(routes_of: Callable[..., Routes]) -> None:
    routes = routes_of(2)
    assert routes.paths == ((0,), (0, 1), (1,))
    answer = np.array([[1, 2, 3], [4, 5, 6]])
    wrong = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    routed = Routed(routes, np.array([[0, 1], [2, 1]]), answer, wrong, "tune")
    first, second = routed.at(0), routed.at(1)
    assert (first.answer.tolist(), first.wrong.tolist(), first.cost.tolist()) == ([1, 6], [0, 1], [1, 3])
    assert (second.answer.tolist(), second.wrong.tolist(), second.cost.tolist()) == ([2, 5], [1, 0], [4, 4])
    assert first.part == second.part == "tune"


def test_every_example_goes_the_way_that_its_rules_say(fitted: tuple[Sweep, HeldOut, Outputs]) -> None:
    """Routing all at once is walking each example from its entry, asking one rule after another."""
    sweep, _, outputs = fitted
    routes, reading = sweep.routes, sweep.reader.read(outputs)
    views = {path: reading.view(path) for path in routes.paths}
    actions = {path: rule.actions(views[path].x) for path, rule in sweep.rules.items()}
    routed = sweep.route(outputs)
    for row in range(0, len(outputs), 17):
        for price in range(len(sweep.prices)):
            at = routes.paths[sweep.entry[price]]
            while at in actions and actions[at][row, price]:
                onward = [path for path in routes.paths if path[:-1] == at]
                at = onward[actions[at][row, price] - 1]
            assert routes.paths[routed.path[row, price]] == at


def test_answers_are_those_of_each_paths_mode(fitted: tuple[Sweep, HeldOut, Outputs]) -> None:
    sweep, _, outputs = fitted
    reading, routed = sweep.reader.read(outputs), sweep.route(outputs)
    for q, path in enumerate(sweep.routes.paths):
        ranked = ANSWERS[sweep.modes[path]](reading, reading.view(path), path, 1)
        np.testing.assert_array_equal(routed.answer[:, q], ranked[:, 0])
        np.testing.assert_array_equal(routed.wrong[:, q], ranked[:, 0] != outputs.labels)


@pytest.mark.parametrize("rows", [1, 7, 100, 501])
def test_chunks_change_nothing(
    fitted: tuple[Sweep, HeldOut, Outputs], monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    sweep, _, outputs = fitted
    outputs = outputs.take(slice(0, 60)) if rows == 1 else outputs
    whole = sweep.route(outputs)
    monkeypatch.setattr(cascade, "CHUNK_ROWS", rows)
    seen: list[int] = []
    parts = sweep.route(outputs, seen.append)
    assert sorted(seen) == [*range(rows, len(outputs), rows), len(outputs)]
    for field in ("path", "answer", "wrong"):
        np.testing.assert_array_equal(getattr(parts, field), getattr(whole, field))


def test_order_of_examples_changes_nothing(fitted: tuple[Sweep, HeldOut, Outputs]) -> None:
    sweep, _, outputs = fitted
    order = np.random.default_rng(0).permutation(len(outputs))
    np.testing.assert_array_equal(sweep.route(outputs.take(order)).path, sweep.route(outputs).path[order])


def test_labels_are_not_looked_at(fitted: tuple[Sweep, HeldOut, Outputs]) -> None:
    sweep, _, outputs = fitted
    blind = sweep.route(replace(outputs, labels=(outputs.labels + 1) % outputs.classes))
    seeing = sweep.route(outputs)
    np.testing.assert_array_equal(blind.path, seeing.path)
    np.testing.assert_array_equal(blind.answer, seeing.answer)
    assert (blind.wrong != seeing.wrong).any()


def test_prices_can_be_taken(fitted: tuple[Sweep, HeldOut, Outputs]) -> None:
    sweep, _, outputs = fitted
    some = np.array([len(sweep.prices) - 1, 0, 3])
    taken, whole = sweep.take(some), sweep.route(outputs)
    np.testing.assert_array_equal(taken.prices, sweep.prices[some])
    np.testing.assert_array_equal(taken.route(outputs).path, whole.path[:, some])
    np.testing.assert_array_equal(taken.route(outputs).wrong, whole.wrong)


def test_what_is_spent_sums_to_the_cost(fitted: tuple[Sweep, HeldOut, Outputs]) -> None:
    sweep, _, outputs = fitted
    routed = sweep.route(outputs)
    assert routed.part == "test"
    for price in range(len(sweep.prices)):
        routing = routed.at(price)
        np.testing.assert_allclose(routing.cost, sweep.routes.spent[routing.path].sum(axis=1))
        assert routing.mean_cost == pytest.approx(routing.cost.mean())
        spent = sweep.routes.spent[routing.path].sum(axis=0)
        np.testing.assert_allclose(routing.spent_share, spent / spent.sum())
        assert routing.exit_share.sum() == pytest.approx(1)
        assert (routing.exit == [sweep.routes.paths[q][-1] for q in routing.path]).all()


def test_where_nothing_is_spent_no_stage_has_a_share_of_it(routes_of: Callable[..., Routes]) -> None:
    free = Routing(routes_of(2, costs=(0, 0)), np.array([0, 1]), np.zeros(2, int), np.zeros(2), "test")
    assert free.spent_share.tolist() == [0, 0]
    assert free.mean_cost == 0
    assert free.exit_share.tolist() == [0.5, 0.5]


def test_behind_the_prices_stand_the_single_stages(fitted: tuple[Sweep, HeldOut, Outputs]) -> None:
    sweep, held_out, outputs = fitted
    routed, routes = sweep.route(outputs), sweep.routes
    assert np.isnan(sweep.prices).tolist() == [False] * POINTS + [True] * 3
    for price, entry in zip(range(POINTS, POINTS + 3), routes.entries, strict=True):
        assert (routed.path[:, price] == entry).all()
        assert (held_out.routed.path[:, price] == entry).all()


def test_excess_and_five_answers_are_judged_by_their_own_loss(
    world: Callable[..., Outputs], routes_of: Callable[..., Routes]
) -> None:
    outputs, test = world(200, (1.0, 3.0), 9), world(150, (1.0, 3.0), 9, seed=1, part="test")
    for name in ("top5", "excess"):
        sweep, _ = fit_sweep(outputs, routes_of(2), 3, FitSettings(("value",), "last", name))
        routed, reading = sweep.route(test), sweep.reader.read(test)
        ranks = LOSSES[name].ranks
        full = reading.ranked[:, -1, :ranks]
        for q, path in enumerate(sweep.routes.paths):
            own = reading.ranked[:, path[-1], :ranks]
            np.testing.assert_array_equal(routed.wrong[:, q], LOSSES[name].of(own, test.labels, full))


@pytest.mark.parametrize("name", POLICIES)
def test_a_cascade_of_every_family_alone_routes(
    name: str, world: Callable[..., Outputs], routes_of: Callable[..., Routes]
) -> None:
    sweep, held_out = fit_sweep(world(120, (1.0, 3.0)), routes_of(2), 3, FitSettings((name,)))
    routed = sweep.route(world(90, (1.0, 3.0), seed=1, part="test"))
    assert routed.path.shape == (90, 5)
    assert {sweep.rules[0,].family(i) for i in range(3)} == {name}
    assert held_out.families[0,].shape == (1, 3)
