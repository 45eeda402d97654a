import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyarrow import parquet

from offramp.features.errors import InputError
from offramp.features.outputs import Outputs, Stage
from offramp.features.store import reading
from offramp.features.store.atomic import replacing
from offramp.features.store.reading import read_parts
from offramp.features.store.writing import write_outputs

ROOT = Path(__file__).resolve().parents[2]
PER_TEST_FOLDER = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def logits(part: str = "fit", **changes: Any) -> Outputs:
    given: dict[str, Any] = {"logits": np.arange(6.0).reshape(2, 3)} | changes
    return Outputs((Stage("a", **given),), np.array([0, 2]), np.array([5, 9]), part, 3)


def same(one: Outputs, other: Outputs) -> None:
    assert (one.names, one.part, one.classes) == (other.names, other.part, other.classes)
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.ids, other.ids)
    for ours, theirs in zip(one.stages, other.stages, strict=True):
        assert ours.measured.keys() == theirs.measured.keys()
        for name, column in ours.measured.items():
            np.testing.assert_array_equal(column, theirs.measured[name])
        for a, b in ((ours.logits, theirs.logits), (ours.answers, theirs.answers), (ours.pooled, theirs.pooled)):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                np.testing.assert_array_equal(a, b)
        if ours.logits is not None and theirs.logits is not None:
            assert ours.logits.dtype == theirs.logits.dtype


@PER_TEST_FOLDER
@given(st.data())
def test_logits_come_back_as_they_were(tmp_path: Path, data: st.DataObject) -> None:
    n, classes = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    dtype = np.dtype(data.draw(st.sampled_from(["f2", "f4", "f8"])))

    def finite(columns: int) -> np.ndarray:
        least, most = (-6e4, 6e4) if dtype.itemsize == 2 else (-1e9, 1e9)
        numbers = st.floats(least, most, width=dtype.itemsize * 8)  # type: ignore[arg-type]
        return data.draw(hnp.arrays(dtype, (n, columns), elements=numbers))

    stages = tuple(
        Stage(name, logits=finite(classes), pooled=finite(2) if data.draw(st.booleans()) else None)
        for name in ("file", "r.exit1", "r.exit2")
    )
    labels = data.draw(hnp.arrays(np.int64, n, elements=st.integers(0, classes - 1)))
    ids = np.array([f"é{i}" for i in range(n)]) if data.draw(st.booleans()) else np.arange(n)[::-1]
    outputs = Outputs(stages, labels, ids, "tune", classes)
    path = write_outputs(outputs, tmp_path)
    assert path.name == "tune.outputs.npz"
    same(read_parts({"tune": path}, outputs.names)["tune"], outputs)


@PER_TEST_FOLDER
@given(st.data())
def test_answers_come_back_as_they_were(tmp_path: Path, data: st.DataObject) -> None:
    n, ranks = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 7))

    def stage(name: str) -> Stage:
        first = data.draw(hnp.arrays(np.int32, (n, 1), elements=st.integers(0, 9)))
        others = data.draw(hnp.arrays(np.int32, (n, ranks - 1), elements=st.integers(-1, 9)))
        numbers = st.floats(-1e9, 1e9)
        measured = {} if name == "b" else {"score": data.draw(hnp.arrays(np.float64, n, elements=numbers))}
        return Stage(name, np.hstack([first, others]), measured=measured)

    labels = np.append(data.draw(hnp.arrays(np.int64, n - 1, elements=st.integers(0, 9))), 9)
    outputs = Outputs((stage("r.exit1"), stage("b")), labels, np.array([f"x {i}" for i in range(n)]), "test", 10)
    path = write_outputs(outputs, tmp_path)
    assert path.name == "test.answers.parquet"
    same(read_parts({"test": path}, outputs.names)["test"], outputs)


def test_numbers_beside_logits_come_back(tmp_path: Path) -> None:
    outputs = logits(measured={"gate": np.array([0.5, -2.0]), "x.y": np.array([1.0, 3.0])})
    same(read_parts({"fit": write_outputs(outputs, tmp_path)}, ["a"])["fit"], outputs)


def test_missing_answers_are_written_as_empty_cells(tmp_path: Path) -> None:
    path = write_outputs(logits(logits=None, answers=np.array([[1, -1], [2, 0]])), tmp_path)
    assert parquet.read_table(path)["a.answer2"].to_pylist() == [None, 0]


def test_the_same_outputs_give_the_same_bytes(tmp_path: Path) -> None:
    one, other = write_outputs(logits(), tmp_path / "one"), write_outputs(logits(), tmp_path / "other")
    assert one.read_bytes() == other.read_bytes()
    answered = logits(logits=None, answers=np.array([[1], [2]]))
    one, other = write_outputs(answered, tmp_path / "one"), write_outputs(answered, tmp_path / "other")
    assert one.read_bytes() == other.read_bytes()


def test_what_is_written_can_be_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAP_FROM", 1)
    path = write_outputs(logits(), tmp_path)
    mapped = read_parts({"fit": path}, ["a"])["fit"]
    assert isinstance(mapped.stages[0].logits, np.memmap)
    again = write_outputs(mapped, tmp_path / "again")
    same(read_parts({"fit": again}, ["a"])["fit"], logits())


@pytest.mark.parametrize(
    ("outputs", "word"),
    [
        (logits(logits=None), "neither"),
        (logits(logits=None, answers=np.array([[1], [2]]), pooled=np.ones((2, 1))), "pooled"),
        (Outputs((*logits().stages, Stage("b", np.array([[1], [2]]))), np.ones(2, int), np.arange(2), "fit", 3), "'b'"),
        (Outputs((Stage("ids", logits=np.ones((2, 3))),), np.ones(2, int), np.arange(2), "fit", 3), "'ids'"),
        (Outputs(logits().stages * 2, np.ones(2, int), np.arange(2), "fit", 3), "'a'"),
    ],
)
def test_nothing_is_dropped_in_silence(tmp_path: Path, outputs: Outputs, word: str) -> None:
    with pytest.raises(InputError, match=word):
        write_outputs(outputs, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_block_that_ends_well_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "o.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "o.txt"
    path.write_text("old")
    with suppress(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_run_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_outputs(logits(), tmp_path)
    code = (
        "import os, sys, pathlib; from offramp.features.store.atomic import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as temporary: temporary.write_text('half'); os._exit(9)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert run.returncode == 9
    assert len(list(tmp_path.iterdir())) == 2  # the half-written one is left behind under its own name
    same(read_parts({"fit": path}, ["a"])["fit"], logits())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file.*a folder that can be written"):
        write_outputs(logits(), tmp_path / "file")
    with (
        pytest.raises(InputError, match=r"o\.txt.*a file that can be written"),
        replacing(tmp_path / "no" / "o.txt") as t,
    ):
        t.write_text("")
