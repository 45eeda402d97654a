"""The tests of drift are martingales, exactly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np
import pytest
from scipy import stats

from offramp.eval.monitoring.sequential import (
    LARGEST,
    SHIFTS,
    Bets,
    Restarts,
    Urns,
    cuts,
    kept,
    thresholds,
    waiting,
    weight,
)

NOTE = np.zeros(1, dtype=np.int64)


@pytest.mark.parametrize(("p", "n", "above"), [(0.3, 20, 6), (0.3, 20, 1), (0.02, 50, 10), (0.9, 7, 7), (0.0, 9, 4)])
def test_a_cut_leaves_a_random_share_above_that_is_beta_whatever_the_probabilities(
    p: float, n: int, above: int
) -> None:
    rng = np.random.default_rng(int(1000 * p) + above)
    shares = []
    for _ in range(2000):
        k = int(rng.binomial(n, p))
        (at,) = thresholds([n - k, k], np.array([above]), rng)
        shares.append(p * min(1.0, 2 - at) if at >= 1 else p + (1 - p) * (1 - at))
    assert stats.kstest(shares, stats.beta(above, n + 1 - above).cdf).pvalue > 0.001


def test_several_cuts_are_at_several_of_the_same_scores() -> None:
    """The share between two cuts is a spacing, so Beta too; and cuts come in the order of the shares."""
    rng = np.random.default_rng(3)
    between = []
    for _ in range(2000):
        at = thresholds([0, 12, 0], np.array([2, 9, 9, 5]), rng)
        assert at[1] == at[2] < at[3] < at[0]
        assert ((at > 1) & (at < 2)).all()
        between.append(at[0] - at[3])
    assert stats.kstest(between, stats.beta(3, 10).cdf).pvalue > 0.001


def test_cuts_cover_both_ends_and_never_leave_the_reference() -> None:
    found = cuts(np.array([1, 40, 10_000]))
    assert (found[0] == 1).all()
    assert (found >= 1).all()
    assert (found[1] <= 40).all()
    assert (np.diff(found, axis=1) >= 0).all()
    assert found[2, 0] == 2
    assert found[2, -1] == 10_000 + 1 - 2
    assert {5000, 5001} & set(found[2].tolist())  # a half


def test_thresholds_take_no_time_for_a_reference_of_any_size() -> None:
    """Hostile counts are numbers like any other."""
    n = 2**53
    assert thresholds([n // 2, n - n // 2], cuts(np.array([n]))[0], np.random.default_rng(0)).shape[0] > 20


def sequences(above: Sequence[int], n: int, steps: int) -> Iterable[tuple[float, list[int]]]:
    """Every sequence of cells between cuts, as counted above each cut, with the urn's probability: by hand."""
    gaps = np.diff([0, *above, n + 1])
    for cells in product(range(len(gaps)), repeat=steps):
        urn, chance = gaps.astype(float), 1.0
        for cell in cells:
            chance *= urn[cell] / urn.sum()
            urn[cell] += 1
        yield chance, list(cells)


@pytest.mark.parametrize("ways", ["both", "up", "down"])
@pytest.mark.parametrize(("above", "n"), [([3], 5), ([2, 5], 6)])
def test_the_mean_wealth_of_an_urn_is_one(ways: str, above: list[int], n: int) -> None:
    """With a start at every step, some of them given up: over all that may come, the e-value is one on average."""
    mean, low, high = 0.0, np.inf, 0.0
    expected = {"both": [*SHIFTS, *(-x for x in SHIFTS)], "up": [*SHIFTS], "down": [-x for x in SHIFTS]}
    assert Urns(np.array([above]), np.array([n]), ways).shifts.tolist() == expected[ways]
    for chance, cells in sequences(above, n, 6 if len(above) == 1 else 5):
        restarts = Restarts(Urns(np.array([above]), np.array([n]), ways))
        restarts.start(0, NOTE)
        for cell in cells:
            restarts.now[0, :-1] += np.arange(len(above)) >= cell
            restarts.now[0, -1] += 1
            worth = restarts.worth()
            e = float(np.exp(restarts.look(worth)[0]))
            restarts.close(worth, NOTE)
            assert np.exp(restarts.look(restarts.worth())[0]) == pytest.approx(e, rel=1e-12)
        mean += chance * e
        low, high = min(low, e), max(high, e)
    assert mean == pytest.approx(1, abs=1e-9)
    assert low < 0.95
    assert high > 1.2


def test_sequences_that_move_together_multiply() -> None:
    urns = Urns(np.array([[3], [3]]), np.array([5, 5]), together=True)
    then = np.zeros((2, 2), int)
    start = [one[None] for one in urns.prepare(then)]
    now = np.array([[4, 5], [1, 2]])
    logs = urns.logs(start, now)[0]
    assert logs.shape[0] == urns.sequences == 3
    np.testing.assert_allclose(logs[2], logs[0] + logs[1])
    alone = Urns(np.array([[3]]), np.array([5]))
    np.testing.assert_allclose(
        logs[1], alone.logs([one[None] for one in alone.prepare(then[:1])], now[1:])[0, 0], atol=1e-12
    )


def test_wealth_is_what_bets_one_after_the_other_earn() -> None:
    """Counts tell all: the urn doesn't care for the order, nor do fixed odds."""
    urns = Urns(np.array([[3]]), np.array([5]), "up")
    then = np.array([[2, 3]])  # above: 5 of 9
    start = [one[None] for one in urns.prepare(then)]
    by_hand = np.zeros(len(urns.shifts))
    up, seen = 5.0, 9.0
    odds = 5 / 4 * np.exp(urns.shifts)
    for above in (1, 0, 1, 1):
        bet = odds / (1 + odds)
        by_hand += np.log(np.where(above, bet, 1 - bet) / (up / seen if above else 1 - up / seen))
        up, seen = up + above, seen + 1
    np.testing.assert_allclose(urns.logs(start, np.array([[5, 7]]))[0, 0, 0], by_hand)


@pytest.mark.parametrize("bound", [0.04, 0.25, 0.5])
def test_the_mean_wealth_of_bets_is_one_at_the_bound_and_less_below(bound: float) -> None:
    outcomes = np.array([0.0, 0.5, 1.0])
    for slack in (0.0, 0.4 * bound):
        top = (bound - slack) / 1.5
        chances = np.array([1 - 2 * top, top, top])
        mean = 0.0
        for drawn in product(range(3), repeat=6):
            restarts = Restarts(Bets(outcomes, bound))
            restarts.start(0, NOTE)
            for one in drawn:
                restarts.now[0, one] += 1
                restarts.close(restarts.worth(), NOTE)
            e = float(np.exp(restarts.look(restarts.worth())[0]))
            assert e > 0
            mean += e * chances[list(drawn)].prod()
        assert mean == pytest.approx(1, abs=1e-9) if slack == 0 else mean < 0.95


def test_bets_win_where_the_mean_is_above_the_bound() -> None:
    bets = Bets(np.array([0.0, 1.0]), 0.2)
    start = [one[None] for one in bets.prepare(np.zeros((1, 2), int))]
    assert bets.wealth(start, np.array([[700, 300]]))[0, 0] > 1e6
    assert bets.wealth(start, np.array([[850, 150]]))[0, 0] < 1


def test_capital_is_shared_out_and_starts_stay_few() -> None:
    assert sum(weight(start) for start in range(500)) + waiting(499) == pytest.approx(1, abs=1e-12)
    there = [start for start in range(100_001) if kept(start, 100_000)]
    assert 40 < len(there) < 100
    assert there[0] == 0
    assert there[-1] == 100_000
    for start in there[1:]:  # what is kept now was kept all the time
        assert all(kept(start, block) for block in range(start, 100_000, 997))


def test_wealth_beyond_all_numbers_has_an_end() -> None:
    """Where a warning would be an error."""
    urns = Urns(np.array([[3], [3]]), np.array([5, 5]), together=True)
    now = np.full((2, 2), 10**6)
    found = urns.wealth([one[None] for one in urns.prepare(np.zeros((2, 2), int))], now)
    bets = Bets(np.array([0.0, 1.0]), 0.2)
    won = bets.wealth([one[None] for one in bets.prepare(np.zeros((1, 2), int))], np.array([[0, 10**6]]))
    assert np.isfinite(found).all()
    assert found.max() <= np.exp(LARGEST)
    assert won[0, 0] == pytest.approx(np.exp(LARGEST))


def test_places_for_starts_grow_as_they_are_needed() -> None:
    """Each start keeps what was prepared for it, also where others were given up."""
    restarts = Restarts(Urns(np.array([[3, 4]]), np.array([5])))
    restarts.start(0, NOTE)
    for block in range(1, 60):
        restarts.now[0] += (block % 2, 1, 3)
        restarts.close(restarts.worth(), np.array([block]))
    assert restarts.starts == [start for start in range(60) if kept(start, 59)]
    assert [int(note[0]) for note in restarts.notes] == restarts.starts
    for row, then in enumerate(restarts.then):
        assert then[0, 2] == 3 * restarts.starts[row]
        for one, again in zip(restarts.active(), restarts.test.prepare(then), strict=True):
            np.testing.assert_array_equal(one[row], again)
