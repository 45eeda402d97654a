"""The training recipe: learns, goes on after a kill as if there had been none, and refuses what it can't use."""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="training needs torch: install offramp[models]")

from offramp.cascades.training.backbone import Settings, main  # noqa: E402
from offramp.cascades.training.loop import PAD, augmented, ramp  # noqa: E402

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""

ROOT = Path(__file__).resolve().parents[2]


def dataset(path: Path, n: int, seed: int = 0) -> Path:
    """Bright and dark images, as JPEG."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    files = []
    for label in labels:
        buffer = io.BytesIO()
        Image.fromarray((rng.integers(0, 96, (32, 32, 3)) + 144 * label).astype(np.uint8)).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    offsets = np.concatenate([[0], np.cumsum([len(file) for file in files])])
    jpeg = np.frombuffer(b"".join(files), np.uint8)
    np.savez(path, jpeg=jpeg, offsets=offsets, labels=labels, classes=np.array(["dark", "bright"]))
    return path


def arguments(images: Path, out: Path, *more: str) -> list[str]:
    plain = ["--threads", "1", "--no-mixed", "--device", "cpu", "--models", "cifar_alexnet"]
    return ["--images", str(images), "--out", str(out), *plain, *more]


def about(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size])["__metadata__"]  # type: ignore[no-any-return]


def test_it_learns_what_is_easy(tmp_path: Path) -> None:
    images, test = dataset(tmp_path / "train.npz", 384), dataset(tmp_path / "test.npz", 100, seed=1)
    assert main(arguments(images, tmp_path / "out", "--epochs", "4", "--test", str(test))) == 0
    told = about(tmp_path / "out" / "cifar_alexnet.safetensors")
    assert told["architecture"] == "cifar_alexnet"
    assert told["classes"] == "dark\nbright"
    assert float(told["test_accuracy"]) >= 0.95


def test_the_same_seed_trains_the_same_network(tmp_path: Path) -> None:
    """LeNet has biases, which are drawn when it is built."""
    images = dataset(tmp_path / "train.npz", 128)
    for out, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        flags = [*arguments(images, tmp_path / out, "--epochs", "1", "--seed", seed), "--models", "lenet"]
        assert main(flags) == 0
    one, same, other = ((tmp_path / out / "lenet.safetensors").read_bytes() for out in "abc")
    assert one == same != other


def test_a_killed_run_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    images = dataset(tmp_path / "train.npz", 256)
    flags = ("--epochs", "30")
    assert main(arguments(images, tmp_path / "whole", *flags)) == 0
    command = [sys.executable, "-m", "cascades.train", *arguments(images, tmp_path / "broken", *flags)]
    checkpoint = tmp_path / "broken" / "cifar_alexnet.checkpoint"
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < end:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = torch.load(checkpoint, weights_only=True)["epoch"]
    assert 1 <= done < 30, "the kill came too late to show anything"
    told = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stderr
    assert f"epoch {done} of 30" not in told
    assert f"epoch {done + 1} of 30" in told
    name = "cifar_alexnet.safetensors"
    assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, others = dataset(tmp_path / "train.npz", 300), dataset(tmp_path / "others.npz", 300, seed=5)
    assert main(arguments(images, tmp_path, "--epochs", "1")) == 0
    before = (tmp_path / "cifar_alexnet.safetensors").read_bytes()
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "cifar_alexnet.safetensors").write_bytes(before)
    for other, more, word in (
        (images, ("--epochs", "2"), "epochs 1"),
        (images, ("--epochs", "1", "--seed", "3"), "seed 0"),
        (images, ("--epochs", "1", "--rows", ":200"), "rows 0:300"),
        (images, ("--epochs", "1", "--rate", "0.01"), "rate=0.1"),
        (images, ("--epochs", "1", "--start", str(tmp_path / "start")), "start random weights"),
        (others, ("--epochs", "1"), "images "),
    ):
        assert main(arguments(other, tmp_path, *more)) == 2
        assert word in capsys.readouterr().err.partition("found")[2]
    assert (tmp_path / "cifar_alexnet.safetensors").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"PK", b"x" * 100, "list", "cut", "other"])
def test_a_damaged_checkpoint_is_told_by_name(
    content: bytes | str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, path = dataset(tmp_path / "train.npz", 128), tmp_path / "cifar_alexnet.checkpoint"
    assert main(arguments(images, tmp_path, "--epochs", "1")) == 0
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "list":
        torch.save([1, 2], path)
    elif content == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        held = torch.load(path, weights_only=True)
        held["module"] = {"strange": torch.zeros(1)}
        torch.save(held, path)
    assert main(arguments(images, tmp_path, "--epochs", "1")) == 2
    told = capsys.readouterr().err
    assert str(path) in told
    assert "checkpoint" in told


def test_a_loss_that_is_not_finite_stops_with_the_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = dataset(tmp_path / "train.npz", 256)
    assert main(arguments(images, tmp_path, "--epochs", "9", "--rate", "1e30")) == 2
    assert "epoch 2" in capsys.readouterr().err
    assert not (tmp_path / "cifar_alexnet.safetensors").exists()


def test_a_warm_restart_begins_where_the_weights_are(tmp_path: Path) -> None:
    images = dataset(tmp_path / "train.npz", 384)
    test = dataset(tmp_path / "test.npz", 100, seed=1)
    assert main(arguments(images, tmp_path / "one", "--epochs", "4")) == 0
    more = ("--epochs", "1", "--rate", "1e-8", "--start", str(tmp_path / "one"), "--test", str(test))
    assert main(arguments(images, tmp_path / "two", *more)) == 0
    assert float(about(tmp_path / "two" / "cifar_alexnet.safetensors")["test_accuracy"]) >= 0.95


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--models", "cifar_resnet21"), "cifar_alexnet"),
        (("--rows", ":100"), "at least 128"),
        (("--rows", "a"), "rows"),
        (("--epochs", "0"), "at least 1"),
        (("--device", "cuda:99"), "device"),
    ],
)
def test_bad_flags_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], said: str
) -> None:
    images = dataset(tmp_path / "train.npz", 130)
    assert main([*arguments(images, tmp_path / "out"), *more]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("side", [32, 24])
def test_a_crop_is_a_part_of_the_reflected_image_perhaps_flipped(side: int) -> None:
    images = torch.rand(12, 3, 32, 32)
    out = augmented(images, side)
    assert out.shape == (12, 3, side, side)
    padded = torch.nn.functional.pad(images, (PAD,) * 4, mode="reflect")
    places, flips = set(), 0
    for image, whole in zip(out, padded, strict=True):
        found = [
            (top, left, flipped)
            for flipped in (False, True)
            for top in range(40 - side + 1)
            for left in range(40 - side + 1)
            if torch.equal(image.flip(2) if flipped else image, whole[:, top : top + side, left : left + side])
        ]
        assert len(found) == 1
        places.add(found[0][:2])
        flips += found[0][2]
        margin = (40 - side) // 2
        assert all(abs(at - margin) <= PAD for at in found[0][:2])
    assert len(places) > 4  # each image by its own chance
    assert 0 < flips < 12


def test_a_square_is_blanked_in_every_image() -> None:
    images = torch.rand(20, 3, 32, 32) + 1
    out = augmented(images, cutout=8)
    blank = (out == 0).all(dim=1)
    assert (blank == (out == 0).any(dim=1)).all()
    sizes = blank.sum(dim=(1, 2))
    assert ((sizes >= 25) & (sizes <= 81)).all()  # cut off at a corner, or whole
    assert len({tuple(b.nonzero()[0].tolist()) for b in blank}) > 5


def test_the_rate_rises_and_falls_to_zero() -> None:
    rates = [ramp(i / 100) for i in range(101)]
    assert max(rates) == 1
    assert rates[0] == rates[-1] == 0
    assert rates.index(1) == 20


def test_the_recipes_are_of_networks_in_the_zoo() -> None:
    from offramp.cascades.models.zoo import ZOO

    assert set(Settings(images=Path()).models) <= set(ZOO)
