"""Images of many formats turned into rows that can be decoded one by one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from offramp.features.errors import InputError

if TYPE_CHECKING:
    import PIL.Image
from offramp.cascades.images.decoding import _decoded, _three
from offramp.cascades.images.files import EXHAUSTED, BrokenImage, _DecodingError, _digest, _shown

if TYPE_CHECKING:
    from offramp.cascades.images.files import Ints, Pixels


MAX_CLASSES = 1_000_000
"""Label numbers from here on are taken for a mistake (an id, a hash)."""
IMAGENET_CLASSES = 1000
WNID = re.compile(r"n\d{8}")
"""ImageNet's name of a class, by which its folders are called."""
ALIKE = 0.99
"""Share of equal names from which two lists of classes are one: torchvision renamed two of ImageNet's thousand."""


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


# Bytes to pixels.


# Reading files: descriptors and unpacked arrays are kept by the process, not by what is pickled.


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


# An npz file.


# What torchvision's data sets leave on the disk.


# Shards: parquet and tar.
