"""``python -m eval.run --policy``: the very point is run, refused where something differs, and held to its promises."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from offramp.cascades.files.datafolder import DataFolder, keep_back, read_folder
from offramp.cascades.files.policy import Bound, Certificate, Deployment, policies_digest, write_deployment
from offramp.cascades.graph.routing import largest
from offramp.cascades.graph.topology import parse_topology, unroll
from offramp.cascades.learning.fit import FitSettings
from offramp.cascades.learning.points import digest_of, fit_points
from offramp.cascades.learning.targets import Target, expected_of, solve
from offramp.features.evidence import EvidenceSettings

pytest.importorskip("torch", reason="running networks needs torch: install offramp[models]")

from offramp.cascades.files.provenance import networks_noted
from offramp.eval.measured.promises import held_against, promised, warnings_of
from offramp.eval.run import Settings, main

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("alexnet", "googlenet", "resnet")
FEW = ["--rounds", "1", "--rows", ":48"]


@pytest.fixture(scope="module")
def data() -> DataFolder:
    return keep_back(read_folder("cifar10"), 0.2, 0)


@pytest.fixture(scope="module")
def deployment(data: DataFolder) -> Deployment:
    """A budget between two points, so that a coin is tossed."""
    routes = unroll(parse_topology("a_g_r", STAGES), data.costs)
    fit = data.parts["fit"].of(routes.stages)
    how = FitSettings(("constant", "value"), evidence=EvidenceSettings(pooled=False))
    fitted, picking = fit_points(fit, None, routes, 5, how)
    reference = float(picking.there.wrong[:, largest(routes)].mean())
    spending = fitted.route(fit)
    target = Target(budget=0.6)
    fitted, point = solve(target, fitted, picking.routings, reference, spending)
    assert point >= len(fitted.sweep.prices)
    return Deployment(
        fitted,
        point,
        "a_g_r",
        replace(data.costs, device="an abacus"),
        target,
        expected_of(fitted, picking.routings, reference, spending),
        "cifar10",
        0,
        0.2,
        {name: digest_of(part) for name, part in data.parts.items()},
        10,
        networks_noted("cifar10", data.costs),
    )


@pytest.fixture(scope="module")
def policy(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "policy.json"
    write_deployment(deployment, path)
    return path


@pytest.fixture(scope="module")
def ran(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The command as a user runs it, in a process of its own."""
    out = tmp_path_factory.mktemp("ran")
    command = [sys.executable, "-W", "error", "-m", "eval.run", "--policy", str(policy)]
    more = [*FEW, "--out", str(out), "--log", str(out / "log.csv")]
    done = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return out, done


def test_its_point_is_run_as_stored_outputs_have_it(ran: tuple[Path, Any], deployment: Deployment) -> None:
    frame = pd.read_csv(ran[0] / "run.csv").set_index("system")
    assert frame.index.tolist() == [*STAGES, "policy"]
    row = frame.loc["policy"]
    assert row["routed_as_stored"] == row["images"] == 48
    assert row["promised_cost"] == pytest.approx(0.6)
    assert row["topology"] == "a_g_r"
    test = read_folder("cifar10").parts["test"].of(STAGES).take(np.arange(48))
    routing = deployment.fitted.route(test)[deployment.point]
    assert row["error"] == pytest.approx(routing.error)
    assert row["predicted_cost"] == pytest.approx(routing.mean_cost)
    spread = 1.96 * routing.cost.std() / np.sqrt(48)
    assert row["cost_high"] - row["cost_low"] == pytest.approx(2 * spread, rel=1e-3)


def test_one_line_warns_of_another_device(ran: tuple[Path, Any]) -> None:
    lines = ran[1].stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("warning: the policy's costs were measured on an abacus, this is ")


def test_what_was_asked_for_stands_beside_what_was_measured(ran: tuple[Path, Any]) -> None:
    said = " ".join(ran[1].stdout.split())
    assert "The policy was to be the most accurate of at most 0.6 ms per image on average." in said
    assert "by the policy's costs: asked for at most 0.6000, measured " in said
    assert "as measured here: asked for at most 0.6000, measured " in said
    assert "Nothing is certified: python -m eval.certify does." in said
    report = json.loads((ran[0] / "run.json").read_text("utf-8"))
    rows = {row["system"]: row for row in report["systems"]}
    by_costs, timed = report["policy"]["promises"]
    assert by_costs["measured"] == rows["policy"]["predicted_cost"]
    assert timed["measured"] == pytest.approx(rows["policy"]["ms_per_image"])
    assert (timed["verdict"] == "kept") == (timed["measured"] <= 0.6)


def test_the_log_is_the_routing(ran: tuple[Path, Any], deployment: Deployment) -> None:
    log = pd.read_csv(ran[0] / "log.csv")
    frame = pd.read_csv(ran[0] / "run.csv").set_index("system")
    assert len(log) == log["id"].nunique() == 48
    ends = log["path"].str.rpartition(">")[2]
    for stage in STAGES:
        assert (ends == stage).mean() == pytest.approx(frame.loc["policy", f"share_{stage}"])
    assert (log["answer"] != log["label"]).mean() == pytest.approx(frame.loc["policy", "error"])
    assert (log["largest"] != log["label"]).mean() == pytest.approx(frame.loc["resnet", "error"])
    assert log["confidence"].between(0.1, 1).all()
    assert str(ran[0] / "log.csv") in ran[1].stdout


def test_a_folder_will_do_and_own_devices_warn_of_nothing(
    deployment: Deployment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also: a certificate is held against, and exits are not timed but counted where costs are not times."""
    import torch

    from offramp.cascades.measuring.latency import device_name

    costs = replace(deployment.costs, device=device_name(torch.device("cpu")))
    own = deployment.point, policies_digest(deployment.fitted)
    certificate = Certificate(0.05, (Bound("increase", 0.9, 0.0, {}),), 0.01, 0.5, 2000, "", "exact", *own)
    there = replace(deployment, costs=costs, certificate=certificate, target=Target(error_increase=0.9, accuracy=0.1))
    write_deployment(there, tmp_path / "policy.json")
    assert main(["--policy", str(tmp_path), "--device", "cpu", *FEW]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    text = " ".join(said.out.split())
    assert "errors over the largest stage's: certified at most 90.00 points, measured " in text
    assert "by the policy's costs: certified at most 0.01000, measured " in text
    assert ": broken. What is certified holds with probability 0.95" in text
    assert "Nothing is certified" not in text


# --- what is refused


def spoilt(deployment: Deployment, folder: Path, **changes: Any) -> list[str]:
    write_deployment(replace(deployment, **changes), folder / "policy.json")
    return ["--policy", str(folder / "policy.json"), *FEW]


@pytest.mark.parametrize(
    ("what", "value"),
    [("weights", "0" * 64), ("preprocessing", "Preprocessing(resize=256)")],
)
def test_other_networks_are_refused(
    what: str, value: str, deployment: Deployment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = {**deployment.networks, "resnet": {**deployment.networks["resnet"], what: value}}
    assert main(spoilt(deployment, tmp_path, networks=networks)) == 2
    said = capsys.readouterr().err
    assert f"network resnet with the policy's {what} {value[:12]}" in said
    assert said.count("\n") == 1


def test_without_noted_networks_the_data_folder_is_asked(
    deployment: Deployment, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["alexnet=cifar_alexnet", "googlenet=cifar_alexnet", "resnet=cifar_wide_resnet10"]
    for networks in ({}, {"googlenet": "cifar_googlenet"}):
        flags = spoilt(deployment, tmp_path, networks=networks)
        assert main([*flags, "--models", *models]) == 2
        assert "network googlenet with the policy's weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--topology", "a_r"], "--topology: expected no such flag beside --policy"),
        (["--policies", "frontier"], "--policies: expected no such flag beside --policy"),
        (["--margins", "0.5"], "--margins: expected no such flag beside --policy"),
        (["--data", "imagenet"], "--data imagenet: expected the policy's stages alexnet, googlenet, resnet, found no"),
        (["--data", "nowhere"], "nowhere"),
        (["--log", "log.txt"], "--log: expected a name that ends in"),
        (["--models", "alexnet=cifar_alexnet"], "--models"),
    ],
)
def test_flags_that_do_not_go_together_are_told(
    flags: list[str], said: str, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--policy", str(policy), *flags]) == 2
    assert said in capsys.readouterr().err


def test_what_a_policy_needs_is_told(
    deployment: Deployment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([]) == 2
    assert "--topology: expected a topology (a_g_r), or a policy file (--policy), found neither" in (
        capsys.readouterr().err
    )
    assert main(["--policy", str(tmp_path / "none.json")]) == 2
    assert "No such file" in capsys.readouterr().err
    assert main(["--policy", str(tmp_path)]) == 2
    assert "a folder" in capsys.readouterr().err
    assert main(["--topology", "a_r", "--log", str(tmp_path / "log.csv")]) == 2
    assert "one cascade to log" in capsys.readouterr().err
    assert main(spoilt(deployment, tmp_path, seed=1)) == 2
    assert "the examples that the policy was fitted on (or other data, by --data), found others" in (
        capsys.readouterr().err
    )


def test_policies_of_other_losses_are_refused(
    deployment: Deployment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = replace(deployment.fitted, sweep=replace(deployment.fitted.sweep, loss="top5"))
    assert main(spoilt(deployment, tmp_path, fitted=fitted)) == 2
    assert "fitted for top1 or excess loss, found top5" in capsys.readouterr().err


# --- what is promised, by hand


def report(**row: float) -> dict[str, Any]:
    here = {"predicted_cost": 2.0, "cost_low": 1.9, "cost_high": 2.1, "error": 0.1, "error_low": 0.08}
    here |= {"error_high": 0.12, "extra_error": 0.01, "extra_low": 0.0, "extra_high": 0.02, "ms_per_image": 30.0}
    here |= {"ms_low_quartile": 29.0, "ms_high_quartile": 31.0, "share_alexnet": 0.5, "share_resnet": 0.5}
    return {"systems": [{"system": "policy", **here, **row}], "about": {"images": 400}}


def test_verdicts_by_hand(deployment: Deployment) -> None:
    certificate = Certificate(0.1, (Bound("error", 0.09, 0.05, {}),), 1.0, 0.5, 2000, "", "exact", 0, "")
    target = Target(1.95, 0.02, 0.95, {"resnet": 0.46, "alexnet": 0.4})
    found = held_against(replace(deployment, target=target, certificate=certificate), report())
    verdicts = [(p["by"], p["what"].split(",")[0], p["bound"], p["verdict"]) for p in found["promises"]]
    assert verdicts == [
        ("asked", "mean cost", 1.95, "within chance"),
        ("asked", "time", 1.95, "broken"),
        ("asked", "errors over the largest stage's", 0.02, "kept"),
        ("asked", "errors", pytest.approx(0.05), "broken"),
        ("asked", "share exiting at resnet", 0.46, "within chance"),
        ("asked", "share exiting at alexnet", 0.4, "broken"),
        ("certified", "errors", 0.09, "within chance"),
        ("certified", "mean cost", 1.0, "broken"),
    ]
    lines = list(promised(found))
    assert len(lines) == 10
    assert (
        "  errors over the largest stage's: asked for at most 2.000 points, measured 1.000 [0, 2.000]: kept." in lines
    )
    assert lines[-1].startswith("  What is certified holds with probability 0.9")
    assert list(promised(None)) == []


def test_only_times_are_held_against_the_clock(deployment: Deployment) -> None:
    counted = replace(deployment, costs=replace(deployment.costs, unit="MMACs per image", device="counted"))
    found = held_against(counted, report())
    assert [p["what"].split(",")[0] for p in found["promises"]] == ["mean cost"]
    seconds = replace(deployment, costs=replace(deployment.costs, unit="s per image"), target=Target(budget=0.031))
    timed = held_against(seconds, report())["promises"][1]
    assert (timed["measured"], timed["verdict"]) == (pytest.approx(0.030), "kept")


def test_what_warns(deployment: Deployment, data: DataFolder) -> None:
    assert len(warnings_of(deployment, Settings(), data, "a CPU")) == 1
    assert warnings_of(deployment, Settings(), data, "an abacus") == []
    counted = replace(deployment, costs=replace(deployment.costs, unit="MMACs per image"))
    assert warnings_of(counted, Settings(), data, "a CPU") == []
    other = replace(data, parts={**data.parts, "fit": data.parts["certify"]})
    told = warnings_of(counted, Settings(data="mine"), other, "a CPU")
    assert told == ["the policy was not fitted on mine: it may have been fitted on some of these images"]


def test_networks_are_noted_by_network(data: DataFolder) -> None:
    found = networks_noted("cifar10", data.costs)
    assert list(found) == list(STAGES)
    assert {key for each in found.values() for key in each} == {"spec", "weights", "preprocessing"}
    assert found["resnet"]["spec"] == "cifar_wide_resnet10"
    assert networks_noted("imagenet", read_folder("imagenet").costs) == {}
    exits = networks_noted("b_alexnet", read_folder("b_alexnet").costs)
    assert set(exits) == {stage.network for stage in read_folder("b_alexnet").costs.stages.values()}
