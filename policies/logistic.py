"""Logistic regression on confidence features: the paper's policy, weighted by what a wrong turn costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from offramp.features.checks import LARGEST_WEIGHT, LEAST_SCALE, Place, check_columns
from offramp.features.numeric.logistic import weighted_logistic
from offramp.features.outputs import Floats, Ints
from offramp.policies.policy import Decision, Fold, named

COLUMNS = (".entropy", ".margin", ".confidence", ".reliability", ".same", ".pooled_doubt")
"""Entropy above all (Bolukbasi et al., 2017), the other confidences, whether the stages agree, and, where there are
pooled features, which the paper tried too, the doubt that they give."""


ROWS = 10_000
"""Examples fitted on at most (they come in random order): a dozen weights need no more."""


@dataclass(frozen=True)
class LogisticRules:
    """A tournament of linear rules: action a-1 meets a-2, the winner a-3, …, the last winner meets 0 (stop).

    ``columns`` (d',), ``mean`` and ``scale`` (d',) standardise them; ``weights`` (a-1, 1+d', q): match j is
    between action j and the winner among the later ones; a positive score keeps the later one.
    """

    columns: Ints
    mean: Floats
    scale: Floats
    weights: Floats

    @property
    def prices(self) -> int:
        """Number q of rules."""
        return int(self.weights.shape[2])

    def actions(self, x: Floats) -> Ints:
        """Chosen action (n, q)."""
        basis = _standardised(x[:, self.columns], self.mean, self.scale)
        matches = len(self.weights)
        winner = np.full((len(x), self.prices), matches, np.int8)
        for j in range(matches - 1, -1, -1):
            winner = np.where(basis @ self.weights[j].astype(basis.dtype) > 0, winner, np.int8(j))
        return winner

    def take(self, prices: Ints) -> LogisticRules:
        """The rules of some of the prices."""
        return LogisticRules(self.columns, self.mean, self.scale, self.weights[:, :, prices])

    @property
    def looks_at(self) -> Ints:
        """Indices of the columns that it looks at."""
        return self.columns

    def check(self, place: Place, columns: int, actions: int, prices: int) -> None:
        """Raises InputError unless every array has its shape and its bounds."""
        d = check_columns(self.columns, columns, place)
        place.floats(self.mean, (d,))
        place.floats(self.scale, (d,), least=LEAST_SCALE)
        place.floats(self.weights, (actions - 1, 1 + d, prices), LARGEST_WEIGHT)

    def live(self, fold: Fold) -> Callable[[Any], Any]:
        """All matches in one product."""
        values = [fold.column(int(i)) for i in self.columns]
        slope = self.weights[:, 1:, 0] / self.scale
        constant = self.weights[:, 0, 0] - slope @ self.mean
        matrix, bias = slope.T.astype(np.float32), constant.astype(np.float32)
        matches, ops = len(self.weights), fold.ops

        def score(seen: Any) -> Any:
            like = seen.best
            keeps = (ops.columns([value(seen) for value in values]) @ fold.const(matrix, like)) + fold.const(bias, like)
            winner = (keeps[:, -1] > 0) * 1 + (matches - 1)
            for j in range(matches - 2, -1, -1):
                kept = keeps[:, j] > 0
                winner = kept * winner + (~kept) * j
            return winner

        return score

    def __str__(self) -> str:
        return f"stop where a linear score of {len(self.columns)} columns is at most 0"


@dataclass(frozen=True)
class Logistic:
    """Weighted binary classification with the logistic loss; three and more actions by a filter tree.

    The reduction (Beygelzimer, Langford & Ravikumar, 2009): a tournament fitted from its leaves, each match a
    binary problem whose label is the cheaper of the two entrants and whose weight is the difference, given the
    matches already fitted. It fits the bottom-up order, needs a-1 problems and bounds the regret of the tournament
    by that of its matches; one-against-all would have to compare scores of unlike problems.
    """

    rules: ClassVar[type] = LogisticRules
    parts: ClassVar[tuple[type, ...]] = ()
    columns: tuple[str, ...] = COLUMNS
    ridge: float = 1e-3

    def reads(self, columns: tuple[str, ...], added: tuple[str, ...]) -> Ints:
        """Indices of the columns that it may look at."""
        return named(columns, (*self.columns, *added))

    def fit(self, decision: Decision) -> LogisticRules:
        """All prices at once, the deepest jump first."""
        decision = decision.take(slice(0, ROWS))
        columns = self.reads(decision.columns, decision.added)
        x = decision.x[:, columns]
        scale = x.std(axis=0, dtype=np.float64)
        columns, x, scale = columns[scale > 1e-9], x[:, scale > 1e-9], scale[scale > 1e-9]
        mean = x.mean(axis=0, dtype=np.float64)
        basis = _standardised(x, mean, scale)
        _, a, q = decision.costs.shape
        weights = np.empty((a - 1, basis.shape[1], q))
        later = decision.costs[:, a - 1]
        for j in range(a - 2, -1, -1):
            gain = decision.costs[:, j] - later  # positive: going on is cheaper
            weights[j] = weighted_logistic(
                basis, (gain > 0).astype(basis.dtype), np.abs(gain).astype(basis.dtype), self.ridge
            )
            later = np.where(basis @ weights[j].astype(basis.dtype) > 0, later, decision.costs[:, j])
        return LogisticRules(columns, mean, scale, weights)

    def search_space(self) -> dict[str, tuple[Any, ...]]:
        """Ridge and which columns."""
        return {"ridge": (1e-4, 1e-3, 1e-2), "columns": (COLUMNS, (".entropy",))}


def _standardised(x: Floats, mean: Floats, scale: Floats) -> Floats:
    body = (x - mean.astype(x.dtype)) / scale.astype(x.dtype)
    return np.concatenate([np.ones((len(x), 1), x.dtype), body], axis=1)
