from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path as File
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

from offramp.cascades.files.codec import to_plain
from offramp.features import columns as seen_columns
from offramp.features import evidence, fitting
from offramp.features.belief.calibration import MANY_CLASSES, fit_answers, fit_temperature
from offramp.features.belief.pooling import FLOOR, OUT, Pool
from offramp.features.columns import COLUMNS, Column, Shape, added
from offramp.features.confidence import FARTHEST, read_confidence
from offramp.features.errors import InputError
from offramp.features.evidence import EvidenceSettings, Path, Reader, Reading, View
from offramp.features.fitting import fit_reader
from offramp.features.outputs import NO_ANSWER, Floats, Ints, Outputs, Stage
from offramp.features.store.reading import read_parts


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As where sweeps are fitted: the products are small."""
    with threadpool_limits(1, "blas"):
        yield


IMAGENET = File(__file__).resolve().parents[2] / "cascades" / "embedded" / "imagenet" / "answers.parquet"
NAMES = ("a", "b", "c")
FEW, MANY = 5, MANY_CLASSES + 6


def every_path(k: int) -> tuple[Path, ...]:
    return tuple(path for size in range(1, k + 1) for path in combinations(range(k), size))


def logits(n: int = 300, k: int = 2, c: int = FEW, seed: int = 0, part: str = "fit", dtype: str = "float32") -> Outputs:
    """Stages that lean to the label, the later the more and too surely; classes 0 and 1 are easily mixed up."""
    rng = np.random.default_rng([seed, c])
    labels = rng.integers(0, c, n)
    is_label = labels[:, None] == np.arange(c)
    is_label = is_label + 0.6 * ((labels < 2)[:, None] & (np.arange(c) < 2) & ~is_label)
    stages = tuple(
        Stage(name, logits=((s + 1) * (1.5 * rng.normal(size=(n, c)) + (2 + 0.5 * s) * is_label)).astype(dtype))
        for s, name in enumerate(NAMES[:k])
    )
    return Outputs(stages, labels, np.arange(n), part, c)


def answers(outputs: Outputs, ranks: int = 1, confidence: bool = False) -> Outputs:
    """The same stages as they look from outside."""
    made = []
    for stage in outputs.stages:
        assert stage.logits is not None
        seen = read_confidence(stage.logits, ranks=ranks)
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
        assert believed.mean() == pytest.approx(right[0, 1], abs=0.06)


@pytest.mark.parametrize("c", [FEW, MANY])
@pytest.mark.parametrize("kind", KINDS)
def test_a_path_knows_nothing_of_stages_that_are_not_on_it(kind: str, c: int) -> None:
    outputs, test = world(kind, c, n=120, k=3), world(kind, c, n=30, k=3, seed=1, part="test")
    noise = world(kind, c, n=120, k=3, seed=7), world(kind, c, n=30, k=3, seed=8, part="test")
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
        for low, high in pairwise(edges):
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


def shuffled_in(outputs: Outputs, fold: int) -> Outputs:
    """Other labels in one fold, as many of each class as before: how common classes are is known to all."""
    mine = np.flatnonzero(folds_of(outputs) == fold)
    labels = outputs.labels.copy()
    labels[mine] = labels[np.random.default_rng(9).permutation(mine)]
    return replace(outputs, labels=labels)


@pytest.fixture
def weights_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of the pool, which many examples share, are not fitted at all."""

    def fixed(columns: Floats, _out: object, _label: Ints, _stages: int) -> Pool:
        return Pool(np.linspace(0.5, 1, columns.shape[2]), np.zeros(0), np.zeros(0), np.zeros(0))

    monkeypatch.setattr(fitting, "FEW", 0)
    monkeypatch.setattr(fitting, "fit_weights", fixed)


def differing(outputs: Outputs, fold: int) -> Iterator[tuple[bool, bool]]:
    """For every path whether the beliefs of a fold, and of the others, change with the labels of the fold."""
    # temperatures, one number each, are fitted on all
    one, two = (fitted(each, EvidenceSettings(calibrate=False))[1] for each in (outputs, shuffled_in(outputs, fold)))
    mine = folds_of(outputs) == fold
    for path in every_path(len(outputs.stages)):
        before, after = one.view(path), two.view(path)
        changed = (before.logp != after.logp).any(axis=1) | (before.x != after.x).any(axis=1)
        yield bool(changed[mine].any()), bool(changed[~mine].any())


@pytest.mark.parametrize("c", [FEW, MANY])
@pytest.mark.parametrize("fold", [0, 3])
def test_a_fold_s_evidence_from_logits_does_not_know_its_labels(
    c: int, fold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "CORRECTED_CLASSES", 0)  # whether to correct is decided on all; see below
    assert list(differing(logits(300, c=c), fold)) == [(False, True)] * 3


@pytest.mark.usefixtures("weights_fixed")
@pytest.mark.parametrize("c", [FEW, MANY])
@pytest.mark.parametrize("kind", ["answers", "ranked answers with confidence"])
@pytest.mark.parametrize("fold", [0, 3])
def test_a_fold_s_evidence_from_answers_does_not_but_for_the_weights(
    kind: str, c: int, fold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the weights stand on calibrations of the other folds, each of which has seen the labels of this one
    monkeypatch.setattr(fitting, "CORRECTED_CLASSES", 0)
    assert list(differing(world(kind, c, n=300), fold)) == [(False, True)] * 3


def confusing(n: int = 600, seed: int = 0) -> Outputs:
    """Stage b takes class 3 for class 2, sure as it is: only a correction knows."""
    whole = logits(n, c=4, seed=seed)
    z = whole.stages[1].logits
    assert z is not None
    mixed = z + 6 * ((whole.labels == 3)[:, None] & (np.arange(4) == 2))
    return replace(whole, stages=(whole.stages[0], Stage("b", logits=mixed)))


@pytest.mark.parametrize("fold", [0, 3])
def test_corrections_are_kept_from_the_examples_they_are_judged_on(fold: int) -> None:
    outputs, path = confusing(), (0, 1)
    mine = folds_of(outputs) == fold
    fits = [fitted(each, EvidenceSettings(calibrate=False)) for each in (outputs, shuffled_in(outputs, fold))]
    assert all(reader.pools[path].correction.size for reader, _ in fits)
    before, after = (reading.view(path).logp for _, reading in fits)
    np.testing.assert_array_equal(before[mine], after[mine])
    assert np.abs(before[~mine] - after[~mine]).max() > 0.01
    # the reader itself, for other examples, is fitted on all
    whole = fits[0][0].read(outputs).view(path).logp
    assert np.abs(whole[mine] - before[mine]).max() > 0.01


@pytest.mark.parametrize("many", [False, True])
def test_beliefs_of_a_fold_are_by_what_the_other_folds_taught(many: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, path = confusing(), (0, 1)
    labels, folds = outputs.labels, folds_of(outputs)
    monkeypatch.setattr(fitting, "FEW", len(outputs) - many)
    reader, reading = fitted(outputs)
    columns, spoken, _ = evidence.StageLogProbabilities(reader, outputs).at(path)
    pool = fitting.fit_weights(columns, None, labels, 2)
    np.testing.assert_array_equal(reader.pools[path].weights, pool.weights)
    found = reading.view(path).logp
    for fold in range(5):
        rest, mine = folds != fold, folds == fold
        shared = pool if many else fitting.fit_weights(columns[rest], None, labels[rest], 2)
        own = fitting.correct(shared, columns[rest], spoken[rest], labels[rest])
        np.testing.assert_array_equal(found[mine], own(columns[mine], spoken[mine], None))
    all_of_them = fitting.correct(pool, columns, spoken, labels)
    np.testing.assert_array_equal(reader.pools[path].correction, all_of_them.correction)


@pytest.mark.parametrize("many", [False, True])
def test_uncorrected_beliefs_too(many: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, path = logits(c=MANY), (0, 1)
    labels, folds = outputs.labels, folds_of(outputs)
    monkeypatch.setattr(fitting, "FEW", len(outputs) - many)
    reader, reading = fitted(outputs)
    said = evidence.StageLogProbabilities(reader, outputs)
    columns, spoken, out = said.at(path)
    classes = said.alternatives(path)
    assert out is not None
    assert classes is not None
    # the label's place among the answers given, else the last: none of these
    target = np.array([next((i for i in range(6) if row[i] == y), 6) for row, y in zip(classes, labels, strict=True)])
    assert 0 < (target == 6).mean() < 1
    for fold in range(5):
        rest, mine = folds != fold, folds == fold
        kept = slice(None) if many else rest
        own = fitting.fit_weights(columns[kept], out[kept], target[kept], 2)
        np.testing.assert_array_equal(reading.view(path).logp[mine], own(columns[mine], spoken[mine], out[mine]))
    np.testing.assert_array_equal(reader.pools[path].weights, fitting.fit_weights(columns, out, target, 2).weights)


def test_a_gain_counts_from_its_standard_error() -> None:
    # mean 1, deviation 2, so a standard error of 1 with four
    assert not fitting.surely_positive(np.array([3.0, -1.0, 3.0, -1.0]))
    assert fitting.surely_positive(np.array([3.0, -1.0, 3.0, -1.0, 3.0, -1.0]))
    assert not fitting.surely_positive(np.array([-1.0, -1.0]))
    assert not fitting.surely_positive(np.zeros(3))


def test_a_correction_is_used_only_where_it_helps_held_out() -> None:
    helped, _ = fitted(confusing())
    assert helped.pools[0, 1].correction.size
    # pure noise has nothing to correct, but everything to overfit
    noise = logits(150)
    rng = np.random.default_rng(0)
    stages = tuple(Stage(name, logits=rng.normal(size=(150, FEW)).astype(np.float32)) for name in "ab")
    spared, _ = fitted(replace(noise, stages=stages))
    assert all(pool.correction.size == 0 for pool in spared.pools.values())


@pytest.mark.parametrize("c", [FEW, MANY])
def test_answers_are_calibrated_by_the_other_folds(c: int) -> None:
    outputs = answers(logits(300, c=c), ranks=2, confidence=True)
    reader, _ = fitted(outputs)
    said = fitting._held_out_log_probabilities(reader, outputs, folds_of(outputs))
    for fold in range(5):
        mine = np.flatnonzero(folds_of(outputs) == fold)
        rest = outputs.take(np.flatnonzero(folds_of(outputs) != fold))
        for s, stage in enumerate(outputs.stages):
            own = fit_answers(rest.stages[s], rest.labels, c)
            if c == FEW:
                wanted = np.maximum(own.logp(stage.take(mine)), FLOOR)
                np.testing.assert_allclose(said.logp[s][mine], wanted, rtol=1e-6)
            else:
                classes = said.alternatives((s,))
                assert classes is not None
                named, rest_of = own.logp_of(stage.take(mine), classes[mine, :-1])
                found = said.log_probabilities((s,))[mine, 0]
                np.testing.assert_allclose(found, np.maximum(np.column_stack([named, rest_of]), FLOOR), rtol=1e-6)
    whole = fit_answers(outputs.stages[0], outputs.labels, c)
    np.testing.assert_array_equal(reader.calibration[0].coefficients, whole.coefficients)


# --- columns, by hand


def two_stages(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], labels: Sequence[int]) -> Outputs:
    stages = (Stage("a", logits=np.log(np.array(a))), Stage("b", logits=np.log(np.array(b))))
    return Outputs(stages, np.array(labels), np.arange(len(labels)), "fit", len(a[0]))


PLAIN = EvidenceSettings(calibrate=False)
A = [[0.5, 0.3, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]] * 4
B = [[0.6, 0.1, 0.2, 0.1], [0.6, 0.2, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]] * 4


def test_agreement_by_hand() -> None:
    reader, reading = fitted(two_stages(A, B, [0, 1, 2, 3] * 3), PLAIN)
    view = reader.read(two_stages(A, B, [0] * 12)).view((0, 1))
    first = slice(0, 3)
    assert column(view, "a~b.same")[first].tolist() == [1, 0, 0]
    np.testing.assert_allclose(column(view, "a~b.later_on_earlier")[first], np.log([0.6, 0.1, 0.1]), rtol=1e-5)
    np.testing.assert_allclose(column(view, "a~b.earlier_on_later")[first], np.log([0.5, 0.1, 0.25]), rtol=1e-5)
    # ranked: 0 1 2 and 0 2 1; 3 2 1 and 0 1 2; 0 1 2 and 3 0 1 (ties: the lower class)
    assert column(view, "a~b.overlap")[first].tolist() == [3, 2, 2]
    p, q = np.array(A[:3]), np.array(B[:3])
    middle = (p + q) / 2
    wanted = 0.5 * (p * np.log(p / middle) + q * np.log(q / middle)).sum(axis=1)
    np.testing.assert_allclose(column(view, "a~b.divergence")[first], wanted, rtol=1e-4)
    np.testing.assert_array_equal(column(view, "a~b.same"), column(reading.view((0, 1)), "a~b.same"))


def test_columns_of_the_belief_by_hand() -> None:
    reader, _ = fitted(two_stages(A, B, [0, 1, 2, 3] * 3), PLAIN)
    view = reader.read(two_stages(A, B, [0] * 12)).view((0, 1))
    p = np.exp(view.logp.astype(float))
    ordered = np.sort(p, axis=1)[:, ::-1]
    best = p.argmax(axis=1)
    np.testing.assert_allclose(column(view, "belief.margin"), np.log(ordered[:, 0] / ordered[:, 1]), atol=1e-4)
    np.testing.assert_allclose(column(view, "belief.second_margin"), np.log(ordered[:, 1] / ordered[:, 2]), atol=1e-4)
    np.testing.assert_allclose(column(view, "belief.entropy"), -(p * np.log(p)).sum(axis=1), rtol=1e-4)
    np.testing.assert_allclose(column(view, "belief.doubt"), np.log(1 - ordered[:, 0]), rtol=1e-4)
    for y in range(4):
        np.testing.assert_array_equal(column(view, f"belief.is_{y}"), best == y)
    for name, said in (("a", A), ("b", B)):
        np.testing.assert_allclose(
            column(view, f"{name}.on_belief"), np.log(np.array(said)[np.arange(12), best]), rtol=1e-4
        )


def test_doubt_is_exact_however_sure_the_belief_is() -> None:
    doubt = np.array([1e-2, 1e-4, 1e-5, 1e-6, 5e-7, 4e-7])
    logp = np.log(np.column_stack([doubt / 4, 1 - doubt, doubt / 2, doubt / 4])).astype(np.float32)
    seen = evidence.SeenStored(SimpleNamespace(alternatives=lambda _: None), (), logp, Shape((), (), (), (), 4, 3))  # type: ignore[arg-type]
    np.testing.assert_allclose(COLUMNS["belief.doubt"].of(seen), np.log(doubt), atol=1e-5)


def test_only_what_is_read_is_computed_and_the_rest_is_no_number() -> None:
    _, reading = fitted(logits(60))
    whole = reading.view((0, 1))
    some = reading.view((0, 1), lambda columns, _: np.array([columns.index("belief.margin"), len(columns) - 1]))
    assert some.columns == whole.columns
    told = np.zeros(len(whole.columns), bool)
    told[[whole.columns.index("belief.margin"), -1]] = True
    np.testing.assert_array_equal(some.x[:, told], whole.x[:, told])
    assert np.isnan(some.x[:, ~told]).all()


def test_an_added_column_stands_behind_the_others_which_keep_their_places() -> None:
    outputs = logits(60)
    before = fitted(outputs)[1].view((0, 1))
    COLUMNS["peak"] = Column("stage", lambda seen, i: seen.ops.exp(seen.rank(i, 0)))
    try:
        reader, reading = fitted(outputs, settings=EvidenceSettings(added=("peak",)))
        after = reading.view((0, 1))
        assert added() == ("peak",)
        assert EvidenceSettings().added == ("peak",)
    finally:
        del COLUMNS["peak"]
    names = tuple(f"{stage.name}.peak" for stage in outputs.stages[:2])
    assert after.columns == before.columns + names
    assert after.added == names
    np.testing.assert_array_equal(after.x[:, : len(before.columns)], before.x)
    np.testing.assert_array_equal(column(after, names[0]), column(after, f"{outputs.stages[0].name}.max_probability"))
    with pytest.raises(InputError, match="peak"):  # a file that asks for it where it is not installed
        reader.read(outputs).view((0, 1))


@pytest.mark.parametrize("value", [np.zeros(3), np.full(60, np.nan)])
def test_an_added_column_that_is_no_number_is_named(value: Floats) -> None:
    COLUMNS["odd"] = Column("belief", lambda _: value)
    try:
        with pytest.raises(InputError, match="odd"):
            fitted(logits(60), settings=EvidenceSettings(added=("odd",)))[1].view((0, 1))
    finally:
        del COLUMNS["odd"]


@pytest.mark.parametrize("name", ["margin", "a.b", "is_3"])
def test_an_added_column_may_not_take_a_name_that_is_there(name: str) -> None:
    COLUMNS[name] = Column("belief", lambda seen: seen.top(0))
    try:
        with pytest.raises(InputError, match="new word"):
            EvidenceSettings()
    finally:
        del COLUMNS[name]


def test_the_glance_at_logits_is_passed_on_after_the_temperature() -> None:
    outputs = logits(400)
    reader, reading = fitted(outputs)
    for s, stage in enumerate(outputs.stages):
        assert stage.logits is not None
        assert reader.temperature[s] == fit_temperature(stage.logits, outputs.labels)
        seen = read_confidence(stage.logits, float(reader.temperature[s]))
        for feature, worked in (("entropy", seen.entropy), ("log_sum_exp", seen.log_sum_exp)):
            np.testing.assert_array_equal(column(reading.view((0, 1)), f"{stage.name}.{feature}"), worked)
    # and the belief stands on the same numbers
    said = evidence.StageLogProbabilities(reader, outputs).logp[1]
    z = outputs.stages[1].logits
    assert z is not None
    np.testing.assert_allclose(said, np.maximum(log_softmax(z / reader.temperature[1], axis=1), FLOOR), atol=1e-4)


@pytest.mark.parametrize("c", [FEW, MANY])
def test_answers_bring_their_numbers_and_their_reliability(c: int) -> None:
    outputs = answers(logits(400, c=c), confidence=True)
    reader, _ = fitted(outputs)
    view = reader.read(outputs).view((0, 1))
    for s, stage in enumerate(outputs.stages):
        np.testing.assert_allclose(column(view, f"{stage.name}.confidence"), stage.measured["confidence"], rtol=1e-6)
        right = 1 / (1 + np.exp(-reader.calibration[s].right(stage)))
        np.testing.assert_allclose(np.exp(column(view, f"{stage.name}.reliability")), right, atol=0.02)


def test_how_common_classes_are_is_known_where_they_are_few() -> None:
    outputs = logits(100, c=4)
    labels = np.array([0] * 60 + [1] * 30 + [2] * 10)
    reader, _ = fitted(replace(outputs, labels=labels))
    np.testing.assert_allclose(np.exp(reader.log_prior), np.array([61, 31, 11, 1]) / 104)
    assert fitted(logits(50, c=MANY))[0].log_prior.shape == (0,)
    # logits of noise say nothing: the belief is that prior, more or less
    rng = np.random.default_rng(0)
    stages = tuple(Stage(name, logits=rng.normal(size=(100, 4)).astype(np.float32)) for name in "ab")
    view = fitted(replace(outputs, labels=labels, stages=stages))[1].view((0, 1))
    assert (view.ranked(1) == 0).mean() > 0.9


# --- settings


SPACES = {
    "logits": {"calibrate", "stack", "agreement", "ranks"},
    "answers": {"stack", "agreement"},
    "ranked answers with confidence": {"stack", "agreement", "ranks"},
    "both": {"calibrate", "stack", "agreement", "ranks"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [3, 100])
def test_every_setting_of_the_search_space_works_and_nothing_else_is_in_it(kind: str, classes: int) -> None:
    outputs = world(kind, classes, n=150)
    space = EvidenceSettings.search_space(outputs)
    assert space.keys() == SPACES[kind]
    columns, beliefs = [], []
    for name, values in space.items():
        assert getattr(EvidenceSettings(), name) in values
        for value in values:
            view = fitted(outputs, replace(EvidenceSettings(), **{name: value}))[1].view((0, 1))
            assert np.isfinite(view.x).all()
            assert view.x.shape == (150, len(view.columns))
            columns.append((name, view.columns))
            beliefs.append((name, view.logp.tobytes(), view.x.tobytes()))
        assert len({each[1:] for each in beliefs if each[0] == name}) == len(values)  # every value changes something


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [3, 100])
def test_what_is_known_already_is_found_the_same(kind: str, classes: int) -> None:
    """One memory for all settings, and for fewer stages: readers and evidence are bit for bit those of a fresh fit."""
    outputs = world(kind, classes, n=120, k=3)
    pooled = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)
    outputs = replace(outputs, stages=(replace(outputs.stages[0], pooled=pooled), *outputs.stages[1:]))
    known: dict[object, object] = {}
    space = EvidenceSettings.search_space(outputs)
    tries = [{}, *({name: value} for name, values in space.items() for value in values), {}]
    for seen in (outputs, outputs.of(("b", "c"))):
        paths = every_path(len(seen.stages))
        for settings in (replace(EvidenceSettings(), **each) for each in tries):  # type: ignore[arg-type]
            one, read = fit_reader(seen, paths, folds_of(seen), settings, known)
            other, fresh = fit_reader(seen, paths, folds_of(seen), settings)
            assert to_plain(one) == to_plain(other)
            for path in paths:
                assert read.view(path).columns == fresh.view(path).columns
                np.testing.assert_array_equal(read.view(path).x, fresh.view(path).x)
                np.testing.assert_array_equal(read.view(path).logp, fresh.view(path).logp)


def test_the_search_space_knows_pooled_features_measured_numbers_and_ranks_that_are_needed() -> None:
    outputs = logits(100, c=10)
    more = replace(
        outputs,
        stages=(
            replace(outputs.stages[0], pooled=np.zeros((100, 3), np.float32), measured={"gate": np.zeros(100)}),
            *outputs.stages[1:],
        ),
    )
    space = EvidenceSettings.search_space(more, ranks=5)
    assert space["pooled"] == (True, False)
    assert space["measured"] == ((), ("gate",))
    assert "ranks" not in space  # all five are needed
    assert EvidenceSettings.search_space(outputs)["ranks"] == (3, 1, 5)
    one = outputs.of(outputs.names[:1])
    assert EvidenceSettings.search_space(one).keys() == {"calibrate", "ranks"}  # nothing to stack or to compare


def test_without_agreement_no_column_compares_stages() -> None:
    outputs = logits(200)
    with_, without = (fitted(outputs, EvidenceSettings(agreement=on))[1].view((0, 1)) for on in (True, False))
    assert any("~" in name for name in with_.columns)
    assert without.columns == tuple(name for name in with_.columns if "~" not in name)
    np.testing.assert_array_equal(without.logp, with_.logp)


def test_without_stacking_the_belief_is_that_of_the_last_stage() -> None:
    outputs = logits(400)
    reader, reading = fitted(outputs, EvidenceSettings(stack=False))
    np.testing.assert_allclose(reading.view((0, 1)).logp, reading.view((1,)).logp)
    assert reader.pools[0, 1].weights.shape == (2,)
    assert all(pool.correction.size == 0 for pool in reader.pools.values())
    stacked = fitted(outputs)[1].view((0, 1))
    assert log_loss(stacked, outputs.labels) < log_loss(reading.view((0, 1)), outputs.labels) - 0.02


def test_without_stacking_many_classes_too() -> None:
    outputs = logits(400, c=MANY)
    _, reading = fitted(outputs, EvidenceSettings(stack=False))
    alone, last = reading.view((0, 1)), reading.view((1,))
    agree = alone.ranked(1) == last.ranked(1)
    assert agree.mean() > 0.9


def test_without_calibration_temperatures_are_one() -> None:
    reader, _ = fitted(logits(200), EvidenceSettings(calibrate=False))
    assert reader.temperature.tolist() == [1, 1]
    assert not (fitted(logits(200))[0].temperature == 1).any()
    assert np.isnan(fitted(answers(logits(200)))[0].temperature).all()


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_as_many_ranks_are_kept_as_are_asked_for(ranks: int) -> None:
    outputs = logits(200, c=MANY)
    _, reading = fitted(outputs, EvidenceSettings(ranks=ranks))
    assert reading.ranked.shape == (200, 2, ranks)
    view = reading.view((0, 1))
    assert view.alternatives is not None
    assert view.alternatives.shape == (200, 2 * ranks + 1)
    assert ("a~b.overlap" in view.columns) == (ranks > 1)
    told = answers(outputs, ranks=2)
    assert fitted(told, EvidenceSettings(ranks=ranks))[1].ranked.shape == (200, 2, min(ranks, 2))


def test_stages_with_rankings_of_unlike_length() -> None:
    outputs = logits(300, c=MANY)
    short, long = answers(outputs).stages[0], answers(outputs, ranks=3).stages[1]
    reader, reading = fitted(replace(outputs, stages=(short, long)))
    assert reading.ranked.shape == (300, 2, 3)
    assert (reading.ranked[:, 0, 1:] == NO_ANSWER).all()
    view = reader.read(replace(outputs, stages=(short, long))).view((0, 1))
    assert np.isfinite(view.x).all()
    np.testing.assert_allclose(np.exp(view.logp).sum(axis=1), 1, rtol=1e-5)
    assert column(view, "a~b.overlap").max() <= 1
    # no filler that both share counts as agreement
    _, both = fitted(replace(outputs, stages=(short, replace(short, name="b"), long)), paths=((0, 1),))
    assert (column(both.view((0, 1)), "a~b.overlap") == 1).all()


# --- many classes


def test_alternatives_are_the_answers_on_the_path_each_believed_once() -> None:
    outputs = logits(200, c=MANY)
    _, reading = fitted(outputs)
    view = reading.view((0, 1))
    assert view.alternatives is not None
    np.testing.assert_array_equal(view.alternatives[:, :3], reading.ranked[:, 0])
    np.testing.assert_array_equal(view.alternatives[:, 3:6], reading.ranked[:, 1])
    assert (view.alternatives[:, -1] == NO_ANSWER).all()
    for row in range(200):
        named = view.alternatives[row]
        repeated = np.array([named[i] in named[:i] for i in range(6)] + [False])
        np.testing.assert_array_equal(view.logp[row] < OUT / 2, repeated)
    everything = view.probability(view.alternatives[:, :6])
    np.testing.assert_allclose(everything + np.exp(view.logp[:, -1]), 1, atol=1e-5)


def test_what_logits_say_of_the_others_answers_is_read_from_the_logits() -> None:
    outputs = logits(100, c=MANY)
    reader, reading = fitted(outputs, PLAIN)
    said = evidence.StageLogProbabilities(reader, outputs).log_probabilities((0, 1))
    view = reading.view((0, 1))
    assert view.alternatives is not None
    for s, stage in enumerate(outputs.stages):
        assert stage.logits is not None
        logp = log_softmax(stage.logits.astype(float), axis=1)
        wanted = np.take_along_axis(logp, view.alternatives[:, :-1], axis=1)
        np.testing.assert_allclose(said[:, s, :-1], np.maximum(wanted, FLOOR), atol=1e-3)
        others = [1 - np.exp(logp[i, np.unique(view.alternatives[i, :-1])]).sum() for i in range(100)]
        np.testing.assert_allclose(np.exp(said[:, s, -1]), np.maximum(others, np.exp(FLOOR)), atol=1e-5)


def test_where_nobody_names_the_label_nobody_is_believed() -> None:
    outputs = logits(2000, c=MANY)
    reader, _ = fitted(outputs)
    test = logits(2000, c=MANY, seed=1)
    view = reader.read(test).view((0, 1))
    assert view.alternatives is not None
    missing = ~(view.alternatives == test.labels[:, None]).any(axis=1)
    assert missing.any()
    assert np.exp(view.logp[:, -1]).mean() == pytest.approx(missing.mean(), abs=0.04)
    assert np.exp(view.logp[missing, -1]).mean() > np.exp(view.logp[~missing, -1]).mean() + 0.1


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_two_ways_agree_where_all_classes_are_ranked(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_columns, "CORRECTED_CLASSES", 0)  # only where the alternatives are the classes
    monkeypatch.setattr(fitting, "CORRECTED_CLASSES", 0)
    outputs = logits(800, c=4, dtype=dtype)
    reading = fitted(outputs, EvidenceSettings(ranks=4))[1]
    few = {path: reading.view(path) for path in every_path(2)}
    monkeypatch.setattr(evidence, "MANY_CLASSES", 3)
    monkeypatch.setattr(fitting, "MANY_CLASSES", 3)
    many = fitted(outputs, EvidenceSettings(ranks=4))[1]
    for path in every_path(2):
        dense_view, sparse_view = few[path], many.view(path)
        assert dense_view.alternatives is None
        assert sparse_view.alternatives is not None
        for y in range(4):
            asked = np.full((800, 1), y)
            one, two = dense_view.probability(asked), sparse_view.probability(asked)
            assert np.abs(one - two).mean() < 0.02
        agree = dense_view.ranked(1) == sparse_view.ranked(1)
        assert agree.mean() > 0.95


# --- answers and nothing else


@pytest.mark.skipif(not IMAGENET.is_file(), reason="the embedded ImageNet answers are not there")
def test_answers_alone_tell_where_to_stop_on_imagenet() -> None:
    whole = read_parts({"fit": IMAGENET}, ("alexnet", "googlenet", "resnet50"))["fit"]
    order = np.random.default_rng(0).permutation(len(whole))
    outputs, test = whole.take(np.sort(order[:6000])), whole.take(np.sort(order[6000:9000]), "test")
    reader, held_out = fitted(outputs, paths=((0,), (0, 1)))
    for reading, part in ((held_out, outputs), (reader.read(test), test)):
        for path in ((0,), (0, 1)):
            view = reading.view(path)
            assert np.isfinite(view.x).all()
            right = view.ranked(1)[:, 0] == part.labels
            believed = view.probability(view.ranked(1))
            assert believed.mean() == pytest.approx(right.mean(), abs=0.03)
            surest = believed >= np.quantile(believed, 0.7)
            assert right[surest].mean() > right[~surest].mean() + 0.1
        alone, both = ((reading.view(path).ranked(1)[:, 0] == part.labels).mean() for path in ((0,), (0, 1)))
        assert both > alone + 0.05


# --- unusual but valid


@pytest.mark.parametrize("c", [1, 2, MANY_CLASSES, MANY_CLASSES + 1, 20_000])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_any_number_of_classes(c: int, dtype: str) -> None:
    outputs = logits(40, c=c, dtype=dtype)
    reader, held_out = fitted(outputs)
    for reading in (held_out, reader.read(outputs)):
        for path in every_path(2):
            view = reading.view(path)
            assert np.isfinite(view.x).all()
            np.testing.assert_allclose(np.exp(view.logp.astype(float)).sum(axis=1), 1, rtol=1e-4)
            assert ((view.ranked(1) >= 0) & (view.ranked(1) < c)).all()


@pytest.mark.parametrize("c", [FEW, MANY])
def test_identical_useless_and_silent_stages(c: int) -> None:
    outputs = logits(200, c=c)
    good = outputs.stages[1]
    assert good.logits is not None
    never = np.where(outputs.labels[:, None] == np.arange(c), -9, good.logits).astype(np.float32)
    for other in (good.logits, never, np.zeros_like(good.logits)):
        stages = (replace(good, name="a", logits=other), good)
        reader, held_out = fitted(replace(outputs, stages=stages))
        view = held_out.view((0, 1))
        assert np.isfinite(view.x).all()
        alone = log_loss(held_out.view((1,)), outputs.labels)
        assert log_loss(view, outputs.labels) < alone + 0.05
        assert np.isfinite(reader.read(replace(outputs, stages=stages)).view((0, 1)).x).all()


def test_logits_that_are_sure_beyond_reason_stay_within_the_floor_and_the_farthest() -> None:
    outputs = logits(200)
    stages = tuple(replace(s, logits=s.logits * 1000) for s in outputs.stages if s.logits is not None)
    _, reading = fitted(replace(outputs, stages=stages), PLAIN)
    view = reading.view((0, 1))
    assert np.isfinite(view.x).all()
    bounded = [name for name in view.columns if not name.endswith(".log_sum_exp")]
    for name in bounded:
        assert np.abs(column(view, name)).max() <= max(FARTHEST, -FLOOR) + 1e-3, name
