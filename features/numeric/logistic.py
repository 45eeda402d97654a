"""Many weighted logistic regressions on the same examples, solved together by Newton's method."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from offramp.features.outputs import Floats

STEPS = 12
"""Newton steps at most; from a zero start and with some ridge, eight are enough to reach ``TOLERANCE``."""

TOLERANCE = 3e-3
"""Largest change of a coefficient (of standardised columns) at which all problems are called solved."""

LONGEST_STEP = 4.0
"""Longest Newton step taken in any coefficient: keeps nearly separable problems from overshooting. A longer one is
shortened as a whole: cut coefficient by coefficient it would point elsewhere, perhaps uphill."""


def weighted_logistic(x: Floats, positive: Floats, weight: Floats, ridge: float) -> Floats:
    """Coefficients (m, q) of q problems: minimise mean weighted log loss + ridge / 2 · |w|², first column free.

    ``x`` (n, m), standardised, its first column ones; all in its dtype. ``positive`` (n, q) in [0, 1]; ``weight``
    (n, q), each column normalised here to sum one, so that neither its unit nor copying rows changes the solution.
    All Hessians of a step come from one matrix product of column pairs with the q curvature weights.
    """
    m = x.shape[1]
    q = positive.shape[1]
    total = weight.sum(axis=0, dtype=np.float64)
    weight = weight / np.where(total > 0, total, 1.0).astype(x.dtype)
    left, right = np.triu_indices(m)
    together = 2 * q > m  # else one product a problem is less work than all pairs of columns
    pairs = x[:, left] * x[:, right] if together else x[:, :0]
    penalty = np.full(m, ridge)
    penalty[0] = 1e-9  # free, but solvable where a problem has no weight at all
    w = np.zeros((m, q))
    hessian = np.empty((q, m, m))
    for _ in range(STEPS):
        p = expit(x @ w.astype(x.dtype))
        gradient = (x.T @ (weight * (p - positive))).astype(np.float64) + penalty[:, None] * w
        curvature = weight * p * (1 - p)
        if together:
            hessian[:, left, right] = hessian[:, right, left] = (pairs.T @ curvature).T
        else:
            for i in range(q):
                hessian[i] = (x * curvature[:, [i]]).T @ x
        step = np.linalg.solve(hessian + np.diag(penalty + 1e-9), gradient.T[..., None])[..., 0].T
        step *= LONGEST_STEP / np.maximum(np.abs(step).max(axis=0), LONGEST_STEP)
        w -= step
        if np.abs(step).max(initial=0.0) < TOLERANCE:
            break
    # On few examples that a line parts, Newton may overshoot to where even no line at all is better.
    score = x @ w.astype(x.dtype)
    loss = (weight * (np.logaddexp(0, score) - positive * score)).sum(axis=0, dtype=np.float64)
    loss += 0.5 * (penalty[:, None] * w * w).sum(axis=0)
    return np.where(loss <= np.log(2), w, 0.0)
