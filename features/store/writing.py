"""``Outputs`` turned into a file of a data folder, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.features.errors import InputError
from offramp.features.outputs import NO_ANSWER, Outputs
from offramp.features.store.atomic import replacing
from offramp.features.store.npz import write_npz


def write_outputs(outputs: Outputs, folder: Path) -> Path:
    """Write one part into ``folder``, made if need be: ``PART.outputs.npz`` for logits, else ``PART.answers.parquet``.

    Arrays stand uncompressed in the npz, so that large ones can be memory-mapped. Costs are written by
    ``cascades.graph.costs``. Raises InputError where a format has no place for what the outputs hold.
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
