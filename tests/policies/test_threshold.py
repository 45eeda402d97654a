"""Exact thresholds, against every cut and every order of actions."""

from __future__ import annotations

from itertools import combinations_with_replacement, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import threshold
from policies.policy import Decision
from policies.threshold import Threshold, ThresholdRules, best_intervals


def brute_force(score: np.ndarray, costs: np.ndarray) -> float:
    """Least total cost over all orders of the actions and all cuts between distinct scores."""
    values = np.unique(score)
    best = np.inf
    for cuts in combinations_with_replacement([*values, np.inf], costs.shape[1] - 1):
        interval = np.searchsorted(np.array(cuts), score, side="right")
        for order in permutations(range(costs.shape[1])):
            best = min(best, costs[np.arange(len(score)), np.array(order)[interval]].sum())
    return float(best)


def taken(score: np.ndarray, cuts: np.ndarray, order: np.ndarray) -> np.ndarray:
    return order[np.searchsorted(cuts, score, side="right")]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(2, 4).flatmap(
        lambda a: st.lists(st.tuples(st.integers(0, 3), *[st.integers(0, 9) for _ in range(a)]), min_size=1, max_size=7)
    )
)
def test_no_cuts_and_no_order_are_better(rows: list[tuple[int, ...]]) -> None:
    table = np.array(rows, dtype=float)
    score, costs = table[:, 0], table[:, 1:]
    total, cuts, order = best_intervals(score, costs[..., None])
    assert total[0] == pytest.approx(brute_force(score, costs), abs=1e-9)
    mine = costs[np.arange(len(score)), taken(score, cuts[0], order[0])].sum()
    assert mine == pytest.approx(total[0], abs=1e-9)
    assert sorted(order[0]) == list(range(costs.shape[1]))
    assert np.all(cuts[0][:-1] <= cuts[0][1:])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 40))
def test_two_actions_in_short_are_three_with_one_too_dear(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    score, costs = rng.integers(0, 6, n).astype(float), rng.random((n, 2, 3))
    short, *_ = best_intervals(score, costs)
    # by the general way: a third action that nobody can afford gets the empty interval
    general, *_ = best_intervals(score, np.concatenate([costs, np.full((n, 1, 3), 1e6)], axis=1))
    assert np.allclose(short, general)


def test_smallest_and_largest_cut() -> None:
    score = np.array([0.2, 0.4, 0.9])
    always = np.array([[0.0, 1.0]] * 3)[..., None]
    total, cuts, order = best_intervals(score, always)
    assert total[0] == 0
    assert set(taken(score, cuts[0], order[0])) == {0}
    total, cuts, order = best_intervals(score, always[:, ::-1])
    assert total[0] == 0
    assert set(taken(score, cuts[0], order[0])) == {1}


def test_neighbouring_floats_are_parted() -> None:
    low = 1.0
    score = np.array([low, np.nextafter(low, 2)])
    total, cuts, order = best_intervals(score, np.array([[0.0, 1.0], [1.0, 0.0]])[..., None])
    assert total[0] == 0
    assert taken(score, cuts[0], order[0]).tolist() == [0, 1]


def test_a_score_at_the_cut_belongs_above_it() -> None:
    rules = ThresholdRules(np.array([0]), np.array([[0.5]]), np.array([[1, 0]]), ("belief.doubt",))
    assert rules.actions(np.array([[0.4], [0.5], [0.6]], np.float32))[:, 0].tolist() == [1, 0, 0]


def test_the_better_column_is_taken() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((200, 2)).astype(np.float32)
    costs = np.stack([np.full(200, 0.5), x[:, 1]], axis=1)[..., None]
    policy = Threshold(candidates=("one", "two"))
    rules = policy.fit(Decision(("one", "two"), x, costs.astype(np.float32), np.zeros((200, 1), np.float32)))
    assert rules.name == ("two",)
    assert abs(rules.cuts[0, 0] - 0.5) < 0.02
    assert str(rules).startswith("go 1 if two <")


def test_more_than_two_actions_are_fitted_on_the_first_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threshold, "ROWS", 50)
    rng = np.random.default_rng(0)
    x, costs = rng.random((90, 1)).astype(np.float32), rng.random((90, 3, 2)).astype(np.float32)
    whole = Threshold().fit(Decision(("belief.doubt",), x, costs, costs[:, 0]))
    first = Threshold().fit(Decision(("belief.doubt",), x[:50], costs[:50], costs[:50, 0]))
    assert np.array_equal(whole.cuts, first.cuts)
