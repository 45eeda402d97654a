"""Labelled images turned into the weights of the zoo's small networks: ``python -m cascades.train``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from offramp.cascades.command.settings import guard, parse
from offramp.cascades.training.loop import (
    Course,
    accuracy,
    augmented,
    fast_bfloat16,
    groups_of,
    initialise,
    load,
    prepared,
    round_to_half,
    say,
    train,
)
from offramp.features.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

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
        torch.manual_seed(settings.seed)  # what ``initialise`` leaves as it is built, such as biases, follows too
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
        trainee = Backbone(name, module, recipe, mixed, about_run)
        trainee.train(data, epochs, settings.seed, start, settings.out / f"{name}.checkpoint")
        about = {"architecture": name, "classes": "\n".join(images.classes), "epochs": str(epochs)}
        if settings.half:
            round_to_half(module)
        if test is not None:
            right = accuracy(module, test)
            about["test_accuracy"] = f"{right:.4f}"
            say(f"{name}: {right:.2%} right on {len(test.labels)} test images")
        save_weights(module, settings.out / f"{name}.safetensors", about, settings.half)


class Backbone:
    """A network of one answer, as the loop trains it: SGD with a momentum, cross-entropy, crops and flips."""

    remedy = "a lower --rate?"

    def __init__(self, name: str, net: nn.Module, recipe: Recipe, mixed: bool, about: Mapping[str, str]) -> None:
        self.name, self.net, self.recipe, self.mixed, self.about = name, net, recipe, mixed, about
        self.log: list[dict[str, float]] = []

    def train(self, data: Labelled, epochs: int, seed: int, start: Path | None, checkpoint: Path) -> None:
        """From random weights, or from the file ``start``: a warm restart (Loshchilov & Hutter, 2017)."""
        import torch

        from offramp.cascades.models.weights import put_weights, read_weights

        groups = groups_of(list(self.net.parameters()), self.recipe.decay)
        optimiser = torch.optim.SGD(groups, lr=self.recipe.rate, momentum=MOMENTUM, nesterov=True)
        torch.manual_seed(seed)
        if start is None:
            initialise(self.net)
        else:
            put_weights(self.net, read_weights(start).tensors, self.name, str(start))
        train(self, data, optimiser, Course(epochs, BATCH, self.recipe.rate, seed), checkpoint)

    def begin(self) -> None:
        """See ``Trainee``."""
        self.net.train()

    def loss(self, images: Tensor, labels: Tensor, epoch: int, done: float) -> Tensor:  # noqa: ARG002
        """See ``Trainee``."""
        import torch
        from torch.nn import functional

        side, cutout = (SMALL, 0) if epoch < self.recipe.small else (0, self.recipe.cutout)
        x = augmented(images, side, cutout, self.recipe.flip)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.mixed):
            return functional.cross_entropy(self.net(x), labels)

    def end(self, line: dict[str, float]) -> str:
        """See ``Trainee``."""
        return f"loss {line['loss']:.4f},"
