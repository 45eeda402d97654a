import json
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from offramp.eval.report.files import Folder, csv_bytes, frontier_frame, json_bytes, png_bytes, writable
from offramp.eval.report.intervals import Bootstrap, interval
from offramp.features.errors import InputError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_folder_is_made_and_left_as_it_was_found(tmp_path):
    folder = writable(tmp_path / "new" / "deep", "--out")
    assert folder.path.is_dir()
    assert names(folder.path) == []
    (folder.path / "mine.txt").write_text("keep")
    writable(folder.path, "--out")
    assert names(folder.path) == ["mine.txt"]


@pytest.mark.parametrize("below", ["", "sub"])
def test_a_file_in_the_way(tmp_path, below):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(InputError, match=r"^--out: expected a folder to write into, found a file on the way.*taken"):
        writable(tmp_path / "taken" / below, "--out")
    assert (tmp_path / "taken").read_text() == "x"


def test_a_folder_that_nothing_can_be_written_into(tmp_path, monkeypatch):
    # Permission bits say nothing about root or a full disk, so trying is what counts.
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(InputError, match=r"^--out: expected a folder to write into, found .*Permission denied\)$"):
        writable(tmp_path, "--out")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a folder that not even root can write into: Linux only")
def test_not_even_root_can_write_there():
    for folder in (Path("/proc/offramp"), Path("/proc/self")):
        with pytest.raises(InputError, match="--out"):
            writable(folder, "--out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(InputError, match="Permission denied"):
        writable(tmp_path / "locked", "--out")


def test_a_name_that_is_no_path(tmp_path):
    with pytest.raises(InputError, match="--out"):
        writable(tmp_path / "nul\0byte", "--out")


def test_a_folder_where_a_file_must_go(tmp_path):
    (tmp_path / "frontier.csv").mkdir()
    with pytest.raises(InputError, match=r"expected a file or nothing, found a folder called 'frontier.csv'"):
        writable(tmp_path, "--out", ["summary.json", "frontier.csv"])


def test_files_replace_older_ones_and_leave_nothing_else(tmp_path):
    folder = Folder(tmp_path)
    for value in (1, 2):
        assert folder.write_all({"a.json": json_bytes({"é": value})})[0] == tmp_path / "a.json"
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"é": 2}
    assert names(tmp_path) == ["a.json"]


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch):
    folder = Folder(tmp_path)
    folder.write_all({"a.bin": b"old"})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        folder.write_all({"a.bin": b"new"})
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_target_is_never_there_by_halves(tmp_path, monkeypatch):
    folder = Folder(tmp_path)
    folder.write_all({"a.bin": b"old"})
    seen = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append((tmp_path / "a.bin").read_bytes()), fsync(fd)))
    folder.write_all({"a.bin": b"new"})
    assert seen == [b"old", b"new"]  # the file before it is renamed, then the folder
    assert (tmp_path / "a.bin").read_bytes() == b"new"


def test_a_part_left_behind_by_a_killed_run_is_no_hindrance(tmp_path):
    for left in (f".a.bin.{os.getpid()}.part", ".a.bin.0123456789abcdef.tmp"):  # of an earlier version, and of this
        (tmp_path / left).write_bytes(b"half")
        os.utime(tmp_path / left, (0, 0))
    Folder(tmp_path).write_all({"a.bin": b"new"})
    assert names(tmp_path) == ["a.bin"]


def test_json_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_bytes({"x": float("nan")})
    assert names(tmp_path) == []


def test_floats_are_written_with_ten_digits(tmp_path):
    path = Folder(tmp_path).write_all({"a.csv": csv_bytes(pd.DataFrame({"x": [1 / 3, np.nan], "y": ["a", "b,c"]}))})[0]
    assert path.read_bytes() == b'x,y\n0.3333333333,a\n,"b,c"\n'


def test_picture_bytes_are_the_same_again(tmp_path):
    def draw():
        figure = Figure(figsize=(8, 4))
        figure.add_subplot().plot([1, 2], [3, 4])
        return Folder(tmp_path).write_all({"a.png": png_bytes(figure)})[0].read_bytes()

    first = draw()
    assert first == draw()
    assert first.startswith(b"\x89PNG")
    assert int.from_bytes(first[16:20], "big") == 1200


def test_frame_has_a_row_for_every_point_and_part(world):
    fit, test = world(policy=0.9, n=500)
    frame = frontier_frame(fit, test)
    assert list(frame.columns) == [
        *("router", "family", "price", "part", "cost", "cost_low", "cost_high", "error", "error_low", "error_high"),
        *("share_a", "share_b", "spent_a", "spent_b"),
    ]
    assert len(frame) == len(fit) + len(test)
    for row, point in zip(frame.itertuples(index=False), [*fit, *test], strict=True):
        routing, found = point.routing, interval(point.routing)
        assert (row.router, row.family, row.part) == (point.router, point.family, routing.part)
        assert row.price == point.price or (np.isnan(row.price) and np.isnan(point.price))
        assert (row.cost, row.error) == pytest.approx((routing.mean_cost, routing.error))
        assert (row.cost_low, row.cost_high) == (found.cost.low, found.cost.high)
        assert (row.error_low, row.error_high) == (found.error.low, found.error.high)
        assert (row.share_a, row.share_b) == tuple(routing.exit_share)
        assert row.spent_a + row.spent_b == pytest.approx(1)


def test_stages_of_all_routes_get_a_column(world, routes):
    fit, test = world(policy=0.9, n=100)
    other = type(routes)(("b", "z"), ((0,), (1,)), np.diag([10.0, 5.0]), "ms")
    stranger = type(test[0].routing)(other, np.array([1, 1]), np.zeros(2, int), np.zeros(2), "test")
    frame = frontier_frame(fit, [*test, type(test[0])("single", "z", float("nan"), stranger)])
    assert list(frame.columns[-6:]) == ["share_a", "share_b", "share_z", "spent_a", "spent_b", "spent_z"]
    assert frame.iloc[-1][["share_a", "share_b", "share_z", "spent_z"]].tolist() == [0, 0, 1, 1]
    assert (frame["share_z"].iloc[:-1] == 0).all()


def test_same_seed_same_bytes(world, tmp_path):
    fit, test = world(policy=0.9, n=300)
    written = [csv_bytes(frontier_frame(fit, test, Bootstrap(seed=seed))) for seed in (0, 0, 1)]
    assert written[0] == written[1] != written[2]


def test_frame_survives_the_csv(world, tmp_path):
    frame = frontier_frame(*world(policy=0.9, n=300))
    back = pd.read_csv(BytesIO(csv_bytes(frame)), keep_default_na=True, na_filter=True)
    assert back["cost"].to_numpy() == pytest.approx(frame["cost"].to_numpy(), rel=1e-9)
    assert back["router"].to_list() == frame["router"].to_list()
