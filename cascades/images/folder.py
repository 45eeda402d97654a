"""A folder with a folder for each class turned into images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from offramp.features.errors import InputError

if TYPE_CHECKING:
    pass
from offramp.cascades.images.files import EXTENSIONS, _Files, _shown
from offramp.cascades.images.images import _made

if TYPE_CHECKING:
    from offramp.cascades.images.images import Images

PARTS = frozenset("train training val valid validation test testing".split())  # noqa: SIM905


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
