"""Bytes of an image turned into RGB pixels."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import PIL.Image
from offramp.cascades.images.files import _DecodingError

if TYPE_CHECKING:
    from offramp.cascades.images.files import Pixels

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What Pillow may take bytes for. Others stay out: for an EPS, say, it would start Ghostscript on the user's data."""


LONGEST_SIDE = 32_768
"""Pixels of a side at most: resizing a strip of millions takes minutes, and no photograph has as many."""


def _decoded(data: bytes) -> PIL.Image.Image:
    """An image's first frame as ``rgb`` makes it; EXIF's orientation is not applied, as torchvision does not either."""
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise _DecodingError("an empty file")
    with warnings.catch_warnings():
        # What Pillow thinks odd (a bad EXIF, a transparent palette) can be decoded; a bomb shall not be.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                if max(opened.size) > LONGEST_SIDE:
                    raise _DecodingError(
                        f"{opened.size[0]} x {opened.size[1]} pixels, more than {LONGEST_SIDE:,} a side"
                    )
                return rgb(opened)
        except (_DecodingError, MemoryError):
            raise
        except UnidentifiedImageError as error:  # its text holds an address, which differs from run to run
            raise _DecodingError(f"no image, but {len(data)} bytes that begin with {data[:12]!r}") from error
        except Exception as error:  # Pillow raises whatever its parsers run into
            raise _DecodingError(f"{error} ({type(error).__name__})") from error


def rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """An image of any mode as RGB of 8 bits.

    Grey of 16 bits is divided by 257, so that white stays white, and rounded (colour of 16 bits Pillow has already
    cut to 8). What is transparent shows white behind it, as on a page; torchvision would show the colour that the
    file holds there, unseen. CMYK and palettes are converted by Pillow.
    """
    from PIL import Image

    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise _DecodingError(f"grey from {grey.min()} to {grey.max()}, beyond 16 bits")
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise _DecodingError("pixels that are floating-point numbers")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return image.convert("RGB")


def _three(pixels: Pixels) -> Pixels:
    """(h, w), (h, w, 1) or (h, w, 3) as (h, w, 3)."""
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
