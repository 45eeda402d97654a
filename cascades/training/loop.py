"""What both trainings share: data, augmentation, schedule, checkpoints, accuracy."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
