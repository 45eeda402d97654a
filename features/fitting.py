"""Labelled outputs turned into a fitted reader and held-out evidence."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp.features.belief.calibration import MANY_CLASSES, fit_answers, fit_temperature
from offramp.features.belief.pooled import PooledDoubt, fit_pooled
from offramp.features.belief.pooling import CORRECTED_CLASSES, Pool, correct, fit_weights
from offramp.features.evidence import Reader, Reading, StageLogProbabilities, _view
from offramp.features.outputs import Floats, Ints, Outputs, Stage

if TYPE_CHECKING:
    from offramp.features.evidence import EvidenceSettings, Path

FEW = 4_000
"""Examples up to which the pooling weights, too, are cross-fitted; beyond, six numbers can't tell who fitted them."""


def fit_reader(
    outputs: Outputs,
    paths: tuple[Path, ...],
    folds: Ints,
    settings: EvidenceSettings,
    known: MutableMapping[Any, Any] | None = None,
) -> tuple[Reader, Reading]:
    """Fit a reader on all examples, and give their evidence as readers that did not see them would.

    ``folds`` (n,) fold of each example. Temperatures, one number each, are fitted on all, and so are the pooling
    weights of more than ``FEW`` examples; calibrations of answers and corrections by class are cross-fitted.

    ``known``: what was fitted before on the same examples in the same folds, perhaps for other settings or paths, by
    all that it depends on; it is used and added to. Every part is fitted only once then, and found the same.
    """
    labels, c = outputs.labels, outputs.classes
    memo: MutableMapping[Any, Any] = {} if known is None else known
    dense = c <= MANY_CLASSES
    prior = np.log((np.bincount(labels, minlength=c) + 1.0) / (len(labels) + c)) if dense else np.zeros(0)
    temperature = np.array(
        [
            _once(memo, ("temperature", stage.name, settings.calibrate), lambda: _temperature(stage, labels, settings))  # noqa: B023
            for stage in outputs.stages
        ]
    )
    answering = [s for s, stage in enumerate(outputs.stages) if stage.logits is None]
    calibration = {s: fit_answers(outputs.stages[s], labels, c) for s in answering}
    reader = Reader(settings, outputs.names, c, temperature, calibration, prior, {})
    said = _held_out_log_probabilities(reader, outputs, folds)
    if settings.pooled:
        reader = replace(reader, pooled=_fit_doubts(said, outputs, folds, memo))
    pools: dict[Path, Pool] = {}
    beliefs: dict[Path, Floats] = {}

    def fit(path: Path) -> None:
        # with few classes the alternatives are the classes, however many ranks are kept; with many, all stages' ranks
        ranks = 0 if dense else said.ranked.shape[2]
        key = ("pool", tuple(outputs.names[s] for s in path), settings.calibrate, settings.stack, ranks)
        pools[path], beliefs[path] = _once(memo, key, lambda: _fit_pool(said, path, labels, folds))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(fit, paths))
    reader = replace(reader, pools={path: pools[path] for path in paths})
    return reader, Reading(said.ranked, lambda path, reads: _view(reader, said, path, beliefs[path], reads))


def _once(memo: MutableMapping[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
    if key not in memo:
        memo[key] = make()
    return memo[key]


def _fit_doubts(
    said: StageLogProbabilities, outputs: Outputs, folds: Ints, memo: MutableMapping[Any, Any]
) -> dict[int, PooledDoubt]:
    """Doubts by pooled features, fitted on all; ``said`` gets those of fits that did not see the example's fold."""
    found = {}
    for s, stage in enumerate(outputs.stages):
        pooled = stage.pooled
        if pooled is not None:
            wrong = (said.ranked[:, s, 0] != outputs.labels).astype(np.int64)
            key = ("doubt", stage.name)
            found[s], said.doubts[s] = _once(memo, key, lambda: _fit_doubt(pooled, wrong, folds))  # noqa: B023
    return found


def _fit_doubt(pooled: Floats, wrong: Ints, folds: Ints) -> tuple[PooledDoubt, Floats]:
    held_out = np.empty(len(wrong), np.float32)
    for fold in np.unique(folds):
        rows, rest = folds == fold, folds != fold
        held_out[rows] = fit_pooled(pooled[rest], wrong[rest])(pooled[rows])
    return fit_pooled(pooled, wrong), held_out


def _temperature(stage: Stage, labels: Ints, settings: EvidenceSettings) -> float:
    if stage.logits is None:
        return float("nan")
    return fit_temperature(stage.logits, labels) if settings.calibrate and stage.logits.shape[1] > 1 else 1.0


def _held_out_log_probabilities(reader: Reader, outputs: Outputs, folds: Ints) -> StageLogProbabilities:
    """What the stages say, where calibrations of answers come from the other folds."""
    said = StageLogProbabilities(reader, outputs)
    if not reader.calibration:
        return said
    return HeldOutLogProbabilities(reader, outputs, folds, said)


class HeldOutLogProbabilities(StageLogProbabilities):
    """As ``StageLogProbabilities``, but every fold's answers are calibrated by what was fitted on the other folds."""

    def __init__(self, reader: Reader, outputs: Outputs, folds: Ints, whole: StageLogProbabilities) -> None:
        self.reader, self.stages, self.confidences, self.ranked = reader, whole.stages, whole.confidences, whole.ranked
        self.doubts = whole.doubts
        self.parts: list[tuple[Ints, StageLogProbabilities]] = []
        for fold in np.unique(folds):
            rest, rows = outputs.take(np.flatnonzero(folds != fold)), np.flatnonzero(folds == fold)
            fitted = {s: fit_answers(rest.stages[s], rest.labels, reader.classes) for s in reader.calibration}
            self.parts.append((rows, StageLogProbabilities(replace(reader, calibration=fitted), outputs.take(rows))))
        self.logp = []
        if reader.dense:
            for s in range(len(outputs.stages)):
                self.logp.append(self._gather(s))

    def _sparse(self, s: int, classes: Ints) -> Floats:
        out = np.empty((len(classes), classes.shape[1] + 1), np.float32)
        for rows, said in self.parts:
            out[rows] = said._sparse(s, classes[rows])
        return out

    def _gather(self, s: int) -> Floats:
        out = np.empty((len(self.ranked), self.reader.classes), np.float32)
        for rows, said in self.parts:
            out[rows] = said.logp[s]
        return out


def _fit_pool(said: StageLogProbabilities, path: Path, labels: Ints, folds: Ints) -> tuple[Pool, Floats]:
    """The pool of one path, and the held-out log belief (n, m) of the examples it was fitted on."""
    columns, spoken, out = said.at(path)
    classes = said.alternatives(path)
    if classes is None:
        target = labels
    else:
        named = (classes == labels[:, None]) & ~(out if out is not None else False)
        target = np.where(named.any(axis=1), named.argmax(axis=1), classes.shape[1] - 1)
    stages = spoken.shape[1]
    pool = fit_weights(columns, out, target, stages)
    corrected = classes is None and spoken.shape[2] <= CORRECTED_CLASSES and said.reader.settings.stack
    plain = pool(columns, spoken, out)
    held_out = np.empty_like(plain)
    few = len(labels) <= FEW
    for fold in np.unique(folds) if few or corrected else ():
        rows, rest = folds == fold, folds != fold
        kept = None if out is None else out[rest]
        fitted = fit_weights(columns[rest], kept, target[rest], stages) if few else pool
        plain[rows] = fitted(columns[rows], spoken[rows], None if out is None else out[rows])
        if corrected:
            better = correct(fitted, columns[rest], spoken[rest], target[rest])
            held_out[rows] = better(columns[rows], spoken[rows], None)
    if not corrected:
        return pool, plain
    index = np.arange(len(labels))
    if not surely_positive(held_out[index, target] - plain[index, target]):
        return pool, plain
    return correct(pool, columns, spoken, target), held_out


def surely_positive(gain: Floats) -> bool:
    """Whether the mean of n gains is more than its standard error: what brings less is not worth its risk."""
    return bool(gain.mean() > gain.std() / np.sqrt(len(gain)))
