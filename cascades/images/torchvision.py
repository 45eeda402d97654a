"""MNIST and CIFAR, as torchvision keeps them, turned into images."""

from __future__ import annotations

import gzip
import os
import struct
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp.features.errors import InputError

if TYPE_CHECKING:
    pass
from offramp.cascades.images.files import _File, _Held, _lines, _sample, _shown, _Spans, _unreadable
from offramp.cascades.images.images import _made

if TYPE_CHECKING:
    from offramp.cascades.images.files import Pixels
    from offramp.cascades.images.images import Images, Reader

GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


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
    labels = np.frombuffer(_idx_bytes(_File.of(numbers), 8 + m)[8:], np.uint8)
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


def _idx_bytes(file: _File, size: int) -> bytes:
    """All ``size`` bytes that the file's head tells of; raises InputError if there are more or fewer."""
    file.check()
    path = Path(file.path)
    with _unreadable(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        data = stream.read(size + 1)
    if len(data) != size:
        raise InputError(f"{size} bytes", "more" if len(data) > size else str(len(data)), _shown(file.path))
    return data


def _idx_images(file: _File, n: int, height: int, width: int) -> Pixels:
    data = _idx_bytes(file, 16 + n * height * width)
    return np.frombuffer(data, np.uint8, offset=16).reshape(n, height, width)


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
