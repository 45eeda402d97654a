"""The table of a frontier turned into one picture: error against cost on the reported part."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from offramp.cascades.graph.hull import lower_hull
from offramp.eval.report.routers import routers
from offramp.features.outputs import Floats
from offramp.oracles.router import Look

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES = (8.0, 4.8)  # 1200 pixels wide at 150 to the inch
LOG_FROM = 10.0  # costs that span more than this want a logarithmic axis
DECADES_FROM = 200.0  # and from here on 1, 2, 5 before the zeros would run into each other
MARKERS = 12  # on a line at most: more would hide it
BETWEEN = 16  # points drawn between two corners, because a mix of two is no straight line on a logarithmic axis
ROOM = 1.12  # the error axis ends this much above the worst that is worth showing
NOTE_WIDTH = 31  # letters beside the axes, over the legend
BAND = "95 % interval"
# Where a stage's name may stand beside its star, in points; stages close to each other take the next place.
PLACES = (((7, 6), "left"), ((-7, -13), "right"), ((7, -13), "left"), ((-7, 6), "right"), ((7, 18), "left"))


def frontier_picture(frame: pd.DataFrame, unit: str, examples: int, note: str = "") -> Figure:
    """Error (%) against mean cost (``unit``) of every router on the part that the frame's last rows are of.

    ``frame`` is what ``frontier_frame`` makes; ``examples`` how many there are in that part; ``note`` a sentence to
    stand beside. A line joins a router's points on the lower hull of the other part, the one to pick points on, by
    what mixing two neighbours gives; the band is the policy's interval.
    """
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    part = frame["part"].iloc[-1]
    tested = frame[frame["part"] == part]
    chosen = frame[frame["part"] != part]
    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.add_subplot()
    scale(axes, tested["cost"].to_numpy(float))
    # Single stages last: where their names may stand depends on what is drawn.
    for name, router in sorted(routers().items(), key=lambda item: item[0] == "single"):
        rows = (tested["router"] == name).to_numpy()
        points, picked_on = tested[rows], chosen[rows]
        if name == "single" and rows.any():
            _draw_singles(axes, points, router.look, router.told)
        elif rows.any() and router.picture:
            hull = lower_hull(picked_on["cost"].to_numpy(float), picked_on["error"].to_numpy(float))
            _draw_line(axes, points.iloc[hull], router.look, router.told, band=name == "policy")
    axes.set_xlabel(f"mean cost ({unit})")
    axes.set_ylabel("error (%)")
    axes.set_title(f"Error against cost on the {part} part, {examples:,} unseen examples", fontsize=10, loc="left")
    legend = figure.legend(loc="outside right upper", frameon=False, handlelength=3.2, fontsize=9)
    if note:
        legend.set_title(fill(note, NOTE_WIDTH) + "\n", FontProperties(size=9))
        legend.set_alignment("left")
    # A dollar in a unit or a name is a dollar, not the beginning of a formula.
    for text in (axes.xaxis.label, *axes.texts, *legend.get_texts(), legend.get_title()):
        text.set_parse_math(False)
    return figure


def scale(axes: Axes, cost: Floats) -> None:
    """Sets the axes up: a grid, and a logarithmic cost axis with plain numbers where costs span much."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if cost.min() > 0 and cost.max() > LOG_FROM * cost.min():
        axes.set_xscale("log")
        few = cost.max() > DECADES_FROM * cost.min()
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if few else (1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_line(axes: Axes, corners: pd.DataFrame, look: Look, label: str, band: bool) -> None:
    corner = np.arange(len(corners))
    along = np.linspace(0, len(corners) - 1, (len(corners) - 1) * BETWEEN + 1)
    names = ("cost", "error", "error_low", "error_high")
    cost, error, low, high = (np.interp(along, corner, corners[name].to_numpy(float)) for name in names)
    axes.plot(
        cost,
        100 * error,
        look.line,
        color=look.colour,
        marker=look.marker,
        markevery=(corner * BETWEEN)[:: -(-len(corners) // MARKERS)].tolist(),
        markersize=4.5,
        linewidth=look.width,
        label=label,
        zorder=4 if band else 3,
    )
    if band:
        axes.fill_between(cost, 100 * low, 100 * high, color=look.colour, alpha=0.18, linewidth=0, label=BAND)


def _draw_singles(axes: Axes, points: pd.DataFrame, look: Look, label: str) -> None:
    """Stars with names; a stage that is so bad that the rest would be squeezed is named at the upper edge."""
    from matplotlib.patheffects import withStroke

    cost, error = points["cost"].to_numpy(float), 100 * points["error"].to_numpy(float)
    names = points["family"].astype(str).to_list()
    useful = lower_hull(cost, error)
    top = ROOM * max(axes.dataLim.y1, error[useful].max())
    inside = error <= top
    axes.plot(cost[inside], error[inside], look.marker, color=look.colour, markersize=9, label=label, zorder=5)
    best = int(useful[-1])
    axes.axhline(error[best], color=look.colour, linewidth=0.7, zorder=2, label=f"error of {names[best]}")
    for i in np.flatnonzero(~inside):
        axes.set_ylim(top=top)
        axes.annotate(
            f"{names[i]} \N{UPWARDS ARROW} {error[i]:.0f} %", (cost[i], top), ha="right", va="top", fontsize=9
        )
    halo = [withStroke(linewidth=2.5, foreground="white")]
    where = np.log(np.maximum(cost, np.finfo(float).tiny)) if axes.get_xscale() == "log" else cost
    across, up = np.ptp(where) or 1.0, np.ptp(error[inside]) or 1.0
    for i in np.flatnonzero(inside):
        near = inside & (abs(where - where[i]) < across / 5) & (abs(error - error[i]) < up / 8)
        offset, side = PLACES[int(near[:i].sum()) % len(PLACES)]
        at = (cost[i], error[i])
        axes.annotate(
            names[i], at, offset, textcoords="offset points", ha=side, fontsize=9, zorder=6, path_effects=halo
        )
