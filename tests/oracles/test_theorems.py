"""Inequalities that hold for any data: what nobody can beat, and who contains whom."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.cascades.graph.routing import OperatingPoint, Routes
from offramp.cascades.learning.outcomes import Outcomes
from offramp.oracles import ORACLES

PRICES = np.array([0.0, 1e-3, 1e-2, 0.05, 0.3])
RANDOM = {"uniform"}
"""Draws once an example, so the rows' number and order matter."""

sizes = st.integers(1, 60)
stages = st.integers(1, 4)
seeds = st.integers(0, 10_000)
some = settings(max_examples=60, deadline=None)


def objective(point: OperatingPoint, price: float) -> float:
    return point.routing.error + price * point.routing.mean_cost


def at_each_price(name: str, outcomes: Outcomes, routes: Routes, prices: np.ndarray = PRICES) -> list[float]:
    """Mean loss + price * cost of the points that have a price; those of ``single``, which have none, at 0.1."""
    points = ORACLES[name](outcomes, outcomes, routes, prices)
    if name == "single":
        return [objective(point, 0.1) for point in points]
    return [objective(point, point.price) for point in points if not np.isnan(point.price)]


@given(sizes, stages, seeds)
@some
def test_nobody_who_enters_blindly_beats_the_hard_oracle(
    outcomes_of: Callable[..., Outcomes], routes_of: Callable[..., Routes], n: int, k: int, seed: int
) -> None:
    routes, fit, examples = routes_of(k), outcomes_of(n, k, seed), outcomes_of(n, k, seed + 1, "test")
    least = at_each_price("hard_oracle", examples, routes)
    for name, router in ORACLES.items():
        for point in router(fit, examples, routes, PRICES):
            taken = {point.routing.routes.paths[i][0] for i in point.routing.path}
            if len(taken) > 1:
                # Two entries drawn at random can be lucky; only on average are they no better than one.
                continue
            for price, bound in zip(PRICES, least, strict=True):
                assert objective(point, price) >= bound - 1e-9, (name, point.family, price)


@given(sizes, stages, seeds)
@some
def test_in_sample_joint_is_no_worse_than_what_it_contains(
    outcomes_of: Callable[..., Outcomes], routes_of: Callable[..., Routes], n: int, k: int, seed: int
) -> None:
    # Up to 64 different confidences, the grid holds every cut there is.
    routes, fit = routes_of(k), outcomes_of(n, k, seed, values=12)
    joint = at_each_price("joint", fit, routes)
    for name in ("myopic", "threshold"):
        for mine, theirs in zip(joint, at_each_price(name, fit, routes), strict=True):
            assert mine <= theirs + 1e-9, name
    for point in ORACLES["single"](fit, fit, routes, PRICES):
        for mine, price in zip(joint, PRICES, strict=True):
            assert mine <= objective(point, price) + 1e-9


@given(sizes, stages, seeds)
@some
def test_budgets_buy_no_less_than_prices_do(
    outcomes_of: Callable[..., Outcomes], routes_of: Callable[..., Routes], n: int, k: int, seed: int
) -> None:
    fit = outcomes_of(n, k, seed)
    points = ORACLES["joint"](fit, fit, routes_of(k), PRICES)
    for point in points:
        for price, priced in zip(PRICES, points, strict=False):
            assert objective(point, price) >= objective(priced, price) - 1e-9


@given(sizes, stages, seeds)
@some
def test_the_soft_oracle_keeps_the_last_stages_error_and_is_never_ahead_of_the_hard_one(
    outcomes_of: Callable[..., Outcomes], routes_of: Callable[..., Routes], n: int, k: int, seed: int
) -> None:
    routes, examples = routes_of(k), outcomes_of(n, k, seed)
    soft = ORACLES["soft_oracle"](examples, examples, routes, np.array([1e-9]))
    assert soft[0].routing.error == pytest.approx(examples.wrong[:, -1].mean())
    # The paper's is the limit of a small price; costs, not paths: two entries may cost exactly the same.
    assert soft[0].routing.mean_cost == pytest.approx(soft[1].routing.mean_cost)
    hard = ORACLES["hard_oracle"](examples, examples, routes, PRICES)
    assert hard[0].routing.error <= soft[0].routing.error + 1e-9


@given(st.integers(1, 30), stages, seeds, st.integers(2, 4))
@some
@pytest.mark.parametrize("name", sorted(set(ORACLES) - RANDOM))
def test_copying_every_row_changes_nothing(
    outcomes_of: Callable[..., Outcomes],
    routes_of: Callable[..., Routes],
    name: str,
    n: int,
    k: int,
    seed: int,
    copies: int,
) -> None:
    routes, fit = routes_of(k), outcomes_of(n, k, seed)
    rows = np.repeat(np.arange(n), copies)
    # Objectives, not paths: of plans that are equally good, rounding may pick another.
    for mine, theirs in zip(at_each_price(name, fit, routes), at_each_price(name, fit.take(rows), routes), strict=True):
        assert mine == pytest.approx(theirs)


@given(sizes, stages, seeds)
@some
def test_more_to_choose_from_is_never_worse(
    outcomes_of: Callable[..., Outcomes], routes_of: Callable[..., Routes], n: int, k: int, seed: int
) -> None:
    fit = outcomes_of(n, k, seed)
    names = "abcd"[:k]
    plain = routes_of(k, ">".join(names) if k > 1 else "a;")
    for name in ("hard_oracle", "joint", "threshold"):
        more, fewer = at_each_price(name, fit, routes_of(k)), at_each_price(name, fit, plain)
        assert all(a <= b + 1e-9 for a, b in zip(more, fewer, strict=True)), name


@given(sizes, stages, seeds)
@some
def test_a_higher_price_never_spends_more(
    outcomes_of: Callable[..., Outcomes], routes_of: Callable[..., Routes], n: int, k: int, seed: int
) -> None:
    fit = outcomes_of(n, k, seed)
    for name in ("hard_oracle", "joint", "threshold"):
        priced = [p for p in ORACLES[name](fit, fit, routes_of(k), PRICES) if not np.isnan(p.price)]
        spent = [point.routing.mean_cost for point in priced]
        assert all(later <= sooner + 1e-9 for sooner, later in pairwise(spent)), name
