"""Parts of files turned into bytes and pixels, held open and read once."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from lzma import LZMAError
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offramp.features.errors import InputError
from offramp.features.store.opening import KINDS, read_bytes

if TYPE_CHECKING:
    pass

Pixels = NDArray[np.uint8]


Ints = NDArray[np.int64]


EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .gif .bmp .webp .tif .tiff .ppm .pgm .pbm .pnm".split()  # noqa: SIM905
)
"""File names that end so are images, in capitals too."""


LARGEST_IMAGE = 1 << 30
"""Bytes of an image's file at most."""


OPEN_FILES = 64
"""Files that a process keeps open: a thousand shards would go beyond what systems allow."""


HELD = 2
"""Compressed arrays, and row groups of parquet, that a process keeps unpacked."""


SAMPLED = 2**16
"""Bytes at the head of a file of bare pixels that its fingerprint looks at."""


EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""What the machine has run out of is no fault of an image."""


UNREADABLE: tuple[type[Exception], ...] = (
    *(OSError, ValueError, EOFError, RuntimeError, OverflowError, SyntaxError, TokenError, LZMAError, RecursionError),
    *(zlib.error, struct.error, zipfile.BadZipFile, tarfile.TarError),
)
"""What the readers of the formats raise about broken files."""


class BrokenImage(InputError):  # noqa: N818 - named for what it is
    """An image that cannot be decoded: ``id`` is its id, the message says what was found and where."""

    def __init__(self, name: Any, found: str, where: str) -> None:
        super().__init__("an image that can be decoded", _shown(found), _shown(f"{where}, id {name}"))
        self.id, self._made_of = name, (name, found, where)

    def __reduce__(self) -> tuple[type[BrokenImage], tuple[Any, str, str]]:
        """Worker processes hand it to their parent."""
        return BrokenImage, self._made_of


def refuse_odd(path: Path) -> None:
    """Raises InputError for a pipe, a socket or a device: opening one would wait for ever, or do something."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError):  # who opens it says so
        return
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        raise InputError("an image file, or a folder of them", KINDS.get(kind, "no regular file"), _shown(str(path)))


class _DecodingError(Exception):
    """What is wrong with an image, in words."""


@dataclass(frozen=True)
class _File:
    """A file as it was when the images were opened."""

    path: str
    size: int
    time: int

    @classmethod
    def of(cls, path: Path) -> _File:
        refuse_odd(path)
        found = path.stat()
        return cls(str(path.absolute()), found.st_size, found.st_mtime_ns)

    @property
    def name(self) -> str:
        return Path(self.path).name

    def check(self) -> None:
        """Raises InputError if it was written to since."""
        if _File.of(Path(self.path)) != self:
            raise InputError("a file as it was when the images were opened", "a changed one", _shown(self.path))


class _Descriptor:
    """An open file that closes with its last user."""

    def __init__(self, file: _File) -> None:
        self.number = os.open(file.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


@lru_cache(OPEN_FILES)
def _descriptor(file: _File) -> _Descriptor:
    file.check()
    return _Descriptor(file)


def _span(file: _File, start: int, size: int) -> bytes:
    """``size`` bytes of a file, fewer at its end; a place of its own, so that forked processes can share the file."""
    if hasattr(os, "pread"):
        return os.pread(_descriptor(file).number, size, start)
    with Path(file.path).open("rb") as stream:  # Windows
        stream.seek(start)
        return stream.read(size)


@lru_cache(HELD)
def _held(load: Callable[..., Pixels], source: tuple[Any, ...]) -> Pixels:
    """An array that can be read only as a whole, read once a process."""
    return load(*source)


@dataclass(frozen=True, eq=False)
class _Files:
    """A file an image, below a folder."""

    folder: str
    names: NDArray[np.str_]

    def read(self, row: int) -> bytes:
        path = Path(self.where(row))
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise _DecodingError("something that is no file")
        try:
            return read_bytes(path, "an image", LARGEST_IMAGE)
        except InputError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            raise _DecodingError(f"{error.found} bytes") from error

    def where(self, row: int) -> str:
        return os.path.join(self.folder, self.names[row])  # noqa: PTH118 - a name may be any text


@dataclass(frozen=True, eq=False)
class _Spans:
    """Bytes within files: ``which`` (n,) of ``files``, from ``starts`` (n,), ``sizes`` (n,) long.

    ``shape``: they are pixels, of this shape; with ``planes``, (3, h, w). ``names`` (n,): what they are called there.
    """

    files: tuple[_File, ...]
    which: Ints
    starts: Ints
    sizes: Ints
    shape: tuple[int, ...] = ()
    planes: bool = False
    names: NDArray[np.str_] | None = None

    def read(self, row: int) -> bytes | Pixels:
        data = _span(self.files[self.which[row]], int(self.starts[row]), int(self.sizes[row]))
        if len(data) != self.sizes[row]:
            raise _DecodingError(f"{len(data)} of {self.sizes[row]} bytes, a truncated file")
        if not self.shape:
            return data
        pixels: Pixels = np.frombuffer(data, np.uint8).reshape(self.shape)
        return pixels.transpose(1, 2, 0) if self.planes else pixels

    def where(self, row: int) -> str:
        inside = f"row {row} (from 0)" if self.names is None else self.names[row]
        return f"{self.files[self.which[row]].path}, {inside}"


@dataclass(frozen=True, eq=False)
class _Held:
    """Rows of an array that ``load(*source)`` unpacks as a whole; with ``offsets`` (n+1,), stretches of its bytes."""

    load: Callable[..., Pixels]
    source: tuple[Any, ...]
    place: str
    offsets: Ints | None = None

    def read(self, row: int) -> bytes | Pixels:
        whole = _held(self.load, self.source)
        if self.offsets is None:
            pixels: Pixels = whole[row]
            return pixels
        return whole[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def where(self, row: int) -> str:
        return f"{self.place}, row {row} (from 0)"


def _digest(*parts: str | bytes | int | NDArray[Any]) -> str:
    """SHA-256 of numbers, texts and arrays, none of which can be taken for two others."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            head, body = f"{part.dtype.str}{part.shape}", np.ascontiguousarray(part).tobytes()
        else:
            body = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
            head = f"{type(part).__name__}{len(body)}"
        total.update(head.encode())
        total.update(body)
    return total.hexdigest()


def _shown(text: str) -> str:
    """A file's name, which need not be Unicode, as text that can be printed."""
    return text.encode("utf-8", "backslashreplace").decode()


@contextmanager
def _unreadable(path: Path) -> Iterator[None]:
    """Whatever a reader raises about a broken file, as one line that names the file."""
    try:
        yield
    except InputError:
        raise
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno in EXHAUSTED:
            raise
        known = isinstance(error, OSError) and error.strerror
        place = error.filename if isinstance(error, OSError) and error.filename else path
        found = known or f"a truncated or other file ({error})"
        raise InputError("images that can be read", _shown(str(found)), _shown(str(place))) from error


def _sample(path: Path) -> bytes:
    """A file's head and last bytes (where gzip keeps a checksum) and length, for its fingerprint."""
    with path.open("rb") as stream:
        head = stream.read(SAMPLED)
        stream.seek(-min(8, len(head)), os.SEEK_END)
        return hashlib.sha256(head + stream.read()).digest() + struct.pack("<Q", path.stat().st_size)


def _lines(path: Path) -> list[str] | None:
    """Names of classes, one a line; None if there is no such file."""
    return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()] if path.is_file() else None
