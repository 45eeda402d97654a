"""Targets solved exactly: by hand, against linear programmes, and where nothing meets them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from offramp.cascades.files.policy import in_words
from offramp.cascades.graph.routing import Routes, Routing
from offramp.cascades.learning.fit import FitSettings
from offramp.cascades.learning.points import Fitted, Mixture, Picking, fit_points
from offramp.cascades.learning.targets import (
    Limit,
    Target,
    best_pair,
    cost_range,
    expected_of,
    parse_budget,
    parse_shares,
    solve,
    unit_of,
)
from offramp.features.errors import InputError
from offramp.features.outputs import Outputs

FAMILIES = ("constant", "threshold", "logistic", "value")


@pytest.fixture(scope="module")
def made(routes_of: Callable[..., Routes], world: Callable[..., Outputs]) -> tuple[Fitted, Picking, float]:
    fitted, picking = fit_points(world(1500), None, routes_of(3), 8, FitSettings(FAMILIES))
    return fitted, picking, float(picking.there.wrong[:, 2].mean())


def blank(fitted: Fitted, costs: Sequence[float], errors: Sequence[float], n: int = 1000) -> list[Routing]:
    """Routings, as many as ``fitted`` has points, whose mean costs and errors are given; those missing are dreadful.

    An example costs 0 or 100: the second path is taken by as many as the cost asks for.
    """
    routes = Routes(("a", "b"), ((0,), (1,)), np.array([[0.0, 0.0], [0.0, 100.0]]), "ms", np.array([0.0, 100.0]))
    bound = len(fitted.sweep.prices) + len(fitted.plans)
    found = []
    for i in range(bound):
        cost, error = (costs[i], errors[i]) if i < len(costs) else (100.0, 1.0)
        way = (np.arange(n) < round(cost * n / 100)).astype(np.int64)
        wrong = np.arange(n) < round(error * n)
        found.append(Routing(routes, way, way, wrong, "fit"))
    return found


# --- by hand


def small(fitted: Fitted) -> Fitted:
    """The same with routes of the two stages of ``blank``, for messages and shares."""
    routes = Routes(("a", "b"), ((0,), (1,)), np.array([[0.0, 0.0], [0.0, 100.0]]), "ms", np.array([0.0, 100.0]))
    return replace(fitted, sweep=replace(fitted.sweep, routes=routes))


def chosen(target: Target, fitted: Fitted, routings: Sequence[Routing], reference: float = 0.1) -> Any:
    found, point = solve(target, small(fitted), routings, reference)
    bound = len(fitted.sweep.prices) + len(fitted.plans)
    return found.mixtures[point - bound] if point >= bound else point


def test_a_budget_between_two_points_of_the_hull_is_their_mixture(made: Any) -> None:
    fitted = made[0]
    routings = blank(fitted, [10, 20, 40], [0.5, 0.4, 0.1])
    assert chosen(Target(budget=40), fitted, routings) == 2
    assert chosen(Target(budget=10), fitted, routings) == 0
    # the second point lies above the line from the first to the third
    half = chosen(Target(budget=25), fitted, routings)
    assert (half.one, half.other, half.share) == (0, 2, pytest.approx(0.5))
    convex = blank(fitted, [10, 20, 40], [0.5, 0.2, 0.1])
    assert chosen(Target(budget=20), fitted, convex) == 1
    third = chosen(Target(budget=25), fitted, convex)
    assert (third.one, third.other, third.share) == (1, 2, pytest.approx(0.25))


def test_a_budget_that_binds_nothing_takes_the_most_accurate_and_of_those_the_cheapest(made: Any) -> None:
    fitted = made[0]
    assert chosen(Target(budget=90), fitted, blank(fitted, [10, 30, 20], [0.5, 0.1, 0.1])) == 2


def test_no_budget_at_all_buys_what_is_free_and_all_of_a_budget_the_dearest(made: Any) -> None:
    fitted = made[0]
    routings = blank(fitted, [10, 0, 100], [0.2, 0.5, 0.1])
    assert chosen(Target(budget=0.0), fitted, routings) == 1
    assert chosen(Target(budget=100.0), fitted, routings) == 2


def test_errors_take_the_cheapest(made: Any) -> None:
    fitted = made[0]
    routings = blank(fitted, [10, 20, 40], [0.5, 0.2, 0.1])
    assert chosen(Target(accuracy=0.8), fitted, routings) == 1
    half = chosen(Target(accuracy=0.85), fitted, routings)
    assert (half.one, half.other, half.share) == (1, 2, pytest.approx(0.5))
    assert chosen(Target(error_increase=0.1), fitted, routings, 0.1) == 1
    assert chosen(Target(error_increase=0.0), fitted, routings, 0.1) == 2
    assert chosen(Target(accuracy=0.0), fitted, routings) == 0


def test_shares_alone_take_the_most_accurate(made: Any) -> None:
    fitted = made[0]
    routings = blank(fitted, [10, 20, 40], [0.5, 0.2, 0.1])  # so many in a hundred exit at b
    half = chosen(Target(shares={"b": 0.3}), fitted, routings)
    assert (half.one, half.other, half.share) == (1, 2, pytest.approx(0.5))
    assert chosen(Target(shares={"b": 1.0}), fitted, routings) == 2
    # the most that may stop at a is the least that must reach b
    assert chosen(Target(shares={"a": 0.6}), fitted, routings) == 2


def test_of_equal_points_and_mixtures_a_single_point_is_taken(made: Any) -> None:
    fitted = made[0]
    on_the_line = blank(fitted, [10, 20, 30], [0.3, 0.2, 0.1])
    assert chosen(Target(budget=20), fitted, on_the_line) == 1
    assert chosen(Target(accuracy=0.8), fitted, on_the_line) == 1


def test_a_mixture_that_is_there_already_is_not_put_twice(made: Any) -> None:
    fitted = small(made[0])
    routings = blank(fitted, [10, 20, 40], [0.5, 0.2, 0.1])
    once, point = solve(Target(budget=25), fitted, routings, 0.1)
    twice, again = solve(Target(budget=25), once, routings, 0.1)
    assert twice is once
    assert again == point == len(once.sweep.prices) + len(once.plans) + len(once.mixtures) - 1
    assert once.mixtures[:-1] == fitted.mixtures


def test_costs_are_told_by_the_routings_that_spend(made: Any) -> None:
    fitted = made[0]
    told, spent = blank(fitted, [10, 20, 40], [0.5, 0.2, 0.1]), blank(fitted, [12, 24, 44], [1, 1, 1])
    found, point = solve(Target(budget=24), small(fitted), told, 0.1, spent)
    assert point == 1
    expected = expected_of(found, told, 0.1, spent)
    assert (expected.cost[1], expected.error[1]) == (pytest.approx(24), pytest.approx(0.2))
    dear = blank(fitted, [90, 24, 44], [1, 1, 1])
    assert solve(Target(accuracy=0.5), small(fitted), told, 0.1, dear)[1] == 0  # what is cheapest is told held out
    with pytest.raises(InputError, match="from 12 to 100"):
        solve(Target(budget=11), small(fitted), told, 0.1, spent)


# --- against linear programmes

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def programme(objective: Any, rows: Sequence[Any], bounds: Sequence[float]) -> float | None:
    """The least mean of ``objective`` over mixtures of any number of points."""
    m = len(objective)
    limits = {"A_ub": np.array(rows), "b_ub": np.array(bounds)} if len(rows) else {}
    found = linprog(objective, A_eq=np.ones((1, m)), b_eq=[1], bounds=(0, 1), method="highs", **limits)
    return float(found.fun) if found.status == 0 else None


def value(objective: Any, found: tuple[int, int, float]) -> float:
    i, j, share = found
    return float((1 - share) * objective[i] + share * objective[j])


@pytest.mark.parametrize("seed", range(40))
def test_under_one_constraint_the_best_pair_is_the_best_of_all_mixtures(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m = int(rng.integers(1, 12))
    cost, error = rng.random(m).round(int(rng.integers(1, 4))), rng.random(m).round(2)
    bound = float(rng.uniform(cost.min() - 0.05, cost.max() + 0.05))
    found = best_pair(error, cost, [Limit("", cost, bound)])
    best = programme(error, [cost], [bound])
    if best is None:
        assert found is None
        return
    assert found is not None
    assert value(error, found) == pytest.approx(best, abs=1e-9)
    assert value(cost, found) <= bound + 1e-12


@pytest.mark.parametrize("seed", range(40))
def test_under_several_constraints_no_pair_is_better_and_more_points_gain_only_where_two_bind(seed: int) -> None:
    rng = np.random.default_rng(1000 + seed)
    m = 7
    values = rng.random((4, m)).round(2)
    limits = [Limit("", v, float(rng.uniform(0.2, 0.9))) for v in values[1:]]
    found = best_pair(values[0], values[1], limits)
    grid = np.linspace(0, 1, 401)
    tried = []
    for i in range(m):
        for j in range(m):
            pairs = zip(values[1:], limits, strict=True)
            kept = np.all([(1 - grid) * v[i] + grid * v[j] <= limit.bound for v, limit in pairs], 0)
            tried += ((1 - grid) * values[0, i] + grid * values[0, j])[kept].tolist()
    best = programme(values[0], values[1:], [limit.bound for limit in limits])
    if found is None:
        assert not tried
        return
    reached = value(values[0], found)
    assert all(value(v, found) <= limit.bound + 1e-12 for v, limit in zip(values[1:], limits, strict=True))
    assert reached <= min(tried, default=np.inf) + 1e-9
    assert best is not None
    assert reached >= best - 1e-9


def test_three_points_can_be_better_than_two_where_two_constraints_bind() -> None:
    """What the docstring of ``solve`` says about mixtures of more than two, by an example."""
    error, cost, share = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])
    limits = [Limit("", cost, 0.4), Limit("", share, 0.4)]
    found = best_pair(error, cost, limits)
    assert found is not None
    assert value(error, found) == pytest.approx(0.6)
    assert programme(error, [cost, share], [0.4, 0.4]) == pytest.approx(0.2)


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=8),
    st.integers(-1, 7),
    st.sampled_from([1e-9, 1.0, 1e9]),
)
def test_ties_and_scales_change_nothing(points: list[tuple[int, int]], bound: int, scale: float) -> None:
    cost, error = np.array(points, float).T
    plain = best_pair(error, cost, [Limit("", cost, float(bound))])
    scaled = best_pair(error, cost * scale, [Limit("", cost * scale, bound * scale)])
    assert (plain is None) == (scaled is None) == (bound < cost.min())
    if plain is not None and scaled is not None:
        assert value(error, plain) == pytest.approx(value(error, scaled))
        assert value(cost, plain) <= bound * (1 + 1e-12)
        assert value(cost, plain) * scale == pytest.approx(value(cost * scale, scaled))


def test_a_thousand_points_take_no_time(made: Any) -> None:
    rng = np.random.default_rng(0)
    cost = rng.random(1000)
    error = 1 / (1 + 5 * cost) + 0.02 * rng.random(1000)
    found = best_pair(error, cost, [Limit("", cost, 0.5), Limit("", error, 0.9)])
    best = programme(error, [cost, error], [0.5, 0.9])
    assert found is not None
    assert value(error, found) == pytest.approx(best)


# --- real points


def test_the_routed_mixture_spends_the_budget_but_for_its_coin(made: Any, world: Callable[..., Outputs]) -> None:
    fitted, picking, reference = made
    expected = expected_of(fitted, picking.routings, reference)
    bound = len(fitted.sweep.prices) + len(fitted.plans)
    for budget in np.linspace(expected.cost[:bound].min(), expected.cost[:bound].max(), 7):
        found, point = solve(Target(budget=float(budget)), fitted, picking.routings, reference)
        told = expected_of(found, picking.routings, reference)
        assert told.cost[point] <= budget * (1 + 1e-12)
        assert told.error[point] == pytest.approx(
            programme(expected.error[:bound], [expected.cost[:bound]], [budget]), abs=1e-9
        )
        routed = found.with_mixtures(picking.routings[:bound], picking.ids)[point]
        spread = routed.cost.std() / np.sqrt(len(routed))
        assert abs(routed.mean_cost - told.cost[point]) <= 4 * spread + 1e-9
        assert len(found.route(world(50, part="test"))) == len(found.names)


def test_what_is_expected_of_mixtures_is_linear(made: Any) -> None:
    fitted, picking, reference = made
    expected = expected_of(fitted, picking.routings, reference)
    bound = len(fitted.sweep.prices) + len(fitted.plans)
    assert len(expected.cost) == len(expected.error) == len(fitted.names)
    assert (expected.reference, expected.examples) == (pytest.approx(reference), 1500)
    for i, mixture in enumerate(fitted.mixtures):
        one, other, share = mixture.one, mixture.other, mixture.share
        mean = (1 - share) * expected.cost[one] + share * expected.cost[other]
        assert expected.cost[bound + i] == pytest.approx(mean)
    np.testing.assert_allclose(expected.cost[:bound], [r.mean_cost for r in picking.routings[:bound]])
    np.testing.assert_allclose(expected.error[:bound], [r.error for r in picking.routings[:bound]])


def test_all_constraints_at_once(made: Any) -> None:
    fitted, picking, reference = made
    target = Target(7.0, 0.2, 0.6, {"c": 0.5, "a": 0.9})
    found, point = solve(target, fitted, picking.routings, reference)
    expected = expected_of(found, picking.routings, reference)
    bound = len(found.sweep.prices) + len(found.plans)
    mixture = found.mixtures[point - bound] if point >= bound else Mixture(point, point, 0.0)
    shares = np.array([r.exit_share for r in picking.routings])
    exits = (1 - mixture.share) * shares[mixture.one] + mixture.share * shares[mixture.other]
    assert expected.cost[point] <= 7.0 + 1e-9
    assert expected.error[point] <= min(reference + 0.2, 0.4) + 1e-9
    assert exits[2] <= 0.5 + 1e-9
    assert exits[0] <= 0.9 + 1e-9


def test_no_increase_at_all_is_met_by_the_largest_stage_even_in_single_precision(made: Any) -> None:
    fitted, picking, _ = made
    reference = float(picking.there.wrong[:, 2].mean())
    assert picking.there.wrong.dtype == np.float32
    assert reference != float(np.mean(picking.there.wrong[:, 2], dtype=float))
    found, point = solve(Target(error_increase=0.0), fitted, picking.routings, reference)
    assert expected_of(found, picking.routings, reference).error[point] <= reference + 1e-9
    assert expected_of(found, picking.routings, reference).reference == np.mean(picking.there.wrong[:, 2], dtype=float)
    assert expected_of(found, picking.routings, 0.123456789).reference == 0.123456789


# --- where nothing meets it


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (Target(), "at least one of --budget"),
        (Target(budget=0.5), "a budget from 1 to 11.8"),
        (Target(budget=0.5), " ms, the cheapest and the dearest to be had, found 0.5, below the cheapest"),
        (Target(budget=14), "found 14, above the dearest"),
        (Target(budget=float("nan")), "--budget: expected a finite budget"),
        (Target(budget=float("inf")), "--budget: expected a finite budget"),
        (Target(budget=-1), "--budget: expected a finite budget"),
        (Target(error_increase=1.5), "--max-error-increase: expected a number from 0 to 1"),
        (Target(error_increase=float("nan")), "--max-error-increase: expected a number from 0 to 1"),
        (Target(accuracy=-0.1), "--min-accuracy: expected a number from 0 to 1"),
        (Target(shares={"z": 0.5}), "--max-share: expected stages among a, b, c, found z"),
        (Target(shares={"a": 2.0}), "--max-share a: expected a number from 0 to 1"),
        (Target(accuracy=1.0), "the best to be had is --min-accuracy 0."),
        (Target(budget=1.0, accuracy=0.8), "found --budget 1 ms and --min-accuracy 0.8"),
        (Target(budget=1.0, accuracy=0.8), "; or --min-accuracy 0."),
        (Target(shares={"a": 0.1, "b": 0.1, "c": 0.1}), "--max-share of a 0.1 and --max-share of b 0.1 and"),
    ],
)
def test_what_can_not_be_met_is_told(made: Any, target: Target, said: str) -> None:
    fitted, picking, reference = made
    with pytest.raises(InputError) as caught:
        solve(target, fitted, picking.routings, reference)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_constraints_that_contradict_each_other_are_named(made: Any) -> None:
    fitted, picking, reference = made
    with pytest.raises(InputError) as caught:
        solve(Target(1.0, 1.0, 0.8, {"b": 1.0}), fitted, picking.routings, reference)
    said = str(caught.value)
    assert "--budget" in said
    assert "--min-accuracy" in said
    assert "--max-share" not in said
    assert "--max-error-increase" not in said


def test_the_best_that_is_told_can_really_be_had(made: Any) -> None:
    fitted, picking, reference = made
    with pytest.raises(InputError) as caught:
        solve(Target(budget=1.5, accuracy=0.95), fitted, picking.routings, reference)
    best = float(str(caught.value).split("--min-accuracy ")[2].split()[0])
    _, point = solve(Target(budget=1.5, accuracy=best - 1e-6), fitted, picking.routings, reference)
    assert point >= 0
    with pytest.raises(InputError):
        solve(Target(budget=1.5, accuracy=best + 1e-5), fitted, picking.routings, reference)


def test_the_range_of_budgets_reaches_to_the_dearest_stage(made: Any) -> None:
    fitted, picking, _ = made
    cost = np.array([routing.mean_cost for routing in picking.routings])
    routes = fitted.sweep.routes
    assert cost_range(cost, routes) == (1.0, cost.max())
    assert cost_range(np.array([2.0]), replace(routes, alone=None)) == (2.0, 9.0)
    assert cost_range(np.array([2.0]), routes) == (2.0, 9.0)


def test_routings_of_another_number_of_points_are_a_mistake(made: Any) -> None:
    fitted, picking, reference = made
    with pytest.raises(ValueError, match="every point"):
        solve(Target(budget=3), fitted, picking.routings[:3], reference)
    with pytest.raises(ValueError, match="every point"):
        solve(Target(budget=3), fitted, picking.routings, float("nan"))


# --- budgets as they are typed


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("5ms", "ms per image", 5.0),
        (" 5 MS ", "ms per image", 5.0),
        ("2.1", "ms per image", 2.1),
        (".5", "ms per image", 0.5),
        ("5e-3 s", "ms per image", 5.0),
        ("5000us", "ms per image", 5.0),
        ("5000 \N{MICRO SIGN}s", "ms per image", 5.0),
        ("5000 \N{GREEK SMALL LETTER MU}s", "ms", 5.0),
        ("5 ms per image", "ms per image", 5.0),
        ("5 ms/image", "ms per image", 5.0),
        ("5 ms per images", "ms per image", 5.0),
        ("500 ms per 100 images", "ms per image", 5.0),
        ("2 milliseconds", "us per image", 2000.0),
        ("3 GMACs", "MMACs per image", 3000.0),
        ("3G", "MMACs per image", 3000.0),
        ("3M", "million multiply-adds per image", 3.0),
        ("3 million multiply-adds", "GMACs per image", 0.003),
        ("2 GFLOPs", "MFLOPs per image", 2000.0),
        ("0.4 $", "USD per 10,000 calls", 0.4),
        ("$0.4", "USD per 10,000 calls", 0.4),
        ("1 USD per 1,000 calls", "USD per 10,000 calls", 10.0),
        ("1 $ per call", "USD per 10,000 calls", 10_000.0),
        ("7 joules", "joules per image", 7.0),
        ("7 Joules per image", "joules per image", 7.0),
        ("7", "anything at all", 7.0),
        ("0", "ms per image", 0.0),
    ],
)
def test_budgets_are_read_in_the_unit_of_the_costs(text: str, unit: str, expected: float) -> None:
    assert parse_budget(text, unit) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "unit", "said"),
    [
        ("", "ms per image", "a number of ms per image"),
        ("ms", "ms per image", "a number"),
        ("5 parsecs", "ms per image", "s, ms, us, ns; MACs"),
        ("5 ms", "USD per 10,000 calls", "understood"),
        ("5 GMACs", "ms per image", "understood"),
        ("5 GMACs", "GFLOPs per image", "understood"),
        ("5 M", "ms per image", "understood"),
        ("5 \N{EURO SIGN}", "USD per 10,000 calls", "understood"),
        ("5 ms per video", "ms per image", "understood"),
        ("5 J", "joules per image", "understood"),
        ("5 ms", "furlongs", "understood"),
        ("nan", "ms per image", "a number"),
        ("inf", "ms per image", "a number"),
        ("1e999", "ms per image", "finite"),
        ("1e300 s", "ns per image", "understood"),
        ("-1", "ms per image", "at least 0"),
        ("-1 ms", "ms per image", "at least 0"),
        ("1,000", "ms per image", "with a point"),
        ("1_000", "ms per image", "with a point"),
        ("1.2.3", "ms per image", "with a point"),
        ("5 ms ms", "ms per image", "understood"),
        ("1" * 10_000, "ms per image", "a number"),
        ("$" * 1000, "ms per image", "a number"),
        ("5 ms per", "ms per image", "understood"),
        ("0x10", "ms per image", "understood"),
    ],
)
def test_what_is_no_budget_is_told(text: str, unit: str, said: str) -> None:
    if text == "1e300 s":
        with pytest.raises(InputError, match="finite"):
            parse_budget("1e300 s", "ns per image")
        return
    with pytest.raises(InputError) as caught:
        parse_budget(text, unit)
    assert said in str(caught.value)
    assert str(caught.value).startswith("--budget: ")
    assert len(str(caught.value)) < 400


@given(st.text(max_size=30), st.sampled_from(["ms per image", "USD per 10,000 calls", "\u0130ms/\u0130", ""]))
def test_any_text_is_a_budget_or_an_input_error(text: str, unit: str) -> None:
    try:
        found = parse_budget(text, unit)
    except InputError:
        return
    assert 0 <= found < np.inf


def test_units_of_the_data_there_is_are_known() -> None:
    for unit, kind in {
        "ms per image": "time",
        "MMACs per image": "MACs",
        "GMACs per image": "MACs",
        "million multiply-adds per image": "MACs",
        "USD per 10,000 calls": "US dollars",
    }.items():
        found = unit_of(unit)
        assert found is not None
        assert found.kind == kind
    assert unit_of("pounds of flesh") is None


# --- shares


@pytest.fixture(scope="module")
def named() -> Routes:
    names = ("alexnet", "googlenet", "resnet.exit1", "resnet.exit2", "with_underscore")
    return Routes(names, tuple((i,) for i in range(5)), np.eye(5), "ms")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((), {}),
        (("a=0.1",), {"alexnet": 0.1}),
        (("exit1=0", "exit2=1"), {"resnet.exit1": 0.0, "resnet.exit2": 1.0}),
        (("GOOG = 25 %",), {"googlenet": 0.25}),
        (("with_underscore=.5",), {"with_underscore": 0.5}),
    ],
)
def test_shares_are_read(named: Routes, texts: tuple[str, ...], expected: dict[str, float]) -> None:
    assert parse_shares(texts, named) == expected


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (("alexnet",), "STAGE=SHARE"),
        (("=0.1",), "stages such as"),
        (("r=0.1",), "unambiguous prefix"),
        (("z=0.1",), "stages among"),
        (("a_g=0.1",), "one stage"),
        (("a,g=0.1",), "one stage"),
        (("a=1.5",), "a share from 0 to 1"),
        (("a=150%",), "a share from 0 to 1"),
        (("a=-0.1",), "a share from 0 to 1"),
        (("a=nan",), "a share from 0 to 1"),
        (("a=",), "a share from 0 to 1"),
        (("a=0.1=0.2",), "a share from 0 to 1"),
        (("a=" + "9" * 10_000,), "a share from 0 to 1"),
        (("a=0.1", "alex=0.2"), "two for alexnet"),
    ],
)
def test_what_is_no_share_is_told(named: Routes, texts: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_shares(texts, named)
    assert said in str(caught.value)
    assert str(caught.value).startswith("--max-share")
    assert len(str(caught.value)) < 400


def test_targets_are_told_in_words() -> None:
    target = Target(None, 0.005, 0.91, {"b": 0.25})
    assert in_words(target, "ms") == (
        "the cheapest with an error at most 0.5 points above the largest stage's, with an error of at most 9 %, "
        "at most 25 % of the examples exiting at b"
    )
