from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.cascades.graph.hull import lower_hull
from offramp.cascades.graph.routing import OperatingPoint, Routes, Routing
from offramp.eval.report.metrics import (
    METRICS,
    area,
    area_along,
    cost_along,
    cost_at_error,
    least_cost,
    oracle_share,
    speedup,
    yardstick,
)

CLOUDS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=12)


def least_error(cost, error, budget):
    """On the hull, flat to the right; NaN if all cost more."""
    hull = lower_hull(cost, error)
    return float(np.interp(budget, cost[hull], error[hull], left=np.nan))


def mixed(cost, error, budget):
    """The least error of a mix of two points that costs ``budget`` at most, by trying all pairs."""
    found = [e for c, e in zip(cost, error, strict=True) if c <= budget]
    for (c1, e1), (c2, e2) in product(list(zip(cost, error, strict=True)), repeat=2):
        if c1 <= budget < c2:
            found.append(e1 + (e2 - e1) * (budget - c1) / (c2 - c1))
    return min(found)


@given(CLOUDS)
def test_hull_is_what_the_best_mixes_reach(cloud):
    cost, error = np.array(cloud, float).T
    hull = lower_hull(cost, error)
    assert (np.diff(cost[hull]) > 0).all()
    assert (np.diff(error[hull]) < 0).all()
    assert (np.diff(np.diff(error[hull]) / np.diff(cost[hull])) > 0).all()
    for budget in np.linspace(cost.min(), cost.max() + 1, 7):
        best = mixed(cost, error, budget)
        assert least_error(cost, error, budget) == pytest.approx(best)
        assert least_cost(cost, error, best) <= budget + 1e-6


@given(CLOUDS)
def test_hull_of_the_hull_is_itself_and_order_does_not_matter(cloud):
    cost, error = np.array(cloud, float).T
    hull = lower_hull(cost, error)
    assert lower_hull(cost[hull], error[hull]).tolist() == list(range(len(hull)))
    back = lower_hull(cost[::-1], error[::-1])
    assert cost[::-1][back].tolist() == cost[hull].tolist()


def test_out_of_reach_is_not_a_number():
    cost, error = np.array([2.0, 4.0]), np.array([0.3, 0.1])
    assert np.isnan(least_error(cost, error, 1.9))
    assert least_error(cost, error, 99.0) == 0.1
    assert np.isnan(least_cost(cost, error, 0.05))
    assert least_cost(cost, error, 0.5) == 2


@given(CLOUDS, st.integers(0, 10), st.integers(11, 40))
def test_area_is_the_integral(cloud, start, end):
    cost, error = np.array(cloud, float).T
    hull = lower_hull(cost, error)
    grid = np.linspace(start, end, 20_001)
    expected = np.interp(grid, cost[hull], error[hull]).mean()
    assert float(area_along(cost[hull], error[hull], start, end)) == pytest.approx(expected, abs=0.02)


def test_area_of_many_frontiers_at_once_and_of_none():
    cost, error = np.array([[1.0, 3.0], [1.0, 2.0]]), np.array([[0.4, 0.2], [0.4, 0.2]])
    assert area_along(cost, error, 1.0, 3.0) == pytest.approx([0.3, 0.25])
    assert np.isnan(area_along(cost, error, 3.0, 3.0)).all()


def test_a_corner_that_goes_back_is_counted_with_its_sign():
    # From 1 to 3 at 0.4, back to 2 at 0.4, from there to 4 at 0.4: three steps forward, one of them twice.
    assert area_along(np.array([1.0, 3.0, 2.0, 4.0]), np.full(4, 0.4), 1.0, 4.0) == pytest.approx(0.4)


@given(CLOUDS, st.integers(0, 30))
def test_cost_along_a_hull_is_the_least_cost(cloud, target):
    cost, error = np.array(cloud, float).T
    hull = lower_hull(cost, error)
    found = float(cost_along(cost[hull], error[hull], np.array(float(target))))
    expected = least_cost(cost, error, float(target))
    assert (np.isinf(found) and np.isnan(expected)) or found == pytest.approx(expected)


def test_cost_along_takes_the_first_way_down():
    cost, error = np.array([[1.0, 2.0, 3.0, 4.0]] * 2), np.array([[0.4, 0.2, 0.3, 0.1]] * 2)
    assert cost_along(cost, error, np.array([0.3, 0.15])) == pytest.approx([1.5, 3.75])


ROUTES = Routes(("a", "b"), ((0,), (1,), (0, 1)), np.array([[1.0, 0.0], [0.0, 10.0], [1.0, 10.0]]), "ms")


def a_point(router, path, wrong, family=""):
    routing = Routing(ROUTES, np.array(path), np.array(path), np.array(wrong), "test")
    return OperatingPoint(router, family, float("nan"), routing)


@pytest.fixture
def frontier():
    """Ten examples: a is wrong in 4, b in 1; the policy sends 5 on and is wrong in 1, the oracle sends 3 on."""
    a, b = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    return [
        a_point("policy", [0] * 10, a),
        a_point("policy", [2] * 5 + [0] * 5, b),
        a_point("soft_oracle", [0, 2, 2, 2, 0, 0, 0, 0, 0, 0], b),
        a_point("single", [0] * 10, a, "a"),
        a_point("single", [1] * 10, b, "b"),
    ]


def test_metrics_by_hand(frontier):
    by = yardstick(frontier, "b")
    policy = frontier[:2]
    assert by.cheapest == (1, 0.4)
    assert by.best == (10, 0.1)
    # From (1, 0.4) to (6, 0.1), then flat to 10.
    assert area(policy, by) == pytest.approx((5 * 0.25 + 4 * 0.1) / 9)
    assert cost_at_error(policy, by) == pytest.approx(6)
    assert speedup(policy, by) == pytest.approx(10 / 6)
    assert speedup(policy, by, 0.15) == pytest.approx(10 / 3.5)
    assert oracle_share(policy, by) == pytest.approx((10 - 6) / (10 - 4))
    assert oracle_share(by.oracle, by) == 1


def test_the_cheapest_single_stage_is_everybodys(frontier):
    by = yardstick(frontier, "b")
    assert area(frontier[1:2], by) == area(frontier[:2], by)


def test_out_of_reach_or_without_an_oracle(frontier):
    by = yardstick(frontier, "b")
    assert np.isnan([speedup(frontier[:1], by), cost_at_error(frontier[:1], by), oracle_share(frontier[:1], by)]).all()
    assert np.isnan(oracle_share(frontier[:2], replace(by, oracle=[])))
    assert np.isnan(oracle_share(frontier[:2], replace(by, oracle=[frontier[4]])))


def test_area_goes_to_the_dearest_stage_where_the_cheapest_is_best(frontier):
    by = yardstick(frontier, "a")
    assert (by.cheapest[0], by.end) == (1, 10)


def test_a_stage_that_is_not_there(frontier):
    with pytest.raises(ValueError, match=r"'c'.*a, b"):
        yardstick(frontier, "c")


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_depends_on_the_frontier_alone(name, frontier):
    by = yardstick(frontier, "b")
    policy = frontier[:2]
    number = METRICS[name](policy, by)
    worse = a_point("policy", [1] * 10, [1] * 10)
    assert np.isfinite(number)
    assert METRICS[name]([worse, *policy[::-1], *policy], by) == number


@pytest.mark.parametrize("name", METRICS)
def test_no_metric_depends_on_the_unit_of_cost_but_cost(name, frontier):
    def scaled(points):
        routes = replace(ROUTES, spent=1000 * ROUTES.spent)
        return [replace(p, routing=replace(p.routing, routes=routes)) for p in points]

    ms, us = yardstick(frontier, "b"), yardstick(scaled(frontier), "b")
    factor = 1000 if METRICS[name].cost else 1
    assert METRICS[name](scaled(frontier[:2]), us) == pytest.approx(factor * METRICS[name](frontier[:2], ms))
