"""Gates by hand and by brute force, their training from images to tables, and what comes along."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from offramp.cascades.files.datafolder import embedded_names, read_folder
from offramp.eval.papers import gates as differentiable
from offramp.eval.papers.gates import (
    KINDS,
    LOSSES,
    SYSTEMS,
    Settings,
    System,
    gate_points,
    hard_stops,
    judged,
    on_confidences,
    remark,
    soft_cost,
    stored,
)
from offramp.features.outputs import Outputs, Stage

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""


def test_soft_cost_is_that_of_coins_thrown_at_every_exit() -> None:
    rng = np.random.default_rng(0)
    odds, costs = rng.normal(size=(6, 3)) * 2, [1.0, 2.5, 3.0, 7.0]
    total = 0.0
    for row in odds:
        stop = 1 / (1 + np.exp(-row))
        for coins in product([0, 1], repeat=3):  # every way that three coins can fall
            chance = np.prod([s if c else 1 - s for s, c in zip(stop, coins, strict=True)])
            at = coins.index(1) if 1 in coins else 3
            total += chance * costs[at]
    assert soft_cost(odds, costs) == pytest.approx(total / 6)
    # odds that no float's exponential holds
    assert soft_cost(np.array([[800.0, 0.0], [-800.0, 800.0], [-800.0, -800.0]]), [1, 2, 4]) == pytest.approx(7 / 3)


def test_hard_gates_stop_at_the_first_that_is_open() -> None:
    odds = np.array([[1.0, 1.0], [-1.0, 0.5], [-1.0, -0.1], [0.0, 1.0]])
    assert hard_stops(odds).tolist() == [0, 1, 2, 0]


def test_every_system_has_a_name_and_a_command_line_of_its_own(tmp_path: Path) -> None:
    from offramp.cascades.command.settings import parse
    from offramp.cascades.training.exits import Settings as Training

    assert {system.kind for system in SYSTEMS} | {f"sure {loss}" for loss in LOSSES} == set(KINDS)
    assert len({system.name for system in SYSTEMS}) == len(SYSTEMS)
    settings = Settings(images=tmp_path, test=tmp_path, weights=tmp_path, threads=1)
    lines = set()
    for system in SYSTEMS:
        found = parse(Training, system.flags(settings), "", "")
        assert found.price == system.price
        assert found.freeze == system.frozen
        assert found.objective == "gated"
        lines.add(" ".join(system.flags(settings)))
    assert len(lines) == len(SYSTEMS)


def test_what_went_wrong_is_said() -> None:
    line = {"share_e1": 0.3, "share_e2": 0.0, "share_e3": 0.7, "accuracy_e1": 20.0, "accuracy_e2": 80.0}
    line |= {"accuracy_e3": 80.0}
    assert remark(line) == "nobody at e2; untrained: e1"
    assert remark(line | {"share_e1": 0.0, "share_e3": 1.0}).startswith("all at one exit")
    assert remark(line | {"share_e2": 0.3, "share_e3": 0.4, "accuracy_e1": 70.0}) == ""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two systems, trained for a moment on coloured noise and written as the command writes them."""
    pytest.importorskip("torch")
    home = tmp_path_factory.mktemp("gates")
    rng = np.random.default_rng(0)
    for name, n in (("train", 360), ("test", 60)):
        labels = np.arange(n) % 10
        images = rng.integers(0, 60, (n, 32, 32, 3)) + 18 * labels[:, None, None, None]
        classes = np.array(differentiable_classes())
        np.savez(home / f"{name}.npz", images=images.astype(np.uint8), labels=labels, classes=classes)
    some = (
        System("frozen", "expected", 0.1, frozen=True),
        System("frozen held out", "expected", 0.1, True, True, True),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(differentiable, "SYSTEMS", some)
        patch.setattr(differentiable, "TRAIN_ROWS", ":200")
        patch.setattr(differentiable, "FIT_ROWS", "200:")
        settings = Settings(images=home / "train.npz", test=home / "test.npz", weights=home / "w", threads=1)
        differentiable.train_missing(settings)
        before = (home / "w" / f"{some[0].name}.safetensors").read_bytes()
        differentiable.train_missing(settings)  # what is there is kept
        assert (home / "w" / f"{some[0].name}.safetensors").read_bytes() == before
        differentiable.write_outputs(settings)
    return home / "w" / differentiable.SHIPPED


def differentiable_classes() -> tuple[str, ...]:
    from offramp.cascades.models.zoo import CIFAR_CLASSES

    return CIFAR_CLASSES


def test_systems_are_trained_from_images_and_written_as_a_data_folder(
    trained: Path,
) -> None:
    data = read_folder(trained)
    assert len(data.parts["fit"]) == 160
    assert len(data.parts["test"]) == 60
    system = stored(System("frozen", "expected", 0.1, frozen=True), data)
    lines = {line["part"]: line for line in judged(system)}
    assert sum(lines["test"][f"share_e{i}"] for i in (1, 2, 3)) == pytest.approx(1)
    point = gate_points([system], "test")[0]
    assert 100 * (1 - point.routing.error) == pytest.approx(lines["test"]["accuracy"])
    assert point.routing.mean_cost == pytest.approx(lines["test"]["cost"])


def test_accuracy_and_cost_by_hand() -> None:
    from offramp.cascades.files.datafolder import DataFolder
    from offramp.cascades.graph.costs import Costs, StageCost

    system = System("frozen", "expected", 0.1, frozen=True)
    costs = {f"{system.name}.e{i}": StageCost(system.name, 1.0, 0.5 if i < 3 else 0.0) for i in (1, 2, 3)}
    labels = np.array([0, 1, 2, 3])
    answers = ([0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 2, 2])
    gates = ([1.0, -1.0, -1.0, -1.0], [9.0, 2.0, -3.0, -3.0], None)
    stages = tuple(
        Stage(name, np.array(said)[:, None], measured={} if gate is None else {"gate": np.array(gate)})
        for name, said, gate in zip(costs, answers, gates, strict=True)
    )
    parts = {part: Outputs(stages, labels, np.arange(4), part, 4) for part in ("fit", "test")}
    line = list(judged(stored(system, DataFolder("hand", parts, Costs(costs, "ms")))))[1]
    # at e1, e2, e3, e3: right, right, right, wrong; costs 1.5, 3, 4, 4
    assert line["accuracy"] == 75.0
    assert line["cost"] == pytest.approx(12.5 / 4)
    assert [line[f"share_e{i}"] for i in (1, 2, 3)] == [0.25, 0.25, 0.5]
    assert [line[f"accuracy_e{i}"] for i in (1, 2, 3)] == [25.0, 25.0, 75.0]


def test_gates_on_confidences_trade_cost_for_error_and_keep_their_soft_cost() -> None:
    pytest.importorskip("torch")
    joint = read_folder("b_alexnet")
    lines = [list(judged(on_confidences(joint, "expected", price, 0)))[1] for price in (0.05, 0.3, 0.6)]
    cost, accuracy = [line["cost"] for line in lines], [line["accuracy"] for line in lines]
    assert cost[0] > 1.1 * cost[1] > 1.2 * cost[2]
    assert accuracy[0] > accuracy[1] > accuracy[2] > lines[0]["accuracy_e1"]
    for line in lines:  # the promise of the differentiable cost, within five percent
        assert abs(line["soft_cost"] / line["cost"] - 1) < 0.05


@pytest.mark.skipif(differentiable.SHIPPED not in embedded_names(), reason="LOUD: the trained gates do not come along")
def test_the_tables_come_from_what_is_shipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from offramp.eval.papers.__main__ import main

    assert main(["differentiable", "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    for kind in KINDS.values():
        assert f"gates, {kind}" in told
    assert "gates trained for each price" in (tmp_path / "systems.md").read_text("utf-8")
    for name in differentiable.FILES:
        assert (tmp_path / name).stat().st_size > 500


def test_bad_flags_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from offramp.eval.papers.__main__ import main

    assert main(["differentiable", "--images", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    assert "--test" in capsys.readouterr().err


def test_labels_are_numbered_as_the_networks_classes(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = trained.parents[1]
    given = dict(np.load(home / "train.npz"))
    turned = given | {"labels": 9 - given["labels"], "classes": given["classes"][::-1]}
    np.savez(home / "turned.npz", **turned)
    monkeypatch.setattr(differentiable, "FIT_ROWS", "200:")
    one, other = (
        differentiable.images_of(Settings(images=home / name, test=home / "test.npz", weights=home))["fit"]
        for name in ("train.npz", "turned.npz")
    )
    np.testing.assert_array_equal(one.labels, other.labels)


def test_images_that_the_stored_outputs_are_not_of_are_refused_before_any_training(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from offramp.eval.papers.__main__ import main

    monkeypatch.setattr(differentiable, "FIT_ROWS", "200:")
    home = trained.parents[1]
    flags = ["--images", str(home / "train.npz"), "--test", str(home / "test.npz"), "--weights", str(tmp_path / "w")]
    assert main(["differentiable", *flags, "--out", str(tmp_path / "o")]) == 2
    assert "b_alexnet has outputs of" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
    assert main(["differentiable", "--test", str(home / "test.npz"), "--out", str(tmp_path / "o")]) == 2
    assert "--images" in capsys.readouterr().err
