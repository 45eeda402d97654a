"""Confidence cuts tuned together on every chain of the topology: the simple rival to take seriously."""

from __future__ import annotations

import math

import numpy as np

from offramp.cascades.graph.routing import OperatingPoint, Routes
from offramp.cascades.learning.chains import chain_points, joint_thresholds
from offramp.cascades.learning.outcomes import Outcomes
from offramp.features.outputs import Floats

BUDGETS = 400
"""Tried between the cheapest and the dearest path, by equal ratios: steps of under one percent for most cascades."""


def joint(fit: Outcomes, examples: Outcomes, routes: Routes, prices: Floats) -> list[OperatingPoint]:
    """For each price the chain and the cuts that are best together on ``fit``. The family is the chain, "a>g>r".

    A few cuts make a coarse frontier, on which many prices meet in one point and no price leads to what lies between
    two of them. So behind these stand points without a price, the best on ``fit`` within budgets that lie between,
    at most as many as there are prices. Without them the rival would look weaker than it is.
    """
    cost = routes.cost[routes.cost > 0]
    budgets = np.geomspace(cost.min(), cost.max(), BUDGETS) if len(cost) else np.array([])
    plans = joint_thresholds(fit, routes, prices, budgets)
    priced = plans[: len(prices)]
    between = [plan for plan in dict.fromkeys(plans) if plan not in priced]
    every = max(1, math.ceil(len(between) / max(1, len(prices))))
    kept = between[::every][: len(prices)]
    return chain_points("joint", examples, routes, priced + kept, [*prices, *[np.nan] * len(kept)])
