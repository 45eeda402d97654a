"""What every stop would be charged, known beforehand, turned into the best routing for each price."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from offramp.cascades.graph.routing import OperatingPoint, Routes, Routing
from offramp.cascades.learning.outcomes import Outcomes
from offramp.features.outputs import Floats, Ints

Penalty = Callable[[Floats], Floats]

BITS = 16
"""0-1 outcomes of up to this many stages are told apart by counting, not by sorting."""


def foresee(router: str, examples: Outcomes, routes: Routes, penalty: Penalty, prices: Floats) -> list[OperatingPoint]:
    """For each price the routing with the least mean of penalty + price * cost, its entry chosen without looking.

    ``penalty`` maps outcomes (m, k) to what stopping at each stage is charged, (m, k). The entry is the same for
    all examples, the best on average; the path onward is each example's own. Of equal choices the cheapest is taken.
    First comes the limit of a price of 0 (family "paper", no price): the least cost among the least penalties;
    then one point a price (family "priced").
    """
    outcomes, which, count = patterns(examples.wrong)
    charge = penalty(outcomes)
    ways = [_cheapest_ways(routes, entry) for entry in routes.entries]
    made: dict[bytes, Routing] = {}
    routings = []
    for price in (0.0, *prices):
        plans: list[tuple[float, float, int, Ints]] = []
        for way in ways:
            objective = charge[:, routes.exits[way]] + price * routes.cost[way]
            chosen = np.argmin(objective, axis=1)
            mean = count @ objective[np.arange(len(count)), chosen]
            plans.append((mean, count @ routes.cost[way[chosen]], len(plans), way[chosen]))
        table = min(plans, key=lambda plan: plan[:3])[-1].astype(np.min_scalar_type(len(routes.paths)))
        # Neighbouring prices often agree for every pattern; then they share one routing.
        if table.tobytes() not in made:
            made[table.tobytes()] = examples.follow(routes, table[which])
        routings.append(made[table.tobytes()])
    paper, *priced = routings
    return [
        OperatingPoint(router, "paper", float("nan"), paper),
        *(OperatingPoint(router, "priced", float(p), r) for p, r in zip(prices, priced, strict=True)),
    ]


def patterns(wrong: Floats) -> tuple[Floats, Ints, Ints]:
    """The m different rows of ``wrong`` (n, k), (m, k); which of them each example has, (n,); and how many do, (m,).

    >>> outcomes, which, count = patterns(np.array([[0.0, 1.0], [0.0, 0.0], [0.0, 1.0]]))
    >>> outcomes.tolist(), which.tolist(), count.tolist()
    ([[0.0, 0.0], [0.0, 1.0]], [1, 0, 1], [1, 2])
    """
    k = wrong.shape[1]
    if k > BITS or not np.isin(wrong, (0, 1)).all():
        outcomes, which, count = np.unique(wrong, axis=0, return_inverse=True, return_counts=True)
        return outcomes, which.reshape(-1), count
    code = np.zeros(len(wrong), dtype=np.uint16)
    for column in wrong.T:
        code = code << 1 | column.astype(np.uint16)
    tally = np.bincount(code, minlength=1 << k)
    present = np.flatnonzero(tally)
    place = np.cumsum(tally > 0) - 1
    outcomes = (present[:, None] >> np.arange(k)[::-1] & 1).astype(float)
    return outcomes, place.astype(np.uint16)[code], tally[present]


def _cheapest_ways(routes: Routes, entry: int) -> Ints:
    """From one entry the cheapest path to each stage that it leads to, cheapest first."""
    first = routes.paths[entry][0]
    ways = [i for i, path in enumerate(routes.paths) if path[0] == first]
    ways.sort(key=lambda i: (routes.cost[i], i))
    cheapest: dict[int, int] = {}
    for i in ways:
        cheapest.setdefault(routes.paths[i][-1], i)
    return np.array(list(cheapest.values()))
