"""Parquet files and tar archives (WebDataset) turned into images."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import struct
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp.features.errors import InputError

if TYPE_CHECKING:
    pass
from offramp.cascades.images.files import EXTENSIONS, HELD, _DecodingError, _File, _lines, _shown, _Spans, _unreadable
from offramp.cascades.images.folder import _visible
from offramp.cascades.images.images import _made

if TYPE_CHECKING:
    from offramp.cascades.images.files import Ints
    from offramp.cascades.images.images import Images


def _is_shards(path: Path, ends: tuple[str, ...]) -> bool:
    """Whether a path is a file that ends so, several of them, or a folder of them that has no folders."""
    if path.is_dir():
        entries = [path / name for name in _visible(path)]
        return any(p.name.lower().endswith(ends) for p in entries) and not any(p.is_dir() for p in entries)
    return str(path).lower().endswith(ends)


def _shards(path: Path, end: str) -> list[Path]:
    """The files that a path means: itself, those in a folder, or what ``{000..012}``, ``{a,b}``, ``*`` and commas say.

    A folder's files must be one series, which differ in numbers alone: others may be another part of the data.
    """
    where = _shown(str(path))
    if path.is_file():
        return [path]
    if path.is_dir():
        files = [path / name for name in _visible(path) if name.lower().endswith(end)]
        series = sorted({re.sub(r"\d+", "*", file.name) for file in files})
        if len(series) > 1:
            raise InputError(f"one series of files, as {_shown(str(path / series[0]))}", ", ".join(series), where)
    else:
        files = []
        for text in (one for piece in re.split(r",(?![^{]*\})", str(path)) for one in _braces(piece.strip())):
            one = Path(text)
            wild = any(mark in one.name for mark in "*?[") and not one.is_file()
            found = sorted(one.parent.glob(one.name)) if wild else [one] if one.is_file() else []
            if not found:
                raise InputError(f"a file *{end}", "no such file", _shown(text))
            files += found
    if not files:
        raise InputError(f"files *{end}", "none", where)
    return files


MOST_ROWS = 100_000_000
"""Images of a parquet file at most."""

MOST_SHARDS = 100_000
"""Files that one name may stand for."""


def _braces(text: str) -> list[str]:
    """Every text that braces stand for, as a shell has it.

    >>> _braces("a-{08..10}.{x,y}")
    ['a-08.x', 'a-08.y', 'a-09.x', 'a-09.y', 'a-10.x', 'a-10.y']
    """
    found = re.search(r"\{([^{}]*)\}", text)
    if not found:
        return [text]
    between = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if between:
        first, last = between[1], between[2]
        step = 1 if int(first) <= int(last) else -1
        if len(first) > 7 or len(last) > 7 or abs(int(first) - int(last)) >= MOST_SHARDS:
            raise InputError(f"at most {MOST_SHARDS:,} shards", _shown(found[0]), "images")
        middles = [f"{i:0{len(first)}d}" for i in range(int(first), int(last) + step, step)]
    else:
        middles = found[1].split(",")
    rest = text[found.end() :]
    if len(middles) * prod(len(_braces(each)) for each in re.findall(r"\{[^{}]*\}", rest)) > MOST_SHARDS:
        raise InputError(f"at most {MOST_SHARDS:,} shards", _shown(text), "images")
    return [before for middle in middles for before in _braces(text[: found.start()] + middle + text[found.end() :])]


def _numbered(labels: Sequence[Any], names: Sequence[str] | None, path: Path) -> tuple[Ints, list[str] | None]:
    """Labels as numbers: they are if all look so, else they are classes' names, whose order ``names`` tells."""
    texts = [str(label) for label in labels]
    if all(isinstance(label, int) or re.fullmatch(r"-?\d{1,18}", label) for label in labels):
        return np.array([int(text) for text in texts], np.int64), None if names is None else list(names)
    classes = sorted(set(texts)) if names is None else list(names)
    numbers = {name: number for number, name in enumerate(classes)}
    for text in texts:
        if text not in numbers:
            raise InputError(f"names of classes, as {', '.join(classes[:5])}", repr(text), _shown(str(path)))
    return np.array([numbers[text] for text in texts], np.int64), classes


PICTURES = ("image", "img", "jpeg", "jpg", "png", "bytes", "image_bytes")
"""Columns of images that are preferred if several could be."""


LABELS = ("label", "labels", "fine_label", "cls", "class", "target")
"""Names of labels, the likeliest first."""


@dataclass(frozen=True, eq=False)
class _RowGroups:
    """Images in the row groups of parquet files: group g is number ``groups[g]`` of ``files[which[g]]``, and holds the
    rows from ``starts[g]``."""

    files: tuple[_File, ...]
    which: Ints
    groups: Ints
    starts: Ints
    column: str

    def read(self, row: int) -> bytes:
        at = self._at(row)
        cell = _row_group(self.files[self.which[at]], int(self.groups[at]), self.column)[row - int(self.starts[at])]
        found = cell.as_py()
        found = found.get("bytes") if isinstance(found, dict) else found
        if found is None:
            raise _DecodingError("no bytes (images beside the file are not read)")
        return bytes(found)

    def where(self, row: int) -> str:
        file = self.which[self._at(row)]
        first = self.starts[np.searchsorted(self.which, file)]
        return f"{self.files[file].path}, row {row - first} (from 0)"

    def _at(self, row: int) -> int:
        return int(np.searchsorted(self.starts, row, "right")) - 1


@lru_cache(HELD)
def _row_group(file: _File, group: int, column: str) -> Any:
    from pyarrow import parquet

    file.check()
    with _unreadable(Path(file.path)), parquet.ParquetFile(file.path) as opened:
        # no threads of Arrow's: a worker has one core
        return opened.read_row_group(group, columns=[column], use_threads=False).column(0)


def _open_parquet(path: Path) -> Images:
    """A column of images (bytes, or Hugging Face's struct of bytes and path) and one of labels: numbers, whose names
    the schema's metadata may hold as Hugging Face writes it, or names. One row group is in memory at a time."""
    from pyarrow import parquet

    files, which, groups, sizes, labels, footers = [], [], [], [], [], []
    columns: tuple[str, str] | None = None
    names: list[str] | None = None
    for number, file in enumerate(_shards(path, ".parquet")):
        with _unreadable(file), parquet.ParquetFile(file) as opened:
            schema = opened.schema_arrow
            if columns is None:
                columns = _columns(schema, file)
                names = _label_names(schema, columns[1])
            elif _columns(schema, file) != columns:
                expected = f"columns {' and '.join(columns)}, as in the first file"
                raise InputError(expected, ", ".join(schema.names), _shown(str(file)))
            rows, size = opened.metadata.num_rows, file.stat().st_size
            if rows > min(MOST_ROWS, 8 * size):  # an image takes some bytes; labels alone can be packed a millionfold
                expected = f"at most {MOST_ROWS:,} rows, and no more than its bytes"
                raise InputError(expected, f"{rows:,} in {size:,} bytes", _shown(str(file)))
            column = opened.read(columns=[columns[1]], use_threads=False).column(0)
            if column.null_count:
                raise InputError("a label in every row", f"{column.null_count} empty", _shown(str(file)))
            labels += column.to_pylist()
            found = [opened.metadata.row_group(i) for i in range(opened.metadata.num_row_groups)]
            kept = [i for i, group in enumerate(found) if group.num_rows]
            files.append(_File.of(file))
            which += [number] * len(kept)
            groups += kept
            sizes += [found[i].num_rows for i in kept]
            footers.append(_footer(file))
    assert columns is not None
    numbers, classes = _numbered(labels, names, path)
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])[:-1].astype(np.int64)
    reader = _RowGroups(tuple(files), np.array(which), np.array(groups), starts, columns[0])
    return _made(path, numbers, classes, reader, ["parquet", *footers])


def _footer(path: Path) -> bytes:
    """SHA-256 of a parquet file's description of itself: sizes, places and checksums, not the images."""
    with path.open("rb") as stream:
        stream.seek(-8, os.SEEK_END)
        (length,) = struct.unpack("<I4x", stream.read())
        stream.seek(-8 - length, os.SEEK_END)
        return hashlib.sha256(stream.read()).digest()


def _columns(schema: Any, path: Path) -> tuple[str, str]:
    """The column of images, as parquet calls its leaf of bytes, and the column of labels."""
    import pyarrow.types as types

    def is_binary(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    pictures = {}
    for field in schema:
        if types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            if is_binary(field.type.field("bytes").type):
                pictures[field.name] = f"{field.name}.bytes"
        elif is_binary(field.type):
            pictures[field.name] = field.name
    picture = next((name for name in PICTURES if name in pictures), min(pictures, default=""))
    label = next((name for name in LABELS if name in schema.names), "")
    if not picture or not label or (picture not in PICTURES and len(pictures) > 1):
        expected = "a column 'image' of bytes (or a struct with bytes) and a column 'label'"
        raise InputError(expected, f"columns {', '.join(schema.names)[:200] or '(none)'}", _shown(str(path)))
    kind = schema.field(label).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)):
        raise InputError(f"integers or text as {label}", str(kind), _shown(str(path)))
    return pictures[picture], label


def _label_names(schema: Any, label: str) -> list[str] | None:
    """Names of the classes, from Hugging Face's note in the metadata."""
    try:
        note = json.loads((schema.metadata or {}).get(b"huggingface", b"null"))
        names = note["info"]["features"][label]["names"]
    except (ValueError, LookupError, TypeError):  # no note, or another's
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _open_tars(path: Path) -> Images:
    """WebDataset shards: ``key.jpg`` beside ``key.cls`` (a number or a name), or ``key.json`` with a label. The tars
    are gone through once, for where the images lie; nothing is unpacked. Names of numbered classes may stand in
    ``classes.txt`` beside the tars."""
    files = _shards(path, ".tar")
    root = Path(os.path.commonpath([str(file.absolute().parent) for file in files]))
    which, starts, sizes, names, ids, labels = [], [], [], [], [], []
    for number, file in enumerate(files):
        with _unreadable(file):
            found = _indexed(file)
        shard = file.absolute().relative_to(root).as_posix()
        for name, (start, size, label) in found.items():
            which.append(number)
            starts.append(start)
            sizes.append(size)
            names.append(name)
            ids.append(f"{shard}/{name}")
            labels.append(label)
    numbers, classes = _numbered(labels, _lines(root / "classes.txt"), path)
    places, lengths = np.array(starts, np.int64), np.array(sizes, np.int64)
    opened = tuple(map(_File.of, files))
    reader = _Spans(opened, np.array(which, np.int64), places, lengths, names=np.array(names, np.str_))
    return _made(path, numbers, classes, reader, ["tar", places, lengths], np.array(ids, np.str_))


LARGEST_READ = 1 << 20
"""Bytes of a header, or of a label, in a tar file: a PAX header that claims gigabytes would be read into memory."""


class _Bounded(io.FileIO):
    """A tar file of which no more than ``LARGEST_READ`` bytes are ever read at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Raises tarfile.ReadError where more is asked for."""
        if size is None or not 0 <= size <= LARGEST_READ:
            raise tarfile.ReadError(f"a header or a label of {size} bytes, more than {LARGEST_READ:,}")
        return super().read(size)


def _indexed(path: Path) -> dict[str, tuple[int, int, int | str]]:
    """Where the images of a tar file begin, how long they are, and their labels, by name, in the file's order."""
    pictures: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int | str] = {}
    alone: dict[str, str] = {}  # files that are nothing but a label, and so must have an image
    where = _shown(str(path))
    stream = _Bounded(path)
    try:
        archive = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115 - closed below
    except tarfile.ReadError as error:
        stream.close()
        if "a header or a label" in str(error):
            raise
        raise InputError("a tar file that is not compressed (it is read here and there)", str(error), where) from error
    with stream, archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined, unused-ignore]  # or it keeps a million of them
            folder, _, base = member.name.rpartition("/")
            stem, _, end = base.rpartition(".")
            key, end = f"{folder}/{stem}" if folder else stem, end.lower()
            if not member.isreg() or not stem or base.startswith("."):
                continue
            if member.issparse():
                raise InputError("files that are stored whole", "a sparse one", f"{where}, {_shown(member.name)}")
            if f".{end}" in EXTENSIONS:
                if key in pictures:
                    raise InputError(f"one image {key!r}", f"{pictures[key][0]} and {member.name}", where)
                pictures[key] = (member.name, member.offset_data, member.size)
            elif end == "cls" or (end == "json" and key not in labels):
                content = archive.extractfile(member)
                label = _label(content.read() if content else b"", end == "json")
                if label is not None:
                    labels[key] = label
                elif end == "cls":
                    raise InputError("a number or a name", "no text", f"{where}, {_shown(member.name)}")
                if end == "cls":
                    alone[key] = member.name
        _check_end(path, archive.offset)
    for key, name in alone.items():
        if key not in pictures:
            expected = f"an image beside every label ({', '.join(sorted(EXTENSIONS))})"
            raise InputError(expected, f"{_shown(name)} alone", where)
    found = {}
    for key, (name, start, size) in pictures.items():
        if key not in labels:
            folder, _, stem = key.rpartition("/")
            plain = f"{folder}/{stem.split('.')[0]}" if folder else stem.split(".")[0]
            if plain != key and plain in pictures:  # key.seg.png, another picture of the same example
                continue
            raise InputError(f"{key}.cls or {key}.json with one of {', '.join(LABELS)}", "neither", where)
        found[name] = (start, size, labels[key])
    return found


def _check_end(path: Path, place: int) -> None:
    """Raises InputError unless the two blocks of zeros that end a tar file stand at ``place``, where tarfile, which
    takes anything for an end that is no head of a file, saw the last one end."""
    size = 2 * tarfile.BLOCKSIZE
    with path.open("rb") as stream:
        stream.seek(place)
        end = stream.read(size)
    if len(end) < size or any(end):
        found = "a truncated file" if len(end) < size else f"a damaged file: no head of a file at byte {place}"
        raise InputError("a whole tar file, with the two blocks of zeros at its end", found, _shown(str(path)))


def _label(data: bytes, is_json: bool) -> int | str | None:
    """What a .cls or .json file says, None if nothing."""
    if not is_json:
        return data.decode().strip() or None
    held = json.loads(data)
    names = [name for name in LABELS if name in held] if isinstance(held, dict) else []
    label = held[names[0]] if names else None
    return label if isinstance(label, int | str) and not isinstance(label, bool) else None
