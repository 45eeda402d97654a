"""Thresholds on one confidence: intervals of it, one an action, of exactly the least weighted cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from offramp.features.outputs import Floats, Ints
from offramp.policies.cuts import best_intervals
from offramp.policies.policy import Decision, named

CANDIDATES = ("belief.doubt",)
"""Confidences tried: the best on the examples fitted on is taken. The doubt is that of the belief on the whole path;
trying its entropy too costs as much again and changed nothing on CIFAR-10."""


ROWS = 10_000
"""Examples fitted on at most where there are more than two actions (they come in random order): two or three cuts of
one number need no more, and the time doubles with every action."""


@dataclass(frozen=True)
class ThresholdRules:
    """Rules by intervals: for price i, action ``order[i, j]`` where ``cuts[i, j-1] <= x[:, column[i]] < cuts[i, j]``.

    ``cuts`` (q, a-1), rising, may be infinite; ``order`` (q, a); ``column`` (q,); ``name`` of each column, for
    reading.
    """

    column: Ints
    cuts: Floats
    order: Ints
    name: tuple[str, ...]

    @property
    def prices(self) -> int:
        """Number q of rules."""
        return len(self.column)

    def actions(self, x: Floats) -> Ints:
        """Chosen action (n, q)."""
        out = np.empty((len(x), self.prices), np.int8)
        for i in range(self.prices):
            interval = np.searchsorted(self.cuts[i], x[:, self.column[i]].astype(np.float64), side="right")
            out[:, i] = self.order[i][interval]
        return out

    def take(self, prices: Ints) -> ThresholdRules:
        """The rules of some of the prices."""
        names = tuple(self.name[int(i)] for i in prices)
        return ThresholdRules(self.column[prices], self.cuts[prices], self.order[prices], names)

    def __str__(self) -> str:
        names = ["stop" if a == 0 else f"go {a}" for a in self.order[0]]
        parts = [f"{names[0]} if {self.name[0]} < {self.cuts[0, 0]:.4g}"] if self.cuts.shape[1] else names
        parts += [f"{n} from {cut:.4g}" for n, cut in zip(names[1:], self.cuts[0], strict=True)]
        return ", ".join(parts)


@dataclass(frozen=True)
class Threshold:
    """Exact thresholds: every cut between two distinct values, and before the first and behind the last."""

    candidates: tuple[str, ...] = CANDIDATES

    def fit(self, decision: Decision) -> ThresholdRules:
        """For each price the column, cuts and order of actions of least total cost on the examples."""
        if decision.costs.shape[1] > 2:
            decision = decision.take(slice(0, ROWS))
        best: Floats | None = None
        tried = named(decision.columns, self.candidates)
        for column in tried if len(tried) else range(min(1, decision.x.shape[1])):
            total, cuts, order = best_intervals(decision.x[:, column], decision.costs)
            if best is None:
                best, all_cuts, all_orders = total, cuts, order
                columns = np.full(len(total), column)
            else:
                better = total < best
                best = np.where(better, total, best)
                all_cuts[better], all_orders[better], columns[better] = cuts[better], order[better], column
        if best is None:
            raise ValueError("a threshold needs at least one column, found none")
        return ThresholdRules(columns, all_cuts, all_orders, tuple(decision.columns[c] for c in columns))

    def search_space(self) -> dict[str, tuple[Any, ...]]:
        """Which confidences are tried."""
        return {"candidates": (CANDIDATES, ("belief.doubt", "belief.entropy"), ("max_probability", "confidence"))}
