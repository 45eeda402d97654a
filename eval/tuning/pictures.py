"""The result of a search turned into two pictures: what its choices explain, and error against cost on the folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp.cascades.graph.hull import lower_hull
from offramp.eval.report.picture import INCHES, scale
from offramp.eval.report.routers import routers
from offramp.eval.tuning.choose import Result
from offramp.eval.tuning.problem import Problem
from offramp.eval.tuning.study import FOUND, SLOT, done

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def importance_picture(importance: Mapping[str, float], trials: int) -> Figure:
    """A bar a choice, the most important on top."""
    from matplotlib.figure import Figure

    shown = list(importance.items())[:20][::-1]
    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    title = f"What explains the differences between completed trials (fANOVA, of {trials})"
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("share of the variance (%)")
    if shown:
        axes.barh([name for name, _ in shown], [100 * v for _, v in shown], color=routers()["policy"].look.colour)
        axes.grid(True, axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    else:
        axes.text(0.5, 0.5, "too few trials, or none that differ", ha="center", va="center", transform=axes.transAxes)
        axes.set_yticks([])
    for text in (axes.xaxis.label, *axes.get_yticklabels()):
        text.set_parse_math(False)
    return figure


def pareto_picture(problem: Problem, result: Result, front: Sequence[Mapping[str, Any]]) -> Figure:
    """Error against cost on the folds: every trial's point, the ``front`` of all, the plain one, the policy kept."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.add_subplot()
    complete = done(result.searched.trials, feasible=False)
    points = [t.user_attrs[FOUND] for t in complete]
    first = [t.user_attrs[FOUND] for t in complete if t.user_attrs[SLOT] == 0]
    # on the trials' own folds, where there are trials: what was fitted on more examples stands lower
    if first:
        cost, error = np.array(first[0]["curve"]).T[:2]
        star = first[0] if result.trial is None else result.trial.user_attrs[FOUND]
    else:
        cost = np.array([routing.mean_cost for routing in result.plain.routings])
        error = np.array([routing.error for routing in result.plain.routings])
        star = {"cost": result.best.cost, "error": result.best.error}
    hull = lower_hull(cost, error)
    scale(axes, cost)
    if points:
        across, up = [p["cost"] for p in points], [100 * p["error"] for p in points]
        axes.plot(across, up, ".", color="#999999", label="trials", zorder=2)
    if front:
        look = routers()["joint"].look
        across, up = [p["cost"] for p in front], [100 * p["error"] for p in front]
        axes.plot(across, up, look.line, color=look.colour, linewidth=look.width, label="best of all trials", zorder=3)
    look = routers()["policy"].look
    axes.plot(cost[hull], 100 * error[hull], look.line, color=look.colour, label="plain frontier", zorder=4)
    axes.plot([star["cost"]], [100 * star["error"]], "*", color="#000000", markersize=11, label="policy kept", zorder=5)
    if problem.target.budget is not None:
        axes.axvline(problem.target.budget, color="#000000", linewidth=0.7, label="budget")
    allowed = []
    if problem.target.error_increase is not None:
        allowed.append(result.plain.expected.reference + problem.target.error_increase)
    if problem.target.accuracy is not None:
        allowed.append(1 - problem.target.accuracy)
    for error_allowed in allowed:
        axes.axhline(100 * error_allowed, color="#000000", linewidth=0.7, label="error allowed")
    axes.set_xlabel(f"mean cost ({problem.routes.unit})")
    axes.set_ylabel("error (%)")
    title = f"Held out, on {len(problem.learnt):,} examples; the best of many looks better than it is"
    axes.set_title(title, fontsize=10, loc="left")
    axes.legend(frameon=False, fontsize=9)
    for text in (axes.xaxis.label, *axes.texts):
        text.set_parse_math(False)
    return figure
