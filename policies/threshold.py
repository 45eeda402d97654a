"""Thresholds on one confidence: intervals of it, one an action, of exactly the least weighted cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from offramp.features.checks import FARTHEST_NUMBER, Place, check_columns
from offramp.features.outputs import Floats, Ints
from offramp.policies.cuts import best_intervals
from offramp.policies.policy import Decision, Fold, named

CANDIDATES = ("belief.doubt",)
"""Confidences tried: the best on the examples fitted on is taken. The doubt is that of the belief on the whole path;
trying its entropy too costs as much again and changed nothing on CIFAR-10."""


ROWS = 10_000
"""Examples fitted on at most where there are more than two actions (they come in random order): two or three cuts of
one number need no more, and the time doubles with every action."""


def chosen_by(x: Any, cuts: Sequence[float], order: Sequence[int]) -> Any:
    """Actions (n,) by the intervals between rising ``cuts`` (a - 1,) that x (n,) falls into; ``order`` (a,) theirs.

    In numpy or torch alike.
    """
    action = (x < cuts[0]) * order[0]
    for low, high, taken in zip(cuts, [*cuts[1:], np.inf], order[1:], strict=True):
        if taken:
            action = action + ((x >= low) & (x < high)) * taken
    return action


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

    @property
    def looks_at(self) -> Ints:
        """Indices of the columns that it looks at."""
        return self.column

    def check(self, place: Place, columns: int, actions: int, prices: int) -> None:
        """Raises InputError unless every array has its shape and its bounds."""
        check_columns(self.column, columns, place, prices)
        place.hold(isinstance(self.cuts, np.ndarray) and self.cuts.dtype == np.float64, "cuts")
        shape = (prices, actions - 1)
        place.hold(self.cuts.shape == shape, f"cuts of shape {shape}", self.cuts.shape)
        finite = np.clip(self.cuts, -FARTHEST_NUMBER, FARTHEST_NUMBER)
        place.hold((np.diff(finite, axis=1) >= 0).all() and not np.isnan(finite).any(), "cuts that rise", "others")
        place.ints(self.order, (prices, actions), 0, actions - 1)
        place.texts(self.name)
        place.hold(len(self.name) == prices, f"{prices} columns' names", len(self.name))

    def live(self, fold: Fold) -> Callable[[Any], Any]:
        """The interval that the one column falls into."""
        value = fold.column(int(self.column[0]))
        cuts, order = self.cuts[0].tolist(), [int(action) for action in self.order[0]]
        return lambda seen: chosen_by(value(seen), cuts, order)

    def __str__(self) -> str:
        names = ["stop" if a == 0 else f"go {a}" for a in self.order[0]]
        parts = [f"{names[0]} if {self.name[0]} < {self.cuts[0, 0]:.4g}"] if self.cuts.shape[1] else names
        parts += [f"{n} from {cut:.4g}" for n, cut in zip(names[1:], self.cuts[0], strict=True)]
        return ", ".join(parts)


@dataclass(frozen=True)
class Threshold:
    """Exact thresholds: every cut between two distinct values, and before the first and behind the last."""

    rules: ClassVar[type] = ThresholdRules
    parts: ClassVar[tuple[type, ...]] = ()
    candidates: tuple[str, ...] = CANDIDATES

    def reads(self, columns: tuple[str, ...], _added: tuple[str, ...]) -> Ints:
        """Indices of the columns that it may look at."""
        return tried if len(tried := named(columns, self.candidates)) else np.arange(min(1, len(columns)))

    def fit(self, decision: Decision) -> ThresholdRules:
        """For each price the column, cuts and order of actions of least total cost on the examples."""
        if decision.costs.shape[1] > 2:
            decision = decision.take(slice(0, ROWS))
        best: Floats | None = None
        for column in self.reads(decision.columns, decision.added):
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
