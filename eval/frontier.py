"""Stored outputs turned into a frontier: ``python -m eval.frontier --topology a_g_r``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from eval.settings import guard, parse
from features.errors import InputError

if TYPE_CHECKING:
    from cascades.cascade import Routed, Sweep
    from cascades.chains import Cuts
    from cascades.folder import DataFolder
    from cascades.routing import OperatingPoint, Routes, Routing
    from features.evidence import Path as Stages

    Plan = tuple[Stages, Cuts]

FILES = ("frontier.csv", "frontier.png", "policies.json", "summary.json")
LEAST_EXAMPLES = 50
"""Fewer than ten examples a fold can't tell one rule from another."""

GAP = 0.02
"""Steps in cost, as a share of the frontier's span, that mixtures of two cascades are put between."""

OTHER_STEPS = 15
"""Steps of the progress bar besides one for every decision."""

COIN = 5
"""Seed of the mixtures' coin."""

POLICIES = ("constant", "threshold", "logistic", "value")
"""Families fitted unless others are named; "boosted" takes ten times as long and gained nothing where it was tried."""


@dataclass(frozen=True)
class Settings:
    """The flags of the command."""

    topology: str = field(
        metadata={
            "help": "stages in order, each an unambiguous prefix of its name, all forward jumps allowed (a_g_r), "
            "or the jumps themselves (a>g,r;g>r)"
        }
    )
    data: str = field(
        default="cifar10", metadata={"help": "name of embedded data (cifar10, imagenet), or a data folder"}
    )
    loss: str = field(
        default="top1",
        metadata={
            "help": "what a mistake is: the answer is not the label; not among the five best; or the answer is "
            "wrong where the last stage is right",
            "choices": ("top1", "top5", "excess"),
        },
    )
    policies: tuple[str, ...] = field(
        default=POLICIES,
        metadata={
            "help": "policy families to choose from, on held-out folds",
            "choices": ("constant", "threshold", "logistic", "value", "boosted"),
        },
    )
    answer: str = field(
        default="fused",
        metadata={
            "help": "what is answered at an exit: the last stage's answer, the most trusted of those paid for, "
            "or all of them fused",
            "choices": ("last", "any", "fused"),
        },
    )
    calibrate: bool = field(default=True, metadata={"help": "fit a temperature for each stage's logits"})
    agreement: bool = field(default=True, metadata={"help": "let policies see how far the stages on a path agree"})
    points: int = field(
        default=50, metadata={"help": "operating points on the frontier", "minimum": 1, "maximum": 1000}
    )
    seed: int = field(
        default=0, metadata={"help": "seed of splits, folds and bootstrap", "minimum": 0, "maximum": 2**31}
    )
    out: Path = field(default=Path("frontier"), metadata={"help": "folder to write into; made if need be"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit code."""
    return guard(lambda: run(parse(Settings, argv, "python -m eval.frontier", __doc__ or "")))


def run(settings: Settings) -> None:
    """Read, fit, route, compare, write the files, print the tables."""
    from eval.files import writable

    folder = writable(settings.out, "--out", FILES)
    with _steps() as step:
        step("reading the data")
        data, routes = _load(settings)
        step("reading the outputs", total=OTHER_STEPS + sum(map(bool, routes.children)))
        chosen, tested, sweep, more = operating_points(settings, data, routes, step)
        step("comparing")
        from cascades.chains import chain_name
        from cascades.plain import describe, to_plain
        from eval.files import csv_bytes, frontier_frame, json_bytes, png_bytes
        from eval.intervals import Bootstrap
        from eval.picture import frontier_picture
        from eval.summary import summarise

        how = Bootstrap(seed=settings.seed)
        summary = summarise(chosen, tested, how=how)
        frame = frontier_frame(chosen, tested, how)
        step("writing")
        examples = len(tested[0].routing)
        policies: dict[str, Any] = {
            "format": "offramp cascades",
            "version": 1,
            "cascades": describe(sweep),
            "thresholds": [{"path": chain_name(routes, path), "cuts": to_plain(cuts)} for path, cuts in more.plans],
            "mixtures": [asdict(mixture) for mixture in more.mixtures],
            "coin": COIN,
            "sweep": to_plain(sweep),
        }
        picture = frontier_picture(frame, routes.unit, examples, summary["verdict"]["text"])
        contents = (csv_bytes(frame), png_bytes(picture), json_bytes(policies), json_bytes(summary))
        written = folder.write_all(dict(zip(FILES, contents, strict=True)))
    from eval.table import show

    show(summary, written)


def _load(settings: Settings) -> tuple[DataFolder, Routes]:
    from cascades.folder import read_folder
    from cascades.topology import parse_topology, unroll

    data = read_folder(settings.data, settings.seed)
    topology = parse_topology(settings.topology, tuple(data.costs.stages))
    for part, outputs in data.parts.items():
        if len(outputs) < LEAST_EXAMPLES:
            found = f"{len(outputs)} in part {part!r}"
            raise InputError(f"at least {LEAST_EXAMPLES} examples, to fit and to judge anything", found, data.name)
    return data, unroll(topology, data.costs)


def operating_points(
    settings: Settings, data: DataFolder, routes: Routes, step: Step | None = None
) -> tuple[list[OperatingPoint], list[OperatingPoint], Sweep, Additions]:
    """Every router's points on the part they are picked on, the same on the test part, the sweep, and
    what the policy's points hold besides.

    Picked on the tune part if there is one; else on the fit part, the policies' points then being cross-fitted.
    """
    import numpy as np

    from cascades.answers import LOSSES
    from cascades.chains import chain_name, held_out_chains, joint_thresholds, route_chain
    from cascades.fit import FOLDS, FitSettings, fit_sweep
    from cascades.outcomes import single_outcomes
    from features.evidence import EvidenceSettings
    from features.glance import TOP
    from oracles import ORACLES

    step = step or _silent
    parts = {name: outputs.of(routes.stages) for name, outputs in data.parts.items()}
    loss = LOSSES[settings.loss]
    evidence = EvidenceSettings(calibrate=settings.calibrate, agreement=settings.agreement, ranks=max(TOP, loss.ranks))
    how = FitSettings(settings.policies, settings.answer, settings.loss, evidence, settings.seed)
    sweep, held_out = fit_sweep(parts["fit"], routes, settings.points, how, step)
    step("routing the test part")
    tested = sweep.route(parts["test"])
    chosen = sweep.route(parts["tune"]) if "tune" in parts else held_out.routed

    outcomes = {name: single_outcomes(outputs, loss, sweep.reader.calibration) for name, outputs in parts.items()}
    fit = outcomes["fit"].take(held_out.rows)
    prices = sweep.prices[np.isfinite(sweep.prices)]
    names, before, after = _learned(sweep), _routings(chosen, sweep), _routings(tested, sweep)
    plans: list[Plan] = []
    if "threshold" in settings.policies:
        step("tuning thresholds jointly")
        plans = joint_thresholds(fit, routes, prices)
        folds = np.arange(len(fit)) % FOLDS  # the rows are in random order
        names += [
            ("thresholds " + chain_name(routes, plan[0]), float(p)) for plan, p in zip(plans, prices, strict=True)
        ]
        after += [route_chain(outcomes["test"], routes, *plan) for plan in plans]
        before += (
            [route_chain(outcomes["tune"], routes, *plan) for plan in plans]
            if "tune" in outcomes
            else held_out_chains(fit, routes, prices, folds)
        )
    mixtures = fill_gaps(before)
    picked, reported = _points(names, before, mixtures), _points(names, after, mixtures)
    for name, oracle in ORACLES.items():
        step(f"comparing with {name}")
        picked += oracle(fit, outcomes.get("tune", fit), routes, prices)
        reported += oracle(fit, outcomes["test"], routes, prices)
    return picked, reported, sweep, Additions(tuple(plans), tuple(mixtures))


@dataclass(frozen=True)
class Mixture:
    """A coin between ``one`` and ``other``, indices of the sweep's cascades and, behind them, of the thresholds;
    ``share`` of the examples take the other."""

    one: int
    other: int
    share: float


@dataclass(frozen=True)
class Additions:
    """What the policy's points hold besides the sweep: thresholds tuned jointly, a path and its cuts for each price,
    and mixtures."""

    plans: tuple[Plan, ...]
    mixtures: tuple[Mixture, ...]


def fill_gaps(routings: Sequence[Routing]) -> list[Mixture]:
    """Mixtures between neighbours on the routings' lower hull, where their costs lie more than ``GAP`` apart."""
    import numpy as np

    from cascades.hull import lower_hull

    cost = np.array([routing.mean_cost for routing in routings])
    hull = lower_hull(cost, np.array([routing.error for routing in routings]))
    span = float(np.ptp(cost[hull]))
    found = []
    for one, other in pairwise(hull.tolist()):
        parts = int((cost[other] - cost[one]) / (GAP * span)) + 1 if span else 1
        found += [Mixture(one, other, part / parts) for part in range(1, parts)]
    return found


def _learned(sweep: Sweep) -> list[tuple[str, float]]:
    """Family and price of each of the sweep's cascades."""
    return [(_families(sweep, i), float(price)) for i, price in enumerate(sweep.prices)]


def _routings(routed: Routed, sweep: Sweep) -> list[Routing]:
    return [routed.at(i) for i in range(len(sweep.prices))]


def _points(
    names: Sequence[tuple[str, float]], routings: Sequence[Routing], mixtures: Sequence[Mixture]
) -> list[OperatingPoint]:
    """The named routings, then their mixtures, as operating points of the router "policy"."""
    from cascades.routing import OperatingPoint, mixed

    points = [OperatingPoint("policy", *name, routing) for name, routing in zip(names, routings, strict=True)]
    for m in mixtures:
        coin = mixed(routings[m.one], routings[m.other], m.share, COIN)
        points.append(OperatingPoint("policy", f"{m.share:.0%} of {m.other}, else {m.one}", float("nan"), coin))
    return points


def _families(sweep: Sweep, price: int) -> str:
    """The families whose rules decide at a price, from its entry on."""
    entry = sweep.routes.paths[int(sweep.entry[price])]
    names = {rule.family(price) for path, rule in sweep.rules.items() if path[:1] == entry}
    return "+".join(sorted(names)) or "constant"


class Step(Protocol):
    """Says what is being done now, and once, as soon as that is known, how many steps there are."""

    def __call__(self, text: str, total: int | None = None) -> None:
        """Begin the step ``text``."""


def _silent(text: str, total: int | None = None) -> None:
    """The step of who doesn't watch."""


@contextmanager
def _steps() -> Iterator[Step]:
    """A progress bar over the steps on a terminal; nothing in a pipe."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=None)

        def step(text: str, total: int | None = None) -> None:
            progress.update(task, description=text, advance=1, total=total or progress.tasks[0].total)

        yield step


if __name__ == "__main__":
    sys.exit(main())
