"""Each stage by itself, for everyone."""

from __future__ import annotations

import numpy as np

from offramp.cascades.graph.routing import OperatingPoint, Routes
from offramp.cascades.learning.outcomes import Outcomes
from offramp.features.outputs import Floats


def single(fit: Outcomes, examples: Outcomes, routes: Routes, prices: Floats) -> list[OperatingPoint]:  # noqa: ARG001
    """One point a stage, entered directly (family: its name; no price). Neither ``fit`` nor the prices are looked at.

    A stage is what a cascade is held against even where the topology may not begin with it, so its routing stands
    on routes of its own.
    """
    direct = entered_directly(routes)
    return [
        OperatingPoint(
            "single",
            direct.stages[stage],
            float("nan"),
            examples.follow(direct, np.full(len(examples), i, np.min_scalar_type(len(direct.paths)))),
        )
        for i, stage in enumerate(direct.exits)
    ]


def entered_directly(routes: Routes) -> Routes:
    """The routes of one stage, for every stage whose cost by itself is known."""
    if routes.alone is not None:
        paths = tuple((stage,) for stage in range(len(routes.stages)))
        return Routes(routes.stages, paths, np.diag(routes.alone), routes.unit, routes.alone)
    entries = list(routes.entries)
    return Routes(routes.stages, tuple(routes.paths[i] for i in entries), routes.spent[entries], routes.unit)
