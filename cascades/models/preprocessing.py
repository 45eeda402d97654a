"""Decoded images of any size turned into what a network was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import floor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offramp.features.errors import InputError

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

INTERPOLATIONS = {
    "nearest": 0,
    "nearest-exact": 0,
    "lanczos": 1,
    "bilinear": 2,
    "bicubic": 3,
    "box": 4,
    "hamming": 5,
}
"""Names that torchvision and timm use, and PIL's numbers for them."""

LARGEST = 2**26
"""Pixels beyond which a resized image is never made whole: a strip of 20,000 x 1 pixels would fill the memory."""


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image before a network sees it: resize, crop, subtract the mean, divide by the deviation.

    ``resize``: the shorter side's length, or (height, width) with the ratio given up, or None: images are taken as
    they are, and one that isn't of the size ``crop`` is resized to it. ``crop``: (height, width) around the middle,
    padded with black; None: no crop. ``interpolation``: one of INTERPOLATIONS. ``mean`` and ``std``: of pixels scaled
    to 0 … 1, one a channel. ``channels``: 3 for red, green, blue; 1 for grey.

    >>> whole = Preprocessing(256, (224, 224), "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    >>> from PIL import Image
    >>> whole.cropped(Image.new("RGB", (640, 480))).shape
    (224, 224, 3)
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int = 3

    def cropped(self, image: Image.Image) -> NDArray[np.uint8]:
        """The pixels that the network gets, (h, w, channels): resized by PIL, then cropped."""
        kind = "L" if self.channels == 1 else "RGB"
        if image.mode != kind:
            image = image.convert(kind)
        image = self._resized(image)
        if self.crop is not None:
            image = _middle(image, self.crop)
        pixels = np.array(image, dtype=np.uint8)
        return pixels.reshape(*pixels.shape[:2], self.channels)

    def normalise(self, x: Tensor) -> Tensor:
        """Crops (n, h, w, channels), uint8 on any device, as float32 (n, channels, h, w) in channels-last memory.

        The arithmetic is torchvision's and timm's, operation for operation. Raises ValueError for another layout.
        """
        if x.ndim != 4 or x.shape[-1] != self.channels:
            raise ValueError(f"expected pixels of shape (n, h, w, {self.channels}), found {tuple(x.shape)}")
        mean, std = _constants(self.mean, self.std, x.device)
        return x.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)

    @property
    def pixels_key(self) -> tuple[object, ...]:
        """What ``cropped`` depends on: stages with equal keys can share one crop."""
        return self.resize, self.crop, self.interpolation, self.channels

    def _resized(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if self.resize is None:
            across, down = image.size if self.crop is None else (self.crop[1], self.crop[0])
        elif isinstance(self.resize, int):
            longer = int(self.resize * max(width, height) / min(width, height))
            across, down = (self.resize, longer) if width <= height else (longer, self.resize)
        else:
            down, across = self.resize
        if (across, down) == (width, height):
            return image
        kind: Any = INTERPOLATIONS[self.interpolation]
        if across * down > LARGEST and self.crop is not None:
            # only the part that the crop will look at; equal to the whole way within rounding
            keep_down, keep_across = min(down, self.crop[0]), min(across, self.crop[1])
            top, left = (down - keep_down) // 2, (across - keep_across) // 2
            x, y = width / across, height / down
            box = (left * x, top * y, (left + keep_across) * x, (top + keep_down) * y)
            return image.resize((keep_across, keep_down), kind, box)
        return image.resize((across, down), kind)


def _middle(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Crop (height, width) around the middle as torchvision does; what lies outside the image is black."""
    left, top = (
        -((wanted - there) // 2) if wanted > there else round((there - wanted) / 2)
        for wanted, there in zip((size[1], size[0]), image.size, strict=True)
    )
    return image.crop((left, top, left + size[1], top + size[0]))


@lru_cache(maxsize=64)
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Both as tensors (channels, 1, 1) on the device; kept, since making them anew waits for a GPU."""
    import torch

    with torch.inference_mode(mode=False):
        made = [torch.tensor(v, dtype=torch.float32, device=device).view(-1, 1, 1) for v in (mean, std)]
    return made[0], made[1]


def of_torchvision(preset: Any, where: str = "") -> Preprocessing:
    """The transforms of torchvision weights, ``weights.transforms()``.

    Raises InputError if they are not those of an image classifier.
    """
    try:
        resize, crop = tuple(preset.resize_size), tuple(preset.crop_size)
        kind = _interpolation(preset.interpolation.value, where)
        mean, std = tuple(preset.mean), tuple(preset.std)
    except AttributeError as error:
        raise InputError("transforms of an image classifier", type(preset).__name__, where) from error
    pair = (crop[0], crop[-1])
    return Preprocessing(resize[0] if len(resize) == 1 else (resize[0], resize[1]), pair, kind, mean, std)


def of_timm(config: Mapping[str, Any], where: str = "") -> Preprocessing:
    """What ``timm.data.resolve_data_config`` says, in our words.

    The crop modes "center" (of a square) and "squash" are known; others raise InputError.

    >>> of_timm({"input_size": (3, 224, 224), "crop_pct": 0.95, "crop_mode": "center", "interpolation": "bicubic",
    ...          "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}).resize
    235
    """
    channels, height, width = config["input_size"]
    mode, share = config["crop_mode"], config["crop_pct"]
    scaled = (floor(height / share), floor(width / share))
    if channels not in (1, 3):
        raise InputError("a network for images of 1 or 3 channels", f"one for {channels}", where)
    if mode not in ("center", "squash") or (mode == "center" and scaled[0] != scaled[1]):
        found = f"mode {mode!r} at {height} x {width}"
        raise InputError("crop mode 'squash', or 'center' of a square", found, where)
    resize = scaled[0] if mode == "center" else scaled
    kind = _interpolation(config["interpolation"], where)
    mean, std = tuple(config["mean"]), tuple(config["std"])
    return Preprocessing(resize, (height, width), kind, mean[:channels], std[:channels], channels)


def _interpolation(name: str, where: str) -> str:
    if name not in INTERPOLATIONS:
        raise InputError(f"one of the interpolations {', '.join(INTERPOLATIONS)}", repr(name), where)
    return name
