"""Content turned into files that are whole or not there, one writer at a time, and never over what is being read."""

from __future__ import annotations

import errno
import os
import re
import secrets
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from offramp.features.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of a disk, which are no fault of a flag."""

SETTLED, OLD = 2.0, 3600.0
"""Seconds without a write after which a temporary file that nobody holds is left over, and one of which can't be known
whether it is held."""

WAIT = 120.0
"""Seconds to wait for a lock; it is held while a file is read, changed and written."""

TOLD = 1.0
"""Seconds of waiting after which a line says so."""

DATA = re.compile(r"(?:.+\.)?(?:outputs\.npz|answers\.(?:parquet|csv|jsonl)(?:\.gz)?|extracted\.json)|costs\.json")
"""What a folder of data is read from."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of ``path`` to write to; it becomes ``path`` when the block ends well.

    A reader sees the old file or the new one, never half of one, and a failed or killed block leaves the old.
    Raises InputError where the folder cannot be written.
    """
    with replacing_all([path]) as (temporary,):
        yield temporary


@contextmanager
def replacing_all(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """A temporary path for each of ``paths``; all are on the disk before the first becomes what it stands for.

    The files are renamed in the order given. Where a path is a link, the file that it leads to is replaced. What dead
    writers of the same files left is removed. Raises InputError, or OSError where the disk is full or fails.
    """
    at = paths[0]
    try:
        with ExitStack() as stack:
            targets = []
            for path in paths:
                at, target = path, Path(os.path.realpath(path))
                if target.exists() and not target.is_file():
                    found = "a folder" if target.is_dir() else "a device or a pipe"
                    raise InputError("a file that can be written", found, str(path))
                targets.append((stack.enter_context(_temporary(target)), target))
            yield [temporary for temporary, _ in targets]
            for temporary, _ in targets:
                _sync(temporary)
            for temporary, target in targets:
                temporary.replace(target)
            for folder in dict.fromkeys(target.parent for _, target in targets):
                with suppress(OSError):  # some systems open no folders
                    _sync(folder)
    except OSError as error:
        if error.errno in FULL:
            raise
        raise InputError("a file that can be written", error.strerror or str(error), str(at)) from error


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """An empty file beside ``target``, under a name that nobody else has, locked as long as its writer lives."""
    sweep(target.parent, [target.name])
    while True:
        path = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        held = _hold(file)
        if held is None:
            os.close(file)
        if path.exists():  # else it was swept away before it was locked
            break
        if held is not None:
            os.close(file)
    try:
        yield path
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        if held is not None:
            os.close(file)


def sweep(folder: Path, names: Iterable[str]) -> None:
    """Remove the temporary files of ``names`` in ``folder`` whose writers are dead; others' files stay."""
    named = "|".join(map(re.escape, names))
    # the second kind is of earlier versions, whose living writers hold no lock
    ours = re.compile(rf"\.(?:{named})\.(?:([0-9a-f]{{16}})\.tmp|\d+(?:\.[0-9a-f]{{8}})?\.(?:part|tmp))")
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if (left := ours.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    age = time.time() - entry.stat().st_mtime
                    if age > OLD or (left[1] and age > SETTLED):
                        _remove_unheld(Path(entry.path), sure=age > OLD)


def _remove_unheld(path: Path, sure: bool) -> None:
    """Remove a file unless a living process holds it; where that can't be known, if it is ``sure`` to be left over."""
    file = os.open(path, os.O_RDONLY)
    try:
        held = _hold(file, wait=False)
        if sure if held is None else held:
            path.unlink()
    finally:
        os.close(file)


def _hold(file: int, wait: bool = True) -> bool | None:
    """Lock an open file until it is closed: False where somebody else has, None where files can't be locked."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


# --- one at a time


@contextmanager
def locked(path: Path, wait: float = WAIT) -> Iterator[None]:
    """Nobody else is inside for the same file, whatever link it is reached by.

    The lock is the file ``.NAME.lock`` beside it, which goes afterwards; the system frees it when its holder dies.
    Raises InputError where it is not had within ``wait`` seconds, or the folder or its file system has no place for it.
    """
    from filelock import FileLock, Timeout

    target = Path(os.path.realpath(path))
    lock = target.with_name(f".{target.name}.lock")
    began, told = time.monotonic(), False
    if not target.parent.is_dir():  # or it would be made
        raise InputError("a folder in which a file can be locked", "none", str(lock))
    while True:
        opened: list[tuple[int, int]] = []
        held = FileLock(lock, mode=0o666, fallback_to_soft=False, on_acquired=lambda file: opened.append(_which(file)))  # noqa: B023
        left = max(0.0, wait - (time.monotonic() - began))
        try:
            held.acquire(timeout=left if told else min(TOLD, left))
        except Timeout:
            if told or wait <= TOLD:
                expected = f"to have {path} alone within {wait:g} s"
                raise InputError(expected, "another run that works on it", str(lock)) from None
            told = True
            if sys.stderr is not None:
                sys.stderr.write(f"waiting for another run that works on {path} (at most {wait:g} s)\n")
            continue
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError("a folder in which a file can be locked", reason, str(lock)) from None
        with suppress(OSError):
            if opened == [_which(lock)]:
                break
        held.release()  # whoever had it has removed it
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        held.release()


def _which(file: int | Path) -> tuple[int, int]:
    found = os.stat(file)  # noqa: PTH116 - of a descriptor too
    return found.st_dev, found.st_ino


# --- what is read is not written


def refuse_overwriting(
    outputs: Iterable[tuple[str, Path | None]], inputs: Iterable[tuple[str, Path | str | None]]
) -> None:
    """Raises InputError where an output is an input too, or two outputs are one file, however the paths are spelled.

    Pairs of a flag and its path; those without a path are passed over. Of an input that is a folder, the files of data
    in it are meant.
    """
    read = [(flag, Path(path), "reads") for flag, path in inputs if path is not None and str(path) not in ("", "-")]
    for flag, path in outputs:
        if path is None:
            continue
        for other, taken, does in read:
            if _same(path, taken) or any(_same(path, one) for one in _data_of(taken)):
                raise InputError("a file of its own", f"{str(path)!r}, which this run {does} ({other})", flag)
        read.append((flag, path, "writes too"))


def files_of(specs: Iterable[str], flag: str = "--models") -> list[tuple[str, Path]]:
    """The weights files that specs of networks name, such as ``x=file:PATH@ARCHITECTURE``, as inputs of ``flag``."""
    named = (spec.partition("file:")[2].partition("@")[0] for spec in specs if re.match(r"(?:[\w-]+=)?file:", spec))
    return [(flag, Path(path)) for path in named]


def _same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file, be it there or not."""
    try:
        if os.path.realpath(one) == os.path.realpath(other):
            return True
        return one.is_file() and other.is_file() and one.samefile(other)
    except (OSError, ValueError):
        return False


def _data_of(folder: Path) -> list[Path]:
    try:
        return [one for one in folder.iterdir() if DATA.fullmatch(one.name)] if folder.is_dir() else []
    except (OSError, ValueError):
        return []
