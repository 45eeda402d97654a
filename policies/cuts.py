"""Values and costs turned into the exact cuts of least total cost."""

from __future__ import annotations

import numpy as np

from offramp.features.outputs import Floats, Ints


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


def best_cuts(
    confidence: Floats, stop_loss: Floats, go_loss: Floats, step: float, prices: Floats
) -> tuple[Floats, Floats]:
    """For each price (p,) the cut that loses and spends least, exactly, and the mean that it reaches, both (p,).

    Examples (n,) of at least that confidence stop and lose ``stop_loss``; the others lose ``go_loss`` and pay
    price * ``step``. Equal confidences stay together; -inf always stops, inf never. Prices are not negative.

    >>> best_cuts(np.array([0.9, 0.6, 0.7]), np.array([0.0, 1.0, 0.0]), np.zeros(3), 1.0, np.array([0.1, 9.0]))[0]
    array([ 0.7, -inf])
    """
    n = len(confidence)
    order = np.argsort(confidence)
    sure = confidence[order]
    # With the m least sure going on, m from none to all: what is lost, and where m may end without parting a tie.
    change = np.cumsum((go_loss - stop_loss)[order], dtype=float)
    loss = (np.concatenate([[0.0], change]) + stop_loss.sum(dtype=float)) / n
    ends = np.flatnonzero(np.concatenate([[True], sure[1:] != sure[:-1], [True]]))
    # Sending more on pays only where it loses less than sending any fewer.
    before = np.concatenate([[np.inf], np.minimum.accumulate(loss[ends])[:-1]])
    ends = ends[loss[ends] < before]
    spent = step * ends / n
    cut_at = np.concatenate([[-np.inf], sure[1:], [np.inf]])
    best = np.array([np.argmin(loss[ends] + price * spent) for price in prices], dtype=int)
    return cut_at[ends[best]], loss[ends[best]] + np.asarray(prices) * spent[best]
