"""Exact thresholds, against every cut and every order of actions."""

from __future__ import annotations

from itertools import combinations_with_replacement, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.policies import threshold
from offramp.policies.cuts import best_intervals
from offramp.policies.policy import Decision
from offramp.policies.threshold import Threshold, ThresholdRules


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


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 25), st.integers(2, 4))
def test_rules_of_all_prices_pay_what_was_promised_and_less_than_any_constant(seed: int, n: int, a: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 5, (n, 2)).astype(np.float32) / 3
    costs = rng.random((n, a, 3)).astype(np.float32)
    seen = Decision(("one", "two"), x, costs, np.zeros((n, 1), np.float32))
    rules = Threshold(candidates=("one", "two")).fit(seen)
    spent = np.take_along_axis(costs, rules.actions(x)[:, None].astype(int), axis=1)[:, 0].sum(axis=0, dtype=float)
    for i in range(3):
        either = [brute_force(x[:, c].astype(float), costs[:, :, i].astype(float)) for c in (0, 1)]
        assert spent[i] == pytest.approx(min(either), abs=1e-6)
    assert (spent <= costs.sum(axis=0, dtype=float).min(axis=0) + 1e-9).all()


@pytest.mark.parametrize("a", [2, 3])
def test_equal_scores_are_never_parted(a: int) -> None:
    # the labels say otherwise: half of the fives cost nothing by one action, half by another
    score = np.array([5.0, 5.0, 5.0, 5.0])
    costs = np.zeros((4, a, 1))
    costs[[0, 1], 0] = costs[[2, 3], 1] = 1
    costs[:, 2:] = 3
    total, cuts, order = best_intervals(score, costs)
    assert total.tolist() == [2]
    assert len(set(taken(score, cuts[0], order[0]))) == 1


def test_a_cut_lies_in_the_middle_between_two_scores() -> None:
    score = np.array([0.0, 1.0, 3.0, 7.0])
    costs = np.array([[0, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0]], float)[..., None]
    total, cuts, order = best_intervals(score, costs)
    assert total.tolist() == [0]
    assert cuts.tolist() == [[2, 5]]
    assert order.tolist() == [[0, 1, 2]]
    two_total, two_cuts, two_order = best_intervals(score, costs[:, :2])
    assert two_total.tolist() == [1]
    assert two_cuts.tolist() == [[2]]
    assert two_order.tolist() == [[0, 1]]


def test_actions_not_wanted_by_anyone_get_an_empty_interval() -> None:
    score = np.arange(6.0)
    costs = np.stack([score > 2, np.full(6, 9), score <= 2, np.full(6, 9)], axis=1).astype(float)[..., None]
    total, cuts, order = best_intervals(score, costs)
    assert total.tolist() == [0]
    # also of scores never seen
    assert set(taken(np.linspace(-100, 100, 2001), cuts[0], order[0])) == {0, 2}


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


def test_intervals_begin_at_their_cut_and_an_empty_one_is_skipped() -> None:
    x = np.array([[0.1], [0.25], [0.3], [0.5], [9.0]], np.float32)
    three = ThresholdRules(
        np.array([0, 0, 0]),
        np.array([[0.25, 0.5], [0.5, 0.5], [-np.inf, np.inf]]),
        np.array([[2, 0, 1], [2, 0, 1], [2, 0, 1]]),
        ("x",) * 3,
    )
    assert three.actions(x).T.tolist() == [[2, 0, 0, 1, 1], [2, 2, 2, 1, 1], [0, 0, 0, 0, 0]]
    assert three.take(np.array([1])).actions(x).T.tolist() == [[2, 2, 2, 1, 1]]


def test_each_price_looks_at_its_own_column() -> None:
    rules = ThresholdRules(np.array([1, 0]), np.array([[0.5], [0.7]]), np.array([[1, 0], [0, 1]]), ("two", "one"))
    assert rules.actions(np.array([[0.6, 1.0], [0.8, 0.4]], np.float32)).tolist() == [[0, 0], [1, 1]]
    assert rules.take(np.array([1])).actions(np.array([[0.6, 1.0], [0.8, 0.4]], np.float32)).tolist() == [[0], [1]]
    assert str(rules.take(np.array([1]))) == "stop if one < 0.7, go 1 from 0.7"
    assert rules.take(np.array([1, 0])).name == ("one", "two")


def test_rules_read_as_intervals() -> None:
    rules = ThresholdRules(np.array([0]), np.array([[0.25, 0.5]]), np.array([[2, 0, 1]]), ("belief.doubt",))
    assert str(rules) == "go 2 if belief.doubt < 0.25, stop from 0.25, go 1 from 0.5"


def test_scores_of_float32_are_on_the_side_they_were_fitted_on() -> None:
    # two neighbours in float32: the cut between them is neither, and one of another type than they are
    x = np.array([[1.0], [np.nextafter(np.float32(1), np.float32(2))]], np.float32)
    costs = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)[..., None]
    rules = Threshold().fit(Decision(("belief.doubt",), x, costs, costs[:, 0]))
    assert rules.actions(x)[:, 0].tolist() == [0, 1]


def test_without_a_candidate_the_first_column_is_tried_and_without_any_it_is_an_error() -> None:
    x = np.array([[0.0, 5.0], [1.0, 6.0]], np.float32)
    costs = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)[..., None]
    rules = Threshold().fit(Decision(("p", "q"), x, costs, costs[:, 0]))
    assert rules.name == ("p",)
    assert rules.actions(x)[:, 0].tolist() == [0, 1]
    with pytest.raises(ValueError, match="at least one column"):
        Threshold().fit(Decision((), x[:, :0], costs, costs[:, 0]))


def test_of_two_columns_as_good_the_first_is_taken_and_each_price_has_its_own() -> None:
    x = np.array([[0, 1, 0], [1, 1, 1], [1, 0, 1]], np.float32)
    one = np.stack([x[:, 0], 1 - x[:, 0]], axis=1)
    two = np.stack([x[:, 1], 1 - x[:, 1]], axis=1)
    costs = np.stack([one, two], axis=2)
    rules = Threshold(candidates=("p", "q", "r")).fit(Decision(("p", "q", "r"), x, costs, costs[:, 0]))
    assert rules.name == ("p", "q")
    assert rules.column.tolist() == [0, 1]
    assert rules.cuts.tolist() == [[0.5], [0.5]]
    np.testing.assert_array_equal(rules.actions(x), x[:, :2])


def test_the_order_of_the_examples_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    score, costs = rng.integers(0, 9, 60) / 8, rng.integers(0, 9, (60, 3, 2)) / 8
    shuffled = rng.permutation(60)
    for one, other in zip(best_intervals(score, costs), best_intervals(score[shuffled], costs[shuffled]), strict=True):
        np.testing.assert_array_equal(one, other)


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
    # two actions are cheap: all examples count
    two = Decision(("belief.doubt",), x, costs[:, :2], costs[:, 0])
    promised, *_ = threshold.best_intervals(x[:, 0], costs[:, :2])
    spent = np.take_along_axis(costs, Threshold().fit(two).actions(x)[:, None].astype(int), axis=1)[:, 0]
    assert np.allclose(spent.sum(axis=0), promised)
    assert (Threshold().fit(two).cuts != Threshold().fit(two.take(slice(0, 50))).cuts).any()
