"""The flags of ``eval.run``: what is run, on what, and how it is timed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from offramp.features.store.limits import LONGEST_WAIT

MARGINS = (0.0, 0.01)
"""Errors allowed over the largest model's, unless others are given: no loss, and one point."""


@dataclass(frozen=True)
class Settings:
    """The flags of the command."""

    topology: str | None = field(
        default=None, metadata={"help": "as in eval.frontier: a_g_r, or a>g,r;g>r; required without --policy"}
    )
    data: str | None = field(
        default=None,
        metadata={
            "help": "embedded data or a data folder: policies are fitted on its fit part (cifar10, or the data that "
            "the policy was fitted on)"
        },
    )
    policy: Path | None = field(
        default=None,
        metadata={
            "help": "policy file of eval.tune or eval.certify: its operating point is run, and held against what was "
            "asked for and certified"
        },
    )
    policies: Path | None = field(
        default=None,
        metadata={"help": "folder that eval.frontier wrote: its cascades are run instead of fitting them here"},
    )
    models: tuple[str, ...] = field(
        default=(), metadata={"help": "STAGE=NETWORK for each stage, if not as eval.extract noted in the data folder"}
    )
    weights: Path | None = field(default=None, metadata={"help": "folder or file with the networks' weights"})
    images: Path | None = field(
        default=None, metadata={"help": "labelled images to run on (the embedded ones for embedded data)"}
    )
    rows: str = field(default=":", metadata={"help": "which of the images, such as 10000:12000"})
    classes: tuple[str, ...] = field(
        default=(), metadata={"help": "as in eval.extract, if not as it noted in the data folder"}
    )
    broken: str = field(
        default="skip",
        metadata={
            "help": "what to do about a broken image: leave it out and say so, or stop",
            "choices": ("skip", "stop"),
        },
    )
    margins: tuple[float, ...] = field(
        default=MARGINS,
        metadata={"help": "errors allowed over the largest model's: a cascade is picked for each", "minimum": 0},
    )
    batch: int = field(default=64, metadata={"help": "images a batch", "minimum": 1, "maximum": 65_536})
    rounds: int = field(default=5, metadata={"help": "times that all images are run", "minimum": 1, "maximum": 1000})
    queue: int = field(
        default=0,
        metadata={
            "help": "also serve requests of so many images by a queue that gathers them across requests (0: don't)",
            "minimum": 0,
            "maximum": 65_536,
        },
    )
    patience: float = field(
        default=20.0,
        metadata={
            "help": "milliseconds after which the queue runs what waits",
            "minimum": 0,
            "maximum": 1000 * LONGEST_WAIT,
        },
    )
    device: str = field(default="auto", metadata={"help": "cpu, cuda, or auto: cuda if there is one"})
    dtype: str = field(
        default="float32", metadata={"help": "what networks multiply in", "choices": ("float32", "bfloat16")}
    )
    compile: bool = field(default=False, metadata={"help": "compile the networks first (torch.compile)"})
    threads: int | None = field(
        default=None, metadata={"help": "CPU threads, if not all", "minimum": 1, "maximum": 1024}
    )
    loss: str = field(default="top1", metadata={"help": "as in eval.frontier", "choices": ("top1", "excess")})
    points: int = field(default=50, metadata={"help": "as in eval.frontier", "minimum": 1, "maximum": 1000})
    seed: int = field(default=0, metadata={"help": "seed of splits and folds", "minimum": 0, "maximum": 2**31})
    log: Path | None = field(
        default=None,
        metadata={"help": "file to write the routing of every image into, for eval.watch (.csv, .jsonl or .parquet)"},
    )
    out: Path | None = field(default=None, metadata={"help": "folder to write run.csv and run.json into"})

    @property
    def source(self) -> str:
        """The data that policies are fitted on."""
        return self.data or "cifar10"
