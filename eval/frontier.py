"""Stored outputs turned into a frontier: ``python -m eval.frontier --topology a_g_r``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from offramp.cascades.command.choices import default_policies, policy_names
from offramp.cascades.command.progress import steps
from offramp.cascades.command.settings import guard, parse
from offramp.cascades.learning.recipe import Recipe

FILES = ("frontier.csv", "frontier.png", "policies.json", "summary.json")
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
    with steps() as step:
        step("reading the data")
        recipe = Recipe.of(settings)
        data, routes = recipe.load()
        from offramp.oracles.comparing import operating_points

        step("reading the outputs", total=OTHER_STEPS + sum(map(bool, routes.children)))
        chosen, tested, fitted = operating_points(recipe, data, routes, step)
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
