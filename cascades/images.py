"""Images of many formats turned into rows that can be decoded one by one."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import re
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from features.errors import InputError

if TYPE_CHECKING:
    import PIL.Image

Pixels = NDArray[np.uint8]
Ints = NDArray[np.int64]

EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .gif .bmp .webp .tif .tiff .ppm .pgm .pbm .pnm".split()  # noqa: SIM905
)
"""File names that end so are images, in capitals too."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What Pillow may take bytes for. Others stay out: for an EPS, say, it would start Ghostscript on the user's data."""
MAX_CLASSES = 1_000_000
"""Label numbers from here on are taken for a mistake (an id, a hash)."""
OPEN_FILES = 64
"""Files that a process keeps open: a thousand shards would go beyond what systems allow."""
HELD = 2
"""Compressed arrays, and row groups of parquet, that a process keeps unpacked."""
SAMPLED = 2**16
"""Bytes at the head of a file of bare pixels that its fingerprint looks at."""
IMAGENET_CLASSES = 1000
WNID = re.compile(r"n\d{8}")
"""ImageNet's name of a class, by which its folders are called."""
ALIKE = 0.99
"""Share of equal names from which two lists of classes are one: torchvision renamed two of ImageNet's thousand."""
PARTS = frozenset("train training val valid validation test testing".split())  # noqa: SIM905
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""What the machine has run out of is no fault of an image."""
GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
UNREADABLE: tuple[type[Exception], ...] = (
    *(OSError, ValueError, EOFError, RuntimeError, OverflowError),
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


class Reader(Protocol):
    """Where the rows of a source lie; holds no open file, so that it can be pickled."""

    def read(self, row: int) -> bytes | Pixels:
        """The bytes of an encoded image, or its pixels (h, w) or (h, w, 3)."""

    def where(self, row: int) -> str:
        """The file of a row, and where in it, for messages."""


@dataclass(frozen=True, eq=False)
class Images:
    """n labelled images that stay in their files until they are asked for.

    ``name`` is the last part of the source's path. ``labels`` (n,) int64 index ``classes``; ``ids`` (n,) are unique:
    file names within the source, or row numbers. ``named`` is False where the source has no names for its classes,
    so that they are called "0", "1", ... ``rows`` are those of the ``reader``. Pickled, it takes no image along;
    files are opened when first read, once a process. Decode in processes, not in threads: Python's filter of
    warnings, which is set while an image is decoded, is one for all threads.
    """

    name: str
    classes: tuple[str, ...]
    labels: Ints
    ids: NDArray[Any]
    digest: str
    reader: Reader
    rows: range
    named: bool = True

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of what says which image stands in which row: names, sizes, labels, places in files."""
        shape = (len(self.rows), *self.rows[:2])
        return _digest(self.digest, np.asarray(shape), np.asarray(self.labels), "\n".join(self.classes))

    @property
    def names(self) -> NDArray[np.str_]:
        """Ids (n,) with the source's name in front: no two images of two files or folders share one by chance."""
        return np.array([f"{self.name}/{one}" for one in self.ids.tolist()], np.str_)

    def image(self, i: int) -> PIL.Image.Image:
        """Image ``i`` as ``rgb`` makes it; raises BrokenImage if it cannot be read or decoded."""
        from PIL import Image

        row = self.rows[i]
        try:
            found = self.reader.read(row)
            return _decoded(found) if isinstance(found, bytes) else Image.fromarray(_three(found))
        except _DecodingError as error:
            raise BrokenImage(self.ids[i].item(), str(error), self.reader.where(row)) from error
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise
            raise BrokenImage(self.ids[i].item(), error.strerror or str(error), self.reader.where(row)) from error

    def pixels(self, i: int) -> Pixels:
        """The pixels (h, w, 3) of image ``i``; an array of its own, which may be written to."""
        return np.array(self.image(i))

    def take(self, rows: slice) -> Images:
        """The same images, some rows."""
        return replace(self, labels=self.labels[rows], ids=self.ids[rows], rows=self.rows[rows])

    def numbered_as(self, classes: Sequence[str]) -> Images:
        """The same images with labels that index ``classes``, a network's list.

        Classes are found by name, "02" as 2 in a list of numbers. Lists of one length that agree in order but for
        synonyms and case count as equal, folders called by ImageNet's wnids are matched with a list of its thousand
        classes, and classes keep their numbers where the images have no names for them, or where the list is of bare
        numbers and as many images' classes are called otherwise, all of them. Raises InputError for a class that
        occurs in the images and not in the list, naming the first such image.
        """
        if tuple(classes) == self.classes:
            return self
        return replace(self, classes=tuple(classes), labels=_places(self, tuple(classes))[self.labels])


@dataclass(frozen=True)
class Source:
    """One format: what it looks like in words, whether a path holds it, and how it is opened."""

    about: str
    fits: Callable[[Path], bool]
    opens: Callable[[Path], Images]

    def __call__(self, path: Path) -> Images:
        """The images at ``path``; raises InputError if they are not there, or not in this format."""
        with _unreadable(path):
            return self.opens(path)


def open_images(where: str | Path, classes: Sequence[str] | None = None) -> Images:
    """The images at ``where``, in the first of the ``SOURCES`` that fits; ``"mnist:DIR"`` asks for one by name.

    Of a data set that has several parts, ``DIR/train`` or ``DIR/test`` names one, though no such folder is there.
    ``classes``: what the labels shall index, see ``Images.numbered_as``; the source's own classes if None. Raises
    InputError if nothing fits, or what fits cannot be used.
    """
    text = str(where)
    name, _, rest = text.partition(":")
    if name in SOURCES and rest:
        source, path = SOURCES[name], Path(rest).expanduser()
    else:
        path = Path(text).expanduser()
        with _unreadable(path):
            fitting = [source for source in SOURCES.values() if source.fits(path)]
        if not fitting:
            known = f"images ({'; '.join(f'{name}: {source.about}' for name, source in SOURCES.items())})"
            raise InputError(known, "another file" if path.exists() else "no such file or folder", _shown(text))
        source = fitting[0]
    images = source(path)
    return images if classes is None else images.numbered_as(classes)


def rows_of(text: str, n: int) -> slice:
    """Which of ``n`` rows ``text`` means: from:to, counted from 0, either of them left out if it is an end.

    Raises InputError if it means no row, or rows that are not there.

    >>> rows_of(":40000", 50000), rows_of("10:20", 20), rows_of(":", 3)
    (slice(0, 40000, None), slice(10, 20, None), slice(0, 3, None))
    """
    found = re.fullmatch(r"([0-9]*):([0-9]*)", text.strip())
    start, stop = (int(found[1] or 0), int(found[2] or n)) if found else (0, 0)
    if not start < stop <= n:
        expected = "rows as from:to, such as :40000, 40000: or 10:20"
        raise InputError(f"{expected}, at least one, of {n}", repr(text), "rows")
    return slice(start, stop)


# Bytes to pixels.


class _DecodingError(Exception):
    """What is wrong with an image, in words."""


def _decoded(data: bytes) -> PIL.Image.Image:
    """An image's first frame as ``rgb`` makes it; EXIF's orientation is not applied, as torchvision does not either."""
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise _DecodingError("an empty file")
    with warnings.catch_warnings():
        # What Pillow thinks odd (a bad EXIF, a transparent palette) can be decoded; a bomb shall not be.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                return rgb(opened)
        except (_DecodingError, MemoryError):
            raise
        except UnidentifiedImageError as error:  # its text holds an address, which differs from run to run
            raise _DecodingError(f"no image, but {len(data)} bytes that begin with {data[:12]!r}") from error
        except Exception as error:  # Pillow raises whatever its parsers run into
            raise _DecodingError(f"{error} ({type(error).__name__})") from error


def rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """An image of any mode as RGB of 8 bits.

    Grey of 16 bits is divided by 257, so that white stays white, and rounded (colour of 16 bits Pillow has already
    cut to 8). What is transparent shows white behind it, as on a page; torchvision would show the colour that the
    file holds there, unseen. CMYK and palettes are converted by Pillow.
    """
    from PIL import Image

    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise _DecodingError(f"grey from {grey.min()} to {grey.max()}, beyond 16 bits")
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise _DecodingError("pixels that are floating-point numbers")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return image.convert("RGB")


def _three(pixels: Pixels) -> Pixels:
    """(h, w), (h, w, 1) or (h, w, 3) as (h, w, 3)."""
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


# Reading files: descriptors and unpacked arrays are kept by the process, not by what is pickled.


@dataclass(frozen=True)
class _File:
    """A file as it was when the images were opened."""

    path: str
    size: int
    time: int

    @classmethod
    def of(cls, path: Path) -> _File:
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
        return path.read_bytes()

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


# What all sources have in common.


def _made(
    path: Path, labels: Any, classes: Sequence[str] | None, reader: Reader, what: Sequence[Any], ids: Any = None
) -> Images:
    """Checked images: ``labels`` (n,), the ``classes`` they index (None: nobody knows their names), ``what`` the
    fingerprint is taken of beside them, ``ids`` (n,) if they are not the rows' numbers."""
    where = _shown(str(path))
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise InputError("labels (n,) of an integer type", f"{labels.dtype} of shape {labels.shape}", where)
    if not len(labels):
        raise InputError("at least one image", "none", where)
    most = MAX_CLASSES if classes is None else len(classes)
    outside = (labels < 0) | (labels >= most)
    if outside.any():
        row = int(outside.argmax())
        found = f"{labels[row]} in row {row} (from 0)" + (", an unlabelled image?" if labels[row] < 0 else "")
        raise InputError(f"labels from 0 to {most - 1}", found, where)
    labels = labels.astype(np.int64)
    numbers = tuple(str(i) for i in range(int(labels.max()) + 1))
    ids = np.arange(len(labels)) if ids is None else np.asarray(ids)
    if ids.shape != labels.shape or ids.dtype.kind not in "iuU":
        raise InputError(f"ids ({len(labels)},), integers or text", f"{ids.dtype} of shape {ids.shape}", where)
    ordered = np.sort(ids)
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(twice):
        raise InputError("ids that differ", f"{_shown(str(ordered[twice[0]]))} twice", where)
    digest = _digest(*what, ids)
    made = numbers if classes is None else tuple(map(str, classes))
    return Images(path.resolve().name, made, labels, ids, digest, reader, range(len(labels)), classes is not None)


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


def _places(images: Images, classes: tuple[str, ...]) -> Ints:
    """Where each class of ``images`` stands in ``classes``; -1 for one that does not, and does not occur."""
    if not images.named:
        beyond = images.labels >= len(classes)
        if beyond.any():
            row = int(beyond.argmax())
            expected = f"labels below {len(classes)}, the network's number of classes"
            raise InputError(expected, str(images.labels[row]), images.reader.where(images.rows[row]))
        return np.arange(len(images.classes))
    n, used, names = len(images.classes), np.unique(images.labels), images.classes
    numbers = classes == tuple(str(i) for i in range(len(classes)))
    if numbers:  # "02" is 2
        names = tuple(str(int(name)) if re.fullmatch(r"[0-9]{1,18}", name) else name for name in names)
    places = _by_name(names, classes)
    if (places[used] >= 0).all() and len(set(names)) == n:
        return places
    first = [[name.split(",")[0].strip().casefold() for name in each] for each in (names, classes)]
    if len(classes) == n and not numbers and sum(map(str.__eq__, *first)) >= ALIKE * n:
        return np.arange(n)
    if len(classes) == IMAGENET_CLASSES and all(map(WNID.fullmatch, names)):
        classes = _wnids(names, images.reader.where(images.rows[0]))
        places = _by_name(names, classes)
    elif len(classes) == n and numbers and not set(names).intersection(classes):
        return np.arange(n)  # a network whose classes have no names
    if (places[used] < 0).any():
        missing = used[(places[used] < 0).argmax()]
        known = ", ".join(classes[:5]) + (f", ... ({len(classes)} in all)" if len(classes) > 5 else "")
        times = "twice" if classes.count(names[missing]) else "not"
        found = f"{images.classes[missing]!r}, which is {times} among them"
        where = images.reader.where(images.rows[int((images.labels == missing).argmax())])
        raise InputError(f"images of the network's classes ({known})", _shown(found), where)
    return places


def _by_name(names: Sequence[str], classes: Sequence[str]) -> Ints:
    """Where each of ``names`` stands in ``classes``, -1 unless it stands there once."""
    times, place = Counter(classes), {name: i for i, name in enumerate(classes)}
    return np.array([place[name] if times[name] == 1 else -1 for name in names])


def _wnids(found: tuple[str, ...], where: str) -> tuple[str, ...]:
    """ImageNet's thousand classes by their wnids, in order, which is the alphabet's."""
    if len(found) == IMAGENET_CLASSES:
        return tuple(sorted(found))
    try:
        from timm.data.imagenet_info import ImageNetInfo
    except ImportError as error:
        expected = "all 1000 ImageNet folders, or the package timm, which knows the others"
        raise InputError(expected, f"{len(found)} folders and no timm", where) from error
    return tuple(ImageNetInfo().label_names())  # type: ignore[no-untyped-call, unused-ignore]


# A folder a class.


def _open_folder(path: Path) -> Images:
    """Images below a folder a class: classes and files in the alphabet's order, as torchvision has them.

    Hidden names are left out, and so are images that lie beside the class folders. A link to a folder is followed,
    but once a class and never out to the folders around, so that loops end.
    """
    inside = _visible(path)
    around = {_identity(folder) for folder in (path, *path.resolve().parents)}
    classes = [name for name in inside if (path / name).is_dir() and _identity(path / name) not in around]
    where = _shown(str(path))
    if not classes:
        found = f"no folder, but {_shown(', '.join(inside[:3]))} ..." if inside else "an empty folder"
        raise InputError("a folder a class, with images in it", found, where)
    if PARTS.issuperset(name.casefold() for name in classes):
        expected = f"one part, such as {_shown(str(path / classes[-1]))}"
        raise InputError(expected, f"the parts {_shown(', '.join(classes))}", where)
    names, sizes, labels = [], [], []
    for label, folder in enumerate(classes):
        found_here = sorted(_below(path, folder, around))
        if not found_here:
            found = "none; a folder would be a class without images"
            raise InputError(f"images ({', '.join(sorted(EXTENSIONS))})", found, _shown(str(path / folder)))
        names += [name for name, _ in found_here]
        sizes += [size for _, size in found_here]
        labels += [label] * len(found_here)
    ids = np.array(names)
    return _made(path, labels, classes, _Files(str(path.absolute()), ids), ["folder", np.array(sizes)], ids)


def _visible(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))


def _identity(path: Path | str) -> tuple[int, int]:
    found = os.stat(path)  # noqa: PTH116 - a path that was joined as text
    return found.st_dev, found.st_ino


def _below(root: Path, folder: str, around: set[tuple[int, int]]) -> Iterator[tuple[str, int]]:
    """Names within ``root`` and sizes of the images in and below ``folder``; a size is -1 if there is no such file."""

    def fatal(error: OSError) -> None:
        raise error

    seen = around | {_identity(root / folder)}
    for here, folders, files in os.walk(root / folder, onerror=fatal, followlinks=True):
        kept = []
        for name in sorted(name for name in folders if not name.startswith(".")):
            identity = _identity(os.path.join(here, name))  # noqa: PTH118
            if identity not in seen:
                seen.add(identity)
                kept.append(name)
        folders[:] = kept
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS:  # noqa: PTH122
                full = os.path.join(here, name)  # noqa: PTH118
                try:
                    size = os.stat(full).st_size  # noqa: PTH116
                except OSError:  # a dangling link: found broken when it is decoded
                    size = -1
                yield os.path.relpath(full, root).replace(os.sep, "/"), size


# An npz file.


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


# What torchvision's data sets leave on the disk.


def _dataset(
    path: Path, below: Sequence[str], parts: Callable[[Path], Mapping[str, Any]]
) -> tuple[dict[str, Any], str] | None:
    """The parts that ``parts`` finds in ``path`` or a folder of it, and which one is meant: ``path`` may also be the
    name of a part, which need not be there, behind the folder. None if there are no parts."""
    folders = [(path, "")] if path.is_dir() else [(path.parent, path.name)]
    for folder, part in folders:
        for name in ("", *below):
            if (folder / name).is_dir() and (found := parts(folder / name)):
                return dict(found), part
    return None


def _part(path: Path, below: Sequence[str], parts: Callable[[Path], Mapping[str, Any]], about: str) -> Any:
    """What ``parts`` found about the part that is meant, the only one if none is named."""
    found = _dataset(path, below, parts)
    where = _shown(str(path))
    if found is None:
        raise InputError(about, "nothing of it" if path.exists() else "no such folder", where)
    there, part = found
    if not part and len(there) > 1:
        expected = f"one part, as {' or '.join(_shown(str(path / name)) for name in there)}"
        raise InputError(expected, f"{' and '.join(there)}", where)
    if part and part not in there:
        raise InputError(f"the part {' or '.join(there)}", repr(part), where)
    return there[part or next(iter(there))]


MNIST_FOLDERS = ("raw", "MNIST/raw", "FashionMNIST/raw")
MNIST_ABOUT = "a folder with train- or t10k-images-idx3-ubyte and -labels-idx1-ubyte, perhaps .gz"


def _idx_parts(folder: Path) -> dict[str, tuple[Path, Path]]:
    """The files of images and of labels of every part, plain ones before those that are packed."""
    parts = {}
    for part, name in (("train", "train"), ("test", "t10k")):
        pairs = [
            (folder / f"{name}-images{mark}idx3-ubyte{end}", folder / f"{name}-labels{mark}idx1-ubyte{also}")
            for mark in "-."
            for end in ("", ".gz")
            for also in ("", ".gz")
        ]
        there = [pair for pair in pairs if pair[0].is_file() and pair[1].is_file()]
        if there:
            parts[part] = there[0]
    return parts


def _is_fashion(path: Path) -> bool:
    found = _dataset(path, MNIST_FOLDERS, _idx_parts)
    return (
        found is not None and "fashion" in "/".join(next(iter(found[0].values()))[0].absolute().parts[-3:-1]).casefold()
    )


def _open_digits(path: Path) -> Images:
    return _open_idx(path, [str(digit) for digit in range(10)], ("raw", "MNIST/raw"))


def _open_fashion(path: Path) -> Images:
    return _open_idx(path, GARMENTS, ("raw", "FashionMNIST/raw"))


def _open_idx(path: Path, classes: Sequence[str], below: Sequence[str]) -> Images:
    """Images (n, h, w) and labels (n,), each a file of a head of big-endian numbers and then bytes."""
    pictures, numbers = _part(path, below, _idx_parts, MNIST_ABOUT)
    n, height, width = _idx_shape(pictures, 3)
    (m,) = _idx_shape(numbers, 1)
    if m != n:
        raise InputError(f"{n} labels, one an image", str(m), _shown(str(numbers)))
    labels = np.frombuffer(_idx_bytes(_File.of(numbers))[8:], np.uint8)
    file = _File.of(pictures)
    reader: Reader
    if pictures.suffix == ".gz":
        reader = _Held(_idx_images, (file, n, height, width), _shown(str(pictures)))
    else:
        size = height * width
        spans = np.arange(n) * size + 16, np.full(n, size)
        reader = _Spans((file,), np.zeros(n, np.int64), *spans, (height, width))
    return _made(path, labels, classes, reader, ["idx", n, height, width, _sample(pictures)])


def _idx_shape(path: Path, dimensions: int) -> tuple[int, ...]:
    """The shape that an idx file's head tells, if the file is as long as that."""
    where = _shown(str(path))
    packed = path.suffix == ".gz"
    with _unreadable(path), gzip.open(path) if packed else path.open("rb") as stream:
        head = stream.read(4 + 4 * dimensions)
    if len(head) != 4 + 4 * dimensions or head[:4] != bytes([0, 0, 8, dimensions]):
        raise InputError(f"an idx file of bytes in {dimensions} dimensions", f"a head of {head[:4]!r}", where)
    shape = struct.unpack(f">{dimensions}I", head[4:])
    length = path.stat().st_size
    if packed:  # its last four bytes tell how long it is unpacked
        with path.open("rb") as stream:
            stream.seek(-4, os.SEEK_END)
            (length,) = struct.unpack("<I", stream.read())
    if (len(head) + prod(shape)) % 2**32 != length % 2**32 or 0 in shape:
        raise InputError(f"{len(head) + prod(shape)} bytes for shape {shape}", str(length), where)
    return shape


def _idx_bytes(file: _File) -> bytes:
    file.check()
    path = Path(file.path)
    with _unreadable(path):
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def _idx_images(file: _File, n: int, height: int, width: int) -> Pixels:
    data = _idx_bytes(file)
    if len(data) != 16 + n * height * width:
        raise InputError(f"{16 + n * height * width} bytes", str(len(data)), _shown(file.path))
    return np.frombuffer(data, np.uint8, offset=16).reshape(n, height, width)


def _sample(path: Path) -> bytes:
    """A file's head and last bytes (where gzip keeps a checksum) and length, for its fingerprint."""
    with path.open("rb") as stream:
        head = stream.read(SAMPLED)
        stream.seek(-min(8, len(head)), os.SEEK_END)
        return hashlib.sha256(head + stream.read()).digest() + struct.pack("<Q", path.stat().st_size)


@dataclass(frozen=True)
class _Cifar:
    """How one of the two CIFAR data sets lies on the disk, in its binary and in its Python version."""

    torchvision: str
    binary_folder: str
    binary: Mapping[str, tuple[str, ...]]
    names: str
    head: int
    """Bytes before an image; the last one is the label."""
    python_folder: str
    python: Mapping[str, tuple[str, ...]]

    def parts(self, folder: Path) -> dict[str, Path]:
        """Folder of every part that is there in full; the binary version before Python's."""
        parts = {}
        for files in (self.binary, self.python):
            for part, names in files.items():
                if part not in parts and all((folder / name).is_file() for name in names):
                    parts[part] = folder / names[0]
        return parts

    @property
    def below(self) -> tuple[str, str]:
        """Where torchvision, and the archives, put them."""
        return self.binary_folder, self.python_folder

    def fits(self, path: Path) -> bool:
        """Whether a part lies there."""
        return _dataset(path, self.below, self.parts) is not None

    def open(self, path: Path) -> Images:
        """The binary version's files, read row by row, or Python's, read by torchvision as a whole."""
        about = f"a folder with {', '.join(self.binary['test'])} or torchvision's {self.python_folder}"
        first = _part(path, self.below, self.parts, about)
        for part, names in self.binary.items():
            if first.name == names[0]:
                return self._open_binary(path, first.parent, part)
        return self._open_python(path, first)

    def _open_binary(self, path: Path, folder: Path, part: str) -> Images:
        record = self.head + 3072
        files = [folder / name for name in self.binary[part]]
        labels, which, starts = [], [], []
        for number, file in enumerate(files):
            rows, rest = divmod(file.stat().st_size, record)
            if rest or not rows:
                raise InputError(f"records of {record} bytes", f"{rest} bytes more", _shown(str(file)))
            places = np.arange(rows) * record + self.head
            labels.append(np.asarray(np.memmap(file, np.uint8, "r"))[places - 1].copy())
            which.append(np.full(rows, number))
            starts.append(places)
        n = sum(map(len, labels))
        opened = tuple(map(_File.of, files))
        places = np.concatenate(starts)
        reader = _Spans(opened, np.concatenate(which), places, np.full(n, 3072), (3, 32, 32), True)
        what = ["cifar", *(_sample(file) for file in files)]
        return _made(path, np.concatenate(labels), _lines(folder / self.names), reader, what)

    def _open_python(self, path: Path, first: Path) -> Images:
        if first.parent.name != self.python_folder:
            expected = f"the binary version, or a folder called {self.python_folder}, as torchvision has it"
            raise InputError(expected, repr(first.parent.name), _shown(str(path)))
        root, train = first.parent.parent, any(first.name == name for name in self.python["train"])
        found = _torchvision_cifar(self.torchvision, root, train)
        source = (self.torchvision, str(root.absolute()), train)
        reader = _Held(_cifar_pixels, source, _shown(str(first.parent)))
        return _made(path, found.targets, found.classes, reader, ["cifar", _sample(first)])


def _torchvision_cifar(name: str, root: Path, train: bool) -> Any:
    """Torchvision's own data set. The files are pickles, which could run anything: torchvision opens them only after
    their MD5 sums have shown that they are the published ones."""
    try:
        import torchvision.datasets  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise InputError("torchvision, or the binary version", "no torchvision", _shown(str(root))) from error

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, about how the arrays were pickled in 2009
        try:
            return getattr(torchvision.datasets, name)(root, train=train, download=False)
        except RuntimeError as error:
            expected = f"torchvision's files of {name}, all of them, with their published MD5 sums (nothing else may be"
            raise InputError(f"{expected} unpickled)", "other files", _shown(str(root))) from error


def _cifar_pixels(name: str, root: str, train: bool) -> Pixels:
    pixels: Pixels = _torchvision_cifar(name, Path(root), train).data
    return pixels


CIFAR10 = _Cifar(
    torchvision="CIFAR10",
    binary_folder="cifar-10-batches-bin",
    binary={"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
    names="batches.meta.txt",
    head=1,
    python_folder="cifar-10-batches-py",
    python={"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
)
CIFAR100 = _Cifar(
    torchvision="CIFAR100",
    binary_folder="cifar-100-binary",
    binary={"train": ("train.bin",), "test": ("test.bin",)},
    names="fine_label_names.txt",
    head=2,
    python_folder="cifar-100-python",
    python={"train": ("train", "meta"), "test": ("test", "meta")},
)


def _lines(path: Path) -> list[str] | None:
    """Names of classes, one a line; None if there is no such file."""
    return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()] if path.is_file() else None


# Shards: parquet and tar.


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
        middles = [f"{i:0{len(first)}d}" for i in range(int(first), int(last) + step, step)]
    else:
        middles = found[1].split(",")
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


def _indexed(path: Path) -> dict[str, tuple[int, int, int | str]]:
    """Where the images of a tar file begin, how long they are, and their labels, by name, in the file's order."""
    pictures: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int | str] = {}
    alone: dict[str, str] = {}  # files that are nothing but a label, and so must have an image
    where = _shown(str(path))
    try:
        archive = tarfile.open(path, "r:")  # noqa: SIM115 - closed below
    except tarfile.ReadError as error:
        raise InputError("a tar file that is not compressed (it is read here and there)", str(error), where) from error
    with archive:
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
                stream = archive.extractfile(member)
                label = _label(stream.read() if stream else b"", end == "json")
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


SOURCES: dict[str, Source] = {
    "npz": Source(
        ".npz of jpeg, offsets, labels, or of images, labels", lambda path: path.suffix.lower() == ".npz", _open_npz
    ),
    "parquet": Source(
        ".parquet of image, label; several, or a folder of them",
        lambda path: _is_shards(path, (".parquet",)),
        _open_parquet,
    ),
    "webdataset": Source(
        ".tar of key.jpg, key.cls; several, or a folder of them",
        lambda path: _is_shards(path, (".tar", ".tar.gz", ".tgz")),
        _open_tars,
    ),
    "fashionmnist": Source("idx files in a folder called 'fashion...'", _is_fashion, _open_fashion),
    "mnist": Source("idx files", lambda path: _dataset(path, MNIST_FOLDERS, _idx_parts) is not None, _open_digits),
    "cifar10": Source("torchvision's folder, or the binary version", CIFAR10.fits, CIFAR10.open),
    "cifar100": Source("torchvision's folder, or the binary version", CIFAR100.fits, CIFAR100.open),
    "folder": Source("a folder of a folder a class, such as ImageNet's val", Path.is_dir, _open_folder),
}
"""Every format; a new one is two functions and a line here. The first that fits is taken."""
