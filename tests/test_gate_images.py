"""Images and weights from strangers: never a traceback, never for ever, never gigabytes, never the network."""

from __future__ import annotations

import io
import os
import pickle
import random
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from offramp.cascades.images.files import BrokenImage
from offramp.cascades.images.sources import open_images
from offramp.features.errors import InputError

torch = pytest.importorskip("torch")

from safetensors.torch import save  # noqa: E402

from offramp.cascades.measuring.extraction import json_text  # noqa: E402
from offramp.cascades.models.pickles import refuse_bombs  # noqa: E402
from offramp.cascades.models.weights import read_weights  # noqa: E402
from offramp.cascades.models.zoo import load_stage  # noqa: E402

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""

TENSORS = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.ones(3), "n": torch.tensor(3)}
SECONDS = 10.0
LONG = int(os.environ.get("OFFRAMP_LONG", "0")) > 0
TRIES = settings(
    max_examples=1000 if LONG else 25,
    deadline=None,
    derandomize=not LONG,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    begin = time.monotonic()
    yield
    if not LONG:
        assert time.monotonic() - begin < 6 * SECONDS


def png(width: int = 4, height: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


# --- weights


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"state_dict": t, "epoch": 3}], ids=["bare", "nested"])
def test_good_torch_files_load_as_ever(tmp_path: Path, legacy: bool, wrap: Callable[[Any], Any]) -> None:
    torch.save(wrap(TENSORS), tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    found = read_weights(tmp_path / "w.pt").tensors
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_optimizer_states_beside_the_weights_do_no_harm(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(8, 4)).sum().backward()
    optimizer.step()
    held = {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "betas": (0.9, 0.999),
        "many": list(range(1000)),
    }
    torch.save(held, tmp_path / "w.pt")
    assert read_weights(tmp_path / "w.pt").tensors.keys() == net.state_dict().keys()


def laughs(levels: int, wide: int = 2) -> bytes:
    """A dict whose key is tuples of tuples of tuples: a hundred bytes that take 2 ** levels steps to hash."""
    content = [b"\x80\x02}(", b"K\x01"]
    for level in range(levels):
        put, get = b"q" + bytes([level]), b"h" + bytes([level])
        content += [put, *([get] * (wide - 1)), {2: b"\x86", 3: b"\x87"}[wide]]
    return b"".join([*content, b"K\x01u."])


def zipped(content: bytes, how: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        archive.writestr("w/data.pkl", content)
        archive.writestr("w/version", b"3\n")
    return buffer.getvalue()


@pytest.mark.parametrize("wide", [2, 3])
@pytest.mark.parametrize("shape", [lambda content: content, zipped], ids=["legacy", "zip"])
def test_tuples_that_double_are_refused(tmp_path: Path, wide: int, shape: Callable[[bytes], bytes]) -> None:
    (tmp_path / "w.pt").write_bytes(shape(laughs(60, wide)))
    with pytest.raises(InputError, match="tuples within tuples"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x20\x85R.", "a call of bytearray"),
        (
            b"\x80\x04\x8c\x08builtins\x94\x8c\x09bytearray\x94\x93\x8a\x05\x00\x00\x00\x00\x20\x85R.",
            "a call of bytearray",
        ),
        (b"\x80\x05\x96\xff\xff\xff\xff\x00\x00\x00\x00abc.", "broken"),
        (b"\x80\x05\x96\x03\x00\x00\x00\x00\x00\x00\x00abc.", "BYTEARRAY8"),
        (b"\x80\x02K", "broken"),
        (b"\x80\x02t.", "broken"),
    ],
)
@pytest.mark.parametrize("shape", [lambda content: content, zipped], ids=["legacy", "zip"])
def test_what_no_tensor_needs_is_refused(
    tmp_path: Path, content: bytes, said: str, shape: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "w.pt").write_bytes(shape(content))
    with pytest.raises(InputError, match=said):
        refuse_bombs(tmp_path / "w.pt")
    with pytest.raises(InputError):
        read_weights(tmp_path / "w.pt")


def test_a_record_that_is_packed_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(zipped(b"\x80\x02" + b"N0" * 20_000_000 + b"N.", zipfile.ZIP_DEFLATED))
    with pytest.raises(InputError, match="compressed record"):
        read_weights(tmp_path / "w.pt")


def test_a_million_tensors_are_refused(tmp_path: Path) -> None:
    entry = ",".join(f'"{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(150_000))
    header = ("{" + entry + "}").encode()
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match="at most 100,000 tensors"):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "name", ["w.pt", "w.safetensors", "x.tar", "x.npz", "x.parquet", "x", "train-images-idx3-ubyte"]
)
def test_nobody_waits_for_a_pipe(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="a pipe"):
        read_weights(tmp_path / name) if name.startswith("w.") else open_images(tmp_path / name)
    with pytest.raises(InputError, match="a device"):
        read_weights(Path("/dev/zero"))
    with pytest.raises(InputError, match="a device"):
        open_images("/dev/zero")


def test_pipes_in_a_folder_of_images_are_told(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(png())
    os.mkfifo(tmp_path / "cat" / "b.png")
    images = open_images(tmp_path)
    for row, name in enumerate(images.names.tolist()):
        if name.endswith("b.png"):
            with pytest.raises(BrokenImage, match="no file"):
                images.image(row)
        else:
            images.image(row)


@pytest.mark.parametrize("architecture", ["timm:hf-hub:x/y", "timm:hf_hub:x/y", "timm:x/y", "hf-hub:x/y"])
def test_a_file_never_sends_the_program_to_the_network(
    tmp_path: Path, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", never)
    monkeypatch.setattr(socket.socket, "connect", never)
    (tmp_path / "w.safetensors").write_bytes(save(TENSORS, {"architecture": architecture, "classes": "a\nb\nc"}))
    with pytest.raises(InputError, match="by your own word"):
        load_stage(f"file:{tmp_path / 'w.safetensors'}")


# --- images


def test_a_strip_of_millions_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    side = 40_000_000
    head = side.to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    data = zlib.compress(bytes(1 + side // 8))
    strip = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    (tmp_path / "a" / "strip.png").write_bytes(strip)
    begin = time.monotonic()
    with pytest.raises(BrokenImage, match="a side"):
        open_images(tmp_path).image(0)
    assert time.monotonic() - begin < SECONDS


def test_a_header_of_gigabytes_in_a_tar_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 6 << 30
    with (tmp_path / "x.tar").open("wb") as file:
        file.write(info.tobuf(tarfile.USTAR_FORMAT) if info.size < 8 << 30 else b"")
        file.truncate(7 << 30)
    with pytest.raises(InputError, match="a header or a label"):
        open_images(tmp_path / "x.tar")


def test_names_that_are_no_text_are_written_and_read_back() -> None:
    import json

    assert json.loads(json_text({"id": "a\udcff.png"})) == {"id": "a\udcff.png"}


# --- what a second tester found


def test_a_pickle_in_capitals_is_looked_through_too(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(zipped(laughs(60)).replace(b"data.pkl", b"DATA.PKL"))
    with pytest.raises(InputError, match="tuples within tuples"):
        read_weights(tmp_path / "w.pt")


def npz(path: Path, how: int = zipfile.ZIP_STORED, **arrays: Any) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, value in arrays.items():
            buffer = io.BytesIO()
            if isinstance(value, bytes):
                buffer.write(value)
            else:
                np.save(buffer, value)
            archive.writestr(f"{name}.npy", buffer.getvalue())
    return path


def test_heads_and_compressions_that_do_not_parse_are_told(tmp_path: Path) -> None:
    head = b"\x93NUMPY\x01\x00\x10\x00{'descr': '<u1', "
    with pytest.raises(InputError):
        open_images(npz(tmp_path / "a.npz", images=head, labels=np.zeros(1, np.int64)))
    path = npz(tmp_path / "b.npz", zipfile.ZIP_LZMA, images=np.zeros((3, 4, 4), np.uint8), labels=np.zeros(3, np.int64))
    data = bytearray(path.read_bytes())
    data[40:60] = bytes(20)
    path.write_bytes(data)
    with pytest.raises(InputError):
        open_images(path)


def test_labels_are_compared_before_they_are_unpacked(tmp_path: Path) -> None:
    path = npz(
        tmp_path / "a.npz",
        zipfile.ZIP_DEFLATED,
        images=np.zeros((4, 2, 2), np.uint8),
        labels=np.zeros(3_000_000, np.int8),
    )
    with pytest.raises(InputError, match="one an image"):
        open_images(path)


def test_an_idx_file_that_is_longer_than_it_says_is_not_unpacked(tmp_path: Path) -> None:
    import gzip

    pixels = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 4]) + bytes(32)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(pixels)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 1, 0]))
    assert len(open_images(tmp_path)) == 2
    with gzip.open(tmp_path / "train-labels-idx1-ubyte.gz", "wb", 1) as file:
        file.write(bytes([0, 0, 8, 1, 0, 0, 0, 2, 1, 0, 5]))
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError):
        open_images(tmp_path)


def test_rows_that_are_nothing_but_labels_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    n = 2_000_000
    table = pa.table({"image": pa.array([b""] * n), "label": pa.array(np.zeros(n, np.int64))})
    parquet.write_table(table, tmp_path / "x.parquet", compression="zstd")
    with pytest.raises(InputError, match="no more than its bytes"):
        open_images(tmp_path / "x.parquet")


@pytest.mark.parametrize("name", ["x{0..999999999}.tar", "x{0..9999}{0..9999}.tar", "{a,b}{0..99999}{0..9}.tar"])
def test_braces_that_stand_for_millions_are_refused(name: str) -> None:
    begin = time.monotonic()
    with pytest.raises(InputError):
        open_images(name)
    assert time.monotonic() - begin < SECONDS


def test_notes_that_nest_or_have_millions_of_lines_are_told(tmp_path: Path) -> None:
    for notes in ({"exits": "[" * 50_000}, {"classes": "\n".join(map(str, range(1_500_000)))}):
        about = {"architecture": "cifar_alexnet"} | notes
        (tmp_path / "w.safetensors").write_bytes(save(TENSORS, about))
        with pytest.raises(InputError):
            load_stage(f"file:{tmp_path / 'w.safetensors'}")


def test_a_sparse_image_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with (tmp_path / "a" / "a.png").open("wb") as file:
        file.truncate(30 << 30)
    with pytest.raises(BrokenImage, match="bytes"):
        open_images(tmp_path).image(0)


# --- damage


def damaged(content: bytes, seed: int) -> bytes:
    rng = random.Random(seed)
    data = bytearray(content)
    kind = rng.randrange(3)
    if kind == 0:
        return bytes(data[: rng.randrange(len(data))])
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data) if kind == 1 else bytes(data) + rng.randbytes(rng.randrange(50))


@contextmanager
def in_a_line() -> Iterator[None]:
    """What is refused is refused in one line; anything else that is raised fails the test."""
    said = ""
    try:
        yield
    except InputError as error:
        said = str(error)
    assert "\n" not in said


def torch_file(legacy: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(TENSORS, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def npz_file() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=np.zeros((4, 5, 5, 3), np.uint8), labels=np.arange(4) % 2)
    return buffer.getvalue()


def tar_file() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for i in range(3):
            for name, data in ((f"{i}.png", png()), (f"{i}.cls", str(i % 2).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def parquet_file() -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(pa.table({"image": [png()] * 4, "label": [0, 1, 0, 1]}), buffer)
    return buffer.getvalue()


WEIGHTS = {"w.safetensors": save(TENSORS), "w.pt": torch_file(False), "w.th": torch_file(True)}


@pytest.mark.parametrize("name", WEIGHTS)
@TRIES
@given(seed=st.integers(0, 2**32))
def test_damaged_weights_are_told_in_a_line(tmp_path: Path, name: str, seed: int) -> None:
    (tmp_path / name).write_bytes(damaged(WEIGHTS[name], seed))
    with in_a_line():
        read_weights(tmp_path / name)


@pytest.mark.parametrize(("name", "make"), [("x.npz", npz_file), ("x.tar", tar_file), ("x.parquet", parquet_file)])
@TRIES
@given(seed=st.integers(0, 2**32))
def test_damaged_images_are_told_in_a_line(tmp_path: Path, name: str, make: Callable[[], bytes], seed: int) -> None:
    path = tmp_path / f"{seed}{name}"
    path.write_bytes(damaged(make(), seed))
    with in_a_line():
        images = open_images(path)
        for row in range(min(len(images), 4)):
            with in_a_line():
                images.image(row)
    path.unlink()


@TRIES
@given(content=st.binary(max_size=400))
def test_random_bytes_are_no_weights(tmp_path: Path, content: bytes) -> None:
    for head in (b"", b"PK\x03\x04", b"\x80\x02"):
        (tmp_path / "w.pt").write_bytes(head + content)
        with pytest.raises(InputError):
            read_weights(tmp_path / "w.pt")


def test_a_pickle_of_code_is_named_and_not_run(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "made"),)

    (tmp_path / "w.pt").write_bytes(pickle.dumps({"a": Bad()}, 2))
    with pytest.raises(InputError):
        read_weights(tmp_path / "w.pt")
    assert not (tmp_path / "made").exists()
