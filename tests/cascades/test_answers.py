from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from offramp.cascades.learning.answers import ANSWERS, LOSSES
from offramp.features.evidence import Path, Reading, View
from offramp.features.outputs import NO_ANSWER

NONE = NO_ANSWER
TINY = 1e-6


def belief(p: list[list[float]], alternatives: list[list[int]] | None = None) -> View:
    """A view that holds nothing but a belief, given as probabilities; those of zero are ruled out."""
    with np.errstate(divide="ignore"):
        logp = np.maximum(np.log(np.array(p, dtype=np.float64)), -1e4)
    return View((), np.zeros((len(p), 0)), logp, None if alternatives is None else np.array(alternatives))


def reading(ranked: list[list[list[int]]]) -> Reading:
    """What k stages ranked, (n, k, r); the views are given beside."""

    def nobody_asks(_path: Path) -> View:
        raise AssertionError

    return Reading(np.array(ranked), nobody_asks)


def lost(name: str, answers: list[list[int]], labels: list[int], full: list[list[int]]) -> list[float]:
    return LOSSES[name].of(np.array(answers), np.array(labels), np.array(full)).tolist()


def test_there_are_the_losses_and_answers_that_the_command_promises() -> None:
    assert list(LOSSES) == ["top1", "top5", "excess"]
    assert [loss.ranks for loss in LOSSES.values()] == [1, 5, 1]
    assert list(ANSWERS) == ["last", "any", "fused"]


def test_top1_by_hand() -> None:
    answers = [[1], [2], [NONE], [0]]
    assert lost("top1", answers, [1, 1, 1, 0], [[9]] * 4) == [0, 1, 1, 0]


def test_top5_by_hand() -> None:
    answers = [[3, 1, 4, 0, 5], [3, 1, 4, 0, 5], [3, 1, 4, 0, 5], [7, NONE, NONE, NONE, NONE]]
    assert lost("top5", answers, [3, 5, 2, 0], answers) == [0, 0, 1, 1]


def test_excess_is_lost_only_where_the_full_network_is_right() -> None:
    # own answer right or wrong, full network's right or wrong
    assert lost("excess", [[1], [1], [2], [2]], [1] * 4, [[1], [3], [1], [3]]) == [0, 0, 1, 0]


def test_losses_are_float32_numbers_a_mean_of_many_of_which_is_no_surprise() -> None:
    for loss in LOSSES.values():
        answers = np.zeros((3, loss.ranks), np.int32)
        found = loss.of(answers, np.array([0, 1, 2]), answers)
        assert found.dtype == np.float32
        assert found.shape == (3,)


def test_expected_top1_is_what_is_believed_of_the_others() -> None:
    view = belief([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    found = LOSSES["top1"].expected(np.array([[0], [1]]), view, np.array([[2], [2]]))
    np.testing.assert_allclose(found, [0.5, 0.9], rtol=TINY)


def test_expected_top5_counts_every_rank() -> None:
    view = belief([[0.1, 0.2, 0.3, 0.15, 0.05, 0.12, 0.08]])
    found = LOSSES["top5"].expected(np.array([[2, 1, 3, NONE, NONE]]), view, np.zeros((1, 5), int))
    np.testing.assert_allclose(found, [1 - 0.65], rtol=TINY)


def test_a_class_ranked_twice_is_believed_in_once() -> None:
    view = belief([[0.2, 0.3, 0.5]])
    found = LOSSES["top5"].expected(np.array([[1, 1, 0, 1, NONE]]), view, np.zeros((1, 5), int))
    np.testing.assert_allclose(found, [0.5], rtol=TINY)


def test_expected_excess_is_the_belief_in_the_full_networks_answer() -> None:
    view = belief([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    # the first answers as the full network does: nothing to lose; the second loses where that one is right
    found = LOSSES["excess"].expected(np.array([[1], [0]]), view, np.array([[1], [1]]))
    np.testing.assert_allclose(found, [0, 0.3], rtol=TINY)


def test_beliefs_in_a_few_alternatives_leave_the_rest_to_nobody() -> None:
    # alternatives: classes 7 and 3, class 7 again (ruled out), and some class that nobody named
    view = belief([[0.6, 0.3, 0.0, 0.1]], [[7, 3, 7, NONE]])
    for answer, expected in ((7, 0.4), (3, 0.7), (5, 1.0), (NONE, 1.0)):
        found = LOSSES["top1"].expected(np.array([[answer]]), view, np.array([[7]]))
        np.testing.assert_allclose(found, [expected], rtol=TINY)


def sure_of(labels: np.ndarray, classes: int) -> View:
    return belief((labels[:, None] == np.arange(classes)).astype(float).tolist())


@given(st.integers(1, 20), st.integers(2, 8), st.data())
@settings(max_examples=80, deadline=None)
@pytest.mark.parametrize("name", LOSSES)
def test_who_knows_the_label_expects_the_loss(name: str, n: int, classes: int, data: st.DataObject) -> None:
    loss = LOSSES[name]
    answers, full = (
        data.draw(arrays(np.int32, (n, loss.ranks), elements=st.integers(NONE, classes - 1))) for _ in range(2)
    )
    labels = data.draw(arrays(np.int64, n, elements=st.integers(0, classes - 1)))
    np.testing.assert_allclose(
        loss.expected(answers, sure_of(labels, classes), full), loss.of(answers, labels, full), atol=TINY
    )


@given(st.integers(2, 6), st.data())
@settings(max_examples=80, deadline=None)
@pytest.mark.parametrize("name", LOSSES)
def test_expected_loss_is_the_mean_over_labels_drawn_from_the_belief(
    name: str, classes: int, data: st.DataObject
) -> None:
    loss = LOSSES[name]
    p = np.array(data.draw(st.lists(st.floats(0.01, 1), min_size=classes, max_size=classes)))
    p /= p.sum()
    answers, full = (
        data.draw(arrays(np.int32, (1, loss.ranks), elements=st.integers(NONE, classes - 1))) for _ in range(2)
    )
    each = np.array([loss.of(answers, np.array([label]), full)[0] for label in range(classes)])
    np.testing.assert_allclose(loss.expected(answers, belief([p.tolist()]), full), [p @ each], atol=TINY)


# --- which answer is given at the end of a path

RANKED = [[[0, 1], [1, 2], [2, 0]], [[1, 0], [1, 0], [0, 2]]]
"""Two examples, three stages, two ranks."""


def test_last_is_the_last_stage_of_the_path_in_its_own_order() -> None:
    view = belief([[1, 0, 0], [1, 0, 0]])
    assert ANSWERS["last"](reading(RANKED), view, (0, 1), 2).tolist() == [[1, 2], [1, 0]]
    assert ANSWERS["last"](reading(RANKED), view, (0, 2), 1).tolist() == [[2], [0]]
    assert ANSWERS["last"](reading(RANKED), view, (1,), 1).tolist() == [[1], [1]]


def test_any_is_the_likeliest_of_the_answers_paid_for() -> None:
    view = belief([[0.2, 0.5, 0.3], [0.4, 0.35, 0.25]])
    assert ANSWERS["any"](reading(RANKED), view, (0, 1, 2), 1).tolist() == [[1], [0]]
    # stage 1 was not paid for, though its answer is the likeliest for the first example
    assert ANSWERS["any"](reading(RANKED), view, (0, 2), 1).tolist() == [[2], [0]]
    assert ANSWERS["any"](reading(RANKED), view, (0,), 1).tolist() == [[0], [1]]


def test_any_compares_whole_rankings_where_several_answers_count() -> None:
    # {0, 1} 0.55, {1, 2} 0.6, {2, 0} 0.85 | {1, 0} 0.7 twice, {0, 2} 0.65: of equal ones the first
    view = belief([[0.4, 0.15, 0.45], [0.35, 0.35, 0.3]])
    assert ANSWERS["any"](reading(RANKED), view, (0, 1, 2), 2).tolist() == [[2, 0], [1, 0]]


def test_fused_is_the_beliefs_own_ranking_of_classes() -> None:
    view = belief([[0.2, 0.5, 0.3], [0.3, 0.3, 0.4]])
    assert ANSWERS["fused"](reading(RANKED), view, (0,), 1).tolist() == [[1], [2]]
    assert ANSWERS["fused"](reading(RANKED), view, (0,), 3).tolist() == [[1, 2, 0], [2, 0, 1]]
    assert ANSWERS["fused"](reading(RANKED), view, (0,), 5).tolist() == [[1, 2, 0, NONE, NONE], [2, 0, 1, NONE, NONE]]


def test_fused_never_answers_some_class_that_nobody_named() -> None:
    view = belief([[0.2, 0.1, 0.0, 0.7]], [[7, 3, 7, NONE]])
    assert ANSWERS["fused"](reading(RANKED), view, (0,), 1).tolist() == [[7]]
    assert ANSWERS["fused"](reading(RANKED), view, (0,), 4).tolist() == [[7, 3, NONE, NONE]]


@given(st.integers(1, 12), st.integers(2, 6), st.integers(1, 3), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_nobody_believes_more_in_another_answer_than_in_the_fused_one(n: int, classes: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), n)
    ranked = np.stack([np.stack([rng.permutation(classes) for _ in range(k)]) for _ in range(n)])
    view, path = belief(p.tolist()), tuple(range(k))
    likely = {
        mode: view.probability(answer(reading(ranked.tolist()), view, path, 1)) for mode, answer in ANSWERS.items()
    }
    assert (likely["fused"] >= likely["any"] - TINY).all()
    assert (likely["any"] >= likely["last"] - TINY).all()
    np.testing.assert_allclose(likely["fused"], p.max(axis=1))
