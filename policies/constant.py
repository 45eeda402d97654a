"""The rule that always takes the same action: it prunes a stage for free, or a jump."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from offramp.features.checks import Place
from offramp.features.outputs import Floats, Ints
from offramp.policies.policy import Decision


@dataclass(frozen=True)
class ConstantRules:
    """Always ``action`` (q,)."""

    action: Ints

    @property
    def prices(self) -> int:
        """Number q of rules."""
        return len(self.action)

    def actions(self, x: Floats) -> Ints:
        """Chosen action (n, q)."""
        return np.broadcast_to(self.action.astype(np.int8), (len(x), len(self.action)))

    def take(self, prices: Ints) -> ConstantRules:
        """The rules of some of the prices."""
        return ConstantRules(self.action[prices])

    @property
    def looks_at(self) -> Ints:
        """Indices of the columns that it looks at."""
        return np.zeros(0, np.int64)

    def check(self, place: Place, columns: int, actions: int, prices: int) -> None:  # noqa: ARG002 - it looks at none
        """Raises InputError unless every array has its shape and its bounds."""
        place.ints(self.action, (prices,), 0, actions - 1)

    def __str__(self) -> str:
        return f"always {'stop' if self.action[0] == 0 else f'go {self.action[0]}'}"


@dataclass(frozen=True)
class Constant:
    """Constant rules: for each price the action of least mean cost (ties: the first)."""

    rules: ClassVar[type] = ConstantRules
    parts: ClassVar[tuple[type, ...]] = ()

    def reads(self, _columns: tuple[str, ...], _added: tuple[str, ...]) -> Ints:
        """Indices of the columns that it may look at."""
        return np.zeros(0, np.intp)

    def fit(self, decision: Decision) -> ConstantRules:
        """The cheapest action on average, for each price."""
        return ConstantRules(decision.costs.mean(axis=0, dtype=np.float64).argmin(axis=0))

    def search_space(self) -> dict[str, tuple[Any, ...]]:
        """Nothing to choose."""
        return {}
