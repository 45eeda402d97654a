"""One confidence cut a stage, each set as if the stage behind it were the last."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from offramp.cascades.graph.routing import OperatingPoint, Routes
from offramp.cascades.learning.chains import chain_points, full_chain
from offramp.cascades.learning.outcomes import Outcomes
from offramp.features.outputs import Floats
from offramp.policies.cuts import best_cuts


def myopic(fit: Outcomes, examples: Outcomes, routes: Routes, prices: Floats) -> list[OperatingPoint]:
    """For each price the longest chain, with cuts set on all of ``fit`` stage by stage, without looking downstream.

    A stage's cut trades its own loss for the next one's loss plus price * cost of running that, exactly.
    """
    path = full_chain(routes)
    spent = [routes.cost[routes.index[path[: j + 1]]] for j in range(len(path))]
    cuts = np.empty((len(prices), len(path) - 1))
    for j, (here, there) in enumerate(pairwise(path)):
        step = spent[j + 1] - spent[j]
        cuts[:, j], _ = best_cuts(fit.confidence[:, here], fit.wrong[:, here], fit.wrong[:, there], step, prices)
    plans = [(path, tuple(map(float, row))) for row in cuts]
    return chain_points("myopic", examples, routes, plans, prices)
