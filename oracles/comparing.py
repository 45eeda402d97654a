"""Fitted cascades and unseen examples turned into the operating points of every router, oracles and baselines too."""

from __future__ import annotations

import numpy as np

from offramp.cascades.files.datafolder import DataFolder
from offramp.cascades.graph.routing import OperatingPoint, Routes
from offramp.cascades.learning.answers import LOSSES
from offramp.cascades.learning.outcomes import single_outcomes
from offramp.cascades.learning.points import Fitted, Picking, Step, fit_points, silent
from offramp.cascades.learning.recipe import Recipe
from offramp.features.outputs import Outputs
from offramp.oracles import ORACLES

Points = list[OperatingPoint]


def compared(
    fitted: Fitted, picking: Picking, test: Outputs, routes: Routes, step: Step = silent
) -> tuple[Points, Points]:
    """Every router's points on the part they are picked on, and the same on ``test``, whose stages are the routes'."""
    step("routing the test part")
    picked, reported = fitted.points(picking.routings), fitted.points(fitted.route(test))
    sweep = fitted.sweep
    outcomes = single_outcomes(test, LOSSES[sweep.loss], sweep.reader.calibration)
    prices = sweep.prices[np.isfinite(sweep.prices)]
    for name, oracle in ORACLES.items():
        step(f"comparing with {name}")
        picked += oracle(picking.fit, picking.there, routes, prices)
        reported += oracle(picking.fit, outcomes, routes, prices)
    return picked, reported


def operating_points(
    recipe: Recipe, data: DataFolder, routes: Routes, step: Step = silent
) -> tuple[Points, Points, Fitted]:
    """Every router's points on the part they are picked on, the same on the test part, and the fitted cascades.

    Picked on the tune part if there is one; else on the fit part, the policies' points then being cross-fitted.
    """
    parts = {name: outputs.of(routes.stages) for name, outputs in data.parts.items()}
    fitted, picking = fit_points(parts["fit"], parts.get("tune"), routes, recipe.points, recipe.fit_settings, step)
    return *compared(fitted, picking, parts["test"], routes, step), fitted
