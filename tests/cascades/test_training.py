"""One loop, three objectives: exits that learn, heads that are fitted to the minimum, gates that mind the price."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="training needs torch: install offramp[models]")

import torch

from offramp.cascades.graph.costs import Costs, StageCost, write_costs
from offramp.cascades.models.weights import read_weights
from offramp.cascades.models.zoo import load_stages
from offramp.cascades.training.exits import main
from offramp.features.errors import InputError

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""

ROOT = Path(__file__).resolve().parents[2]


def dataset(path: Path, n: int, seed: int = 0) -> Path:
    """Three classes: dark, bright, and striped, which takes more than one layer to see."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    stripes = np.tile(np.arange(32) // 4 % 2 * 110, (32, 1))[..., None]
    pixels = rng.integers(0, 60, (n, 32, 32, 3)) + (labels == 1)[:, None, None, None] * 110
    pixels += (labels == 2)[:, None, None, None] * stripes
    np.savez(path, images=pixels.astype(np.uint8), labels=labels)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("images") / "train.npz", 384)


@pytest.fixture(scope="module")
def test_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("images") / "test.npz", 90, seed=1)


def flags(images: Path, out: Path, *more: str) -> list[str]:
    fixed = ["--threads", "1", "--no-mixed", "--device", "cpu", "--network", "cifar_alexnet", "--batch", "32"]
    return [*fixed, "--images", str(images), "--out", str(out), *more]


@pytest.fixture(scope="module")
def joint(images: Path, test_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("joint")
    more = ("--exits", "features.0,features.3:1", "--epochs", "4", "--rate", "3e-3", "--test", str(test_images))
    assert main(flags(images, out, *more)) == 0
    return out


def test_all_exits_learn_together(joint: Path) -> None:
    told = read_weights(joint / "cifar_alexnet.safetensors").about
    assert told["objective"] == "joint"
    assert [each["layer"] for each in json.loads(told["exits"])["exits"]] == ["features.0", "features.3"]
    accuracies = [float(told[f"accuracy_e{i}"]) for i in (1, 2, 3)]
    assert min(accuracies) > 0.9
    stages = load_stages(f"file:{joint / 'cifar_alexnet.safetensors'}")
    assert [stage.name for stage in stages] == ["cifar_alexnet.e1", "cifar_alexnet.e2", "cifar_alexnet.e3"]


def test_the_log_is_a_table_and_a_picture(joint: Path) -> None:
    with (joint / "cifar_alexnet.log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert {"accuracy_e1", "accuracy_e2", "accuracy_e3"} <= set(rows[0])
    with Image.open(joint / "cifar_alexnet.log.png") as picture:
        assert picture.size[0] > 600


def backbone(folder: Path, joint: Path) -> Path:
    """The joint network's backbone as a file of its own."""
    from safetensors.torch import save_file

    held = read_weights(joint / "cifar_alexnet.safetensors")
    own = {k.removeprefix("backbone."): v.contiguous() for k, v in held.tensors.items() if k.startswith("backbone.")}
    folder.mkdir(exist_ok=True)
    metadata = {"architecture": "cifar_alexnet", "classes": held.about["classes"]}
    save_file(own, folder / "cifar_alexnet.safetensors", metadata=metadata)
    return folder


def test_frozen_heads_are_at_the_minimum_and_leave_the_backbone_alone(
    joint: Path, images: Path, tmp_path: Path
) -> None:
    start = backbone(tmp_path / "start", joint)
    more = ("--objective", "frozen", "--start", str(start), "--exits", "features.0,features.3", "--no-half")
    assert main(flags(images, tmp_path, *more)) == 0
    before = read_weights(start / "cifar_alexnet.safetensors").tensors
    after = read_weights(tmp_path / "cifar_alexnet.safetensors").tensors
    for name, tensor in before.items():
        assert torch.equal(after[f"backbone.{name}"], tensor), name
    # the gradient of mean cross-entropy + ridge, by hand, on standardised averages
    stage = load_stages(f"file:{tmp_path / 'cifar_alexnet.safetensors'}")[0]
    assert stage.place is not None
    with np.load(images) as held:
        pixels, labels = torch.from_numpy(held["images"]), torch.from_numpy(held["labels"]).long()
    with torch.no_grad():
        x = stage.place.net.segment(0, stage.preprocessing.normalise(pixels)).mean((2, 3)).double()
        mean, scale = x.mean(0), x.std(0, unbiased=False)
        x = (x - mean) / scale
        weight = after["heads.0.linear.weight"].double() * scale
        bias = after["heads.0.linear.bias"].double() + after["heads.0.linear.weight"].double() @ mean
        p = torch.softmax(x @ weight.T + bias, dim=1) - torch.nn.functional.one_hot(labels, 3)
        gradient = p.T @ x / len(x) + 1e-4 * weight
        assert float(gradient.abs().max()) < 1e-3
        assert float(p.mean(0).abs().max()) < 1e-3


def gated(images: Path, test: Path, joint: Path, out: Path, price: str, *more: str) -> dict[str, str]:
    start = str(joint / "cifar_alexnet.safetensors")
    own = ("--objective", "gated", "--freeze", "--start", start, "--price", price, "--epochs", "8", "--rate", "0.05")
    assert main(flags(images, out, *own, "--test", str(test), *more)) == 0
    return read_weights(out / "cifar_alexnet.safetensors").about


def test_gates_on_a_frozen_network_mind_the_price(
    joint: Path, images: Path, test_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dear = gated(images, test_images, joint, tmp_path / "dear", "50")
    assert float(dear["share_e1"]) == 1.0  # any cost is too much
    assert "exits that get no examples: 2, 3: all stop at exit 1" in capsys.readouterr().err
    assert float(dear["cost_gated"]) == pytest.approx(float(dear["cost_soft"]), rel=0.05)
    held = read_weights(tmp_path / "dear" / "cifar_alexnet.safetensors").tensors
    before = read_weights(joint / "cifar_alexnet.safetensors").tensors
    for name, tensor in before.items():
        assert torch.equal(held[name], tensor), name
    assert {name for name in held if name not in before} == {
        f"gates.{i}.{what}" for i in (0, 1) for what in ("weight", "bias")
    }


def test_costs_of_the_exits_come_from_a_profile(joint: Path, images: Path, test_images: Path, tmp_path: Path) -> None:
    names = [f"n.e{i}" for i in (1, 2, 3)]
    costs = {
        name: StageCost("n", trunk, head) for name, trunk, head in zip(names, (1, 2, 4), (0.5, 0.5, 0), strict=True)
    }
    write_costs(Costs(costs, "ms per image"), tmp_path / "costs.json")
    told = gated(images, test_images, joint, tmp_path / "g", "100", "--costs", str(tmp_path / "costs.json"))
    assert float(told["cost_gated"]) == pytest.approx(1.5)
    write_costs(Costs({name: costs[name] for name in names[:2]}, "ms"), tmp_path / "few.json")
    start = str(joint / "cifar_alexnet.safetensors")
    more = ("--objective", "gated", "--start", start, "--costs", str(tmp_path / "few.json"))
    assert main(flags(images, tmp_path / "h", *more)) == 2


def test_earlier_exits_may_learn_from_the_last(images: Path, test_images: Path, tmp_path: Path) -> None:
    more = ("--exits", "features.3", "--epochs", "3", "--rate", "3e-3", "--weights", "0", "1", "--distill", "1")
    assert main(flags(images, tmp_path, *more, "--test", str(test_images))) == 0
    assert float(read_weights(tmp_path / "cifar_alexnet.safetensors").about["accuracy_e1"]) > 0.8


def test_a_killed_run_ends_as_an_unbroken_one(images: Path, tmp_path: Path) -> None:
    more = ("--exits", "features.3", "--epochs", "12")
    assert main(flags(images, tmp_path / "whole", *more)) == 0
    command = [sys.executable, "-m", "cascades.training", *flags(images, tmp_path / "broken", *more)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    checkpoint, end = tmp_path / "broken" / "cifar_alexnet.checkpoint", time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < end:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 1 <= torch.load(checkpoint, weights_only=True)["epoch"] < 12, "the kill came too late to show anything"
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for name in ("cifar_alexnet.safetensors",):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--exits", "features.99"), "features.3"),
        (("--exits", "classifier.7"), "before the classifier"),
        (("--exits", "\u00b2"), "a layer of the network"),
        (("--name", "a/b"), "a name of files"),
        (("--rate", "1e38"), "--rate"),
        (("--exits", "features.0:x"), "found 'features.0:x'"),
        (("--weights", "0"), "a weight above 0"),
        (("--weights", "1", "1"), "one an exit"),
        (("--price", "1"), "--objective gated"),
        (("--objective", "frozen"), "weights of the backbone"),
        (("--objective", "gated", "--freeze"), "weights of the backbone"),
        (("--network", "b_lenets"), "b_lenet"),
        (("--rows", ":20"), "at least 32"),
        (("--start", "nowhere"), "nowhere"),
        (("--rate", "1e30", "--epochs", "3"), "a finite loss"),
    ],
)
def test_bad_input_is_told(
    more: tuple[str, ...], said: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(images, tmp_path / "out", *more)) == 2
    assert said in capsys.readouterr().err


def test_weights_that_reach_nothing_are_told(
    joint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = str(joint / "cifar_alexnet.safetensors")
    for more in (("--objective", "frozen", "--weights", "0"), ("--freeze", "--weights", "0", "0", "1")):
        assert main(flags(images, tmp_path / "out", "--start", start, *more)) == 2
        assert "a weight above 0 of an exit that is trained" in capsys.readouterr().err


def test_classes_keep_their_order_when_a_branched_network_goes_on(
    joint: Path, images: Path, test_images: Path, tmp_path: Path
) -> None:
    """The same images with their classes listed the other way round."""
    with np.load(test_images) as held:
        np.savez(
            tmp_path / "t.npz", images=held["images"], labels=2 - held["labels"], classes=np.array(["2", "1", "0"])
        )
    with np.load(images) as held:
        np.savez(
            tmp_path / "i.npz", images=held["images"], labels=2 - held["labels"], classes=np.array(["2", "1", "0"])
        )
    told = gated(tmp_path / "i.npz", tmp_path / "t.npz", joint, tmp_path / "g", "0")
    before = read_weights(joint / "cifar_alexnet.safetensors").about
    assert told["classes"] == before["classes"]
    for i in (1, 2, 3):
        assert float(told[f"accuracy_e{i}"]) == pytest.approx(float(before[f"accuracy_e{i}"]), abs=0.02)


def test_a_file_is_gone_on_from_by_name(joint: Path, images: Path, tmp_path: Path) -> None:
    path = joint / "cifar_alexnet.safetensors"
    fixed = [each for each in flags(images, tmp_path, "--epochs", "1") if each != "cifar_alexnet"]
    fixed.insert(fixed.index("--network") + 1, f"file:{path}")
    assert main([*fixed, "--objective", "gated", "--freeze", "--price", "0.1"]) == 0
    told = read_weights(tmp_path / "cifar_alexnet.safetensors").about
    assert told["architecture"] == "cifar_alexnet"
    assert len(load_stages(f"file:{tmp_path / 'cifar_alexnet.safetensors'}")) == 3


def test_gates_that_are_no_trade_off_are_told_without_test_images(
    joint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = str(joint / "cifar_alexnet.safetensors")
    own = ("--objective", "gated", "--freeze", "--start", start, "--price", "100", "--epochs", "6", "--rate", "0.05")
    assert main(flags(images, tmp_path, *own)) == 0
    assert "no trade-off" in capsys.readouterr().err


def test_the_seed_is_of_all_weights(images: Path, tmp_path: Path) -> None:
    found = []
    for seed in ("1", "2"):
        more = ("--exits", "features.3", "--epochs", "1", "--rate", "1e-9", "--seed", seed, "--no-half")
        assert main(flags(images, tmp_path / seed, *more)) == 0
        found.append(read_weights(tmp_path / seed / "cifar_alexnet.safetensors").tensors)
    for name in ("backbone.features.0.0.weight", "backbone.classifier.2.weight", "heads.0.linear.weight"):
        assert float((found[0][name] - found[1][name]).abs().max()) > 1e-3


def test_heads_alone_are_no_start_for_heads_alone_but_for_gates(
    joint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = backbone(tmp_path / "w", joint)
    own = ("--objective", "frozen", "--start", str(start), "--exits", "features.3", "--name", "heads", "--heads-only")
    assert main(flags(images, tmp_path / "w", *own)) == 0
    heads = ("--start", str(tmp_path / "w" / "heads.safetensors"))
    assert main(flags(images, tmp_path / "g", *heads, "--objective", "gated", "--freeze", "--epochs", "1")) == 0
    assert len(load_stages(f"file:{tmp_path / 'g' / 'cifar_alexnet.safetensors'}")) == 2
    assert main(flags(images, tmp_path / "h", *heads, "--objective", "frozen", "--heads-only")) == 2
    assert "beside" in capsys.readouterr().err


def test_heads_alone_stand_beside_their_backbone(joint: Path, images: Path, tmp_path: Path) -> None:
    start = backbone(tmp_path / "w", joint)
    more = ("--objective", "frozen", "--start", str(start), "--exits", "features.0,features.3", "--name", "heads")
    assert main(flags(images, tmp_path / "w", *more, "--heads-only")) == 0
    path = tmp_path / "w" / "heads.safetensors"
    assert not any(name.startswith("backbone") for name in read_weights(path).tensors)
    stages = load_stages(f"file:{path}")
    assert len(stages) == 3
    other = read_weights(start / "cifar_alexnet.safetensors")
    from safetensors.torch import save_file

    changed = {name: value + 0.5 if value.ndim > 1 else value for name, value in other.tensors.items()}
    save_file(changed, start / "cifar_alexnet.safetensors", metadata=dict(other.about))
    with pytest.raises(InputError, match="that the heads of"):
        load_stages(f"file:{path}")


def test_a_class_without_images_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(dataset(tmp_path / "x.npz", 100)) as held:
        some = held["labels"] != 1
        np.savez(tmp_path / "y.npz", images=held["images"][some], labels=held["labels"][some])
    assert main(flags(tmp_path / "y.npz", tmp_path / "out")) == 2
    assert "an image of every class" in capsys.readouterr().err


def test_a_checkpoint_of_another_objective_is_refused(
    joint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--exits", "features.3", "--epochs", "1")
    assert main(flags(images, tmp_path, *more)) == 0
    assert main(flags(images, tmp_path, *more, "--objective", "gated")) == 2
    assert "objective" in capsys.readouterr().err
    assert main(flags(images, tmp_path, "--epochs", "1", "--exits", "features.0")) == 2
    assert "exits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--objective", "frozen", "--start", "weights", "--exits", "2", "--distill", "1"), "--distill"),
        (("--objective", "frozen", "--start", "weights", "--exits", "2", "--weights", "0", "1", "0"), "--weights"),
        (("--objective", "joint", "--loss", "mixture"), "--loss"),
        (("--objective", "joint", "--sharpen", "5"), "--sharpen"),
        (("--objective", "gated", "--sharpen", "1e39"), "at most 1000"),
        (("--objective", "gated", "--price", "1e39"), "at most"),
    ],
)
def test_flags_that_would_be_passed_over_are_refused(
    joint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], said: str
) -> None:
    from offramp.cascades.models.weights import save_weights
    from offramp.cascades.models.zoo import load_plain

    module = load_plain("cifar_alexnet", ["0", "1", "2"], None).module
    path = tmp_path / "cifar_alexnet.safetensors"
    save_weights(module, path, {"architecture": "cifar_alexnet", "classes": "0\n1\n2"}, False)
    given = [str(path) if word == "weights" else word for word in more]
    assert main(flags(images, tmp_path / "out", "--epochs", "1", *given)) == 2
    assert said in capsys.readouterr().err


def test_a_segment_leaves_its_input_as_it_is() -> None:
    """A head in front of an in-place layer still sees what the cut gave, in training too."""
    from torch import nn

    from offramp.cascades.models.branches import BranchedNet, Exit

    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(4)
    )
    backbone(torch.zeros(2, 3, 8, 8))
    net = BranchedNet(backbone, [Exit("1", (4,))], (3, 8, 8), 4).train()
    state = net.segment(0, torch.randn(2, 3, 8, 8))
    before = state.detach().clone()
    sum(z.sum() for z in (net.head(0, state), net.segment(1, state))).backward()
    assert torch.equal(state, before)


def test_rare_classes_and_untaught_exits_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0] * 90 + [1] * 2 + [2] * 40)
    pixels = rng.integers(0, 256, (len(labels), 32, 32, 3)).astype(np.uint8)
    np.savez(tmp_path / "few.npz", images=pixels, labels=labels)
    more = ("--exits", "features.0", "--epochs", "1", "--weights", "0", "1")
    assert main(flags(tmp_path / "few.npz", tmp_path / "out", *more)) == 0
    told = capsys.readouterr().err
    assert "few images of 1 (2)" in told
    assert "no loss taught (weight 0): 1" in told
