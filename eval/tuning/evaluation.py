"""Choices turned into what they cost and lose on held-out folds, and by how much they miss the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from offramp.cascades.graph.hull import lower_hull
from offramp.cascades.graph.routing import Routing
from offramp.cascades.graph.topology import Topology, unroll
from offramp.cascades.learning.answers import LOSSES
from offramp.cascades.learning.chains import joint_thresholds, route_chain
from offramp.cascades.learning.fit import FitSettings, fit_sweep
from offramp.cascades.learning.outcomes import single_outcomes
from offramp.cascades.learning.points import Plan
from offramp.cascades.learning.targets import best_pair, cost_range, limits_of
from offramp.eval.tuning.plan import Found, Report
from offramp.eval.tuning.problem import Problem
from offramp.eval.tuning.solve import losses_alone
from offramp.features.evidence import Reader, Reading
from offramp.features.fitting import fit_reader
from offramp.features.outputs import Floats, Ints, Outputs

CV_ROWS = 12_000
"""Examples judged on at most, drawn at random: beyond, a trial's time grows and its rank hardly moves."""

INNER_FOLDS = 3
"""Cross-fitting within a fold while searching, where a policy that is kept has five: half of the time, same order."""

KNOWN_BYTES = 2**28
"""Of beliefs kept: fitting them takes half of a trial's time, and four settings share all that are left of them."""

QUANTILE = 0.95


@dataclass(frozen=True)
class Evaluated:
    """How a choice did on held-out examples: of the point that the target picks (or ``aim``) its mean cost, error and
    p95 of the cost; by how much it misses the target; its frontier; and each example's expected loss and cost."""

    cost: float
    error: float
    p95: float
    violation: float
    curve: list[list[float]]
    loss_rows: Floats
    cost_rows: Floats


class FoldEvaluation:
    """Cross-validates choices on the learnt examples.

    Every fold is fitted on the others and routed; the target is solved on all folds routed so far. The folds, their
    order and the prices are the same for all choices, so that what differs between two is the choices and little noise.
    Measured on the embedded data (7,000 examples, a fold fitted on two thirds or three quarters of them), in seconds of
    a core: a fold took 1.2 as ``eval.frontier`` would fit it, 0.64 with nine given prices and three inner folds, 0.27
    where beliefs were known already. Half of the trials end after one fold or two.
    """

    def __init__(self, problem: Problem, prices: Sequence[float], folds: int, seed: int) -> None:
        self.problem, self.prices = problem, np.array(prices)
        rng = np.random.default_rng([seed, folds])
        rows = np.sort(rng.permutation(len(problem.learnt))[:CV_ROWS])
        self.outputs = problem.learnt.take(rows) if len(rows) < len(problem.learnt) else problem.learnt
        order = rng.permutation(len(self.outputs))
        self.folds = [np.sort(order[fold::folds]) for fold in range(folds)]
        self.largest = losses_alone(self.outputs, problem.plain.loss)[:, problem.largest]
        self.known: list[dict[Any, Any]] = [{} for _ in self.folds]
        self.plans: dict[Any, list[Plan]] = {}

    def evaluate(self, choices: Mapping[str, Any], report: Report) -> Found:
        """As a study wants it: the objectives' values."""
        judged = self.held_out(choices, report)
        values = {"cost": judged.cost, "error": judged.error, "p95": judged.p95}
        about = {**values, "curve": judged.curve}
        return Found(tuple(values[name] for name in self.problem.objectives), judged.violation, about)

    def held_out(self, choices: Mapping[str, Any], report: Report = lambda *_: None) -> Evaluated:
        """Fold after fold; ``report`` hears the value so far, a miss of the target being worse than any hit."""
        how, topology = self.problem.chosen(choices)
        parts: list[list[Routing]] = []
        for fold, rows in enumerate(self.folds):
            parts.append(self._routings(fold, rows, how, topology))
            seen = np.concatenate(self.folds[: fold + 1])
            judged = self._solve(parts, float(self.largest[seen].mean()), choices.get("aim"))
            value = {"cost": judged.cost, "error": judged.error}[self.problem.natural]
            worst = float(self.problem.routes.cost.max()) if self.problem.natural == "cost" else 1.0
            report(fold, value if judged.violation <= 0 else worst * (1 + judged.violation))
        return judged

    def _routings(self, fold: int, rows: Ints, how: FitSettings, topology: Topology) -> list[Routing]:
        """Where the examples ``rows`` go by what was fitted on all others: at each price, by one stage alone, and by
        jointly tuned thresholds if those are among the families."""
        routes = unroll(topology, self.problem.data.costs)
        here = self.outputs.of(routes.stages)
        rest = here.take(np.setdiff1d(np.arange(len(here)), rows))
        known = self.known[fold]
        if sum(found[1].nbytes for kind, found in known.items() if kind[0] == "pool") > KNOWN_BYTES / len(self.folds):
            known.clear()

        def read(sample: Outputs, paths: Any, inner: Ints, evidence: Any) -> tuple[Reader, Reading]:
            return fit_reader(sample, paths, inner, evidence, known)

        how = replace(how, folds=min(how.folds, INNER_FOLDS))
        sweep, _ = fit_sweep(rest, routes, len(self.prices), how, prices=self.prices, read=read)
        there, loss = here.take(rows), LOSSES[how.loss]
        routed = sweep.route(there)
        found = [routed.at(i) for i in range(routed.path.shape[1])]
        if "threshold" in how.policies:
            key = (fold, routes.stages, routes.paths)
            calibration = sweep.reader.calibration
            if key not in self.plans:
                self.plans[key] = joint_thresholds(single_outcomes(rest, loss, calibration), routes, self.prices)
            examples = single_outcomes(there, loss, calibration)
            found += [route_chain(examples, routes, *plan) for plan in self.plans[key]]
        return found

    def _solve(self, parts: Sequence[Sequence[Routing]], reference: float, aim: float | None) -> Evaluated:
        """The target's point, or the one at ``aim``, of the folds' routings put together."""
        routings = [_joined(of_point) for of_point in zip(*parts, strict=True)]
        target = self.problem.target
        limits = limits_of(target, routings, reference, routings)
        misses = [_missed(limit.values, limit.bound) for limit in limits]
        cost = np.array([routing.mean_cost for routing in routings])
        error = np.array([routing.error for routing in routings])
        hull = lower_hull(cost, error).tolist()
        if aim is not None:
            at = aim * (len(hull) - 1)
            low = min(int(at), len(hull) - 2) if len(hull) > 1 else 0
            one, other, share = hull[low], hull[min(low + 1, len(hull) - 1)], at - low
        else:
            first, second = (error, cost) if self.problem.accurate else (cost, error)
            found = best_pair(first, second, limits)
            if found is None:  # the point that misses least
                nearest = int(np.max(misses, axis=0).argmin())
                found = nearest, nearest, 0.0
            one, other, share = found

        def mean(values: Floats) -> float:
            return float((1 - share) * values[one] + share * values[other])

        violation = max(map(mean, misses))
        if target.budget is not None and target.budget > cost_range(cost, routings[0].routes)[1]:
            violation = 1.0  # smaller than what was asked for: another topology would use the budget
        a, b = routings[one], routings[other]
        return Evaluated(
            mean(cost),
            mean(error),
            percentile(a, b, share),
            0.0 if violation <= 1e-9 else violation,
            [[float(f"{x:.6g}") for x in (cost[i], error[i], percentile(routings[i], routings[i], 0))] for i in hull],
            (1 - share) * np.asarray(a.wrong, float) + share * np.asarray(b.wrong, float),
            (1 - share) * a.cost + share * b.cost,
        )


def _missed(values: Floats, bound: float) -> Floats:
    """(m,) by how much each of some points misses a bound, in shares of their span."""
    return np.asarray((values - bound) / (float(np.ptp(values)) or 1.0))


def _joined(routings: Sequence[Routing]) -> Routing:
    """Those of several folds as one."""
    return replace(
        routings[0],
        path=np.concatenate([routing.path for routing in routings]),
        answer=np.concatenate([routing.answer for routing in routings]),
        wrong=np.concatenate([routing.wrong for routing in routings]),
    )


def percentile(one: Routing, other: Routing, share: float, q: float = QUANTILE) -> float:
    """The cost that a share ``q`` of the examples stays within, ``share`` of them being routed the ``other`` way."""
    mass = (1 - share) * one.visits / len(one) + share * other.visits / len(other)
    order = np.argsort(one.routes.cost, kind="stable")
    reached = np.cumsum(mass[order]) >= q - 1e-12
    return float(one.routes.cost[order][reached.argmax()])
