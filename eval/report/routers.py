"""Fitted cascades and a test part turned into the points of all routers, and what these routers are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offramp.oracles.router import Look, Router

if TYPE_CHECKING:
    from offramp.cascades.files.datafolder import DataFolder
    from offramp.cascades.graph.routing import OperatingPoint, Routes
    from offramp.cascades.learning.points import Fitted, Picking, Step
    from offramp.cascades.learning.recipe import Recipe
    from offramp.features.outputs import Outputs

LEARNED = {
    "policy": Router("learned policy", Look("#0072B2", "-", "o", 2.4), 0),
    "gates": Router("gates trained for each price", Look("#AA3377", "--", "P"), 40),
}
"""Routers that are learned; the others are in ``ORACLES``."""


def routers() -> dict[str, Router]:
    """Every router by name, as tables and legends have them in order."""
    from offramp.oracles import ORACLES

    known = LEARNED | {name: oracle.router for name, oracle in ORACLES.items()}
    return dict(sorted(known.items(), key=lambda item: item[1].place))


def rivals() -> tuple[str, ...]:
    """The simple rivals of a learned policy."""
    return tuple(name for name, router in routers().items() if router.rival)


def operating_points(
    recipe: Recipe, data: DataFolder, routes: Routes, step: Step | None = None
) -> tuple[list[OperatingPoint], list[OperatingPoint], Fitted]:
    """Every router's points on the part they are picked on, the same on the test part, and the fitted cascades.

    Picked on the tune part if there is one; else on the fit part, the policies' points then being cross-fitted.
    """
    from offramp.cascades.learning.points import fit_points, silent

    parts, step = {name: outputs.of(routes.stages) for name, outputs in data.parts.items()}, step or silent
    fitted, picking = fit_points(parts["fit"], parts.get("tune"), routes, recipe.points, recipe.fit_settings(), step)
    return *compared(fitted, picking, parts["test"], step), fitted


def compared(
    fitted: Fitted, picking: Picking, test: Outputs, step: Step | None = None
) -> tuple[list[OperatingPoint], list[OperatingPoint]]:
    """Every router's points on the part they are picked on, and the same on ``test``, with the stages of the routes."""
    import numpy as np

    from offramp.cascades.learning.answers import LOSSES
    from offramp.cascades.learning.outcomes import single_outcomes
    from offramp.cascades.learning.points import silent
    from offramp.oracles import ORACLES

    step, sweep = step or silent, fitted.sweep
    step("routing the test part")
    picked, reported = fitted.points(picking.routings), fitted.points(fitted.route(test))
    outcomes = single_outcomes(test, LOSSES[sweep.loss], sweep.reader.calibration)
    prices = sweep.prices[np.isfinite(sweep.prices)]
    for name, oracle in ORACLES.items():
        step(f"comparing with {name}")
        picked += oracle(picking.fit, picking.there, sweep.routes, prices)
        reported += oracle(picking.fit, outcomes, sweep.routes, prices)
    return picked, reported
