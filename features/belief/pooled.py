"""A network's pooled features turned into the log odds that its answer is wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offramp.features.numeric.logistic import weighted_logistic
from offramp.features.outputs import Floats, Ints

COMPONENTS = 64
"""Principal components kept: a regression on thousands of features would learn the examples by heart."""

ROWS = 10_000
"""Examples that components and regression are fitted on at most (they come in random order)."""

RIDGE = 1e-2
"""In units of standardised components; from 1e-3 to 1e-1 nothing changes by more than chance."""

FARTHEST = 15.0
"""Log odds beyond which one doubt is as good as another, as in ``features.confidence``."""


@dataclass(frozen=True)
class PooledDoubt:
    """Log odds, linear in the principal components of pooled features: ``mean`` (m,), ``weights`` (m,), ``bias``."""

    mean: Floats
    weights: Floats
    bias: float

    def __call__(self, pooled: Floats) -> Floats:
        """Log odds (n,) float32 that the stage's answer is wrong, from its pooled features (n, m)."""
        score = (np.asarray(pooled, dtype=np.float64) - self.mean) @ self.weights + self.bias
        return np.clip(score, -FARTHEST, FARTHEST).astype(np.float32)


def fit_pooled(pooled: Floats, wrong: Ints) -> PooledDoubt:
    """Logistic regression of ``wrong`` (n,), 0 or 1, on the leading components of ``pooled`` (n, m).

    >>> x = np.linspace(-1, 1, 200)[:, None]
    >>> doubt = fit_pooled(x, (x[:, 0] > 0.5).astype(int))
    >>> bool(doubt(np.array([[1.0]]))[0] > 0 > doubt(np.array([[-1.0]]))[0])
    True
    """
    x = np.asarray(pooled[:ROWS], dtype=np.float64)
    mean = x.mean(axis=0)
    centred = x - mean
    variance, axes = np.linalg.eigh(centred.T @ centred / len(x))
    kept = np.flatnonzero(variance > 1e-9 * max(float(variance[-1]), 1e-30))[-COMPONENTS:]
    directions = axes[:, kept] / np.sqrt(variance[kept])
    basis = np.column_stack([np.ones(len(x)), centred @ directions])
    target = np.asarray(wrong[:ROWS], dtype=np.float64)[:, None]
    found = weighted_logistic(basis, target, np.ones_like(target), RIDGE)[:, 0]
    return PooledDoubt(mean, directions @ found[1:], float(found[0]))
