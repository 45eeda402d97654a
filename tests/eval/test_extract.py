"""The extraction as a user runs it: real processes on tiny images, stopped in every way there is."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from offramp.cascades.files.datafolder import read_folder
from offramp.cascades.graph.costs import read_costs
from offramp.cascades.measuring.extraction import Progress
from offramp.cascades.models.weights import save_weights
from offramp.cascades.models.zoo import CIFAR_CLASSES, ZOO, load_stage
from offramp.eval.extract import LOCK, UNIT, main

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
N = 304
BROKEN = (0, 77, 78, 303)
KILLS = 22
SECONDS = 60
"""After which a process that should have said or done something has hung."""


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of two networks of the zoo."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("cifar_alexnet", "cifar_googlenet"):
        torch.manual_seed(len(name))
        about = {"architecture": name, "classes": "\n".join(CIFAR_CLASSES)}
        save_weights(ZOO[name].build(len(CIFAR_CLASSES)).eval(), folder / f"{name}.safetensors", about)
    return folder


def make_images(folder: Path, n: int, classes: Sequence[str] = CIFAR_CLASSES, broken: Sequence[int] = ()) -> Path:
    rng = np.random.default_rng(0)
    for i in range(n):
        file = folder / classes[i * len(classes) // n] / f"{i:04}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file)
        if i in broken:
            file.write_text("no image\n")
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 whole images, six a class."""
    return make_images(tmp_path_factory.mktemp("images"), 60)


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """N images, a few of them broken."""
    return make_images(tmp_path_factory.mktemp("many"), N, broken=BROKEN)


@pytest.fixture
def flags(weights: Path, images: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """flags("--batch", 3, out="y"): a command line, by default of cifar_alexnet on the 60 images, into x."""

    def make(
        *more: Any, out: str = "x", source: Path = images, models: Sequence[str] = ("cifar_alexnet",)
    ) -> list[str]:
        line = ("--models", *models, "--weights", weights, "--images", source, "--out", tmp_path / out, "--workers", 0)
        return [str(word) for word in (*line, *more)]

    return make


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "eval.extract", *flags]


def seen(folder: Path) -> dict[str, bytes]:
    """The files that a user sees."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def refused(capsys: pytest.CaptureFixture[str], flags: Sequence[str], *words: str) -> None:
    capsys.readouterr()
    assert main(flags) == 2
    said = capsys.readouterr()
    assert said.out == ""
    for word in words:
        assert word in said.err, said.err


# --- what comes out


def test_images_and_models_become_a_data_folder(
    flags: Callable[..., list[str]], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ("cifar_alexnet", "second=cifar_googlenet")
    assert main(flags("--pooled", "--batch", "16", models=models)) == 0
    out = capsys.readouterr().out
    with np.load(tmp_path / "x" / "outputs.npz") as arrays:
        found = dict(arrays)
    assert list(found) == ["labels", "ids", "alexnet", "alexnet.pooled", "second", "second.pooled"]
    np.testing.assert_array_equal(found["labels"], np.repeat(np.arange(10), 6))
    assert found["ids"][0].endswith("/airplane/0000.jpg")
    for name in ("alexnet", "second"):
        right = np.mean(found[name].argmax(axis=1) == found["labels"])
        assert f"{name}: {100 * right:.2f} % of 60 images right" in out
    assert sorted(seen(tmp_path / "x")) == ["costs.json", "extracted.json", "outputs.npz"]
    assert hidden(tmp_path / "x") == []
    costs = read_costs(tmp_path / "x" / "costs.json")
    assert (costs.unit, list(costs.stages)) == (UNIT, ["alexnet", "second"])
    module = load_stage("cifar_alexnet", weights).module
    layers = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
    assert costs.step((), "alexnet") * 1e6 > sum(layer.weight.numel() for layer in layers)
    data = read_folder(tmp_path / "x")
    assert {part: len(outputs) for part, outputs in data.parts.items()} == {"fit": 30, "test": 30}


def test_parts_stand_side_by_side(flags: Callable[..., list[str]], tmp_path: Path) -> None:
    for part, rows in (("fit", ":40"), ("tune", "40:50"), ("test", "50:")):
        assert main(flags("--part", part, "--rows", rows)) == 0
    data = read_folder(tmp_path / "x")
    assert {part: len(outputs) for part, outputs in data.parts.items()} == {"fit": 40, "tune": 10, "test": 10}


def test_parts_come_from_the_same_networks(
    flags: Callable[..., list[str]], tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags("--part", "fit", "--rows", ":10")) == 0
    torch.manual_seed(99)
    about = {"architecture": "cifar_alexnet", "classes": "\n".join(CIFAR_CLASSES)}
    save_weights(ZOO["cifar_alexnet"].build(10).eval(), tmp_path / "other.safetensors", about)
    test = ("--part", "test", "--rows", "10:20")
    before = seen(tmp_path / "x")
    refused(capsys, flags(*test, "--weights", tmp_path / "other.safetensors"), "stages 1 weights", "fit.extracted.json")
    refused(capsys, flags(*test, "--pooled"), "pooled False", "pooled True")
    refused(capsys, flags("--rows", "10:20"), "fit.outputs.npz beside outputs.npz")
    refused(capsys, flags(*test, models=("cifar_alexnet", "cifar_googlenet")), "stages 2")
    assert (seen(tmp_path / "x"), hidden(tmp_path / "x")) == (before, [])
    assert main(flags(*test)) == 0
    assert main(flags("--rows", "10:20", out="y")) == 0
    refused(capsys, flags(*test, out="y"), "outputs.npz beside test.outputs.npz")


def test_measured_costs_stay(
    flags: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").mkdir()
    measured = '{"unit": "ms per image", "stages": {"alexnet": 7}}'
    (tmp_path / "x" / "costs.json").write_text(measured)
    assert main(flags("--rows", ":4")) == 0
    assert (tmp_path / "x" / "costs.json").read_text() == measured
    refused(capsys, flags("--rows", ":4", "--part", "fit", models=("b=cifar_alexnet",)), "beside")
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "costs.json").write_text(measured)
    refused(capsys, flags(out="y", models=("b=cifar_alexnet",)), "costs of b, or no file", "those of alexnet")
    assert list(seen(tmp_path / "y")) == ["costs.json"]


def test_classes_are_found_by_name(
    flags: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = make_images(tmp_path / "some", 6, ("dog", "bird", "truck"))
    assert main(flags(source=some)) == 0
    with np.load(tmp_path / "x" / "outputs.npz") as arrays:
        np.testing.assert_array_equal(arrays["labels"], [2, 2, 5, 5, 9, 9])
        np.testing.assert_array_equal(
            np.char.partition(np.char.partition(arrays["ids"], "/")[:, 2], "/")[::2, 0], ["bird", "dog", "truck"]
        )
    strange = make_images(tmp_path / "strange", 4, ("dog", "cow"))
    refused(capsys, flags(source=strange, out="y"), "'cow', which is not among them", "--classes")
    assert main(flags("--classes", "cow=deer", source=strange, out="y")) == 0
    with np.load(tmp_path / "y" / "outputs.npz") as arrays:
        np.testing.assert_array_equal(arrays["labels"], [4, 4, 5, 5])
    refused(capsys, flags("--classes", "a", "b", "c", source=strange, out="z"), "--classes", "2 classes (cow, dog)")


def test_broken_images_are_reported_by_name_or_stop_it(
    flags: Callable[..., list[str]], many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(source=many)) == 0
    out = capsys.readouterr().out
    assert f"of {N - len(BROKEN)} images right" in out
    assert "4 broken images left out" in out
    lines = (tmp_path / "x" / "broken.txt").read_text().splitlines()
    assert [line.partition("\t")[0][-8:] for line in lines] == [f"{i:04}.jpg" for i in BROKEN]
    assert f"  {lines[1].replace(chr(9), ': ')}" in out
    whole = np.setdiff1d(np.arange(N), BROKEN)
    with np.load(tmp_path / "x" / "outputs.npz") as arrays:
        assert [name[-8:] for name in arrays["ids"]] == [f"{i:04}.jpg" for i in whole]
        np.testing.assert_array_equal(arrays["labels"], whole * 10 // N)
    refused(capsys, flags("--broken", "stop", source=many), "4 left out by an earlier run")
    refused(capsys, flags("--broken", "stop", "--rows", "50:", source=many, out="y"), "0077.jpg", "--broken skip")
    assert ".all.extracting" in hidden(tmp_path / "y")
    assert main(flags("--rows", "50:", source=many, out="y")) == 0
    assert hidden(tmp_path / "y") == []


# --- once more


def test_a_finished_part_is_not_done_again(
    flags: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags()) == 0
    before, first = seen(tmp_path / "x"), capsys.readouterr()
    assert "60 images in" in first.err
    assert main(flags()) == 0
    again = capsys.readouterr()
    assert (again.out, again.err) == (first.out, "done before\n")
    refused(capsys, flags("--batch", "7"), "batch 64", "batch 7", "outputs.npz (delete it")
    refused(capsys, flags("--rows", "5:"), "rows 0:60", "rows 5:60")
    assert seen(tmp_path / "x") == before
    (tmp_path / "x" / "outputs.npz").unlink()
    assert main(flags("--batch", "7")) == 0


def test_other_people_s_outputs_are_not_overwritten(
    flags: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "outputs.npz").write_bytes(b"mine")
    refused(capsys, flags(), "outputs that this command wrote, or none", "outputs.npz")
    assert seen(tmp_path / "x") == {"outputs.npz": b"mine"}


def test_settings_of_a_run_that_goes_on_are_the_same(
    flags: Callable[..., list[str]], many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = flags("--batch", "5", "--broken", "stop", "--rows", "50:", source=many)
    assert main(stopped) == 2
    assert "25 of 254 images are done and kept; the same command goes on from there" in capsys.readouterr().err
    for more, word in (
        (("--batch", "6"), "batch 5, found batch 6"),
        (("--pooled",), "pooled False, found pooled True"),
        (("--dtype", "bfloat16"), "dtype float32, found dtype bfloat16"),
        (("--rows", "51:"), "rows 50:304"),
    ):
        refused(capsys, [*stopped, *more], word, ".all.extracting (delete it to begin anew")
    refused(capsys, flags("--rows", ":9", "--part", "fit", source=many), ".all.extracting beside fit.outputs.npz")


@pytest.mark.parametrize(
    "damage",
    [
        *("done empty", "done far", "done gone", "array gone", "array cut", "pooled gone", "pooled cut"),
        *("broken gone", "broken empty"),
    ],
)
def test_a_damaged_beginning_is_told_and_not_gone_on_from(
    damage: str, flags: Callable[..., list[str]], many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At row 77 --broken stop ends it; rows 0 and, if skipped, 77 and 78 are broken."""
    stopped = flags("--batch", "5", "--broken", "stop", "--pooled", "--rows", "50:", source=many)
    assert main(stopped) == 2
    if damage.startswith("broken"):  # that one was skipped first
        there = Progress(tmp_path / "x" / ".all.extracting", N - 50, 5)
        there.put_broken([(24, "torn")])
        there.record(5, 1)
    capsys.readouterr()
    there = tmp_path / "x" / ".all.extracting"
    name, how = damage.split()
    path = there / {"done": "done", "array": "0.npy", "pooled": "0.pooled.npy", "broken": "broken.jsonl"}[name]
    far = b"%020d %020d\n" % (10**9, 0)
    content = {"empty": b"", "far": far, "cut": path.read_bytes()[:200], "gone": b""}[how]
    path.unlink() if how == "gone" else path.write_bytes(content)
    refused(capsys, stopped, path.name, f"{there} (delete it to begin anew")
    shutil.rmtree(there)
    assert main(flags("--pooled", "--batch", "5", "--rows", "50:", source=many)) == 0


def changed(report: bytes, **how: Any) -> bytes:
    return json.dumps({**json.loads(report), **how}).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"{}",
        lambda _: b"[]",
        lambda _: b"",
        lambda text: text[:-20],
        lambda text: changed(text, manifest=[]),
        lambda text: changed(text, images="60"),
        lambda text: changed(text, images=61),
        lambda text: changed(text, skipped=None),
        lambda text: changed(text, skipped=[["a", "torn"]]),
        lambda text: changed(text, error={}),
        lambda text: changed(text, error={"alexnet": None}),
    ],
)
def test_a_damaged_report_is_told(
    damage: Callable[[bytes], bytes],
    flags: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(flags("--part", "fit")) == 0
    path = tmp_path / "x" / "fit.extracted.json"
    path.write_bytes(damage(path.read_bytes()))
    refused(capsys, flags("--part", "fit"), "fit.outputs.npz (delete it to begin anew")
    (tmp_path / "x" / "fit.outputs.npz").unlink()
    assert main(flags("--part", "fit")) == 0
    assert main(flags("--part", "fit")) == 0


def test_damaged_reports_of_other_parts_are_told(
    flags: Callable[..., list[str]], many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = flags("--batch", "5", "--broken", "stop", "--rows", "50:", "--part", "fit", source=many)
    assert main(stopped) == 2
    for content in ("[]", "{}", "7", ""):
        (tmp_path / "x" / ".fit.extracting" / "manifest.json").write_text(content)
        refused(capsys, flags("--part", "test"), ".fit.extracting", "expected")
    shutil.rmtree(tmp_path / "x" / ".fit.extracting")
    for content in ("[]", "{}", '{"manifest": 7}'):
        (tmp_path / "x" / "fit.extracted.json").write_text(content)
        refused(capsys, flags("--part", "test"), "fit.extracted.json (delete it to begin anew")


def test_damaged_outputs_are_told(
    flags: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags("--pooled")) == 0
    path = tmp_path / "x" / "outputs.npz"
    whole = path.read_bytes()
    middle, place = len(whole) // 2, whole.index(b"alexnet.npy")
    heads = [whole.index(b"NUMPY", whole.index(name)) for name in (b"labels.npy", b"alexnet.pooled.npy")]
    damages = [b"", b"PK\3\4 and no more", *(whole[:size] for size in (100, middle, len(whole) - 1))]
    damages += [whole[: middle - 100] + whole[middle:], whole[100:], whole[:place] + b"?" + whole[place + 1 :]]
    damages += [whole[:head] + b"?" + whole[head + 1 :] for head in heads]
    for content in damages:
        path.write_bytes(content)
        refused(capsys, flags("--pooled"), "outputs.npz (delete it to begin anew", "a truncated or other file")
    np.savez(path, labels=np.zeros(60), ids=np.arange(60))
    refused(capsys, flags("--pooled"), "outputs.npz (delete it to begin anew", "none called 'alexnet'")
    np.savez(path, labels=np.zeros(60), ids=np.arange(60), alexnet=np.zeros((59, 10)))
    refused(capsys, flags("--pooled"), "outputs.npz (delete it to begin anew", "59 rows of 'alexnet'")
    path.write_bytes(whole)
    assert main(flags("--pooled")) == 0


def test_a_damaged_list_of_broken_images_is_told(
    flags: Callable[..., list[str]], many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(source=many)) == 0
    path = tmp_path / "x" / "broken.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    refused(capsys, flags(source=many), "outputs.npz (delete it", "4 broken images in broken.txt, found 3")
    path.unlink()
    refused(capsys, flags(source=many), "outputs.npz (delete it", "4 broken images in broken.txt, found 0")


def test_what_killed_runs_left_is_swept_away_and_nothing_else(flags: Callable[..., list[str]], tmp_path: Path) -> None:
    folder = tmp_path / "x"
    (folder / ".all.extracting.done").mkdir(parents=True)
    (folder / ".all.extracting.done" / "0.npy").write_bytes(b"x" * 100)
    gone = [".try.7.part", ".costs.json.7.0123abcd.tmp", ".costs.json.0123456789abcdef.tmp"]
    kept = [".mine", ".try.x.part", "notes.tmp", ".costs.json.0123456789abcdef.bak", "costs.json.7.0123abcd.tmp"]
    kept += [".mine.7.part", ".mine.0123456789abcdef.tmp"]
    for name in (*gone, *kept):
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (0, 0))
    (folder / ".costs.json.8.0123abcd.tmp").write_bytes(b"")  # new: its writer may live
    assert main(flags()) == 0
    names = {path.name for path in folder.iterdir()}
    assert names.isdisjoint({*gone, ".all.extracting.done"})
    assert names >= {*kept, ".costs.json.8.0123abcd.tmp"}
    (folder / ".fit.extracting.done").mkdir()
    (folder / gone[0]).write_bytes(b"")
    os.utime(folder / gone[0], (0, 0))
    assert main(flags()) == 0  # done before
    assert {path.name for path in folder.iterdir()} == names


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--rows", "60:"), ("rows", "60")),
        (("--models", "labels=cifar_alexnet"), ("'labels'",)),
        (("--models", "cifar_alexnt"), ("cifar_alexnt",)),
        (("--images", "nowhere"), ("nowhere",)),
        (("--part", "validation"), ("--part", "fit, tune, certify, test")),
        (("--device", "tpu"), ("device", "'tpu'")),
    ],
)
def test_nonsense_is_refused_and_leaves_nothing(
    flags: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    refused(capsys, flags(*more), *words)
    assert not (tmp_path / "x").exists() or list((tmp_path / "x").iterdir()) == []


def test_help_comes_without_torch() -> None:
    program = "import sys; from offramp.eval import extract\ntry: extract.main(['--help'])\nexcept SystemExit: pass\n"
    program += "assert not {'torch', 'torchvision', 'timm', 'PIL'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert "--pooled" in done.stdout


# --- stopped in every way

SERVER = """
import json, os, signal, sys, time
from pathlib import Path
from offramp.eval.extract import main
from offramp.cascades.measuring import extraction

def work(flags, seconds):
    # torch has one thread here and has been used, so that a fork has all it needs and begins at once
    child = os.fork()
    if not child:
        extraction.RECORD_SECONDS = 0.0
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(main(flags))
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]

assert main(sys.argv[1:]) == 0
print("ready", flush=True)
for line in sys.stdin:
    print(work(*json.loads(line)), flush=True)
"""


@pytest.fixture
def server(flags: Callable[..., list[str]]) -> Iterator[subprocess.Popen[str]]:
    """A process that has torch already, and forks one that runs the command for every line it gets."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, *flags(out="warm-up")],
        cwd=ROOT,
        env=ONE_THREAD,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while process.stdout.readline() not in {"ready\n", ""}:
            pass
        yield process
        process.stdin.close()


def ask(server: subprocess.Popen[str], flags: list[str], seconds: float | None = None) -> int:
    """Status of the command, killed after so many seconds if it is still there."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps([flags, seconds]) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_files(
    flags: Callable[..., list[str]], many: Path, tmp_path: Path, server: subprocess.Popen[str]
) -> None:
    """kill -9 at random moments; those count that hit a run which had begun and was not done."""
    how = ("--batch", "12", "--pooled", "--part", "fit")
    models = ("cifar_alexnet", "cifar_googlenet")

    def into(out: str, *more: str) -> list[str]:
        return flags(*how, *more, out=out, source=many, models=models)

    # a process of its own, start to end
    subprocess.run(command(*into("unbroken")), cwd=ROOT, env=ONE_THREAD, check=True, capture_output=True)
    unbroken = seen(tmp_path / "unbroken")
    assert sorted(unbroken) == ["costs.json", "fit.broken.txt", "fit.extracted.json", "fit.outputs.npz"]
    start = time.monotonic()
    assert ask(server, into("forked")) == 0
    seconds = time.monotonic() - start
    assert seen(tmp_path / "forked") == unbroken

    rng = np.random.default_rng(0)
    hits, rounds, moments = 0, 0, set()
    while hits < KILLS:
        out = f"killed{rounds}"
        rounds += 1
        progress = tmp_path / out / ".fit.extracting"
        for attempt in range(400):
            workers = ("--workers", "1") if attempt % 5 == 4 else ()
            status = ask(server, into(out, *workers), float(rng.uniform(0, 0.7 * seconds)))
            if not status:
                break
            assert os.WTERMSIG(status) == signal.SIGKILL
            hit = progress.is_dir()
            hits += hit
            if hit and (progress / "done").exists():
                moments.add(int((progress / "done").read_text()[:20] or -1))
        else:
            pytest.fail("no run came to its end in 400 attempts")
        assert seen(tmp_path / out) == unbroken
        assert not (set(hidden(tmp_path / out)) & {LOCK, progress.name})
    assert hits >= KILLS
    assert len(moments) > 5, "the kills came at different moments"


def begun(out: Path, process: subprocess.Popen[str], batches: int = 1) -> None:
    """Waits until so many batches are recorded."""
    done = out / ".all.extracting" / "done"
    for _ in range(100 * SECONDS):
        if done.is_file() and int(done.read_text()[:20] or 0) >= batches:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    pytest.fail("it did not begin")


@pytest.fixture(scope="session")
def long(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """20,000 images, for runs that are still at it when they are stopped."""
    jpeg = [np.frombuffer(path.read_bytes(), np.uint8) for path in sorted(images.rglob("*.jpg"))] * 333
    path = tmp_path_factory.mktemp("long") / "long.npz"
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in jpeg])])
    labels = np.arange(len(jpeg)) % len(CIFAR_CLASSES)
    np.savez(path, jpeg=np.concatenate(jpeg), offsets=offsets, labels=labels, classes=np.array(CIFAR_CLASSES))
    return path


def started(flags: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*flags),
        cwd=ROOT,
        env=ONE_THREAD,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )


@pytest.mark.parametrize("workers", ["0", "2"])
def test_ctrl_c_ends_it_with_all_its_workers(
    flags: Callable[..., list[str]], long: Path, tmp_path: Path, workers: str
) -> None:
    with started(flags("--batch", "1", "--workers", workers, source=long)) as process:
        begun(tmp_path / "x", process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
        out, err = process.communicate(timeout=SECONDS)
        assert (process.returncode, out) == (130, "")
        assert "images are done and kept; the same command goes on from there" in err
        assert "Traceback" not in err
        assert len(err.splitlines()) == 2
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    assert hidden(tmp_path / "x") == [".all.extracting"]
    done = int((tmp_path / "x" / ".all.extracting" / "done").read_text()[:20])
    assert f"{done:,} of 19,980 images" in err


def test_of_two_runs_the_second_is_told_and_a_dead_one_holds_nothing(
    flags: Callable[..., list[str]], long: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with started(flags("--batch", "1", "--workers", "1", source=long)) as process:
        begun(tmp_path / "x", process)
        refused(capsys, flags("--part", "fit"), f"process {process.pid} on ", str(tmp_path / "x"), "no other run")
        assert process.poll() is None
        process.kill()
        process.communicate()
        # at once, though its worker takes seconds to see that it is alone
        refused(capsys, flags("--batch", "2", "--workers", "1", source=long), "batch 1", "batch 2")


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))


def test_a_disk_that_is_full_is_told_and_nothing_is_lost(
    flags: Callable[..., list[str]], many: Path, tmp_path: Path
) -> None:
    """A limit on the size of files stands for the disk; the pooled features reach it first."""
    line = flags("--batch", "8", "--pooled", source=many)
    done = subprocess.run(
        command(*line), cwd=ROOT, env=ONE_THREAD, capture_output=True, encoding="utf-8", check=False, preexec_fn=limited
    )
    assert done.returncode == 1
    assert "0.pooled.npy: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    batches = int((tmp_path / "x" / ".all.extracting" / "done").read_text()[:20])
    assert 0 < batches < N / 8
    assert f"{8 * batches} of {N} images are done and kept" in done.stderr
    for out in ("x", "y"):
        subprocess.run(
            command(*flags("--batch", "8", "--pooled", source=many, out=out)),
            cwd=ROOT,
            env=ONE_THREAD,
            check=True,
            capture_output=True,
        )
    assert seen(tmp_path / "x") == seen(tmp_path / "y")


# --- real images


def test_published_networks_on_real_images(tmp_path: Path) -> None:
    source, weights = SHARED / "cifar10-jpeg" / "test.npz", SHARED / "cifar10-resnets"
    if not (source.is_file() and weights.is_dir()):
        pytest.skip(f"real images and weights are not there: {source}, {weights}")
    names = ["cifar_resnet20", "cifar_resnet56"]
    line = ["--models", *names, "--weights", str(weights), "--images", str(source), "--out", str(tmp_path / "x")]
    assert main([*line, "--rows", ":200"]) == 0
    with np.load(source) as arrays:
        jpeg, offsets, labels = (arrays[name] for name in ("jpeg", "offsets", "labels"))
    (tmp_path / "one.jpg").touch()
    pixels = []
    for i in range(200):
        (tmp_path / "one.jpg").write_bytes(jpeg[offsets[i] : offsets[i + 1]].tobytes())
        with Image.open(tmp_path / "one.jpg") as image:
            pixels.append(np.asarray(image.convert("RGB"), np.float32) / 255)
    x = (np.stack(pixels) - np.array((0.485, 0.456, 0.406))) / np.array((0.229, 0.224, 0.225))
    with np.load(tmp_path / "x" / "outputs.npz") as arrays:
        np.testing.assert_array_equal(arrays["labels"], labels[:200])
        for name in names:
            with torch.inference_mode():
                module = load_stage(name, weights).module
                logits = module(torch.from_numpy(x.astype(np.float32)).permute(0, 3, 1, 2)).numpy()
            np.testing.assert_allclose(arrays[name.removeprefix("cifar_")], logits, atol=1e-3)
            assert np.mean(logits.argmax(axis=1) == labels[:200]) > 0.75
