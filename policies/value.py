"""The value of each action estimated from the features by ridge regression on splines: one fit serves every price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from offramp.features.numeric.spline import Spline, fit_spline
from offramp.features.outputs import Floats, Ints
from offramp.policies.policy import Decision, named

COLUMNS = (
    "belief.",
    ".on_belief",
    ".same",
    ".later_on_earlier",
    ".earlier_on_later",
    ".divergence",
    ".overlap",
    ".pooled_doubt",
)
"""The belief on the path, what each stage thinks of it, how far the stages agree, and doubts by pooled features."""


@dataclass(frozen=True)
class ValueRules:
    """Take the action of least estimated cost; the estimates are linear in a spline basis of some columns.

    ``columns`` (d',); ``spline`` of them; ``weights`` (m, a-1, q): estimated cost of each action but stopping,
    minus that of stopping.
    """

    columns: Ints
    spline: Spline
    weights: Floats

    @property
    def prices(self) -> int:
        """Number q of rules."""
        return int(self.weights.shape[2])

    def advantage(self, x: Floats) -> Floats:
        """Estimated cost (n, a-1, q) of each way on, minus that of stopping."""
        m, ways, q = self.weights.shape
        basis = self.spline(x[:, self.columns])
        weights = self.weights.reshape(m, ways * q).astype(basis.dtype)
        return np.asarray((basis @ weights).reshape(len(x), ways, q))

    def actions(self, x: Floats) -> Ints:
        """Chosen action (n, q): stop unless a way on is estimated to be cheaper."""
        advantage = self.advantage(x)
        best = advantage.argmin(axis=1)
        gain = np.take_along_axis(advantage, best[:, None], axis=1)[:, 0]
        return np.where(gain < 0, best + 1, 0).astype(np.int8)

    def take(self, prices: Ints) -> ValueRules:
        """The rules of some of the prices."""
        return ValueRules(self.columns, self.spline, self.weights[:, :, prices])

    def __str__(self) -> str:
        terms, columns = self.weights.shape[0], len(self.columns)
        return f"stop unless a way on looks cheaper, by {terms} spline terms of {columns} columns"


@dataclass(frozen=True)
class Value:
    """Ridge regression of each way's cost minus the cost of stopping, on linear splines with few knots.

    Least squares, not classification: the estimate is linear in the costs, so the factorised Gram matrix serves all
    prices and all actions, and any number of actions needs no reduction.
    """

    columns: tuple[str, ...] = COLUMNS
    knots: int = 3
    ridge: float = 3e-3

    def fit(self, decision: Decision) -> ValueRules:
        """One factorisation, then one product for all actions and prices."""
        columns = named(decision.columns, self.columns)
        x = decision.x[:, columns]
        spline = fit_spline(x, self.knots)
        return ValueRules(columns, spline, ridge_regression(spline(x), decision.costs, self.ridge))

    def search_space(self) -> dict[str, tuple[Any, ...]]:
        """Ridge and knots."""
        return {"ridge": (3e-4, 3e-3, 3e-2), "knots": (1, 3, 6)}


def ridge_regression(basis: Floats, costs: Floats, ridge: float) -> Floats:
    """Coefficients (m, a-1, q) of every action's cost minus that of action 0 on ``basis`` (n, m)."""
    n, a, q = costs.shape
    target = (costs[:, 1:] - costs[:, :1]).reshape(n, (a - 1) * q)
    gram = (basis.T @ basis / n).astype(np.float64)
    gram[np.diag_indices(len(gram))] += np.where(np.arange(len(gram)) == 0, 1e-9, ridge)
    solved = cho_solve(cho_factor(gram), (basis.T @ target.astype(basis.dtype)).astype(np.float64) / n)
    return np.asarray(solved).reshape(basis.shape[1], a - 1, q)
