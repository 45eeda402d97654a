"""Numbers turned into a piecewise linear basis: hinges at quantiles, standardised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offramp.features.outputs import Floats


@dataclass(frozen=True)
class Spline:
    """Linear splines of d columns and a constant, as fitted by ``fit_spline``.

    ``column`` (m,) and ``knot`` (m,): basis function j is max(0, x[:, column[j]] - knot[j]), or x itself where
    ``knot`` is -inf. ``mean`` and ``scale`` (m,) standardise it.
    """

    column: Floats
    knot: Floats
    mean: Floats
    scale: Floats

    def __call__(self, x: Floats) -> Floats:
        """Basis (n, 1 + m) of ``x`` (n, d): a constant, then the standardised functions; dtype of ``x``."""
        out = np.empty((len(x), 1 + len(self.column)), x.dtype)
        out[:, 0] = 1
        body = out[:, 1:]
        np.take(x, self.column.astype(np.intp), axis=1, out=body)
        hinged = np.isfinite(self.knot)
        body[:, hinged] = np.maximum(body[:, hinged] - self.knot[hinged].astype(x.dtype), 0)
        body -= self.mean.astype(x.dtype)
        body /= self.scale.astype(x.dtype)
        return out


def fit_spline(x: Floats, knots: int) -> Spline:
    """A spline with at most ``knots`` hinges a column of ``x`` (n, d), at its quantiles.

    Constant columns are dropped; columns of two values get no hinge; repeated quantiles count once. Hinges are at
    values that occur, so copying the examples moves none.

    >>> spline = fit_spline(np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [3.0, 1.0]]), knots=1)
    >>> spline.column.tolist(), spline.knot.tolist()
    ([0.0, 0.0], [-inf, 1.0])
    """
    column: list[float] = []
    knot: list[float] = []
    at = np.linspace(0, 1, knots + 2)[1:-1]
    for j in range(x.shape[1]):
        low, high = x[:, j].min(), x[:, j].max()
        if low == high:
            continue
        inner = np.unique(np.quantile(x[:, j], at, method="inverted_cdf")) if knots else np.empty(0)
        inner = inner[(inner > low) & (inner < high)]
        column += [float(j)] * (1 + len(inner))
        knot += [-np.inf, *inner.tolist()]
    raw = Spline(np.array(column), np.array(knot), np.zeros(len(column)), np.ones(len(column)))
    basis = raw(x.astype(np.float64))[:, 1:]
    scale = basis.std(axis=0)
    return Spline(raw.column, raw.knot, basis.mean(axis=0), np.where(scale > 1e-12, scale, 1.0))
