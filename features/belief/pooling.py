"""What several stages said about an example, turned into one distribution over its label (stacking)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from offramp.features.outputs import Floats, Ints

STACK_ROWS = 6_000
"""Examples that the pooling weights, a handful of numbers, are fitted on."""

POOL_PRIOR = 5.0
"""Strength, in examples, of the prior that the stages on a path count alike and nothing else counts."""

POOL_STEPS = 30

CORRECTED_CLASSES = 32
"""Classes up to which each class's score may be corrected by what the stages say of every other class."""

CORRECTION_ROWS = 10_000
"""Examples that the correction is fitted on at most."""

PRIOR_EXAMPLES = 30.0
"""Strength of the prior that the correction is zero, in examples: fitted coefficients of standardised log
probabilities stay near 0.1. On CIFAR-10, anything from 3 to 300 gives the same held-out log loss to 0.5 %."""

CORRECTION_STEPS = 12
"""Steps of L-BFGS; more change the held-out log loss in the fourth digit."""

FLOOR = -15.0
"""Log probabilities below are one: nobody is that sure."""

OUT = -1e4
"""Score of an alternative that is not to be chosen (a slot that repeats a class); its probability is exactly 0."""


@dataclass(frozen=True)
class Pool:
    """Pooled log-linear belief at one path: scores of m alternatives from what j stages say of each.

    ``weights`` (q,) of the alternatives' columns (see ``columns_of``), fitted by conditional logit; ``mean``,
    ``scale`` (j·c,) and ``correction`` (1 + j·c, c) add a multinomial logistic regression on all stages' log
    probabilities, empty where it was not fitted or did not help on held-out examples.
    """

    weights: Floats
    mean: Floats
    scale: Floats
    correction: Floats

    def __call__(self, columns: Floats, said: Floats, ruled_out: NDArray[np.bool_] | None) -> Floats:
        """Log belief (n, m) from ``columns`` (n, m, q), what the stages said (n, j, m), and what can't be (n, m)."""
        score = columns @ self.weights.astype(columns.dtype)
        if self.correction.size:
            score = score + self.basis(said) @ self.correction.astype(said.dtype)
        if ruled_out is not None:
            score[ruled_out] = OUT
        return _log_softmax(score)

    def basis(self, said: Floats) -> Floats:
        """Standardised log probabilities (n, 1 + j·m) of ``said`` (n, j, m), a constant first."""
        flat = said.reshape(len(said), -1)
        body = (flat - self.mean.astype(flat.dtype)) / self.scale.astype(flat.dtype)
        return np.concatenate([np.ones((len(flat), 1), flat.dtype), body], axis=1)


def columns_of(said: Floats, first: Ints, log_prior: Floats | None, silent: bool) -> Floats:
    """Columns (n, m, q) that the score of each alternative is linear in.

    ``said`` (n, j, m) log probabilities by each stage on the path; ``first`` (n, j) the stages' answers, as
    indices of alternatives; ``log_prior`` (m,) of the classes, if the alternatives are the classes. A column a
    stage, one of the prior, and one for every number, from two, of stages that give the alternative as their
    answer; if ``silent``, the last alternative is "none of the answers given" and has an intercept of its own.
    """
    n, j, m = said.shape
    votes = np.zeros((n, m), np.int8)
    for stage in range(j):
        votes[np.arange(n), first[:, stage]] += 1
    columns = [said[:, stage] for stage in range(j)]
    if log_prior is not None:
        columns.append(np.broadcast_to(log_prior.astype(said.dtype), (n, m)))
    columns += [(votes == count).astype(said.dtype) for count in range(2, j + 1)]
    if silent:
        columns.append(np.broadcast_to((np.arange(m) == m - 1).astype(said.dtype), (n, m)))
    return np.stack(columns, axis=2)


def fit_weights(columns: Floats, ruled_out: NDArray[np.bool_] | None, label: Ints, stages: int = 0) -> Pool:
    """Fit the weights of a ``Pool`` by conditional logit (McFadden, 1974).

    ``ruled_out`` (n, m) marks alternatives that can't be; ``label`` (n,) is the index of the right one; the first
    ``stages`` columns are what the stages said, each equally weighted by the prior.
    """
    rows = slice(0, STACK_ROWS)
    prior = np.zeros(columns.shape[2])
    prior[:stages] = 1 / max(stages, 1)
    offset = np.zeros(columns[rows].shape[:2]) if ruled_out is None else np.where(ruled_out[rows], OUT, 0.0)
    weights = _conditional_logit(columns[rows].astype(np.float64), offset, label[rows], prior)
    none = np.zeros(0)
    return Pool(weights, none, none, none)


def correct(pool: Pool, columns: Floats, said: Floats, label: Ints) -> Pool:
    """``pool`` with a correction fitted on top of its weights; arguments as in ``columns_of``."""
    rows = slice(0, CORRECTION_ROWS)
    flat = said[rows].reshape(len(said[rows]), -1)
    scale = flat.std(axis=0, dtype=np.float64)
    ready = Pool(pool.weights, flat.mean(axis=0, dtype=np.float64), np.where(scale > 1e-6, scale, 1.0), pool.correction)
    score = columns[rows] @ pool.weights.astype(columns.dtype)
    return replace(ready, correction=_correction(ready.basis(said[rows]), score, label[rows]))


def _conditional_logit(z: Floats, offset: Floats, label: Ints, prior: Floats) -> Floats:
    """Weights (q,), near ``prior``, under which the scores z @ w of alternatives (n, m, q) make ``label`` likeliest."""
    n, _, q = z.shape
    index = np.arange(n)
    ridge = POOL_PRIOR / n
    w = prior
    loss = np.inf
    step = np.zeros(q)
    for _ in range(POOL_STEPS):
        for _ in range(12):  # halve a Newton step that makes things worse
            logp = _log_softmax(offset + z @ (w + step))
            new = float(-logp[index, label].mean() + 0.5 * ridge * np.sum((w + step - prior) ** 2))
            if new <= loss:
                break
            step = step / 2
        if not new < loss - 1e-8:
            break
        loss, w = new, w + step
        p = np.exp(logp)
        mean = np.matmul(p[:, None, :], z)[:, 0]
        gradient = (mean - z[index, label]).mean(axis=0) + ridge * (w - prior)
        centred = ((z - mean[:, None]) * np.sqrt(p)[..., None]).reshape(-1, q)
        step = -np.linalg.solve(centred.T @ centred / n + ridge * np.eye(q), gradient)
    return w


def _correction(basis: Floats, score: Floats, label: Ints) -> Floats:
    """Coefficients (b, c) added to ``score`` (n, c): L2-penalised multinomial regression with an offset.

    Solved by L-BFGS in coordinates in which Böhning's (1992) bound on the Hessian is the identity: few steps.
    """
    n, b = basis.shape
    c = score.shape[1]
    penalty = np.full(b, PRIOR_EXAMPLES / n)
    penalty[0] = 1e-6
    bound = 0.5 * (basis.T @ basis).astype(np.float64) / n + 2 * np.diag(penalty)
    whiten = np.linalg.inv(np.linalg.cholesky(bound)).T.astype(basis.dtype)
    white = basis @ whiten
    target = np.zeros((n, c), basis.dtype)
    target[np.arange(n), label] = 1
    back = whiten.astype(np.float64)

    def objective(flat: Floats) -> tuple[float, Floats]:
        v = flat.reshape(b, c)
        logp = _log_softmax(score + white @ v.astype(basis.dtype))
        w = back @ v
        gradient = white.T @ (np.exp(logp) - target) / n + back.T @ (2 * penalty[:, None] * w)
        loss = -np.einsum("nc,nc->", logp, target, dtype=np.float64) / n + float((penalty[:, None] * w * w).sum())
        return loss, gradient.astype(np.float64).ravel()

    found = minimize(objective, np.zeros(b * c), jac=True, method="L-BFGS-B", options={"maxiter": CORRECTION_STEPS})
    return np.asarray(back @ found.x.reshape(b, c))


def _log_softmax(score: Floats) -> Floats:
    score = score - score.max(axis=1, keepdims=True)
    return np.asarray(score - np.log(np.exp(score).sum(axis=1, keepdims=True)))
