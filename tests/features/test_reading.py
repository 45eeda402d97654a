import io
import pickle
import tracemalloc
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from offramp.features.errors import InputError
from offramp.features.outputs import Outputs
from offramp.features.store import reading
from offramp.features.store.reading import read_parts

LABELS = np.array([0, 1, 2, 1])
LOGITS = np.arange(12, dtype=np.float32).reshape(4, 3)


@contextmanager
def refused(*words: str) -> Iterator[None]:
    with pytest.raises(InputError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def answers(path: Path, columns: dict[str, Any]) -> Path:
    parquet.write_table(pa.table(columns), path)
    return path


def read(path: Path, stages: Sequence[str] = ("a",)) -> Outputs:
    return read_parts({"fit": path}, stages)["fit"]


# npz of logits


def test_npz_as_it_stands(tmp_path: Path) -> None:
    pooled = np.ones((4, 2), np.float32)
    path = npz(tmp_path / "o.npz", **{"b": LOGITS, "labels": LABELS, "a": -LOGITS, "a.pooled": pooled})
    outputs = read_parts({"test": path}, ["a", "b"])["test"]
    assert outputs.names == ("a", "b")
    assert (outputs.part, outputs.classes, len(outputs)) == ("test", 3, 4)
    assert outputs.labels.dtype == np.int64
    np.testing.assert_array_equal(outputs.labels, LABELS)
    np.testing.assert_array_equal(outputs.ids, [0, 1, 2, 3])
    np.testing.assert_array_equal(outputs.stages[0].logits, -LOGITS)
    np.testing.assert_array_equal(outputs.stages[0].pooled, pooled)
    assert outputs.stages[0].answers is None
    assert outputs.stages[1].pooled is None


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">f8", "longdouble"])
def test_any_float_type_is_read(tmp_path: Path, dtype: str) -> None:
    logits = read(npz(tmp_path / "o.npz", labels=LABELS, a=LOGITS.astype(dtype))).stages[0].logits
    assert logits is not None
    assert logits.dtype.isnative
    assert logits.dtype.itemsize <= 8
    np.testing.assert_array_equal(logits, LOGITS)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", ">i2", "i4", "u8", "i8"])
def test_labels_of_any_integer_type_become_int64(tmp_path: Path, dtype: str) -> None:
    labels = read(npz(tmp_path / "o.npz", labels=LABELS.astype(dtype), a=LOGITS)).labels
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize("classes", [1, 2, 20_000])
def test_any_number_of_classes(tmp_path: Path, classes: int) -> None:
    labels = np.array([0, classes - 1])
    logits = np.random.default_rng(0).normal(size=(2, classes))
    assert read(npz(tmp_path / "o.npz", labels=labels, a=logits)).classes == classes


def test_fortran_order_and_compression_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "o.npz"
    np.savez_compressed(path, labels=LABELS, a=np.asfortranarray(LOGITS))
    np.testing.assert_array_equal(read(path).stages[0].logits, LOGITS)


@pytest.mark.parametrize("order", ["C", "F"])
def test_large_uncompressed_arrays_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: Any) -> None:
    monkeypatch.setattr(reading, "MAP_FROM", 40)
    logits = np.asarray(np.random.default_rng(0).normal(size=(4, 3)), order=order)
    path = npz(tmp_path / "o.npz", labels=LABELS.astype("i1"), a=logits, b=logits.astype(">f8"))
    mapped, swapped = (stage.logits for stage in read(path, ["a", "b"]).stages)
    assert isinstance(mapped, np.memmap)
    assert not isinstance(swapped, np.memmap)
    np.testing.assert_array_equal(mapped, logits)
    np.testing.assert_array_equal(swapped, logits)
    np.savez_compressed(path, labels=LABELS, a=logits)
    assert not isinstance(read(path).stages[0].logits, np.memmap)


def test_the_search_for_nan_holds_a_chunk_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAP_FROM", 2**20)
    path = npz(tmp_path / "o.npz", labels=np.zeros(5000, int), a=np.zeros((5000, 1000), np.float32))
    tracemalloc.start()
    try:
        read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20  # of 20 MB


def test_nan_is_found_wherever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK", 6)
    for row in range(4):
        for column in range(3):
            logits = LOGITS.copy()
            logits[row, column] = np.nan
            with refused(f"row {row} ", f"nan in column {column}", "stage 'a'"):
                read(npz(tmp_path / "o.npz", labels=LABELS, a=logits))


def _with(array: np.ndarray, index: Any, value: Any) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": LOGITS}, ["labels", "found a"]),
        ({}, ["labels", "no arrays"]),
        ({"labels": LABELS}, ["logits of 'a'", "costs.json"]),
        ({"labels": LABELS, "a": LOGITS, "z": LOGITS}, ["costs.json (a)", "found 'z'"]),
        ({"labels": LABELS, "a": LOGITS, "z.pooled": LOGITS}, ["found 'z.pooled'"]),
        ({"labels": LABELS[:3], "a": LOGITS}, ["stage 'a'", "(3, c) for 3 labels", "(4, 3)"]),
        ({"labels": LABELS, "a": LOGITS[:, 0]}, ["stage 'a'", "(4, c)", "(4,)"]),
        ({"labels": LABELS, "a": LOGITS[:, :0]}, ["stage 'a'", "(4, 0)"]),
        ({"labels": LABELS, "a": LOGITS.astype(int)}, ["stage 'a'", "float", "int64"]),
        ({"labels": LABELS, "a": LOGITS, "a.pooled": LOGITS[:2]}, ["pooled", "(2, 3)"]),
        ({"labels": LABELS, "a": LOGITS, "a.pooled": _with(LOGITS, (1, 0), np.inf)}, ["pooled", "inf", "row 1 "]),
        ({"labels": LABELS, "a": _with(LOGITS, (2, 1), -np.inf)}, ["stage 'a'", "row 2 ", "-inf"]),
        ({"labels": LABELS, "a": _with(LOGITS, (2, 1), np.nan), "ids": LABELS * 0 + [7, 8, 9, 10]}, ["row 2", "id 9"]),
        ({"labels": LABELS.astype(float), "a": LOGITS}, ["labels", "integer", "float64"]),
        ({"labels": LABELS[:, None], "a": LOGITS}, ["labels (n,)", "(4, 1)"]),
        ({"labels": LABELS[:0], "a": LOGITS[:0]}, ["at least one example", "empty"]),
        ({"labels": _with(LABELS, 1, 3), "a": LOGITS}, ["labels", "row 1 ", "from 0 to 2", "found 3"]),
        ({"labels": _with(LABELS, 3, -1), "a": LOGITS}, ["labels", "row 3 ", "found -1"]),
        ({"labels": np.array([0, 1, 2, 2**64 - 1], "u8"), "a": LOGITS}, ["row 3 ", "found 18446744073709551615"]),
        ({"labels": LABELS, "a": LOGITS, "ids": np.arange(3)}, ["ids", "(4,)", "(3,)"]),
        ({"labels": LABELS, "a": LOGITS, "ids": np.array([5, 6, 5, 7])}, ["ids", "id 5", "rows 0 and 2"]),
        ({"labels": LABELS, "a": LOGITS, "ids": np.array(["p", "q", "r", "q"])}, ["id q", "rows 1 and 3"]),
        ({"labels": LABELS, "a": LOGITS, "ids": np.arange(4.0)}, ["ids", "float64"]),
        ({"labels": LABELS, "a": LOGITS, "ids": np.array([1, 2, 3, 2**63], "u8")}, ["ids", "9223372036854775808"]),
        ({"labels": LABELS, "a": np.full((4, 3), None)}, ["array 'a'", "object", "never loaded"]),
        ({"labels": np.array([0, "x", 1, 2], object), "a": LOGITS}, ["array 'labels'", "never loaded"]),
        ({"labels": LABELS, "a": np.zeros((4, 3), "f4,f4")}, ["array 'a'", "plain numbers"]),
    ],
)
def test_bad_npz(tmp_path: Path, arrays: dict[str, Any], words: list[str]) -> None:
    with refused("o.npz", *words):
        read(npz(tmp_path / "o.npz", **arrays))


def test_stages_must_agree_on_the_classes(tmp_path: Path) -> None:
    with refused("stage 'b'", "3 classes like stage 'a'", "(4, 2)"):
        read(npz(tmp_path / "o.npz", labels=LABELS, a=LOGITS, b=LOGITS[:, :2]), ["a", "b"])


def test_a_stage_cannot_be_named_labels(tmp_path: Path) -> None:
    with refused("'labels'", "taken"):
        read(npz(tmp_path / "o.npz", labels=LABELS), ["labels"])


def test_an_array_that_stands_twice(tmp_path: Path) -> None:
    path = npz(tmp_path / "o.npz", labels=LABELS, a=LOGITS)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.npy", b"")
    with refused("every array once", "'a' 2 times"):
        read(path)


class Trap:
    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Trap, "sprung", True))


def test_pickles_are_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "o.npz"
    path.write_bytes(pickle.dumps(Trap()))
    with refused("o.npz", "a pickle, which is never loaded"):
        read(path)
    npz(path, labels=LABELS, a=np.array([Trap()] * 4, object))
    with refused("array 'a'", "never loaded"):
        read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labels", pickle.dumps(Trap()))
        archive.writestr("a.npy", b"")
    with refused("o.npz", "a whole npz file"):
        read(path)
    assert not Trap.sprung


def test_a_shape_that_the_data_cannot_fill(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, LOGITS)
    bytes_ = stream.getvalue().replace(b"(4, 3), }         ", b"(400000000000, 3),}", 1)
    assert len(bytes_) == len(stream.getvalue()) + 1
    path = npz(tmp_path / "o.npz", labels=LABELS)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a.npy", bytes_.replace(b" \n", b"\n", 1))
    with refused("array 'a'", "4800000000000 bytes", "truncated"):
        read(path)
    npz(path, labels=LABELS)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a.npy", stream.getvalue() + b"more")
    with refused("array 'a'", "48 bytes", "found 52"):
        read(path)


@pytest.mark.parametrize("name", ["o.npz", "o.parquet", "o.csv"])
def test_a_file_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    with refused(name, "No such file"):
        read(tmp_path / name)
    (tmp_path / name).mkdir()
    with refused(name):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["o.npz", "o.parquet"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PAR1", b"hello, world", b"\x93NUMPY\x01\x00"])
def test_other_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with refused(name, "a whole", "truncated or other"):
        read(tmp_path / name)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_truncated_files_are_refused(tmp_path: Path, data: st.DataObject) -> None:
    whole = npz(tmp_path / "o.npz", labels=LABELS, a=LOGITS)
    if data.draw(st.booleans()):
        whole = answers(tmp_path / "o.parquet", {"label": LABELS, "a.answer": LABELS})
    content = whole.read_bytes()
    whole.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with refused(whole.name):
        read(whole)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_damaged_npz_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    path = npz(tmp_path / "o.npz", labels=LABELS, a=LOGITS)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        outputs = read(path)
    except InputError:
        return
    np.testing.assert_array_equal(outputs.stages[0].logits, LOGITS)
    np.testing.assert_array_equal(outputs.labels, LABELS)


# parts


def test_examples_without_ids_are_numbered_through_all_parts(tmp_path: Path) -> None:
    files = {part: npz(tmp_path / f"{part}.npz", labels=LABELS, a=LOGITS) for part in ("fit", "tune", "test")}
    parts = read_parts(files, ["a"])
    assert list(parts) == ["fit", "tune", "test"]
    assert [outputs.part for outputs in parts.values()] == ["fit", "tune", "test"]
    np.testing.assert_array_equal(np.concatenate([outputs.ids for outputs in parts.values()]), np.arange(12))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.array([1, 2, 3, 4], np.uint64), np.array([5, 6, 3, 7], np.uint8)),
        (np.array(["x", "3", "y", "z"]), np.array(["3", "u", "v", "w"])),
        (np.array([1, 2, 3, 4]), np.array(["3", "u", "v", "w"])),
    ],
)
def test_an_id_in_two_parts_is_a_leak(tmp_path: Path, one: Any, other: Any) -> None:
    fit = npz(tmp_path / "fit.npz", labels=LABELS, a=LOGITS, ids=one)
    test = npz(tmp_path / "test.npz", labels=LABELS, a=LOGITS, ids=other)
    with refused("fit.npz", "test.npz", "id 3 in both", "leak from fit to test"):
        read_parts({"fit": fit, "test": test}, ["a"])


def test_given_ids_are_not_compared_with_row_numbers(tmp_path: Path) -> None:
    fit = npz(tmp_path / "fit.npz", labels=LABELS, a=LOGITS)
    test = npz(tmp_path / "test.npz", labels=LABELS, a=LOGITS, ids=np.arange(4))
    np.testing.assert_array_equal(read_parts({"fit": fit, "test": test}, ["a"])["test"].ids, np.arange(4))


def test_parts_must_be_alike(tmp_path: Path) -> None:
    fit = npz(tmp_path / "fit.npz", labels=LABELS, a=LOGITS)
    test = npz(tmp_path / "test.npz", labels=LABELS, a=np.ones((4, 5)))
    with refused("test.npz", "stage 'a'", "number of classes", "fit.npz (3)", "found 5"):
        read_parts({"fit": fit, "test": test}, ["a"])
    npz(test, **{"labels": LABELS, "a": LOGITS, "a.pooled": LOGITS})
    with refused("test.npz", "pooled features"):
        read_parts({"fit": fit, "test": test}, ["a"])
    table = answers(tmp_path / "test.parquet", {"label": LABELS, "a.answer": LABELS})
    with refused("same format", "fit.npz", "test.parquet"):
        read_parts({"fit": fit, "test": table}, ["a"])
    more = answers(tmp_path / "fit.parquet", {"label": LABELS, "a.answer": LABELS, "a.confidence": LABELS / 4})
    with refused("test.parquet", "stage 'a'", "measured numbers", "(confidence)", "none"):
        read_parts({"fit": more, "test": table}, ["a"])
    answers(more, {"label": LABELS, "a.answer": LABELS, "a.answer2": LABELS})
    with refused("test.parquet", "stage 'a'", "ranked answers", "(2)", "found 1"):
        read_parts({"fit": more, "test": table}, ["a"])


# parquet of answers


def test_parquet_as_it_stands(tmp_path: Path) -> None:
    columns = {
        "remark": ["x"] * 4,
        "b.answer": pa.array([5, 0, 1, 2], pa.uint8()),
        "label": pa.array([0, 1, 2, 1], pa.int16()),
        "a.confidence": pa.array([0.5, 0.25, 1.0, 0.0], pa.float32()),
        "a.answer2": pa.array([1, None, -1, 7], pa.int32()),
        "a.answer": pa.array([0, 1, 2, 3], pa.int32()),
        "a.tokens": pa.array([10, 20, 30, 40], pa.int64()),
        "id": ["p", "q", "r", "s"],
    }
    outputs = read(answers(tmp_path / "o.parquet", columns), ["a", "b"])
    a, b = outputs.stages
    assert outputs.names == ("a", "b")
    assert outputs.classes == 8  # a ranked answer may be the only one to name the last class
    assert outputs.labels.dtype == np.int64
    np.testing.assert_array_equal(outputs.labels, [0, 1, 2, 1])
    np.testing.assert_array_equal(outputs.ids, ["p", "q", "r", "s"])
    np.testing.assert_array_equal(a.answers, [[0, 1], [1, -1], [2, -1], [3, 7]])
    np.testing.assert_array_equal(b.answers, [[5], [0], [1], [2]])
    assert list(a.measured) == ["confidence", "tokens"]
    np.testing.assert_array_equal(a.measured["confidence"], [0.5, 0.25, 1.0, 0.0])
    np.testing.assert_array_equal(a.measured["tokens"], [10.0, 20.0, 30.0, 40.0])
    assert not b.measured
    assert a.logits is None


def test_integers_as_pandas_and_others_write_them(tmp_path: Path) -> None:
    columns = {
        "label": pa.array([0.0, 1.0]),
        "a.answer": pa.array(["0", "1"]).dictionary_encode(),
        "a.answer2": pa.array([1.0, float("nan")]),
        "a.answer3": pa.nulls(2),
        "a.sure": pa.array([True, False]),
        "a.score": pa.array(["0.5", " 1e-3"]),
    }
    stage = read(answers(tmp_path / "o.parquet", columns)).stages[0]
    np.testing.assert_array_equal(stage.answers, [[0, 1, -1], [1, -1, -1]])
    np.testing.assert_array_equal(stage.measured["sure"], [1.0, 0.0])
    np.testing.assert_array_equal(stage.measured["score"], [0.5, 0.001])


def test_classes_are_counted_over_all_parts(tmp_path: Path) -> None:
    fit = answers(tmp_path / "fit.parquet", {"label": [0, 1], "a.answer": [0, 0]})
    test = answers(tmp_path / "test.parquet", {"label": [0, 0], "a.answer": [0, 4]})
    parts = read_parts({"fit": fit, "test": test}, ["a"])
    assert [outputs.classes for outputs in parts.values()] == [5, 5]


@pytest.mark.parametrize("name", ["o.parquet", "o.csv"])
def test_text_classes_are_numbered_in_sorted_order_over_all_parts(tmp_path: Path, name: str) -> None:
    def write(part: str, columns: dict[str, list[str | None]]) -> Path:
        path = tmp_path / f"{part}.{name}"
        if name == "o.parquet":
            return answers(path, dict(columns))
        rows = [
            ",".join(columns),
            *(",".join(cell or "" for cell in row) for row in zip(*columns.values(), strict=True)),
        ]
        path.write_text("\n".join(rows))
        return path

    fit = write("fit", {"label": ["cat", "dog"], "a.answer": ["dog", "7"], "a.answer2": ["ant", None]})
    test = write("test", {"label": ["emu", "dog"], "a.answer": ["7", "7"], "a.answer2": [None, "bee"]})
    parts = read_parts({"fit": fit, "test": test}, ["a"])
    # 7 ant bee cat dog emu
    assert parts["fit"].classes == 6
    np.testing.assert_array_equal(parts["fit"].labels, [3, 4])
    np.testing.assert_array_equal(parts["test"].labels, [5, 4])
    np.testing.assert_array_equal(parts["fit"].stages[0].answers, [[4, 1], [0, -1]])
    np.testing.assert_array_equal(parts["test"].stages[0].answers, [[0, -1], [0, 2]])


def test_names_with_dots_belong_to_the_longest_stage(tmp_path: Path) -> None:
    columns = {"label": [0], "r.answer": [0], "r.e1.answer": [1], "r.e1.confidence": [0.5], "r.x.y": [2]}
    r, exit1 = read(answers(tmp_path / "o.parquet", columns), ["r", "r.e1"]).stages
    assert dict(exit1.measured) == {"confidence": np.array([0.5])}
    assert dict(r.measured) == {"x.y": np.array([2.0])}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"a.answer": [0, 1]}, ["a column 'label'", "columns a.answer"]),
        ({"label": [0, 1]}, ["'a.answer' of a stage in costs.json"]),
        ({"label": [0, 1], "a.confidence": [0.5, 0.5]}, ["'a.answer' of a stage in costs.json"]),
        ({"label": [0, 1], "a.answer": [0, 1], "z.answer": [0, 1]}, ["costs.json (a)", "column 'z.answer'"]),
        ({"label": [0, 1], "a.answer": [0, 1], "a.e1.answer": [0, 1]}, ["costs.json (a)", "column 'a.e1.answer'"]),
        ({"label": [0, 1], "a.answer": [0, 1], "a.answer3": [0, 1]}, ["'a.answer2' next", "'a.answer3'"]),
        ({"label": [0, 1], "a.answer": [0, 1], "a.answer1": [0, 1]}, ["'a.answer2' next", "'a.answer1'"]),
        ({"label": [0, None], "a.answer": [0, 1]}, ["column 'label', row 1 ", "empty cell"]),
        ({"label": [0, -1], "a.answer": [0, 1]}, ["column 'label', row 1 ", "from 0 on", "found -1"]),
        ({"label": [0, 0.5], "a.answer": [0, 1]}, ["column 'label', row 1 ", "class number", "0.5"]),
        ({"label": [0, np.inf], "a.answer": [0, 1]}, ["column 'label', row 1 ", "inf"]),
        ({"label": [0, 10**12], "a.answer": [0, 1]}, ["column 'label', row 1 ", "below 100000", "1000000000000"]),
        ({"label": pa.array([0, 2**64 - 1], pa.uint64()), "a.answer": [0, 1]}, ["'label', row 1 ", "1844674407"]),
        ({"label": pa.array([0, 1], pa.timestamp("s")), "a.answer": [0, 1]}, ["column 'label'", "timestamp"]),
        ({"label": [0, 1], "a.answer": [0, None]}, ["column 'a.answer', row 1 ", "empty cell"]),
        ({"label": [0, 1], "a.answer": [-1, 0]}, ["column 'a.answer', row 0 ", "from 0 on", "found -1"]),
        ({"label": [0, 1], "a.answer": [0, 1], "a.answer2": [-2, 0]}, ["column 'a.answer2', row 0 ", "found -2"]),
        ({"label": [0, 1], "a.answer": ["0", "cat"]}, ["column 'a.answer', row 1 ", "as the labels are", "'cat'"]),
        ({"label": ["0", "1", "N/A"], "a.answer": [0, 1, 1]}, ["column 'label', row 2 ", "class number", "'N/A'"]),
        ({"label": ["cat", None], "a.answer": ["cat", "dog"]}, ["column 'label', row 1 ", "empty cell"]),
        ({"label": [0, 1], "a.answer": [0, 1], "a.c": [0.5, None]}, ["column 'a.c', row 1 ", "empty cell"]),
        ({"label": [0, 1], "a.answer": [0, 1], "a.c": [np.nan, 1]}, ["column 'a.c', row 0 ", "finite", "nan"]),
        ({"label": [0, 1], "a.answer": [0, 1], "a.c": [0.5, -np.inf]}, ["column 'a.c', row 1 ", "-inf"]),
        ({"label": [0, 1], "a.answer": [0, 1], "a.c": ["0.5", "0,7"]}, ["'a.c', row 1 ", "decimal point", "'0,7'"]),
        ({"label": [0, 1], "a.answer": [0, 1], "a.c": ["0.5", "1e999"]}, ["column 'a.c', row 1 ", "finite", "1e999"]),
        ({"label": [0, 1], "a.answer": [0, 1], "id": [3, 3]}, ["ids", "id 3", "rows 0 and 1"]),
        ({"label": [0, 1], "a.answer": [0, 1], "id": ["x", None]}, ["column 'id', row 1 ", "empty"]),
        ({"label": [0, 1], "a.answer": [0, 1], "id": [0.5, 1.5]}, ["ids", "float64"]),
        ({"label": [0, 1], "a.answer": [0, -1], "id": ["x", "y"]}, ["row 1 (from 0) with id y"]),
        ({"label": pa.array([], pa.int64()), "a.answer": pa.array([], pa.int64())}, ["at least one", "empty part"]),
    ],
)
def test_bad_parquet(tmp_path: Path, columns: dict[str, Any], words: list[str]) -> None:
    with refused("o.parquet", *words):
        read(answers(tmp_path / "o.parquet", columns))


def test_a_column_that_stands_twice(tmp_path: Path) -> None:
    table = pa.table([[0], [0], [1]], names=["label", "a.answer", "a.answer"])
    parquet.write_table(table, tmp_path / "o.parquet")
    with refused("o.parquet", "every column once", "'a.answer' 2 times"):
        read(tmp_path / "o.parquet")
    (tmp_path / "o.csv").write_text("label,label,a.answer\n0,0,0\n")
    with refused("o.csv", "every column once", "'label' 2 times"):
        read(tmp_path / "o.csv")


def test_remarks_are_left_out(tmp_path: Path) -> None:
    columns = {"label": [0, 1, 1], "a.answer": [0, 1, 1], "a.reason": ["sure", "7", "no"], "a.none": pa.nulls(3)}
    assert not read(answers(tmp_path / "o.parquet", columns)).stages[0].measured
    (tmp_path / "o.csv").write_text('label,a.answer,a.reason,a.none\n0,0,"sure, it\nis",\n1,1,7,\n1,1,no,\n')
    assert not read(tmp_path / "o.csv").stages[0].measured


# csv of answers


@pytest.mark.parametrize(
    "text",
    [
        "label,a.answer,a.confidence,id\n0,1,0.5,7\n1,1,0.25,8\n",
        "\ufefflabel,a.answer,a.confidence,id\n0,1,0.5,7\n1,1,0.25,8\n",
        '\ufeff"label","a.answer","a.confidence","id"\r\n"0","1","0.5","7"\r\n"1","1","0.25","8"\r\n',
        "id;a.confidence;a.answer;label\n7;0.5;1;0\n8;0.25;1;1\n",
        '"id";"a.confidence";"a.answer";"label"\n7;0.5;1;0\n8;0.25;1;1\n',
        "label\ta.answer\ta.confidence\tid\n0\t1\t5e-1\t7\n1\t1\t.25\t8",
        "label, a.answer, a.confidence, id\n0, 1, 0.5, 7\n1, 1, 0.25, 8\n",
        'label,a.answer,a.confidence,id,text,,\n0,1.0,0.5,7,"a ""quoted"", text",,\n\n1,1.0,0.25,8,"two\nlines",,\n',
        "label,a.answer,a.answer2,a.confidence,id\n0,1,,+0.5,7\n1,+1,-1,0.25,8\n",
    ],
)
def test_csv_in_its_many_forms(tmp_path: Path, text: str) -> None:
    path = tmp_path / "o.csv"
    path.write_bytes(text.encode())
    outputs = read(path)
    np.testing.assert_array_equal(outputs.labels, [0, 1])
    np.testing.assert_array_equal(outputs.stages[0].answers[:, 0], [1, 1])
    assert (outputs.stages[0].answers[:, 1:] == -1).all()
    assert list(outputs.stages[0].measured) == ["confidence"]
    np.testing.assert_array_equal(outputs.stages[0].measured["confidence"], [0.5, 0.25])
    np.testing.assert_array_equal(np.char.strip(outputs.ids.astype(str)), ["7", "8"])


def test_csv_ids_are_names_unless_all_are_plain_numbers(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    path.write_text("label,a.answer,id\n0,0,7\n1,1,007\n")
    np.testing.assert_array_equal(read(path).ids, ["7", "007"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["a column 'label'", "(none)"]),
        (b"label,a.answer\n", ["at least one example"]),
        (b"0,1\n1,1\n", ["a column 'label'", "columns 0, 1"]),
        (b'label,a.answer,a.c\n0,0,"0,5"\n1,1,"0,25"\n', ["column 'a.c', row 0 ", "decimal point", "'0,5'"]),
        (b"label;a.answer;a.c\n0;0;0.5\n1;1;0,25\n", ["column 'a.c', row 1 ", "decimal point", "'0,25'"]),
        (b"label,a.answer,a.c\n0,0,0.5\n1,1,0,25\n", ["row 1 ", "3 cells", "found 4", "decimal comma in column 'a.c'"]),
        (b"label,a.answer,a.c\n0,0,0.5\n1,1\n", ["row 1 ", "3 cells", "found 2"]),
        (b"label,a.answer,a.c\n0,0,0.5\n1,1,N/A\n", ["column 'a.c', row 1 ", "'N/A'"]),
        (b"label,a.answer,a.c\n0,0,0.5\n1,1,\n", ["column 'a.c', row 1 ", "empty cell"]),
        (b"label,a.answer,a.c\n0,0,0.5\n1,1,1e400\n", ["column 'a.c', row 1 ", "finite", "1e400"]),
        (b"label,a.answer,a.c\n0,0,nan\n1,1,1\n", ["column 'a.c', row 0 ", "nan"]),
        (b"label,a.answer\n0,0\n1,99999999999999999999999\n", ["column 'a.answer', row 1 ", "9999999"]),
        (b"label,a.answer\n0,0\n,1\n", ["column 'label', row 1 ", "empty cell"]),
        (b"label,a.answer\n0,0\n1,b\n", ["column 'a.answer', row 1 ", "'b'"]),
        (b"label,a.answer\ncaf\xe9,x\n", ["UTF-8", "0xe9 in line 2"]),
        (b"caf\xe9,label,a.answer\nx,0,0\n", ["UTF-8", "0xe9 in line 1"]),
        ("label,a.answer\n0,0\n".encode("utf-16"), ["UTF-8", "0xff in line 1"]),
        (b"label,a.answer\n" + b"0,0\n" * 9000 + b"\xff,0\n", ["UTF-8", "0xff in line 9002"]),
        (b"label,a.answer,id\n0,0,x\n1,0,x\n", ["ids", "id x", "rows 0 and 1"]),
        (b'label,a.answer,id\n0,0,x\n1,0,""\n', ["column 'id', row 1 ", "empty"]),
    ],
)
def test_bad_csv(tmp_path: Path, content: bytes, words: list[str]) -> None:
    (tmp_path / "o.csv").write_bytes(content)
    with refused("o.csv", *words):
        read(tmp_path / "o.csv")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 30),
            st.integers(0, 30),
            st.none() | st.integers(-1, 30),
            st.floats(-1e9, 1e9),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_csv_and_parquet_are_read_alike(tmp_path: Path, rows: list[tuple[Any, ...]]) -> None:
    names = ["label", "a.answer", "a.answer2", "a.score"]
    table = answers(tmp_path / "o.parquet", dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    lines = [",".join("" if cell is None else repr(cell) for cell in row) for row in rows]
    (tmp_path / "o.csv").write_text("\n".join([",".join(names), *lines]))
    one, other = read(table), read(tmp_path / "o.csv")
    assert one.classes == other.classes == 1 + max(max(row[0], row[1], row[2] or 0) for row in rows)
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.stages[0].answers, other.stages[0].answers)
    np.testing.assert_array_equal(one.stages[0].measured["score"], other.stages[0].measured["score"])
