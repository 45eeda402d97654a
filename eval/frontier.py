"""Stored outputs turned into a frontier: ``python -m eval.frontier --topology a_g_r``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from offramp.cascades.command.choices import default_policies, policy_names
from offramp.cascades.command.settings import guard, parse
from offramp.features.errors import InputError

if TYPE_CHECKING:
    from offramp.cascades.files.datafolder import DataFolder
    from offramp.cascades.graph.routing import OperatingPoint, Routes
    from offramp.cascades.learning.fit import FitSettings
    from offramp.cascades.learning.points import Fitted, Step

FILES = ("frontier.csv", "frontier.png", "policies.json", "summary.json")
LEAST_EXAMPLES = 50
"""Fewer than ten examples a fold can't tell one rule from another."""

OTHER_STEPS = 15
"""Steps of the progress bar besides one for every decision."""


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
        default_factory=default_policies,
        metadata={
            "help": "policy families to choose from, on held-out folds",
            "choices": policy_names,
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
    pooled: bool = field(
        default=True, metadata={"help": "let policies look at the stages' pooled features, where the data has them"}
    )
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
    from offramp.eval.report.files import writable
    from offramp.features.store.atomic import refuse_overwriting

    refuse_overwriting((("--out", settings.out / name) for name in FILES), [("--data", settings.data)])
    folder = writable(settings.out, "--out", FILES)
    with _steps() as step:
        step("reading the data")
        data, routes = _load(settings)
        step("reading the outputs", total=OTHER_STEPS + sum(map(bool, routes.children)))
        chosen, tested, fitted = operating_points(settings, data, routes, step)
        step("comparing")
        from offramp.cascades.files.policies import policies_to_plain
        from offramp.eval.report.files import csv_bytes, frontier_frame, json_bytes, png_bytes
        from offramp.eval.report.intervals import Bootstrap
        from offramp.eval.report.picture import frontier_picture
        from offramp.eval.report.summary import summarise

        how = Bootstrap(seed=settings.seed)
        summary = summarise(chosen, tested, how=how)
        frame = frontier_frame(chosen, tested, how)
        step("writing")
        examples = len(tested[0].routing)
        picture = frontier_picture(frame, routes.unit, examples, summary["verdict"]["text"])
        contents = (csv_bytes(frame), png_bytes(picture), json_bytes(policies_to_plain(fitted)), json_bytes(summary))
        written = folder.write_all(dict(zip(FILES, contents, strict=True)), tie="summary.json")
    from offramp.eval.report.table import show

    show(summary, written)


def _load(settings: Settings) -> tuple[DataFolder, Routes]:
    from offramp.cascades.files.datafolder import read_folder
    from offramp.cascades.graph.topology import parse_topology, unroll

    data = read_folder(settings.data, settings.seed)
    topology = parse_topology(settings.topology, tuple(data.costs.stages))
    for part, outputs in data.parts.items():
        if len(outputs) < LEAST_EXAMPLES:
            found = f"{len(outputs)} in part {part!r}"
            raise InputError(f"at least {LEAST_EXAMPLES} examples, to fit and to judge anything", found, data.name)
    gates = any("gate" in stage.measured for outputs in data.parts.values() for stage in outputs.stages)
    if "gate" in settings.policies and not gates:
        raise InputError("stages with gates (cascades.training --objective gated)", "none", "--policies gate")
    return data, unroll(topology, data.costs)


def operating_points(
    settings: Settings, data: DataFolder, routes: Routes, step: Step | None = None
) -> tuple[list[OperatingPoint], list[OperatingPoint], Fitted]:
    """Every router's points on the part they are picked on, the same on the test part, and the fitted cascades.

    Picked on the tune part if there is one; else on the fit part, the policies' points then being cross-fitted.
    """
    import numpy as np

    from offramp.cascades.learning.answers import LOSSES
    from offramp.cascades.learning.outcomes import single_outcomes
    from offramp.cascades.learning.points import fit_points, silent
    from offramp.oracles import ORACLES

    step = step or silent
    parts = {name: outputs.of(routes.stages) for name, outputs in data.parts.items()}
    fitted, picking = fit_points(parts["fit"], parts.get("tune"), routes, settings.points, fit_settings(settings), step)
    step("routing the test part")
    picked, reported = fitted.points(picking.routings), fitted.points(fitted.route(parts["test"]))
    test = single_outcomes(parts["test"], LOSSES[settings.loss], fitted.sweep.reader.calibration)
    prices = fitted.sweep.prices[np.isfinite(fitted.sweep.prices)]
    for name, oracle in ORACLES.items():
        step(f"comparing with {name}")
        picked += oracle(picking.fit, picking.there, routes, prices)
        reported += oracle(picking.fit, test, routes, prices)
    return picked, reported, fitted


def fit_settings(settings: Settings) -> FitSettings:
    """How the command's cascades are fitted."""
    from offramp.cascades.learning.answers import LOSSES
    from offramp.cascades.learning.fit import FitSettings
    from offramp.features.confidence import TOP
    from offramp.features.evidence import EvidenceSettings

    ranks = max(TOP, LOSSES[settings.loss].ranks)
    evidence = EvidenceSettings(
        settings.calibrate,
        agreement=settings.agreement,
        pooled=settings.pooled,
        measured=("gate",) if "gate" in settings.policies else (),
        ranks=ranks,
    )
    return FitSettings(settings.policies, settings.answer, settings.loss, evidence, settings.seed)


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
