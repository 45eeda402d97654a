"""P-values and bounds: by hand, by enumerating every sample, against other implementations, and by simulation."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import gammaln, ndtr, xlogy
from scipy.stats import binom, binomtest

from offramp.eval.guarantees.bounds import (
    RESOLUTION,
    SLACK,
    _disagreement,
    _score,
    betting_bound,
    betting_p,
    binomial_bound,
    binomial_p,
    hoeffding_bentkus_bound,
    hoeffding_bentkus_p,
    paired_bound,
    paired_p,
    slack_for,
)

Array = NDArray[np.float64]
LEVELS = (0.01, 0.05, 0.2)


def excess(share: float, level: float, runs: int) -> float:
    """By how many standard errors a share of rejections lies above its level."""
    return (share - level) / float(np.sqrt(level * (1 - level) / runs))


# --- losses of 0 and 1


@pytest.mark.parametrize(("wrong", "n"), [(0, 1), (1, 1), (0, 50), (3, 50), (50, 50), (17, 1000), (999, 1000)])
@pytest.mark.parametrize("bound", [1e-6, 0.02, 0.5, 0.99])
def test_binomial_tail_is_scipys(wrong: int, n: int, bound: float) -> None:
    assert binomial_p(wrong, n, bound) == pytest.approx(binomtest(wrong, n, bound, "less").pvalue, rel=1e-9)


@pytest.mark.parametrize(("wrong", "n"), [(0, 1), (1, 1), (0, 50), (3, 50), (50, 50), (17, 1000)])
@pytest.mark.parametrize("delta", [0.3, 0.05, 1e-4])
def test_clopper_pearson_is_scipys(wrong: int, n: int, delta: float) -> None:
    there = binomtest(wrong, n, alternative="less").proportion_ci(1 - delta, "exact").high
    assert binomial_bound(wrong, n, delta) == pytest.approx(there, rel=1e-9)


def test_no_error_in_n_is_a_power_by_hand() -> None:
    assert binomial_p(0, 10, 0.1) == pytest.approx(0.9**10)
    assert binomial_bound(0, 10, 0.05) == pytest.approx(1 - 0.05 ** (1 / 10))


@pytest.mark.parametrize("bound", [-0.1, 0.0])
def test_no_mean_is_below_nothing(bound: float) -> None:
    assert binomial_p(0, 100, bound) == hoeffding_bentkus_p(0.0, 100, bound) == 1.0
    assert betting_p(np.zeros(100), bound) == 1.0


# --- losses between


def by_hand(mean: float, n: int, bound: float) -> float:
    """The p-value of Learn-then-Test, from its formula: an independent check."""
    if mean >= bound:
        return 1.0
    kl = (1 - mean) * np.log((1 - mean) / (1 - bound)) + (mean * np.log(mean / bound) if mean else 0.0)
    return float(min(np.exp(-n * kl), np.e * binom.cdf(np.ceil(n * mean), n, bound), 1.0))


GRID = [(mean, n, bound) for mean in (0.0, 0.02, 0.25) for n in (20, 400) for bound in (0.01, 0.05, 0.3, 0.9)]


@pytest.mark.parametrize(("mean", "n", "bound"), GRID)
def test_hoeffding_bentkus_is_its_formula(mean: float, n: int, bound: float) -> None:
    assert hoeffding_bentkus_p(mean, n, bound) == pytest.approx(by_hand(mean, n, bound), rel=1e-9)


def test_hoeffding_bentkus_is_mapies() -> None:
    values = pytest.importorskip("mapie.control_risk.p_values", reason="MAPIE is not installed")
    names = ("compute_hoeffding_bentkus_p_value", "compute_hoeffdding_bentkus_p_value")
    theirs = next(getattr(values, name) for name in names if hasattr(values, name))
    for mean, n, bound in GRID:
        found = float(np.squeeze(theirs(mean, n, bound)))
        assert hoeffding_bentkus_p(mean, n, bound) == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize("mean", [0.0, 0.1, 0.1000000001, 0.9, 1.0])
@pytest.mark.parametrize("delta", LEVELS)
def test_hoeffding_bentkus_bound_is_the_least_that_is_rejected(mean: float, delta: float) -> None:
    bound = hoeffding_bentkus_bound(mean, 200, delta)
    assert mean <= bound <= 1
    assert bound == 1 or hoeffding_bentkus_p(mean, 200, bound) <= delta
    assert hoeffding_bentkus_p(mean, 200, bound - 2 * RESOLUTION) > delta


def test_a_whole_number_of_losses_is_not_rounded_up() -> None:
    """The mean of 29 in 100, times 100, is 28.999999999999996, and that of 57 is 56.99999999999999."""
    for wrong in range(1, 60):
        n, mean = 100, wrong / 100
        assert hoeffding_bentkus_p(mean, n, 0.95) <= np.e * binom.cdf(wrong, n, 0.95) * (1 + 1e-9)


# --- betting


@pytest.mark.parametrize("level", LEVELS)
def test_betting_is_valid_on_every_sequence_of_coins(level: float) -> None:
    """All 2^10 of them, with their probabilities: no Monte Carlo."""
    sequences = np.array(list(itertools.product([0.0, 1.0], repeat=10)))
    ones = sequences.sum(axis=1)
    for mean in (0.02, 0.1, 0.5, 0.9, 0.99):
        chance = mean**ones * (1 - mean) ** (10 - ones)
        p = np.array([betting_p(x, mean, level) for x in sequences])
        for at in LEVELS:
            assert chance[p <= at].sum() <= at + 1e-12


def skewed(rng: np.random.Generator, n: int) -> Array:
    """Mostly cheap, now and then everything: what a cascade costs."""
    return np.where(rng.random(n) < 0.03, 1.0, 0.05)


DRAWS: dict[str, tuple[Callable[[np.random.Generator, int], Array], float]] = {
    "rare": (lambda rng, n: (rng.random(n) < 0.004).astype(float), 0.004),
    "common": (lambda rng, n: (rng.random(n) < 0.7).astype(float), 0.7),
    "even": (lambda rng, n: rng.random(n), 0.5),
    "skewed": (skewed, 0.03 + 0.97 * 0.05),
    "paired": (lambda rng, n: rng.choice([0.0, 0.5, 1.0], n, p=[0.03, 0.93, 0.04]), 0.505),
    "no spread": (lambda _, n: np.full(n, 0.3), 0.3),
}


@pytest.mark.parametrize("name", DRAWS)
def test_betting_is_valid_at_the_boundary(name: str) -> None:
    draw, mean = DRAWS[name]
    rng, runs, delta = np.random.default_rng(1), 1500, 0.1
    p = np.array([betting_p(draw(rng, 250), mean, delta) for _ in range(runs)])
    for level in (0.1, 0.02):
        assert excess(float((p <= level).mean()), level, runs) < 3


def test_betting_is_the_papers_product_of_bets_made_from_what_came_before() -> None:
    """Waudby-Smith & Ramdas (2024), (15): one number after another, with a gambler's purse."""
    x, delta = [0.2, 0.9, 0.4, 0.0, 0.5] * 12, 0.1
    for bound in (0.3, 0.45, 0.6):
        purse = most = 1.0
        variance = 1 / 4
        for t in range(len(x)):
            bet = min(np.sqrt(2 * np.log(1 / delta) / (len(x) * variance)), 0.75)
            purse *= 1 + bet * (bound - x[t])
            most = max(most, purse)
            means = [(1 / 2 + sum(x[: i + 1])) / (i + 2) for i in range(t + 1)]
            spread = sum((one - mean) ** 2 for one, mean in zip(x, means, strict=False))
            variance = (1 / 4 + spread) / (t + 2)
        assert betting_p(np.array(x), bound, delta) == pytest.approx(1 / most)
        assert bound == 0.3 or most > 1.05


def test_betting_has_power_and_is_no_constant() -> None:
    rng = np.random.default_rng(0)
    found = [betting_p(skewed(rng, 2000), 0.1, 0.05) for _ in range(50)]
    assert np.mean(np.array(found) <= 0.05) > 0.9  # the mean is 0.0785


@pytest.mark.parametrize("delta", [0.1, 0.001])
def test_betting_bound_is_the_least_that_is_rejected(delta: float) -> None:
    x = skewed(np.random.default_rng(5), 800)
    bound = betting_bound(x, delta)
    assert betting_p(x, bound, delta) <= delta < betting_p(x, bound - 2 * RESOLUTION, delta)
    falling = [betting_p(x, at, delta) for at in np.linspace(0, 1, 101)]
    assert all(one >= other for one, other in itertools.pairwise(falling))


def test_betting_bound_knows_the_spread_where_hoeffding_knows_the_range() -> None:
    x = 0.5 + 0.01 * np.random.default_rng(0).standard_normal(1000)
    assert betting_bound(x, 0.05) < 0.506 < 0.53 < hoeffding_bentkus_bound(float(x.mean()), 1000, 0.05)


# --- paired differences


def everything(n: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Counts of 1s and -1s of every sample of n, and the logarithm of how many sequences have them."""
    a, c = np.array([(a, c) for a in range(n + 1) for c in range(n + 1 - a)]).T
    return a, c, gammaln(n + 1) - gammaln(a + 1) - gammaln(c + 1) - gammaln(n - a - c + 1)


def chances(n: int, share: float, bound: float) -> Array:
    """Of every sample of n, where so large a share differs and the mean is ``bound``."""
    a, c, ways = everything(n)
    up, down = max((share + bound) / 2, 0.0), max((share - bound) / 2, 0.0)
    return np.exp(ways + xlogy(a, up) + xlogy(c, down) + xlogy(n - a - c, max(1 - share, 0.0)))


BOUNDS = (-0.5, -0.05, 0.0, 0.01, 0.1, 0.6, 0.95)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("n", [1, 3, 13])
def test_paired_test_never_rejects_too_often(n: int, bound: float) -> None:
    """Its exact size, over every sample and every share that differs: no Monte Carlo."""
    a, c, _ = everything(n)
    for level in (0.05, 0.2):
        p = [paired_p(up, down, n, bound, level / 50) for up, down in zip(a.tolist(), c.tolist(), strict=True)]
        rejected = np.array(p) <= level
        for truth in {bound, max(bound, -0.2), max(bound, 0.0), (bound + 1) / 2}:  # all that the hypothesis allows
            sizes = [chances(n, share, truth)[rejected].sum() for share in np.linspace(abs(truth), 1, 101)]
            assert max(sizes) <= level + 1e-12


@pytest.mark.parametrize("bound", [0.0, 0.01, 0.03])
def test_paired_test_never_rejects_too_often_where_hardly_any_differ(bound: float) -> None:
    n, most, level = 100, 14, 0.1
    a, c = np.array([(a, c) for a in range(most) for c in range(most)]).T
    rejected = np.array([paired_p(i, j, n, bound) <= level for i, j in zip(a.tolist(), c.tolist(), strict=True)])
    ways = gammaln(n + 1) - gammaln(a + 1) - gammaln(c + 1) - gammaln(n - a - c + 1)
    sizes = []
    for share in np.linspace(max(bound, 0.002), 0.06, 25):
        up, down = (share + bound) / 2, max((share - bound) / 2, 0.0)
        chance = np.exp(ways + xlogy(a, up) + xlogy(c, down) + xlogy(n - a - c, 1 - share))
        sizes.append(chance[rejected].sum() + 1 - chance.sum())  # what was left out counts as rejected
    assert 0.03 < max(sizes) <= level


@pytest.mark.parametrize("bound", [-0.2, 0.0, 0.03, 0.1, 0.3, 0.88])
def test_paired_p_value_is_its_definition(bound: float) -> None:
    """The largest chance of so small a score within the interval of the nuisance, found by brute force.

    0.88 lies above the interval where few differ; at 0.1, (1 - 0.1) / 2 over 1 - (1 + 0.1) / 2 is rounded above 1.
    """
    n, slack = 9, 1e-3
    a, c, _ = everything(n)
    score = _score(a, c, n, bound)
    for up, down in ((0, 0), (1, 2), (0, 4), (3, 0), (2, 7), (9, 0), (0, 9)):
        low, high = _disagreement(up + down, n, slack / 10)
        as_small = score <= float(_score(np.array(up), np.array(down), n, bound)) + 1e-9
        shares = np.linspace(max(low, abs(bound)), max(high, abs(bound)), 1500) if high >= bound else []
        most = max((chances(n, share, bound)[as_small].sum() for share in shares), default=0.0)
        assert min(most, 1.0) <= paired_p(up, down, n, bound, slack) <= min(most + slack, 1) + 1e-9


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_score_orders_samples_as_it_must(bound: float) -> None:
    """More that got worse score higher, more that got better lower (Barnard's condition), which the search rests on."""
    n = 40
    a, c = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    score = np.where(a + c <= n, _score(a, np.minimum(c, n - a), n, bound), np.nan)
    assert np.nanmax(np.diff(score, axis=1)) <= 1e-12
    assert np.nanmin(np.diff(score, axis=0)) >= -1e-12


@pytest.mark.parametrize("bound", [-0.3, -0.05, 0.0, 0.02, 0.2, 0.4])
def test_the_score_is_tangos_with_the_likeliest_trinomial_found_by_search(bound: float) -> None:
    n = 60
    for worse, better in ((0, 0), (0, 3), (2, 0), (5, 9), (20, 0), (30, 4), (1, 58)):

        def unlikely(rare: float, counts: tuple[int, int] = (worse, better)) -> float:
            up = rare + bound
            rest = n - sum(counts)
            return -float(xlogy(counts[0], up) + xlogy(counts[1], rare) + xlogy(rest, max(1 - up - rare, 0.0)))

        within = (max(-bound, 0.0), (1 - bound) / 2)
        rare = minimize_scalar(unlikely, bounds=within, method="bounded", options={"xatol": 1e-12}).x
        rare = min((*within, rare), key=unlikely)
        spread = np.sqrt(n * max(2 * rare + bound - bound**2, 0.0))
        wanted = (worse - better - n * bound) / spread if spread > 1e-6 else 0.0
        assert float(_score(np.array(worse), np.array(better), n, bound)) == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_the_score_for_no_difference_is_mcnemars() -> None:
    assert float(_score(np.array(10), np.array(30), 500, 0.0)) == pytest.approx(-20 / np.sqrt(40))


@pytest.mark.parametrize(("worse", "better", "bound"), [(140, 160, 0.0), (150, 160, 0.005), (190, 120, 0.02)])
def test_paired_test_is_as_tight_as_the_normal_one_and_far_tighter_than_hoeffding(
    worse: int, better: int, bound: float
) -> None:
    n = 5000
    p = paired_p(worse, better, n, bound, 1e-4)
    score = float(_score(np.array(worse), np.array(better), n, bound))
    assert p == pytest.approx(float(ndtr(score)), abs=0.004)
    assert hoeffding_bentkus_p((1 + (worse - better) / n) / 2, n, (1 + bound) / 2) > 5 * p


def test_paired_test_for_no_difference_beats_the_conditional_one() -> None:
    """McNemar's exact test is valid too, and as tight but for its steps."""
    for worse, better in ((5, 15), (40, 60), (3, 12)):
        conditional = binomtest(worse, worse + better, 0.5, "less").pvalue
        assert paired_p(worse, better, 1000, 0.0, 1e-4) < conditional


def test_more_that_got_worse_among_as_many_that_differ_is_less_evidence() -> None:
    p = [paired_p(worse, 40 - worse, 700, 0.01) for worse in range(41)]
    assert all(one <= other + 1e-12 for one, other in itertools.pairwise(p))
    assert p[0] < 0.01
    assert p[-1] > 0.99


@pytest.mark.parametrize("delta", [0.05, 0.2, 5e-6])
@pytest.mark.parametrize("n", [2, 11])
def test_paired_bound_never_lies_below_the_truth_too_often(n: int, delta: float) -> None:
    a, c, _ = everything(n)
    pairs = zip(a.tolist(), c.tolist(), strict=True)
    found = np.array([paired_bound(up, down, n, delta) for up, down in pairs])
    assert ((found >= (a - c) / n - 1e-9) & (found <= 1)).all()
    for truth in (-0.9, -0.3, -0.01, 0.0, 0.01, 0.2, 0.7):
        missed = found <= truth
        sizes = [chances(n, share, truth)[missed].sum() for share in np.linspace(abs(truth), 1, 41)]
        assert max(sizes) <= delta + 1e-12


def test_paired_bound_agrees_with_the_paired_test_but_for_some_percent() -> None:
    n, worse, better, delta = 4000, 120, 140, 0.05
    bound = paired_bound(worse, better, n, delta)
    assert paired_p(worse, better, n, bound, slack_for(delta)) <= delta
    margin = bound - (worse - better) / n
    assert paired_p(worse, better, n, bound - 0.2 * margin, slack_for(delta)) > delta


@pytest.mark.parametrize(("worse", "better"), [(0, 0), (2, 2), (1, 6), (5, 4), (9, 0)])
def test_paired_bound_is_its_definition(worse: int, better: int) -> None:
    """The least mean under which so small a sum is rare, whatever the nuisance within its interval, by brute force."""
    n, delta = 9, 0.2
    slack = slack_for(delta)
    a, c, _ = everything(n)
    low, high = _disagreement(worse + better, n, slack / 10)

    def chance(bound: float) -> float:
        shares = np.linspace(max(low, abs(bound)), max(high, abs(bound)), 301 if high >= bound else 0)
        return max((chances(n, share, bound)[a - c <= worse - better].sum() for share in shares), default=0.0)

    found = paired_bound(worse, better, n, delta)
    assert found == 1 or chance(found) <= delta
    assert found <= (worse - better) / n + 2 * RESOLUTION or chance(found - 2 * RESOLUTION) > delta - 1.1 * slack


def test_a_tiny_level_is_shared_by_two_bounds_that_are_powers_by_hand() -> None:
    n, delta = 30, 2e-6
    rare = 1 - (delta / 2) ** (1 / n)  # what no event in n allows, at half the level
    assert paired_bound(0, 0, n, delta) == pytest.approx(rare)
    assert paired_bound(0, n, n, delta) == pytest.approx(2 * rare - 1)
    assert paired_bound(n, 0, n, delta) == 1


def test_a_tiny_level_costs_no_time_and_is_wider() -> None:
    assert paired_bound(10, 12, 200, 2e-5) < paired_bound(10, 12, 200, 5e-6) < 0.2


def test_paired_test_simulated_at_the_boundary() -> None:
    rng, n, runs, level = np.random.default_rng(3), 1000, 1500, 0.1
    for up, down in ((0.012, 0.007), (0.0052, 0.0002), (0.105, 0.1)):
        bound = up - down
        counts = rng.multinomial(n, [up, down, 1 - up - down], runs)[:, :2]
        kinds, times = np.unique(counts, axis=0, return_counts=True)
        clear = _score(kinds[:, 0], kinds[:, 1], n, bound) > -1.0  # a p-value of 0.16 or so
        p = np.array(
            [1.0 if sure else paired_p(*kind, n, bound) for kind, sure in zip(kinds.tolist(), clear, strict=True)]
        )
        assert excess(float(times[p <= level].sum() / runs), level, runs) < 3


# --- bad input


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: binomial_p(-1, 10, 0.1),
        lambda: binomial_p(11, 10, 0.1),
        lambda: binomial_p(0, 0, 0.1),
        lambda: binomial_bound(1, 10, 0.0),
        lambda: binomial_bound(1, 10, 1.0),
        lambda: hoeffding_bentkus_p(1.1, 10, 0.1),
        lambda: hoeffding_bentkus_p(float("nan"), 10, 0.1),
        lambda: hoeffding_bentkus_bound(0.1, 10, float("nan")),
        lambda: betting_p(np.array([]), 0.5),
        lambda: betting_p(np.array([0.1, 1.1]), 0.5),
        lambda: betting_p(np.array([-0.1, 0.9]), 0.5),
        lambda: betting_p(np.array([0.1, float("nan")]), 0.5),
        lambda: betting_p(np.zeros((2, 2)), 0.5),
        lambda: betting_bound(np.array([0.5]), 0.0),
        lambda: paired_p(5, 6, 10, 0.0),
        lambda: paired_p(1, 1, 10, 0.0, 0.0),
        lambda: paired_bound(-1, 1, 10, 0.1),
        lambda: paired_bound(1, 1, 10, 2.0),
    ],
)
def test_what_is_no_sample_or_no_level_is_refused(wrong: Callable[[], float]) -> None:
    with pytest.raises(ValueError, match=r"not|numbers"):
        wrong()


def test_bounds_out_of_reach_are_settled() -> None:
    assert paired_p(0, 5, 5, -1.0) == 1.0
    assert paired_p(0, 0, 5, 1.0) == 0.0
    assert paired_p(5, 0, 5, 1.0) == 1.0
    assert paired_p(0, 1, 1000, 0.9) == SLACK  # a trinomial of mean 0.9 can't agree so often
    assert betting_p(np.ones(5), 1.1) == 0.0
    assert betting_p(np.ones(5), 1.0) == 1.0  # a mean of 1 can be


def test_being_as_good_is_no_evidence_for_being_far_better() -> None:
    """No trinomial of mean -0.5 disagrees as seldom as was seen, but those of larger means do."""
    assert paired_p(10, 12, 1000, -0.5) > 0.99
    assert paired_p(10, 700, 1000, -0.5) < 0.01
    assert paired_p(0, 0, 1000, -0.01) > 0.99
