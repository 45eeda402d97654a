"""Doubt by pooled features: finds what logits hide, is cross-fitted, and is asked for where it was fitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offramp.features.belief.pooled import COMPONENTS, fit_pooled
from offramp.features.errors import InputError
from offramp.features.evidence import EvidenceSettings
from offramp.features.fitting import fit_reader
from offramp.features.outputs import Outputs, Stage

PATHS = ((0,),)


def outputs(n: int, m: int, seed: int, told: bool) -> Outputs:
    """Logits that are equally sure of all; the first pooled feature tells whether the answer is wrong, if ``told``."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    wrong = rng.random(n) < 0.3
    answers = np.where(wrong, (labels + 1) % 4, labels)
    logits = (3.0 * (answers[:, None] == np.arange(4))).astype(np.float32)
    pooled = rng.normal(size=(n, m)).astype(np.float32)
    if told:
        pooled[:, 0] += 3 * wrong
    return Outputs((Stage("a", logits=logits, pooled=pooled),), labels, np.arange(n), "fit", 4)


def column(told: bool, n: int = 600, m: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Held-out doubt of the examples fitted on, doubt of new ones, whose answer is wrong."""
    fit, test = outputs(n, m, 0, told), replace(outputs(n, m, 1, told), part="test")
    folds = np.arange(n) % 5
    reader, reading = fit_reader(fit, PATHS, folds, EvidenceSettings())
    views = [reading.view((0,)), reader.read(test).view((0,))]
    at = views[0].columns.index("a.pooled_doubt")
    assert views[0].columns == views[1].columns
    wrong = [fit.stages[0].logits.argmax(1) != fit.labels, test.stages[0].logits.argmax(1) != test.labels]  # type: ignore[union-attr]
    return views[0].x[:, at], views[1].x[:, at], np.stack(wrong)


def separation(doubt: np.ndarray, wrong: np.ndarray) -> float:
    """Share of pairs, one wrong and one right, in which the wrong one is doubted more."""
    return float((doubt[wrong][:, None] > doubt[~wrong]).mean())


def test_it_finds_what_the_logits_hide() -> None:
    held_out, new, wrong = column(told=True)
    assert separation(held_out, wrong[0]) > 0.95
    assert separation(new, wrong[1]) > 0.95


def test_held_out_doubts_know_nothing_of_their_own_labels() -> None:
    """In-sample, forty random features and 150 examples would tell right from wrong quite well."""
    held_out, _, wrong = column(told=False, n=150, m=40)
    fit = outputs(150, 40, 0, told=False)
    assert separation(fit_pooled(fit.stages[0].pooled, wrong[0])(fit.stages[0].pooled), wrong[0]) > 0.75  # type: ignore[arg-type]
    assert abs(separation(held_out, wrong[0]) - 0.5) < 0.15


def test_scale_shift_and_copies_change_nothing() -> None:
    fit = outputs(300, 10, 0, told=True)
    pooled, wrong = fit.stages[0].pooled, fit.stages[0].logits.argmax(1) != fit.labels  # type: ignore[union-attr]
    assert pooled is not None
    plain = fit_pooled(pooled, wrong)(pooled)
    moved = fit_pooled(7 * pooled + 3, wrong)(7 * pooled + 3)
    np.testing.assert_allclose(moved, plain, atol=1e-3)
    twice = fit_pooled(np.repeat(pooled, 2, axis=0), np.repeat(wrong, 2))(pooled)
    np.testing.assert_allclose(twice, plain, atol=1e-3)


@pytest.mark.parametrize("m", [1, COMPONENTS + 40])
def test_any_number_of_features(m: int) -> None:
    rng = np.random.default_rng(0)
    found = fit_pooled(rng.normal(size=(200, m)), rng.integers(0, 2, 200))
    assert found.weights.shape == (m,)
    assert np.isfinite(found(rng.normal(size=(5, m)))).all()
    assert np.isfinite(fit_pooled(np.ones((50, m)), np.arange(50) % 2)(np.ones((3, m)))).all()


def test_they_can_be_left_alone_and_must_be_there_when_asked_for() -> None:
    fit = outputs(200, 5, 0, told=True)
    folds = np.arange(200) % 5
    _, reading = fit_reader(fit, PATHS, folds, EvidenceSettings(pooled=False))
    assert not any("pooled" in name for name in reading.view((0,)).columns)
    reader, _ = fit_reader(fit, PATHS, folds, EvidenceSettings())
    bare = replace(fit, stages=(replace(fit.stages[0], pooled=None),))
    with pytest.raises(InputError, match="pooled"):
        reader.read(bare)
