"""The front door: the same as the commands byte for byte, light to import, strict about what could mean two things."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import offramp
from offramp import InputError
from offramp.eval.commands import COMMANDS
from offramp.eval.frontier import FILES
from offramp.eval.frontier import main as frontier_command
from offramp.eval.tune import main as tune_command

ROOT = Path(__file__).resolve().parents[1]
COSTS = {"small": 1.0, "large": 9.0}


def made(n: int = 1200, c: int = 5, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, c, n)
    logits = {name: rng.normal(size=(n, c)) + skill * np.eye(c)[y] for name, skill in (("small", 2), ("large", 4))}
    return logits, y


@pytest.fixture(scope="module")
def data() -> offramp.Data:
    logits, y = made()
    return offramp.outputs(logits, y, COSTS, "ms")


@pytest.fixture(scope="module")
def frontier(data: offramp.Data) -> offramp.Frontier:
    return offramp.fit(data.split(0.5)[0], "small_large", points=6)


# --- the same as the commands


def test_a_frontier_made_through_the_door_is_the_commands_byte_for_byte(data: offramp.Data, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    fit, test = data.split(0.5, seed=3)
    for part, one in (("fit", fit), ("test", test)):
        assert one.save(folder) == folder / f"{part}.outputs.npz"
    flags = ["--topology", "small_large", "--data", str(folder), "--points", "6", "--seed", "3"]
    assert frontier_command([*flags, "--out", str(tmp_path / "command")]) == 0
    written = offramp.fit(fit, "small_large", points=6, seed=3).evaluate(test).save(tmp_path / "door")
    assert [path.name for path in written] == list(FILES)
    for name in FILES:
        assert (tmp_path / "door" / name).read_bytes() == (tmp_path / "command" / name).read_bytes(), name


def test_a_split_is_that_of_a_folder_of_one_part(data: offramp.Data, tmp_path: Path) -> None:
    data.save(tmp_path).rename(tmp_path / "outputs.npz")
    parts = offramp.read(tmp_path, seed=7)
    for mine, read in zip(data.split(0.5, seed=7), (parts["fit"], parts["test"]), strict=True):
        np.testing.assert_array_equal(mine.labels, read.labels)
        np.testing.assert_array_equal(mine.outputs.ids, read.outputs.ids)


def test_a_point_is_that_of_tuning_without_trials(data: offramp.Data, tmp_path: Path) -> None:
    parts = dict(zip(("fit", "rest"), data.split(0.5), strict=True))
    parts["certify"], parts["test"] = parts.pop("rest").split(0.5)
    for part, one in parts.items():
        one.take(np.arange(len(one)), part).save(tmp_path)
    flags = ["--topology", "small_large", "--data", str(tmp_path), "--trials", "0", "--points", "6"]
    assert tune_command([*flags, "--max-error-increase", "0.02", "--out", str(tmp_path / "tuned")]) == 0
    tuned = offramp.load(tmp_path / "tuned" / "policy.json")
    mine = offramp.fit(parts["fit"], "small_large", points=6).pick(max_error_increase=0.02)
    assert (tuned.index, tuned.cost, tuned.error) == (mine.index, mine.cost, mine.error)
    new = parts["test"]
    assert tuned.route(new).exits.tolist() == mine.route(new).exits.tolist()


def test_the_readmes_lines_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "offramp.fit" in block)
    assert len(code.splitlines()) <= 14
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "learned policy" in done.stdout
    assert offramp.load(tmp_path / "policy.json").certificate is not None


# --- picking, routing, certifying, running


def test_a_point_keeps_to_its_budget_and_a_file_brings_it_back(
    frontier: offramp.Frontier, data: offramp.Data, tmp_path: Path
) -> None:
    point = frontier.pick(budget=4.0)
    assert point.cost <= 4.0 + 1e-9
    back = offramp.load(point.save(tmp_path / "policy.json"))
    new = data.split(0.5)[1]
    one, other = point.route(new), back.route({s.name: s.logits for s in new.outputs.stages})
    np.testing.assert_array_equal(point.route(new).answers, back.route(new).answers)
    assert (one.costs == np.where(one.paths == "small", 1.0, np.where(one.paths == "large", 9.0, 10.0))).all()
    assert len(other) == len(new)
    with pytest.raises(InputError, match="the cheapest and the dearest"):
        frontier.pick(budget=0.1)
    with pytest.raises(InputError, match="at least one of"):
        frontier.pick()


def test_what_runs_live_answers_as_what_is_routed(frontier: offramp.Frontier, data: offramp.Data) -> None:
    new = data.split(0.5)[1]
    logits = {s.name: s.logits for s in new.outputs.stages}
    called: list[tuple[str, int]] = []

    def stage(name: str) -> Any:
        def run(rows: np.ndarray) -> Any:
            called.append((name, len(rows)))
            return logits[name][rows]

        return run

    point = frontier.pick(max_error_increase=0.03)
    cascade = point.runtime({"small": stage("small"), "large": stage("large")})
    stored, live = point.route(new), cascade.run(np.arange(len(new)), new.outputs.ids)
    assert (live.exits == stored.exits).mean() > 0.999  # float32 may turn a tie
    np.testing.assert_array_equal(live.answers[live.exits == stored.exits], stored.answers[live.exits == stored.exits])
    assert sum(n for name, n in called if name == "large") == (live.paths != "small").sum() < len(new)
    assert cascade(list(range(8)), new.outputs.ids[:8]).tolist() == live.answers[:8].tolist()


def test_torch_modules_run_in_eval_mode_without_gradients(frontier: offramp.Frontier) -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Dropout(0.5))
    cascade = frontier.pick(max_error_increase=0.03).runtime({"small": net, "large": torch.nn.Linear(3, 5)})
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    assert not net.training
    assert cascade(x).tolist() == cascade(x).tolist()


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ({"small": len}, "no large"),
        ({"small": len, "large": len, "huge": len}, "huge besides"),
        ({"small": len, "large": 3}, "torch modules or other callables"),
    ],
)
def test_stages_that_can_not_run_are_refused(frontier: offramp.Frontier, stages: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        frontier.pick(budget=5.0).runtime(stages)


@pytest.mark.parametrize(("bad", "told"), [(np.zeros((2, 4)), "shape"), (np.full((2, 5), np.nan), "finite")])
def test_logits_of_a_live_stage_are_checked(frontier: offramp.Frontier, bad: np.ndarray, told: str) -> None:
    cascade = frontier.pick(budget=5.0).runtime({"small": lambda _: bad, "large": lambda _: bad})
    with pytest.raises(InputError, match=told):
        cascade([1, 2])


def test_a_certificate_is_made_on_what_nothing_was_learned_from(
    frontier: offramp.Frontier, data: offramp.Data, tmp_path: Path
) -> None:
    fit, test = data.split(0.5)
    point = frontier.pick(max_error_increase=0.1)
    with pytest.raises(InputError, match="nothing was learned from"):
        point.certify(fit)
    with pytest.raises(InputError, match="nothing was learned from"):
        frontier.evaluate(fit)
    certified = point.certify(test, delta=0.1)
    assert certified.certificate is not None
    assert certified.certificate.examples == len(test)
    assert offramp.load(certified.save(tmp_path / "p.json")).certificate == certified.certificate
    with pytest.raises(InputError, match="examples"):
        point.certify(test.take(np.arange(60)), delta=0.01, most=0.001)


# --- what comes in


def test_frames_tensors_and_lists_are_taken_as_arrays_are(data: offramp.Data) -> None:
    torch = pytest.importorskip("torch")
    logits, y = made()
    for form in (pd.DataFrame, torch.tensor, lambda z: z.tolist()):
        same = offramp.outputs({name: form(z) for name, z in logits.items()}, pd.Series(y), COSTS)
        for mine, theirs in zip(same.outputs.stages, data.outputs.stages, strict=True):
            np.testing.assert_allclose(np.asarray(mine.logits), np.asarray(theirs.logits), rtol=1e-6)


def test_answers_and_labels_may_be_names() -> None:
    y = np.array(["cat", "dog", "cow"] * 40)
    told = np.where(np.arange(120) % 5 == 0, "cat", y)
    found = offramp.outputs({"small": told, "large": y}, y, COSTS, confidences={"small": np.linspace(0, 1, 120)})
    assert found.outputs.classes == 3
    assert found.outputs.stages[0].measured["confidence"][-1] == 1.0
    np.testing.assert_array_equal(found.outputs.stages[1].answer, found.labels)


def test_probabilities_are_asked_about() -> None:
    logits, y = made(200)
    p = {name: np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) for name, z in logits.items()}
    with pytest.raises(InputError, match='kind="logits" or kind="probabilities"'):
        offramp.outputs(p, y, COSTS)
    found = offramp.outputs(p, y, COSTS, kind="probabilities").outputs.stages[0].logits
    assert found is not None
    np.testing.assert_allclose(np.exp(found), p["small"], rtol=1e-6)
    with pytest.raises(InputError, match="probabilities: rows"):
        offramp.outputs(logits, y, COSTS, kind="probabilities")


LOGITS, Y = made(100)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"scores": {}}, "at least one stage"),
        ({"costs": {"small": 1.0}}, "none for large"),
        ({"costs": COSTS | {"huge": 2.0}}, "none of huge"),
        ({"costs": {"small": 0, "large": 0}}, "more than 0"),
        ({"costs": {"small": -1.0, "large": 2.0}}, "at least 0"),
        ({"costs": {"small": True, "large": 2.0}}, "at least 0"),
        ({"labels": Y[:50]}, "logits or"),
        ({"labels": Y[:, None]}, "one for each example"),
        ({"labels": np.zeros(100, int)}, "at least two classes"),
        ({"labels": Y - 1}, "class numbers from 0"),
        ({"labels": Y.astype(float) + 0.5}, "class numbers"),
        ({"labels": Y.astype(str)}, "classes="),
        ({"labels": Y.astype(str), "classes": list("abcde")}, "classes among"),
        ({"labels": Y, "classes": list("aabcd")}, "differ"),
        ({"scores": LOGITS | {"small": LOGITS["small"].astype(int)}}, "could be both"),
        ({"scores": LOGITS | {"small": Y + 0.5}}, "decimals"),
        ({"scores": LOGITS | {"small": LOGITS["small"][:, :4]}}, "same classes"),
        ({"scores": LOGITS | {"small": np.full((100, 5), np.nan)}}, "finite"),
        ({"ids": np.zeros(100)}, "all different"),
        ({"kind": "odds"}, "one of logits, probabilities"),
        ({"confidences": {"huge": np.zeros(100)}}, "huge"),
        ({"confidences": {"small": np.zeros(100)}}, "logits, which say themselves"),
    ],
)
def test_what_does_not_fit_or_could_mean_two_things_is_refused(flags: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        offramp.outputs(**{"scores": LOGITS, "labels": Y, "costs": COSTS} | flags)


def test_parts_share_no_group_respect_time_and_keep_classes_even(data: offramp.Data) -> None:
    n = len(data)
    patient = np.arange(n) % 37
    fit, test = data.split(0.6, groups=patient)
    assert not set(patient[fit.outputs.ids]) & set(patient[test.outputs.ids])
    assert abs(len(fit) / n - 0.6) < 0.03
    day = np.random.default_rng(1).permutation(n)
    fit, test = data.split(0.3, time=day)
    assert day[fit.outputs.ids].max() < day[test.outputs.ids].min()
    fit, test = data.split(0.5, stratify=True)
    half = np.bincount(fit.labels) - np.bincount(test.labels)
    assert np.abs(half).max() <= 1
    assert sorted([*fit.outputs.ids, *test.outputs.ids]) == list(range(n))
    with pytest.raises(InputError, match="one of groups="):
        data.split(0.5, groups=patient, time=day)
    with pytest.raises(InputError, match="examples in both parts"):
        data.split(0.0)
    with pytest.raises(InputError, match="shape"):
        data.split(0.5, time=day[:5])


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"policies": ("thresh",)}, "threshold"),
        ({"loss": "mse"}, "top1"),
        ({"answer": "x"}, "fused"),
        ({"policies": ("gate",)}, "stages with gates"),
        ({"topology": "x_large"}, "small"),
    ],
)
def test_settings_that_are_not_there_are_answered_with_those_that_are(
    data: offramp.Data, flags: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        offramp.fit(data, **{"topology": "small_large"} | flags)


# --- what it looks like


def test_an_evaluation_prints_and_draws_itself(frontier: offramp.Frontier, data: offramp.Data) -> None:
    found = frontier.evaluate(data.split(0.5)[1])
    assert found.verdict in " ".join(str(found).split())
    assert found.verdict.split()[0] in found._repr_html_()
    assert {"policy", "joint", "single"} <= set(found.to_frame()["router"])
    assert found.plot().axes
    for one in (data, frontier, frontier.pick(budget=5.0), frontier.pick(budget=5.0).route(data)):
        assert repr(one).startswith("<")


def test_importing_the_door_is_light_and_names_are_known() -> None:
    program = (
        "import sys, time\nstart = time.perf_counter()\nimport offramp\nspent = time.perf_counter() - start\n"
        "heavy = {'torch', 'pandas', 'numpy', 'scipy', 'sklearn', 'optuna', 'matplotlib', 'rich'} & set(sys.modules)\n"
        "print(sorted(heavy), sorted(set(offramp.__all__) - set(dir(offramp))))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[] []\n"
    for name in offramp.__all__:
        assert getattr(offramp, name).__doc__
    with pytest.raises(AttributeError, match="it has Answers"):
        _ = offramp.nothing  # type: ignore[attr-defined]


# --- the console command


def test_the_console_command_says_what_there_is_without_importing_it() -> None:
    program = (
        "import sys\nfrom offramp.__main__ import main\nassert main(['--help']) == 0\n"
        "print(sorted({'numpy', 'torch', 'pandas', 'optuna', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "papers"])
def test_every_command_is_there(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from offramp.__main__ import main

    try:
        code = main([name, "--help"])
    except SystemExit as left:
        code = left.code  # type: ignore[assignment]
    assert code in (0, None)
    assert "usage" in capsys.readouterr().out


def test_a_name_that_is_no_command_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    from offramp.__main__ import main

    assert main(["fronteir"]) == 2
    assert "did you mean frontier?" in capsys.readouterr().err
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"offramp {offramp.__version__}\n"
    assert main([]) == 2
