"""``Outputs`` turned into a file of a data folder, whole or not at all."""

from __future__ import annotations

import os
import secrets
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from features.errors import InputError
from features.outputs import NO_ANSWER, Outputs


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of ``path`` to write to; it becomes ``path`` when the block ends well.

    A reader sees the old file or the new one, never half of one, and a failed or killed block leaves the old.
    Raises InputError where the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise InputError("a file that can be written", error.strerror or str(error), str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_outputs(outputs: Outputs, folder: Path) -> Path:
    """Write one part into ``folder``, made if need be: ``PART.outputs.npz`` for logits, else ``PART.answers.parquet``.

    Arrays stand uncompressed in the npz, so that large ones can be memory-mapped. Costs are written by
    ``cascades.costs``. Raises InputError where a format has no place for what the outputs hold.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError("a folder that can be written", error.strerror or str(error), str(folder)) from error
    if any(stage.logits is not None for stage in outputs.stages):
        path = folder / f"{outputs.part}.outputs.npz"
        with replacing(path) as temporary:
            write_npz(_arrays(outputs), temporary)
    else:
        path = folder / f"{outputs.part}.answers.parquet"
        with replacing(path) as temporary:
            _write_parquet(outputs, temporary)
    return path


def _arrays(outputs: Outputs) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {"labels": outputs.labels, "ids": outputs.ids}
    for stage in outputs.stages:
        if stage.logits is None:
            raise InputError("logits in an npz", "answers alone", f"stage {stage.name!r}")
        if stage.name in arrays:
            raise InputError("names that differ, other than labels and ids", repr(stage.name), "stage")
        arrays[stage.name] = stage.logits
        if stage.pooled is not None:
            arrays[f"{stage.name}.pooled"] = stage.pooled
        arrays |= {f"{stage.name}.{name}": column for name, column in stage.measured.items()}
    return arrays


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


def _write_parquet(outputs: Outputs, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {"label": pa.array(outputs.labels), "id": pa.array(outputs.ids)}
    for stage in outputs.stages:
        if stage.answers is None or stage.pooled is not None:
            found = "neither" if stage.answers is None else "pooled features too"
            raise InputError("logits or answers", found, f"stage {stage.name!r}")
        for rank in range(stage.answers.shape[1]):
            ranked = np.ascontiguousarray(stage.answers[:, rank])
            name = f"{stage.name}.answer{rank + 1 if rank else ''}"
            columns[name] = pa.array(ranked, mask=ranked == NO_ANSWER)
        for name, values in stage.measured.items():
            columns[f"{stage.name}.{name}"] = pa.array(values)
    parquet.write_table(pa.table(columns), path)
