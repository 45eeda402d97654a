"""What every oracle and baseline promises; a new entry of ORACLES is tested by being there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from offramp.cascades.graph.routing import OperatingPoint, Routes
from offramp.cascades.learning.outcomes import Outcomes
from offramp.oracles import ORACLES

PRICES = np.array([1e-4, 1e-3, 1e-2, 0.05, 0.3])
TOPOLOGIES = [(1, ""), (2, ""), (3, ""), (4, ""), (3, "a>b,c;b>c"), (3, "a>b,c"), (3, "a>b;c"), (4, "a>b,c;b>d;c>d")]

Make = Callable[..., Outcomes]
Unrolled = Callable[..., Routes]

every_oracle = pytest.mark.parametrize("name", ORACLES)
every_topology = pytest.mark.parametrize(("k", "text"), TOPOLOGIES)


def same(one: list[OperatingPoint], other: list[OperatingPoint]) -> bool:
    return all(
        (a.router, a.family) == (b.router, b.family)
        and np.array_equal(a.price, b.price, equal_nan=True)
        and np.array_equal(a.routing.path, b.routing.path)
        and np.array_equal(a.routing.answer, b.routing.answer)
        for a, b in zip(one, other, strict=True)
    )


@every_oracle
@every_topology
def test_points_are_routings_of_the_examples(
    name: str, k: int, text: str, outcomes_of: Make, routes_of: Unrolled
) -> None:
    routes, fit, examples = routes_of(k, text), outcomes_of(60, k, 1), outcomes_of(50, k, 2, "test")
    points = ORACLES[name](fit, examples, routes, PRICES)
    assert points
    rows = np.arange(50)
    for point in points:
        routing = point.routing
        assert point.router == name
        assert routing.part == "test"
        assert len(routing) == 50
        assert routing.routes.stages == routes.stages
        assert routing.routes.unit == routes.unit
        assert 0 <= routing.path.min() <= routing.path.max() < len(routing.routes.paths)
        np.testing.assert_array_equal(routing.answer, examples.answer[rows, routing.exit])
        np.testing.assert_array_equal(routing.wrong, examples.wrong[rows, routing.exit])
        assert routing.exit_share.sum() == pytest.approx(1)
        assert routing.spent_share.sum() == pytest.approx(1)
        assert routing.routes.spent[routing.path].sum() == pytest.approx(routing.cost.sum())
        assert routing.mean_cost == pytest.approx(routing.cost.mean())


@every_oracle
@every_topology
def test_every_price_is_answered_in_order_or_none_is(
    name: str, k: int, text: str, outcomes_of: Make, routes_of: Unrolled
) -> None:
    fit = outcomes_of(60, k, 1)
    points = ORACLES[name](fit, fit, routes_of(k, text), PRICES)
    priced = [point.price for point in points if not math.isnan(point.price)]
    assert priced in ([], PRICES.tolist())


@every_oracle
def test_each_looks_at_the_fit_part_or_at_the_answers_to_come_but_never_at_both(
    name: str, outcomes_of: Make, routes_of: Unrolled
) -> None:
    routes, fit, examples = routes_of(3), outcomes_of(80, 3, 1), outcomes_of(70, 3, 2, "test")
    points = ORACLES[name](fit, examples, routes, PRICES)
    blind = same(points, ORACLES[name](fit, replace(examples, wrong=1 - examples.wrong), routes, PRICES))
    knowing = same(points, ORACLES[name](outcomes_of(40, 3, 9), examples, routes, PRICES))
    assert blind or knowing


@every_oracle
def test_the_same_again_gives_the_same_and_changes_nothing(name: str, outcomes_of: Make, routes_of: Unrolled) -> None:
    routes, fit, examples = routes_of(3), outcomes_of(80, 3, 1), outcomes_of(70, 3, 2, "test")
    for outcomes in (fit, examples):
        for column in (outcomes.answer, outcomes.wrong, outcomes.confidence):
            column.flags.writeable = False
    np.random.seed(1)  # noqa: NPY002 - a router that draws from the global state would show here
    first = ORACLES[name](fit, examples, routes, PRICES)
    np.random.seed(2)  # noqa: NPY002
    assert same(first, ORACLES[name](fit, examples, routes, PRICES))


def always(outcomes: Outcomes, wrong: float) -> Outcomes:
    return replace(outcomes, wrong=np.full_like(outcomes.wrong, wrong))


def equally_sure(outcomes: Outcomes) -> Outcomes:
    return replace(outcomes, confidence=np.full_like(outcomes.confidence, 0.5))


def graded(outcomes: Outcomes) -> Outcomes:
    """Losses between 0 and 1, as of ranked answers."""
    return replace(outcomes, wrong=outcomes.wrong / 2 + outcomes.confidence.astype(np.float32) / 2)


def first_only(outcomes: Outcomes) -> Outcomes:
    return outcomes.take(np.arange(1))


def alike(outcomes: Outcomes) -> Outcomes:
    zeros = np.zeros(outcomes.answer.shape[1], dtype=int)
    return Outcomes(
        outcomes.stages, outcomes.answer[:, zeros], outcomes.wrong[:, zeros], outcomes.confidence[:, zeros], "fit"
    )


UNUSUAL: list[Callable[[Outcomes], Outcomes]] = [
    lambda outcomes: always(outcomes, 0),
    lambda outcomes: always(outcomes, 1),
    equally_sure,
    graded,
    first_only,
    alike,
]


@every_oracle
@pytest.mark.parametrize("change", UNUSUAL)
@pytest.mark.parametrize("k", [1, 3])
def test_unusual_outcomes_just_work(
    name: str, change: Callable[[Outcomes], Outcomes], k: int, outcomes_of: Make, routes_of: Unrolled
) -> None:
    outcomes = change(outcomes_of(30, k, 3))
    for point in ORACLES[name](outcomes, outcomes, routes_of(k), PRICES):
        assert outcomes.wrong.min() - 1e-7 <= point.routing.error <= outcomes.wrong.max() + 1e-7
        assert routes_of(k).cost.min() <= point.routing.mean_cost <= routes_of(k).cost.max()


@every_oracle
@pytest.mark.parametrize("prices", [PRICES[:0], PRICES[:1], PRICES[::-1], np.repeat(PRICES, 2)])
def test_any_list_of_prices_will_do(name: str, prices: np.ndarray, outcomes_of: Make, routes_of: Unrolled) -> None:
    fit = outcomes_of(40, 3, 4)
    priced = {p.price: p.routing.mean_cost for p in ORACLES[name](fit, fit, routes_of(3), PRICES)}
    for point in ORACLES[name](fit, fit, routes_of(3), prices):
        assert math.isnan(point.price) or point.routing.mean_cost == priced[point.price]


@every_oracle
@every_topology
def test_a_huge_price_stops_everyone_at_the_cheapest_entry(
    name: str, k: int, text: str, outcomes_of: Make, routes_of: Unrolled
) -> None:
    routes, fit = routes_of(k, text), outcomes_of(40, k, 5)
    for point in ORACLES[name](fit, fit, routes, np.array([1e9])):
        if not math.isnan(point.price):
            assert set(point.routing.cost) == {routes.cost[list(routes.entries)].min()}


@every_oracle
def test_a_dearer_stage_with_the_same_outcomes_is_never_paid_for(
    name: str, outcomes_of: Make, routes_of: Unrolled
) -> None:
    fit = outcomes_of(60, 2, 6)
    fit = replace(fit, wrong=fit.wrong[:, [0, 0]])
    for point in ORACLES[name](fit, fit, routes_of(2), PRICES):
        if not math.isnan(point.price):
            assert set(point.routing.exit) == {0}
