"""One confidence cut between two stages, at its best for every price."""

from __future__ import annotations

import numpy as np

from offramp.cascades.graph.routing import OperatingPoint, Routes
from offramp.cascades.learning.chains import Cuts, Path, chain_points
from offramp.cascades.learning.outcomes import Outcomes
from offramp.features.outputs import Floats
from offramp.policies.cuts import best_cuts


def threshold(fit: Outcomes, examples: Outcomes, routes: Routes, prices: Floats) -> list[OperatingPoint]:  # noqa: ARG001
    """For each price the best cut on the best chain of two stages, or the best stage alone, on ``examples`` itself.

    Fitted where it is applied, so this is what the family could reach at most, not what it does reach:
    compare with it, don't deploy it. ``fit`` is not looked at. The family is the chain, "alexnet>resnet".
    """
    least = np.full(len(prices), np.inf)
    plans: list[tuple[Path, Cuts]] = [((), ())] * len(prices)
    for path in sorted((path for path in routes.paths if len(path) <= 2), key=len):
        first = routes.cost[routes.index[path[:1]]]
        if len(path) == 1:
            cuts: list[Cuts] = [()] * len(prices)
            lost: Floats = np.full(len(prices), examples.wrong[:, path[0]].mean(dtype=float))
        else:
            here, there = path
            found, lost = best_cuts(
                examples.confidence[:, here],
                examples.wrong[:, here],
                examples.wrong[:, there],
                routes.cost[routes.index[path]] - first,
                prices,
            )
            cuts = [(float(cut),) for cut in found]
        objective = lost + first * np.asarray(prices)
        for i in np.flatnonzero(objective < least):
            least[i], plans[i] = objective[i], (path, cuts[i])
    return chain_points("threshold", examples, routes, plans, prices)
