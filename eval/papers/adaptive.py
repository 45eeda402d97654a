"""Frozen networks with exits turned into the tables of Adaptive Neural Networks."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from offramp.cascades.files.datafolder import DataFolder
    from offramp.features.outputs import Floats

ADAPTIVE = ("exits_googlenet", "exits_resnet")


ADAPTIVE_FILES = ("adaptive.csv", "adaptive.md", "adaptive.png")


ALLOWED = (1.0, 2.0, 5.0)
"""Points of error that a router may lose."""


ROUTERS = {
    "policy": "learned policy",
    "myopic": "myopic",
    "uniform": "uniform",
    "joint": "thresholds tuned jointly",
    "entropy": "entropy thresholds",
    "soft_oracle": "soft oracle",
}


PUBLISHED_SAVINGS = (
    ("GoogLeNet", "policy", (9, 22, 33)),
    ("GoogLeNet", "uniform", (2, 9, 20)),
    ("ResNet-50", "policy", (8, 18, 22)),
    ("ResNet-50", "uniform", (1, 12, 10)),
)
"""Early exit at 1, 2 and 5 % of top-5 loss on ImageNet (Bolukbasi et al., 2017), as known from secondary reading."""


@dataclass(frozen=True)
class AdaptiveSettings:
    """The flags of the command for Adaptive Neural Networks."""

    networks: tuple[str, ...] = field(default=ADAPTIVE, metadata={"help": "which networks", "choices": ADAPTIVE})
    loss: str = field(
        default="top1", metadata={"help": "what a mistake is, as in eval.frontier", "choices": ("top1", "excess")}
    )
    points: int = field(default=50, metadata={"help": "as in eval.frontier", "minimum": 1, "maximum": 1000})
    seed: int = field(default=0, metadata={"help": "seed of folds", "minimum": 0, "maximum": 2**31})
    out: Path = field(default=Path("papers"), metadata={"help": "folder to write into; made if need be"})


@dataclass(frozen=True)
class Saving:
    """One row: what a router saves of the whole network's cost when so many points of error are allowed.

    ``saved`` and ``extra`` (points of error really lost) on the test part, picked on the fit part; None where nothing
    there keeps to what is allowed.
    """

    network: str
    router: str
    allowed: float
    saved: float | None
    extra: float | None


def adaptive(settings: AdaptiveSettings) -> None:
    """Early exits behind every block of a frozen network: what each router saves at 1, 2 and 5 points of error."""
    import pandas as pd

    from offramp.cascades.files.datafolder import read_folder
    from offramp.eval.report.files import csv_bytes, png_bytes, writable

    folder = writable(settings.out, "--out", ADAPTIVE_FILES)
    rows: list[Saving] = []
    ladders: dict[str, tuple[Floats, Floats]] = {}
    for name in settings.networks:
        data = read_folder(name, settings.seed)
        rows += savings(name, data, settings)
        ladders[name] = ladder(data)
    text = savings_table(rows, ladders)
    frame = pd.DataFrame([row.__dict__ for row in rows])
    contents = (csv_bytes(frame), text.encode(), png_bytes(ladder_picture(ladders)))
    written = folder.write_all(dict(zip(ADAPTIVE_FILES, contents, strict=True)))
    sys.stdout.write(text)
    for path in written:
        sys.stdout.write(f"  {path}\n")


def savings(name: str, data: DataFolder, settings: AdaptiveSettings) -> list[Saving]:
    """Every router at every allowance, for one network: its exits in a chain, as in the paper."""
    from offramp.cascades.graph.topology import parse_topology, unroll
    from offramp.cascades.learning.points import ROUNDING, cheapest_within
    from offramp.cascades.learning.recipe import Recipe
    from offramp.oracles.comparing import operating_points

    exits = tuple(data.costs.stages)
    routes = unroll(parse_topology(">".join(exits), exits), data.costs)
    how = Recipe(loss=settings.loss, points=settings.points, pooled=False, seed=settings.seed)
    picked, tested, _ = operating_points(how, data, routes)
    whole = data.costs.step((), exits[-1])
    wrong = {
        part: float((_logits(data, part, exits[-1]).argmax(1) != data.parts[part].labels).mean())
        for part in ("fit", "test")
    }
    found = []
    for router in ROUTERS:
        mine = [i for i, point in enumerate(picked) if point.router == router]
        cost = np.array([picked[i].routing.mean_cost for i in mine])
        error = np.array([picked[i].routing.error for i in mine])
        for allowed in ALLOWED:
            bound = wrong["fit"] + allowed / 100
            pick = cheapest_within(cost, error, bound) if mine else -1
            if pick < 0 or error[pick] > bound + ROUNDING:
                found.append(Saving(name, router, allowed, None, None))
                continue
            there = tested[mine[pick]].routing
            saved, extra = 100 * (1 - there.mean_cost / whole), 100 * (there.error - wrong["test"])
            found.append(Saving(name, router, allowed, saved, extra))
    return found


def _logits(data: DataFolder, part: str, stage: str) -> Floats:
    logits = data.parts[part].of((stage,)).stages[0].logits
    assert logits is not None
    return logits


def ladder(data: DataFolder) -> tuple[Floats, Floats]:
    """Cost of answering at each exit at once, and accuracy (%) there, on the test part."""
    test = data.parts["test"]
    cost = np.array([data.costs.step((), stage) for stage in data.costs.stages])
    right = np.array([100 * (_logits(data, "test", s).argmax(1) == test.labels).mean() for s in data.costs.stages])
    return cost, right


def savings_table(rows: Sequence[Saving], ladders: Mapping[str, tuple[Floats, Floats]]) -> str:
    """Percent of the whole network's cost saved, with the points of error lost; and each network's ladder of exits."""
    head = "| network | router |" + "".join(f" {allowed:g} points allowed |" for allowed in ALLOWED)
    lines = [head, "|---|---|" + "---|" * len(ALLOWED)]
    for name in dict.fromkeys(row.network for row in rows):
        for router in ROUTERS:
            cells = [
                "-" if row.saved is None else f"{row.saved:.0f} % ({row.extra:+.2f})"
                for row in rows
                if (row.network, row.router) == (name, router)
            ]
            lines.append(f"| {name} | {ROUTERS[router]} | " + " | ".join(cells) + " |")
        lines += [
            f"| {paper}, the paper, top-5 | {router} | " + " | ".join(f"{value} %" for value in values) + " |"
            for paper, router, values in PUBLISHED_SAVINGS
            if paper.lower().startswith(name.removeprefix("exits_"))
        ]
    lines += ["", "| network | cost and accuracy of each exit by itself |", "|---|---|"]
    for name, (cost, right) in ladders.items():
        steps = ", ".join(f"{c / cost[-1]:.2f}: {a:.1f} %" for c, a in zip(cost, right, strict=True))
        lines.append(f"| {name} | {steps} |")
    note = "Picked on the fit part, measured on the test part; the points of error really lost stand in brackets."
    return "\n".join(lines) + f"\n\n{note}\n"


def ladder_picture(ladders: Mapping[str, tuple[Floats, Floats]]) -> Any:
    """Accuracy against cost along each network, as a share of its whole cost."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for (name, (cost, right)), colour in zip(ladders.items(), ("#0072B2", "#D55E00"), strict=False):
        axes.plot(cost / cost[-1], right, marker="o", color=colour, label=name)
    axes.set_xlabel("cost of answering there, the whole network's = 1")
    axes.set_ylabel("right (%)")
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
