"""Labelled images turned into the weights of the zoo's small networks: ``python -m cascades.train``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offramp.cascades.command.settings import guard, parse
from offramp.cascades.models.weights import reason_of
from offramp.features.errors import InputError

if TYPE_CHECKING:
    from torch import nn

from offramp.cascades.training.loop import (
    AFRESH,
    LOSS_EVERY,
    accuracy,
    augmented,
    fast_bfloat16,
    initialise,
    load,
    prepared,
    ramp,
    read_checkpoint,
    round_to_half,
    say,
)

if TYPE_CHECKING:
    from offramp.cascades.training.loop import Labelled

BATCH = 128
MOMENTUM = 0.9


@dataclass(frozen=True)
class Recipe:
    """How long and how fast one network learns; set once, from what such networks commonly need, and not tuned.

    ``small``: epochs at the beginning in which images are cropped to 24 pixels, which costs about half the time;
    ``cutout``: side of the square that is blanked in every image; ``flip``: left and right change places at random.
    """

    epochs: int
    small: int = 0
    cutout: int = 0
    rate: float = 0.1
    decay: float = 5e-4
    flip: bool = True


EMBEDDED = ("cifar_alexnet", "cifar_googlenet", "cifar_wide_resnet10")
"""Networks of the embedded cascade."""

RECIPES = {
    "cifar_alexnet": Recipe(epochs=30),
    "cifar_googlenet": Recipe(epochs=20),
    "cifar_wide_resnet10": Recipe(epochs=16, small=5, cutout=8),
    "branchy_alexnet": Recipe(epochs=20),
    "lenet": Recipe(epochs=20, flip=False),
}
OTHERS = Recipe(epochs=30)
"""How a network learns that has no recipe."""

SMALL = 24


@dataclass(frozen=True)
class Settings:
    """The flags of the command."""

    images: Path = field(metadata={"help": "labelled training images: an .npz of JPEG bytes, or a folder a class"})
    test: Path | None = field(default=None, metadata={"help": "labelled images that the accuracy is reported on"})
    models: tuple[str, ...] = field(default=EMBEDDED, metadata={"help": "networks of the zoo, trained in turn"})
    rows: str = field(
        default=":", metadata={"help": "which of the images to train on, such as :40000; keep some to fit policies on"}
    )
    epochs: int | None = field(
        default=None, metadata={"help": "epochs, if not as many as the recipe has", "minimum": 1, "maximum": 10_000}
    )
    rate: float | None = field(
        default=None, metadata={"help": "peak rate, if not the recipe's", "minimum": 1e-9, "maximum": 1e30}
    )
    cutout: int | None = field(
        default=None, metadata={"help": "side of the blanked square, if not the recipe's", "minimum": 0, "maximum": 32}
    )
    start: Path | None = field(
        default=None, metadata={"help": "folder of weights to begin from (a warm restart), if not from random ones"}
    )
    half: bool = field(
        default=True, metadata={"help": "write kernels and matrices as float16: half the file, and the same answers"}
    )
    mixed: bool = field(default=True, metadata={"help": "multiply in bfloat16 where the device is fast at it"})
    device: str = field(default="auto", metadata={"help": "cpu, cuda, or auto: cuda if there is one"})
    threads: int | None = field(
        default=None, metadata={"help": "CPU threads, if not all", "minimum": 1, "maximum": 1024}
    )
    seed: int = field(default=0, metadata={"help": "seed of weights, order, crops and flips", "minimum": 0})
    out: Path = field(default=Path("weights"), metadata={"help": "folder for the weights and the checkpoints"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit code."""
    return guard(lambda: run(parse(Settings, argv, "python -m cascades.train", __doc__ or "")))


def run(settings: Settings) -> None:
    """Train every network that is not trained yet, going on where a killed run was."""
    import torch

    from offramp.cascades.images.sources import open_images, rows_of
    from offramp.cascades.models.weights import save_weights
    from offramp.cascades.models.zoo import ZOO, find_weights
    from offramp.features.store.atomic import refuse_overwriting

    for name in settings.models:
        if name not in ZOO:
            raise InputError(f"networks of the zoo: {', '.join(ZOO)}", repr(name), "--models")
    outputs = [("--out", settings.out / f"{name}.safetensors") for name in settings.models]
    refuse_overwriting(outputs, [("--images", settings.images), ("--test", settings.test), ("--start", settings.start)])
    device = prepared(settings.out, settings.device, settings.threads)
    images = open_images(settings.images)
    rows = rows_of(settings.rows, len(images))
    learnt_from = images.take(rows)
    hows = {ZOO[name].preprocessing for name in settings.models}
    if len(hows) > 1:
        found = ", ".join(settings.models)
        raise InputError("networks that take images of one kind, or one at a time", found, "--models")
    how = hows.pop()
    data = load(learnt_from, device, how)
    if len(data.labels) < BATCH:
        raise InputError(f"at least {BATCH} images, a batch", str(len(data.labels)), f"--rows {settings.rows}")
    test = None if settings.test is None else load(open_images(settings.test).numbered_as(images.classes), device, how)
    for name in settings.models:
        recipe = RECIPES.get(name, OTHERS)
        epochs = settings.epochs or recipe.epochs
        if settings.rate is not None:
            recipe = replace(recipe, rate=settings.rate)
        if settings.cutout is not None:
            recipe = replace(recipe, cutout=settings.cutout)
        module = ZOO[name].build(len(images.classes)).to(device).to(memory_format=torch.channels_last)
        start = None if settings.start is None else find_weights(name, settings.start)
        mixed = settings.mixed and fast_bfloat16(device)
        about_run = {
            "network": name,
            "images": learnt_from.fingerprint,
            "rows": f"{rows.start}:{rows.stop}",
            "classes": ", ".join(images.classes),
            "recipe": repr(recipe),
            "epochs": str(epochs),
            "seed": str(settings.seed),
            "start": "random weights" if start is None else str(start),
        }
        train = Training(module, data, recipe, epochs, settings.seed, mixed, start, about_run)
        train.run(settings.out / f"{name}.checkpoint", name)
        about = {"architecture": name, "classes": "\n".join(images.classes), "epochs": str(epochs)}
        if settings.half:
            round_to_half(module)
        if test is not None:
            right = accuracy(module, test)
            about["test_accuracy"] = f"{right:.4f}"
            say(f"{name}: {right:.2%} right on {len(test.labels)} test images")
        save_weights(module, settings.out / f"{name}.safetensors", about, settings.half)


@dataclass(frozen=True)
class Training:
    """One network's way through its epochs; all randomness follows from the seed and the epoch's number, so that a
    run that was killed ends like one that was not."""

    module: nn.Module
    data: Labelled
    recipe: Recipe
    epochs: int
    seed: int
    mixed: bool
    start: Path | None = None
    """Weights to begin from: a warm restart (Loshchilov & Hutter, 2017); random ones if none."""

    about: Mapping[str, str] = field(default_factory=dict)
    """What a checkpoint must say of itself to be gone on from."""

    def run(self, checkpoint: Path, name: str) -> None:
        """Train, writing ``checkpoint`` after every epoch and beginning behind the epoch that it holds."""
        import torch
        from torch import nn

        from offramp.cascades.models.weights import put_weights, read_weights

        matrices = [p for p in self.module.parameters() if p.ndim > 1]
        others = [p for p in self.module.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": self.recipe.decay}, {"params": others, "weight_decay": 0.0}]
        optimiser = torch.optim.SGD(groups, lr=self.recipe.rate, momentum=MOMENTUM, nesterov=True)
        torch.manual_seed(self.seed)
        if self.start is None:
            initialise(self.module)
        else:
            found = read_weights(self.start)
            put_weights(self.module, found.tensors, name, str(self.start))
        begin = self._restore(checkpoint, optimiser)
        device = self.data.labels.device
        per_epoch = len(self.data.labels) // BATCH
        self.module.train()
        with progress_bar(name, self.epochs * per_epoch) as advance:
            advance(begin * per_epoch, "")
            for epoch in range(begin, self.epochs):
                start = time.perf_counter()
                lost: list[float] = []
                torch.manual_seed(self.seed * 100_003 + epoch)
                order = torch.randperm(len(self.data.labels))
                for step in range(per_epoch):
                    rate = self.recipe.rate * ramp((epoch * per_epoch + step) / (self.epochs * per_epoch))
                    for group in optimiser.param_groups:
                        group["lr"] = rate
                    rows = order[step * BATCH : (step + 1) * BATCH].to(device)
                    small = epoch < self.recipe.small
                    side, cutout = (SMALL, 0) if small else (0, self.recipe.cutout)
                    images = augmented(self.data.images[rows], side, cutout, self.recipe.flip)
                    with torch.autocast(device.type, torch.bfloat16, enabled=self.mixed):
                        loss = nn.functional.cross_entropy(self.module(images), self.data.labels[rows])
                    optimiser.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
                    if step % LOSS_EVERY == 0 or step == per_epoch - 1:
                        now = float(loss.detach())
                        if not isfinite(now):
                            at = f"{now} at step {step + 1} of epoch {epoch + 1}, rate {rate:g}"
                            kept = f"; the checkpoint of epoch {epoch} is kept" if epoch else ""
                            raise InputError("a finite loss (a lower --rate?)", at + kept, name)
                        lost.append(now)
                    advance(1, f"epoch {epoch + 1} of {self.epochs}")
                seconds = time.perf_counter() - start
                mean = sum(lost) / len(lost)
                say(f"{name}: epoch {epoch + 1} of {self.epochs}: loss {mean:.4f}, {seconds:.1f} s")
                self._save(checkpoint, optimiser, epoch + 1)
        self.module.eval()

    def _save(self, path: Path, optimiser: Any, epoch: int) -> None:
        import torch

        from offramp.features.store.atomic import replacing

        held = {
            "epoch": epoch,
            "about": dict(self.about),
            "module": self.module.state_dict(),
            "optimiser": optimiser.state_dict(),
        }
        with replacing(path) as temporary:
            torch.save(held, temporary)

    def _restore(self, path: Path, optimiser: Any) -> int:
        """Load the checkpoint if there is one; how many epochs are done."""

        if not path.exists():
            return 0
        held = read_checkpoint(path, self.about, self.data.labels.device)
        try:
            self.module.load_state_dict(held["module"])
            optimiser.load_state_dict(held["optimiser"])
            return int(held["epoch"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"a checkpoint of this run {AFRESH}", reason_of(error), str(path)) from error


@contextmanager
def progress_bar(name: str, steps: int) -> Iterator[Any]:
    """A bar over all steps on a terminal; nothing in a pipe."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=steps)
        yield lambda steps, text: progress.update(task, advance=steps, description=f"{name} {text}")
