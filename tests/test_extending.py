"""What joins a registry, or comes as an entry point, joins everything: files, live decisions, tables, commands."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

from offramp.features.errors import InputError
from offramp.features.registry import Registry

ROOT = Path(__file__).resolve().parents[1]

POLICY = """
from dataclasses import dataclass
import numpy as np

@dataclass(frozen=True)
class MeanRules:
    column: np.ndarray
    cut: np.ndarray

    prices = property(lambda self: len(self.cut))
    looks_at = property(lambda self: self.column)

    def actions(self, x):
        return (x[:, self.column] > self.cut).astype(np.int8)

    def take(self, prices):
        return MeanRules(self.column[prices], self.cut[prices])

    def check(self, place, columns, actions, prices):
        place.ints(self.column, (prices,), 0, columns - 1)
        place.floats(self.cut, (prices,))

    def __str__(self):
        return f"go on above {self.cut[0]:.3g}"

@dataclass(frozen=True)
class Mean:
    rules, parts = MeanRules, ()

    def fit(self, decision):
        doubt, q = decision.columns.index("belief.doubt"), decision.costs.shape[2]
        return MeanRules(np.full(q, doubt), np.full(q, float(decision.x[:, doubt].mean())))

    def search_space(self):
        return {}

def main(argv=None):
    print("hello", *argv)
    return 0

hello = ("plugged", "a name to a greeting")
"""

ENTRIES = """
[offramp.policies]
mean = plugged:Mean
[offramp.commands]
hello = plugged:hello
"""


def test_the_page_runs_as_it_stands() -> None:
    pytest.importorskip("torch")
    found = doctest.testfile(str(ROOT / "docs" / "extending.md"), module_relative=False)
    assert found.attempted > 30
    assert found.failed == 0


def test_every_example_of_the_page_is_short() -> None:
    text = (ROOT / "docs" / "extending.md").read_text("utf-8")
    for section in text.split("\n## ")[1:]:
        code = [line for line in section.splitlines() if line.startswith((">>> ", "... "))]
        assert len(code) < 32, section.splitlines()[0]


@pytest.fixture
def plugged(tmp_path: Path) -> Path:
    """A folder on the path that another distribution was installed into."""
    (tmp_path / "plugged.py").write_text(POLICY, "utf-8")
    about = tmp_path / "plugged-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n", "utf-8")
    (about / "entry_points.txt").write_text(ENTRIES, "utf-8")
    return tmp_path


def run(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """A command where the plug-in is installed."""
    program = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]\nfrom offramp.__main__ import main\n"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program + "sys.exit(main(sys.argv[1:]))", *argv],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def test_a_policy_and_a_command_of_another_distribution_are_there(plugged: Path) -> None:
    assert "hello" in run(plugged, "--help").stdout
    assert run(plugged, "hello", "you").stdout == "hello you\n"
    assert "mean" in run(plugged, "frontier", "--help").stdout
    flags = ("--topology", "a_r", "--points", "3", "--policies", "constant", "mean", "--out", "out")
    done = run(plugged, "frontier", *flags)
    assert done.returncode == 0, done.stderr
    assert "MeanRules" in (plugged / "out" / "policies.json").read_text("utf-8")
    program = (
        f"import sys; sys.path[:0] = [{str(plugged)!r}, {str(ROOT)!r}]\n"
        "from pathlib import Path\nfrom offramp.cascades.files.policies import read_policies\n"
        "print(len(read_policies(Path('out/policies.json')).names))"
    )
    read = subprocess.run(
        [sys.executable, "-c", program], cwd=plugged, capture_output=True, encoding="utf-8", check=False
    )
    assert int(read.stdout) >= 3, read.stderr


def test_a_plug_in_that_can_not_be_loaded_is_named(plugged: Path) -> None:
    (plugged / "plugged.py").write_text("raise RuntimeError('not today')", "utf-8")
    done = run(plugged, "frontier", "--topology", "a_r", "--policies", "mean", "--out", "out")
    assert done.returncode == 2
    assert "plug-in plugged:Mean of plugged" in done.stderr
    assert "not today" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_that_is_taken_is_told(plugged: Path) -> None:
    (plugged / "plugged-1.0.dist-info" / "entry_points.txt").write_text(
        "[offramp.policies]\nvalue = plugged:Mean\n", "utf-8"
    )
    done = run(plugged, "frontier", "--topology", "a_r", "--out", "out")
    assert done.returncode == 2
    assert "'value' once more" in done.stderr


def test_a_registry_is_a_dict_with_plug_ins() -> None:
    registry = Registry("thing", "offramp.nothing", {"a": 1})
    registry["b"] = 2
    assert dict(registry) == {"a": 1, "b": 2}
    assert "c" not in registry
    assert registry.find("b", "here") == 2
    with pytest.raises(InputError, match="here: expected one of a, b, found 'c'"):
        registry.find("c", "here")
    with pytest.raises(KeyError):
        _ = registry["c"]
    del registry["b"]
    assert list(registry) == ["a"]
    assert len(registry) == 1
