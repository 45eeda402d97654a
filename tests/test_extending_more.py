"""An oracle, a metric, a network and a source of another distribution: csv, table, picture and all suites have them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
"""Each is a process of its own, since entry points are looked up once."""

ROOT = Path(__file__).resolve().parents[1]

PLUGGED = """
import numpy as np
from offramp.cascades.graph.routing import OperatingPoint
from offramp.cascades.images.images import _made
from offramp.cascades.images.sources import Source
from offramp.cascades.models.zoo import Architecture
from offramp.eval.report.metrics import Metric, costs_errors
from offramp.oracles.router import Look, Oracle, Router

def everyone(fit, examples, routes, prices):
    way = np.full(len(examples), len(routes.paths) - 1)
    return [OperatingPoint("dearest", "", float("nan"), examples.follow(routes, way))]

dearest = Oracle(everyone, Router("everyone the last way", Look("#332288", "-", "<")))
least = Metric(lambda points, by: float(costs_errors(points)[1].min()), "least error, %", times=100)
least_cost = Metric(lambda points, by: float(costs_errors(points)[0].min()), "least cost", cost=True)

class Grey:
    def read(self, row):
        return np.full((32, 32, 3), 60 * row, np.uint8)

    def where(self, row):
        return f"row {row}"

def opened(path):
    return _made(path, [0, 1, 0, 1], ["a", "b"], Grey(), ["grey"])

grey = Source("a folder with a file called grey", lambda path: (path / "grey").is_file(), opened)

def net(classes):
    from torch import nn
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))

tiny = Architecture(net)
"""

ENTRIES = """
[offramp.oracles]
dearest = plugged_more:dearest
[offramp.metrics]
least = plugged_more:least
least_cost = plugged_more:least_cost
[offramp.sources]
grey = plugged_more:grey
[offramp.networks]
tiny = plugged_more:tiny
"""


@pytest.fixture(scope="module")
def plugged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that another distribution was installed into."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "plugged_more.py").write_text(PLUGGED, "utf-8")
    about = folder / "plugged_more-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged-more\nVersion: 1.0\n", "utf-8")
    (about / "entry_points.txt").write_text(ENTRIES, "utf-8")
    return folder


def python(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Python at the root of the repository, where the plug-in is installed."""
    there = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *argv], cwd=ROOT, env=there, capture_output=True, encoding="utf-8", check=False
    )


def test_an_oracle_and_a_metric_reach_csv_summary_table_and_picture(plugged: Path, tmp_path: Path) -> None:
    program = (
        "import sys, offramp\nparts = offramp.read('imagenet')\n"
        "some = {k: v.take(range(1500)) for k, v in parts.items()}\n"
        "found = offramp.fit(some['fit'], 'a_r', points=3, policies=('constant', 'threshold')).evaluate(some['test'])\n"
        "found.save(sys.argv[1])\nprint(found.table())\n"
        "print(*(text.get_text() for text in found.plot().legends[0].get_texts()), sep='|')\n"
    )
    done = python(plugged, "-c", program, str(tmp_path))
    assert done.returncode == 0, done.stderr
    *table, legend = done.stdout.splitlines()
    assert "everyone the last way" in legend.split("|")
    assert sum("everyone the last way" in line for line in table) == 2  # times cheaper, and metrics
    unit = json.loads((tmp_path / "summary.json").read_text("utf-8"))["unit"]
    assert any("least error, %" in line and f"least cost, {unit}" in line for line in table)
    with (tmp_path / "frontier.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["router"] == "dearest"]
    assert [row["part"] for row in rows] == ["fit", "test"]
    found = json.loads((tmp_path / "summary.json").read_text("utf-8"))["hindsight"]["routers"]["dearest"]["on_hull"]
    assert found["least"] == pytest.approx(float(rows[1]["error"]))
    assert found["least_cost"] == pytest.approx(float(rows[1]["cost"]))
    shown = next(line for line in reversed(table) if "everyone the last way" in line)
    assert f"{100 * found['least']:.2f}" in shown


@pytest.mark.parametrize(
    ("suite", "name", "least"),
    [("tests/oracles", "dearest", 20), ("tests/eval/test_metrics.py", "least_cost", 2)],
)
def test_the_suites_run_over_it(plugged: Path, suite: str, name: str, least: int) -> None:
    done = python(plugged, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", name, suite, "-rA")
    assert done.returncode == 0, done.stdout[-3000:]
    assert sum(line.startswith("PASSED") and name in line for line in done.stdout.splitlines()) >= least


def test_a_network_and_a_source_make_stored_outputs(plugged: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="networks need torch: install offramp[models]")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "grey").touch()  # a folder too, yet what knows it comes first
    images, weights = str(tmp_path / "images"), str(tmp_path / "weights")
    trained = python(plugged, "-m", "cascades.train", "--models", "tiny", "--images", images, "--out", weights)
    assert "at least 128 images" in trained.stderr
    program = (
        "import sys\nfrom pathlib import Path\nimport torch\n"
        "from offramp.cascades.models.zoo import ZOO\nfrom offramp.cascades.models.weights import save_weights\n"
        "torch.manual_seed(0)\n"
        "about = {'architecture': 'tiny', 'classes': 'a\\nb'}\n"
        "save_weights(ZOO['tiny'].build(2), Path(sys.argv[1]), about, False)\n"
    )
    saved = python(plugged, "-c", program, str(tmp_path / "tiny.safetensors"))
    assert saved.returncode == 0, saved.stderr
    flags = ("--models", f"file:{tmp_path / 'tiny.safetensors'}", "--images", images)
    done = python(plugged, "-m", "eval.extract", *flags, "--out", str(tmp_path / "out"), "--workers", "0")
    assert done.returncode == 0, done.stderr
    assert "of 4 images right" in done.stdout
