"""``python -m eval.run`` on the embedded networks and images: what it prints is what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from offramp.cascades.files.datafolder import read_folder
from offramp.cascades.files.embedded import EMBEDDED

pytest.importorskip("torch", reason="running networks needs torch: install offramp[models]")

from offramp.cascades.files.provenance import PICTURES
from offramp.eval.measured.picking import picked_on
from offramp.eval.measured.trial import extra_error, wilson
from offramp.eval.run import main
from offramp.features.errors import InputError

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("alexnet", "googlenet", "resnet")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The command as a user runs it, in a process of its own."""
    out = tmp_path_factory.mktemp("run")
    command = [sys.executable, "-W", "error", "-m", "eval.run", "--topology", "a_g_r", "--rounds", "2"]
    more = ["--points", "8", "--queue", "4", "--out", str(out)]
    done = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return out, done.stdout


def test_everybody_is_in_the_table(ran: tuple[Path, str]) -> None:
    frame = pd.read_csv(ran[0] / "run.csv")
    assert frame["system"].tolist() == [*STAGES, "cascade +0", "cascade +1"]
    for name in frame["system"]:
        assert name in ran[1]
    assert "pays above" in ran[1] or "can't pay" in ran[1]
    assert "gathered across requests" in " ".join(ran[1].split())


def test_the_routing_is_that_of_stored_outputs_example_by_example(ran: tuple[Path, str]) -> None:
    frame = pd.read_csv(ran[0] / "run.csv")
    cascades = frame[frame["system"].str.startswith("cascade")]
    assert (cascades["routed_as_stored"] == cascades["images"]).all()


def test_errors_are_those_of_the_stored_outputs(ran: tuple[Path, str]) -> None:
    """The embedded images are the first of the test part, so its logits tell who is wrong."""
    frame = pd.read_csv(ran[0] / "run.csv").set_index("system")
    test = read_folder("cifar10").parts["test"]
    n = int(frame["images"].iloc[0])
    for stage in test.stages:
        assert stage.logits is not None
        wrong = stage.logits[:n].argmax(1) != test.labels[:n]
        assert frame.loc[stage.name, "error"] == pytest.approx(wrong.mean())


def test_times_and_shares_add_up(ran: tuple[Path, str]) -> None:
    frame = pd.read_csv(ran[0] / "run.csv").set_index("system")
    assert (frame["ms_per_image"] > 0).all()
    assert frame.loc["resnet", "speedup"] == 1
    np.testing.assert_allclose(frame["speedup"], frame.loc["resnet", "ms_per_image"] / frame["ms_per_image"])
    np.testing.assert_allclose(frame[[f"share_{stage}" for stage in STAGES]].sum(axis=1), 1)
    np.testing.assert_allclose(frame["times_ideal"], frame["ms_per_image"] / frame["ideal_ms_per_image"])
    costs = read_folder("cifar10").costs
    for stage in STAGES:
        assert frame.loc[stage, "predicted_cost"] == pytest.approx(costs.step((), stage))
    report = json.loads((ran[0] / "run.json").read_text("utf-8"))
    for line in report["break_even"]:
        assert 0 < line["stops"] < 1
        assert line["pays_above"] is None or line["pays_above"] > 0


def test_embedded_images_are_the_first_test_images() -> None:
    with np.load(EMBEDDED / "cifar10" / PICTURES) as held:
        labels = held["labels"]
    assert 200 <= len(labels) <= 1000
    np.testing.assert_array_equal(labels, read_folder("cifar10").parts["test"].labels[: len(labels)])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--topology", "a_x"], "x"),
        (["--topology", "a_r", "--models", "alexnet=cifar_alexnet"], "resnet"),
        (["--topology", "a_r", "--data", "imagenet"], "--models alexnet=NETWORK"),
        (["--topology", "a_r", "--images", "nowhere"], "nowhere"),
        (["--topology", "a_r", "--rows", "9:3"], "rows"),
        (["--topology", "a_r", "--device", "cuda:77"], "device"),
        (["--topology", "a_r", "--policies", "nowhere"], "policies.json"),
        (["--topology", "a_r", "--margins", "-1"], "--margins"),
    ],
)
def test_bad_input_is_told(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags) == 2
    assert said in capsys.readouterr().err


def test_policies_that_were_written_are_picked_by_their_table(tmp_path: Path) -> None:
    from offramp.eval.frontier import main as frontier

    flags = ["--topology", "a_r", "--points", "3", "--policies", "constant,threshold"]
    assert frontier([*flags, "--out", str(tmp_path)]) == 0
    assert main(["--topology", "a_r", "--policies", str(tmp_path), "--rounds", "1", "--out", str(tmp_path)]) == 0
    frame = pd.read_csv(tmp_path / "run.csv")
    table = pd.read_csv(tmp_path / "frontier.csv")
    picked = table[(table["router"] == "policy") & (table["part"] == "fit")]
    promised = frame["promised_cost"].dropna()
    assert len(promised) == 2
    for cost in promised:
        assert np.isclose(picked["cost"], cost, rtol=1e-6).any()
    with pytest.raises(InputError, match="policies"):
        picked_on(tmp_path / "frontier.csv", 10_000, "resnet")
    assert main(["--topology", "a_g", "--policies", str(tmp_path)]) == 2


def test_intervals_by_hand() -> None:
    low, high = wilson(20, 100)
    assert (round(low, 4), round(high, 4)) == (0.1334, 0.2888)
    same = extra_error(np.array([True, False]), np.array([True, False]), 0)
    assert same == {"extra_error": 0, "extra_low": 0, "extra_high": 0}
    worse = extra_error(np.ones(400, bool), np.arange(400) < 200, 0)
    assert worse["extra_error"] == 0.5
    assert 0.44 < worse["extra_low"] < 0.46
    assert 0.54 < worse["extra_high"] < 0.56


def test_help_does_not_load_torch() -> None:
    code = (
        "import sys; from offramp.eval.run import main\ntry: main(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.rstrip().endswith("False")
