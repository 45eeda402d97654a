"""Thresholds on one confidence: intervals of it, one an action, of exactly the least weighted cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from features.outputs import Floats, Ints
from policies.policy import Decision, named

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


def best_intervals(score: Floats, costs: Floats) -> tuple[Floats, Floats, Ints]:
    """Least total cost of assigning every action to one interval of ``score`` (n,), in any order.

    ``costs`` (n, a, q). Returns the total (q,), cuts (q, a-1) and the order of actions (q, a) such that action
    ``order[j]`` is taken from cut j-1 (included) up to cut j. Exact: dynamic programming over the sorted examples
    and the sets of actions used, O(n · a · 2^a) a price after sorting; equal scores are never parted.

    >>> score = np.array([0.1, 0.2, 0.8, 0.9])
    >>> costs = np.array([[1.0, 0.2], [1.0, 0.2], [0.0, 0.2], [0.0, 0.2]])[..., None]
    >>> total, cuts, order = best_intervals(score, costs)
    >>> float(total[0].round(6)), cuts.round(6).tolist(), order.tolist()
    (0.4, [[0.5]], [[1, 0]])
    """
    n, a, q = costs.shape
    by_score = np.argsort(score, kind="stable")
    ordered = score[by_score].astype(np.float64)
    edges = np.flatnonzero(np.diff(ordered, prepend=-np.inf)) if n else np.zeros(0, int)
    spent = np.zeros((len(edges) + 1, a, q))  # cost of each action on all examples before an edge
    np.cumsum(np.add.reduceat(costs[by_score].astype(np.float64), edges, axis=0), axis=0, out=spent[1:])
    places = np.concatenate([[-np.inf], (ordered[edges[1:] - 1] + ordered[edges[1:]]) / 2, [np.inf]])
    # the middle of two neighbouring float64 numbers may round down to the lower one
    places[1:-1] = np.maximum(places[1:-1], np.nextafter(ordered[edges[1:] - 1], np.inf))

    if a == 2:
        return _two_intervals(spent, places)
    least: dict[frozenset[int], Floats] = {frozenset(): np.where(np.arange(len(spent))[:, None] == 0, 0.0, np.inf)}
    came_from: dict[tuple[frozenset[int], int], Ints] = {}
    last_action: dict[frozenset[int], Ints] = {}
    for mask in range(1, 2**a):
        used = frozenset(v for v in range(a) if mask >> v & 1)
        options = []
        for v in sorted(used):
            before = least[used - {v}] - spent[:, v]
            running = np.minimum.accumulate(before, axis=0)
            fresh = np.vstack([np.ones((1, q), bool), before[1:] < running[:-1]])
            came_from[used, v] = np.maximum.accumulate(np.where(fresh, np.arange(len(spent))[:, None], 0), axis=0)
            options.append(running + spent[:, v])
        stacked = np.stack(options)
        choice = stacked.argmin(axis=0)
        least[used] = np.take_along_axis(stacked, choice[None], axis=0)[0]
        last_action[used] = np.array(sorted(used))[choice]

    everything = frozenset(range(a))
    cuts, order = np.empty((q, a - 1)), np.empty((q, a), np.int64)
    for i in range(q):
        used, edge = everything, len(spent) - 1
        for place in range(a - 1, -1, -1):
            v = int(last_action[used][edge, i])
            order[i, place] = v
            edge = int(came_from[used, v][edge, i])
            if place:
                cuts[i, place - 1] = places[edge]
            used = used - {v}
    return least[everything][-1], cuts, order


def _two_intervals(spent: Floats, places: Floats) -> tuple[Floats, Floats, Ints]:
    """The case of two actions, in a third of the time: the extremes of one running sum."""
    gain = spent[:, 1] - spent[:, 0]  # of action 1 over 0 on what lies below an edge
    low, high, index = gain.argmin(axis=0), gain.argmax(axis=0), np.arange(spent.shape[2])
    one_first = spent[-1, 0] + gain[low, index]
    zero_first = spent[-1, 1] - gain[high, index]
    swap = zero_first < one_first
    order = np.where(swap[:, None], [0, 1], [1, 0])
    return np.where(swap, zero_first, one_first), places[np.where(swap, high, low)][:, None], order
