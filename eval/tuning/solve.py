"""Settings to fit by turned into cascades fitted on all that may be learned from, and the point that meets a target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offramp.cascades.graph.routing import Routes, Routing
from offramp.cascades.graph.topology import Topology, unroll
from offramp.cascades.learning.answers import LOSSES
from offramp.cascades.learning.fit import FitSettings
from offramp.cascades.learning.outcomes import single_outcomes
from offramp.cascades.learning.points import Fitted, Picking, fit_points
from offramp.cascades.learning.targets import Expected, expected_of, solve
from offramp.eval.tuning.problem import Problem
from offramp.features.belief.calibration import fit_answers
from offramp.features.outputs import Floats, Outputs


@dataclass(frozen=True)
class Solved:
    """Cascades fitted on all that may be learned from, and the point of them that meets the target on held-out folds.

    ``routings`` are the held-out ones of the sweep and the thresholds; ``price`` what is paid there: loss per cost.
    """

    topology: Topology
    fitted: Fitted
    point: int
    routings: list[Routing]
    expected: Expected
    cost: float
    error: float
    price: float


def solved(problem: Problem, how: FitSettings, topology: Topology) -> Solved:
    """Fit, and solve for the target. Raises InputError where nothing meets it."""
    routes = unroll(topology, problem.data.costs)
    outputs = problem.learnt.of(routes.stages)
    fitted, picking = fit_points(outputs, None, routes, problem.settings.points, how)
    reference = _reference(problem, picking, routes)
    spending = fitted.route(outputs)  # what the rules themselves spend; what they lose is told by held-out ones
    fitted, point = solve(problem.target, fitted, picking.routings, reference, spending)
    expected = expected_of(fitted, picking.routings, reference, spending)
    cost, error = float(expected.cost[point]), float(expected.error[point])
    prices = fitted.sweep.prices[np.isfinite(fitted.sweep.prices)]
    near = np.argsort(np.abs(expected.cost[: len(prices)] - cost), kind="stable")[:3]
    price = float(np.exp(np.log(prices[near]).mean()))
    unmixed = picking.routings[: len(fitted.sweep.prices) + len(fitted.plans)]
    return Solved(topology, fitted, point, unmixed, expected, cost, error, price)


def _reference(problem: Problem, picking: Picking, routes: Routes) -> float:
    """The mean loss of the largest stage of the whole topology on the examples that points are picked by."""
    name = problem.routes.stages[problem.largest]
    if name in routes.stages:
        return float(picking.there.wrong[:, routes.stages.index(name)].mean())
    return float(losses_alone(problem.learnt, problem.plain.loss)[:, problem.largest].mean())


def losses_alone(outputs: Outputs, loss: str) -> Floats:
    """What every stage alone loses on every example, (n, k); ``loss`` is a name of ``LOSSES``."""
    answering = [s for s, stage in enumerate(outputs.stages) if stage.logits is None and not stage.measured]
    calibration = {s: fit_answers(outputs.stages[s], outputs.labels, outputs.classes) for s in answering}
    return single_outcomes(outputs, LOSSES[loss], calibration).wrong
