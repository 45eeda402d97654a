from dataclasses import astuple, replace

import numpy as np
import pytest

from offramp.eval.report.intervals import BLOCKS, Bootstrap, estimate, interval, ratio, resampled

MANY = Bootstrap(draws=4000)


def compare(routing, other, how=MANY):
    """Speed-up and extra loss of one routing against another, by paired bootstrap."""
    means = resampled([routing, other], how)
    return (
        estimate(ratio(means[:, 1, 0], means[:, 0, 0]), how),
        estimate(means[:, 0, 1] - means[:, 1, 1], how),
    )


def brute_force(columns, draws, seed=7):
    """Means (draws, m) by drawing row numbers: the definition."""
    rng = np.random.default_rng(seed)
    n = len(columns[0])
    table = np.column_stack(columns).astype(float)
    return np.array([table[rng.integers(n, size=n)].mean(axis=0) for _ in range(draws)])


def some(routing, n=300, seed=0, part="test", scale=1.0):
    rng = np.random.default_rng(seed)
    path = rng.choice(3, n, p=[0.6, 0.1, 0.3])
    return routing(path, (rng.random(n) < 0.1 + 0.1 * (path == 0)) * scale, part)


def test_values_are_those_of_the_routing_and_lie_within(routing):
    one = some(routing)
    found = interval(one)
    assert found.cost.value == pytest.approx(one.mean_cost)
    assert found.error.value == pytest.approx(one.error)
    assert found.cost.low < found.cost.value < found.cost.high
    assert found.error.low < found.error.value < found.error.high


def test_two_examples_by_hand(routing):
    # Four samples, equally likely: costs 1, 1; 1, 10; 10, 1; 10, 10.
    means = resampled([routing([0, 1], [0, 1])], Bootstrap(draws=20_000))[1:, 0]
    costs, counts = np.unique(means[:, 0], return_counts=True)
    assert costs == pytest.approx([1, 5.5, 10])
    assert counts / 20_000 == pytest.approx([0.25, 0.5, 0.25], abs=0.015)
    # Here the dear one is the wrong one, in every draw.
    assert means[:, 1] == pytest.approx((means[:, 0] - 1) / 9)


@pytest.mark.parametrize("scale", [1.0, 0.5], ids=["cells", "rows"])
def test_distribution_is_that_of_drawing_examples(routing, scale):
    one, other = some(routing, scale=scale), some(routing, seed=1, scale=scale)
    means = resampled([one, other], MANY)[1:].reshape(-1, 4)
    expected = brute_force([one.cost, one.wrong, other.cost, other.wrong], 4000)
    assert means.mean(axis=0) == pytest.approx(expected.mean(axis=0), rel=0.02)
    assert np.cov(means.T) == pytest.approx(np.cov(expected.T), rel=0.1, abs=0.06 * np.cov(expected.T).max())
    quantiles = [0.025, 0.5, 0.975]
    assert np.quantile(means, quantiles, axis=0) == pytest.approx(np.quantile(expected, quantiles, axis=0), rel=0.06)


@pytest.mark.parametrize("scale", [1.0, 0.5], ids=["cells", "rows"])
@pytest.mark.parametrize("draws", [1, 50, 130])
def test_as_many_draws_as_wanted_behind_what_was_measured(routing, scale, draws):
    one = some(routing, scale=scale)
    means = resampled([one, one], Bootstrap(draws=draws))
    assert means.shape == (1 + draws, 2, 2)
    assert means[0] == pytest.approx(np.array([[one.mean_cost, one.error]] * 2))


def test_spread_is_the_standard_error(routing):
    one = some(routing, n=2000)
    spread = resampled([one], MANY)[1:, 0].std(axis=0)
    assert spread == pytest.approx(np.array([one.cost.std(), one.wrong.std()]) / np.sqrt(2000), rel=0.05)


def test_pairing_keeps_what_two_routings_share(routing):
    one, other = some(routing, n=1000), some(routing, n=1000)
    other.wrong[:5] = 1 - other.wrong[:5]
    _, extra = compare(one, other)
    difference = one.wrong - other.wrong
    assert extra.value == pytest.approx(difference.mean())
    assert (extra.high - extra.low) / 3.92 == pytest.approx(difference.std() / np.sqrt(1000), rel=0.1)
    assert extra.high - extra.low < (interval(one).error.high - interval(one).error.low) / 3


def test_a_routing_against_itself(routing):
    speedup, extra = compare(some(routing), some(routing))
    assert astuple(speedup) == (1, 1, 1)
    assert astuple(extra) == (0, 0, 0)


def test_speedup_says_how_many_times_less_the_first_costs(routing):
    speedup, extra = compare(routing([0, 0], [1, 0]), routing([1, 1], [0, 0]))
    assert astuple(speedup) == pytest.approx((10, 10, 10))
    assert extra.value == 0.5


def test_no_spread_in_the_sample_gives_none(routing):
    found = interval(routing([1, 1, 1], [0, 0, 0]))
    assert astuple(found.cost) == pytest.approx((10, 10, 10))
    assert astuple(found.error) == (0, 0, 0)


def test_order_of_examples_does_not_matter_with_cells(routing):
    one = some(routing)
    order = np.random.default_rng(3).permutation(len(one))
    assert interval(one) == interval(replace(one, path=one.path[order], wrong=one.wrong[order]))


def test_copying_the_data_four_times_halves_the_interval(routing):
    one = some(routing)
    four = routing(np.tile(one.path, 4), np.tile(one.wrong, 4))
    for before, after in zip(astuple(interval(one, MANY)), astuple(interval(four, MANY)), strict=True):
        assert before[0] == pytest.approx(after[0])
        assert before[2] - before[1] == pytest.approx(2 * (after[2] - after[1]), rel=0.1)


def test_types_of_losses_do_not_matter(routing):
    one = some(routing)
    assert interval(one) == interval(replace(one, wrong=one.wrong.astype(bool)))
    assert interval(one) == interval(replace(one, wrong=one.wrong.astype(np.float32)))


def test_blocks_have_the_spread_of_the_examples_even_if_these_are_sorted(routing):
    n = 4 * BLOCKS
    loss = np.sort(np.random.default_rng(0).random(n))
    path = np.sort(np.random.default_rng(1).integers(0, 3, n))
    one = routing(path, loss)
    means = resampled([one])
    assert means[0, 0] == pytest.approx([one.cost.mean(), loss.mean()])
    assert means[1:, 0].std(axis=0) == pytest.approx(np.array([one.cost.std(), loss.std()]) / np.sqrt(n), rel=0.1)
    assert np.corrcoef(means[1:, 0].T)[0, 1] == pytest.approx(np.corrcoef(one.cost, loss)[0, 1], abs=0.03)


def test_intervals_hold_the_truth_as_often_as_they_say(routing):
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(300):
        path = rng.choice(3, 400, p=[0.5, 0.2, 0.3])
        found = interval(routing(path, rng.random(400) < 0.2), Bootstrap(draws=300))
        held += (found.error.low <= 0.2 <= found.error.high) + (found.cost.low <= 5.8 <= found.cost.high)
    assert 0.92 <= held / 600 <= 0.98


def test_width_follows_the_level(routing):
    wide, narrow = (interval(some(routing), Bootstrap(level=level)).error for level in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_seed_decides_everything(routing):
    one = some(routing)
    assert interval(one) == interval(one)
    assert interval(one).cost.low != interval(one, Bootstrap(seed=1)).cost.low


def test_other_examples_cannot_be_paired(routing):
    with pytest.raises(ValueError, match="same part"):
        compare(some(routing), some(routing, part="fit"))
    with pytest.raises(ValueError, match="same examples"):
        compare(some(routing), some(routing, n=299))


def test_estimate_leaves_out_draws_that_are_not_finite_while_they_are_few():
    drawn = np.concatenate([[7.0], np.arange(1000.0)])
    whole = estimate(drawn)
    assert (whole.value, whole.low, whole.high) == pytest.approx((7, 24.975, 974.025))
    drawn[500] = np.inf
    assert estimate(drawn).high == pytest.approx(whole.high, abs=1.5)
    drawn[1:100] = np.nan
    found = estimate(drawn)
    assert found.value == 7
    assert np.isnan([found.low, found.high]).all()


def test_ratio_by_zero_is_infinite_without_a_warning():
    assert ratio(np.array([6.0, 1.0]), np.array([3.0, 0.0])).tolist() == [2, np.inf]
    assert np.isnan(ratio(0.0, 0.0))
