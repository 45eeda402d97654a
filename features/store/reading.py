"""Stored outputs (npz of logits, parquet or csv of answers) turned into checked ``Outputs``, one file a part."""

from __future__ import annotations

import csv
import os
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from offramp.features.errors import InputError
from offramp.features.outputs import NO_ANSWER, Floats, Ints, Outputs, Stage
from offramp.features.store.limits import (
    CLASSES,
    CLASSES_PER_EXAMPLE,
    CSV_BYTES,
    EXPANSION,
    HEADER_BYTES,
    LINE_BYTES,
    MEMBERS,
    SHOWN,
    refuse_larger_than_memory,
)
from offramp.features.store.opening import opened
from offramp.features.store.parquet import dense, is_text, opened_parquet, refuse_too_large, rows_of
from offramp.features.store.strictjson import brief

if TYPE_CHECKING:
    import pyarrow as pa

MAP_FROM = 64 * 2**20
"""Bytes from which an uncompressed array is memory-mapped: below, reading is as fast and leaves no file open."""
LARGEST, LEAST = 1e9, -3.4028234663852886e38
"""Numbers beyond are no logits or confidences: single precision could not tell their exponentials apart."""
CHUNK = 2**20
"""Numbers looked at together in the search for NaN: a few MB, however many the classes."""
MAX_CLASSES = 10_000_000
"""Class numbers from here on are taken for a mistake (an id, a hash): later tables hold a number for each class."""
PROBED = 100
"""Rows that tell whether a text column of a parquet file holds numbers, so that long texts are not read for it."""

WHOLE = r"^[+-]?[0-9]+(\.0*)?$"
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
NUMBER_WITH_COMMA = r"^[+-]?[0-9]*[.,]?[0-9]+([eE][+-]?[0-9]+)?$"
RANKED = re.compile(r"(.+)\.answer\d*")


@dataclass(frozen=True)
class _Source:
    """A file, and the ids that it gives its examples (None: it gives none), to say where something was found."""

    path: Path
    ids: NDArray[Any] | None = None

    def at(self, what: str = "", row: int | None = None) -> str:
        place = [str(self.path), what]
        if row is not None:
            place.append(f"row {row} (from 0)" + ("" if self.ids is None else f" with id {self.ids[row]}"))
        return ", ".join(filter(None, place))


def read_parts(files: Mapping[str, Path], stages: Sequence[str]) -> dict[str, Outputs]:
    """What ``stages`` said on each part, read from ``files`` (part -> one .npz, .parquet or .csv file).

    All parts have one format, and are read together, because text classes are numbered over all of them.
    Arrays of more than ``MAP_FROM`` bytes that stand uncompressed in an npz are memory-mapped. Examples without
    ids are numbered through all parts. Raises InputError for anything that could not be used as it stands.
    """
    if len({path.suffix == ".npz" for path in files.values()}) > 1:
        raise InputError("the same format in every part", " and ".join(str(path) for path in files.values()))
    if all(path.suffix == ".npz" for path in files.values()):
        read = {part: _read_npz(path, part, stages) for part, path in files.items()}
    else:
        read = _read_answers(files, stages)
    _check_alike(read)
    _check_leaks(read)
    parts, start = {}, 0
    for part, (source, outputs) in read.items():
        numbered = np.arange(start, start + len(outputs))
        parts[part] = outputs if source.ids is not None else replace(outputs, ids=numbered)
        start += len(outputs)
    return parts


# Checks that both formats share.


def _ids(values: NDArray[Any], n: int, path: Path) -> NDArray[Any]:
    """``values`` as int64 or text, unique and as many as there are labels."""
    where = _Source(path).at("ids")
    if values.shape != (n,):
        raise InputError(f"ids of shape ({n},), one a label", f"shape {values.shape}", where)
    if values.dtype.kind not in "iuU":
        raise InputError("ids that are integers or text", f"dtype {values.dtype}", where)
    if values.dtype.kind != "U":
        if values.max() >= 2**63:
            raise InputError("ids below 2^63 (or as text)", str(values.max()), where)
        values = values.astype(np.int64)
    order = np.argsort(values, kind="stable")
    twice = np.flatnonzero(values[order[1:]] == values[order[:-1]])
    if len(twice):
        first, second = sorted(order[twice[0] : twice[0] + 2])
        found = f"id {values[first]} in rows {first} and {second} (from 0); {len(twice)} such rows"
        raise InputError("ids that differ", found, where)
    return values


def _check_alike(read: Mapping[str, tuple[_Source, Outputs]]) -> None:
    """Every stage has the same kind of outputs in all parts: a rule fitted on one must be usable on another."""
    (first, model), *others = read.values()
    for source, outputs in others:
        for ours, theirs in zip(model.stages, outputs.stages, strict=True):
            expected, found = _make_up(ours), _make_up(theirs)
            for what in expected:
                if expected[what] != found[what]:
                    same = f"the same {what} as in {first.path.name} ({expected[what]})"
                    raise InputError(same, str(found[what]), source.at(f"stage {ours.name!r}"))


def _make_up(stage: Stage) -> dict[str, object]:
    return {
        "number of classes": "no logits" if stage.logits is None else stage.logits.shape[1],
        "number of ranked answers": "no answers" if stage.answers is None else stage.answers.shape[1],
        "number of pooled features": "none" if stage.pooled is None else stage.pooled.shape[1],
        "measured numbers": ", ".join(sorted(stage.measured)) or "none",
    }


def _check_leaks(read: Mapping[str, tuple[_Source, Outputs]]) -> None:
    """No example stands in two parts, as far as the files give ids."""
    for (one, ours), (other, theirs) in combinations(read.values(), 2):
        if one.ids is None or other.ids is None:
            continue
        left, right = one.ids, other.ids
        if left.dtype.kind != right.dtype.kind:
            left, right = left.astype(str), right.astype(str)
        both = np.intersect1d(left, right, assume_unique=True)
        if len(both):
            found = f"id {both[0]} in both ({len(both)} such ids, a leak from {ours.part} to {theirs.part})"
            raise InputError("every example in one part only", found, f"{one.path} and {other.path}")


# Logits in an npz file.


def _read_npz(path: Path, part: str, stages: Sequence[str]) -> tuple[_Source, Outputs]:
    arrays = _arrays(path, stages)
    labels = arrays["labels"]
    if labels.dtype.kind not in "iub" or labels.ndim != 1:
        found = f"{labels.dtype} of shape {labels.shape}"
        raise InputError("labels (n,) of an integer type", found, _Source(path).at("labels"))
    n = len(labels)
    if n == 0:
        raise InputError("at least one example", "an empty part", str(path))
    source = _Source(path, _ids(arrays["ids"], n, path) if "ids" in arrays else None)
    made = []
    for name in stages:
        logits = _matrix(arrays[name], n, "logits", name, source)
        pooled = arrays.get(f"{name}.pooled")
        pooled = None if pooled is None else _matrix(pooled, n, "pooled features", name, source)
        measured = {
            key.removeprefix(f"{name}."): _column(array, n, key, source)
            for key, array in sorted(arrays.items())
            if key != f"{name}.pooled" and _owner(key, stages) == name and key not in stages
        }
        made.append(Stage(name, logits=logits, measured=measured, pooled=pooled))
    classes = arrays[stages[0]].shape[1]
    for name in stages:
        if arrays[name].shape[1] != classes:
            expected = f"logits over {classes} classes like stage {stages[0]!r}"
            raise InputError(expected, f"shape {arrays[name].shape}", source.at(f"stage {name!r}"))
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        row = int(outside.argmax())
        raise InputError(f"labels from 0 to {classes - 1}", str(labels[row]), source.at("labels", row))
    ids = np.arange(n) if source.ids is None else source.ids
    return source, Outputs(tuple(made), labels.astype(np.int64), ids, part, classes)


def _arrays(path: Path, stages: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Every array of the file by name, after a look at the names."""
    where = str(path)
    for name in {"labels", "ids"}.intersection(stages):
        raise InputError("stages named otherwise than labels and ids, which are taken", repr(name), where)
    with _unreadable(path, "npz"), opened(path, "a readable npz file") as file, zipfile.ZipFile(file) as archive:
        if len(archive.infolist()) > MEMBERS:
            raise InputError(f"at most {MEMBERS:,} arrays", f"{len(archive.infolist()):,}", where)
        members = [(info.filename.removesuffix(".npy"), info) for info in archive.infolist()]
        for name, times in Counter(name for name, _ in members).items():
            if times > 1:
                raise InputError("every array once", f"{name!r} {times} times", where)
            if name not in {"labels", "ids", *stages} and not _owner(name, stages):
                known = f"labels, ids, or logits of a stage in costs.json ({', '.join(stages)})"
                raise InputError(known, repr(name), where)
        for name in ("labels", *stages):
            if name not in dict(members):
                what = "labels" if name == "labels" else f"logits of {name!r}, a stage in costs.json"
                raise InputError(what, ", ".join(found for found, _ in members) or "no arrays", where)
        headers = {name: _header(archive, info, path) for name, info in members}
        n, kept = headers["labels"].shape[:1], {}
        for name, info in members:
            header = headers[name]
            if header.shape[:1] == n:
                kept[name] = info.file_size if info.compress_type != zipfile.ZIP_STORED else 0
        refuse_larger_than_memory(sum(kept.values()), "arrays", where)
        return {
            name: _array(archive, info, headers[name], path) if name in kept else _unread(headers[name])
            for name, info in members
        }


@dataclass(frozen=True)
class _Header:
    """What the header of an array says, and where its numbers begin."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    start: int


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> _Header:
    """Raises InputError for an array that is none, or whose size is not that of its shape."""
    where = _Source(path).at(f"array {info.filename.removesuffix('.npy')!r}")
    with archive.open(info) as stream:
        version = npy.read_magic(stream)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        try:
            shape, fortran, dtype = header(stream, max_header_size=HEADER_BYTES)
        except Exception as error:  # numpy has Python's own parser read it, which raises what it likes
            raise InputError("an array's header", f"one that can't be read ({brief(error)})", where) from error
        start = stream.tell()
    if any(type(side) is not int or not 0 <= side < 2**63 for side in shape):
        raise InputError("a shape of whole numbers", str(shape)[:SHOWN], where)
    if dtype.hasobject or dtype.names:
        raise InputError("an array of plain numbers", f"dtype {dtype} (pickled objects are never loaded)", where)
    size = prod(shape) * dtype.itemsize
    if start + size != info.file_size:
        raise InputError(f"{size} bytes for shape {shape}", f"{info.file_size - start}: a truncated file?", where)
    if info.compress_type == zipfile.ZIP_DEFLATED and info.file_size > EXPANSION * (info.compress_size + 1):
        raise InputError(f"at most {EXPANSION} bytes of each compressed one", f"{info.file_size:,}", where)
    return _Header(shape, fortran, dtype, start)


def _unread(header: _Header) -> NDArray[Any]:
    """An array of that shape in no memory, for one whose shape will be refused."""
    return np.broadcast_to(np.zeros((), header.dtype), header.shape)


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, header: _Header, path: Path) -> NDArray[Any]:
    """One array, memory-mapped if it is large and stands uncompressed; nothing is ever unpickled."""
    shape, dtype = header.shape, header.dtype
    size = prod(shape) * dtype.itemsize
    if info.compress_type == zipfile.ZIP_STORED and size >= MAP_FROM and dtype.isnative:
        with path.open("rb") as file:
            file.seek(info.header_offset)
            name, extra = struct.unpack("<26xHH", file.read(30))
        offset = info.header_offset + 30 + name + extra + header.start
        return np.memmap(path, dtype, "r", offset, shape, "F" if header.fortran else "C")
    with archive.open(info) as stream:
        array: NDArray[Any] = npy.read_array(stream, allow_pickle=False, max_header_size=HEADER_BYTES)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _column(array: NDArray[Any], n: int, name: str, source: _Source) -> Floats:
    """``array`` as (n,) float64 if it is n finite numbers."""
    if array.dtype.kind not in "iufb" or array.shape != (n,):
        found = f"{array.dtype} of shape {array.shape}"
        raise InputError(f"{n} numbers, one an example", found, source.at(f"array {name!r}"))
    column = array.astype(np.float64)
    if not np.isfinite(column).all():
        row = int((~np.isfinite(column)).argmax())
        raise InputError("finite numbers", str(column[row]), source.at(f"array {name!r}", row))
    return np.asarray(column)


def _matrix(array: NDArray[Any], n: int, what: str, stage: str, source: _Source) -> Floats:
    """``array`` if it is (n, at least one) finite floats, looked at in chunks of rows."""
    where = source.at(f"stage {stage!r}")
    if array.dtype.kind != "f":
        raise InputError(f"{what} of a float type", f"dtype {array.dtype}", where)
    if array.ndim != 2 or len(array) != n or array.shape[1] == 0:
        raise InputError(f"{what} of shape ({n}, c) for {n} labels", f"shape {array.shape}", where)
    rows = max(1, CHUNK // array.shape[1])
    for start in range(0, n, rows):
        finite = np.isfinite(array[start : start + rows])
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            found = f"{array[start + row, column]} in column {column}"
            raise InputError(f"finite {what}", found, source.at(f"stage {stage!r}", start + int(row)))
        block = array[start : start + rows]
        if float(block.max()) > LARGEST or float(block.min()) < LEAST:  # far below zero is a masked class, and fine
            wide = block.astype(np.float64)
            row, column = np.argwhere((wide > LARGEST) | (wide < LEAST))[0]
            found = f"{wide[row, column]} in column {column}"
            at = source.at(f"stage {stage!r}", start + int(row))
            raise InputError(f"{what} from {LEAST:.3g} to {LARGEST:g}", found, at)
    return array.astype(np.float64) if array.dtype.itemsize > 8 else array


@contextmanager
def _unreadable(path: Path, kind: str) -> Iterator[None]:
    """Whatever a reader raises about a broken file, as one line that names the file."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # parsers raise whatever they like about bytes that they did not expect
        found = f"a truncated or other file ({brief(error)})"
        with opened(path, f"a readable {kind} file") as file:
            found = "a pickle, which is never loaded" if file.read(1) == b"\x80" else found
        raise InputError(f"a whole {kind} file", found, str(path)) from error


# Ranked answers in a parquet or csv file.


@dataclass(frozen=True)
class _Table:
    """The columns of one file that are needed: numbers as they are, texts as large_string."""

    source: _Source
    columns: dict[str, pa.ChunkedArray]

    def __len__(self) -> int:
        return len(self.columns["label"])

    def refuse(self, bad: NDArray[np.bool_], name: str, expected: str) -> None:
        """Raises InputError for the first cell of column ``name`` where ``bad`` (n,) is true."""
        if bad.any():
            row = int(bad.argmax())
            cell = self.columns[name][row].as_py()
            found = "an empty cell" if cell is None else f"{cell!r:.60}"
            raise InputError(expected, found, self.source.at(f"column {name!r}", row))


def _read_answers(files: Mapping[str, Path], stages: Sequence[str]) -> dict[str, tuple[_Source, Outputs]]:
    tables = {part: _table(path, stages) for part, path in files.items()}
    ranked = {part: {name: _ranks(list(table.columns), name) for name in stages} for part, table in tables.items()}
    named = {part: ["label", *(name for names in ranked[part].values() for name in names)] for part in tables}
    with _unreadable(next(iter(files.values())), "readable"):
        numbers = _class_numbers([(tables[part], named[part]) for part in tables])
    read = {}
    classes = 1 + max(int(column.max()) for columns in numbers for column in columns.values())
    for (part, table), columns in zip(tables.items(), numbers, strict=True):
        measured: dict[str, dict[str, Floats]] = {name: {} for name in stages}
        for name in table.columns.keys() - columns.keys() - {"id"}:
            owner = _owner(name, stages)
            with _unreadable(files[part], "readable"):
                values = _numbers(table, name) if owner else None
            if values is not None:
                measured[owner][name.removeprefix(f"{owner}.")] = values
        made = []
        for name in stages:
            answers = np.empty((len(table), len(ranked[part][name])), np.int32)
            for rank, column in enumerate(ranked[part][name]):
                answers[:, rank] = columns[column]
            made.append(Stage(name, answers, measured=dict(sorted(measured[name].items()))))
        ids = np.arange(len(table)) if table.source.ids is None else table.source.ids
        read[part] = table.source, Outputs(tuple(made), columns["label"], ids, part, classes)
    return read


def _table(path: Path, stages: Sequence[str]) -> _Table:
    """The needed columns of one file, with its ids."""
    import pyarrow as pa
    import pyarrow.compute as pc

    with _unreadable(path, path.suffix[1:]):
        columns = _csv(path, stages) if path.suffix == ".csv" else _parquet(path, stages)
        columns = {name: dense(column, _Source(path).at(f"column {name!r}")) for name, column in columns.items()}
    if len(columns["label"]) == 0:
        raise InputError("at least one example", "an empty part", str(path))
    table = _Table(_Source(path), columns)
    if "id" not in columns:
        return table
    ids = columns["id"]
    table.refuse(ids.is_null().to_numpy(), "id", "an id in every row")
    if is_text(ids.type):
        table.refuse(pc.equal(ids, "").to_numpy(), "id", "an id in every row")
        # Numbers in a csv are texts: 7 is a number, 007 a name.
        whole = pc.all(pc.match_substring_regex(ids, r"^(0|-?[1-9][0-9]{0,17})$")).as_py()
        values = pc.cast(ids, pa.int64()).to_numpy() if whole else ids.to_numpy().astype(str)
    else:
        values = ids.to_numpy()
    return replace(table, source=_Source(path, _ids(values, len(table), path)))


def _needed(header: Sequence[str], stages: Sequence[str], path: Path) -> list[str]:
    """Names of the columns that may be used, after a look at what is missing, unknown or there twice."""
    where = str(path)
    needed = [name for name in header if name in {"label", "id"} or _owner(name, stages)]
    for name in header:
        match = RANKED.fullmatch(name)
        stranger = name.rpartition(".")[0] if name.endswith(".confidence") else ""
        if stranger and stranger not in stages:
            raise InputError(
                f"confidences of the stages in costs.json ({', '.join(stages)})", f"column {name!r}", where
            )
        if match and match[1] not in stages:
            raise InputError(f"answers of the stages in costs.json ({', '.join(stages)})", f"column {name!r}", where)
    for name, times in Counter(needed).items():
        if times > 1:
            raise InputError("every column once", f"{name!r} {times} times", where)
    for name in ("label", *(f"{stage}.answer" for stage in stages)):
        if name not in needed:
            of = "" if name == "label" else " of a stage in costs.json"
            raise InputError(f"a column {name!r}{of}", f"columns {', '.join(header)[:200] or '(none)'}", where)
    for stage in stages:
        ranks = _ranks(needed, stage)
        for name in needed:
            if (match := RANKED.fullmatch(name)) and match[1] == stage and name not in ranks:
                raise InputError(f"a column '{stage}.answer{len(ranks) + 1}' next", f"column {name!r}", where)
    return needed


def _owner(column: str, stages: Sequence[str]) -> str:
    """The stage that a column belongs to, empty if none: stages' names may contain dots, so the longest."""
    return max((stage for stage in stages if column.startswith(f"{stage}.")), key=len, default="")


def _ranks(header: Sequence[str], stage: str) -> list[str]:
    """Columns of a stage's ranked answers, best first."""
    ranks = [f"{stage}.answer"]
    while (name := f"{stage}.answer{len(ranks) + 1}") in header:
        ranks.append(name)
    return ranks


def _parquet(path: Path, stages: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    import pyarrow as pa

    with opened_parquet(path, "a readable parquet file") as file:
        schema = file.schema_arrow
        needed = _needed(schema.names, stages, path)
        classes = {"label", "id", *(name for stage in stages for name in _ranks(needed, stage))}
        needed = [name for name in needed if name in classes or not pa.types.is_nested(schema.field(name).type)]
        refuse_too_large(file, needed, path)
        texts = [name for name in needed if name not in classes and is_text(schema.field(name).type)]
        for batch in file.iter_batches(PROBED, columns=texts) if texts else ():
            first = {name: dense(pa.chunked_array([batch[name]]), str(path)) for name in texts}
            remarks = {name for name in texts if not _mostly(first[name], NUMBER_WITH_COMMA)}
            needed = [name for name in needed if name not in remarks]
            break
        table = rows_of(file, needed, path)
    return {name: table[name] for name in needed}


def _csv(path: Path, stages: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """Needed columns as texts, an empty cell as null; separated by commas, semicolons or tabs."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    with opened(path, "a readable csv file", CSV_BYTES) as file:
        refuse_larger_than_memory(3 * os.fstat(file.fileno()).st_size, "a csv file", str(path))
        line = next(text_lines(file, str(path)), "")
    headers = {mark: [name.strip() for name in next(csv.reader([line], delimiter=mark), [])] for mark in ",;\t"}
    delimiter = next((mark for mark, names in headers.items() if "label" in names), ",")
    header = headers[delimiter]
    needed = _needed(header, stages, path)
    try:
        # Names are given by number, since those of columns that nobody needs may be empty or there twice.
        with opened(path, "a readable csv file", CSV_BYTES) as file:
            table = arrow.read_csv(
                file,
                arrow.ReadOptions(column_names=[str(i) for i in range(len(header))], skip_rows_after_names=1),
                arrow.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                arrow.ConvertOptions(
                    include_columns=[str(header.index(name)) for name in needed],
                    column_types={str(header.index(name)): pa.large_string() for name in needed},
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
    except pa.ArrowInvalid as error:
        if ragged := _ragged(path, delimiter, header):
            raise ragged from error
        raise
    return {name: table[str(header.index(name))] for name in needed}


def text_lines(file: BinaryIO, where: str) -> Iterator[str]:
    """Lines of a text in UTF-8. Raises InputError for one that is not, or is longer than ``LINE_BYTES``."""
    for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES + 1), b""), 1):
        if len(line) > LINE_BYTES:
            raise InputError(f"lines of at most {LINE_BYTES:,} bytes", f"line {number}", where)
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError("text in UTF-8", f"byte 0x{line[error.start]:02x} in line {number}", where) from None


def _ragged(path: Path, delimiter: str, header: Sequence[str]) -> InputError | None:
    """What to say about the first row with more or fewer cells than the header, if there is one."""
    with opened(path, "a readable csv file", CSV_BYTES) as file:
        rows = (row for row in csv.reader(text_lines(file, str(path)), delimiter=delimiter) if row)
        for number, cells in enumerate(rows, -1):
            if len(cells) == len(header):
                continue
            pairs = zip(header, cells, cells[1:], strict=False)
            split = (name for name, a, b in pairs if re.fullmatch(r"-?\d+", a) and b.isdigit() and "." in name)
            name = next((name for name in split if not RANKED.fullmatch(name)), "")
            comma = f" (a decimal comma in column {name!r}?)" if name and len(cells) > len(header) else ""
            found = f"{len(cells)}{comma}: {delimiter.join(cells)[:100]}"
            return InputError(f"{len(header)} cells", found, _Source(path).at(row=number))
    return None


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind))


def _matches(column: pa.ChunkedArray, pattern: str) -> NDArray[np.bool_]:
    """(n,) which cells of a text column match; empty ones don't."""
    import pyarrow.compute as pc

    return np.asarray(pc.match_substring_regex(pc.utf8_trim_whitespace(column), pattern).fill_null(False))


def _mostly(column: pa.ChunkedArray, pattern: str) -> bool:
    """Whether half of a text column's cells match, the empty ones not counted."""
    return bool(2 * _matches(column, pattern).sum() >= max(1, len(column) - column.null_count))


def _class_numbers(tables: Sequence[tuple[_Table, Sequence[str]]]) -> list[dict[str, Ints]]:
    """Per table, its class columns as int64 (n,); texts are numbered in sorted order over all of them.

    Classes are numbers if most labels are, and then everything else is a mistake.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    labels = [table.columns["label"] for table, _ in tables]
    if all(_mostly(column, WHOLE) for column in labels if is_text(column.type)):
        numbers = [{name: _integers(table, name) for name in names} for table, names in tables]
    else:
        texts = [{name: _texts(table, name) for name in names} for table, names in tables]
        used = {text for columns in texts for column in columns.values() for text in pc.unique(column).to_pylist()}
        known = pa.array(sorted(used - {None}), pa.large_string())
        numbers = [{name: _positions(column, known) for name, column in columns.items()} for columns in texts]
    examples = sum(len(table) for table, _ in tables)
    for (table, _), columns in zip(tables, numbers, strict=True):
        for name, values in columns.items():
            first = name == "label" or name.endswith(".answer")
            lowest = 0 if first else NO_ANSWER
            what = "label" if name == "label" else "answer"
            expected = f"{what}s from 0 on" + ("" if first else ", or -1 or nothing where there is no answer")
            table.refuse(values < lowest, name, expected)
            most = min(MAX_CLASSES, max(CLASSES, CLASSES_PER_EXAMPLE * examples))
            table.refuse(values >= most, name, f"class numbers below {most} for {examples} examples")
    return numbers


def _integers(table: _Table, name: str) -> Ints:
    """(n,) int64, ``NO_ANSWER`` where the cell is empty or NaN (how pandas writes integers with gaps)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.columns[name]
    text = is_text(column.type)
    if not (text or _is_number(column.type) or pa.types.is_null(column.type)):
        raise InputError("class numbers or names", f"type {column.type}", table.source.at(f"column {name!r}"))
    try:
        return np.asarray(pc.cast(column, pa.int64()).fill_null(NO_ANSWER))
    except pa.ArrowInvalid:
        if text:
            expected = "a class number" + ("" if name == "label" else ", as the labels are")
            table.refuse(~_matches(column, WHOLE) & ~column.is_null().to_numpy(), name, expected)
            column = pc.utf8_trim_whitespace(column)
        numbers = np.asarray(pc.cast(column, pa.float64(), safe=False).fill_null(np.nan))
    numbers = np.where(np.isnan(numbers), NO_ANSWER, numbers)
    fits = (np.floor(numbers) == numbers) & (np.abs(numbers) < MAX_CLASSES)
    table.refuse(~fits, name, f"a class number below {MAX_CLASSES}")
    return np.asarray(numbers.astype(np.int64))


def _texts(table: _Table, name: str) -> pa.ChunkedArray:
    """A column's classes as texts, null where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.columns[name]
    if is_text(column.type):
        return pc.utf8_trim_whitespace(column)
    numbers = _integers(table, name)
    return pc.cast(pa.chunked_array([pa.array(numbers, mask=numbers == NO_ANSWER)]), pa.large_string())


def _positions(column: pa.ChunkedArray, known: pa.Array) -> Ints:
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.index_in(column, value_set=known, skip_nulls=True).fill_null(NO_ANSWER)
    return np.asarray(pc.cast(found, pa.int64()))


def _numbers(table: _Table, name: str) -> Floats | None:
    """(n,) float64, all finite; None for a column without any number, such as remarks."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.columns[name]
    if column.null_count == len(column) or not (is_text(column.type) or _is_number(column.type)):
        return None
    try:
        numbers = pc.cast(column, pa.float64(), safe=False)
    except pa.ArrowInvalid:
        if not _mostly(column, NUMBER_WITH_COMMA):
            return None
        table.refuse(~_matches(column, NUMBER), name, "a number with a decimal point")
        numbers = pc.cast(pc.utf8_trim_whitespace(column), pa.float64())
    numbers = np.asarray(numbers.fill_null(np.nan))
    table.refuse(~np.isfinite(numbers), name, "a finite number")
    table.refuse(np.abs(numbers) > LARGEST, name, f"a number of at most {LARGEST:g}")
    return numbers
