"""The value of each action estimated from the features by ridge regression on splines: one fit serves every price."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from offramp.features.checks import LARGEST_WEIGHT, Place, check_columns, check_spline
from offramp.features.numeric.spline import Spline, fit_spline
from offramp.features.outputs import Floats, Ints
from offramp.policies.policy import Decision, Fold, named

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

    @property
    def looks_at(self) -> Ints:
        """Indices of the columns that it looks at."""
        return self.columns

    def check(self, place: Place, columns: int, actions: int, prices: int) -> None:
        """Raises InputError unless every array has its shape and its bounds."""
        m = check_spline(self.spline, check_columns(self.columns, columns, place), place / "spline")
        place.floats(self.weights, (1 + m, actions - 1, prices), LARGEST_WEIGHT)

    def live(self, fold: Fold) -> Callable[[Any], Any]:
        """Splines as hinges, indicators of a class as a table, all in one product. Raises NotImplementedError for a
        hinge in an indicator, which fitting never makes."""
        spline, weights = self.spline, self.weights[:, :, 0]
        columns = [fold.names[int(i)] for i in self.columns]
        slope = weights[1:] / spline.scale[:, None]
        constant = weights[0] - spline.mean @ slope
        source, hinged = spline.column.astype(int), np.isfinite(spline.knot)
        one_hot = {i: name for i, name in enumerate(columns) if name.startswith("belief.is_")}
        kept = [i for i in range(len(columns)) if i not in one_hot and (source == i).any()]
        values = [fold.column(int(self.columns[i])) for i in kept]
        place = {i: at for at, i in enumerate(kept)}
        classes = fold.classes
        table = np.tile(constant, (classes, 1))
        terms = []  # (place, knot, least, slope): a straight line is a hinge that nothing is below of
        for i, knot, hinge, by in zip(source, spline.knot, hinged, slope, strict=True):
            if i not in one_hot:
                terms.append((place[i], knot if hinge else 0.0, 0.0 if hinge else -np.inf, by))
            elif hinge:
                raise NotImplementedError("a hinge in an indicator")
            else:
                table[int(one_hot[i].removeprefix("belief.is_"))] += by
        table = table.astype(np.float32)
        index = np.array([term[0] for term in terms], np.int64)
        knots = np.array([term[1] for term in terms], np.float32)
        least = np.array([term[2] for term in terms], np.float32)
        by = np.array([term[3] for term in terms], np.float32).reshape(len(terms), slope.shape[1])
        ops = fold.ops

        def score(seen: Any) -> Any:
            like = seen.best
            cost = fold.const(table, like)[like]
            if len(index):
                x = ops.take(ops.columns([value(seen) for value in values]), fold.const(index, like))
                x = ops.no_less(x - fold.const(knots, like), fold.const(least, like))
                cost = cost + x @ fold.const(by, like)
            if cost.shape[1] == 1:
                return cost[:, 0] < 0
            way = cost.argmin(1)
            return (ops.pick(cost, way) < 0) * (way + 1)

        return score

    def __str__(self) -> str:
        terms, columns = self.weights.shape[0], len(self.columns)
        return f"stop unless a way on looks cheaper, by {terms} spline terms of {columns} columns"


@dataclass(frozen=True)
class Value:
    """Ridge regression of each way's cost minus the cost of stopping, on linear splines with few knots.

    Least squares, not classification: the estimate is linear in the costs, so the factorised Gram matrix serves all
    prices and all actions, and any number of actions needs no reduction.
    """

    rules: ClassVar[type] = ValueRules
    parts: ClassVar[tuple[type, ...]] = ()
    columns: tuple[str, ...] = COLUMNS
    knots: int = 3
    ridge: float = 3e-3

    def reads(self, columns: tuple[str, ...], added: tuple[str, ...]) -> Ints:
        """Indices of the columns that it may look at."""
        return named(columns, (*self.columns, *added))

    def fit(self, decision: Decision) -> ValueRules:
        """One factorisation, then one product for all actions and prices."""
        columns = self.reads(decision.columns, decision.added)
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
