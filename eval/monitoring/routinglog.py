"""A log of where examples stopped, read and written line by line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.eval.guarantees.reference import FEWEST, Subject
from offramp.eval.monitoring.sequential import BLOCK
from offramp.features.errors import InputError
from offramp.features.outputs import Floats, Ints
from offramp.features.store.atomic import replacing
from offramp.features.store.limits import BATCH_BYTES, LINE_BYTES
from offramp.features.store.opening import opened
from offramp.features.store.parquet import opened_parquet, refuse_too_large, text_bytes

NONE = -1
"""Stands for a path, an answer or a label that a line of a log does not give."""

COLUMNS = ("path", "confidence", "answer", "label", "largest")
"""What is read of a log; any other column, such as ``id``, is passed over."""

CHUNK = 1 << 16

UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Characters of an id that a log in UTF-8, a line an example, has no place for."""

FORMS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


@dataclass(frozen=True)
class Examples:
    """Lines of a log, each field (n,): ``path`` into the subject's, ``confidence`` (NaN: none), ``answer``, ``label``
    and ``largest``, the answer of the largest stage (``NONE`` where there is none). A line without a path is a label
    that came late."""

    path: Ints
    confidence: Floats
    answer: Ints
    label: Ints
    largest: Ints

    def __len__(self) -> int:
        return len(self.path)

    def take(self, rows: slice | Ints) -> Examples:
        """The lines ``rows``."""
        return Examples(*(getattr(self, field.name)[rows] for field in fields(self)))


def write_log(
    path: Path,
    paths: Sequence[str],
    confidence: Floats,
    answer: Ints | None = None,
    label: Ints | None = None,
    ids: Sequence[Any] | NDArray[Any] | None = None,
    largest: Ints | None = None,
) -> None:
    """Write a routing log of n examples, one line each, as CSV, JSON lines or parquet, by the name of ``path``.

    ``paths`` "alexnet>resnet", the stages run; ``confidence`` (n,) maximum softmax probability of the last of them, NaN
    where there is none; ``answer`` (n,) classes; ``label`` (n,); ``ids`` (n,); ``largest`` (n,) answers of the largest
    stage. ``NONE`` stands for an answer or a label that is not known. Raises InputError for another kind of file.
    """
    form = FORMS.get(path.suffix.lower())
    if form is None:
        raise InputError(f"a name that ends in {', '.join(FORMS)}", path.name, str(path.parent))
    columns: dict[str, list[Any]] = {}
    if ids is not None:  # a name's bytes that are no text, or end a line, stand as escapes
        named = np.asarray(ids).tolist()
        columns["id"] = [UNWRITABLE.sub(lambda m: ascii(m[0])[1:-1], i) if isinstance(i, str) else i for i in named]
    columns["path"] = list(paths)
    columns["confidence"] = [None if np.isnan(one) else float(f"{one:.9g}") for one in np.asarray(confidence).tolist()]
    for name, values in (("answer", answer), ("label", label), ("largest", largest)):
        if values is not None:
            columns[name] = [None if one == NONE else one for one in np.asarray(values).tolist()]
    if len({len(column) for column in columns.values()}) != 1:
        raise ValueError("columns of a log have one value an example")
    rows = zip(*columns.values(), strict=True)
    with replacing(path) as temporary:
        if form == "parquet":
            import pyarrow as pa
            from pyarrow import parquet

            parquet.write_table(pa.table(columns), temporary)
        elif form == "jsonl":
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines(
                    json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n" for row in rows
                )
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(columns)
                writer.writerows(rows)


class BrokenLineError(Exception):
    """A line of a log that can't be used: what was expected and what was found."""


class Log:
    """Lines of a log turned into ``Examples``: CSV with a header, or JSON lines, told apart by the first line.

    ``where`` names the log in errors. A line that can't be used raises InputError with its number, or is only counted
    if ``skip``; ``complaints`` are the first of these.
    """

    def __init__(self, subject: Subject, where: str, skip: bool = False) -> None:
        self.subject, self.where, self.skip = subject, where, skip
        self.index = {name: q for q, name in enumerate(subject.paths)}
        self.sure = {self.index[name] for name, counts in subject.reference.counts.items() if sum(counts) >= FEWEST}
        self.form: str | None = None
        self.columns: list[str] = []
        self.places: list[int] = []
        self.number = self.broken = 0
        self.complaints: list[str] = []
        self.rows: list[tuple[int, float, int, int, int]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def begin(self, number: int = 0, columns: Sequence[str] = (), form: str | None = None) -> None:
        """Go on behind line ``number`` of a log whose header is known, or with the first line of another."""
        self.number, self.form = number, form
        if columns:
            self.header(columns)

    def take(self) -> Examples:
        """What was read since the last time."""
        rows, self.rows = self.rows, []
        table = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
        path, answer, label, largest = (np.array(table[i], dtype=np.int64) for i in (0, 2, 3, 4))
        return Examples(path, np.array(table[1], dtype=np.float64), answer, label, largest)

    def line(self, raw: bytes) -> None:
        """Take up the next line, with its end or without."""
        self.number += 1
        try:
            if len(raw) > LINE_BYTES:
                raise BrokenLineError(f"at most {LINE_BYTES} bytes", "more")
            try:
                text = raw.decode("utf-8-sig" if self.number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise BrokenLineError("UTF-8", f"byte {raw[error.start]:#04x}") from None
            if not text.strip():
                return
            if self.form is None:
                self.form = "jsonl" if text.lstrip().startswith("{") else "csv"
                if self.form == "csv":
                    self.header(_fields(text))
                    return
            self.rows.append(self._row(self._split(text) if self.form == "csv" else self._object(text)))
        except BrokenLineError as error:
            self._complain(error)

    def values(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Take up examples by columns, as from a parquet file."""
        none = [None] * len(next(iter(columns.values())))
        for row in zip(*(columns.get(name, none) for name in COLUMNS), strict=True):
            self.number += 1
            try:
                self.rows.append(self._row(row))
            except BrokenLineError as error:
                self._complain(error)

    def header(self, columns: Sequence[str]) -> None:
        """Take up the names of the columns. Raises InputError if one that is needed is missing, or stands twice."""
        columns = [name.strip() for name in columns]
        needed = ("path", "confidence") if self.sure else ("path",)
        for name in needed:
            if name not in columns:
                found = ", ".join(ascii(one)[1:-1] for one in columns)
                raise InputError(f"a column {name!r} (a log has {', '.join(COLUMNS)})", found[:200], self.where)
        twice = [name for name in COLUMNS if columns.count(name) > 1]
        if twice:
            raise InputError("every column once", f"{twice[0]!r} twice", self.where)
        self.columns = list(columns)
        self.places = [self.columns.index(name) if name in self.columns else NONE for name in COLUMNS]

    def _complain(self, error: BrokenLineError) -> None:
        expected, found = error.args
        place = f"{self.where}, {'row' if self.form == 'parquet' else 'line'} {self.number}"
        if not self.skip:
            raise InputError(expected, f"{found} (--broken skip passes over such lines)", place) from None
        self.broken += 1
        if len(self.complaints) < 5:
            self.complaints.append(str(InputError(expected, found, place)))

    def _split(self, text: str) -> list[Any]:
        found = text.split(",") if '"' not in text else _fields(text)
        if len(found) != len(self.columns):
            raise BrokenLineError(f"{len(self.columns)} fields", str(len(found)))
        return [None if at == NONE else found[at] for at in self.places]

    def _object(self, text: str) -> list[Any]:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BrokenLineError("a line of JSON", f"none ({error})"[:100]) from None
        if not isinstance(found, dict):
            raise BrokenLineError("an object", type(found).__name__)
        return [found.get(name) for name in COLUMNS]

    def _row(self, row: Sequence[Any]) -> tuple[int, float, int, int, int]:
        path, sure, answer, label, largest = row
        classes = self.subject.classes
        answered, labelled = _class(answer, "answer", classes), _class(label, "label", classes)
        full = _class(largest, "largest", classes)
        if path is None or path == "":
            if answered == NONE or labelled == NONE:
                raise BrokenLineError("a path, or the answer and the label of an example that came before", "neither")
            return NONE, float("nan"), answered, labelled, full
        taken = self.index.get(path) if isinstance(path, str) else None
        if taken is None:
            raise BrokenLineError(f"a path of the policy, {_some(self.subject.paths)}", _told(path))
        if sure is None or sure == "":
            if taken in self.sure:
                raise BrokenLineError(f"the confidence after {path}", "none")
            return taken, float("nan"), answered, labelled, full
        try:
            confidence = NONE if isinstance(sure, bool) else float(sure)
        except (TypeError, ValueError, OverflowError):
            confidence = NONE
        if not 0 <= confidence <= 1:
            raise BrokenLineError("a confidence from 0 to 1", _told(sure))
        return taken, confidence, answered, labelled, full


def _told(found: Any) -> str:
    return ascii(found)[:100] if isinstance(found, str | int | float) else type(found).__name__


def _class(found: Any, name: str, classes: int) -> int:
    if found is None or found == "":
        return NONE
    try:
        number = float(found)
        if not isinstance(found, bool) and 0 <= number < classes and number == int(number):
            return int(number)
        if number != number and not isinstance(found, str):  # a missing whole number in a table of floats
            return NONE
    except (TypeError, ValueError, OverflowError):
        pass
    raise BrokenLineError(f"as {name} a class from 0 to {classes - 1}", _told(found))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" or {len(names) - 8} more" if len(names) > 8 else "")


def _fields(text: str) -> list[str]:
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise BrokenLineError("fields with commas between", str(error)) from None


def read_log(source: Path | Iterable[bytes | None], log: Log, skipped: int = 0) -> Iterator[Examples]:
    """The examples of a log, in parts of at most ``BLOCK`` lines or a batch of rows; in a pause, none of them.

    ``source``: a file, or the lines of one as they come, None where a pause is. Of parquet the first ``skipped`` rows
    are passed over. Raises InputError for what can't be read, naming the line or row.
    """
    try:
        if not isinstance(source, Path):
            yield from _read_lines(source, log)
        elif FORMS.get(source.suffix.lower()) == "parquet":
            yield from _read_parquet(source, log, skipped)
        else:
            with opened(source, "a log that can be read") as file:
                yield from _read_lines(Lines(iter(partial(file.read, CHUNK), b"")), log)
    except OSError as error:
        raise InputError("a log that can be read", error.strerror or str(error), log.where) from error


class Lines:
    """Lines with their ends out of bytes as they come; None, a pause, is handed on.

    Of a line that is longer than ``LINE_BYTES`` only so much comes that this is seen. ``within``: the first bytes are
    the rest of a line that was taken up before, and are passed over. ``taken``: bytes of all lines so far.
    """

    def __init__(self, chunks: Iterable[bytes | None], within: bool = False) -> None:
        self.chunks, self.within, self.taken = chunks, within, 0

    def __iter__(self) -> Iterator[bytes | None]:
        """The lines, as they come."""
        rest = b""
        for chunk in self.chunks:
            if chunk is None:
                yield None
                continue
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self.taken += len(line) + 1
                if not self.within:
                    yield line + b"\n"
                self.within = False
            if self.within or len(rest) > LINE_BYTES:
                self.taken += len(rest)
                if not self.within:
                    yield rest
                rest, self.within = b"", True
        if rest:
            self.taken += len(rest)
            yield rest


def _read_lines(lines: Iterable[bytes | None], log: Log) -> Iterator[Examples]:
    for raw in lines:
        if raw is not None:
            log.line(raw)
        if len(log) >= BLOCK or (raw is None and len(log)):
            yield log.take()
        if raw is None:
            yield log.take()
    if len(log):
        yield log.take()


def _read_parquet(path: Path, log: Log, skipped: int) -> Iterator[Examples]:
    import pyarrow as pa

    try:
        with opened_parquet(path, "a log that can be read") as file:
            log.form, log.number = "parquet", 0
            log.header(file.schema_arrow.names)
            there = [name for name in COLUMNS if name in file.schema_arrow.names]
            refuse_too_large(file, there, path)
            for batch in file.iter_batches(10_000, columns=there):
                if sum(text_bytes(batch[name]) for name in there) > BATCH_BYTES:
                    raise InputError("shorter texts", f"more than {BATCH_BYTES:,} bytes in 10,000 rows", str(path))
                begin = max(0, min(skipped - log.number, len(batch)))
                log.number += begin
                if begin < len(batch):
                    log.values(batch.slice(begin).to_pydict())
                    yield log.take()
    except (pa.ArrowException, ValueError, TypeError, LookupError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("a parquet file", str(error).split("\n")[0], str(path)) from error
