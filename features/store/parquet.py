"""A user's parquet file turned into one that can be read in bounded memory."""

from __future__ import annotations

import os
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
    """Raises InputError where the columns ``names`` claim more than memory, or the file, can hold."""
    held, bytes_, most = file.metadata, 0, 0
    for group in range(held.num_row_groups):
        values = 0
        for at in range(held.num_columns):
            column = held.row_group(group).column(at)
            if column.path_in_schema.partition(".")[0] in {name.partition(".")[0] for name in names}:
                bytes_ += column.total_uncompressed_size
                values = max(values, column.num_values)
        most += max(values, held.row_group(group).num_rows)
    if most > (limit := ROWS + ROWS_PER_BYTE * os.stat(path).st_size):  # noqa: PTH116
        raise InputError(f"at most {limit:,} values a column in a file of this size", f"{most:,}", str(path))
    refuse_larger_than_memory(bytes_ + CELL_BYTES * most * max(1, len(names)), "columns", str(path))


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
