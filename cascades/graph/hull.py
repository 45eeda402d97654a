"""Points of cost and error turned into the ones that no mix of others betters."""

from __future__ import annotations

import numpy as np

from offramp.features.outputs import Floats, Ints


def lower_hull(cost: Floats, error: Floats) -> Ints:
    """Indices of the lower left convex hull of q points, from the cheapest one to the one of least error.

    Two neighbours on it can be mixed by a coin, so every point of the line between them is a real router too.

    >>> lower_hull(np.array([1, 2, 3, 4, 5]), np.array([9, 8, 3, 5, 2]))
    array([0, 2, 4])
    """
    hull: list[int] = []
    for i in np.lexsort((error, cost)):
        if hull and error[i] >= error[hull[-1]]:
            continue
        while len(hull) > 1 and _turn(cost, error, hull[-2], hull[-1], i) <= 0:
            hull.pop()
        hull.append(int(i))
    return np.array(hull, int)


def _turn(cost: Floats, error: Floats, i: int, j: int, k: int) -> float:
    """Positive where the way from point i over j to k bends upwards."""
    return float((cost[j] - cost[i]) * (error[k] - error[i]) - (error[j] - error[i]) * (cost[k] - cost[i]))
