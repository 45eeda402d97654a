"""The command as a user runs it, in real processes on tiny networks; what it writes, draws, compares and refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from offramp.cascades.graph.costs import Costs, StageCost, read_costs, write_costs
from offramp.cascades.measuring.latency import OF_EXITS, WHAT, Line, fit_line
from offramp.eval.profile import COLUMNS, COSTS, FILES, agreement, latency_picture, main, pixels_of, read_profile

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""

ROOT = Path(__file__).resolve().parents[2]
BATCHES = (1, 3)
STAGES = ("alexnet", "big")
LIGHT = {"torch", "torchvision", "timm", "pandas", "matplotlib"}
FLAGS = ("--no-pretrained", "--device", "cpu")

pytest.importorskip("torch", reason="networks need torch")


def python(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    # what this process has loaded may have set it already
    environment = {key: value for key, value in os.environ.items() if key != "KINETO_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, *map(str, argv)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        env=environment,
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The command's plainest run: where it wrote, and what it said. Warnings would be errors."""
    out = tmp_path_factory.mktemp("out") / "made" / "if need be"
    flags = ("--models", "cifar_alexnet", "big=cifar_alexnet", "--batches", "3", "1,3", "--threads", "1")
    done = python("-W", "error", "-m", "eval.profile", *flags, *FLAGS, "--seconds", "0.01", "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    return out, done.stdout


@pytest.fixture(scope="module")
def table(ran: tuple[Path, str]) -> pd.DataFrame:
    return read_profile(ran[0] / "profile.csv")


@pytest.fixture(scope="module")
def record(ran: tuple[Path, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ran[0] / "profile.json").read_text())
    return found


# --- what a run leaves behind


def test_the_files_and_nothing_else(ran: tuple[Path, str]) -> None:
    out, said = ran
    assert sorted(path.name for path in out.iterdir()) == sorted([*FILES, COSTS])
    for name in (*FILES, COSTS):
        assert str(out / name) in said
    content = (out / "latency.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")


def test_a_row_for_every_stage_thing_and_batch(table: pd.DataFrame) -> None:
    assert tuple(table.columns) == COLUMNS
    what = [each for each in WHAT if each not in OF_EXITS]
    rows = set(table[["stage", "what", "batch"]].itertuples(index=False, name=None))
    assert rows == {(stage, each, batch) for stage in STAGES for each in what for batch in BATCHES}
    assert len(table) == len(rows)


def test_times_are_ordered_and_positive(table: pd.DataFrame) -> None:
    assert (table["ms_low"] >= 0).all()
    assert (table["ms_low"] < table["ms_median"]).all()
    assert (table["ms_median"] < table["ms_high"]).all()
    assert (table["ms_low_quartile"] <= table["ms_median"]).all()
    assert (table["ms_median"] <= table["ms_high_quartile"]).all()
    assert (table["repeats"] >= 10).all()


def test_networks_have_their_size_and_the_rest_has_none(table: pd.DataFrame) -> None:
    whole, rest = table[table["what"] == "network"], table[table["what"] != "network"]
    assert set(whole["multiply_adds"]) == {9180096}  # 3, 24, 48, 64, 64, 48 channels and 768, 192, 96, 10 wide
    assert len(set(whole["parameters"])) == 1
    weights = 4 * whole["parameters"].iloc[0] / 1e6
    assert whole["peak_memory_mb"].between(weights, 10 * weights).all()
    assert rest[["multiply_adds", "parameters", "peak_memory_mb", "energy_j"]].isna().all(axis=None)
    # a number, or why there is none
    assert (whole["energy_j"].notna() != (whole["energy_note"].fillna("") != "")).all()


def test_costs_are_the_medians_of_an_image_at_the_largest_batch(ran: tuple[Path, str], table: pd.DataFrame) -> None:
    costs = read_costs(ran[0] / COSTS)
    assert (costs.unit, costs.batch, tuple(costs.stages)) == ("ms per image", 3, STAGES)
    whole = table[(table["what"] == "network") & (table["batch"] == 3)].set_index("stage")["ms_median"]
    for stage in STAGES:
        assert costs.step((), stage) == pytest.approx(whole[stage] / 3)
    content = json.loads((ran[0] / COSTS).read_text())
    assert (content["threads"], content["dtype"], content["compiled"]) == (1, "float32", False)
    assert {"python", "torch"} <= set(content["versions"])
    assert content["device"] == costs.device != ""


def test_what_costs_are_about_takes_no_names_that_mean_something(tmp_path: Path) -> None:
    about = {"threads": 2, "stages": {"a": 9}, "unit": "other", "device": "other", "batch": -1}
    costs = Costs({"a": StageCost("a", 1.0, 0.0)}, "ms", about=about)
    write_costs(costs, tmp_path / COSTS)
    assert json.loads((tmp_path / COSTS).read_text()) == {"unit": "ms", "threads": 2, "stages": {"a": 1.0}}
    assert read_costs(tmp_path / COSTS) == costs


def test_what_stands_in_json(ran: tuple[Path, str], record: dict[str, Any], table: pd.DataFrame) -> None:
    assert (record["threads"], record["dtype"], record["kind"], record["batch_cost"]) == (1, "float32", "cpu", 3)
    assert [(each["stage"], each["spec"]) for each in record["stages"]] == [
        ("alexnet", "cifar_alexnet"),
        ("big", "big=cifar_alexnet"),
    ]
    lines = {(each["stage"], each["what"]): each for each in record["lines"]}
    assert set(lines) == set(table[["stage", "what"]].itertuples(index=False, name=None))
    for (stage, what), line in lines.items():
        mine = table[(table["stage"] == stage) & (table["what"] == what)]
        fitted = line["overhead"] + line["slope"] * mine["batch"]
        misfit = (abs(fitted - mine["ms_median"]) / mine["ms_median"]).max()
        assert line["misfit"] == pytest.approx(misfit, abs=1e-6)
        assert min(line["overhead"], line["slope"]) >= 0


def test_what_is_said(ran: tuple[Path, str], table: pd.DataFrame, record: dict[str, Any]) -> None:
    said = ran[1]
    assert f"{record['device']}, 1 thread, float32" in said
    for word in (*STAGES, "gather", "transfer", "decision", "overhead", "largest misfit"):
        assert word in said
    assert max(map(len, said.splitlines())) <= 200


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom offramp.eval.profile import main\ntry:\n    main(['--help'])\nexcept SystemExit as left:\n"
        f"    print('left with', left.code, sorted({LIGHT!r} & set(sys.modules)))"
    )
    done = python("-W", "error", "-c", program)
    assert done.stdout.endswith("left with 0 []\n"), done.stderr
    assert "--batch-cost" in done.stdout


# --- what it refuses


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--models: expected a value"),
        (("--models", "cifar_alexnet", "--batches", "0"), "--batches: expected a whole number, at least 1"),
        (("--models", "cifar_alexnet", "--batches", "1,x"), "--batches: expected a whole number"),
        (("--models", "cifar_alexnet", "--batches", "1,2", "--batch-cost", "4"), "--batch-cost: expected one of"),
        (("--models", "cifar_alexnet", "--seconds", "0"), "--seconds: expected"),
        (("--models", "cifar_alexnet", "--dtype", "int8"), "--dtype: expected one of float32, bfloat16"),
        (("--models", "cifar_alexnet", "--device", "gpu"), "expected auto, cpu, cuda or cuda:N"),
        (("--models", "cifar_alexnet", "--check", "nothing.csv"), "--check nothing.csv: expected a profile.csv"),
        (("--models", "cifar_nonsense"), "cifar_nonsense"),
        (("--models", "cifar_alexnet", "--data", "no/where", *FLAGS), "no/where"),
    ],
)
def test_bad_flags(flags: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*flags, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert main(["--models", "cifar_alexnet", "--no-pretrained", "--device", "cuda", "--out", str(tmp_path)]) == 2
    assert "expected a GPU cuda, found no GPU" in capsys.readouterr().err


# --- pixels


class Photos:
    """Images of one colour each."""

    def __init__(self, *sizes: tuple[int, int]) -> None:
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def image(self, i: int) -> Any:
        from PIL import Image

        return Image.new("RGB", self.sizes[i], (i, i, i))


def wanting(resize: Any, crop: Any) -> Any:
    from offramp.cascades.models.preprocessing import Preprocessing

    return SimpleNamespace(spec="m", preprocessing=Preprocessing(resize, crop, "bilinear", (0.5,) * 3, (0.5,) * 3))


def test_pixels_of_images_begin_again_and_are_made_once_a_crop() -> None:
    one, other = wanting(None, (4, 6)), wanting(8, (8, 8))
    images: Any = Photos((9, 9), (5, 7))
    found = pixels_of([one, other, one], 5, images, 0)
    assert set(found) == {one.preprocessing.pixels_key, other.preprocessing.pixels_key}
    small = found[one.preprocessing.pixels_key].numpy()
    assert small.shape == (5, 4, 6, 3)
    assert small[:, 0, 0, 0].tolist() == [0, 1, 0, 1, 0]


def test_random_pixels_have_the_size_the_model_wants() -> None:
    sizes = {(4, 6): wanting(9, (4, 6)), (7, 5): wanting((7, 5), None), (8, 8): wanting(8, None)}
    for size, model in sizes.items():
        (pixels,) = pixels_of([model], 2, None, 0).values()
        assert pixels.shape == (2, *size, 3)
        assert pixels.float().std() > 50
        assert (pixels == pixels_of([model], 2, None, 0)[model.preprocessing.pixels_key]).all()


def test_pixels_that_have_no_size() -> None:
    from offramp.features.errors import InputError

    bare, none, two = wanting(None, None), Photos(), Photos((3, 3), (4, 4))
    with pytest.raises(InputError, match=r"m: expected --data, since this model takes images of any size"):
        pixels_of([bare], 2, None, 0)
    with pytest.raises(InputError, match="--data: expected at least one image"):
        pixels_of([bare], 2, none, 0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected images of one size"):
        pixels_of([bare], 2, two, 0)  # type: ignore[arg-type]


# --- two profiles


def rows(**medians: tuple[float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(
        [(stage, "network", 8, *values) for stage, values in medians.items()],
        columns=["stage", "what", "batch", "ms_median", "ms_low", "ms_high"],
    )


def test_profiles_agree_where_intervals_meet() -> None:
    one = rows(a=(5, 4, 6), b=(5, 4, 6), c=(5, 4, 6), mine=(1, 1, 1))
    other = rows(a=(7, 6, 8), b=(7, 6.5, 8), c=(2, 1, 3.9), yours=(1, 1, 1))
    assert agreement(one, one) == ["agrees with the earlier profile in 4 of 4 rows"]
    first, *rest = agreement(one, other)
    assert first == "agrees with the earlier profile in 1 of 3 rows"
    assert [line.split()[0] for line in rest] == ["b,", "c,"]
    assert "now 5.000 [4.000, 6.000] ms, then 7.000 [6.500, 8.000]" in rest[0]
    many = rows(**{f"s{i}": (5, 4, 6) for i in range(20)})
    assert agreement(many, many.assign(ms_low=9.0, ms_high=9.5))[-1] == "  and 12 more"


def test_profiles_of_other_things_cannot_agree() -> None:
    from offramp.features.errors import InputError

    with pytest.raises(InputError, match="no row in common"):
        agreement(rows(a=(5, 4, 6)), rows(b=(5, 4, 6)))


def test_broken_images_are_passed_over(tmp_path: Path) -> None:
    from PIL import Image

    from offramp.cascades.images.sources import open_images
    from offramp.features.errors import InputError

    model = wanting(None, (4, 6))
    (tmp_path / "i" / "cat").mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (6, 4), (10 * i, 0, 0)).save(tmp_path / "i" / "cat" / f"{i}.png")
    (tmp_path / "i" / "cat" / "1.png").write_bytes(b"")
    found = pixels_of([model], 3, open_images(tmp_path / "i"), 0)[model.preprocessing.pixels_key]
    assert found[:, 0, 0, 0].tolist() == [0, 20, 30]
    for i in range(4):
        (tmp_path / "i" / "cat" / f"{i}.png").write_bytes(b"")
    with pytest.raises(InputError, match="broken ones only"):
        pixels_of([model], 3, open_images(tmp_path / "i"), 0)


def test_a_profile_is_read_back(tmp_path: Path) -> None:
    from offramp.features.errors import InputError

    path = tmp_path / "profile.csv"
    rows(null=(5, 4, 6)).to_csv(path, index=False)
    assert read_profile(path)["stage"].tolist() == ["null"]
    rows(a=(5, 4, 6)).drop(columns="ms_low").to_csv(path, index=False)
    with pytest.raises(InputError, match=r"--check .*profile\.csv: expected .* found no ms_low"):
        read_profile(path)
    path.write_text("stage,what,batch,ms_median,ms_low,ms_high\na,network,1,fast,1,2\n")
    with pytest.raises(InputError, match="expected numbers in"):
        read_profile(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"expected a profile\.csv"):
        read_profile(path)


# --- the picture


@pytest.fixture(scope="module")
def drawn() -> tuple[Any, dict[str, Line]]:
    from offramp.eval.report.files import PIXELS_PER_INCH

    batches, made, lines = (1, 8, 64), [], {}
    for stage, overhead, slope in (("small", 1.0, 0.1), ("la$rge$", 2.0, 0.9)):
        medians = [overhead + slope * b for b in batches]
        lines[stage] = fit_line(batches, medians, [0.01 * m for m in medians])
        made += [(stage, "network", b, m, 0.9 * m, 1.2 * m) for b, m in zip(batches, medians, strict=True)]
        made += [(stage, "gather", b, 1e-6, 1e-6, 1e-6) for b in batches]
    names = ["stage", "what", "batch", "ms_median", "ms_low_quartile", "ms_high_quartile"]
    figure = latency_picture(pd.DataFrame(made, columns=names), lines, "Best CPU, 2 threads, float32")
    figure.savefig(BytesIO(), dpi=PIXELS_PER_INCH)
    return figure, lines


def test_points_bars_and_lines_stand_where_they_should(drawn: tuple[Any, dict[str, Line]]) -> None:
    figure, lines = drawn
    (axes,) = figure.axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert len(axes.containers) == len(lines)
    for container, line in zip(axes.containers, lines.values(), strict=True):
        points, _, (bars,) = container.lines
        assert points.get_xdata().tolist() == [1, 8, 64]
        assert points.get_ydata() == pytest.approx([line.at(b) for b in (1, 8, 64)])
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        assert ends == pytest.approx(np.outer([line.at(b) for b in (1, 8, 64)], [0.9, 1.2]))
    curves = [curve for curve in axes.lines if len(curve.get_xdata()) == 100]
    for curve, line in zip(curves, lines.values(), strict=True):
        assert curve.get_ydata() == pytest.approx([line.at(b) for b in curve.get_xdata()])
    assert axes.get_ylim()[0] > 0.5  # nothing but networks


def test_the_picture_says_what_it_shows(drawn: tuple[Any, dict[str, Line]]) -> None:
    figure, _ = drawn
    (axes,) = figure.axes
    assert "Best CPU, 2 threads, float32" in axes.get_title(loc="left")
    assert axes.get_ylabel() == "time of a batch (ms)"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "8", "64"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["small: 1 + 0.1 b", "la$rge$: 2 + 0.9 b"]


def test_a_picture_of_one_batch_size_and_many_stages() -> None:
    names = ["stage", "what", "batch", "ms_median", "ms_low_quartile", "ms_high_quartile"]
    stages = [f"s{i}" for i in range(9)]
    frame = pd.DataFrame([(stage, "network", 4, 2.0, 2.0, 2.0) for stage in stages], columns=names)
    figure = latency_picture(frame, {stage: fit_line([4], [2.0], [0.1]) for stage in stages}, "")
    figure.savefig(BytesIO())
