from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.cascades.graph.hull import lower_hull
from offramp.cascades.graph.routing import Routes
from offramp.cascades.learning.chains import route_chain
from offramp.cascades.learning.outcomes import Outcomes
from offramp.oracles.joint import joint
from offramp.oracles.myopic import myopic
from offramp.oracles.single import entered_directly, single
from offramp.oracles.threshold import threshold
from offramp.oracles.uniform import uniform
from offramp.policies.cuts import best_cuts

PRICES = np.array([1e-3, 0.02, 0.05, 0.2])

Make = Callable[..., Outcomes]
Unrolled = Callable[..., Routes]


# --- the exact cut


def test_a_cut_by_hand() -> None:
    # Sure and right twice, then wrong where the next stage is right, then wrong where both are.
    confidence = np.array([0.9, 0.8, 0.3, 0.1])
    stop, go = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, 0.0, 1.0])
    cuts, reached = best_cuts(confidence, stop, go, 2.0, np.array([0.0, 0.1, 0.6]))
    # Going on with the last two loses 1 instead of 2 and costs 2 * 2; worth it up to a price of 1/4.
    assert cuts.tolist() == [0.8, 0.8, -np.inf]
    assert reached.tolist() == pytest.approx([0.25, 0.25 + 0.1 * 2 * 2 / 4, 0.5])


def test_the_largest_and_the_smallest_cut() -> None:
    confidence = np.array([0.5, 0.5, 0.7])
    assert best_cuts(confidence, np.ones(3), np.zeros(3), 1.0, np.array([0.1]))[0] == np.inf
    assert best_cuts(confidence, np.zeros(3), np.ones(3), 1.0, np.array([0.1]))[0] == -np.inf
    # The two that are equally sure stay together, though one of them would better go on.
    cuts, reached = best_cuts(confidence, np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]), 1.0, np.array([0.01]))
    assert (cuts[0], reached[0]) == (-np.inf, pytest.approx(1 / 3))


@given(st.integers(1, 30), st.integers(0, 9999), st.integers(1, 6), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_a_cut_is_the_best_of_all_cuts(n: int, seed: int, values: int, price: float) -> None:
    rng = np.random.default_rng(seed)
    confidence = rng.integers(0, values, n) / values
    stop, go = rng.integers(0, 2, n).astype(float), rng.integers(0, 2, n).astype(float)
    cuts, reached = best_cuts(confidence, stop, go, 0.7, np.array([price]))

    def mean(cut: float) -> float:
        return float(np.where(confidence >= cut, stop, go + price * 0.7).mean())

    assert reached[0] == pytest.approx(mean(float(cuts[0])))
    assert reached[0] == pytest.approx(min(map(mean, [-np.inf, *confidence, np.inf])))


# --- threshold


def test_threshold_is_the_best_of_every_pair_and_cut(outcomes_of: Make, routes_of: Unrolled) -> None:
    routes, examples = routes_of(3), outcomes_of(50, 3, 8)
    for point in threshold(examples, examples, routes, PRICES):
        tried = [route_chain(examples, routes, path, ()) for path in routes.paths if len(path) == 1]
        for path in routes.paths:
            if len(path) == 2:
                cuts = [-np.inf, *np.unique(examples.confidence[:, path[0]]), np.inf]
                tried += [route_chain(examples, routes, path, (float(cut),)) for cut in cuts]
        best = min(routing.error + point.price * routing.mean_cost for routing in tried)
        assert point.routing.error + point.price * point.routing.mean_cost == pytest.approx(best)
        assert point.family in {"a", "b", "c", "a>b", "a>c", "b>c"}


# --- myopic


def test_myopic_takes_each_next_stage_for_the_last(routes_of: Unrolled) -> None:
    # b is never right and c always: looking only at b, a never goes on; jointly, it goes through b to c.
    n = 40
    wrong = np.column_stack([np.ones(n), np.ones(n), np.zeros(n)])
    fit = Outcomes(("a", "b", "c"), np.zeros((n, 3), int), wrong, np.tile([0.5, 0.4, 0.9], (n, 1)), "fit")
    routes = routes_of(3, "a>b>c")
    assert [point.routing.error for point in myopic(fit, fit, routes, PRICES)] == [1, 1, 1, 1]
    assert joint(fit, fit, routes, PRICES)[0].routing.error == 0
    assert {point.family for point in myopic(fit, fit, routes, PRICES)} == {"a>b>c"}


def test_myopic_cuts_come_from_all_of_the_fit_part(outcomes_of: Make, routes_of: Unrolled) -> None:
    routes, fit, examples = routes_of(3), outcomes_of(80, 3, 1), outcomes_of(60, 3, 2, "test")
    for point in myopic(fit, examples, routes, PRICES):
        cuts = []
        for j, step in ((0, 3.0), (1, 9.0)):
            tried = [-np.inf, *np.unique(fit.confidence[:, j]), np.inf]
            stays = [fit.confidence[:, j] >= cut for cut in tried]
            value = [np.where(stay, fit.wrong[:, j], fit.wrong[:, j + 1] + point.price * step).mean() for stay in stays]
            cuts.append(float(tried[int(np.argmin(value))]))
        expected = route_chain(examples, routes, (0, 1, 2), tuple(cuts))
        np.testing.assert_array_equal(point.routing.path, expected.path)


# --- joint


def test_joint_points_between_the_prices_are_new_and_have_none(outcomes_of: Make, routes_of: Unrolled) -> None:
    fit = outcomes_of(200, 3, 3, values=50)
    points = joint(fit, fit, routes_of(3), PRICES)
    assert [point.price for point in points[:4]] == PRICES.tolist()
    between = points[4:]
    assert 0 < len(between) <= len(PRICES)
    assert all(np.isnan(point.price) for point in between)
    assert len({id(point.routing) for point in between} & {id(point.routing) for point in points[:4]}) == 0


def test_joint_keeps_every_point_between_when_there_is_room(outcomes_of: Make, routes_of: Unrolled) -> None:
    fit, routes = outcomes_of(60, 2, 3), routes_of(2)
    many = joint(fit, fit, routes, np.geomspace(1e-4, 1, 200))
    cost = np.array([point.routing.mean_cost for point in many])
    error = np.array([point.routing.error for point in many])
    # Two stages, few examples: the whole front of all single cuts within one percent steps of cost is there.
    cuts = [-np.inf, *np.unique(fit.confidence[:, 0]), np.inf]
    tried = [route_chain(fit, routes, (0, 1), (float(cut),)) for cut in cuts]
    for one in tried:
        assert error[cost <= one.mean_cost + 1e-9].min() <= one.error + 1e-9


# --- single


def test_every_stage_is_its_own_rival_even_without_an_entry(outcomes_of: Make, routes_of: Unrolled) -> None:
    examples = outcomes_of(30, 3, 1)
    for text in ("", "a>b>c"):
        points = single(examples, examples, routes_of(3, text), PRICES)
        assert [point.family for point in points] == ["a", "b", "c"]
        assert [point.routing.mean_cost for point in points] == pytest.approx([1, 3, 9])
        assert [point.routing.error for point in points] == pytest.approx(examples.wrong.mean(axis=0).tolist())


def test_without_costs_alone_the_entries_are_what_is_known(outcomes_of: Make, routes_of: Unrolled) -> None:
    routes = replace(routes_of(3, "a,b>c"), alone=None)
    assert entered_directly(routes).paths == ((0,), (1,))
    assert [point.family for point in single(outcomes_of(9, 3, 0), outcomes_of(9, 3, 0), routes, PRICES)] == ["a", "b"]


# --- uniform


def test_the_line_mixes_neighbours_on_the_hull(outcomes_of: Make, routes_of: Unrolled) -> None:
    fit = outcomes_of(4000, 3, 2)
    line = [p for p in uniform(fit, fit, routes_of(3), np.ones(11)) if p.family == "line"]
    assert len(line) == 11
    error = fit.wrong.mean(axis=0, dtype=float)
    assert lower_hull(np.array([1.0, 3.0, 9.0]), error).tolist() == [0, 1, 2]
    assert [p.routing.mean_cost for p in line] == pytest.approx([1, 1.4, 1.8, 2.2, 2.6, 3, 4.2, 5.4, 6.6, 7.8, 9])
    assert [line[i].routing.error for i in (0, 5, 10)] == pytest.approx(error.tolist())
    for point, share in zip(line, np.linspace(0, 2, 11), strict=True):
        # A random share of 4000: within four standard errors of the mixture.
        mixture = np.interp(share, [0, 1, 2], error)
        assert abs(point.routing.error - mixture) < 4 * 0.5 / np.sqrt(4000)


def test_uniform_has_both_ends_even_for_one_price(outcomes_of: Make, routes_of: Unrolled) -> None:
    fit = outcomes_of(50, 2, 2)
    points = uniform(fit, fit, routes_of(2), np.ones(1))
    assert [point.family for point in points] == ["line", "line", "chain", "chain"]
    assert [point.routing.mean_cost for point in points] == pytest.approx([1, 3, 1, 4])


def test_the_line_leaves_out_stages_that_a_mix_betters(routes_of: Unrolled) -> None:
    wrong = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 1, 1]], dtype=float)
    examples = Outcomes(("a", "b", "c"), np.zeros((4, 3), int), wrong, np.zeros((4, 3)), "test")
    line = [p for p in uniform(examples, examples, routes_of(3), PRICES) if p.family == "line"]
    assert {int(stage) for p in line for stage in p.routing.exit} == {0, 2}


def test_the_chain_sends_the_same_share_on_at_every_stage(outcomes_of: Make, routes_of: Unrolled) -> None:
    fit = outcomes_of(20_000, 3, 2)
    chain = [p for p in uniform(fit, fit, routes_of(3), np.ones(5)) if p.family == "chain"]
    for point, share in zip(chain, [0, 0.25, 0.5, 0.75, 1], strict=True):
        expected = [1 - share, share * (1 - share), share**2]
        np.testing.assert_allclose(point.routing.exit_share, expected, atol=4 * 0.5 / np.sqrt(20_000))
        assert point.routing.mean_cost == pytest.approx(point.routing.exit_share @ [1, 4, 13])


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_the_hull_is_what_no_mix_of_two_betters(points: list[tuple[int, int]]) -> None:
    cost, error = np.array(points, dtype=float).T
    hull = lower_hull(cost, error)
    assert error[hull[-1]] == error.min()
    assert cost[hull[0]] == cost.min()
    assert np.all(np.diff(cost[hull]) > 0)
    assert np.all(np.diff(error[hull]) < 0)
    reached = np.interp(cost, cost[hull], error[hull])
    assert np.all(reached <= error + 1e-9)
    slopes = np.diff(error[hull]) / np.diff(cost[hull])
    assert np.all(np.diff(slopes) > 0)
