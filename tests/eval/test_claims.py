"""Learn-then-Test: the sequence by hand, the levels, several claims at once, and the promise by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from offramp.eval.guarantees.bounds import betting_p, binomial_p, hoeffding_bentkus_p, paired_p
from offramp.eval.guarantees.claims import (
    COST_SHARE,
    GROUP_SHARE,
    LEAST_GROUP,
    Claim,
    certify_points,
    cost_bound,
    cost_p,
    examples_needed,
    fixed_sequence,
    risk_bound,
    risk_p,
)

SPAN = (1.0, 11.0)
ERROR = [Claim("error", 0.05)]
Bools = NDArray[np.bool_]


def bools(n: int, *where: slice) -> Bools:
    found = np.zeros(n, bool)
    for part in where:
        found[part] = True
    return found


# --- the order


def test_the_sequence_by_hand() -> None:
    cost, error = np.array([5.0, 1.0, 3.0, 4.0, 2.0, 6.0]), np.array([0.10, 0.30, 0.15, 0.15, 0.31, 0.05])
    assert fixed_sequence(cost, error).tolist() == [5, 0, 2, 1]  # 3 is as bad as 2 and dearer, 4 is worse than 1
    assert fixed_sequence(cost, error, most=0.15).tolist() == [5, 0, 2]
    assert fixed_sequence(cost, error, below=6.0).tolist() == [0, 2, 1]
    assert fixed_sequence(cost, error, most=0.01).tolist() == [5]  # the safest is always worth a try
    assert fixed_sequence(cost, error, below=1.0).tolist() == []


@pytest.mark.parametrize("seed", range(5))
def test_along_the_sequence_cost_falls_and_error_rises_and_nothing_left_out_is_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cost, error = rng.integers(1, 9, 40) / 4, rng.integers(1, 9, 40) / 10
    order = fixed_sequence(cost, error)
    assert (np.diff(cost[order]) < 0).all()
    assert (np.diff(error[order]) > 0).all()
    for i in range(40):
        assert any(cost[j] <= cost[i] and error[j] <= error[i] for j in order)


# --- which test


def test_each_kind_of_loss_has_its_test() -> None:
    rng = np.random.default_rng(0)
    wrong, base = rng.random(400) < 0.1, rng.random(400) < 0.12
    worse, better = int((wrong & ~base).sum()), int((base & ~wrong).sum())
    assert risk_p(wrong, None, 0.15, 0.05) == binomial_p(int(wrong.sum()), 400, 0.15)
    assert risk_p(wrong, base, 0.05, 0.05) == paired_p(worse, better, 400, 0.05, 0.001)
    soft, other = rng.random(400) * 0.2, rng.random(400) * 0.2
    assert risk_p(soft, None, 0.15, 0.05) == hoeffding_bentkus_p(float(soft.mean()), 400, 0.15)
    assert risk_p(soft, other, 0.05, 0.05) < 0.05 < 1 == risk_p(soft, other, -0.5, 0.05)
    assert soft.mean() < risk_bound(soft, None, 0.05) < 0.2
    assert (soft - other).mean() < risk_bound(soft, other, 0.05) < 0.05


def test_a_file_in_the_order_of_its_costs_does_no_harm() -> None:
    """Betting rests on an order that does not depend on the values."""
    ordered = np.sort(np.where(np.random.default_rng(0).random(2000) < 0.3, 11.0, 1.0))
    bounds = [cost_bound(x, SPAN, 0.05) for x in (ordered, ordered[::-1])]
    assert all(4.0 < bound < 4.5 for bound in bounds)
    x = (ordered - 1) / 10
    assert betting_p(x, 0.4) < 1e-9  # as it stands: cheap ones first, and much is won before the dear ones come


def test_a_cost_that_rounding_puts_beyond_its_span_is_none_beyond() -> None:
    """A mixture of two paths that cost the same may cost an ulp more or less."""
    for end, other in ((1.0, 0.0), (11.0, 12.0)):
        beyond, at = np.full(80, np.nextafter(end, other)), np.full(80, end)
        assert (beyond != at).all()
        assert cost_bound(beyond, SPAN, 0.05) == cost_bound(at, SPAN, 0.05)
        assert cost_p(beyond, SPAN, 5.0, 0.05) == cost_p(at, SPAN, 5.0, 0.05)


def test_the_cost_of_what_costs_one_thing_is_known() -> None:
    assert cost_bound(np.full(60, 3.0), (3.0, 3.0), 0.001) == 3.0


# --- the walk


def test_it_stops_at_the_first_failure_though_later_points_would_pass() -> None:
    n = 500
    good, bad = bools(n, slice(3)), bools(n, slice(100))
    cost = [np.full(n, c) for c in (9.0, 5.0, 3.0, 2.0)]
    found = certify_points([good, good, bad, good], cost, bad, ERROR, 0.05, SPAN)
    assert (found.passed, len(found.p)) == (2, 3)
    assert found.p[2] > 0.045 > found.p[1]
    assert (found.cost, found.values, found.risk_bounds) == (5.0, (3 / n,), (0.05,))
    none = certify_points([bad, good], cost[:2], bad, ERROR, 0.05, SPAN)
    assert (none.passed, len(none.p)) == (0, 1)
    assert (none.risk_bounds, none.cost_bound) == ((), np.inf)


def test_levels_are_shared_out_as_documented() -> None:
    rng, n, delta = np.random.default_rng(1), 900, 0.05
    wrong = [rng.random(n) < 0.02 for _ in range(3)]
    base, cost = rng.random(n) < 0.05, [rng.choice([1.0, 11.0], n) for _ in range(3)]
    group = np.array(["a"] * 500 + ["b"] * 380 + ["c"] * 20, dtype=object)
    claims = [Claim("increase", 0.01)]
    plain = certify_points(wrong, cost, base, claims, delta, SPAN)
    both = certify_points(wrong, cost, base, claims, delta, SPAN, group)
    more = certify_points(wrong, cost, base, [*claims, Claim("error", 0.06)], delta, SPAN, group)
    assert plain.passed == both.passed == 3
    assert plain.cost_bound == both.cost_bound == cost_bound(cost[2], SPAN, COST_SHARE * delta / 3)
    assert plain.p[0] == pytest.approx(risk_p(wrong[0], base, 0.01, 0.9 * delta))
    assert both.p[0] == pytest.approx(risk_p(wrong[0], base, 0.01, 0.6 * delta))
    assert [sorted(groups) for groups in both.groups] == [["a", "b"]]  # the third has fewer than enough
    level = GROUP_SHARE * delta / (3 * 2)
    a, b = slice(500), slice(500, 880)
    assert both.groups[0]["a"] == pytest.approx(risk_bound(wrong[2][a], base[a], level), abs=2e-5)
    assert both.groups[0]["b"] == pytest.approx(risk_bound(wrong[2][b], base[b], level), abs=2e-5)
    assert more.passed == 3
    assert more.groups[0]["b"] == pytest.approx(risk_bound(wrong[2][b], base[b], level / 2), abs=2e-5)
    assert more.groups[1]["b"] == pytest.approx(risk_bound(wrong[2][b], None, level / 2), abs=2e-5)
    assert LEAST_GROUP > 20


def test_without_a_bound_the_smallest_of_one_point_is_proven() -> None:
    wrong, base, cost = bools(300, slice(10)), bools(300, slice(5, 15)), np.full(300, 2.0)
    least = [Claim("increase", None)]
    found = certify_points([wrong], [cost], base, least, 0.1, SPAN)
    assert found.passed == 1
    assert found.risk_bounds == (risk_bound(wrong, base, 0.09),)
    with pytest.raises(ValueError, match="one point"):
        certify_points([wrong, wrong], [cost, cost], base, least, 0.1, SPAN)


@pytest.mark.parametrize("risks", [(0.05, 0.05, 0.05), (0.02, 0.055, 0.02), (0.03, 0.04, 0.0501)])
def test_a_point_that_breaks_the_bound_is_certified_with_at_most_delta(risks: tuple[float, ...]) -> None:
    """Over draws from a known truth, the error itself and the cost: both hold together."""
    rng, n, runs, delta, bound = np.random.default_rng(2), 300, 1200, 0.2, 0.05
    dear = (0.5, 0.3, 0.02)
    broken = 0
    for _ in range(runs):
        common = rng.random(n)  # points err on the same examples, as cascades do
        wrong = [common < risk for risk in risks]
        cost = [np.where(rng.random(n) < share, 11.0, 1.0) for share in dear]
        found = certify_points(wrong, cost, wrong[0], [Claim("error", bound)], delta, SPAN)
        if found.passed:
            i = found.passed - 1
            broken += risks[i] >= bound or found.cost_bound < 1 + 10 * dear[i]
    assert broken / runs <= delta + 3 * np.sqrt(delta * (1 - delta) / runs)


def test_paired_increases_keep_the_promise_too() -> None:
    rng, n, runs, delta, bound = np.random.default_rng(4), 400, 400, 0.2, 0.01
    broken = 0
    for _ in range(runs):
        draw = rng.random(n)
        base = draw < 0.1  # the point mends 0.03 of these and spoils 0.04 of the others
        wrong = ((draw >= 0.03) & (draw < 0.1)) | ((draw >= 0.5) & (draw < 0.54))
        broken += certify_points([wrong], [np.full(n, 1.0)], base, [Claim("increase", bound)], delta, SPAN).passed > 0
    assert broken / runs <= delta + 3 * np.sqrt(delta * (1 - delta) / runs)
    assert broken > 0.05 * runs  # the test is no constant


def test_of_two_claims_both_have_to_be_shown_each_at_the_full_level() -> None:
    n = 1000
    base, cost = bools(n, slice(100)), [np.full(n, c) for c in (9.0, 5.0, 3.0)]
    wrong = [bools(n, slice(99)), bools(n, slice(104)), bools(n, slice(99), slice(300, 306), slice(400, 430))]
    increase, error = Claim("increase", 0.02), Claim("error", 0.125)
    alone = [certify_points(wrong, cost, base, [claim], 0.1, SPAN) for claim in (increase, error)]
    assert [found.passed for found in alone] == [2, 2]
    both = certify_points(wrong, cost, base, [increase, error], 0.1, SPAN)
    assert both.passed == 2
    assert both.p == tuple(map(max, alone[0].p, alone[1].p))
    assert (both.risk_bounds, both.values) == ((0.02, 0.125), (pytest.approx(0.004), 0.104))
    strict = certify_points(wrong, cost, base, [increase, Claim("error", 0.11)], 0.1, SPAN)
    assert strict.passed == 0
    assert strict.p[0] == certify_points(wrong, cost, base, [Claim("error", 0.11)], 0.1, SPAN).p[0]


def test_claims_are_all_tested_or_all_proven() -> None:
    wrong, cost = [bools(100)], [np.full(100, 2.0)]
    some, least = Claim("error", 0.1), Claim("increase", None)
    for claims, budget in (([some, least], None), ([], None), ([some], 3.0)):
        with pytest.raises(ValueError, match="claims that are all"):
            certify_points(wrong, cost, wrong[0], claims, 0.1, SPAN, budget=budget)


def test_two_claims_at_once_are_broken_with_at_most_delta() -> None:
    """The point breaks one of them by a hair, the other holds by far, or by a hair too."""
    n, runs, delta = 300, 600, 0.2
    for spoilt, mended in ((0.05, 0.02), (0.05, 0.04)):
        rng, broken = np.random.default_rng(6), 0
        for _ in range(runs):
            draw = rng.random(n)
            base = draw < 0.05
            wrong = ((draw >= mended) & (draw < 0.05)) | ((draw >= 0.5) & (draw < 0.5 + spoilt))
            claims = [Claim("increase", spoilt - mended), Claim("error", 0.05 - mended + spoilt + 0.02)]
            broken += certify_points([wrong], [np.ones(n)], base, claims, delta, SPAN).passed
        assert 0.02 < broken / runs <= delta + 3 * np.sqrt(delta * (1 - delta) / runs)


# --- along the cost


def test_a_budget_is_walked_from_below_until_a_cost_is_in_doubt() -> None:
    rng, n, delta = np.random.default_rng(3), 2000, 0.05
    cost = [rng.choice([1.0, 11.0], n, p=[1 - share, share]) for share in (0.2, 0.3, 0.39, 0.2)]
    wrong, base = [rng.random(n) < 0.1 for _ in cost], rng.random(n) < 0.1
    found = certify_points(wrong, cost, base, [Claim("increase", None)], delta, SPAN, budget=5.0)
    assert found.passed == 2
    assert found.p == tuple(cost_p(x, SPAN, 5.0, delta / 2) for x in cost[:3])
    assert found.p[1] < delta / 2 < found.p[2]
    assert (found.cost_bound, found.cost) == (5.0, cost[1].mean())
    assert found.risk_bounds == (risk_bound(wrong[1], base, delta / 2 / 4),)
    none = certify_points(wrong[2:], cost[2:], base, [Claim("increase", None)], delta, SPAN, budget=5.0)
    assert none.passed == 0


def test_a_budget_that_is_certified_is_broken_with_at_most_delta() -> None:
    """Costs just above the budget, and the bound on the risk of whatever passes, together."""
    rng, n, runs, delta, budget = np.random.default_rng(5), 250, 600, 0.2, 4.0
    shares, risks = (0.25, 0.3005, 0.31), (0.05, 0.06, 0.04)
    broken = chosen = 0
    for _ in range(runs):
        common = rng.random(n)
        cost = [np.where(common < share, 11.0, 1.0) for share in shares]
        errs = rng.random(n)
        wrong = [errs < risk for risk in risks]
        found = certify_points(wrong, cost, wrong[0], [Claim("error", None)], delta, SPAN, budget=budget)
        if found.passed:
            i = found.passed - 1
            chosen += i > 0
            broken += 1 + 10 * shares[i] > budget or found.risk_bounds[0] < risks[i]
    assert broken / runs <= delta + 3 * np.sqrt(delta * (1 - delta) / runs)
    assert chosen > 0.01 * runs  # the test is no constant


def test_what_costs_one_thing_keeps_to_a_budget_or_does_not() -> None:
    assert cost_p(np.full(60, 3.0), (3.0, 3.0), 3.0, 0.05) == 0.0
    assert cost_p(np.full(60, 3.0), (3.0, 3.0), 2.9, 0.05) == 1.0


# --- how many would be needed


@pytest.mark.parametrize(("worse", "better", "bound"), [(20, 22, 0.005), (10, 30, 0.0), (0, 0, 0.01), (22, 20, 0.01)])
def test_as_many_examples_as_are_needed_would_do(worse: int, better: int, bound: float) -> None:
    n = 1000
    wrong, base = bools(n, slice(worse)), bools(n, slice(100, 100 + better))
    needed = examples_needed(wrong, base, bound, 0.045)
    assert needed is not None

    def p(examples: float) -> float:
        counts = (round(count * examples / n) for count in (worse, better))
        return paired_p(*counts, round(examples), bound, 0.0009)

    assert p(needed) <= 0.045 < p(0.8 * needed)


def test_no_number_of_examples_helps_what_is_not_so() -> None:
    assert examples_needed(bools(100, slice(5)), None, 0.05, 0.05) is None
    assert examples_needed(bools(100, slice(5)), bools(100), 0.05, 0.05) is None
    needed = examples_needed(bools(100), None, 0.01, 0.05)
    assert needed == 300  # 0.99^299 = 0.0495
