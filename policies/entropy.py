"""Thresholds on entropy: one at a time as a policy, or the vector over all exits at once, as in BranchyNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from features.outputs import Floats
from policies.policy import Decision
from policies.threshold import ThresholdRules, best_intervals

OWN = ".entropy"


@dataclass(frozen=True)
class Entropy:
    """An exact cut on the entropy of the last stage's own probabilities, as they are (Teerapittayanon et al., 2016).

    Where the decision has no such column, as with answers alone, on its first column.
    """

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


def best_pair(
    first: Floats, second: Floats, losses: tuple[Floats, Floats, Floats], spent: tuple[float, float], prices: Floats
) -> tuple[Floats, Floats]:
    """The two cuts that are best together for each price, exactly: (p, 2), and the mean of loss + price * cost, (p,).

    An example stops at the first exit if ``first`` (n,) is at least the first cut, else at the second if ``second``
    (n,) is at least the second cut, else at the third; there it loses what ``losses`` (three of (n,)) say. ``spent``:
    cost of going on to the second exit, and from there to the third. -inf always stops, inf never.

    Every pair of cuts is covered: examples enter in the order of ``first``, each into a tree over the values of
    ``second`` whose nodes know the sum and the least prefix sum of what going on costs, for all prices at once. That
    is O(p n log n), where comparing all pairs takes O(p n^2).

    >>> one, two = np.array([0.9, 0.1, 0.2, 0.3]), np.array([0.5, 0.9, 0.2, 0.8])
    >>> losses = (np.array([0.0, 1, 1, 1]), np.array([0.0, 0, 1, 0]), np.zeros(4))
    >>> cuts, value = best_pair(one, two, losses, (1.0, 1.0), np.array([0.1]))
    >>> cuts.tolist(), value.round(9).tolist()
    ([[0.9, 0.5]], [0.1])
    """
    n, p = len(first), len(prices)
    here, there, last = (np.asarray(loss, float) for loss in losses)
    go = np.asarray(prices, float)
    values, rank = np.unique(second, return_inverse=True)
    size = 1 << max(len(values) - 1, 0).bit_length()
    total, least = np.zeros((2 * size, p)), np.zeros((2 * size, p))
    order = np.argsort(first, kind="stable")
    rising = first[order]
    stopping = float(here.sum())
    best = np.full(p, stopping)
    going_at = np.zeros(p, np.intp)  # how many go on past the first exit
    passed = np.zeros(p)
    for k, i in enumerate(order.tolist(), start=1):
        stopping -= here[i]
        passed += there[i] + go * spent[0]
        node = size + int(rank[i])
        total[node] += last[i] - there[i] + go * spent[1]
        np.minimum(total[node], 0.0, out=least[node])
        while node > 1:
            node //= 2
            left = 2 * node
            np.add(total[left], total[left + 1], out=total[node])
            np.minimum(least[left], total[left] + least[left + 1], out=least[node])
        if k == n or rising[k] > rising[k - 1]:
            value = stopping + passed + least[1]
            better = value < best - 1e-12 * n
            best[better], going_at[better] = value[better], k
    cuts = np.empty((p, 2))
    for j in range(p):
        k = int(going_at[j])
        cuts[j, 0] = -np.inf if k == 0 else np.inf if k == n else rising[k]
        rows = order[:k]
        gain = np.bincount(rank[rows], (last - there)[rows] + go[j] * spent[1], minlength=len(values))
        running = np.concatenate([[0.0], np.cumsum(gain)])
        at = int(running.argmin())
        cuts[j, 1] = -np.inf if at == 0 else np.inf if at == len(values) else values[at]
    return cuts, best / n


def knee(cost: Floats, accuracy: Floats) -> int:
    """Index of the point farthest above the line from the cheapest to the dearest point of a curve (m,).

    What BranchyNet calls the knee of accuracy against time, made exact as Satopaa et al. (2011) do, on both scaled to
    0 ... 1. Of points that are dominated none is taken.

    >>> knee(np.array([1.0, 2.0, 3.0, 6.0]), np.array([0.5, 0.8, 0.9, 0.92]))
    2
    """
    order = np.lexsort((-accuracy, cost))
    kept = order[np.concatenate([[True], np.maximum.accumulate(accuracy[order])[:-1] < accuracy[order][1:]])]
    c, a = cost[kept], accuracy[kept]
    if len(kept) == 1 or c[-1] == c[0]:
        return int(kept[-1])
    above = (a - a[0]) / (a[-1] - a[0]) - (c - c[0]) / (c[-1] - c[0])
    return int(kept[above.argmax()])


def paper_grid(exits: int) -> Floats:
    """Vectors of entropy thresholds (m, exits) as BranchyNet screens them: all combinations of one list of values."""
    values = np.array([0.0, 1e-4, 1e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, np.inf])
    return np.stack(np.meshgrid(*[values] * exits, indexing="ij"), axis=-1).reshape(-1, exits)
