"""Gates: exits that say themselves whether to stop, trained with the network (Scardapane et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from offramp.features.outputs import Ints
from offramp.policies.entropy import cut_one, own_column
from offramp.policies.policy import Decision
from offramp.policies.threshold import ThresholdRules

OWN = ".gate"


@dataclass(frozen=True)
class Gate:
    """Stop where the last stage's gate, the log odds of stopping, is high enough; else go on to the next exit.

    ``tuned``: the cut on the gate is the best for each price; else it is 0, the gate's own decision (stop when it is
    above one half), whatever the price. Without a gate among the columns, the first column stands for it.
    """

    rules: ClassVar[type] = ThresholdRules
    parts: ClassVar[tuple[type, ...]] = ()

    tuned: bool = True

    def reads(self, columns: tuple[str, ...], _added: tuple[str, ...]) -> Ints:
        """Indices of the columns that it may look at."""
        return np.array([own_column(columns, OWN)][: len(columns)], np.intp)

    def fit(self, decision: Decision) -> ThresholdRules:
        """Rules by the gate alone."""
        column = own_column(decision.columns, OWN)
        if self.tuned:
            return cut_one(decision, column)
        _, actions, prices = decision.costs.shape
        # action 1 below the cut, 0 from it on; the others have no room between cuts that are one
        cuts = np.full((prices, actions - 1), np.inf)
        cuts[:, 0] = 0.0
        order = np.tile([1, 0, *range(2, actions)], (prices, 1))
        return ThresholdRules(np.full(prices, column), cuts, order, (decision.columns[column],) * prices)

    def search_space(self) -> dict[str, tuple[Any, ...]]:
        """Nothing to tune: the gate's own decision is there for comparison, not to be picked."""
        return {}
