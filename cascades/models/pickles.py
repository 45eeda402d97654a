"""A torch file looked through before it is read: what would take endless time or memory is refused, nothing is run."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from offramp.features.errors import InputError
from offramp.features.store.opening import opened

EXPECTED = "a torch file of nothing but tensors, torch.save(module.state_dict(), path)"

MOST_STEPS = 5_000_000
"""Of all pickles in a file: a tensor takes some thirty, the largest networks have some thousand tensors."""

LARGEST_PICKLE = 256 * 2**20
HEAVIEST = 10_000
"""Things in a tuple, those in the tuples inside it counted as often as they stand there: hashing goes through all."""

HEAVIEST_KEYS = 50_000_000
"""The same, of all tuples of a file together."""

LEGACY_PICKLES = 5
"""Pickles at the head of a file of before torch 1.6: a number, a version, the system, the content, keys of tensors."""

ALLOCATING = frozenset({"BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "EXT1", "EXT2", "EXT4"})
"""Instructions that no tensor needs."""

ALLOCATORS = ("bytearray", "bytes")


def refuse_bombs(path: Path) -> None:
    """Raises InputError for a torch file whose reading would take endless time or memory.

    The instructions of its pickles are gone through with the weight of everything on their stack; nothing is made of
    them. Records of a zip must be stored as they are. Whether the file names code is for torch's own reader to say.
    """
    with opened(path, "a file of weights") as file:
        try:
            total = [0, 0]
            for content in _pickles(file, str(path)):
                _check(content, total, str(path))
        except InputError:
            raise
        except Exception as error:  # whatever a damaged file makes its readers raise
            found = f"a file that is broken or of another kind: {type(error).__name__} {str(error)[:100]}"
            raise InputError(EXPECTED, " ".join(found.split()), str(path)) from error


def _pickles(file: BinaryIO, where: str) -> Iterator[BinaryIO]:
    head = file.read(4)
    file.seek(0)
    if head[:2] != b"PK":
        yield file
        return
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED and info.file_size > info.compress_size + 4096:
                raise InputError(EXPECTED, f"a compressed record, {ascii(info.filename)[:80]}", where)
            if info.filename.lower().endswith(".pkl"):  # torch's reader takes capitals for small letters
                if info.file_size > LARGEST_PICKLE:
                    raise InputError(EXPECTED, f"a pickle of {info.file_size:,} bytes", where)
                yield io.BytesIO(archive.read(info))


def _check(content: BinaryIO, total: list[int], where: str) -> None:
    """All pickles that follow each other in ``content``; ``total`` counts instructions, and weights of tuples."""
    for _ in range(LEGACY_PICKLES):
        _check_one(content, total, where)
        if content.read(1) != b"\x80":
            return
        content.seek(-1, io.SEEK_CUR)


def _check_one(content: BinaryIO, total: list[int], where: str) -> None:
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[Any, int] = {}
    names = ["", ""]
    for code, argument, _ in pickletools.genops(content):
        total[0] += 1
        if total[0] > MOST_STEPS:
            raise InputError(EXPECTED, f"more than {MOST_STEPS:,} instructions", where)
        name = code.name
        if name in ALLOCATING:
            raise InputError(EXPECTED, f"the instruction {name}, which no tensor needs", where)
        if isinstance(argument, str):
            names = [names[1], argument]
        if (name == "GLOBAL" and str(argument).split(" ")[-1] in ALLOCATORS) or (
            name == "STACK_GLOBAL" and names[1] in ALLOCATORS
        ):
            called = str(argument or names[1]).split(" ")[-1]
            raise InputError(EXPECTED, f"a call of {called}, which no tensor needs", where)
        if name == "MARK":
            marks.append(len(stack))
            continue
        if name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            taken = len(code.stack_before)
            if pickletools.markobject in code.stack_before:
                start = marks.pop()
                below = list(code.stack_before).index(pickletools.markobject)
                popped = stack[start:]
                del stack[start:]
                for _ in range(below):
                    popped.append(stack.pop())
            else:
                popped = [stack.pop() for _ in range(taken)]
            weight = 1
            if "TUPLE" in name or name in ("FROZENSET", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "BINPERSID"):
                weight += sum(popped)
            elif name in ("SETITEM", "SETITEMS", "APPEND", "APPENDS", "BUILD", "ADDITEMS"):
                total[1] += sum(popped)
            total[1] += weight
            if weight > HEAVIEST or total[1] > HEAVIEST_KEYS:
                raise InputError(EXPECTED, "tuples within tuples without end", where)
            stack += [weight] * len(code.stack_after)
        if name == "STOP":
            return
