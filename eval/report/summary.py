"""A frontier on two parts turned into what it is worth: operating points, speed-ups, areas, each with an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from offramp.cascades.graph.hull import lower_hull
from offramp.cascades.graph.routing import OperatingPoint
from offramp.eval.report.intervals import BOOTSTRAP, Bootstrap, Estimate, estimate, interval, ratio, resampled
from offramp.eval.report.metrics import METRICS, TINY, Yardstick, area, area_along, cost_along, costs_errors, yardstick
from offramp.eval.report.routers import rivals
from offramp.eval.report.verdict import verdict
from offramp.features.outputs import Floats, Ints

MARGINS = (0.0, 0.005, 0.01, 0.02)
BUDGETS = (0.25, 0.5, 0.75)
DIGITS = 10  # what a float keeps in the summary: the last bits depend on the machine
INTERVALS = (
    "percentiles of a bootstrap over examples, paired; for speedup, extra_error and oracle_share the point is picked "
    "again in every draw of the part it was picked on"
)
HINDSIGHT = (
    "picked on the test part itself, which flatters: only to be held against published tables made in this way; "
    "the verdict does not look at it (it compares routers at equal error on the test part, but picks none there)"
)


@dataclass(frozen=True)
class Contest:
    """All that is compared: the q points worth picking, on the part to pick on and on the part that is reported.

    ``rows`` says where each router's points stand; ``best`` and ``cheapest`` where two single stages do. ``before``
    and ``after`` are (1 + draws, q, 2), mean costs and losses on the two parts: measured, then drawn.
    """

    chosen: Sequence[OperatingPoint]
    tested: Sequence[OperatingPoint]
    rows: Mapping[str, Ints]
    best: int
    cheapest: int
    by: Yardstick
    before: Floats
    after: Floats
    how: Bootstrap

    def picks(self, router: str, margin: float) -> Ints:
        """(1 + draws,) the router's cheapest point with the best single stage's error plus ``margin``; -1 if none."""
        rows = self.rows[router]
        allowed = self.before[:, rows, 1] <= self.before[:, [self.best], 1] + margin + TINY
        first = np.where(allowed, self.before[:, rows, 0], np.inf).argmin(axis=1)
        return np.where(allowed.any(axis=1), rows[first], -1)

    def drawn(self, picks: Ints) -> Floats:
        """(1 + draws, 2) tested cost and loss of the picks; who has none runs the best single stage."""
        at = np.where(picks < 0, self.best, picks)
        return np.asarray(self.after[np.arange(len(at)), at])

    def corners(self, router: str) -> Floats:
        """(1 + draws, v, 2) tested costs and losses of the points on the hull of the part they are picked on.

        It begins at the cheapest single stage, which everybody may use.
        """
        rows = np.append(self.rows[router], self.cheapest)
        return np.asarray(self.after[:, rows[lower_hull(self.before[0, rows, 0], self.before[0, rows, 1])]])


def summarise(
    chosen: Sequence[OperatingPoint],
    tested: Sequence[OperatingPoint],
    margins: Sequence[float] = MARGINS,
    how: Bootstrap = BOOTSTRAP,
) -> dict[str, Any]:
    """What the routers are worth, ready for JSON: every point is picked on ``chosen`` and reported on ``tested``.

    Both hold the same points in the same order, with the routers ``policy`` and ``single`` among them. ``margins`` are
    extra losses allowed over the best single stage, which is that of least error on ``chosen``. None stands for a
    number that does not exist. Raises ValueError where the two are not aligned or a router that is needed is missing.
    """
    contest = _contest(chosen, tested, how)
    there, here = contest.chosen[contest.best], contest.tested[contest.best]
    summary = plain(
        {
            "unit": here.routing.routes.unit,
            "chosen_on": {"part": there.routing.part, "examples": len(there.routing)},
            "tested_on": {"part": here.routing.part, "examples": len(here.routing)},
            "intervals": {"kind": INTERVALS, **asdict(how)},
            "best_single": {"stage": here.family, **_described(contest.best, contest)},
            "area": {"from": contest.by.cheapest[0], "to": contest.by.end, **_areas(contest)},
            "routers": {name: [_margin(name, margin, contest) for margin in margins] for name in contest.rows},
            "rivals": {name: _duels(name, margins, contest) for name in rivals() if name in contest.rows},
            "budgets": [_budget(share, contest) for share in BUDGETS],
            "hindsight": _hindsight(tested, margins, contest),
        }
    )
    return {"verdict": verdict(summary), **summary}


def plain(value: Any) -> Any:
    """The same in JSON's own types: floats to ``DIGITS`` digits, None for NaN and infinity, estimates as dicts.

    >>> plain({"x": (1 / 3, float("nan"))})
    {'x': [0.3333333333, None]}
    """
    if isinstance(value, Estimate):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.{DIGITS}g}") if isfinite(value) else None
    return value


def _contest(chosen: Sequence[OperatingPoint], tested: Sequence[OperatingPoint], how: Bootstrap) -> Contest:
    names = [p.router for p in chosen]
    if names != [p.router for p in tested]:
        raise ValueError("the points chosen on and the points tested must be the same, in the same order")
    if missing := {"policy", "single"} - set(names):
        raise ValueError(f"a summary needs points of router {' and '.join(sorted(missing))}")
    kept = _worth_picking(chosen)
    chosen, tested = [chosen[i] for i in kept], [tested[i] for i in kept]
    halves = ([p.routing for p in chosen], how), ([p.routing for p in tested], replace(how, seed=how.seed + 1))
    # One thread for each part; BLAS's own would wait for each other wherever another program has a core.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(2) as pool:
        before, after = pool.map(lambda half: resampled(*half), halves)
    routers = np.array([p.router for p in chosen])
    rows = {name: np.flatnonzero(routers == name) for name in dict.fromkeys(names)}
    singles = rows["single"]
    cost, error = before[0, singles, 0], before[0, singles, 1]
    best, cheapest = singles[np.lexsort((cost, error))[0]], singles[np.lexsort((error, cost))[0]]
    by = yardstick(tested, tested[best].family)
    return Contest(chosen, tested, rows, int(best), int(cheapest), by, before, after, how)


def _worth_picking(chosen: Sequence[OperatingPoint]) -> list[int]:
    """Where the single stages stand, and every point that no other of its router is level with or better than."""
    cost, error = costs_errors(chosen)
    least: dict[str, float] = {}
    kept = []
    for i in np.lexsort((error, cost)):
        router = chosen[i].router
        if router == "single" or error[i] < least.get(router, np.inf):
            least[router] = error[i]
            kept.append(int(i))
    return sorted(kept)


def _described(point: int, contest: Contest) -> dict[str, Any]:
    """One operating point: which it is, and its numbers on both parts."""
    there, here = contest.chosen[point].routing, contest.tested[point].routing
    found, stages = interval(here, contest.how), here.routes.stages
    return {
        "family": contest.tested[point].family,
        "price": contest.tested[point].price,
        "chosen": {"cost": there.mean_cost, "error": there.error},
        "tested": {
            "cost": found.cost,
            "error": found.error,
            "exit_share": dict(zip(stages, here.exit_share, strict=True)),
            "spent_share": dict(zip(stages, here.spent_share, strict=True)),
        },
    }


def _margin(router: str, margin: float, contest: Contest) -> dict[str, Any]:
    """The router's cheapest point within a margin, against the best single stage and the soft oracle's point."""
    picks = contest.picks(router, margin)
    record: dict[str, Any] = {"margin": margin, "reached": bool(picks[0] >= 0)}
    if not record["reached"]:
        return record
    best, mine = contest.after[:, contest.best], contest.drawn(picks)
    record |= _described(int(picks[0]), contest)
    record["speedup"] = estimate(ratio(best[:, 0], mine[:, 0]), contest.how)
    record["extra_error"] = estimate(mine[:, 1] - best[:, 1], contest.how)
    record["oracle_share"] = None
    if "soft_oracle" in contest.rows:
        possible = best[:, 0] - contest.drawn(contest.picks("soft_oracle", margin))[:, 0]
        share = ratio(best[:, 0] - mine[:, 0], np.where(possible > 0, possible, np.nan))
        record["oracle_share"] = estimate(share, contest.how)
    return record


def _areas(contest: Contest) -> dict[str, Any]:
    """Area of each router on the tested part, and how far it is above the line between single stages, or a rival's."""
    start, end = contest.by.cheapest[0], contest.by.end
    corners = {name: contest.corners(name) for name in contest.rows}
    drawn = {name: area_along(c[..., 0], c[..., 1], start, end) for name, c in corners.items()}
    return {
        "routers": {name: estimate(here, contest.how) for name, here in drawn.items()},
        "above_singles": {name: estimate(here - drawn["single"], contest.how) for name, here in drawn.items()},
        "policy_above": {
            name: estimate(drawn["policy"] - drawn[name], contest.how) for name in (*rivals(), "gates") if name in drawn
        },
    }


def _duels(rival: str, margins: Sequence[float], contest: Contest) -> dict[str, Any]:
    """The policy against a rival at equal error on the tested part, and the area to choose a rival by.

    Corners are picked on the chosen part; ``times_cheaper`` is the rival's cost over the policy's where each comes
    down to the best single stage's error plus the margin. Who never does runs that stage.
    """
    best = contest.after[:, contest.best]
    duels = []
    for margin in margins:
        costs = {}
        for name in ("policy", rival):
            corners = contest.corners(name)
            costs[name] = np.minimum(cost_along(corners[..., 0], corners[..., 1], best[:, 1] + margin), best[:, 0])
        found = estimate(ratio(costs[rival], costs["policy"]), contest.how)
        cheaper = "policy" if found.low > 1 else rival if found.high < 1 else ""
        duels.append({"margin": margin, "times_cheaper": found, "cheaper": cheaper})
    by = yardstick(contest.chosen, contest.chosen[contest.best].family)
    return {"chosen_area": area([contest.chosen[i] for i in contest.rows[rival]], by), "margins": duels}


def _budget(share: float, contest: Contest) -> dict[str, Any]:
    """The policy's point of least error within a budget, a share of the way from the cheapest stage to the best."""
    budget = contest.by.cheapest[0] + share * (contest.by.end - contest.by.cheapest[0])
    rows = contest.rows["policy"]
    cost, error = contest.before[0, rows, 0], contest.before[0, rows, 1]
    within = [int(rows[i]) for i in np.lexsort((cost, error)) if cost[i] <= budget * (1 + TINY)]
    record: dict[str, Any] = {"share": share, "budget": budget, "reached": bool(within)}
    return record | (_described(within[0], contest) if within else {})


def _hindsight(tested: Sequence[OperatingPoint], margins: Sequence[float], contest: Contest) -> dict[str, Any]:
    """Per router the speed-up at each margin, points picked where they are reported, and all metrics on the hull."""
    best_cost, best_error = contest.by.best
    found = {}
    for name in contest.rows:
        points = [p for p in tested if p.router == name]
        cost, error = costs_errors(points)
        within = [cost[error <= best_error + margin + TINY] for margin in margins]
        found[name] = {
            "speedup": [float(ratio(best_cost, costs.min())) if len(costs) else None for costs in within],
            "on_hull": {key: metric(points, contest.by) for key, metric in METRICS.items()},
        }
    return {"picked_on_test": True, "note": HINDSIGHT, "margins": list(margins), "routers": found}
