"""Logs are read back as they were written, and what can't be read is named."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from offramp.cascades.files.policy import Reference
from offramp.eval.guarantees.reference import EDGES, Subject
from offramp.eval.monitoring.routinglog import LINE_BYTES, NONE, Examples, Lines, Log, read_log, write_log
from offramp.features.errors import InputError

PATHS = ("a", "b", "a>b")


@pytest.fixture(scope="module")
def usual() -> Reference:
    """60 examples stopped after a and 40 after a>b, with some confidence."""
    counts = {name: (0,) * 10 + (n,) + (0,) * (len(EDGES) - 10) for name, n in (("a", 60), ("a>b", 40))}
    return Reference(100, {"a": 60, "b": 0, "a>b": 40}, EDGES, counts, (30, 30, 40), 20)


def small_log(reference: Reference, skip: bool = False) -> Log:
    """A log of two stages and three classes."""
    runs = np.array([[True, False], [False, True], [True, True]])
    return Log(Subject(PATHS, ("a", "b"), np.array([1.0, 10.0, 11.0]), runs, "ms", 3, reference), "log", skip)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_log_is_read_as_it_was_written(suffix: str, usual: Reference, tmp_path: Path) -> None:
    rng = np.random.default_rng(14)
    sure = rng.beta(4, 1.5, 1234).astype(np.float32).astype(float)
    lines = Examples(rng.choice([0, 2], 1234), sure, *(rng.integers(NONE, 3, 1234) for _ in range(3)))
    path = tmp_path / f"routing{suffix}"
    ids = [f'im,"{i}"' for i in range(len(lines))]
    names = [PATHS[q] for q in lines.path]
    write_log(path, names, lines.confidence, lines.answer, lines.label, ids, lines.largest)
    log = small_log(usual)
    parts = list(read_log(path, log))
    assert sum(map(len, parts)) == 1234
    for name in ("path", "answer", "label", "largest"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(lines, name))
    found = np.concatenate([part.confidence for part in parts]).astype(np.float32)
    assert np.array_equal(found, lines.confidence.astype(np.float32))
    assert log.broken == 0
    if suffix == ".parquet":
        assert sum(map(len, read_log(path, small_log(usual), 1000))) == 234
    with pytest.raises(InputError, match=r"\.csv"):
        write_log(tmp_path / "routing.txt", names, lines.confidence)
    with pytest.raises(ValueError, match="one value an example"):
        write_log(path, names, lines.confidence[1:])
    assert [path] == list(tmp_path.iterdir())


def test_tables_of_pandas_are_read_too(usual: Reference, tmp_path: Path) -> None:
    """There, whole numbers with gaps are floats."""
    frame = pd.DataFrame({"path": ["a", "a>b"], "confidence": [0.5, 1], "label": [np.nan, 2], "answer": [0, 2]})
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.to_parquet(tmp_path / "x.parquet")
    for name in ("x.csv", "x.parquet"):
        (part,) = read_log(tmp_path / name, small_log(usual))
        assert part.label.tolist() == [NONE, 2]
        assert part.path.tolist() == [0, 2]


GOOD = b"path,confidence,answer,label\na,0.5,1,\n"
BAD_LINES = [
    (b"a,0.5,1\n", "line 3: expected 4 fields, found 3"),
    (b"a>c,0.5,1,\n", "line 3: expected a path of the policy, a, b, a>b, found 'a>c'"),
    (b"a,nan,1,\n", "line 3: expected a confidence from 0 to 1, found 'nan'"),
    (b"a,1.5,1,\n", "confidence from 0 to 1, found '1.5'"),
    (b"a,-0.1,1,\n", "confidence from 0 to 1"),
    (b"a,high,1,\n", "confidence from 0 to 1, found 'high'"),
    (b"a,,1,\n", "line 3: expected the confidence after a, found none"),
    (b"a,0.5,3,\n", "line 3: expected as answer a class from 0 to 2, found '3'"),
    (b"a,0.5,1.5,\n", "answer a class"),
    (b"a,0.5,1,cat\n", "label a class from 0 to 2, found 'cat'"),
    (b"a,0.5,1,-1\n", "label a class"),
    (b"a,0.5,inf,1\n", "answer a class"),
    (b",,1,\n", "line 3: expected a path, or the answer and the label"),
    (b"\xff\xfe,0.5,1,\n", "line 3: expected UTF-8, found byte 0xff"),
    (b'"a,0.5,1,\n', "line 3: expected fields with commas between"),
    (b"x" * (LINE_BYTES + 10) + b"\n", f"line 3: expected at most {LINE_BYTES} bytes"),
]


@pytest.mark.parametrize(("bad", "says"), BAD_LINES, ids=[says for _, says in BAD_LINES])
def test_a_broken_line_is_named_by_its_number(bad: bytes, says: str, usual: Reference, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(GOOD + bad + b"a>b,1,2,2\n")
    with pytest.raises(InputError) as error:
        list(read_log(path, small_log(usual)))
    assert says in str(error.value)
    assert len(str(error.value)) < 300
    log = small_log(usual, skip=True)
    (part,) = read_log(path, log)
    assert part.path.tolist() == [0, 2]
    assert log.broken == 1
    assert says in log.complaints[0]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b'{"path": "a", "confidence": NaN}', "line 2: expected a confidence from 0 to 1, found nan"),
        (b'{"path": "a", "confidence": true}', "confidence from 0 to 1, found True"),
        (b'{"path": ["a"], "confidence": 1}', "a path of the policy"),
        (b'{"path": "a", "confidence": 1, "answer": true}', "as answer a class"),
        (b'{"path": "a", "confidence": 1, "answer": 1' + b"0" * 5000 + b"}", "line 2: expected "),
        (b'{"path": "a"', "line 2: expected a line of JSON"),
        (b"[" * 100_000, "line 2: expected a line of JSON"),
        (b"[1]", "line 2: expected an object, found list"),
    ],
)
def test_a_broken_object_is_named_by_its_number(bad: bytes, says: str, usual: Reference) -> None:
    lines = [b'\xef\xbb\xbf{"path": "a", "confidence": 1, "note": {}}\n', bad + b"\n"]
    with pytest.raises(InputError) as error:
        list(read_log(lines, small_log(usual)))
    assert says in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"id,confidence\n", "expected a column 'path'"),
        (b"path,answer\n", "expected a column 'confidence'"),
        (b"path,path,confidence\n", "expected every column once, found 'path' twice"),
        (b"a,0.5\n", "expected a column 'path'"),
    ],
)
def test_a_header_needs_what_is_watched(header: bytes, says: str, usual: Reference) -> None:
    with pytest.raises(InputError, match=says):
        list(read_log([header, b"a,0.5\n"], small_log(usual, skip=True)))


def test_without_known_confidences_none_is_needed(usual: Reference) -> None:
    log = small_log(replace(usual, counts={}))
    (part,) = read_log([b"path\n", b"a\n", b"\n", b"a>b\r\n"], log)
    assert part.path.tolist() == [0, 2]
    assert np.isnan(part.confidence).all()


def test_a_label_may_come_later(usual: Reference) -> None:
    (part,) = read_log([b"path,confidence,answer,label\n", b"a,0.5,1,\n", b",,1,2\n"], small_log(usual))
    assert (part.path.tolist(), part.label.tolist(), part.answer.tolist()) == ([0, NONE], [NONE, 2], [1, 1])


def test_what_is_no_log(usual: Reference, tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "x.csv").write_bytes(b"")
    with pytest.raises(InputError, match="parquet file"):
        list(read_log(tmp_path / "x.parquet", small_log(usual)))
    pd.DataFrame({"path": ["a", "z"], "confidence": [0.5, 0.5]}).to_parquet(tmp_path / "y.parquet")
    with pytest.raises(InputError, match="row 2: expected a path"):
        list(read_log(tmp_path / "y.parquet", small_log(usual)))
    with pytest.raises(InputError, match="can be read"):
        list(read_log(tmp_path / "none.csv", small_log(usual)))
    assert list(read_log(tmp_path / "x.csv", small_log(usual))) == []


def test_lines_are_lines_however_bytes_come() -> None:
    text = b"ab\n\nc\xc3\xa9\n" + b"x" * 10 + b"\nend"
    expected = [b"ab\n", b"\n", b"c\xc3\xa9\n", b"x" * 10 + b"\n", b"end"]
    for size in (1, 2, 3, 7, 100):
        lines = Lines(text[at : at + size] for at in range(0, len(text), size))
        found, taken = [], 0
        for line in lines:
            assert line is not None
            found.append(line)
            taken += len(line)
            assert lines.taken == taken
        assert found == expected
    assert list(Lines([b"est\na", None, b"\n"], within=True)) == [None, b"a\n"]
    long = Lines([b"x" * LINE_BYTES, b"yy", b"zz\nnext\n"])
    assert [len(line or b"") for line in long] == [LINE_BYTES + 2, 5]
    assert long.taken == LINE_BYTES + 2 + 8


def test_quoted_fields_are_read(usual: Reference) -> None:
    row = ['say "a, b"', "a>b", "0.25"]
    text = [",".join(["id", "path", "confidence"]).encode() + b"\n"]
    with_quotes = ",".join('"' + one.replace('"', '""') + '"' for one in row)
    assert next(csv.reader([with_quotes])) == row
    (part,) = read_log([*text, with_quotes.encode() + b"\n"], small_log(usual))
    assert (part.path.tolist(), part.confidence.tolist()) == ([2], [0.25])
