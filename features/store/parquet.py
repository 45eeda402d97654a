"""A user's parquet file turned into one that can be read in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from offramp.features.errors import InputError
from offramp.features.store.limits import CELL_BYTES, ROWS, ROWS_PER_BYTE, refuse_larger_than_memory
from offramp.features.store.opening import opened

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet


BATCH_ROWS = 2**16


@contextmanager
def opened_parquet(path: Path, what: str) -> Iterator[parquet.ParquetFile]:
    """The file at ``path``, text columns coded by dictionary, so that a long text in many rows is in memory once.

    Raises InputError as ``opened`` does, and what pyarrow raises for a file that is no parquet.
    """
    from pyarrow import parquet

    with opened(path, what) as file:
        with parquet.ParquetFile(file) as plain:
            texts = [field.name for field in plain.schema_arrow if is_text(field.type)]
        file.seek(0)
        with parquet.ParquetFile(file, read_dictionary=texts) as coded:
            yield coded


def refuse_too_large(file: parquet.ParquetFile, names: Sequence[str], path: Path) -> None:
    """Raises InputError where the columns ``names`` are nested, or claim more than memory, or the file, can hold.

    Only counts of rows are asked for: pyarrow ends the process where it is asked for a column of damaged metadata.
    """
    import pyarrow as pa

    for name in names:
        if pa.types.is_nested(kind := file.schema_arrow.field(name).type):
            raise InputError("a value in a cell", f"{kind}", f"{path}, column {name!r}")
    rows = file.metadata.num_rows
    if rows > (most := ROWS + ROWS_PER_BYTE * path.stat().st_size):
        raise InputError(f"at most {most:,} rows in a file of this size", f"{rows:,}", str(path))
    refuse_larger_than_memory(CELL_BYTES * rows * max(1, len(names)), "columns", str(path))


def rows_of(file: parquet.ParquetFile, names: Sequence[str], path: Path) -> pa.Table:
    """The columns ``names``, read in batches so that no more rows come than ``refuse_too_large`` has let pass."""
    import pyarrow as pa

    batches, left = [], file.metadata.num_rows
    for batch in file.iter_batches(BATCH_ROWS, columns=list(names)):
        left -= len(batch)
        if left < 0:
            raise InputError(f"{file.metadata.num_rows:,} rows, as the file says", "more", str(path))
        batches.append(batch)
    return pa.Table.from_batches(batches) if batches else file.read(columns=list(names))


def dense(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """A column without its dictionary, texts as large_string. Raises InputError where it would not fit in memory, or
    where a text is not UTF-8."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InputError("text in UTF-8", str(error).split("\n")[0], where) from None
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not is_text(kind):
        return pc.cast(column, kind)
    if pa.types.is_dictionary(column.type):
        size = sum(map(text_bytes, column.chunks))
        refuse_larger_than_memory(CELL_BYTES * len(column) + 3 * size, "a column", where)
    return pc.cast(column, pa.large_string())


def text_bytes(array: pa.Array) -> int:
    """Bytes of all texts of an array that is coded by dictionary; 0 for another."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (pa.types.is_dictionary(array.type) and is_text(array.type)):
        return 0
    lengths = pc.binary_length(array.dictionary).take(array.indices)
    return int(pc.sum(pc.cast(lengths, pa.int64())).as_py() or 0)


def is_text(kind: pa.DataType) -> bool:
    """Whether cells are texts, coded by dictionary or not."""
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
