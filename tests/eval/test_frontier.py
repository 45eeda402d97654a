"""The main command as a user runs it: real processes on small folders, what they write, and what they refuse."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from offramp.cascades.files.codec import from_plain
from offramp.cascades.files.datafolder import read_folder
from offramp.cascades.files.embedded import EMBEDDED
from offramp.cascades.graph.hull import lower_hull
from offramp.cascades.graph.routing import coins, mixed
from offramp.cascades.learning.answers import LOSSES
from offramp.cascades.learning.chains import route_chain
from offramp.cascades.learning.outcomes import single_outcomes
from offramp.cascades.learning.recipe import LEAST_EXAMPLES
from offramp.eval.frontier import FILES, Settings, main

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""

ROOT = Path(__file__).resolve().parents[2]
POINTS = 4
POINTS_FLAG = ("--points", str(POINTS))
ROWS = 600
STAGES = ("alexnet", "googlenet", "resnet")
HEAVY = {"torch", "torchvision", "timm", "sklearn", "optuna"}
COLUMNS = [
    *("router", "family", "price", "part"),
    *("cost", "cost_low", "cost_high", "error", "error_low", "error_high"),
    *(f"share_{stage}" for stage in STAGES),
    *(f"spent_{stage}" for stage in STAGES),
]
ROUTERS = {"policy", "soft_oracle", "hard_oracle", "joint", "myopic", "uniform", "single"}

Done = subprocess.CompletedProcess[str]


def python(*argv: str | Path) -> Done:
    return subprocess.run(
        [sys.executable, *map(str, argv)], cwd=ROOT, capture_output=True, encoding="utf-8", timeout=120, check=False
    )


def command(*flags: str | Path) -> Done:
    return python("-m", "eval.frontier", *flags)


def frontier(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "frontier.csv")


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def small_folder(folder: Path, parts: Sequence[str] = ("fit", "test"), rows: int = ROWS) -> Path:
    """The first rows of the embedded parts as a user's own folder; a tune part takes those that follow fit's."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(EMBEDDED / "cifar10" / "costs.json", folder)
    for part in parts:
        start = rows if part == "tune" else 0
        with np.load(EMBEDDED / "cifar10" / f"{'test' if part == 'test' else 'fit'}.outputs.npz") as arrays:
            np.savez(folder / f"{part}.outputs.npz", **{k: arrays[k][start : start + rows] for k in arrays.files})
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_folder(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture(scope="session")
def ran(small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The command's plainest run: where it wrote, and what it said. Warnings would be errors."""
    out = tmp_path_factory.mktemp("out") / "made" / "if need be"
    flags = ("--topology", "a_g_r", "--data", small, *POINTS_FLAG, "--out", out)
    done = python("-W", "error", "-m", "eval.frontier", *flags)
    assert done.returncode == 0, done.stderr
    return out, done


AGAIN = """
import runpy, sys
try:
    runpy.run_module("eval.frontier", run_name="__main__", alter_sys=True)
except SystemExit as left:
    print("left with", left.code)
print("heavy:", sorted(HEAVY & {name.partition(".")[0] for name in sys.modules}))
"""


@pytest.fixture(scope="session")
def ran_again(small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The same once more, in a process that says afterwards what it has imported."""
    out = tmp_path_factory.mktemp("again")
    program = AGAIN.replace("HEAVY", repr(HEAVY))
    done = python("-c", program, "--topology", "a_g_r", "--data", small, *POINTS_FLAG, "--out", out)
    return out, done


# --- what a run leaves behind


def test_the_four_files_and_nothing_else(ran: tuple[Path, Done]) -> None:
    out, done = ran
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert FILES == ("frontier.csv", "frontier.png", "policies.json", "summary.json")
    assert done.stderr == ""
    printed = "".join(done.stdout.split())
    for name in FILES:
        assert name in printed


def test_columns_are_those_promised(ran: tuple[Path, Done]) -> None:
    table = frontier(ran[0])
    assert list(table.columns) == COLUMNS
    assert set(table["router"]) >= ROUTERS
    assert set(table["part"]) == {"fit", "test"}


def test_rows_add_up(ran: tuple[Path, Done]) -> None:
    table = frontier(ran[0])
    for kind in ("share", "spent"):
        np.testing.assert_allclose(table[[f"{kind}_{stage}" for stage in STAGES]].sum(axis=1), 1)
    for number in ("cost", "error"):
        assert (table[f"{number}_low"] <= table[number] + 1e-9).all()
        assert (table[number] <= table[f"{number}_high"] + 1e-9).all()
    assert table["error"].between(0, 1).all()
    # errors of 600 examples are counts
    np.testing.assert_allclose(table["error"] * ROWS, (table["error"] * ROWS).round(), atol=1e-6)
    learned = table[(table["router"] == "policy") & (table["price"] > 0)]
    tuned = learned["family"].str.startswith("thresholds ")
    assert learned[tuned].groupby("part").size().to_dict() == {"fit": POINTS, "test": POINTS}
    learned = learned[~tuned]
    assert learned.groupby("part").size().to_dict() == {"fit": POINTS, "test": POINTS}
    for _, part in learned.groupby("part"):
        assert part["price"].is_monotonic_increasing


def test_both_parts_have_the_same_points(ran: tuple[Path, Done]) -> None:
    table = frontier(ran[0])
    fit, test = (table[table["part"] == part].reset_index(drop=True) for part in ("fit", "test"))
    for column in ("router", "family", "price"):
        if column == "family":  # the in-sample threshold chooses its chain on the part that it is applied to
            fit, test = (part[part["router"] != "threshold"] for part in (fit, test))
        assert fit[column].equals(test[column])


def test_single_stages_cost_and_err_as_they_do(ran: tuple[Path, Done], small: Path) -> None:
    table = frontier(ran[0])
    costs = json.loads((small / "costs.json").read_text())["stages"]
    for part in ("fit", "test"):
        with np.load(small / f"{part}.outputs.npz") as arrays:
            for stage in STAGES:
                (row,) = table.query("router == 'single' and family == @stage and part == @part").to_dict("records")
                assert row["cost"] == pytest.approx(costs[stage])
                assert row["error"] == pytest.approx((arrays[stage].argmax(axis=1) != arrays["labels"]).mean())
                assert row[f"share_{stage}"] == row[f"spent_{stage}"] == 1


def test_the_picture_is_one(ran: tuple[Path, Done]) -> None:
    content = (ran[0] / "frontier.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    assert len(content) > 20_000


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_cascades_that_were_written_do_what_the_table_says(ran: tuple[Path, Done], small: Path) -> None:
    """Read back and applied to the test part, every written cascade has the cost and the error of its row."""
    out, _ = ran
    written = strict((out / "policies.json").read_text())
    assert (written["format"], written["version"]) == ("offramp cascades", 1)
    sweep = from_plain(written["sweep"], "policies.json")
    routed = sweep.route(read_folder(small).parts["test"].of(sweep.routes.stages))
    table = frontier(out).query("router == 'policy' and part == 'test'").reset_index(drop=True)
    entries = len(sweep.routes.entries)
    assert len(sweep.prices) == len(written["cascades"]) == POINTS + entries
    assert len(table) == POINTS + entries + POINTS + len(written["mixtures"])
    points = [routed.at(i) for i in range(len(sweep.prices))]
    test = read_folder(small).parts["test"].of(sweep.routes.stages)
    outcomes = single_outcomes(test, LOSSES[sweep.loss], sweep.reader.calibration)
    for plan in written["thresholds"]:
        path = tuple(sweep.routes.stages.index(name) for name in plan["path"].split(">"))
        points.append(route_chain(outcomes, sweep.routes, path, tuple(map(float, plan["cuts"]))))
    coin = coins(test.ids, written["coin"])
    points += [mixed(points[m["one"]], points[m["other"]], m["share"], coin) for m in written["mixtures"]]
    for point, row in zip(points, table.to_dict("records"), strict=True):
        assert row["cost"] == pytest.approx(point.mean_cost)
        assert row["error"] == pytest.approx(point.error)
    for told, row in zip(written["cascades"], table.to_dict("records"), strict=False):
        assert told["price"] == (None if math.isnan(row["price"]) else pytest.approx(row["price"]))
        assert told["entry"] in STAGES
        assert set(told["rules"]) == {"alexnet", "alexnet > googlenet", "googlenet"}


def test_the_summary_says_what_it_was_made_from_and_what_it_is_worth(ran: tuple[Path, Done]) -> None:
    found = strict((ran[0] / "summary.json").read_text())
    assert found["unit"] == "ms per image"
    assert found["chosen_on"] == {"part": "fit", "examples": ROWS}
    assert found["tested_on"] == {"part": "test", "examples": ROWS}
    assert set(found["routers"]) >= ROUTERS
    for margins in found["routers"].values():
        assert [each["margin"] for each in margins] == [0.0, 0.005, 0.01, 0.02]
    assert found["verdict"]
    # the stage to beat is the best on the part that things are picked on
    table = frontier(ran[0]).query("router == 'single' and part == 'fit'")
    assert found["best_single"]["stage"] == table.sort_values(["error", "cost"]).iloc[0]["family"]


def test_a_person_can_read_what_is_printed(ran: tuple[Path, Done]) -> None:
    out = ran[1].stdout
    for word in (*STAGES, "cost", "error", "budget", "oracle", f"{ROWS} examples", "ms per image"):
        assert word in out
    assert max(map(len, out.splitlines())) <= 200
    assert "\x1b" not in out


def test_same_seed_same_bytes(ran: tuple[Path, Done], ran_again: tuple[Path, Done]) -> None:
    for name in FILES:
        assert (ran[0] / name).read_bytes() == (ran_again[0] / name).read_bytes(), name


def test_nothing_heavy_is_imported(ran_again: tuple[Path, Done]) -> None:
    _, done = ran_again
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["left with 0", "heavy: []"]


# --- other runs


def test_last_answers_never_beat_the_hard_oracle_at_the_same_cost(small: Path, tmp_path: Path) -> None:
    done = command("--topology", "a_g_r", "--data", small, "--points", "12", "--answer", "last", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    table = frontier(tmp_path)
    for _, part in table.groupby("part"):
        oracle = part[part["router"] == "hard_oracle"]
        corners = oracle.iloc[lower_hull(oracle["cost"].to_numpy(), oracle["error"].to_numpy())]
        policy = part[part["router"] == "policy"]
        assert len(policy) >= 15
        bound = np.interp(policy["cost"], corners["cost"], corners["error"], left=np.nan)
        assert (policy["error"] >= bound - 1e-9)[np.isfinite(bound)].all()
        # left of its cheapest point too: at no price does anyone lose and spend less together
        priced = oracle[oracle["price"] > 0]
        assert len(priced) == 12
        for price, least in zip(priced["price"], priced["error"] + priced["price"] * priced["cost"], strict=True):
            assert (policy["error"] + price * policy["cost"] >= least - 1e-9).all()


def test_with_a_tune_part_points_are_picked_there(tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "data", ("fit", "tune", "test"), 300)
    done = command("--topology", "a>g,r;g>r", "--data", folder, "--points", "3", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    table, found = frontier(tmp_path / "out"), summary(tmp_path / "out")
    assert set(table["part"]) == {"tune", "test"}
    assert found["chosen_on"] == {"part": "tune", "examples": 300}
    with np.load(folder / "tune.outputs.npz") as arrays:
        wrong = (arrays["alexnet"].argmax(axis=1) != arrays["labels"]).mean()
    (row,) = table.query("router == 'single' and family == 'alexnet' and part == 'tune'").to_dict("records")
    assert row["error"] == pytest.approx(wrong)
    # one entry, so one cascade of one stage behind the prices
    assert len(strict((tmp_path / "out" / "policies.json").read_text())["cascades"]) == 3 + 1


NAMES = np.array(["cat", "dog, wild", "emu", 'a "fox"'])


def of_answers(n: int, seed: int = 0, text: bool = False) -> pd.DataFrame:
    """Answers of two stages, with a confidence that means something; ranked ones of the dearer."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, n)
    columns: dict[str, Any] = {"label": label}
    for stage, right in (("small model", 0.7), ("big.model", 0.9)):
        hit = rng.random(n) < right
        columns[f"{stage}.answer"] = np.where(hit, label, (label + rng.integers(1, 4, n)) % 4)
        columns[f"{stage}.confidence"] = (rng.random(n) * 0.5 + 0.5 * (hit == (rng.random(n) < 0.8))).round(4)
    columns["big.model.answer2"] = (columns["big.model.answer"] + 1) % 4
    table = pd.DataFrame(columns)
    if text:
        for name in ("label", *(name for name in table if ".answer" in str(name))):
            table[name] = NAMES[table[name]]
        table["remarks"] = "none, really"
    return table


COSTS = {"unit": "¢ per 1,000 calls", "stages": {"small model": 1, "big.model": 20.5}}


@pytest.mark.parametrize("kind", ["one unnamed parquet", "csv with a mark, quotes and texts"])
def test_a_users_own_folder_of_answers(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "costs.json").write_text(json.dumps(COSTS), "utf-8")
    if "parquet" in kind:
        of_answers(400).to_parquet(tmp_path / "answers.parquet")
        parts = {"fit": 200, "test": 200}
    else:
        parts = {"fit": 200, "test": 150}
        for seed, (part, n) in enumerate(parts.items()):
            of_answers(n, seed, text=True).to_csv(tmp_path / f"{part}.answers.csv", index=False, encoding="utf-8-sig")
    monkeypatch.chdir(ROOT)
    flags = ["--topology", "small model_big", "--data", str(tmp_path), "--points", "3", "--out", str(tmp_path / "out")]
    assert main(flags) == 0, capsys.readouterr().err
    table, found = frontier(tmp_path / "out"), summary(tmp_path / "out")
    assert [name for name in table if name.startswith("share_")] == ["share_small model", "share_big.model"]
    assert found["unit"] == "¢ per 1,000 calls"
    assert found["tested_on"] == {"part": "test", "examples": parts["test"]}
    assert found["chosen_on"] == {"part": "fit", "examples": parts["fit"]}
    (big,) = table.query("router == 'single' and family == 'big.model' and part == 'test'").to_dict("records")
    assert big["cost"] == 20.5
    assert big["error"] == pytest.approx(0.1, abs=0.07)


@pytest.mark.parametrize("loss", ["top5", "excess"])
def test_ranked_answers_alone_under_other_losses(tmp_path: Path, capsys: pytest.CaptureFixture[str], loss: str) -> None:
    table = pd.read_parquet(EMBEDDED / "imagenet" / "answers.parquet").iloc[:500]
    table.to_parquet(tmp_path / "answers.parquet")
    shutil.copy(EMBEDDED / "imagenet" / "costs.json", tmp_path)
    out = tmp_path / "out"
    flags = ["--topology", "a_g_r", "--data", str(tmp_path), "--loss", loss, "--points", "2", "--out", str(out)]
    assert main(flags) == 0, capsys.readouterr().err
    single = frontier(out).query("router == 'single'").groupby("family")["error"].mean()
    ranks = ["", "2", "3", "4", "5"] if loss == "top5" else [""]
    right = {
        stage: np.any([table[f"{stage}.answer{r}"] == table["label"] for r in ranks], axis=0) for stage in single.index
    }
    for stage, error in single.items():
        lost = ~right[stage] & right["resnet50"] if loss == "excess" else ~right[stage]
        assert error == pytest.approx(lost.mean())


@pytest.mark.parametrize(
    ("topology", "costs"),
    [
        ("a", (0, 5, 5)),
        ("a", (5, 5, 5)),
        ("a_g", (0, 0, 5)),
        ("a>g", (1, 0, 5)),
        ("g_a_r", (2, 2, 2)),
        ("r_a", (9, 1, 1)),
    ],
)
def test_odd_costs_and_topologies_just_work(
    tmp_path: Path, small: Path, capsys: pytest.CaptureFixture[str], topology: str, costs: tuple[float, ...]
) -> None:
    for part in ("fit", "test"):
        with np.load(small / f"{part}.outputs.npz") as arrays:
            np.savez(tmp_path / f"{part}.outputs.npz", **{k: arrays[k][:80] for k in arrays.files})
    content = {"unit": "s", "stages": dict(zip(STAGES, costs, strict=True))}
    (tmp_path / "costs.json").write_text(json.dumps(content))
    flags = ["--topology", topology, "--data", str(tmp_path), "--points", "2", "--out", str(tmp_path / "out")]
    assert main(flags) == 0, capsys.readouterr().err
    strict((tmp_path / "out" / "summary.json").read_text())
    strict((tmp_path / "out" / "policies.json").read_text())


# --- help


def test_help_explains_every_flag_and_needs_nothing() -> None:
    program = (
        "import sys\nfrom offramp.eval.frontier import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as left:\n"
        "    print('left with', left.code, sorted({'numpy', 'pandas', 'scipy', 'matplotlib', 'rich', *HEAVY}"
        " & {name.partition('.')[0] for name in sys.modules}))\n"
    )
    done = python("-c", program.replace("HEAVY", repr(HEAVY)))
    assert done.stdout.splitlines()[-1] == "left with 0 []", done.stderr
    told = " ".join(done.stdout.split())
    for field in fields(Settings):
        flag = f"--{field.name}"
        assert f"{flag} " in told
        explained = re.sub(r"\s", "", str(field.metadata["help"]))
        assert len(explained) > 15
        assert explained in re.sub(r"\s", "", done.stdout)
    assert command("--help").returncode == 0


# --- what is refused


def refused(done: Done) -> str:
    """The one line on stderr of a command that took nothing in and wrote nothing."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "expected" in line
    assert "found" in line
    return line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--colour", "red"], ["--colour", "--topology", "--points"]),
        (["--point", "3"], ["--point", "did you mean --points"]),
        (["a_g_r"], ["'a_g_r'"]),
        (["--topology"], ["--topology", "a value"]),
        ([], ["--topology", "stages in order"]),
        (["--topology", "a_g_r", "--data", "cifar100"], ["'cifar100'", "cifar10", "imagenet"]),
        (["--topology", "a_x_r"], ["'x'", "alexnet", "googlenet", "resnet"]),
        (["--topology", "a_resnet101"], ["'resnet101'"]),
        (["--topology", "a>g;g>r;r>a"], ["cycle", "a"]),
        (["--topology", "a_a"], ["'alexnet' twice"]),
        (["--topology", ";"], ["topology"]),
        (["--topology", "a_g_r", "--points", "0"], ["--points", "at least 1", "'0'"]),
        (["--topology", "a_g_r", "--points", "x"], ["--points", "whole number", "'x'"]),
        (["--topology", "a_g_r", "--points", "2.5"], ["--points", "'2.5'"]),
        (["--topology", "a_g_r", "--seed", "-1"], ["--seed", "at least 0"]),
        (["--topology", "a_g_r", "--loss", "top3"], ["--loss", "top1, top5, excess"]),
        (["--topology", "a_g_r", "--answer", "first"], ["--answer", "last, any, fused"]),
        (["--topology", "a_g_r", "--policies", "value,magic"], ["--policies", "threshold", "'magic'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_bad_command_line(tmp_path: Path, flags: list[str], words: list[str]) -> None:
    line = refused(command(*flags, "--out", tmp_path / "out"))
    for word in words:
        assert word in line
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def change(folder: Path, part: str, **changes: Any) -> None:
    """Arrays of a part replaced, or left out where None is given."""
    path = folder / f"{part}.outputs.npz"
    with np.load(path) as found:
        arrays = {name: found[name] for name in found.files} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def missing_part(folder: Path) -> None:
    (folder / "test.outputs.npz").unlink()


def no_costs(folder: Path) -> None:
    (folder / "costs.json").unlink()


def pickled(folder: Path) -> None:
    change(folder, "fit", resnet=np.array([{"a": 1}] * 60, dtype=object))


def truncated(folder: Path) -> None:
    path = folder / "fit.outputs.npz"
    path.write_bytes(path.read_bytes()[:-200])


def not_a_number(folder: Path) -> None:
    with np.load(folder / "fit.outputs.npz") as arrays:
        logits = arrays["googlenet"]
    logits[17, 3] = np.nan
    change(folder, "fit", googlenet=logits)


def too_few(folder: Path) -> None:
    with np.load(folder / "test.outputs.npz") as arrays:
        change(folder, "test", **{name: arrays[name][:49] for name in arrays.files})


def twice(folder: Path) -> None:
    change(folder, "fit", ids=np.r_[0, np.arange(59)])


def leak(folder: Path) -> None:
    change(folder, "fit", ids=np.arange(60))
    change(folder, "test", ids=np.arange(59, 119))


def cost_without_data(folder: Path) -> None:
    change(folder, "fit", resnet=None)


def data_without_cost(folder: Path) -> None:
    (folder / "costs.json").write_text('{"unit": "ms", "stages": {"alexnet": 1, "resnet": 2}}')


def negative_cost(folder: Path) -> None:
    (folder / "costs.json").write_text('{"unit": "ms", "stages": {"alexnet": 1, "googlenet": -2, "resnet": 2}}')


def label_outside(folder: Path) -> None:
    change(folder, "fit", labels=np.full(60, 10))


def lengths_differ(folder: Path) -> None:
    change(folder, "fit", labels=np.zeros(59, int))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (missing_part, ["test.outputs.npz", "fit.outputs.npz"]),
        (no_costs, ["costs.json", "No such file"]),
        (pickled, ["fit.outputs.npz", "'resnet'", "pickled"]),
        (truncated, ["fit.outputs.npz", "truncated"]),
        (not_a_number, ["fit.outputs.npz", "'googlenet'", "row 17", "nan", "column 3"]),
        (too_few, [f"at least {LEAST_EXAMPLES} examples", "49", "'test'"]),
        (twice, ["fit.outputs.npz", "id 0", "rows 0 and 1"]),
        (leak, ["fit.outputs.npz", "test.outputs.npz", "id 59", "leak"]),
        (cost_without_data, ["fit.outputs.npz", "'resnet'", "costs.json"]),
        (data_without_cost, ["fit.outputs.npz", "'googlenet'", "costs.json"]),
        (negative_cost, ["costs.json", "'googlenet'", "-2"]),
        (label_outside, ["fit.outputs.npz", "labels", "row 0", "10"]),
        (lengths_differ, ["fit.outputs.npz", "59"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_bad_data(tmp_path: Path, spoil: Callable[[Path], None], words: list[str]) -> None:
    folder = small_folder(tmp_path / "data", rows=60)
    spoil(folder)
    line = refused(command("--topology", "a_r", "--data", folder, "--out", tmp_path / "out"))
    for word in words:
        assert word in line
    assert list((tmp_path / "out").iterdir()) == []


def test_a_halved_part_may_be_too_few(tmp_path: Path) -> None:
    of_answers(2 * LEAST_EXAMPLES - 1).to_parquet(tmp_path / "answers.parquet")
    (tmp_path / "costs.json").write_text(json.dumps(COSTS), "utf-8")
    line = refused(command("--topology", "s_b", "--data", tmp_path, "--out", tmp_path / "out"))
    assert f"at least {LEAST_EXAMPLES} examples" in line
    assert f"{LEAST_EXAMPLES - 1} in part 'fit'" in line


def test_the_output_folder_is_tried_before_the_work(tmp_path: Path) -> None:
    """No data is looked for where nothing could be written."""
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for out in (taken, taken / "below"):
        line = refused(command("--topology", "a_g_r", "--data", tmp_path / "no such data", "--out", out))
        assert "--out" in line
        assert str(taken) in line
    assert taken.read_text() == "mine"
    folder = tmp_path / "out" / "summary.json"
    folder.mkdir(parents=True)
    line = refused(command("--topology", "a_g_r", "--data", tmp_path / "no such data", "--out", tmp_path / "out"))
    assert "--out" in line
    assert "'summary.json'" in line


# --- killed runs


def old_results(folder: Path) -> dict[str, bytes]:
    """What an earlier run is taken to have left, and its bytes."""
    folder.mkdir()
    content = {name: f"an older {name}".encode() for name in FILES}
    for name, old in content.items():
        (folder / name).write_bytes(old)
    return content


def killed(out: Path, data: str | Path, when: Callable[[], bool]) -> subprocess.Popen[bytes]:
    """A run that was killed, beyond catching, as soon as ``when`` said so, if it had not ended before."""
    flags = ["--topology", "a_g_r", "--data", str(data), *POINTS_FLAG, "--out", str(out)]
    run = subprocess.Popen(
        [sys.executable, "-m", "eval.frontier", *flags], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        limit = time.monotonic() + 60
        while run.poll() is None and not when():
            assert time.monotonic() < limit
    finally:
        if run.poll() is None:
            os.kill(run.pid, signal.SIGKILL)
        run.wait(timeout=30)
    return run


def test_a_run_killed_at_work_leaves_the_old_files_whole(tmp_path: Path) -> None:
    content = old_results(tmp_path / "out")
    start = time.monotonic()

    def at_work() -> bool:
        time.sleep(0.02)
        return time.monotonic() > start + 1.2

    run = killed(tmp_path / "out", "cifar10", at_work)
    assert run.returncode == -signal.SIGKILL
    assert {name: (tmp_path / "out" / name).read_bytes() for name in FILES} == content


def test_a_run_killed_while_it_writes_leaves_every_file_whole(
    tmp_path: Path, small: Path, ran: tuple[Path, Done]
) -> None:
    """Each is the older one or, byte for byte, the one that this run would have left."""
    out = tmp_path / "out"
    content = old_results(out)

    def writing() -> bool:
        time.sleep(0.001)
        return (out / "frontier.csv").read_bytes() != content["frontier.csv"]

    killed(out, small, writing)
    new = 0
    for name in FILES:
        found = (out / name).read_bytes()
        assert found in (content[name], (ran[0] / name).read_bytes()), name
        new += found != content[name]
    # the first is written before the picture is drawn, so it at least was there
    assert new >= 1
    left = [path.name for path in out.iterdir() if path.name not in FILES]
    assert all(name.startswith(".") for name in left)
