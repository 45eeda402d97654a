"""Stored outputs turned into a frontier: ``python -m eval.frontier --topology a_g_r``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from offramp.cascades.command.progress import steps
from offramp.cascades.command.settings import guard, parse
from offramp.cascades.learning.recipe import Recipe

FILES = ("frontier.csv", "frontier.png", "policies.json", "summary.json")
OTHER_STEPS = 15
"""Steps of the progress bar besides one for every decision."""


@dataclass(frozen=True)
class Settings(Recipe):
    """The flags of the command: a recipe, and where the files go."""

    out: Path = field(default=Path("frontier"), metadata={"help": "folder to write into; made if need be"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit code."""
    return guard(lambda: run(parse(Settings, argv, "python -m eval.frontier", __doc__ or "")))


def run(settings: Settings) -> None:
    """Read, fit, route, compare, write the files, print the tables."""
    from offramp.eval.report.files import writable
    from offramp.eval.report.routers import operating_points
    from offramp.features.store.atomic import refuse_overwriting

    refuse_overwriting((("--out", settings.out / name) for name in FILES), [("--data", settings.data)])
    folder = writable(settings.out, "--out", FILES)
    with steps() as step:
        step("reading the data")
        data, routes = settings.load()
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


if __name__ == "__main__":
    sys.exit(main())
