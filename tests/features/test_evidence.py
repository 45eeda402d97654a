from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path as File

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from features import evidence
from features.belief import FLOOR, OUT, Pool
from features.calibration import MANY_CLASSES, fit_answers, fit_temperature
from features.evidence import EvidenceSettings, Path, Reader, Reading, View, fit_reader
from features.glance import FARTHEST, FEATURES, glance
from features.outputs import NO_ANSWER, Floats, Ints, Outputs, Stage
from features.reading import read_parts

IMAGENET = File(__file__).resolve().parents[2] / "cascades" / "embedded" / "imagenet" / "answers.parquet"
NAMES = ("a", "b", "c")
FEW, MANY = 5, MANY_CLASSES + 6


def every_path(k: int) -> tuple[Path, ...]:
    return tuple(path for size in range(1, k + 1) for path in combinations(range(k), size))


def logits(n: int = 300, k: int = 2, c: int = FEW, seed: int = 0, part: str = "fit", dtype: str = "float32") -> Outputs:
    """Stages that lean to the label, the later the more; classes 0 and 1 are easily mixed up."""
    rng = np.random.default_rng([seed, c])
    labels = rng.integers(0, c, n)
    is_label = labels[:, None] == np.arange(c)
    is_label = is_label + 0.6 * ((labels < 2)[:, None] & (np.arange(c) < 2) & ~is_label)
    stages = tuple(
        Stage(name, logits=((s + 1) * (1.5 * rng.normal(size=(n, c)) + 2 * is_label)).astype(dtype))
        for s, name in enumerate(NAMES[:k])
    )
    return Outputs(stages, labels, np.arange(n), part, c)


def answers(outputs: Outputs, ranks: int = 1, confidence: bool = False) -> Outputs:
    """The same stages as they look from outside."""
    made = []
    for stage in outputs.stages:
        assert stage.logits is not None
        seen = glance(stage.logits, ranks=ranks)
        sure = {"confidence": np.exp(seen.top_logp[:, 0]).astype(float)} if confidence else {}
        made.append(Stage(stage.name, answers=seen.top, measured=sure))
    return replace(outputs, stages=tuple(made))


KINDS = ("logits", "answers", "ranked answers with confidence", "both")


def world(kind: str, c: int, n: int = 300, k: int = 2, seed: int = 0, part: str = "fit") -> Outputs:
    whole = logits(n, k, c, seed, part)
    if kind == "logits":
        return whole
    told = answers(whole, ranks=3, confidence=True) if kind.startswith("ranked") else answers(whole)
    return replace(whole, stages=(whole.stages[0], *told.stages[1:])) if kind == "both" else told


def folds_of(outputs: Outputs) -> Ints:
    return np.arange(len(outputs)) % 5


def fitted(
    outputs: Outputs, settings: EvidenceSettings | None = None, paths: Sequence[Path] | None = None
) -> tuple[Reader, Reading]:
    chosen = every_path(len(outputs.stages)) if paths is None else tuple(paths)
    return fit_reader(outputs, chosen, folds_of(outputs), settings or EvidenceSettings())


def column(view: View, name: str) -> Floats:
    return view.x[:, view.columns.index(name)]


def log_loss(view: View, labels: Ints) -> float:
    return float(-np.log(np.maximum(view.probability(labels[:, None]), 1e-12)).mean())


# --- a view, by hand


def dense(*rows: Sequence[float]) -> View:
    return View((), np.zeros((len(rows), 0), np.float32), np.log(np.array(rows)), None)


def test_ranked_and_probability_where_the_alternatives_are_the_classes() -> None:
    view = dense([0.2, 0.5, 0.3], [0.4, 0.2, 0.4])
    assert view.ranked(1).tolist() == [[1], [0]]
    assert view.ranked(2).tolist() == [[1, 2], [0, 2]]
    assert view.ranked(5).tolist() == [[1, 2, 0, NO_ANSWER, NO_ANSWER], [0, 2, 1, NO_ANSWER, NO_ANSWER]]
    np.testing.assert_allclose(view.probability(np.array([[1], [1]])), [0.5, 0.2])
    np.testing.assert_allclose(view.probability(np.array([[1, 0], [2, 1]])), [0.7, 0.6])
    # each class once, and nothing for no answer
    np.testing.assert_allclose(view.probability(np.array([[1, 1, 0], [2, NO_ANSWER, 2]])), [0.7, 0.4])
    np.testing.assert_allclose(view.probability(np.full((2, 3), NO_ANSWER)), 0)
    np.testing.assert_allclose(view.probability(np.array([[0, 1, 2], [0, 1, 2]])), 1)


def sparse() -> View:
    """Two stages' two answers each, then "none of these"; the second stage repeats one, or has one only."""
    alternatives = np.array([[7, 3, 7, 9, NO_ANSWER], [4, 8, 8, NO_ANSWER, NO_ANSWER]])
    p = np.array([[0.5, 0.1, 1, 0.25, 0.15], [0.1, 0.3, 1, 1, 0.6]])
    logp = np.where(p == 1, OUT, np.log(p))
    return View((), np.zeros((2, 0), np.float32), logp, alternatives)


def test_ranked_and_probability_where_the_alternatives_are_the_answers_given() -> None:
    view = sparse()
    assert view.ranked(1).tolist() == [[7], [8]]  # "none of these" is likelier, but no class to name
    assert view.ranked(3).tolist() == [[7, 9, 3], [8, 4, NO_ANSWER]]
    assert view.ranked(7).tolist() == [[7, 9, 3] + [NO_ANSWER] * 4, [8, 4] + [NO_ANSWER] * 5]
    np.testing.assert_allclose(view.probability(np.array([[7], [8]])), [0.5, 0.3])
    np.testing.assert_allclose(view.probability(np.array([[7, 9], [8, 8]])), [0.75, 0.3])
    np.testing.assert_allclose(view.probability(np.array([[7, 7, 3], [4, NO_ANSWER, 8]])), [0.6, 0.4])
    # a class nobody named, and no class at all
    np.testing.assert_allclose(view.probability(np.array([[5], [NO_ANSWER]])), 0)


def test_no_probability_is_above_one() -> None:
    view = dense([0.5 + 1e-9, 0.5])
    assert view.probability(np.array([[0, 1]]))[0] == 1


# --- what every kind of outputs gives


@pytest.mark.parametrize("c", [FEW, MANY])
@pytest.mark.parametrize("kind", KINDS)
def test_evidence_is_finite_named_and_its_beliefs_sum_to_one(kind: str, c: int) -> None:
    outputs = world(kind, c, k=3)
    reader, held_out = fitted(outputs)
    other = reader.read(world(kind, c, k=3, n=70, seed=1, part="test"))
    for reading, n in ((held_out, 300), (other, 70)):
        assert reading.ranked.shape[:2] == (n, 3)
        for path in every_path(3):
            view = reading.view(path)
            assert view.x.shape == (n, len(view.columns))
            assert view.x.dtype == np.float32
            assert np.isfinite(view.x).all()
            assert len(set(view.columns)) == len(view.columns)
            assert view.columns == held_out.view(path).columns
            np.testing.assert_allclose(np.exp(view.logp.astype(float)).sum(axis=1), 1, rtol=1e-5)
            assert (view.alternatives is None) == (c <= MANY_CLASSES)
            if view.alternatives is None:
                assert view.logp.shape == (n, c)


@pytest.mark.parametrize("c", [FEW, MANY])
@pytest.mark.parametrize("kind", KINDS)
def test_more_stages_believe_better_than_each_alone(kind: str, c: int) -> None:
    outputs, other = world(kind, c, n=1500), world(kind, c, n=1500, seed=1, part="test")
    reader, held_out = fitted(outputs)
    for reading, labels in ((held_out, outputs.labels), (reader.read(other), other.labels)):
        losses = {path: log_loss(reading.view(path), labels) for path in every_path(2)}
        assert losses[0, 1] < min(losses[(0,)], losses[(1,)]) - 0.02
        right = {path: (reading.view(path).ranked(1)[:, 0] == labels).mean() for path in every_path(2)}
        assert right[0, 1] > right[(0,)]
        # and the belief is no surer than it may be
        view = reading.view((0, 1))
        believed = view.probability(view.ranked(1))
        assert believed.mean() == pytest.approx(right[0, 1], abs=0.04)


@pytest.mark.parametrize("c", [FEW, MANY])
@pytest.mark.parametrize("kind", KINDS)
def test_a_path_knows_nothing_of_stages_that_are_not_on_it(kind: str, c: int) -> None:
    outputs, test = world(kind, c, k=3), world(kind, c, k=3, n=60, seed=1, part="test")
    noise = world(kind, c, k=3, seed=7), world(kind, c, k=3, n=60, seed=8, part="test")
    before = fitted(outputs)
    for stage in range(3):
        others = [
            replace(whole, stages=tuple((new if s == stage else whole).stages[s] for s in range(3)))
            for whole, new in zip((outputs, test), noise, strict=True)
        ]
        after = fitted(others[0])
        for path in every_path(3):
            pairs = [(b.view(path), a.view(path)) for b, a in [(before[1], after[1])]]
            pairs.append((before[0].read(test).view(path), after[0].read(others[1]).view(path)))
            for one, two in pairs:
                same = np.array_equal(one.x, two.x) and np.array_equal(one.logp, two.logp)
                assert same == (stage not in path), (stage, path)


@pytest.mark.parametrize("c", [FEW, MANY])
@pytest.mark.parametrize("kind", KINDS)
def test_reading_in_parts_is_reading_at_once(kind: str, c: int) -> None:
    reader, _ = fitted(world(kind, c))
    test = world(kind, c, n=101, seed=1, part="test")
    whole = reader.read(test)
    edges = [0, 1, 40, 41, 101]
    for path in every_path(2):
        view = whole.view(path)
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            part = reader.read(test.take(slice(low, high)))
            np.testing.assert_array_equal(part.ranked, whole.ranked[low:high])
            np.testing.assert_allclose(part.view(path).x, view.x[low:high], rtol=2e-5, atol=2e-5)
            np.testing.assert_allclose(part.view(path).logp, view.logp[low:high], rtol=2e-5, atol=2e-5)
    shuffled = np.random.default_rng(0).permutation(101)
    again = reader.read(test.take(shuffled)).view((0, 1))
    np.testing.assert_allclose(again.x, whole.view((0, 1)).x[shuffled], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("c", [FEW, MANY])
@pytest.mark.parametrize("kind", KINDS)
def test_the_labels_of_what_is_read_are_not_looked_at(kind: str, c: int) -> None:
    reader, _ = fitted(world(kind, c))
    test = world(kind, c, n=60, seed=1, part="test")
    other = replace(test, labels=(test.labels + 1) % c)
    one, two = (reader.read(each).view((0, 1)) for each in (test, other))
    np.testing.assert_array_equal(one.x, two.x)
    np.testing.assert_array_equal(one.logp, two.logp)


@pytest.mark.parametrize("kind", KINDS)
def test_fitting_twice_is_the_same_and_changes_nothing(kind: str) -> None:
    outputs = world(kind, FEW)
    kept = [
        array
        for stage in outputs.stages
        for array in (stage.logits, stage.answers, *stage.measured.values())
        if array is not None
    ]
    copies = [array.copy() for array in kept]
    one, two = (fitted(outputs)[1].view((0, 1)) for _ in range(2))
    np.testing.assert_array_equal(one.x, two.x)
    np.testing.assert_array_equal(one.logp, two.logp)
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


# --- held out means held out


def flipped(outputs: Outputs, fold: int) -> Outputs:
    """Other labels in one fold, nothing else."""
    return replace(
        outputs,
        labels=np.where(folds_of(outputs) == fold, (outputs.labels + 1) % outputs.classes, outputs.labels),
    )


@pytest.fixture
def weights_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of the pool, a handful of shared numbers that are fitted on all examples, no longer are."""

    def fixed(columns: Floats, _out: object, _label: Ints) -> Pool:
        none = np.zeros(0)
        return Pool(np.linspace(0.5, 1, columns.shape[2]), none, none, none)

    monkeypatch.setattr(evidence, "fit_weights", fixed)


@pytest.fixture
def prior_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """How common labels are, which is shared likewise, is even."""
    monkeypatch.setattr(evidence.np, "bincount", lambda labels, minlength: np.full(minlength, len(labels) / minlength))


@pytest.mark.usefixtures("weights_fixed")
@pytest.mark.parametrize("fold", [0, 3])
def test_corrections_are_kept_from_the_examples_they_are_judged_on(
    fold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EvidenceSettings, "calibrate", False, raising=False)
    settings = EvidenceSettings(calibrate=False)
    outputs = logits(600, c=4)
    mine = folds_of(outputs) == fold
    path = (0, 1)
    # stage b takes class 3 for class 2: only a correction knows
    mixed = outputs.stages[1].logits
    assert mixed is not None
    mixed = mixed.copy()
    mixed[outputs.labels == 3] += 6 * (np.arange(4) == 2)
    outputs = replace(outputs, stages=(outputs.stages[0], Stage("b", logits=mixed)))
    prior = np.zeros(4)
    views = []
    for each in (outputs, flipped(outputs, fold)):
        reader, reading = fitted(each, settings)
        assert reader.pools[path].correction.size, "the correction has to be in use for this to be a test"
        views.append(reading.view(path).logp - (reader.log_prior - prior))
        whole = reader.read(each).view(path).logp
        assert np.abs(whole - reading.view(path).logp).max() > 1e-3  # not the pool fitted on all
    del views, mine


def test_the_correction_of_a_fold_is_that_of_the_other_folds() -> None:
    outputs = logits(500, c=4)
    labels, folds = outputs.labels, folds_of(outputs)
    reader = Reader(EvidenceSettings(), outputs.names, 4, np.ones(2), {}, np.log(np.full(4, 0.25)), {})
    said = evidence.Said(reader, outputs)
    columns, spoken, out = said.at((0, 1))
    pool = evidence.fit_weights(columns, out, labels)
    corrected, held_out = evidence._fit_pool(said, (0, 1), labels, folds)
    np.testing.assert_array_equal(corrected.weights, pool.weights)
    if not corrected.correction.size:
        np.testing.assert_array_equal(held_out, pool(columns, spoken, out))
        return
    for fold in range(5):
        rest, mine = folds != fold, folds == fold
        own = evidence.correct(pool, columns[rest], spoken[rest], labels[rest])
        np.testing.assert_array_equal(held_out[mine], own(columns[mine], spoken[mine], None))
