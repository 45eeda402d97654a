"""Frontiers turned into single numbers: area, cost at an error, speed-up, share of the soft oracle's saving."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from offramp.cascades.graph.hull import lower_hull
from offramp.cascades.graph.routing import OperatingPoint
from offramp.eval.report.intervals import ratio
from offramp.features.outputs import Floats
from offramp.features.registry import Registry

TINY = 1e-9
"""Mean losses that differ by less are the same: no sample has a billion examples."""


@dataclass(frozen=True)
class Yardstick:
    """What a frontier is measured against, on the same examples.

    ``cheapest`` and ``best`` are (cost, error) of two single stages; ``end`` is the cost where the area ends: the best
    single stage's, or the dearest's if the best is the cheapest too. ``oracle`` holds the soft oracle's points.
    """

    cheapest: tuple[float, float]
    best: tuple[float, float]
    end: float
    oracle: Sequence[OperatingPoint]


def yardstick(points: Sequence[OperatingPoint], best: str) -> Yardstick:
    """Reads the yardstick off one part's points; ``best`` names the stage to beat.

    Raises ValueError when ``best`` is not among the points of router ``single``.
    """
    singles = {p.family: (p.routing.mean_cost, p.routing.error) for p in points if p.router == "single"}
    if best not in singles:
        raise ValueError(f"no point of router 'single' is called {best!r}; there are {', '.join(singles)}")
    cheapest = min(singles.values())
    end = singles[best][0] if singles[best][0] > cheapest[0] else max(singles.values())[0]
    return Yardstick(cheapest, singles[best], end, [p for p in points if p.router == "soft_oracle"])


def costs_errors(points: Sequence[OperatingPoint]) -> tuple[Floats, Floats]:
    """Mean cost (q,) and mean loss (q,) of q points."""
    return np.array([p.routing.mean_cost for p in points]), np.array([p.routing.error for p in points])


def least_cost(cost: Floats, error: Floats, target: float) -> float:
    """The least cost on the hull of q points whose error is at most ``target``; NaN if no point reaches it."""
    hull = lower_hull(cost, error)[::-1]
    if error[hull[0]] > target + TINY:
        return float("nan")
    return float(np.interp(target, error[hull], cost[hull]))


def area_along(cost: Floats, error: Floats, start: float, end: float) -> Floats:
    """Mean error of a piecewise linear frontier over costs from ``start`` to ``end``, in the unit of the error.

    ``cost`` and ``error`` are (..., v): v corners in order. To the right of the last corner, and left of the first,
    the error stays as it is there. Corners that go back in cost are integrated with their sign.
    NaN where ``end`` is not above ``start``.

    >>> round(float(area_along(np.array([0.0, 2.0]), np.array([0.4, 0.2]), 0.0, 4.0)), 9)  # (0.3 * 2 + 0.2 * 2) / 4
    0.25
    """
    if not end > start:
        return np.full(cost.shape[:-1], np.nan)
    ends = np.full((*cost.shape[:-1], 1), 1.0)
    cost = np.concatenate([start * ends, cost, end * ends], axis=-1)
    error = np.concatenate([error[..., :1], error, error[..., -1:]], axis=-1)
    left, right = cost[..., :-1], cost[..., 1:]
    run = right - left
    slope = np.divide(np.diff(error, axis=-1), run, out=np.zeros_like(run), where=run != 0)
    a, b = np.clip(left, start, end), np.clip(right, start, end)
    middle = error[..., :-1] + slope * ((a + b) / 2 - left)
    return np.asarray(((b - a) * middle).sum(axis=-1) / (end - start))


def cost_along(cost: Floats, error: Floats, target: Floats) -> Floats:
    """Least cost (...) at which a piecewise linear frontier comes down to an error; infinite where it never does.

    ``cost`` and ``error`` are (..., v): v corners in order; ``target`` is (...).

    >>> round(float(cost_along(np.array([1.0, 3.0]), np.array([0.4, 0.2]), np.array(0.25))), 9)
    2.5
    """
    there = error <= target[..., None] + TINY
    at = there.argmax(axis=-1)[..., None]
    c1, e1 = np.take_along_axis(cost, at, -1), np.take_along_axis(error, at, -1)
    c0, e0 = np.take_along_axis(cost, np.maximum(at - 1, 0), -1), np.take_along_axis(error, np.maximum(at - 1, 0), -1)
    part = np.clip(ratio(e0 - target[..., None], np.where(e0 > e1, e0 - e1, 1.0)), 0.0, 1.0)
    return np.asarray(np.where(there.any(axis=-1), (c0 + part * (c1 - c0))[..., 0], np.inf))


def area(points: Sequence[OperatingPoint], by: Yardstick) -> float:
    """Mean error of the frontier between the cheapest single stage's cost and the best single stage's cost.

    The frontier is the lower convex hull of the points and of the cheapest single stage, which everybody may use; it
    goes on flat to the right. Low is good. NaN when all single stages cost the same.
    """
    cost, error = costs_errors(points)
    cost, error = np.append(cost, by.cheapest[0]), np.append(error, by.cheapest[1])
    hull = lower_hull(cost, error)
    return float(area_along(cost[hull], error[hull], by.cheapest[0], by.end))


def cost_at_error(points: Sequence[OperatingPoint], by: Yardstick, margin: float = 0.0) -> float:
    """Least cost on the hull with no more error than the best single stage's plus ``margin``; NaN if out of reach."""
    return least_cost(*costs_errors(points), by.best[1] + margin)


def speedup(points: Sequence[OperatingPoint], by: Yardstick, margin: float = 0.0) -> float:
    """How many times less than the best single stage that costs; NaN if out of reach."""
    return float(ratio(by.best[0], cost_at_error(points, by, margin)))


def oracle_share(points: Sequence[OperatingPoint], by: Yardstick, margin: float = 0.0) -> float:
    """Share of the soft oracle's saving over the best single stage that is reached at that error; NaN if none is."""
    if not by.oracle:
        return float("nan")
    possible = by.best[0] - cost_at_error(by.oracle, by, margin)
    return (by.best[0] - cost_at_error(points, by, margin)) / possible if possible > 0 else float("nan")


@dataclass(frozen=True)
class Metric:
    """A number of the points of one router on one part, NaN where it doesn't exist.

    ``told``: its head in the table of metrics; empty for those that stand in tables of their own. ``cost``: whether it
    is a cost, in the unit of costs. ``times``: what the table multiplies it by, such as 100 for percent.
    """

    number: Callable[[Sequence[OperatingPoint], Yardstick], float]
    told: str = ""
    cost: bool = False
    times: float = 1.0

    def __call__(self, points: Sequence[OperatingPoint], by: Yardstick) -> float:
        """The number of these points."""
        return self.number(points, by)


METRICS: Registry[Metric] = Registry(
    "metric",
    "offramp.metrics",
    {
        "area": Metric(area),
        "cost_at_error": Metric(cost_at_error, cost=True),
        "speedup": Metric(speedup),
        "oracle_share": Metric(oracle_share),
    },
)
"""Metrics by name. A new one is a function and a line here; summary and table take it from this registry."""
