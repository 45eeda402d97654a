import bz2
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from offramp.cascades.images import files, shards
from offramp.cascades.images.decoding import rgb
from offramp.cascades.images.files import BrokenImage
from offramp.cascades.images.images import Images
from offramp.cascades.images.sources import SOURCES, open_images, rows_of
from offramp.features.errors import InputError

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
LABELS = np.array([2, 0, 1, 1, 9, 0, 3])
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def random_pixels(n: int = 7, shape: tuple[int, ...] = (32, 32, 3), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


PIXELS = random_pixels()
GREY = random_pixels(shape=(28, 28))


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own


@contextmanager
def refused(*words: str) -> Iterator[None]:
    with pytest.raises(InputError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    assert ": expected " in message
    for word in words:
        assert word in message, message


def dataset(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"real data is not here: {path.name}")
    return path


# Every format: the same seven images, written and read.


def write_folder(root: Path, pixels: np.ndarray, labels: np.ndarray) -> Path:
    for row, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        (folder := root / "many" / f"{label}-{NAMES[label]}").mkdir(parents=True, exist_ok=True)
        (folder / f"{row}.png").write_bytes(encoded(image))
    return root / "many"


def jpeg_npz(path: Path, files: Sequence[bytes], labels: Any, save: Any = np.savez, **more: Any) -> Path:
    offsets = np.cumsum([0, *map(len, files)])
    save(path, jpeg=np.frombuffer(b"".join(files), np.uint8), offsets=offsets, labels=labels, **more)
    return path


def write_npz(root: Path, pixels: np.ndarray, labels: np.ndarray) -> Path:
    return jpeg_npz(root / "some.npz", [encoded(image) for image in pixels], labels.astype("u1"), classes=NAMES)


def write_idx(root: Path, pixels: np.ndarray, labels: np.ndarray, name: str = "t10k", mark: str = "-") -> Path:
    root.mkdir(exist_ok=True)
    head = bytes([0, 0, 8, 3]) + struct.pack(">3I", *pixels.shape)
    (root / f"{name}-images{mark}idx3-ubyte").write_bytes(head + pixels.tobytes())
    head = bytes([0, 0, 8, 1]) + struct.pack(">I", len(labels))
    (root / f"{name}-labels{mark}idx1-ubyte").write_bytes(head + labels.astype(np.uint8).tobytes())
    return root


def write_fashion(root: Path, pixels: np.ndarray, labels: np.ndarray) -> Path:
    return write_idx(root / "FashionMNIST", pixels, labels)


def records(pixels: np.ndarray, labels: np.ndarray, head: Sequence[int] = ()) -> bytes:
    rows = zip(pixels, labels, strict=True)
    return b"".join(bytes([*head, int(label)]) + image.transpose(2, 0, 1).tobytes() for image, label in rows)


def write_cifar10(root: Path, pixels: np.ndarray, labels: np.ndarray) -> Path:
    for i, (start, stop) in enumerate(pairwise((0, 1, 2, 4, 5, 7)), 1):
        (root / f"data_batch_{i}.bin").write_bytes(records(pixels[start:stop], labels[start:stop]))
    (root / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    return root


def write_cifar100(root: Path, pixels: np.ndarray, labels: np.ndarray) -> Path:
    (root / "test.bin").write_bytes(records(pixels, labels, head=[19]))
    (root / "fine_label_names.txt").write_text("\n".join(f"kind {i}" for i in range(100)))
    return root


def hugging_face(names: Sequence[str], label: str = "label") -> dict[str, str]:
    feature = {label: {"names": list(names), "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    return {"huggingface": json.dumps({"info": {"features": feature}})}


def write_table(path: Path, columns: dict[str, Any], names: Sequence[str] = (), group: int = 2) -> Path:
    table = pa.table(columns)
    table = table.replace_schema_metadata(hugging_face(names)) if names else table
    parquet.write_table(table, path, row_group_size=group)
    return path


def cells(files: Sequence[bytes | None]) -> Any:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": file, "path": f"{i}.png"} for i, file in enumerate(files)], kind)


def write_parquet(root: Path, pixels: np.ndarray, labels: np.ndarray) -> Path:
    files = [encoded(image) for image in pixels]
    for i, (start, stop) in enumerate(((0, 3), (3, 7))):
        columns = {"label": labels[start:stop], "image": cells(files[start:stop])}
        write_table(root / f"test-0000{i}-of-00002.parquet", columns, NAMES)
    return root


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_webdataset(root: Path, pixels: np.ndarray, labels: np.ndarray) -> Path:
    for i, rows in enumerate((range(4), range(4, 7))):
        files = {}
        for row in rows:
            files[f"sub/{row:04d}.cls"] = f"{labels[row]}\n".encode()
            files[f"sub/{row:04d}.PNG"] = encoded(pixels[row])
        write_tar(root / f"s-{i}.tar", files)
    return root / "s-{0..1}.tar"


WRITERS: dict[str, Callable[[Path, np.ndarray, np.ndarray], Path]] = {
    "npz": write_npz,
    "parquet": write_parquet,
    "webdataset": write_webdataset,
    "fashionmnist": write_fashion,
    "mnist": write_idx,
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "folder": write_folder,
}


def pictures(name: str) -> np.ndarray:
    return GREY if name.endswith("mnist") else PIXELS


def in_order(name: str, labels: np.ndarray) -> np.ndarray:
    """Rows in the order in which the format gives them."""
    return np.argsort(labels, kind="stable") if name == "folder" else np.arange(len(labels))


def three(pixels: np.ndarray) -> np.ndarray:
    return np.stack([pixels] * 3, -1) if pixels.ndim == 3 else pixels


def all_pixels(images: Images) -> np.ndarray:
    return np.stack([images.pixels(i) for i in range(len(images))])


each_source = pytest.mark.parametrize("name", SOURCES)


def test_every_source_has_a_writer() -> None:
    assert WRITERS.keys() == SOURCES.keys()


@each_source
def test_what_was_written_is_read(name: str, tmp_path: Path) -> None:
    where = WRITERS[name](tmp_path, pictures(name), LABELS)
    images, rows = open_images(where), in_order(name, LABELS)
    assert len(images) == 7
    np.testing.assert_array_equal(all_pixels(images), three(pictures(name))[rows])
    assert images.pixels(0).flags.writeable
    np.testing.assert_array_equal(np.asarray(images.image(4)), images.pixels(4))
    assert (images.image(0).mode, images.labels.dtype) == ("RGB", np.int64)
    if name == "folder":
        assert images.classes == ("0-airplane", "1-automobile", "2-bird", "3-cat", "9-truck")
        assert [images.classes[label][0] for label in images.labels] == [str(label) for label in LABELS[rows]]
    else:
        np.testing.assert_array_equal(images.labels, LABELS)
        assert len(images.classes) == (100 if name == "cifar100" else 10)
    assert images.named == (name != "webdataset")
    assert len(set(images.ids.tolist())) == 7
    with pytest.raises(IndexError):
        images.pixels(7)


@each_source
def test_a_format_can_be_asked_for(name: str, tmp_path: Path) -> None:
    where = WRITERS[name](tmp_path, pictures(name), LABELS)
    assert open_images(f"{name}:{where}").fingerprint == open_images(str(where)).fingerprint


@each_source
def test_take_is_some_of_the_rows(name: str, tmp_path: Path) -> None:
    images = open_images(WRITERS[name](tmp_path, pictures(name), LABELS))
    whole = all_pixels(images)
    for rows in (slice(0, 3), slice(3, None), slice(1, 6, 2), slice(None)):
        some = images.take(rows)
        np.testing.assert_array_equal(all_pixels(some), whole[rows])
        np.testing.assert_array_equal(some.labels, images.labels[rows])
        np.testing.assert_array_equal(some.ids, images.ids[rows])
        assert len(some) == len(whole[rows])
        assert (some.fingerprint == images.fingerprint) == (len(some) == 7)
    np.testing.assert_array_equal(images.take(slice(2, 7)).take(slice(1, 3)).pixels(1), whole[4])


@each_source
def test_pickled_it_takes_no_image_along(name: str, tmp_path: Path) -> None:
    images = open_images(WRITERS[name](tmp_path, pictures(name), LABELS))
    whole = all_pixels(images)
    data = pickle.dumps(images)
    assert len(data) < 6000  # of 21,504 bytes of pixels, or 5,488
    again = pickled(images)
    np.testing.assert_array_equal(all_pixels(again), whole)
    np.testing.assert_array_equal(again.ids, images.ids)
    assert again.fingerprint == images.fingerprint


@each_source
def test_the_fingerprint_is_stable_and_sees_labels_and_pixels(name: str, tmp_path: Path) -> None:
    prints = []
    other = pictures(name).copy()
    other[3] = 0  # which a file's size tells
    labels = LABELS.copy()
    labels[[1, 2]] = labels[[2, 1]]
    for i, (pixels, numbers) in enumerate(((pictures(name),) * 2, (other, LABELS), (pictures(name), labels))):
        (folder := tmp_path / str(i)).mkdir()
        numbers = LABELS if i == 0 else numbers
        where = WRITERS[name](folder, pixels, numbers)
        prints.append(open_images(where).fingerprint)
        assert open_images(where).fingerprint == prints[-1]
    (folder := tmp_path / "moved").mkdir()
    assert open_images(WRITERS[name](folder, pictures(name), LABELS)).fingerprint == prints[0]
    assert len(prints[0]) == 64
    assert len(set(prints)) == 3


def decode_all(images: Images) -> str:
    return hashlib.sha256(all_pixels(images).tobytes()).hexdigest()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_worker_processes_read_the_same(start: str, tmp_path: Path) -> None:
    found = []
    for name in WRITERS:
        (tmp_path / name).mkdir()
        found.append(open_images(WRITERS[name](tmp_path / name, pictures(name), LABELS)))
    mine = [decode_all(images) for images in found]
    if start == "fork":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside Arrow's threads, from 3.12
            with multiprocessing.get_context("fork").Pool(2) as pool:
                assert pool.map(decode_all, found * 3) == mine * 3
        return
    program = (
        "import pickle, sys, hashlib\n"
        "for images in pickle.load(sys.stdin.buffer):\n"
        "    total = hashlib.sha256()\n"
        "    for i in range(len(images)): total.update(images.pixels(i).tobytes())\n"
        "    print(total.hexdigest())\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=root, input=pickle.dumps(found), capture_output=True
    )
    assert (done.stdout.decode().split(), done.stderr.decode()) == (mine, "")


# Bytes to pixels: against Pillow, and by hand.


def only(root: Path, data: bytes, name: str = "x.jpg") -> Images:
    (folder := root / "one" / "class").mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return open_images(root / "one").take(slice(0, 1))


PHOTO = Image.fromarray(random_pixels(1, (40, 50, 3))[0]).resize((60, 30))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"quality": 60, "progressive": True}),
        ("PNG", {}),
        ("BMP", {}),
        ("GIF", {}),
        ("WEBP", {"quality": 50}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
    ],
)
def test_whole_images_are_as_pillow_has_them(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    data = encoded(PHOTO, kind, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    images = only(tmp_path, data, "x.Png")
    np.testing.assert_array_equal(images.pixels(0), expected)
    assert images.image(0).size == (60, 30)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_modes_without_transparency_are_as_pillow_converts_them(mode: str, tmp_path: Path) -> None:
    image = PHOTO.convert(mode)
    data = encoded(image, "TIFF" if mode in {"CMYK", "YCbCr"} else "PNG")
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(only(tmp_path, data).pixels(0), expected)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    data = encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG")
    assert abs(only(tmp_path, data).pixels(0).astype(int) - [0, 255, 255]).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_16_bits_is_scaled_not_clipped(kind: str, tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 257, 1000, 32768, 65406, 65407, 65535]], np.uint16)
    pixels = only(tmp_path, encoded(values, kind)).pixels(0)
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 1, 4, 128, 254, 255, 255]  # the nearest of value / 257
    assert (pixels == pixels[:, :, :1]).all()


def test_every_grey_of_8_bits_written_with_16_comes_back() -> None:
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    assert (np.asarray(rgb(Image.fromarray(grey * 257)))[:, :, 1] == grey).all()
    assert (np.asarray(rgb(Image.fromarray((grey * 257).astype(np.int32))))[:, :, 1] == grey).all()  # mode I
    every = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    assert (np.asarray(rgb(Image.fromarray(every)))[:, :, 0] == np.round(every / 257)).all()


def test_pgm_of_16_bits_and_big_endian_tiff(tmp_path: Path) -> None:
    data = b"P5 3 1 65535\n" + np.array([0, 25700, 65535], ">u2").tobytes()
    assert only(tmp_path, data).pixels(0)[0, :, 0].tolist() == [0, 100, 255]
    data = encoded(Image.fromarray(np.array([[0, 25700, 65535]], ">u2")), "TIFF")
    assert only(tmp_path, data).pixels(0)[0, :, 0].tolist() == [0, 100, 255]


def test_colour_of_16_bits_is_what_pillow_leaves_of_it(tmp_path: Path) -> None:
    rows = b"\0" + struct.pack(">6H", 0, 25700, 65535, 257, 514, 771)
    head = struct.pack(">2I5B", 2, 1, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks
    )
    pixels = only(tmp_path, b"\x89PNG\r\n\x1a\n" + body).pixels(0)
    assert pixels.tolist() == [[[0, 100, 255], [1, 2, 3]]]


def test_what_is_transparent_shows_white(tmp_path: Path) -> None:
    colour = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 100, 250, 51]]], np.uint8)
    expected = [[255, 255, 255], [10, 20, 30], [204, 224, 254]]  # 255 · 0.8 + colour · 0.2
    assert only(tmp_path, encoded(colour)).pixels(0)[0].tolist() == expected
    assert only(tmp_path, encoded(colour, "WEBP", lossless=True, exact=True)).pixels(0)[0].tolist() == expected
    grey = np.array([[[7, 0], [7, 255]]], np.uint8)
    assert only(tmp_path, encoded(grey)).pixels(0)[0, :, 1].tolist() == [255, 7]


@pytest.mark.parametrize("transparency", [1, b"\xff\x00\x33"])
def test_transparent_palettes(transparency: int | bytes, tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([1, 2, 3, 40, 50, 60, 0, 100, 250])
    image.putdata([0, 1, 2])
    pixels = only(tmp_path, encoded(image, transparency=transparency)).pixels(0)[0]
    assert pixels.tolist() == [[1, 2, 3], [255] * 3, [0, 100, 250] if transparency == 1 else [204, 224, 254]]


def test_one_transparent_colour(tmp_path: Path) -> None:
    colour = np.array([[[1, 2, 3], [9, 9, 9]]], np.uint8)
    assert only(tmp_path, encoded(colour, transparency=(9, 9, 9))).pixels(0)[0].tolist() == [[1, 2, 3], [255] * 3]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_animated_images_the_first_frame(kind: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, **options)
    assert (only(tmp_path, data).pixels(0) == [200, 0, 0]).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_one_by_one(mode: str, tmp_path: Path) -> None:
    assert only(tmp_path, encoded(Image.new(mode, (1, 1)))).pixels(0).shape == (1, 1, 3)


def test_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    images = only(tmp_path, encoded(PHOTO, "JPEG", exif=exif))
    np.testing.assert_array_equal(images.pixels(0), only(tmp_path, encoded(PHOTO, "JPEG")).pixels(0))


PNG, JPEG = encoded(PHOTO), encoded(PHOTO, "JPEG")


def bomb(width: int, height: int) -> bytes:
    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return PNG[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + PNG[33:]


BROKEN = {
    "truncated JPEG": (JPEG[: len(JPEG) // 2], "truncated"),
    "truncated PNG": (PNG[: len(PNG) // 2], "truncated"),
    "a JPEG's first bytes": (JPEG[:20], "found"),
    "a PNG's first bytes": (PNG[:20], "found"),
    "GIF without an end": (encoded(PHOTO, "GIF")[:900], "found"),
    "zero bytes": (b"", "an empty file"),
    "text": (b"this is no image\n at all", "begin with b'this is no i"),
    "a page of an error": (b"<!DOCTYPE html><html>404</html>", "no image, but 31 bytes"),
    "zeros": (bytes(5000), "no image, but 5000 bytes"),
    "a bomb": (bomb(30_000, 30_000), "DecompressionBomb"),
    "a bomb that Pillow would only warn of": (bomb(10_000, 10_000), "DecompressionBomb"),
    "PostScript, which Pillow would hand to a program": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "b'%!PS",
    ),
    "floating-point numbers": (encoded(Image.new("F", (2, 2)), "TIFF"), "floating-point"),
    "more than 16 bits": (encoded(np.full((2, 2), 70_000, np.int32), "TIFF"), "grey from 70000 to 70000"),
    "a bad checksum": (PNG[:60] + bytes([PNG[60] ^ 255]) + PNG[61:], "found"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_is_named(name: str, tmp_path: Path) -> None:
    data, found = BROKEN[name]
    images = only(tmp_path, data, "Bad one.JPG")
    assert images.ids.tolist() == ["class/Bad one.JPG"]  # listed, in its row
    with refused(found, "Bad one.JPG", "id class/Bad one.JPG"), warnings.catch_warnings():
        warnings.simplefilter("error")
        images.image(0)
    with pytest.raises(BrokenImage) as caught:
        images.pixels(0)
    assert caught.value.id == "class/Bad one.JPG"
    assert " at 0x" not in str(caught.value)  # the same message in every run
    again = pickled(caught.value)
    assert (type(again), str(again), again.id) == (BrokenImage, str(caught.value), caught.value.id)


@pytest.mark.parametrize("name", ["npz", "parquet", "webdataset"])
def test_a_broken_image_in_a_container_shifts_no_row(name: str, tmp_path: Path) -> None:
    files = [encoded(image) for image in PIXELS]
    files[3], files[5] = b"", b"no image"
    where = {
        "npz": lambda: jpeg_npz(tmp_path / "x.npz", files, LABELS),
        "parquet": lambda: write_table(tmp_path / "x.parquet", {"image": files, "label": LABELS}),
        "webdataset": lambda: write_tar(
            tmp_path / "x.tar",
            {f"{i}.{end}": data for i, file in enumerate(files) for end, data in (("jpg", file), ("cls", b"1"))},
        ),
    }[name]()
    images = open_images(where)
    ids, messages = [], []
    for i in range(7):
        try:
            np.testing.assert_array_equal(images.pixels(i), PIXELS[i])
        except BrokenImage as error:
            ids.append(error.id)
            messages.append(str(error))
    assert all(str(where) in message for message in messages)
    assert ids == ([3, 5] if name != "webdataset" else ["x.tar/3.jpg", "x.tar/5.jpg"])
    with pytest.raises(BrokenImage) as caught:
        images.take(slice(2, 6)).pixels(1)
    assert caught.value.id == ids[0]


def test_warnings_of_pillow_stay_inside(tmp_path: Path) -> None:
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x09\x01\x12\x00\x03\x00\x00\x00\x01"  # cut short
    tiff = encoded(PHOTO, "TIFF")
    for data in (encoded(PHOTO, "JPEG", exif=exif), tiff[:-30]):
        images = only(tmp_path, data)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            try:
                images.pixels(0)
            except BrokenImage:
                assert data is not JPEG
        assert [str(one.message) for one in heard] == []


def test_running_out_of_descriptors_is_no_broken_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = only(tmp_path, PNG)

    def full(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("offramp.features.store.opening.os.open", full)
    with pytest.raises(OSError, match="Too many") as caught:
        images.pixels(0)
    assert not isinstance(caught.value, InputError)


# A folder a class.


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)
    return root


def test_classes_and_files_are_sorted_and_hidden_ones_ignored(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "r", "b/2.PNG", "b/10.jpeg", "a/deep/er/1.Jpg", "a/z.webp", "a/.hidden.jpg", "a/.git/x.jpg",
        "a/readme.txt", ".c/1.jpg", "beside.jpg",
    )  # fmt: skip
    images = open_images(root)
    assert images.classes == ("a", "b")
    assert images.ids.tolist() == ["a/deep/er/1.Jpg", "a/z.webp", "b/10.jpeg", "b/2.PNG"]
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert images.name == "r"


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    root = tree(tmp_path / "r", "a/1.jpg", "b/2.jpg", "../elsewhere/3.jpg")
    (root / "a" / "self").symlink_to(root / "a")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "top").symlink_to("/")
    (root / "b" / "itself").symlink_to("itself")
    (root / "b" / "gone.jpg").symlink_to("nowhere.jpg")
    (root / "b" / "loop.jpg").symlink_to("loop.jpg")
    (root / "c").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root)
    (root / "d").mkdir()
    (root / "d" / "e").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root / "d")
    images = open_images(root)
    assert images.ids.tolist() == ["a/1.jpg", "b/2.jpg", "b/gone.jpg", "b/loop.jpg", "c/3.jpg", "d/e/3.jpg"]
    assert images.pixels(4).shape == (30, 60, 3)
    for row in (2, 3):
        with pytest.raises(BrokenImage):
            images.pixels(row)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    root = tree(tmp_path / "r", "a/1.jpg", "a/3.jpg/inside.png")
    os.mkfifo(root / "a" / "2.jpg")
    images = open_images(root)
    assert images.ids.tolist() == ["a/1.jpg", "a/2.jpg", "a/3.jpg/inside.png"]
    with pytest.raises(BrokenImage, match="no file"):
        images.pixels(1)


def test_a_file_that_went_away_is_broken(tmp_path: Path) -> None:
    root = tree(tmp_path / "r", "a/1.jpg")
    images = open_images(root)
    (root / "a" / "1.jpg").unlink()
    with refused("No such file", "a/1.jpg"):
        images.pixels(0)


def test_names_that_are_no_unicode(tmp_path: Path) -> None:
    root = tree(tmp_path / "r", "a/1.jpg")
    name = os.fsencode(root / "a") + b"/caf\xe9\n.jpg"
    try:
        with open(name, "wb") as file:  # noqa: PTH123
            file.write(b"x")
    except OSError:
        pytest.skip("this file system has no such names")
    images = open_images(root)
    with refused("caf\\udce9") as _, warnings.catch_warnings():
        images.pixels(1)
    try:
        images.pixels(1)
    except BrokenImage as error:
        str(error).encode()
    assert len(images.fingerprint) == 64


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), ["a folder a class", "an empty folder"]),
        (("1.jpg",), ["a folder a class", "no folder, but 1.jpg"]),
        (("a/1.jpg", "b/notes.txt"), ["class without images", "r/b:", ".jpg"]),
        (("train/a/1.jpg", "val/a/2.jpg"), ["one part", "r/val", "parts train, val"]),
        ((".a/1.jpg",), ["an empty folder"]),
    ],
)
def test_folders_that_are_no_classes(names: tuple[str, ...], words: list[str], tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    tree(tmp_path / "r", *names)
    with refused(*words):
        open_images(tmp_path / "r")


def test_a_class_may_be_called_like_a_part(tmp_path: Path) -> None:
    assert open_images(tree(tmp_path / "r", "train/1.jpg", "plane/1.jpg")).classes == ("plane", "train")


def test_what_is_not_there_or_of_no_known_format(tmp_path: Path) -> None:
    with refused("no such file or folder", "nowhere", *SOURCES):
        open_images(tmp_path / "nowhere")
    (tmp_path / "x.doc").write_bytes(b"x")
    with refused("another file", "x.doc", *SOURCES):
        open_images(tmp_path / "x.doc")
    with refused("no such file", "imagenet22k:x"):
        open_images("imagenet22k:x")
    for name in SOURCES:
        with refused("nowhere"):
            open_images(f"{name}:{tmp_path / 'nowhere'}")
        with refused("x.doc"):
            open_images(f"{name}:{tmp_path / 'x.doc'}")


# Labels that index a network's classes.


def test_labels_follow_the_networks_classes(tmp_path: Path) -> None:
    root = tree(tmp_path / "r", "cat/1.jpg", "dog/2.jpg", "dog/3.jpg")
    images = open_images(root, classes=["dog", "horse", "cat"])
    assert (images.labels.tolist(), images.classes) == ([2, 0, 0], ("dog", "horse", "cat"))
    assert images.fingerprint != open_images(root).fingerprint
    assert open_images(root, ("cat", "dog")).fingerprint == open_images(root).fingerprint
    with refused("classes (cat, mouse)", "'dog', which is not among them", str(root)):
        open_images(root, classes=["cat", "mouse"])
    with refused("(a, b, c, d, e, ... (6 in all))", "'cat'"):
        open_images(root, classes=list("abcdef"))
    assert open_images(root).take(slice(0, 1)).numbered_as(["cat", "mouse"]).labels.tolist() == [0]
    with refused("'dog', which is twice among them"):
        open_images(root, classes=["cat", "dog", "dog"])
    assert open_images(root, classes=["0", "1"]).labels.tolist() == [0, 1, 1]  # a network without names


def test_folders_called_by_numbers_are_matched_by_name(tmp_path: Path) -> None:
    names = [str(i) for i in range(12)]
    root = tree(tmp_path / "r", *(f"{name}/{name}.jpg" for name in names))
    for only in (names, names[:11], ["10", "2"]):
        images = open_images(root, classes=names)
        labels = dict(zip(images.ids.tolist(), images.labels.tolist(), strict=True))
        assert all(labels[f"{name}/{name}.jpg"] == int(name) for name in only)
    some = tree(tmp_path / "s", "10/a.jpg", "2/b.jpg")
    assert open_images(some, classes=names).labels.tolist() == [10, 2]


def test_numbers_are_matched_with_numbers_only(tmp_path: Path) -> None:
    names = [str(i) for i in range(12)]
    padded = tree(tmp_path / "padded", *(f"{i:02}/{i}.jpg" for i in range(12)))
    assert open_images(padded, names).labels.tolist() == list(range(12))
    from_one = tree(tmp_path / "from-one", *(f"{i + 1}/{i}.jpg" for i in range(12)))
    with refused("'12', which is not among them", "/12/11.jpg"):
        open_images(from_one, names)
    twice = tree(tmp_path / "twice", *(f"{name}/a.jpg" for name in [*names[:11], "01"]))
    assert open_images(twice, names).labels.tolist() == [0, 1, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9]
    many = [str(i) for i in range(199)]
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=[199] * 7, classes=[*many, "2000"])
    with refused("'2000', which is not among them"):  # no synonym of 199, though all others agree
        open_images(tmp_path / "x.npz", [*many, "199"])


def test_names_that_all_are_there_are_found_in_any_order(tmp_path: Path) -> None:
    """Two of 200 that changed places are no synonyms."""
    names = [f"thing {i}" for i in range(200)]
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=LABELS, classes=[*names[1::-1], *names[2:]])
    assert open_images(tmp_path / "x.npz", names).labels.tolist() == [2, 1, 0, 0, 9, 1, 3]


def test_a_name_that_two_classes_have_in_both_lists_keeps_its_place(tmp_path: Path) -> None:
    """ImageNet's two cranes, of which torchvision renamed one."""
    names = [f"thing {i}" for i in range(200)]
    names[3] = names[9] = "crane"
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=LABELS, classes=names)
    for network in (names, [*names[:3], "crane bird", *names[4:]]):
        assert open_images(tmp_path / "x.npz", network).labels.tolist() == LABELS.tolist()


def test_the_row_of_an_unknown_class_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "r", "cat/1.jpg", "dog/2.jpg", "eel/3.jpg")
    with refused("'eel', which is not", "3.jpg"):
        open_images(root, classes=["cat", "dog"])
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=np.where(np.arange(len(LABELS)) == 4, 9, 1))
    with refused("found 9", "row 4"):
        open_images(tmp_path / "x.npz", classes=NAMES[:5])


def test_classes_without_names_keep_their_numbers(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=LABELS)
    images = open_images(tmp_path / "x.npz", classes=NAMES)
    assert (images.labels.tolist(), images.classes) == (LABELS.tolist(), NAMES)
    with refused("labels below 9", "found 9"):
        open_images(tmp_path / "x.npz", classes=NAMES[:9])


def test_synonyms_in_the_same_order_are_the_same_classes(tmp_path: Path) -> None:
    names = [f"thing {i}, synonym" for i in range(200)]
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=LABELS, classes=names)
    renamed = [f"Thing {i}" for i in range(199)] + ["other"]
    assert open_images(tmp_path / "x.npz", classes=renamed).labels.tolist() == LABELS.tolist()
    for others in (renamed[::-1], renamed[:199], [*renamed[:197], "x", "y", "z"]):
        with refused("'thing 0, synonym', which is not among them"):
            open_images(tmp_path / "x.npz", classes=others)


def test_wnids_are_imagenets_classes(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    root = tree(tmp_path / "val", "n02102040/1.JPEG", "n01440764/2.JPEG")  # English springer 217, tench 0
    images = open_images(root)
    assert images.classes == ("n01440764", "n02102040")
    thousand = [f"c{i}" for i in range(1000)]
    assert images.numbered_as(thousand).labels.tolist() == [0, 217]
    with refused("n99999999"):
        open_images(tree(tmp_path / "val", "n99999999/1.JPEG"), thousand)


def test_all_thousand_wnids_are_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "timm.data.imagenet_info", None)  # not installed
    names = [f"n{i:08d}" for i in range(1000)]
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=LABELS * 100, classes=names)
    assert open_images(tmp_path / "x.npz", [f"c{i}" for i in range(1000)]).labels.tolist() == (LABELS * 100).tolist()
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=LABELS, classes=names[:10])
    with refused("all 1000 ImageNet folders", "no timm"):
        open_images(tmp_path / "x.npz", [f"c{i}" for i in range(1000)])


# npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4), (5, 4, 1)])
def test_npz_of_pixels(save: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = random_pixels(7, shape)
    save(tmp_path / "x.npz", images=pixels, labels=LABELS, ids=[f"id {i}" for i in range(7)])
    images = open_images(tmp_path / "x.npz")
    np.testing.assert_array_equal(all_pixels(images), pixels if shape[2:] == (3,) else three(pixels.reshape(7, 5, 4)))
    assert images.ids[6] == "id 6"
    assert (images.classes, images.named) == (tuple("0123456789"), False)


def test_npz_packed_or_in_another_order(tmp_path: Path) -> None:
    files = [encoded(image) for image in PIXELS]
    packed = open_images(jpeg_npz(tmp_path / "x.npz", files, LABELS, np.savez_compressed))
    np.testing.assert_array_equal(all_pixels(packed), PIXELS)
    np.testing.assert_array_equal(all_pixels(pickled(packed)), PIXELS)
    np.savez(tmp_path / "y.npz", images=np.asfortranarray(PIXELS), labels=LABELS)
    np.testing.assert_array_equal(all_pixels(open_images(tmp_path / "y.npz")), PIXELS)


def test_an_uncompressed_npz_is_not_read_into_memory(tmp_path: Path) -> None:
    path = jpeg_npz(tmp_path / "x.npz", [bytes(2**22), PNG], [0, 1])
    files._held.cache_clear()
    assert open_images(path).pixels(1).shape == (30, 60, 3)
    assert files._held.cache_info().currsize == 0


BYTES = np.frombuffer(PNG, np.uint8)
WHOLE = {"jpeg": BYTES, "offsets": [0, len(PNG)], "labels": [0]}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"jpeg": BYTES, "labels": [0]}, ["jpeg, offsets and labels", "found jpeg, labels"]),
        ({"labels": [0]}, ["images and labels"]),
        ({}, ["no arrays"]),
        (WHOLE | {"labels": [0, 0]}, ["shape (3,) for 2 labels", "'offsets'"]),
        (WHOLE | {"offsets": [0, len(PNG) + 1]}, ["numbers that rise"]),
        (WHOLE | {"offsets": [-1, 5]}, ["numbers that rise"]),
        (WHOLE | {"offsets": [5, 0]}, ["numbers that rise"]),
        (WHOLE | {"offsets": [0.0, 5.0]}, ["integers of shape (2,)", "float64"]),
        (WHOLE | {"labels": [-1]}, ["labels from 0", "-1 in row 0", "an unlabelled image?"]),
        (WHOLE | {"labels": [0.0]}, ["labels (n,) of an integer type", "float64"]),
        (WHOLE | {"labels": [3], "classes": ["a", "b", "c"]}, ["labels from 0 to 2", "found 3 in row 0"]),
        (WHOLE | {"labels": [10**9]}, ["labels from 0 to 999999"]),
        (WHOLE | {"jpeg": BYTES.astype(int)}, ["uint8", "int64"]),
        (WHOLE | {"classes": [["a"]]}, ["classes (c,)", "(1, 1)"]),
        (WHOLE | {"ids": [1, 2]}, ["ids (1,)", "(2,)"]),
        (WHOLE | {"classes": np.array(["a"], object)}, ["never loaded", "'classes'"]),
        ({"jpeg": BYTES[:0], "offsets": [0], "labels": np.zeros(0, int)}, ["at least one image"]),
        ({"images": PIXELS, "labels": LABELS[:6]}, ["labels (7,), one an image", "(6,)"]),
        ({"images": PIXELS.transpose(0, 3, 1, 2), "labels": LABELS}, ["(n, h, w, 3)", "(7, 3, 32, 32)"]),
        ({"images": PIXELS / 255, "labels": LABELS}, ["uint8", "float64"]),
        ({"images": PIXELS, "labels": LABELS, "ids": [1, 2, 3, 4, 5, 6, 1]}, ["ids that differ", "1 twice"]),
    ],
)
def test_npz_that_cannot_be_used(arrays: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with refused("x.npz", *words):
        open_images(tmp_path / "x.npz")


@pytest.mark.parametrize("damage", [lambda data: data[:-40], lambda data: data[:200], lambda _: b"", lambda _: b"text"])
def test_npz_that_is_damaged(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = write_npz(tmp_path, PIXELS, LABELS)
    path.write_bytes(damage(path.read_bytes()))
    with refused("some.npz", "truncated or other file"):
        open_images(path)


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(pickle.dumps(Evil(tmp_path / "was here")))
    with refused("x.npz"):
        open_images(tmp_path / "x.npz")
    assert not (tmp_path / "was here").exists()


def test_a_file_that_changed_since_is_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path, PIXELS, LABELS)
    images = open_images(path)
    os.utime(path, ns=(1, 1))
    with refused("as it was when the images were opened", "some.npz"):
        images.pixels(0)


def test_without_pread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images = open_images(write_npz(tmp_path, PIXELS, LABELS))
    monkeypatch.delattr(os, "pread", raising=False)  # as on Windows
    np.testing.assert_array_equal(all_pixels(images), PIXELS)


# idx


def packed(path: Path) -> None:
    for file in list(path.iterdir()):
        (path / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()


@pytest.mark.parametrize("folder", [".", "raw", "MNIST/raw"])
def test_idx_packed_and_where_torchvision_puts_it(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    packed(write_idx(tmp_path / folder, GREY, LABELS))
    images = open_images(tmp_path)
    np.testing.assert_array_equal(all_pixels(images), three(GREY))
    np.testing.assert_array_equal(all_pixels(pickled(images)), three(GREY))
    assert images.classes == tuple("0123456789")
    assert open_images(tmp_path / "test").fingerprint == images.fingerprint


def test_idx_names_with_a_dot(tmp_path: Path) -> None:
    write_idx(tmp_path, GREY, LABELS, mark=".")
    np.testing.assert_array_equal(all_pixels(open_images(tmp_path)), three(GREY))


def test_parts_are_not_mixed(tmp_path: Path) -> None:
    write_idx(tmp_path, GREY, LABELS)
    write_idx(tmp_path, GREY[:3], LABELS[:3], "train")
    with refused("one part", f"{tmp_path / 'train'} or {tmp_path / 'test'}", "train and test"):
        open_images(tmp_path)
    assert (len(open_images(tmp_path / "train")), len(open_images(tmp_path / "test"))) == (3, 7)
    assert len(open_images(f"mnist:{tmp_path}/train")) == 3
    with refused("the part train or test", "'val'"):
        open_images(tmp_path / "val")


def test_fashion_has_its_own_classes(tmp_path: Path) -> None:
    where = write_fashion(tmp_path, GREY, LABELS)
    assert open_images(where).classes[9] == "Ankle boot"
    assert open_images(f"mnist:{where}").classes[9] == "9"
    assert open_images(tmp_path.parent / tmp_path.name / "FashionMNIST" / "test").classes[9] == "Ankle boot"
    assert open_images(f"fashionmnist:{write_idx(tmp_path / 'x', GREY, LABELS)}").classes[0] == "T-shirt/top"


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("which", ["images-idx3", "labels-idx1"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: data[:3], lambda _: b"", lambda data: data[4:]]
)
def test_idx_that_is_damaged(gz: bool, which: str, damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    write_idx(tmp_path, GREY, LABELS)
    if gz:
        packed(tmp_path)
    path = next(tmp_path.glob(f"*{which}*"))
    path.write_bytes(damage(path.read_bytes()))
    with refused(path.name):
        open_images(tmp_path)


def test_damage_amid_a_packed_file_is_found_when_it_is_read(tmp_path: Path) -> None:
    packed(write_idx(tmp_path, GREY, LABELS))
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    data = bytearray(path.read_bytes())
    data[3000:3100] = bytes(100)
    path.write_bytes(data)
    images = open_images(tmp_path)
    with refused(path.name):
        images.pixels(0)


def test_as_many_labels_as_images(tmp_path: Path) -> None:
    write_idx(tmp_path, GREY, LABELS)
    head = bytes([0, 0, 8, 1]) + struct.pack(">I", 6)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(head + bytes(6))
    with refused("7 labels", "found 6"):
        open_images(tmp_path)


# CIFAR


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def write_python_cifar(root: Path, name: str, change: bool = False) -> dict[str, str]:
    """Torchvision's files of seven images, train and test; returns their MD5 sums."""
    hundred = name == "CIFAR100"
    folder = root / ("cifar-100-python" if hundred else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    rows = PIXELS.transpose(0, 3, 1, 2).reshape(7, 3072)
    key = "fine_labels" if hundred else "labels"
    batch = {"data": rows, key: LABELS.tolist()}
    training = ["train"] if hundred else [f"data_batch_{i}" for i in range(1, 6)]
    files: dict[str, Any] = dict.fromkeys(training, batch)
    files["test" if hundred else "test_batch"] = {"data": rows[::-1].copy(), key: LABELS[::-1].tolist()}
    files["meta" if hundred else "batches.meta"] = {"fine_label_names" if hundred else "label_names": list(NAMES)}
    for file, value in files.items():
        (folder / file).write_bytes(pickle.dumps(value, protocol=2))
    return {file: hashlib.md5((folder / file).read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_pythons_cifar_is_left_to_torchvision(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("torchvision.datasets", reason="torchvision is not installed")
    sums = write_python_cifar(tmp_path, name)
    with refused("MD5", "other files"):  # they are not the published ones
        open_images(tmp_path / "test")
    known = getattr(datasets, name)
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(known, attribute, [[file, sums[file]] for file, _ in getattr(known, attribute)])
    monkeypatch.setattr(known, "meta", known.meta | {"md5": sums[known.meta["filename"]]})
    with refused("one part", "train and test"):
        open_images(tmp_path)
    train, test = open_images(tmp_path / "train"), open_images(tmp_path / known.base_folder / "test")
    np.testing.assert_array_equal(all_pixels(test), PIXELS[::-1])
    np.testing.assert_array_equal(all_pixels(pickled(test)), PIXELS[::-1])
    np.testing.assert_array_equal(test.labels, LABELS[::-1])
    assert len(train) == (7 if name == "CIFAR100" else 35)
    assert test.classes == NAMES


def test_a_malicious_pickle_is_never_opened(tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    write_python_cifar(tmp_path, "CIFAR10")
    folder = tmp_path / "cifar-10-batches-py"
    for file in folder.iterdir():
        file.write_bytes(pickle.dumps(Evil(tmp_path / "was here")))
    for where in (tmp_path / "test", folder / "train"):
        with refused("MD5"):
            open_images(where)
    assert not (tmp_path / "was here").exists()
    with refused("folder called cifar-10-batches-py"):
        open_images(folder.rename(tmp_path / "mine") / "test")


def test_binary_cifar_before_pythons_and_its_parts(tmp_path: Path) -> None:
    (root := tmp_path / "cifar-10-batches-bin").mkdir()
    write_cifar10(root, PIXELS, LABELS)
    (root / "test_batch.bin").write_bytes(records(PIXELS[:2], LABELS[:2]))
    write_python_cifar(tmp_path, "CIFAR10")
    assert len(open_images(tmp_path / "test")) == 2
    np.testing.assert_array_equal(all_pixels(open_images(root / "train")), PIXELS)
    with refused("one part"):
        open_images(root)
    (root / "test_batch.bin").write_bytes(records(PIXELS[:2], LABELS[:2])[:-1])
    with refused("records of 3073 bytes", "test_batch.bin"):
        open_images(root / "test")


def test_cifar_without_names(tmp_path: Path) -> None:
    write_cifar100(tmp_path, PIXELS, LABELS)
    (tmp_path / "fine_label_names.txt").unlink()
    images = open_images(tmp_path)
    assert (images.named, images.classes) == (False, tuple("0123456789"))


# parquet

FILES = [encoded(image) for image in PIXELS]


def test_parquet_of_names_and_bare_bytes(tmp_path: Path) -> None:
    kinds = ["cat", "ant", "bee", "bee", "dog", "ant", "cat"]
    for labels in (kinds, pa.array(kinds).dictionary_encode()):
        path = write_table(tmp_path / "x.parquet", {"img": FILES, "label": labels, "other": LABELS})
        images = open_images(path)
        assert (images.classes, images.named) == (("ant", "bee", "cat", "dog"), True)
        assert images.labels.tolist() == [2, 0, 1, 1, 3, 0, 2]
        np.testing.assert_array_equal(all_pixels(images), PIXELS)


def test_hugging_faces_names_and_numbers(tmp_path: Path) -> None:
    path = write_table(tmp_path / "x.parquet", {"image": cells(FILES), "label": LABELS})
    assert open_images(path).named is False
    table = pa.table({"img": cells(FILES), "coarse_label": LABELS * 0, "fine_label": LABELS})
    table = table.replace_schema_metadata(hugging_face(NAMES, "fine_label"))
    parquet.write_table(table, path)
    assert open_images(path).classes == NAMES
    parquet.write_table(table.replace_schema_metadata({"huggingface": "{"}), path)
    assert open_images(path).named is False


def test_one_row_group_at_a_time(tmp_path: Path) -> None:
    path = write_table(tmp_path / "x.parquet", {"image": cells(FILES), "label": LABELS}, group=2)
    shards._row_group.cache_clear()
    images = open_images(path)
    assert shards._row_group.cache_info().misses == 0
    all_pixels(images)
    found = shards._row_group.cache_info()
    assert (found.misses, found.currsize) == (4, 2)


def test_the_row_of_a_broken_image_is_counted_in_its_file(tmp_path: Path) -> None:
    write_table(tmp_path / "a-0.parquet", {"image": cells(FILES[:5]), "label": LABELS[:5]})
    write_table(tmp_path / "a-1.parquet", {"image": cells([FILES[5], None]), "label": LABELS[5:]}, group=1)
    with refused("a-1.parquet, row 1 (from 0), id 6", "no bytes"):
        open_images(tmp_path).pixels(6)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image": FILES}, ["a column 'label'", "columns image"]),
        ({"label": LABELS}, ["a column 'image'", "columns label"]),
        ({"x": FILES, "y": FILES, "label": LABELS}, ["a column 'image'", "columns x, y, label"]),
        ({"image": FILES, "label": LABELS / 2}, ["integers or text as label", "double"]),
        ({"image": FILES, "label": LABELS - 1}, ["labels from 0", "-1 in row 1", "unlabelled"]),
        ({"image": FILES, "label": [*LABELS.tolist()[:6], None]}, ["a label in every row", "1 empty"]),
        ({"image": [str(i) for i in range(7)], "label": LABELS}, ["a column 'image'"]),
        ({"image": pa.array([], pa.binary()), "label": LABELS[:0]}, ["at least one image"]),
    ],
)
def test_parquet_that_cannot_be_used(columns: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    path = write_table(tmp_path / "x.parquet", columns)
    with refused("x.parquet", *words):
        open_images(path)


def test_parquet_that_is_damaged_or_unlike(tmp_path: Path) -> None:
    path = write_table(tmp_path / "x-1.parquet", {"image": cells(FILES), "label": LABELS})
    write_table(tmp_path / "x-2.parquet", {"img": FILES, "label": LABELS})
    with refused("columns image.bytes and label, as in the first file", "x-2.parquet"):
        open_images(tmp_path)
    whole = path.read_bytes()
    for data in (whole[:-50], b"", b"text", whole[:4] + bytes(200) + whole[-8:]):
        path.write_bytes(data)
        with refused("x-1.parquet"):
            open_images(path)
    path.write_bytes(whole[:4] + bytes(3000) + whole[3004:])  # the pages, not the footer
    images = open_images(path)
    with refused("x-1.parquet"):
        images.pixels(0)


@pytest.mark.parametrize("end", ["parquet", "tar"])
def test_a_folder_of_two_series_is_asked_about(end: str, tmp_path: Path) -> None:
    for name in ("train-00000-of-00001", "test-00000-of-00001"):
        if end == "tar":
            write_tar(tmp_path / f"{name}.tar", {"1.png": PNG, "1.cls": b"1"})
        else:
            write_table(tmp_path / f"{name}.parquet", {"image": FILES, "label": LABELS})
    with refused("one series of files", f"test-*-of-*.{end}, train-*-of-*.{end}"):
        open_images(tmp_path)
    one = len(open_images(tmp_path / f"test-*.{end}"))
    assert len(open_images(tmp_path / f"*.{end}")) == 2 * one


# tar


def samples(*names: str, label: bytes = b"3") -> dict[str, bytes]:
    return {f"{name}.{end}": data for name in names for end, data in (("jpg", PNG), ("cls", label))}


def test_files_by_folder_list_braces_and_marks(tmp_path: Path) -> None:
    for i in range(3):
        write_tar(tmp_path / f"s-{i:02d}.tar", samples(f"{i}a", f"{i}b"))
    expected = [f"s-0{i}.tar/{i}{letter}.jpg" for i in range(3) for letter in "ab"]
    for where in (".", "s-{00..02}.tar", "s-{00,01,02}.tar", "s-*.tar", f"s-00.tar,{tmp_path}/s-{{01..02}}.tar"):
        assert open_images(tmp_path / where).ids.tolist() == expected, where
    assert open_images(tmp_path / "s-01.tar").ids.tolist() == expected[2:4]
    assert open_images(tmp_path / "s-{02..01}.tar").ids.tolist() == expected[4:] + expected[2:4]
    with refused("no such file", "s-03.tar"):
        open_images(tmp_path / "s-{00..03}.tar")
    with refused("no such file", "t-*.tar"):
        open_images(tmp_path / "t-*.tar")
    with refused("ids that differ", "s-00.tar/0a.jpg twice"):
        open_images(tmp_path / f"s-00.tar,{tmp_path}/s-00.tar")


def test_a_tar_that_was_cut_off_is_told(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", samples(*"abcdef")).read_bytes()
    end = len(whole.rstrip(b"\0"))
    assert len(open_images(tmp_path / "whole.tar")) == 6
    for length in (512, 700, 1024, len(whole) // 3, len(whole) // 2, end - 600, end + 511 - (end + 511) % 512):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        with refused("cut.tar"):
            open_images(tmp_path / "cut.tar")


def test_every_cut_of_a_tar_is_called_one(tmp_path: Path) -> None:
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / "x.tar"
        with tarfile.open(path, "w", format=kind) as archive:
            for name, data in samples("a", "ü" * 100).items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        whole = path.read_bytes()
        end = len(whole.rstrip(b"\0"))
        end += -end % 512 + 1024
        for length in (*range(1, end, 100), *range(512, end, 512), end - 1):
            path.write_bytes(whole[:length])
            with refused("x.tar", "truncated"):
                open_images(path)
        path.write_bytes(whole[:end])  # padded no further than the format asks for
        assert len(open_images(path)) == 2


def test_a_tar_with_a_damaged_head_amid_it_is_told(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.cls": b"1", "a.png": PNG, "b.cls": b"1", "b.png": PNG})
    data = path.read_bytes()
    place = data.index(b"b.cls")
    path.write_bytes(data[:place] + b"?" + data[place + 1 :])
    with refused("x.tar", f"damaged file: no head of a file at byte {place}"):
        open_images(path)


def test_what_has_no_data_may_stand_at_the_end_of_a_tar(tmp_path: Path) -> None:
    for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
        path = write_tar(tmp_path / "x.tar", samples("a"))
        with tarfile.open(path, "a") as archive:
            member = tarfile.TarInfo("last")
            member.type, member.linkname, member.size = kind, "a.jpg", 2000
            archive.addfile(member)
        assert open_images(path).ids.tolist() == ["x.tar/a.jpg"]


def test_labels_as_names_and_in_json(tmp_path: Path) -> None:
    files = samples("a", label=b"dog\n") | samples("b", label=b" cat")
    files |= {"c.png": PNG, "c.json": b'{"width": 3, "label": "dog"}', "_info.json": b'{"n": 3}'}
    files |= samples("d", label=b"eel") | {"d.json": b'{"label": "not this"}'}
    images = open_images(write_tar(tmp_path / "x.tar", files))
    assert (images.classes, images.labels.tolist()) == (("cat", "dog", "eel"), [1, 0, 1, 2])
    (tmp_path / "classes.txt").write_text("eel\ndog\ncat\n")
    images = open_images(tmp_path / "x.tar")
    assert (images.classes, images.labels.tolist()) == (("eel", "dog", "cat"), [1, 2, 1, 0])
    (tmp_path / "classes.txt").write_text("eel\ncat\n")
    with refused("eel, cat", "'dog'", "x.tar"):
        open_images(tmp_path / "x.tar")
    numbered = write_tar(tmp_path / "y.tar", {"a.jpg": PNG, "a.json": b'{"cls": 1}'} | samples("b", label=b"0"))
    assert open_images(numbered).classes == ("eel", "cat")
    assert open_images(numbered).labels.tolist() == [1, 0]


def test_other_pictures_of_an_example_are_left_out(tmp_path: Path) -> None:
    files = {"d/a.seg.png": b"mask"} | samples("d/a", "d/1.5m") | {"d/.b.jpg": b"", "d/a.txt": b"words"}
    images = open_images(write_tar(tmp_path / "x.tar", files))
    assert images.ids.tolist() == ["x.tar/d/a.jpg", "x.tar/d/1.5m.jpg"]


def test_names_beyond_a_tar_heads_hundred_letters(tmp_path: Path) -> None:
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{kind}.tar"
        with tarfile.open(path, "w", format=kind) as archive:
            for name, data in samples("ü" * 200).items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        images = open_images(path)
        assert images.ids.tolist() == [f"{kind}.tar/{'ü' * 200}.jpg"]
        assert images.pixels(0).shape == (30, 60, 3)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, ["at least one image"]),
        ({"a.jpg": PNG}, ["a.cls or a.json", "neither"]),
        ({"a.jpg": PNG, "a.json": b'{"x": 1}'}, ["a.cls or a.json"]),
        ({"a.jpg": PNG, "a.json": b'{"label": true}'}, ["a.cls or a.json"]),
        ({"a.jpg": PNG, "a.json": b"{"}, ["truncated or other file"]),
        ({"a.jpg": PNG, "a.cls": b" "}, ["a number or a name", "a.cls"]),
        ({"a.jpg": PNG, "a.cls": b"\xff"}, ["x.tar"]),
        ({"a.jpg": PNG, "a.cls": b"-1"}, ["labels from 0", "-1 in row 0"]),
        ({"a.jpg": PNG, "a.json": b'{"label": 99999999999999999999}'}, ["x.tar"]),
        (samples("a") | {"a.png": PNG}, ["one image 'a'", "a.jpg and a.png"]),
        (samples("a") | {"b.cls": b"1", "b.heic": b"x"}, ["an image beside every label", "b.cls alone"]),
    ],
)
def test_tar_that_cannot_be_used(files: dict[str, bytes], words: list[str], tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", files)
    with refused("x.tar", *words):
        open_images(path)


@pytest.mark.parametrize(
    "pack", [gzip.compress, bz2.compress, lambda data: data[:700], lambda _: b"", lambda _: b"text"]
)
def test_tar_that_is_packed_or_damaged(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", samples("a", "b"))
    path.write_bytes(pack(path.read_bytes()))
    with refused("x.tar"):
        open_images(path)


def test_packed_tar_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(write_tar(tmp_path / "x.tar", samples("a")).read_bytes()))
    with refused("not compressed"):
        open_images(tmp_path / "x.tar.gz")


def test_a_tar_left_beside_what_was_unpacked_is_not_taken(tmp_path: Path) -> None:
    write_tar(tree(tmp_path / "r", "a/1.jpg") / "all.tar", samples("a"))
    assert open_images(tmp_path / "r").ids.tolist() == ["a/1.jpg"]


def test_many_shards_keep_few_files_open(tmp_path: Path) -> None:
    for i in range(files.OPEN_FILES + 20):
        write_tar(tmp_path / f"{i:03d}.tar", samples("a"))
    images = open_images(tmp_path)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0  # noqa: PTH208
    assert all(images.pixels(i).shape == (30, 60, 3) for i in range(len(images)))
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0  # noqa: PTH208
    assert after - before <= files.OPEN_FILES


# Rows.


@pytest.mark.parametrize(
    ("text", "expected"), [(":", (0, 9)), (":4", (0, 4)), ("4:", (4, 9)), ("4:5", (4, 5)), (" 0:9 ", (0, 9))]
)
def test_rows(text: str, expected: tuple[int, int]) -> None:
    assert rows_of(text, 9) == slice(*expected)


@pytest.mark.parametrize("text", ["", "4", "a:b", "-1:", ":-1", "4:4", "5:4", "9:", ":10", "1:2:3", "1.0:", "²:"])
def test_rows_that_are_not_there(text: str) -> None:
    with refused("rows", "of 9", repr(text)):
        rows_of(text, 9)


# Real files.


def test_cifar10_as_jpeg_files() -> None:
    images = open_images(dataset(DATA / "cifar10-jpeg" / "test.npz"))
    assert (len(images), images.classes, images.named) == (10_000, NAMES, True)
    assert np.bincount(images.labels).tolist() == [1000] * 10
    with np.load(DATA / "cifar10-jpeg" / "test.npz") as arrays:
        jpeg, offsets = arrays["jpeg"], arrays["offsets"]
    for i in (0, 1, 4321, 9999):
        file = io.BytesIO(jpeg[offsets[i] : offsets[i + 1]].tobytes())
        np.testing.assert_array_equal(images.pixels(i), np.asarray(Image.open(file).convert("RGB")))
    assert len(pickle.dumps(images)) < 500_000  # of 9.3 MB


def test_mnists_test_part() -> None:
    images = open_images(dataset(DATA / "mnist-t10k"))
    assert (len(images), images.classes) == (10_000, tuple("0123456789"))
    assert images.labels[:5].tolist() == [7, 2, 1, 0, 4]
    with gzip.open(DATA / "mnist-t10k" / "t10k-images-idx3-ubyte.gz") as file:
        raw = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    np.testing.assert_array_equal(images.pixels(9999), three(raw[9999:])[0])
    with refused("the part test"):
        open_images(DATA / "mnist-t10k" / "train")
