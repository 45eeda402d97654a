from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit

from offramp.features.belief.calibration import (
    LEAST,
    MANY_CLASSES,
    SHRINK,
    TEMPERATURE_ROWS,
    AnswerCalibration,
    fit_answers,
    fit_temperature,
)
from offramp.features.outputs import NO_ANSWER, Floats, Ints, Stage

# --- temperatures


def drawn(n: int, c: int, seed: int, spread: float = 2.0) -> tuple[Floats, Ints]:
    """Logits, and labels drawn from their softmax."""
    rng = np.random.default_rng(seed)
    z = spread * rng.normal(size=(n, c))
    return z, (z + rng.gumbel(size=(n, c))).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.2, 0.5, 1.0, 2.5, 8.0])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_known_temperature_is_recovered(temperature: float, dtype: str) -> None:
    z, labels = drawn(TEMPERATURE_ROWS, 10, seed=0)
    assert fit_temperature((z * temperature).astype(dtype), labels) == pytest.approx(temperature, rel=0.05)


def test_no_temperature_has_less_log_loss() -> None:
    z, labels = drawn(300, 4, seed=1)
    z *= 3

    def loss(t: float) -> float:
        return float(-log_softmax(z / t, axis=1)[np.arange(300), labels].mean())

    best = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-8})
    assert fit_temperature(z, labels) == pytest.approx(best.x, rel=1e-3)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_the_temperature_is_in_the_unit_of_the_logits(factor: float) -> None:
    z, labels = drawn(500, 5, seed=2)
    assert fit_temperature(z * factor, labels) == pytest.approx(factor * fit_temperature(z, labels), rel=1e-3)
    assert fit_temperature(z + 100, labels) == pytest.approx(fit_temperature(z, labels), rel=1e-6)


@pytest.mark.parametrize("right", [True, False])
def test_stages_always_or_never_right_get_a_finite_temperature(right: bool) -> None:
    z, _ = drawn(200, 3, seed=3)
    temperature = fit_temperature(z, z.argmax(axis=1) if right else z.argmin(axis=1))
    assert 0 < temperature < np.inf
    assert (temperature < 0.1) if right else (temperature > 10)


def test_equal_logits_and_one_class_have_a_temperature_that_changes_nothing() -> None:
    for z in (np.zeros((20, 3)), np.zeros((20, 1))):
        assert np.isfinite(fit_temperature(z, np.zeros(20, int)))


# --- answers


def answering(n: int = 2000, c: int = 6, seed: int = 0, ranks: int = 1, confidence: bool = False) -> tuple[Stage, Ints]:
    """A stage whose classes differ in how often they are right, and its confidence in how sure it should be."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, c, n)
    z = rng.normal(size=(n, c)) + 1.5 * (labels[:, None] == np.arange(c))
    z[:, 0] += 1  # claimed too often
    answers = np.argsort(-z, axis=1)[:, :ranks]
    measured = {"confidence": np.exp(log_softmax(z, axis=1).max(axis=1))} if confidence else {}
    return Stage("a", answers=answers, measured=measured), labels


def asked(answers: list[int], **measured: float) -> Stage:
    columns = {name: np.full(len(answers), value) for name, value in measured.items()}
    return Stage("a", answers=np.array(answers)[:, None], measured=columns)


def right_of(calibration: AnswerCalibration, answers: list[int], **measured: float) -> Floats:
    """Probability that each of some first answers is right."""
    return np.asarray(expit(calibration.right(asked(answers, **measured))))


def test_reliability_by_hand() -> None:
    # class 0 is right 6 times of 8, class 1 once of 2; class 2 is never answered
    answers, labels = [0] * 8 + [1] * 2, np.array([0] * 6 + [1, 2, 1, 2])
    base = 8 / 12  # 7 of 10, and one more of each
    found = fit_answers(asked(answers), labels, 3)
    wanted = [(6 + SHRINK * base) / (8 + SHRINK), (1 + SHRINK * base) / (2 + SHRINK), base]
    np.testing.assert_allclose(expit(found.reliability), wanted)


def test_confusions_and_ranks_by_hand() -> None:
    answers = np.array([[0, 1], [0, 1], [0, 2], [0, 2], [1, 0], [1, 2]])
    labels = np.array([0, 1, 1, 2, 1, 0])
    found = fit_answers(Stage("a", answers=answers), labels, 3)
    # four first answers are wrong, of which the second is right in rows 1 and 3
    np.testing.assert_allclose(found.ranks, [0, 2 / 4])
    prior = np.array([3, 4, 2]) / 9  # labels 2, 3, 1 times, and one more of each
    zero = np.array([0, 2 + SHRINK * prior[1], 1 + SHRINK * prior[2]])
    one = np.array([1 + SHRINK * prior[0], 0, SHRINK * prior[2]])
    two = np.array([prior[0], prior[1], 0])
    np.testing.assert_allclose(found.confusion, [row / row.sum() for row in (zero, one, two)])


@pytest.mark.parametrize("c", [2, 5, MANY_CLASSES, MANY_CLASSES + 1, 300])
@pytest.mark.parametrize("ranks", [1, 2])
def test_what_is_believed_comes_true_as_often(c: int, ranks: int) -> None:
    stage, labels = answering(8000, c, ranks=ranks, confidence=True)
    found = fit_answers(stage.take(slice(0, 4000)), labels[:4000], c)
    others, truth = stage.take(slice(4000, None)), labels[4000:]
    assert others.answers is not None
    p = expit(found.right(others))
    right = others.answers[:, 0] == truth
    for part in np.array_split(np.argsort(p), 4):
        assert right[part].mean() == pytest.approx(p[part].mean(), abs=0.05)
    # and it tells more than the mean alone
    knowing = -np.log(np.where(right, p, 1 - p)).mean()
    share = right.mean()
    assert knowing < -(share * np.log(share) + (1 - share) * np.log(1 - share)) - 0.01


def test_a_class_never_answered_is_believed_as_the_mean() -> None:
    for c in (20, 200):
        stage, labels = answering(3000, c, seed=1)
        assert stage.answers is not None
        others = replace(stage, answers=np.where(stage.answers == c - 1, 0, stage.answers))
        assert others.answers is not None
        share = (others.answers[:, 0] == labels).mean()
        found = fit_answers(others, labels, c)
        assert expit(found.reliability[c - 1]) == pytest.approx(share, abs=0.01)
        assert right_of(found, [c - 1])[0] == pytest.approx(share, abs=0.12)


@pytest.mark.parametrize("c", [10, MANY_CLASSES, 200])
@pytest.mark.parametrize("confidence", [False, True])
@pytest.mark.parametrize("right", [True, False])
def test_a_class_seen_once_looks_neither_perfect_nor_hopeless(c: int, confidence: bool, right: bool) -> None:
    # its one example must not tell: not itself, not by an indicator, and not by what is missing where it is left out
    rng = np.random.default_rng(0)
    labels = rng.integers(0, c - 1, 3000)
    answers = np.where(rng.random(3000) < 0.7, labels, (labels + 1) % (c - 1))
    answers[7], labels[7] = c - 1, (c - 1 if right else 0)
    sure = np.where(answers == labels, 0.8, 0.6) * rng.random(3000) ** 0.2
    stage = Stage("a", answers=answers[:, None], measured={"confidence": sure} if confidence else {})
    found = fit_answers(stage, labels, c)
    at = {"confidence": 0.65} if confidence else {}
    once, often = right_of(found, [c - 1], **at)[0], right_of(found, list(range(c - 1)), **at).mean()
    assert 0.2 * often < once < 1 - 0.4 * (1 - often)


def test_with_few_classes_the_one_seen_once_leans_the_way_it_was_seen() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, 3000)
    answers = np.where(rng.random(3000) < 0.7, labels, (labels + 1) % 9)
    believed = []
    for label in (9, 0):
        answers[7], labels[7] = 9, label
        believed.append(right_of(fit_answers(asked(answers.tolist()), labels, 10), [9])[0])
    assert 0.3 < believed[1] < 0.7 < believed[0] < 0.9


def test_equally_reliable_classes_are_believed_equally() -> None:
    # what is left out of an example's own class must not turn into a sign of its label
    slopes = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 200, 3000)
        answers = np.where(rng.random(3000) < 0.7, labels, (labels + 1) % 200)
        found = fit_answers(asked(answers.tolist()), labels, 200)
        slopes.append(np.polyfit(found.reliability, found.right(asked(list(range(200)))), 1)[0])
    assert abs(np.mean(slopes)) < 0.25


@pytest.mark.parametrize("c", [40, 400])
def test_classes_that_differ_in_reliability_are_told_apart(c: int) -> None:
    rng = np.random.default_rng(0)
    share = rng.uniform(0.2, 0.98, c)
    answers = rng.integers(0, c, 40 * c)
    labels = np.where(rng.random(40 * c) < share[answers], answers, (answers + 1) % c)
    found = right_of(fit_answers(asked(answers.tolist()), labels, c), list(range(c)))
    assert np.corrcoef(found, share)[0, 1] > 0.9
    assert abs(found - share).mean() < 0.08


@pytest.mark.parametrize("confidence", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 5])
@pytest.mark.parametrize("c", [2, 6, MANY_CLASSES])
def test_probabilities_sum_to_one(c: int, ranks: int, confidence: bool) -> None:
    stage, labels = answering(300, c, ranks=min(ranks, c), confidence=confidence)
    assert stage.answers is not None
    answers = stage.answers.copy()
    answers[::3, 1:] = NO_ANSWER
    gappy = replace(stage, answers=answers)
    logp = fit_answers(gappy, labels, c).logp(gappy)
    assert logp.shape == (300, c)
    np.testing.assert_allclose(np.exp(logp.astype(float)).sum(axis=1), 1, rtol=1e-5)
    assert (logp >= np.log(LEAST / 2)).all()


def test_probabilities_by_hand() -> None:
    stage, labels = answering(500, 4, ranks=2)
    assert stage.answers is not None
    found = fit_answers(stage, labels, 4)
    wrong = expit(-found.right(stage))
    p = np.exp(found.logp(stage).astype(float))
    for i in range(20):
        first, second = stage.answers[i]
        wanted = wrong[i] * (1 - found.ranks[1]) * found.confusion[first]
        wanted[second] += wrong[i] * found.ranks[1]
        wanted[first] += 1 - wrong[i]
        np.testing.assert_allclose(p[i], wanted / wanted.sum(), rtol=1e-4)


@pytest.mark.parametrize("c", [8, 500])
@pytest.mark.parametrize("ranks", [1, 3])
def test_asking_for_some_classes_only_is_consistent(c: int, ranks: int) -> None:
    stage, labels = answering(300, c, ranks=ranks, confidence=True)
    assert stage.answers is not None
    found = fit_answers(stage, labels, c)
    own, rest = found.logp_of(stage, stage.answers)
    right = expit(found.right(stage))
    np.testing.assert_allclose(np.exp(own[:, 0]), right, rtol=1e-4)
    for rank in range(1, ranks):
        np.testing.assert_allclose(np.exp(own[:, rank]), np.maximum((1 - right) * found.ranks[rank], LEAST), rtol=1e-4)
    np.testing.assert_allclose(np.exp(own).sum(axis=1) + np.exp(rest), 1, atol=1e-4)
    # all classes asked for at once: each once, the others share what is left evenly
    every, again = found.logp_of(stage, np.tile(np.arange(c), (300, 1)))
    np.testing.assert_array_equal(again, rest)
    np.testing.assert_array_equal(np.take_along_axis(every, stage.answers, axis=1), own)
    np.testing.assert_allclose(np.exp(every.astype(float)).sum(axis=1), 1, atol=1e-3)
    others = np.ones((300, c), bool)
    np.put_along_axis(others, stage.answers, False, axis=1)
    np.testing.assert_allclose(
        np.exp(every)[others], np.repeat(np.exp(rest) / (c - ranks), c - ranks), rtol=1e-3, atol=LEAST
    )


def test_no_answer_is_never_the_answer_asked_for() -> None:
    stage, labels = answering(300, 100, ranks=2)
    assert stage.answers is not None
    found = fit_answers(stage, labels, 100)
    gappy = replace(stage, answers=np.column_stack([stage.answers[:, 0], np.full(300, NO_ANSWER)]))
    nothing, rest = found.logp_of(gappy, np.full((300, 1), NO_ANSWER))
    np.testing.assert_allclose(nothing[:, 0], rest - np.log(98), rtol=1e-5)


def test_an_answer_that_stands_twice_counts_once() -> None:
    stage, labels = answering(400, 5, ranks=2)
    assert stage.answers is not None
    first, second = stage.answers.T
    found = fit_answers(replace(stage, answers=np.column_stack([first, first, second, second])), labels, 5)
    share = np.mean(second[first != labels] == labels[first != labels])
    np.testing.assert_allclose(found.ranks, [0, 0, share, 0])
    twice = replace(stage, answers=np.column_stack([first, first, second, second]))
    np.testing.assert_allclose(np.exp(found.logp(twice)).sum(axis=1), 1, rtol=1e-5)
    asked_for, rest = found.logp_of(twice, stage.answers)
    np.testing.assert_allclose(
        np.exp(asked_for[:, 0]) + np.exp(rest) + found.ranks.sum() * (1 - np.exp(asked_for[:, 0])), 1, atol=1e-4
    )


# --- measured numbers


def test_more_confidence_is_more_belief_and_unbounded_numbers_are_welcome() -> None:
    stage, labels = answering(4000, 6, confidence=True)
    for measured in (stage.measured["confidence"], logit(stage.measured["confidence"]) * 5 - 40):
        named = replace(stage, measured={"score": measured})
        found = fit_answers(named, labels, 6)
        low, high = np.quantile(measured, [0.1, 0.9])
        for answer in range(6):
            assert right_of(found, [answer], score=low)[0] < right_of(found, [answer], score=high)[0]
        # beyond anything that was seen, it stays finite and sane
        extreme = [right_of(found, [1], score=float(v))[0] for v in (measured.min() - 1e4, measured.max() + 1e4)]
        assert 0 < extreme[0] < 0.5 < extreme[1] < 1


def test_confidences_of_zero_and_one_are_no_trouble() -> None:
    stage, labels = answering(500, 4, confidence=True)
    sure = (stage.measured["confidence"] > 0.5).astype(float)
    found = fit_answers(replace(stage, measured={"confidence": sure}), labels, 4)
    assert found.bounded == (True,)
    no, yes = (right_of(found, [1], confidence=v)[0] for v in (0.0, 1.0))
    assert 0 < no < yes < 1


def test_columns_that_say_nothing_change_little() -> None:
    stage, labels = answering(3000, 5, confidence=True)
    plain = fit_answers(stage, labels, 5).right(stage)
    more = replace(stage, measured={**stage.measured, "constant": np.full(3000, 7.0)})
    np.testing.assert_allclose(fit_answers(more, labels, 5).right(more), plain, atol=1e-6)


# --- unusual but valid


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("c", [1, 2, 5, 100])
def test_a_stage_always_or_never_right(right: bool, c: int) -> None:
    if c == 1 and not right:
        return
    labels = np.arange(60) % c
    stage = asked(((labels if right else labels + 1) % c).tolist())
    found = fit_answers(stage, labels, c)
    believed = expit(found.right(stage))
    assert (believed > 0.8).all() if right else (believed < 0.2).all()
    assert np.isfinite(np.stack(found.logp_of(stage, labels[:, None])[:1])).all()
    if c <= MANY_CLASSES:
        np.testing.assert_allclose(np.exp(found.logp(stage)).sum(axis=1), 1, rtol=1e-5)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_few_examples_of_anything_give_finite_beliefs(data: st.DataObject) -> None:
    n, c, ranks = data.draw(st.integers(1, 12)), data.draw(st.sampled_from([1, 2, 3, 70])), data.draw(st.integers(1, 3))
    classes = st.integers(0, c - 1)
    rows = st.tuples(classes, *[st.integers(-1, c - 1)] * (ranks - 1))
    answers = np.array(data.draw(st.lists(rows, min_size=n, max_size=n)))
    labels = np.array(data.draw(st.lists(classes, min_size=n, max_size=n)))
    sure = np.array(data.draw(st.lists(st.floats(-3, 3), min_size=n, max_size=n)))
    stage = Stage("a", answers=answers, measured={"sure": sure})
    found = fit_answers(stage, labels, c)
    assert found.ranks.sum() <= 1 + 1e-9
    named, rest = found.logp_of(stage, answers)
    for part in (found.right(stage), named, rest):
        assert np.isfinite(part).all()
    assert (named <= 1e-6).all()
    if c <= MANY_CLASSES:
        np.testing.assert_allclose(np.exp(found.logp(stage).astype(float)).sum(axis=1), 1, rtol=1e-5)


def test_fitting_and_asking_change_nothing_that_was_given() -> None:
    stage, labels = answering(200, 4, ranks=2, confidence=True)
    assert stage.answers is not None
    before = stage.answers.copy(), labels.copy(), stage.measured["confidence"].copy()
    for array in (stage.answers, labels, stage.measured["confidence"]):
        array.flags.writeable = False
    found = fit_answers(stage, labels, 4)
    found.logp(stage)
    found.logp_of(stage, stage.answers)
    for array, copy in zip((stage.answers, labels, stage.measured["confidence"]), before, strict=True):
        np.testing.assert_array_equal(array, copy)
