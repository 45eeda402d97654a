"""What a stage said, turned into probabilities that can be believed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, logsumexp

from offramp.features.belief.cooccurrence import Company, fit_company
from offramp.features.numeric.logistic import weighted_logistic
from offramp.features.numeric.spline import Spline, fit_spline
from offramp.features.outputs import NO_ANSWER, Floats, Ints, Stage

MANY_CLASSES = 64
"""Classes beyond which a class is known by its reliability alone, not by an indicator and a row of confusions."""

TEMPERATURE_ROWS = 5_000
"""Examples that a temperature, one number, is fitted on; more change it in the third digit."""

SHRINK = 5.0
"""Examples of prior belief in a class's reliability or a row of confusions (an empirical Bayes weight)."""

REGRESSION_ROWS = 20_000
"""Examples that the regression of "right" on confidence and class is fitted on (they come in random order)."""

CONFIDENCE_KNOTS = 6
RIDGE = 3e-3
LEAST = 1e-6
"""Least probability given to a class: an API's silence about a class isn't proof."""


def fit_temperature(logits: Floats, labels: Ints) -> float:
    """The temperature at which softmax(logits / T) has the least log loss on labels (n,) (Guo et al., 2017).

    >>> z = np.log([[0.9, 0.1]] * 10)
    >>> round(fit_temperature(2 * z, np.array([0] * 9 + [1])), 2)
    2.0
    """
    z = np.asarray(logits[:TEMPERATURE_ROWS], dtype=np.float64)
    y = labels[:TEMPERATURE_ROWS]
    right = z[np.arange(len(y)), y]

    def loss(log_t: float) -> float:
        t = np.exp(log_t)
        return float(np.mean(logsumexp(z / t, axis=1) - right / t))

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x))


@dataclass(frozen=True)
class AnswerCalibration:
    """How far to believe a stage that gives answers: P(label = y | answer, confidence), as fitted.

    ``names`` of the measured columns used, and whether each lies within [0, 1] (read as log odds then);
    ``reliability`` (c,) log odds that an answer of each class is right, shrunk to the mean; ``spline`` and
    ``coefficients`` the logistic regression of "right" on it and the measured columns; ``ranks`` (r,) the share
    of the wrong first answers for which the label stands at each further rank; ``confusion`` (c, c), where a wrong
    answer's label lies otherwise, (0, 0) with many classes (uniform then); ``company`` of ranked answers.
    """

    classes: int
    names: tuple[str, ...]
    bounded: tuple[bool, ...]
    reliability: Floats
    spline: Spline
    coefficients: Floats
    ranks: Floats
    confusion: Floats
    company: Company | None

    def right(self, stage: Stage) -> Floats:
        """Log odds (n,) that the first answer is right."""
        assert stage.answers is not None
        return np.asarray(
            (self.spline(self._columns(stage, self.reliability[stage.answers[:, 0]], None)) @ self.coefficients).clip(
                -12, 12
            )
        )

    def _columns(self, stage: Stage, reliability: Floats, own_right: Floats | None) -> Floats:
        """Reliability (n,) of the answers, the measured numbers, and their company if they are ranked, else with few
        classes an indicator and a slope for each; ``own_right`` as in ``Company.columns``. Both at once would let an
        example's label show: the indicators know a class's mean, the company what it is without the example."""
        assert stage.answers is not None
        columns = [reliability]
        for name, bounded in zip(self.names, self.bounded, strict=True):
            columns.append(_unbounded(np.asarray(stage.measured[name], np.float64), bounded))
        if 2 <= self.classes <= MANY_CLASSES and self.company is None:
            is_class = (stage.answers[:, :1] == np.arange(self.classes)).astype(np.float64)
            columns += [*is_class.T]
            if self.names:
                columns += [*(is_class * columns[1][:, None]).T]
        if self.company is not None:
            columns += [*self.company.columns(stage.answers, expit(reliability), own_right).T]
        return np.column_stack(columns)

    def logp(self, stage: Stage) -> Floats:
        """Log probability (n, c) of every class; for up to ``MANY_CLASSES``."""
        assert stage.answers is not None
        n, index = len(stage.answers), np.arange(len(stage.answers))
        first = stage.answers[:, 0]
        wrong = expit(-self.right(stage))
        p = self.confusion[first] * (wrong * (1 - self.ranks.sum()))[:, None]
        for rank in range(stage.answers.shape[1]):
            known = stage.answers[:, rank] != NO_ANSWER
            mass = (1 - wrong) if rank == 0 else wrong * self.ranks[rank]
            p[index[known], stage.answers[known, rank]] += mass[known]
        p = np.maximum(p, LEAST)
        return np.asarray(np.log(p / p.sum(axis=1, keepdims=True)), dtype=np.float32).reshape(n, self.classes)

    def logp_of(self, stage: Stage, candidates: Ints) -> tuple[Floats, Floats]:
        """Log probability of each of ``candidates`` (n, m), and (n,) of none of the stage's own answers."""
        assert stage.answers is not None
        wrong = expit(-self.right(stage))
        rest = wrong * (1 - self.ranks.sum())
        unnamed = max(self.classes - stage.answers.shape[1], 1)
        p = np.repeat((rest / unnamed)[:, None], candidates.shape[1], axis=1)
        for rank in range(stage.answers.shape[1] - 1, -1, -1):
            mass = (1 - wrong) if rank == 0 else wrong * self.ranks[rank]
            same = candidates == stage.answers[:, rank, None]
            p = np.where(same & (candidates != NO_ANSWER), mass[:, None], p)
        return np.log(np.maximum(p, LEAST)).astype(np.float32), np.log(np.maximum(rest, LEAST)).astype(np.float32)


def fit_answers(stage: Stage, labels: Ints, classes: int) -> AnswerCalibration:
    """Learn from labels (n,) how far to believe ``stage``'s answers; see ``AnswerCalibration``."""
    assert stage.answers is not None
    first = stage.answers[:, 0]
    right = (first == labels).astype(np.float64)
    base = (right.sum() + 1) / (len(right) + 2)
    hits = np.bincount(first, right, minlength=classes)
    count = np.bincount(first, minlength=classes)
    share = (hits + SHRINK * base) / (count + SHRINK)
    # An example's own label must not tell the regression below how reliable its class is. With indicators of the
    # classes it is the other way round: they know a class's mean, and what is left out would then be the label.
    left_out = float(classes > MANY_CLASSES or stage.answers.shape[1] > 1)
    without = (hits[first] - left_out * right + SHRINK * base) / (count[first] - left_out + SHRINK)
    stands = stage.answers == labels[:, None]
    rank = stands.argmax(axis=1)[stands.any(axis=1) & (right == 0)]  # the first of them: an answer may stand twice
    ranks = np.bincount(rank, minlength=stands.shape[1]) / max(len(right) - right.sum(), 1.0)
    nothing = fit_spline(np.zeros((2, 1)), 0)
    blank = AnswerCalibration(
        classes,
        tuple(stage.measured),
        tuple(bool(column.min() >= 0 and column.max() <= 1) for column in stage.measured.values()),
        np.asarray(logit(share)),
        nothing,
        np.zeros(1),
        ranks,
        _confusion(first, labels, classes) if classes <= MANY_CLASSES else np.zeros((0, 0)),
        fit_company(stage.answers, right, classes) if stage.answers.shape[1] > 1 else None,
    )
    x = blank._columns(stage, np.asarray(logit(without)), right)
    spline = fit_spline(x, CONFIDENCE_KNOTS)
    rows = slice(0, REGRESSION_ROWS)
    # Standardised, the indicator of a rare class would hardly feel the ridge: one example would make it look perfect.
    # Not scaled up beyond this, it feels ``SHRINK`` examples, each with the curvature of a coin's toss.
    spline = replace(spline, scale=np.maximum(spline.scale, np.sqrt(SHRINK / (4 * RIDGE * len(right[rows])))))
    w = weighted_logistic(spline(x[rows]), right[rows, None], np.ones((len(right[rows]), 1)), RIDGE)
    return replace(blank, spline=spline, coefficients=w[:, 0])


def _unbounded(confidence: Floats, bounded: bool) -> Floats:
    """Numbers within [0, 1] as log odds, others as they are: a spline wants the tails spread out."""
    return np.asarray(logit(np.clip(confidence, 1e-4, 1 - 1e-4))) if bounded else confidence


def _confusion(answer: Ints, labels: Ints, classes: int) -> Floats:
    """(c, c): where the label lies when an answer of each class is wrong, shrunk to how common labels are."""
    prior = (np.bincount(labels, minlength=classes) + 1.0) / (len(labels) + classes)
    counts = SHRINK * np.broadcast_to(prior, (classes, classes)).copy()
    np.add.at(counts, (answer, labels), 1.0)
    np.fill_diagonal(counts, 0.0)
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), LEAST))
