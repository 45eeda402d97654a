from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from offramp.cascades.graph.routing import Routes
from offramp.cascades.learning.answers import LOSSES
from offramp.cascades.learning.outcomes import Outcomes, single_outcomes
from offramp.features.belief.calibration import fit_answers
from offramp.features.evidence import EvidenceSettings
from offramp.features.fitting import fit_reader
from offramp.features.outputs import NO_ANSWER, Outputs, Stage

Z = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.4, 0.4, 0.2]]))
LABELS = np.array([0, 1, 1])


def of_logits(*logits: np.ndarray, labels: np.ndarray = LABELS) -> Outputs:
    stages = tuple(Stage(name, logits=z) for name, z in zip("abc", logits, strict=False))
    return Outputs(stages, labels, np.arange(len(labels)), "test", logits[0].shape[1])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_logits_by_hand(dtype: str) -> None:
    found = single_outcomes(of_logits(Z.astype(dtype), Z[::-1].astype(dtype)), LOSSES["top1"], {})
    assert found.stages == ("a", "b")
    assert found.part == "test"
    assert len(found) == 3
    # of two equal logits the lower class
    assert found.answer.tolist() == [[0, 0], [2, 2], [0, 0]]
    assert found.wrong.tolist() == [[0, 0], [1, 1], [1, 1]]
    np.testing.assert_allclose(found.confidence, [[0.7, 0.4], [0.6, 0.6], [0.4, 0.7]], atol=2e-3)
    assert found.confidence.dtype == np.float64


def test_top5_of_three_classes_is_never_wrong_and_one_answer_is_given() -> None:
    found = single_outcomes(of_logits(Z, Z), LOSSES["top5"], {})
    assert found.wrong.tolist() == [[0, 0]] * 3
    assert found.answer.tolist() == [[0, 0], [2, 2], [0, 0]]


def test_top5_counts_five_and_no_more() -> None:
    z = -np.arange(7.0)[None].repeat(7, axis=0)
    found = single_outcomes(of_logits(z, labels=np.arange(7)), LOSSES["top5"], {})
    assert found.wrong[:, 0].tolist() == [0, 0, 0, 0, 0, 1, 1]


def test_excess_is_over_the_last_stage() -> None:
    sure = 9 * np.eye(3)
    a, last = sure[[0, 1, 2]], sure[[0, 2, 1]]
    found = single_outcomes(of_logits(a, last, labels=np.array([1, 2, 2])), LOSSES["excess"], {})
    # both wrong: nothing lost; only the last right: lost; only the first right: nothing lost
    assert found.wrong.tolist() == [[0, 0], [1, 0], [0, 0]]


def test_answers_with_what_came_with_them() -> None:
    answers = np.array([[2, 0], [1, NO_ANSWER]], np.int32)
    sure, other = np.array([0.25, 0.75]), np.array([8.0, 9.0])
    stages = (
        Stage("a", answers, measured={"aaa": other, "confidence": sure}),
        Stage("b", answers, measured={"votes": other}),
    )
    outputs = Outputs(stages, np.array([0, 1]), np.arange(2), "fit", 3)
    found = single_outcomes(outputs, LOSSES["top1"], {})
    assert found.confidence.tolist() == [[0.25, 8.0], [0.75, 9.0]]
    assert found.answer.tolist() == [[2, 2], [1, 1]]
    assert found.wrong.tolist() == [[1, 1], [0, 0]]
    # ranked second, the label is among the five; filler behind a short ranking is no answer
    assert single_outcomes(outputs, LOSSES["top5"], {}).wrong.tolist() == [[0, 0], [0, 0]]


def test_answers_alone_are_as_sure_as_their_class_was_right() -> None:
    answers = np.array([[0]] * 30 + [[1]] * 30, np.int32)
    labels = np.array([0] * 27 + [1] * 3 + [1] * 15 + [0] * 15)
    stage = Stage("a", answers)
    outputs = Outputs((stage,), labels, np.arange(60), "fit", 2)
    found = single_outcomes(outputs, LOSSES["top1"], {0: fit_answers(stage, labels, 2)})
    # shrunk to the mean 43/62 with the weight of five examples, as log odds
    mean = 43 / 62
    share = np.array([(27 + 5 * mean) / 35, (15 + 5 * mean) / 35])
    odds = np.log(share / (1 - share))
    np.testing.assert_allclose(found.confidence[:, 0], np.repeat(odds, 30))


def test_outcomes_are_those_of_the_paths_of_one_stage(
    world: Callable[..., Outputs], answering: Callable[..., Outputs]
) -> None:
    """What baselines see of a stage is what the cascade that stops there at once would answer and lose."""
    for outputs in (world(200), answering(world(200), measured=["confidence"])):
        folds = np.arange(200) % 5
        reader, reading = fit_reader(outputs, ((0,), (1,), (2,)), folds, EvidenceSettings())
        found = single_outcomes(outputs, LOSSES["top1"], reader.calibration)
        np.testing.assert_array_equal(found.answer, reading.ranked[:, :, 0])
        np.testing.assert_array_equal(found.wrong, reading.ranked[:, :, 0] != outputs.labels[:, None])


def test_taking_rows_and_following_paths() -> None:
    routes = Routes(("a", "b"), ((0,), (0, 1), (1,)), np.array([[1.0, 0.0], [1.0, 4.0], [0.0, 4.0]]), "ms")
    found = Outcomes(
        ("a", "b"),
        np.array([[1, 2], [3, 4], [5, 6]]),
        np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.25]]),
        np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]),
        "tune",
    )
    some = found.take(np.array([2, 0]))
    assert some.stages == ("a", "b")
    assert some.part == "tune"
    assert some.answer.tolist() == [[5, 6], [1, 2]]
    assert some.wrong.tolist() == [[0.5, 0.25], [0, 1]]
    assert some.confidence.tolist() == [[0.5, 0.6], [0.1, 0.2]]
    routing = some.follow(routes, np.array([1, 0]))
    assert routing.answer.tolist() == [6, 1]
    assert routing.wrong.tolist() == [0.25, 0]
    assert routing.cost.tolist() == [5, 1]
