"""What both trainings share: data, augmentation, the way through the epochs with its checkpoints, accuracy."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from offramp.cascades.command.progress import bar
from offramp.cascades.models.weights import reason_of
from offramp.features.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from offramp.cascades.images.images import Images
    from offramp.cascades.models.preprocessing import Preprocessing

WARMUP = 0.2
"""Share of the steps in which the rate rises to its peak; it falls to zero in the others, both along a line."""


PAD = 4
"""Pixels by which an image is reflected outwards before it is cropped at random."""


EVALUATION_BATCH = 500


LOSS_EVERY = 10
"""Steps between two looks at the loss: each waits for the device."""

SHOWN = ("text", "bar", "percent", "remaining")
"""What the bar shows."""


def prepared(out: Path, device: str, threads: int | None) -> torch.device:
    """The device, once there is a folder ``out`` and torch keeps to so many threads (None: as it is)."""
    import torch

    from offramp.cascades.models.probing import pick_device

    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError("a folder to write into", "a file", f"--out {out}") from None
    if threads:
        torch.set_num_threads(threads)
    return pick_device(device)


@dataclass(frozen=True)
class Labelled:
    """Normalised images (n, 3, h, w) and their labels (n,), on the device they are used on."""

    images: Tensor
    labels: Tensor


def load(source: Images, device: torch.device, how: Preprocessing) -> Labelled:
    """All images of ``source``, decoded, cropped and normalised as ``how`` says."""
    import numpy as np
    import torch

    pixels = np.stack([how.cropped(source.image(i)) for i in range(len(source))])
    return Labelled(how.normalise(torch.from_numpy(pixels)).to(device), torch.from_numpy(source.labels).to(device))


def augmented(images: Tensor, side: int = 0, cutout: int = 0, flip: bool = True, pad: int = PAD) -> Tensor:
    """Images (n, c, h, w), each moved by up to ``pad`` pixels, flipped and blanked by chances of its own.

    ``side``: of a smaller crop from around the middle, if not 0; ``cutout``: of the blanked square (DeVries & Taylor,
    2017).
    """
    import torch

    side = side or images.shape[-1]
    n, _, height, _ = images.shape
    padded = torch.nn.functional.pad(images, (pad,) * 4, mode="reflect")
    low = (height - side) // 2
    top = low + torch.randint(0, 2 * pad + 1, (n, 1, 1))
    left = low + torch.randint(0, 2 * pad + 1, (n, 1, 1))
    across = torch.arange(side).view(1, 1, side).expand(n, 1, side)
    if flip:
        across = torch.where(torch.rand(n, 1, 1) < 0.5, across.flip(2), across)
    rows, columns = top + torch.arange(side).view(1, side, 1), left + across
    at = torch.arange(n).view(n, 1, 1)
    device = images.device
    out = padded.permute(0, 2, 3, 1)[at.to(device), rows.to(device), columns.to(device)].permute(0, 3, 1, 2)
    if cutout:
        half = cutout // 2
        middle = torch.randint(0, side, (2, n, 1, 1))
        blank = (rows - top - middle[0]).abs().le(half) & (torch.arange(side).view(1, 1, side) - middle[1]).abs().le(
            half
        )
        out = out.masked_fill(blank[:, None].to(device), 0.0)
    return out.contiguous(memory_format=torch.channels_last)


class Trainee(Protocol):
    """Who is trained: what the loop asks of a network and its objective."""

    name: str
    log: list[dict[str, float]]
    """A line for each epoch that is done."""

    @property
    def net(self) -> nn.Module:
        """The network, which a checkpoint holds."""

    @property
    def about(self) -> Mapping[str, str]:
        """What a run must share with the one whose checkpoint it goes on from."""

    @property
    def remedy(self) -> str:
        """What may help where the loss is not finite, such as "a lower --rate?"."""

    def begin(self) -> None:
        """Set up the modes of the modules for an epoch of training."""

    def loss(self, images: Tensor, labels: Tensor, epoch: int, done: float) -> Tensor:
        """Of a batch as it is stored, at a share ``done`` of all steps."""

    def end(self, line: dict[str, float]) -> str:
        """Looks at an epoch that is done, adds to its ``line`` and says it in words, the seconds left out."""


@dataclass(frozen=True)
class Course:
    """How long and how fast: ``epochs`` of batches of ``batch``, a peak ``rate``; all randomness follows from ``seed``
    and the epoch's number, so that a run that was killed ends like one that was not."""

    epochs: int
    batch: int
    rate: float
    seed: int


def train(trainee: Trainee, data: Labelled, optimiser: Any, course: Course, checkpoint: Path) -> None:
    """Epoch by epoch, writing ``checkpoint`` after each and beginning behind the epoch that it holds.

    Raises InputError for a checkpoint of another run, and for a loss or weights that are not finite.
    """
    import torch

    begun = _restore(trainee, checkpoint, optimiser, data.labels.device)
    name, epochs, per_epoch = trainee.name, course.epochs, len(data.labels) // course.batch
    with bar(SHOWN, epochs * per_epoch, name) as update:
        update(f"{name} ", advance=begun * per_epoch)
        for epoch in range(begun, epochs):
            start, lost = time.perf_counter(), list[float]()
            kept = f"; the checkpoint of epoch {epoch} is kept" if epoch else ""
            torch.manual_seed(course.seed * 100_003 + epoch)
            order = torch.randperm(len(data.labels))
            trainee.begin()
            for step in range(per_epoch):
                done = (epoch * per_epoch + step) / (epochs * per_epoch)
                rate = course.rate * ramp(done)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                rows = order[step * course.batch : (step + 1) * course.batch].to(data.labels.device)
                loss = trainee.loss(data.images[rows], data.labels[rows], epoch, done)
                if step % LOSS_EVERY == 0 or step == per_epoch - 1:
                    lost.append(float(loss.detach()))
                    if not isfinite(lost[-1]):
                        at = f"{lost[-1]} at or up to {LOSS_EVERY - 1} steps before step {step + 1}"
                        at += f" of epoch {epoch + 1}, rate {rate:g}{kept}"
                        raise InputError(f"a finite loss ({trainee.remedy})", at, name)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                update(f"{name} epoch {epoch + 1} of {epochs}", advance=1)
            trainee.net.eval()
            if not all(bool(torch.isfinite(parameter).all()) for parameter in trainee.net.parameters()):
                raise InputError("finite weights (a lower --rate?)", f"others after epoch {epoch + 1}{kept}", name)
            seconds = time.perf_counter() - start
            line = {"epoch": epoch + 1, "loss": sum(lost) / len(lost), "seconds": seconds}
            told = trainee.end(line)
            trainee.log.append(line)
            say(f"{name}: epoch {epoch + 1} of {epochs}: {told} {seconds:.1f} s")
            _save(trainee, checkpoint, optimiser, epoch + 1)
    trainee.net.eval()


def _save(trainee: Trainee, path: Path, optimiser: Any, epoch: int) -> None:
    import torch

    from offramp.features.store.atomic import replacing

    weights = {"module": trainee.net.state_dict(), "optimiser": optimiser.state_dict()}
    with replacing(path) as temporary:
        torch.save({"epoch": epoch, "about": dict(trainee.about), **weights, "log": trainee.log}, temporary)


def _restore(trainee: Trainee, path: Path, optimiser: Any, device: torch.device) -> int:
    """Load the checkpoint if there is one; how many epochs are done."""
    if not path.exists():
        return 0
    held = read_checkpoint(path, trainee.about, device)
    try:
        trainee.net.load_state_dict(held["module"])
        optimiser.load_state_dict(held["optimiser"])
        trainee.log[:] = held.get("log", ())
        return int(held["epoch"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"a checkpoint of this run {AFRESH}", reason_of(error), str(path)) from error


def groups_of(parameters: Sequence[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """For an optimiser: matrices, whose weights decay, and the others, whose don't."""
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


AFRESH = "(delete it to begin anew, or choose another --out)"


def read_checkpoint(path: Path, about: Mapping[str, str], device: torch.device) -> dict[str, Any]:
    """The content of a checkpoint whose run was ``about`` the same; raises InputError for anything else, naming what
    differs."""
    import torch

    from offramp.cascades.models.pickles import refuse_bombs

    refuse_bombs(path)
    try:
        held = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # whatever torch's reader raises about a broken file
        raise InputError(f"a whole checkpoint {AFRESH}", reason_of(error) or type(error).__name__, str(path)) from error
    if not isinstance(held, dict) or not isinstance(held.get("about"), dict):
        raise InputError(f"a checkpoint of this program {AFRESH}", type(held).__name__, str(path))
    there = held["about"]
    differing = [key for key in {**there, **about} if there.get(key) != about.get(key)]
    if differing:
        ours, theirs = (
            "; ".join(f"{key} {each.get(key, 'none')!s:.120}" for key in differing[:4]) for each in (about, there)
        )
        raise InputError(f"a checkpoint of the same run, with {ours} {AFRESH}", theirs, str(path))
    return held


def ramp(done: float) -> float:
    """The rate at a share ``done`` of all steps, over its peak.

    >>> ramp(0.0), ramp(0.1), ramp(0.2), ramp(0.6), ramp(1.0)
    (0.0, 0.5, 1.0, 0.5, 0.0)
    """
    return done / WARMUP if done < WARMUP else (1 - done) / (1 - WARMUP)


def initialise(module: nn.Module) -> None:
    """Draw all weights anew (He et al., 2015), so that they follow from torch's seed alone."""
    from torch import nn

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=5**0.5)
            nn.init.zeros_(layer.bias)


def accuracy(module: nn.Module, data: Labelled) -> float:
    """Share of the images whose label the network finds."""
    import torch

    right = 0
    module.eval()
    with torch.inference_mode():
        for start in range(0, len(data.labels), EVALUATION_BATCH):
            rows = slice(start, start + EVALUATION_BATCH)
            answers = module(data.images[rows].contiguous(memory_format=torch.channels_last)).argmax(1)
            right += int((answers == data.labels[rows]).sum())
    return right / len(data.labels)


def round_to_half(module: nn.Module) -> None:
    """Round kernels and matrices to what float16 holds, so that what is judged is what is shipped."""
    import torch

    with torch.no_grad():
        for value in module.parameters():
            if value.ndim > 1:
                value.copy_(value.half())


def fast_bfloat16(device: torch.device) -> bool:
    """Whether multiplying in bfloat16 is faster than in float32 there."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def say(line: str) -> None:
    """One line on stderr."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201
