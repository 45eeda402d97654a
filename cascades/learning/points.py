"""Outputs turned into every cascade of a frontier: a sweep of prices, thresholds tuned jointly, and mixtures of two."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from offramp.cascades.graph.hull import lower_hull
from offramp.cascades.graph.routing import OperatingPoint, Routes, Routing, coins, mixed
from offramp.cascades.learning.answers import LOSSES
from offramp.cascades.learning.cascade import Routed, Sweep
from offramp.cascades.learning.chains import Cuts, chain_name, held_out_chains, joint_thresholds, route_chain
from offramp.cascades.learning.fit import FOLDS, FitSettings, fit_sweep
from offramp.cascades.learning.outcomes import Outcomes, single_outcomes
from offramp.features.evidence import Path as Stages
from offramp.features.outputs import Floats, Outputs

GAP = 0.02
"""Steps in cost, as a share of the frontier's span, that mixtures of two cascades are put between."""

ROUNDING = 1e-12
"""An error that is a bound's but for this keeps to it."""

COIN = 5
"""Seed of the mixtures' coins (``coins``)."""


Plan = tuple[Stages, Cuts]


class Step(Protocol):
    """Says what is being done now, and once, as soon as that is known, how many steps there are."""

    def __call__(self, text: str, total: int | None = None) -> None:
        """Begin the step ``text``."""


def silent(text: str, total: int | None = None) -> None:
    """The step of who doesn't watch."""


@dataclass(frozen=True)
class Mixture:
    """A coin between ``one`` and ``other``, indices of the sweep's cascades and, behind them, of the thresholds;
    ``share`` of the examples take the other."""

    one: int
    other: int
    share: float


@dataclass(frozen=True)
class Fitted:
    """Every cascade of a frontier, in the order of its points: q of the ``sweep``, then ``plans`` (a path and its cuts
    for each price), then ``mixtures`` of two of these, for which ``coin`` is the seed. ``examples``: ``digest_of`` all
    that anything was fitted or is picked on."""

    sweep: Sweep
    plans: tuple[Plan, ...]
    mixtures: tuple[Mixture, ...]
    coin: int = COIN
    examples: str = ""

    @property
    def names(self) -> list[tuple[str, float]]:
        """Family and price of each point; a mixture has no price."""
        learned = [(_families(self.sweep, i), float(price)) for i, price in enumerate(self.sweep.prices)]
        prices = self.sweep.prices[np.isfinite(self.sweep.prices)]
        tuned = [
            ("thresholds " + chain_name(self.sweep.routes, plan[0]), float(price))
            for plan, price in zip(self.plans, prices, strict=bool(self.plans))
        ]
        return learned + tuned + [(f"{m.share:.0%} of {m.other}, else {m.one}", float("nan")) for m in self.mixtures]

    def route(self, outputs: Outputs) -> list[Routing]:
        """Where the examples of ``outputs``, with the stages of the sweep's routes, stop at each point."""
        examples = single_outcomes(outputs, LOSSES[self.sweep.loss], self.sweep.reader.calibration)
        routed = _routings(self.sweep.route(outputs))
        routings = routed + [route_chain(examples, self.sweep.routes, *plan) for plan in self.plans]
        return self.with_mixtures(routings, outputs.ids)

    def with_mixtures(self, routings: list[Routing], ids: Iterable[Any]) -> list[Routing]:
        """The routings of the sweep and the plans, and behind them those of the mixtures, of the examples ``ids``."""
        if not self.mixtures:
            return routings
        coin = coins(ids, self.coin)
        return routings + [mixed(routings[m.one], routings[m.other], m.share, coin) for m in self.mixtures]

    def points(self, routings: Sequence[Routing]) -> list[OperatingPoint]:
        """Routings of all points as operating points of the router "policy"."""
        return [OperatingPoint("policy", *name, routing) for name, routing in zip(self.names, routings, strict=True)]


@dataclass(frozen=True)
class Picking:
    """What points are picked by: their ``routings`` on the part to pick on, and the stages alone, on the fit part
    (``fit``, held out where a rule was fitted) and on that part (``there``), whose examples are called ``ids`` (n,)."""

    routings: list[Routing]
    fit: Outcomes
    there: Outcomes
    ids: NDArray[Any]


def fit_points(
    fit: Outputs, tune: Outputs | None, routes: Routes, points: int, how: FitSettings, step: Step = silent
) -> tuple[Fitted, Picking]:
    """Every cascade of the frontier, and what one is picked by: the ``tune`` part, or held-out folds of ``fit``.

    The stages of both are those of ``routes``, in order. ``points`` prices; thresholds are tuned if "threshold" is
    among the policies of ``how``.
    """
    sweep, held_out = fit_sweep(fit, routes, points, how, step)
    loss, calibration = LOSSES[how.loss], sweep.reader.calibration
    seen = single_outcomes(fit, loss, calibration).take(held_out.rows)
    there = seen if tune is None else single_outcomes(tune, loss, calibration)
    routings = _routings(held_out.routed if tune is None else sweep.route(tune))
    prices = sweep.prices[np.isfinite(sweep.prices)]
    plans: list[Plan] = []
    if "threshold" in how.policies:
        step("tuning thresholds jointly")
        plans = joint_thresholds(seen, routes, prices)
        folds = np.arange(len(seen)) % FOLDS  # the rows are in random order
        routings += (
            held_out_chains(seen, routes, prices, folds)
            if tune is None
            else [route_chain(there, routes, *plan) for plan in plans]
        )
    examples = digest_of(fit if tune is None else (fit, tune))
    fitted = Fitted(sweep, tuple(plans), tuple(fill_gaps(routings)), examples=examples)
    ids = fit.ids[held_out.rows] if tune is None else tune.ids
    return fitted, Picking(fitted.with_mixtures(routings, ids), seen, there, ids)


def cheapest_within(cost: Floats, error: Floats, bound: float) -> int:
    """Of some points (m,) the cheapest whose error is at most ``bound``; the one of least error if none keeps to it.

    >>> cheapest_within(np.array([1.0, 2.0, 3.0]), np.array([0.3, 0.2, 0.1]), 0.2)
    1
    >>> cheapest_within(np.array([1.0, 2.0, 3.0]), np.array([0.3, 0.2, 0.1]), 0.05)
    2
    """
    allowed = np.where(error <= bound + ROUNDING, cost, np.inf)
    return int(allowed.argmin()) if np.isfinite(allowed).any() else int(error.argmin())


def digest_of(parts: Outputs | Sequence[Outputs]) -> str:
    """SHA-256, in hex, of the ids and labels of one or several parts' examples, whatever their order."""
    parts = [parts] if isinstance(parts, Outputs) else parts
    lines = [
        f"{one} {label}" for part in parts for one, label in zip(part.ids.tolist(), part.labels.tolist(), strict=True)
    ]
    return sha256("\n".join(sorted(lines)).encode("utf-8", "surrogatepass")).hexdigest()


def fill_gaps(routings: Sequence[Routing]) -> list[Mixture]:
    """Mixtures between neighbours on the routings' lower hull, where their costs lie more than ``GAP`` apart."""
    cost = np.array([routing.mean_cost for routing in routings])
    hull = lower_hull(cost, np.array([routing.error for routing in routings]))
    span = float(np.ptp(cost[hull]))
    found = []
    for one, other in pairwise(hull.tolist()):
        parts = int((cost[other] - cost[one]) / (GAP * span)) + 1 if span else 1
        found += [Mixture(one, other, part / parts) for part in range(1, parts)]
    return found


def _routings(routed: Routed) -> list[Routing]:
    return [routed.at(i) for i in range(routed.path.shape[1])]


def _families(sweep: Sweep, price: int) -> str:
    """The families whose rules decide at a price, from its entry on."""
    entry = sweep.routes.paths[int(sweep.entry[price])]
    names = {rule.family(price) for path, rule in sweep.rules.items() if path[:1] == entry}
    return "+".join(sorted(names)) or "constant"
