"""An .npz of pixels and labels turned into images."""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from offramp.features.errors import InputError

if TYPE_CHECKING:
    pass
from offramp.cascades.images.files import _File, _Held, _shown, _Spans, _unreadable
from offramp.cascades.images.images import MAX_CLASSES, _made

if TYPE_CHECKING:
    from offramp.cascades.images.files import Ints, Pixels
    from offramp.cascades.images.images import Images, Reader


@dataclass(frozen=True)
class _Member:
    """An array in an npz file; ``start`` is where its numbers begin in the file, None if they are compressed."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int | None
    checksum: int


def _open_npz(path: Path) -> Images:
    """``jpeg`` (encoded images, one behind another), ``offsets`` (n+1,), ``labels``; or ``images`` (n, h, w[, 3]),
    ``labels``; if there, ``classes`` and ``ids``. What stands uncompressed is read row by row, else as a whole."""
    file, members = _File.of(path), _members(path)
    known = "arrays jpeg, offsets and labels, or images and labels"
    main = "jpeg" if "jpeg" in members else "images"
    needed = {"jpeg", "offsets", "labels"} if main == "jpeg" else {"images", "labels"}
    if not needed <= members.keys():
        raise InputError(known, ", ".join(members) or "no arrays", _shown(str(path)))
    n = members["offsets" if main == "jpeg" else main].shape[:1]
    for name in ("labels", "offsets", "classes", "ids"):  # before anything is unpacked
        if name in members and prod(members[name].shape) > max(MAX_CLASSES, 1 + prod(n)):
            expected = f"about {prod(n)} numbers, one an image"
            raise InputError(expected, f"shape {members[name].shape}", f"{_shown(str(path))}, array {name!r}")
    with np.load(path, allow_pickle=False) as arrays:
        small = {name: arrays[name] for name in members if name in {"offsets", "labels", "classes", "ids"}}
    member, labels, place = members[main], small["labels"], f"{_shown(str(path))}, array {main!r}"
    if member.dtype != np.uint8:
        raise InputError("numbers of type uint8", str(member.dtype), place)
    what = [main, member.checksum, *member.shape]
    shape: tuple[int, ...] = ()
    held = _Held(_npz_array, (file, main), _shown(str(path)))
    if main == "jpeg":
        offsets = _offsets(small["offsets"], len(labels), member, path)
        what.append(offsets)
        starts, sizes = offsets[:-1], np.diff(offsets)
        held = replace(held, offsets=offsets)
    else:
        shape = member.shape[1:]
        if len(member.shape) not in (3, 4) or member.shape[3:] not in ((), (1,), (3,)) or 0 in member.shape:
            raise InputError("images of shape (n, h, w) or (n, h, w, 3)", f"shape {member.shape}", place)
        if labels.shape != member.shape[:1]:
            raise InputError(f"labels ({member.shape[0]},), one an image", f"shape {labels.shape}", _shown(str(path)))
        starts, sizes = np.arange(len(labels)) * prod(shape), np.full(len(labels), prod(shape))
    reader: Reader = held
    if member.start is not None:
        reader = _Spans((file,), np.zeros(len(labels), np.int64), starts + member.start, sizes, shape)
    names = small.get("classes")
    if names is not None and (names.ndim != 1 or names.dtype.kind not in "iuU"):
        raise InputError("classes (c,), the names", f"{names.dtype} of shape {names.shape}", _shown(str(path)))
    return _made(path, labels, None if names is None else [str(name) for name in names], reader, what, small.get("ids"))


def _offsets(offsets: NDArray[Any], n: int, member: _Member, path: Path) -> Ints:
    where = f"{_shown(str(path))}, array 'offsets'"
    if offsets.shape != (n + 1,) or offsets.dtype.kind not in "iu":
        raise InputError(f"integers of shape ({n + 1},) for {n} labels", f"{offsets.dtype} {offsets.shape}", where)
    offsets = offsets.astype(np.int64)
    if len(member.shape) != 1 or offsets[0] < 0 or (np.diff(offsets) < 0).any() or offsets[-1] > member.shape[0]:
        expected = f"numbers that rise, within the {member.shape} bytes of 'jpeg'"
        raise InputError(expected, f"{offsets[0]} to {offsets[-1]}, or a fall between", where)
    return offsets


def _members(path: Path) -> dict[str, _Member]:
    """What arrays an npz file has, after a look at their heads."""
    members = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for info in archive.infolist():
            with archive.open(info) as stream:
                version = npy.read_magic(stream)
                header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, fortran, dtype = header(stream)
                head = stream.tell()
            name = info.filename.removesuffix(".npy")
            if dtype.hasobject:
                found = "pickled objects, which are never loaded"
                raise InputError("arrays of plain numbers and text", found, f"{_shown(str(path))}, array {name!r}")
            size = prod(shape) * dtype.itemsize
            if head + size != info.file_size:
                expected = f"{size} bytes for shape {shape}"
                raise InputError(expected, str(info.file_size - head), f"{_shown(str(path))}, array {name!r}")
            file.seek(info.header_offset)
            lengths = struct.unpack("<26xHH", file.read(30))
            stored = info.compress_type == zipfile.ZIP_STORED and not fortran
            start = info.header_offset + 30 + sum(lengths) + head if stored else None
            members[name] = _Member(shape, dtype, start, info.CRC)
    return members


def _npz_array(file: _File, name: str) -> Pixels:
    file.check()
    with _unreadable(Path(file.path)), np.load(file.path, allow_pickle=False) as arrays:
        array: Pixels = arrays[name]
        return array
