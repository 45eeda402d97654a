"""Tables, JSON, logs and studies of a user that are damaged, hostile or no files: one line, soon, in little memory."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.cascades.files.datafolder import read_folder
from offramp.cascades.files.embedded import EMBEDDED
from offramp.cascades.files.policies import read_policies
from offramp.cascades.files.policy import Reference, read_deployment
from offramp.cascades.files.provenance import noted, reports
from offramp.cascades.graph.costs import read_costs
from offramp.eval.frontier import main as frontier
from offramp.eval.guarantees.reference import EDGES, Subject
from offramp.eval.measured.picking import picked_on
from offramp.eval.monitoring.routinglog import Log, read_log, write_log
from offramp.eval.profile import read_profile
from offramp.features.errors import InputError
from offramp.features.outputs import Outputs
from offramp.features.store import limits
from offramp.features.store.opening import opened, read_bytes, read_text
from offramp.features.store.reading import read_parts
from offramp.features.store.strictjson import parse_json, read_json

pa = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
EXAMPLES = 20
MOST_SECONDS, MOST_MEMORY = 20, 2**30


@contextmanager
def bounded(seconds: int = MOST_SECONDS) -> Iterator[None]:
    """What is in the block ends in time, or the test fails; and takes no more than a GB."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before, old = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_MEMORY


def refused(work: Callable[[], Any]) -> str:
    """The one line with which ``work`` refuses its input."""
    with bounded(), pytest.raises(InputError) as caught:
        work()
    said = str(caught.value)
    assert said.isprintable()
    said.encode()
    return said


def answered(work: Callable[[], Any]) -> None:
    """It works, or refuses its input in one line."""
    with bounded():
        try:
            work()
        except InputError as error:
            said = str(error)
        else:
            said = ""
    assert said.isprintable()


# --- what good files are


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    logits = {name: rng.normal(size=(EXAMPLES, 3)).astype(np.float32) for name in "ab"}
    return {"labels": rng.integers(0, 3, EXAMPLES), "ids": np.arange(EXAMPLES), **logits, "a.size": rng.random(20)}


def npz(content: dict[str, Any] | None = None) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **(arrays() if content is None else content))
    return file.getvalue()


def columns() -> dict[str, Any]:
    rng = np.random.default_rng(4)
    answers = {f"{name}.answer": rng.integers(0, 3, EXAMPLES).tolist() for name in "ab"}
    label = rng.integers(0, 3, EXAMPLES).tolist()
    return {"label": label, "id": [f"x{i}" for i in range(EXAMPLES)], **answers, "a.confidence": [0.5] * EXAMPLES}


def pq(content: Any = None, **more: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns() if content is None else content), file, **more)
    return file.getvalue()


def text_table() -> bytes:
    held = columns()
    rows = [",".join(held), *(",".join(map(str, row)) for row in zip(*held.values(), strict=True))]
    return "\n".join(rows).encode() + b"\n"


COSTS = b'{"unit": "ms", "batch": 8, "stages": {"a": 1.0, "b": {"network": "b", "trunk": 2, "head": 1}}}'
NOTE = b'{"networks": {"a": "zoo:a"}, "called": ["cat", "dog"], "manifest": {"rows": ":"}}'


def read_one(path: Path) -> Outputs:
    return read_parts({"fit": path}, ("a", "b"))["fit"]


def log_of(path: Path) -> list[Any]:
    counts = {name: (0,) * 10 + (n,) + (0,) * (len(EDGES) - 10) for name, n in (("a", 60), ("a>b", 40))}
    usual = Reference(100, {"a": 60, "b": 0, "a>b": 40}, EDGES, counts, (30, 30, 40), 20)
    runs = np.array([[True, False], [False, True], [True, True]])
    subject = Subject(("a", "b", "a>b"), ("a", "b"), np.array([1.0, 10.0, 11.0]), runs, "ms", 3, usual)
    return list(read_log(path, Log(subject, "log")))


def log(suffix: str, folder: Path) -> bytes:
    path = folder / f"written{suffix}"
    sure, rows = np.full(EXAMPLES, 0.5), np.arange(EXAMPLES) % 3
    write_log(path, ["a", "a>b"] * 10, sure, rows, rows, [f"i{i}" for i in range(EXAMPLES)], rows)
    return path.read_bytes()


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which eval.frontier wrote, and a policies.json is."""
    out = tmp_path_factory.mktemp("gate") / "out"
    flags = ["--topology", "a_g", "--policies", "threshold", "--points", "4"]
    assert frontier([*flags, "--data", "cifar10", "--out", str(out)]) == 0
    return out


READERS: dict[str, tuple[str, Callable[[Path], bytes], Callable[[Path], Any]]] = {
    "npz": ("o.npz", lambda _: npz(), read_one),
    "parquet": ("o.parquet", lambda _: pq(), read_one),
    "csv": ("o.csv", lambda _: text_table(), read_one),
    "costs": ("costs.json", lambda _: COSTS, read_costs),
    "note": ("fit.extracted.json", lambda _: NOTE, lambda path: list(reports(path.parent))),
    "log.csv": ("log.csv", lambda folder: log(".csv", folder), log_of),
    "log.jsonl": ("log.jsonl", lambda folder: log(".jsonl", folder), log_of),
    "log.parquet": ("log.parquet", lambda folder: log(".parquet", folder), log_of),
    "profile": ("p.csv", lambda _: b"stage,what,batch,ms_median,ms_low,ms_high\na,model,1,2,1,3\n", read_profile),
}
"""Per kind of file its name, what is in a good one, and what reads it."""
each_reader = pytest.mark.parametrize("kind", READERS)


def damage(data: st.DataObject, good: bytes) -> bytes:
    """Other bytes, a part of the good ones, or these with some flipped."""
    how = data.draw(st.sampled_from(["bytes", "cut", "flip", "insert"]))
    if how == "bytes":
        return data.draw(st.binary(max_size=400))
    at = data.draw(st.integers(0, len(good) - 1))
    if how == "cut":
        return good[:at]
    if how == "insert":
        return good[:at] + data.draw(st.binary(min_size=1, max_size=20)) + good[at:]
    bad = bytearray(good)
    for place in data.draw(st.lists(st.integers(0, len(good) - 1), min_size=1, max_size=4)):
        bad[place] ^= 1 << data.draw(st.integers(0, 7))
    return bytes(bad)


@each_reader
@given(data=st.data())
def test_damaged_files_are_told_in_a_line(kind: str, data: st.DataObject, tmp_path: Path) -> None:
    name, good, read = READERS[kind]
    path = tmp_path / name
    path.write_bytes(damage(data, good(tmp_path)))
    answered(lambda: read(path))


@given(data=st.data())
def test_a_damaged_policies_file_is_told_in_a_line(data: st.DataObject, fitted: Path, tmp_path: Path) -> None:
    path = tmp_path / "policies.json"
    path.write_bytes(damage(data, (fitted / "policies.json").read_bytes()))
    answered(lambda: read_policies(path))
    answered(lambda: read_deployment(path))


@given(data=st.data())
def test_a_damaged_frontier_is_told_in_a_line(data: st.DataObject, fitted: Path, tmp_path: Path) -> None:
    path = tmp_path / "frontier.csv"
    path.write_bytes(damage(data, (fitted / "frontier.csv").read_bytes()))
    answered(lambda: picked_on(path, 1, "googlenet"))


@each_reader
def test_good_files_are_read(kind: str, tmp_path: Path) -> None:
    name, good, read = READERS[kind]
    (tmp_path / name).write_bytes(good(tmp_path))
    assert read(tmp_path / name) is not None


@pipes
@each_reader
def test_nobody_waits_for_a_pipe(kind: str, tmp_path: Path) -> None:
    name, _, read = READERS[kind]
    os.mkfifo(tmp_path / name)
    assert "a pipe, not a file" in refused(lambda: read(tmp_path / name))


@each_reader
def test_folders_and_devices_are_no_files(kind: str, tmp_path: Path) -> None:
    name, _, read = READERS[kind]
    (tmp_path / name).mkdir()
    assert "a folder" in refused(lambda: read(tmp_path / name))
    (tmp_path / name).rmdir()
    (tmp_path / name).symlink_to("/dev/zero")
    assert "a device" in refused(lambda: read(tmp_path / name))


# --- the opener


def test_the_opener_takes_files_within_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_bytes(b"\xef\xbb\xbfabc")
    assert read_bytes(path, "a text", 6) == b"\xef\xbb\xbfabc"
    assert read_text(path, "a text", 6) == "abc"
    assert "a text of at most 5 bytes, found 6" in refused(lambda: read_bytes(path, "a text", 5))
    assert "No such file" in refused(lambda: read_bytes(tmp_path / "none", "a text", 5))
    assert "a name that no file can have" in refused(lambda: read_bytes("a\0b", "a text", 5))
    path.write_bytes(b"ab\xff")
    assert "byte 0xff at 2" in refused(lambda: read_text(path, "a text", 5))
    with pytest.raises(InputError, match="broken off"), opened(path, "a text"):
        raise OSError("broken off")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no files without a size here")
def test_files_that_say_no_size_are_bounded_too() -> None:
    assert "of at most 100 bytes, found more" in refused(lambda: read_bytes("/proc/self/maps", "a text", 100))


@pipes
def test_a_pipe_is_a_stream(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["sh", "-c", 'printf abc > "$0"', tmp_path / "pipe"]) as writer, bounded():
        with opened(tmp_path / "pipe", "a stream", stream=True) as file:
            assert file.read() == b"abc"
        assert writer.wait() == 0


def test_names_in_any_bytes_are_told_in_a_line(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b[31m.npz"))
    assert "\\udcff\\x1b[31m.npz" in refused(lambda: read_one(odd))
    odd.write_bytes(npz())
    assert len(read_one(odd)) == EXAMPLES
    for suffix, content in (("parquet", pq()), ("csv", text_table())):
        other = odd.with_suffix(f".{suffix}")
        other.write_bytes(content)
        assert len(read_one(other)) == EXAMPLES


# --- JSON


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deep_json(opening: bytes) -> None:
    for depth in (limits.JSON_DEPTH + 1, 900, 100_000):
        whole = opening * depth + b"1" + (b"]" if opening == b"[" else b"}") * depth
        assert "nested too deeply" in refused(lambda whole=whole: parse_json(whole, "it", "f"))
    fine = opening * 90 + b"1" + (b"]" if opening == b"[" else b"}") * 90
    assert parse_json(fine, "it", "f")


def test_json_by_hand_may_begin_with_a_mark_and_hold_large_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf[100000000000000000000000]")
    assert read_json(path, "it", by_hand=True) == [1e23]
    assert "no JSON" in refused(lambda: read_json(path, "it"))
    assert "NaN, which is no number" in refused(lambda: parse_json(b"[NaN]", "it", "f", by_hand=True))
    assert "the key 'a' twice" in refused(lambda: parse_json(b'{"a": 1, "a": 2}', "it", "f"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"called": 3}', "'called' a list, found int"),
        (b'{"called": [3]}', "texts in 'called', found int"),
        (b'{"networks": []}', "'networks' a dict, found list"),
        (b'{"networks": {"a": 1}}', "texts in 'networks', found int"),
        (b'{"manifest": 1}', "'manifest' a dict, found int"),
        (b"[" * 5000, "nested too deeply"),
        (b"3", "found int"),
        (b"\xff", "no text in UTF-8"),
    ],
)
def test_an_extracted_json_with_other_fields(text: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "fit.extracted.json").write_bytes(text)
    assert said in refused(lambda: noted(str(tmp_path), "called", ()))


@pytest.mark.parametrize("cost", ["cheap", "inf", "nan", "1+2j", "True"])
def test_a_frontier_with_texts_for_numbers(cost: str, fitted: Path, tmp_path: Path) -> None:
    lines = (fitted / "frontier.csv").read_text().splitlines()
    place = lines[0].split(",").index("cost")
    rows = [line.split(",") for line in lines]
    for row in rows[1:]:
        row[place] = cost if row[0] == "policy" or "policy" in row else row[place]
    (tmp_path / "frontier.csv").write_text("\n".join(",".join(row) for row in rows) + "\n")
    if cost != "True":
        assert "frontier.csv" in refused(lambda: picked_on(tmp_path / "frontier.csv", 1, "googlenet"))
    assert np.isfinite(picked_on(fitted / "frontier.csv", 1, "googlenet")[0]).all()


# --- npz


def member(header: str, content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + content


def with_member(path: Path, name: str, content: bytes, how: int = zipfile.ZIP_DEFLATED) -> Path:
    """A good npz in which one array is other bytes."""
    held = zipfile.ZipFile(io.BytesIO(npz()))
    with zipfile.ZipFile(path, "w", how) as archive:
        for info in held.infolist():
            if info.filename != f"{name}.npy":
                archive.writestr(info.filename, held.read(info))
        archive.writestr(f"{name}.npy", content)
    return path


FORM = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}"


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'shape': (",
        "(" * 300,
        "{'descr': '<f4'",
        "{'descr': 'no type', 'fortran_order': False, 'shape': (20, 3)}",
        "{'descr': [('a', '<f4', -1)], 'fortran_order': False, 'shape': (20, 3)}",
        "\x00",
        "'''",
        "1 if True else",
        FORM % "(True, 3)",
        FORM % "(20, True)",
        FORM % "(-20, -3)",
        FORM % "(0, 1180591620717411303424)",
        FORM % "(1180591620717411303424,)",
        FORM % "(20, 9223372036854775807)",
        FORM % "(20, 3.0)",
        FORM % "(" + "1, " * 100 + ")",
        FORM % ("(" + "1, " * 100 + ")"),
    ],
    ids=range(17),
)
@pytest.mark.parametrize("name", ["labels", "ids", "a", "a.size"])
def test_headers_of_arrays_that_are_none(header: str, name: str, tmp_path: Path) -> None:
    path = with_member(tmp_path / "o.npz", name, member(header, bytes(240)))
    assert "o.npz" in refused(lambda: read_one(path))


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_compression_of_every_kind(how: int, tmp_path: Path) -> None:
    path = with_member(
        tmp_path / "o.npz", "a", member(FORM % "(20, 3)", np.linspace(-3, 3, 60, dtype="<f4").tobytes()), how
    )
    assert len(read_one(path)) == EXAMPLES
    good = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        begin = archive.getinfo("a.npy").header_offset + 30 + len("a.npy")
    for place in range(begin, begin + 60, 4):
        path.write_bytes(good[:place] + bytes(4 * [0xA5]) + good[place + 4 :])
        answered(lambda: read_one(path))


@pytest.mark.parametrize("method", [93, 99, 12345])
def test_compression_that_python_does_not_know(method: int, tmp_path: Path) -> None:
    """93 is zstd, 99 an encrypted member."""
    path = tmp_path / "o.npz"
    old = struct.pack("<H", zipfile.ZIP_DEFLATED)
    content = bytearray(npz())
    for mark, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        for found in re.finditer(re.escape(mark), bytes(content)):
            if content[found.start() + at : found.start() + at + 2] == old:
                content[found.start() + at : found.start() + at + 2] = struct.pack("<H", method)
    path.write_bytes(content)
    assert "a whole npz file" in refused(lambda: read_one(path))


@pytest.mark.parametrize("shape", ["(400000000,)", "(400000000, 20)", "(21, 300000000)"])
def test_an_array_of_another_length_is_never_unpacked(shape: str, tmp_path: Path) -> None:
    size = int(np.prod([int(side) for side in re.findall(r"\d+", shape)])) * 4
    path = tmp_path / "o.npz"
    with_member(path, "a.junk", member(FORM % shape))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        info = next(one for one in archive.infolist() if one.filename == "a.junk.npy")
        length = info.file_size
    content = bytearray(path.read_bytes())
    for found in re.finditer(struct.pack("<I", length), bytes(content)):
        content[found.start() : found.start() + 4] = struct.pack("<I", min(size + length, 2**32 - 2))
    path.write_bytes(content)
    refused(lambda: read_one(path))


def test_an_array_larger_than_memory_is_refused_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "o.npz"
    path.write_bytes(npz())
    monkeypatch.setattr(limits, "memory", lambda: 1000)
    assert "half of the memory" in refused(lambda: read_one(path))


# --- parquet and csv


def written(folder: Path, content: dict[str, Any], **more: Any) -> Path:
    path = folder / "o.parquet"
    path.write_bytes(pq(content, **more))
    return path


def test_one_class_number_that_is_huge(tmp_path: Path) -> None:
    many = columns()
    many["a.answer"][3] = 9_999_999
    said = refused(lambda: read_one(written(tmp_path, many)))
    assert "row 3" in said
    assert "9999999" in said
    many["a.answer"][3] = limits.CLASSES - 1
    assert read_one(written(tmp_path, many)).classes == limits.CLASSES


@pytest.mark.parametrize("name", ["label", "a.answer", "id", "a.confidence"])
@pytest.mark.parametrize("coded", [False, True])
def test_texts_that_are_not_utf8(name: str, coded: bool, tmp_path: Path) -> None:
    texts = pa.array([b"\xff\xfe"] * EXAMPLES, pa.binary())
    broken = pa.Array.from_buffers(pa.string(), len(texts), texts.buffers())
    held = {**columns(), name: broken.dictionary_encode() if coded else broken}
    held["label"] = held["label"] if name == "label" else [f"c{i}" for i in held["label"]]
    assert "o.parquet" in refused(lambda: read_one(written(tmp_path, held)))


def test_run_lengths_that_claim_any_number_of_rows(tmp_path: Path) -> None:
    rows = limits.ROWS + 5_000_000
    one_page = {"data_page_size": 2**30, "max_rows_per_page": 2**30, "row_group_size": 2**30}
    zeros = dict.fromkeys(("label", "a.answer", "b.answer"), np.zeros(rows, np.int8))
    path = written(tmp_path, zeros, compression="zstd", write_statistics=False, **one_page)
    assert path.stat().st_size < 2000
    assert f"found {rows:,}" in refused(lambda: read_one(path))
    (tmp_path / "log.parquet").write_bytes(pq({"path": zeros["label"], "confidence": zeros["label"]}, **one_page))
    assert f"found {rows:,}" in refused(lambda: log_of(tmp_path / "log.parquet"))


def test_a_long_text_in_many_rows_is_refused_before_it_is_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {**columns(), "a.note": pa.array(["1" * 2_000_000] * EXAMPLES)}
    path = written(tmp_path, held)
    assert path.stat().st_size < 200_000
    monkeypatch.setattr(limits, "memory", lambda: 100_000_000)
    assert "half of the memory" in refused(lambda: read_one(path))


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int64()), pa.struct([("x", pa.int64())]), pa.timestamp("ns"), pa.binary(), pa.duration("s")]
)
@pytest.mark.parametrize("name", ["label", "a.answer", "id", "a.confidence"])
def test_columns_of_other_types(kind: Any, name: str, tmp_path: Path) -> None:
    one: Any = {"list": [1], "stru": {"x": 1}, "bina": b"1"}.get(str(kind)[:4], 1)
    path = written(tmp_path, {**columns(), name: pa.array([one] * EXAMPLES, kind)})
    answered(lambda: read_one(path))


@pytest.mark.parametrize("begin", [b"", b"label,a.answer,b.answer\n1,1,1\n"])
def test_a_csv_that_is_a_hole(begin: bytes, tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    for size in (10_000_000, 20 * 2**30):
        with path.open("wb") as file:
            file.write(begin)
            file.truncate(size)  # no disk is used
        assert "o.csv" in refused(lambda: read_one(path))


# --- logs


@pytest.mark.parametrize(
    "value",
    [[1] * 5, {"a": 1}, "9" * 4000, 1e308, -1, "1e999", True, [[[]]] * 3, "0x10", "\udcff", "۳"],
    ids=range(11),
)
@pytest.mark.parametrize("name", ["path", "confidence", "answer", "label", "largest"])
def test_a_log_with_values_of_any_kind(name: str, value: Any, tmp_path: Path) -> None:
    row = {"path": "a", "confidence": 0.5, "answer": 1, "label": 1, "largest": 1, name: value}
    (tmp_path / "log.jsonl").write_text(json.dumps(row) + "\n")
    answered(lambda: log_of(tmp_path / "log.jsonl"))


def test_a_deep_line_of_a_log(tmp_path: Path) -> None:
    for depth in (50, 900, 200_000):
        (tmp_path / "log.jsonl").write_bytes(b'{"path": ' + b"[" * depth + b"]" * depth + b"}\n")
        assert "line 1" in refused(lambda: log_of(tmp_path / "log.jsonl"))


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.date32(), pa.time64("ns"), pa.decimal128(38, 0)])
def test_a_log_with_dates_out_of_range(kind: Any, tmp_path: Path) -> None:
    far = pa.array([2**31 - 1 if kind == pa.date32() else 2**45] * 2, pa.int32() if kind == pa.date32() else pa.int64())
    sure = far.cast(kind) if pa.types.is_decimal(kind) else far.view(kind)
    parquet.write_table(pa.table({"path": ["a", "a"], "confidence": sure}), tmp_path / "log.parquet")
    refused(lambda: log_of(tmp_path / "log.parquet"))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_names_that_are_no_text_stand_in_a_log_as_escapes(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"log{suffix}"
    write_log(path, ["a", "a"], np.array([0.5, 0.5]), ids=["im\udcff.png", "two\nlines"])
    assert sum(map(len, log_of(path))) == 2
    assert b"im" in path.read_bytes()
    assert b"\xed\xb3\xbf" not in path.read_bytes()


def run(*words: str, closed: bool = False) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", *words]
    start = ["sh", "-c", 'exec "$@" <&-', "sh", *line] if closed else line
    return subprocess.run(start, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no shell here")
def test_a_closed_standard_input(tmp_path: Path) -> None:
    from offramp.eval.watch import STDIN, Settings, Source

    settings = Settings(policy=tmp_path, log=STDIN)
    old, sys.stdin = sys.stdin, None
    try:
        assert "standard input, found none" in refused(lambda: Source(settings, Log.__new__(Log)))
    finally:
        sys.stdin = old


@pytest.mark.parametrize("flag", ["1e15", "inf", "nan", "-1"])
def test_waits_are_bounded(flag: str) -> None:
    done = run("eval.run", "--topology", "a_g", "--queue", "3", f"--patience={flag}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --patience: expected")
    assert done.stderr.count("\n") == 1


# --- studies


optuna = pytest.importorskip("optuna")


def plan(storage: str) -> Any:
    from offramp.eval.tuning.plan import Plan

    return Plan(storage, "toy", {"x": (0, 1, 2)}, ("cost",), {"data": "d"}, trials=2, patience=1.0, grace=0.2)


def studied(storage: str) -> int:
    from offramp.eval.tuning.plan import Found
    from offramp.eval.tuning.study import open_study, work

    opened_ = open_study(plan(storage))
    try:
        work(opened_, lambda choices, _: Found((float(choices["x"]),)))
        return len(opened_.trials())
    finally:
        opened_.close()


@pytest.fixture(scope="session")
def journal(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("journal") / "j"
    assert studied(f"journal:{path}") == 2
    return path.read_bytes()


def test_a_journal_with_half_a_last_line_goes_on(journal: bytes, tmp_path: Path) -> None:
    path = tmp_path / "j"
    for cut in (1, 20, len(journal.splitlines(keepends=True)[-1]) + 1):
        path.write_bytes(journal[:-cut])
        assert studied(f"journal:{path}") >= 2
        assert studied(f"journal:{path}") >= 2
        assert [json.loads(line)["op_code"] for line in path.read_bytes().splitlines()]


def test_a_file_that_is_no_journal_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(b"one line\nand a half")
    refused(lambda: studied(f"journal:{path}"))
    assert path.read_bytes() == b"one line\nand a half"


@pytest.mark.parametrize(
    "line",
    [b'{"op_code":99}', b'{"op_code":"x"}', b"{}", b"[]", b"3", b"null", b"[" * 5000, b'{"op_code":4}', b"\xff"],
    ids=range(9),
)
def test_a_journal_with_a_bad_line(line: bytes, journal: bytes, tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(journal + line + b"\n")
    assert "a journal that Optuna wrote" in refused(lambda: studied(f"journal:{path}"))


@given(data=st.data())
def test_a_damaged_journal_is_told_in_a_line(data: st.DataObject, journal: bytes, tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(damage(data, journal))
    answered(lambda: studied(f"journal:{path}"))


@pipes
def test_pipes_and_holes_are_no_studies(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for storage in (f"journal:{tmp_path}/pipe", f"sqlite:///{tmp_path}/pipe"):
        assert "a pipe, not a file" in refused(lambda storage=storage: studied(storage))
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(20 * 2**30)
    assert "a journal that Optuna wrote of at most" in refused(lambda: studied(f"journal:{tmp_path}/hole"))


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://u@127.0.0.1:1/db?password=S3CRET",
        "postgresql://u:S3CRET@127.0.0.1:1/db",
        "postgresql://127.0.0.1:1/db?user=u&password=S3CRET&sslpassword=S3CRET",
        "mysql://u@127.0.0.1:1/db?passwd=S3CRET",
        "mysql://u:p@S3CRET@127.0.0.1:x/db",
        "nonsense://u:S3CRET@host/db?pwd=S3CRET",
        "postgresql://u:a%2FS3CRET@127.0.0.1:1/S3?options=S3CRET%20x",
        "://S3CRET",
    ],
)
def test_no_password_is_shown_in_any_form(address: str) -> None:
    from offramp.eval.tuning.storage import reason_of, shown

    assert "S3CRET" not in shown(address)
    assert "S3CRET" not in refused(lambda: studied(address))
    assert "S3CRET" not in reason_of(OSError(f"cannot reach {address}"), address)
    assert "hidden" not in reason_of(OSError("no entry with hidden"), "postgresql://u@h/db?password=hidden")


# --- bounds


def test_every_bound_stands_in_the_docs() -> None:
    text = (ROOT / "docs" / "formats.md").read_text("utf-8").partition("## Bounds")[2]
    names = [name for name in vars(limits) if name.isupper() and name not in {"SHOWN", "TYPE_CHECKING"}]
    assert len(names) > 15
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_embedded_folders_are_within_the_bounds() -> None:
    for path in EMBEDDED.glob("*/costs.json"):
        assert read_folder(path.parent).parts
