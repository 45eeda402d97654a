"""The path of a user's file turned into an open file: a regular one, of bounded size, that nobody waits for."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from offramp.features.errors import InputError

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe, not a file",
    stat.S_IFSOCK: "a socket, not a file",
    stat.S_IFCHR: "a device, not a file",
    stat.S_IFBLK: "a device, not a file",
}


@contextmanager
def opened(
    path: str | os.PathLike[str], what: str, largest: int | None = None, stream: bool = False
) -> Iterator[BinaryIO]:
    """The file at ``path``, which is to be ``what`` ("a policy file"), open for reading bytes.

    ``largest``: bytes at most. ``stream``: a pipe will do too, and is waited for. Raises InputError(what, found, path)
    for what can't be opened, is no regular file, or is larger; opening never waits, whatever the path names. Errors of
    reading in the block are told in the same way.
    """
    where = os.fspath(path)
    try:
        with os.fdopen(_number(Path(path), what, largest, stream), "rb") as file:
            _refuse(os.fstat(file.fileno()), what, where, largest, stream)
            yield file
    except OSError as error:
        raise InputError(what, error.strerror or str(error), where) from error


def _number(path: Path, what: str, largest: int | None, stream: bool) -> int:
    try:
        # Looked at before, as opening a device can do something; and after, as the path may name another file by then.
        _refuse(path.stat(), what, str(path), largest, stream)
        waits = 0 if stream else getattr(os, "O_NONBLOCK", 0)
        return os.open(path, os.O_RDONLY | waits | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(what, "a name that no file can have", ascii(str(path))) from error


def _refuse(found: os.stat_result, what: str, where: str, largest: int | None, stream: bool) -> None:
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFREG and not (stream and kind == stat.S_IFIFO):
        raise InputError(what, KINDS.get(kind, "no regular file"), where)
    if largest is not None and found.st_size > largest:
        raise InputError(f"{what} of at most {largest:,} bytes", f"{found.st_size:,}", where)


def refuse_unopenable(path: str | os.PathLike[str], what: str, largest: int | None = None) -> None:
    """For readers that open ``path`` themselves: raises InputError as ``opened`` does."""
    with opened(path, what, largest):
        pass


def read_bytes(path: str | os.PathLike[str], what: str, largest: int) -> bytes:
    """All bytes of the file at ``path``, ``largest`` at most. Raises InputError as ``opened`` does."""
    with opened(path, what, largest) as file:
        content = file.read(largest + 1)
    if len(content) > largest:  # it grew, or is one of the kernel's files, which have no size
        raise InputError(f"{what} of at most {largest:,} bytes", "more", os.fspath(path))
    return content


def read_text(path: str | os.PathLike[str], what: str, largest: int) -> str:
    """All of a text in UTF-8, with a byte order mark or without. Raises InputError as ``opened`` does."""
    try:
        return read_bytes(path, what, largest).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x} at {error.start}, which is no text in UTF-8"
        raise InputError(what, found, os.fspath(path)) from error
