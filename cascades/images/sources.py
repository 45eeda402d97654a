"""A path of any kind turned into labelled images: ``SOURCES`` has the formats."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from offramp.cascades.images.files import _shown, _unreadable, refuse_odd
from offramp.cascades.images.folder import _open_folder
from offramp.cascades.images.npz import _open_npz
from offramp.cascades.images.shards import _is_shards, _open_parquet, _open_tars
from offramp.cascades.images.torchvision import (
    CIFAR10,
    CIFAR100,
    MNIST_FOLDERS,
    _dataset,
    _idx_parts,
    _is_fashion,
    _open_digits,
    _open_fashion,
)
from offramp.features.errors import InputError
from offramp.features.registry import Registry

if TYPE_CHECKING:
    from offramp.cascades.images.images import Images


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
        refuse_odd(path)
    else:
        path = Path(text).expanduser()
        refuse_odd(path)
        with _unreadable(path):
            fitting = [source for source in SOURCES.values() if source.fits(path)]
        if not fitting:
            known = f"images ({'; '.join(f'{name}: {source.about}' for name, source in SOURCES.items())})"
            raise InputError(known, "another file" if path.exists() else "no such file or folder", _shown(text))
        source = next((one for one in fitting if one is not SOURCES["folder"]), fitting[0])
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


SOURCES: Registry[Source] = Registry(
    "source of images",
    "offramp.sources",
    {
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
    },
)
"""Every format; a new one is two functions and a line here. The first that fits is taken, "folder" last."""
