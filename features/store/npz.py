"""Arrays turned into an .npz, bit for bit the same each time."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray


@dataclass(frozen=True)
class Blocks:
    """An array of shape (n, m) that comes in blocks of rows, so that it need never be in memory as a whole."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    blocks: Iterable[NDArray[Any]]


def write_npz(arrays: Mapping[str, NDArray[Any] | Blocks], path: Path) -> None:
    """Like numpy.savez, but streams memory maps and blocks, takes any name, and gives the same bytes for the same
    arrays."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
                if isinstance(array, Blocks):
                    npy.write_array_header_1_0(stream, npy_header(array.shape, array.dtype))
                    for block in array.blocks:
                        stream.write(block.astype(array.dtype, copy=False).tobytes())
                else:
                    npy.write_array(stream, np.asanyarray(array), allow_pickle=False)


def npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> dict[str, Any]:
    """What numpy's writer of .npy headers has to know of an array whose rows stand one after the other."""
    return {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
