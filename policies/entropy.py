"""Thresholds on entropy: one at a time as a policy, or the vector over all exits at once, as in BranchyNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from offramp.features.outputs import Ints
from offramp.policies.cuts import best_intervals
from offramp.policies.policy import Decision
from offramp.policies.threshold import ThresholdRules

OWN = ".entropy"


@dataclass(frozen=True)
class Entropy:
    """An exact cut on the entropy of the last stage's own probabilities, as they are (Teerapittayanon et al., 2016).

    Where the decision has no such column, as with answers alone, on its first column.
    """

    rules: ClassVar[type] = ThresholdRules
    parts: ClassVar[tuple[type, ...]] = ()

    def reads(self, columns: tuple[str, ...], _added: tuple[str, ...]) -> Ints:
        """Indices of the columns that it may look at."""
        return np.array([own_column(columns, OWN)][: len(columns)], np.intp)

    def fit(self, decision: Decision) -> ThresholdRules:
        """For each price the cuts of least total cost on the examples."""
        return cut_one(decision, own_column(decision.columns, OWN))

    def search_space(self) -> dict[str, tuple[Any, ...]]:
        """Nothing to tune."""
        return {}


def own_column(columns: tuple[str, ...], suffix: str) -> int:
    """The last stage's column of that name; of all columns the first if there is none."""
    owned = [i for i, name in enumerate(columns) if name.endswith(suffix) and not name.startswith("belief.")]
    return owned[-1] if owned else 0


def cut_one(decision: Decision, column: int) -> ThresholdRules:
    """Intervals of one column."""
    if not decision.x.shape[1]:
        raise ValueError("a threshold needs at least one column, found none")
    _, cuts, order = best_intervals(decision.x[:, column], decision.costs)
    prices = len(cuts)
    return ThresholdRules(np.full(prices, column), cuts, order, (decision.columns[column],) * prices)
