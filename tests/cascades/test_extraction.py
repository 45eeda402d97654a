"""Tiny networks on tiny images: what is stored is what they said, whatever happened on the way."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from offramp.cascades.images.images import Images
from offramp.cascades.images.sources import open_images
from offramp.cascades.measuring import extraction
from offramp.cascades.measuring.extraction import (
    Decoder,
    Job,
    Progress,
    assemble,
    extract,
    outputs_of,
    renamed,
    ways_of,
)
from offramp.cascades.models.preprocessing import Preprocessing
from offramp.cascades.models.zoo import StageModel
from offramp.features.errors import InputError
from offramp.features.store.npz import Blocks, write_npz
from offramp.features.store.reading import read_parts

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""

torch = pytest.importorskip("torch")

N, SIZE, CLASSES = 23, 8, ("cat", "cow", "dog")
AS_THEY_ARE = Preprocessing(None, (SIZE, SIZE), "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
SMALLER = Preprocessing(6, (4, 4), "bilinear", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
MANIFEST = {"batch": 4, "stages": [{"name": "a", "weights": "x"}]}


def stage(name: str = "a", how: Preprocessing = AS_THEY_ARE, seed: int = 0, **changes: Any) -> StageModel:
    assert how.crop is not None
    torch.manual_seed(seed)
    layers = (torch.nn.Flatten(), torch.nn.Linear(3 * how.crop[0] * how.crop[1], 5), torch.nn.Linear(5, len(CLASSES)))
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3, padding=1), *layers).eval()
    given = {"module": module, **changes}
    return StageModel(name, name, "random", given["module"], how, CLASSES, 0, f"digest of {name}")


def folder(path: Path, broken: Sequence[int] = (), black: Sequence[int] = ()) -> Images:
    """N images in one folder a class; some of them broken, or black."""
    rng = np.random.default_rng(0)
    for i in range(N):
        pixels = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        file = path / CLASSES[i * len(CLASSES) // N] / f"{i:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels * (i not in black)).save(file)
        if i in broken:
            file.write_bytes(file.read_bytes()[:50])
    return open_images(path)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return folder(tmp_path_factory.mktemp("images"))


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """run(job, name="x", **extract's): the arrays of the npz that a job ends with."""

    def work(job: Job, name: str = "x", **how: Any) -> dict[str, Any]:
        progress = Progress(tmp_path / f".{name}", len(job.images), job.batch)
        progress.begin(MANIFEST)
        extract(job, progress, **how)
        assemble(job, progress, tmp_path / f"{name}.npz")
        with np.load(tmp_path / f"{name}.npz") as arrays:
            return dict(arrays)

    return work


def job(images: Images, *stages: StageModel, batch: int = 4, **how: Any) -> Job:
    return Job(images, stages or (stage(),), torch.device("cpu"), batch, **how)


def by_hand(images: Images, one: StageModel, batch: int) -> np.ndarray:
    pixels = torch.stack([torch.from_numpy(one.preprocessing.cropped(images.image(i))) for i in range(len(images))])
    with torch.inference_mode():
        module = one.module.to(memory_format=torch.channels_last)
        return torch.cat([module(one.preprocessing.normalise(part)) for part in pixels.split(batch)]).numpy()


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], strict=True)


# --- what is stored


@pytest.mark.parametrize("batch", [1, 4, 23, 100])
def test_every_stage_says_what_it_says_alone(images: Images, run: Callable[..., Any], batch: int) -> None:
    stages = (stage("a"), stage("b", seed=1), stage("c", SMALLER, seed=2))
    found = run(job(images, *stages, batch=batch))
    assert list(found) == ["labels", "ids", "a", "b", "c"]
    np.testing.assert_array_equal(found["labels"], images.labels)
    np.testing.assert_array_equal(found["ids"], images.names)
    for one in stages:
        assert found[one.name].dtype == np.float32
        np.testing.assert_array_equal(found[one.name], by_hand(images, one, batch))


def test_pooled_features_are_what_goes_into_the_last_layer(
    images: Images, run: Callable[..., Any], tmp_path: Path
) -> None:
    one = stage()
    found = run(job(images, one, stage("b", SMALLER, seed=3), pooled=True))
    last = one.module[-1]  # type: ignore[index]
    assert found["a.pooled"].shape == (N, 5)
    with torch.inference_mode():
        np.testing.assert_allclose(last(torch.from_numpy(found["a.pooled"])).numpy(), found["a"], atol=1e-5)
        before = one.module[:-1](one.preprocessing.normalise(Decoder(images, ways_of([one]), N)[0][1][0]))  # type: ignore[index]
    np.testing.assert_allclose(found["a.pooled"], before.numpy(), atol=1e-5)
    read = read_parts({"fit": tmp_path / "x.npz"}, ("a", "b"))["fit"]
    assert [each.pooled is not None for each in read.stages] == [True, True]


def test_bfloat16_is_coarser_and_stored_in_single_precision(images: Images, run: Callable[..., Any]) -> None:
    exact, coarse = run(job(images))["a"], run(job(images, dtype="bfloat16"), "y")["a"]
    assert coarse.dtype == np.float32
    assert 0 < np.abs(exact - coarse).max() < 0.1
    np.testing.assert_array_equal(coarse, torch.from_numpy(coarse).bfloat16().float().numpy())


@dataclass(frozen=True, eq=False)
class Counted(Images):
    """Images that remember how often each was decoded."""

    times: Any = None

    def image(self, i: int) -> Image.Image:
        self.times[i] += 1
        return super().image(i)


def counted(images: Images) -> Counted:
    times = np.zeros(N, int)
    return Counted(**{name: getattr(images, name) for name in Images.__dataclass_fields__}, times=times)


def test_an_image_is_decoded_once_for_all_stages(images: Images, run: Callable[..., Any]) -> None:
    grey = replace(AS_THEY_ARE, mean=(0.1, 0.1, 0.1))
    stages = (stage("a"), stage("b", grey), stage("c", SMALLER), stage("d", SMALLER))
    assert ways_of(stages) == (AS_THEY_ARE, SMALLER)
    some = counted(images)
    run(job(some, *stages))
    np.testing.assert_array_equal(some.times, 1)


def test_rows_are_those_that_were_asked_for(images: Images, run: Callable[..., Any]) -> None:
    whole, some = run(job(images)), run(job(images.take(slice(4, 16))), "y")
    same(some, {name: array[4:16] for name, array in whole.items()})


# --- broken images


@pytest.mark.parametrize("broken", [(0,), (5, 6), (N - 1,), (4, 5, 6, 7), (20, 21, 22)])
@pytest.mark.parametrize("pooled", [False, True])
def test_a_broken_image_leaves_all_others_as_they_are(
    tmp_path: Path, run: Callable[..., Any], broken: tuple[int, ...], pooled: bool
) -> None:
    """Bit for bit what black images in their places would have left; batches of broken ones only among them."""
    for kind in ("black", "broken"):  # ids name the folder that is asked for
        (tmp_path / kind).mkdir()
    whole = run(job(folder(tmp_path / "black" / "x", black=broken), pooled=pooled))
    found = run(job(folder(tmp_path / "broken" / "x", broken=broken), pooled=pooled), "y")
    keep = ~np.isin(np.arange(N), broken)
    same(found, {name: array[keep] for name, array in whole.items()})


def test_broken_images_are_named(tmp_path: Path) -> None:
    some = job(folder(tmp_path / "images", broken=(3, 17)))
    progress = Progress(tmp_path / "p", N, 4)
    progress.begin(MANIFEST)
    extract(some, progress)
    ended = assemble(some, progress, tmp_path / "x.npz")
    assert [name for name, _ in ended.skipped] == [some.images.ids[3], some.images.ids[17]]
    assert all(why for _, why in ended.skipped)
    assert ended.images == N


def test_a_broken_image_stops_it_if_asked(tmp_path: Path) -> None:
    some = job(folder(tmp_path / "images", broken=(9,)), skip=False)
    progress = Progress(tmp_path / "p", N, 4)
    progress.begin(MANIFEST)
    with pytest.raises(InputError, match=r"image cow/009\.png: expected a whole image \(--broken skip"):
        extract(some, progress)
    assert progress.begin(MANIFEST) == 2  # batches before the one that it is in
    extract(replace(some, skip=True), progress)
    assert progress.begin(MANIFEST) == some.batches
    with pytest.raises(InputError, match=r"cow/009\.png"):  # the one that an earlier run skipped
        extract(some, progress)


def test_no_image_at_all_is_an_error(tmp_path: Path) -> None:
    some = job(folder(tmp_path / "images", broken=range(N)))
    progress = Progress(tmp_path / "p", N, 4)
    progress.begin(MANIFEST)
    extract(some, progress)
    with pytest.raises(InputError, match=f"found {N} broken ones, cat/000"):
        assemble(some, progress, tmp_path / "x.npz")


# --- worker processes


def test_workers_change_nothing(tmp_path: Path, run: Callable[..., Any]) -> None:
    some = job(folder(tmp_path / "images", broken=(2, 8, 9, 10, 11)), stage(), stage("b", SMALLER), pooled=True)
    same(run(some), run(some, "y", workers=2))


@dataclass(frozen=True, eq=False)
class Odd(Images):
    """Images that cannot be had, for a reason of their own."""

    died: bool = False

    def image(self, i: int) -> Image.Image:
        if i == 6 and self.died:
            os.kill(os.getpid(), signal.SIGKILL)
        if i == 6:
            raise InputError("a shard that stays", "one that went", "shard 3")
        return super().image(i)


def odd(images: Images, **how: Any) -> Odd:
    return Odd(**{name: getattr(images, name) for name in Images.__dataclass_fields__}, **how)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_source_is_told_from_workers_too(images: Images, tmp_path: Path, workers: int) -> None:
    progress = Progress(tmp_path / "p", N, 4)
    progress.begin(MANIFEST)
    with pytest.raises(InputError, match=r"^shard 3: expected a shard that stays, found one that went$"):
        extract(job(odd(images)), progress, workers)
    assert progress.begin(MANIFEST) == 1


def test_a_worker_that_was_killed_is_told(images: Images, tmp_path: Path) -> None:
    progress = Progress(tmp_path / "p", N, 4)
    progress.begin(MANIFEST)
    with pytest.raises(InputError, match="expected worker processes that live on"):
        extract(job(odd(images, died=True)), progress, 1)


def test_images_that_come_out_in_several_sizes_are_refused(tmp_path: Path) -> None:
    for name, size in (("a", (8, 8)), ("b", (8, 1))):
        (tmp_path / "images" / "cat").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(tmp_path / "images" / "cat" / f"{name}.png")
    as_it_comes = replace(AS_THEY_ARE, crop=None)
    _, crops, _, failure = Decoder(open_images(tmp_path / "images"), (as_it_comes,), 4)[0]
    assert not crops
    assert "in one size" in str(InputError(*(failure or ("", "", ""))))


# --- networks that don't answer with logits


class Spoiled(torch.nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
    """NaN for every image from a black one on, or a tuple."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.inner = kind, torch.nn.Linear(3 * SIZE * SIZE, len(CLASSES))

    def forward(self, x: Any) -> Any:
        logits = self.inner(x.flatten(1))
        if self.kind == "tuple":
            return logits, logits
        return torch.where((x == x.flatten(1)[:, :1, None, None]).flatten(1).all(1)[:, None], float("nan"), logits)


def test_nan_is_an_error_that_names_stage_and_images_and_what_was_done_stays(tmp_path: Path) -> None:
    flat = replace(AS_THEY_ARE, mean=(0.5,) * 3, std=(0.5,) * 3)
    some = job(folder(tmp_path / "images", black=(9,)), stage("sane"), stage("b", flat, module=Spoiled("nan")))
    progress = Progress(tmp_path / "p", N, 4)
    progress.begin(MANIFEST)
    with pytest.raises(InputError, match=r"stage 'b', images 8 to 11: expected finite logits"):
        extract(some, progress)
    assert progress.begin(MANIFEST) == 2


@pytest.mark.parametrize("pooled", [False, True])
def test_a_tuple_is_an_error(images: Images, tmp_path: Path, pooled: bool) -> None:
    progress = Progress(tmp_path / "p", N, 4)
    progress.begin(MANIFEST)
    with pytest.raises(InputError, match="expected"):
        extract(job(images, stage("b", module=Spoiled("tuple")), pooled=pooled), progress)
    assert progress.begin(MANIFEST) == 0


# --- going on


@pytest.fixture
def every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "RECORD_SECONDS", 0.0)


@pytest.mark.parametrize("when", range(0, 40, 3))
@pytest.mark.usefixtures("every_batch")
def test_a_full_disk_loses_nothing_that_was_done(
    images: Images, run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    """From the ``when``-th write on there is no room, after half of it; but what stands may be overwritten."""
    writes, pwrite = 0, os.pwrite
    some = job(images, stage(), stage("b", SMALLER), pooled=True)
    progress = Progress(tmp_path / ".y", N, 4)
    progress.begin(MANIFEST)

    def full(file: int, content: Any, place: int) -> int:
        nonlocal writes
        writes += 1
        if place + len(content) <= os.fstat(file).st_size or writes < when:
            return pwrite(file, content, place)
        if len(content) == 1 or writes > when:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(file, content[: len(content) // 2], place)

    told: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left") as caught:
            extract(some, progress, tell=told.append)
    assert str(tmp_path) in caught.value.filename
    assert told == [4 * (i + 1) for i in range(len(told))]
    assert progress.begin(MANIFEST) == len(told)
    same(run(some, "y"), run(some))


def test_how_far_it_is_is_told_as_it_was_recorded(images: Images, tmp_path: Path) -> None:
    progress = Progress(tmp_path / "p", N, 4)
    progress.begin(MANIFEST)
    told: list[tuple[int, int]] = []
    extract(job(images), progress, tell=lambda n: told.append((n, int((progress.path / "done").read_text()[:20]))))
    assert told[-1] == (N, 6)
    assert all(n == min(N, 4 * done) for n, done in told)


def test_what_is_done_is_not_done_again(images: Images, tmp_path: Path) -> None:
    progress = Progress(tmp_path / "p", N, 4)
    progress.begin(MANIFEST)
    some = counted(images)
    extract(job(some), progress)
    progress.record(3, 0)
    assert progress.begin(MANIFEST) == 3
    extract(job(some), progress)
    np.testing.assert_array_equal(some.times, [1] * 12 + [2] * 11)


def test_another_run_s_folder_is_refused_by_what_differs(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "p", N, 4)
    progress.begin(MANIFEST)
    progress.begin(json.loads(json.dumps(MANIFEST)))
    with pytest.raises(InputError) as caught:
        progress.begin({"batch": 4, "stages": [{"name": "a", "weights": "y"}], "threads": 2})
    text = str(caught.value)
    assert "with stages 1 weights x; threads none, found stages 1 weights y; threads 2" in text
    assert str(progress.path) in text
    assert "delete it to begin anew, or choose another --out" in text
    assert "batch" not in text
    (progress.path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="expected JSON as an earlier run wrote it"):
        progress.begin(MANIFEST)


def test_broken_images_of_a_batch_that_was_not_done_are_forgotten(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "p", N, 4)
    progress.begin(MANIFEST)
    progress.put("0", 0, np.zeros((4, 2), np.float32))
    progress.put_broken([(1, "torn"), (3, "empty")])
    progress.record(1, 2)
    progress.put_broken([(4, "torn")])
    with (progress.path / "broken.jsonl").open("a") as file:
        file.write('[5, "em')  # killed in the middle
    assert progress.begin(MANIFEST) == 1
    progress.put_broken([(6, "torn")])
    progress.record(2, 3)
    assert progress.broken(2) == [(1, "torn"), (3, "empty"), (6, "torn")]


def damaged(progress: Progress, *words: str, arrays: Sequence[str] = ()) -> None:
    with pytest.raises(InputError) as caught:
        progress.begin(MANIFEST, arrays)
    for word in (*words, f"{progress.path} (delete it to begin anew"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "text", [b"", b"7", b"x" * 42, b"%020d\n" % 2, b"%020d %020d" % (2, 0), b"%020d %020d\n" % (7, 0), b"\0" * 42]
)
def test_a_damaged_record_of_what_is_done_is_told(images: Images, tmp_path: Path, text: bytes) -> None:
    progress = Progress(tmp_path / "p", N, 4)
    progress.begin(MANIFEST)
    extract(job(images), progress)
    (progress.path / "done").write_bytes(text)
    damaged(progress, "expected done as an earlier run wrote it")
    with pytest.raises(InputError, match="expected done as an earlier run wrote it"):
        extract(job(images), progress)
    (progress.path / "done").unlink()
    damaged(progress, "expected done", "no such file")


@pytest.mark.parametrize("name", ["0", "1", "0.pooled", "1.pooled"])
@pytest.mark.parametrize("batches", [2, 6])
def test_arrays_that_lost_finished_rows_are_told(images: Images, tmp_path: Path, name: str, batches: int) -> None:
    some = job(images, stage(), stage("b", SMALLER), pooled=True)
    progress = Progress(tmp_path / "p", N, 4)
    progress.begin(MANIFEST)
    extract(some, progress)
    progress.record(batches, 0)
    names = extraction.arrays_of(some)
    assert names == ["0", "1", "0.pooled", "1.pooled"]
    path = progress.path / f"{name}.npy"
    whole = path.read_bytes()
    head = whole.index(b"\n") + 1
    row = (len(whole) - head) // N
    done = head + min(4 * batches, N) * row
    for kept in (done, len(whole)):
        path.write_bytes(whole[:kept])
        assert progress.begin(MANIFEST, names) == batches
    rows = f"{name}.npy with the {min(4 * batches, N)} rows that are done"
    other = whole[:head].replace(b"(23, ", b"(24, ")
    for content in (whole[: done - 1], whole[: head + row], whole[:50], b"", whole + b"x", other + whole[head:]):
        path.write_bytes(content)
        damaged(progress, f"expected {rows}, found {len(content)} bytes", arrays=names)
    path.unlink()
    damaged(progress, f"expected {rows}, found no such file", arrays=names)


def test_arrays_that_lost_rows_are_not_put_together(images: Images, tmp_path: Path) -> None:
    progress = Progress(tmp_path / "p", N, 4)
    progress.begin(MANIFEST)
    extract(job(images), progress)
    path = progress.path / "0.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"0\.npy with the 23 rows that are done"):
        assemble(job(images), progress, tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize("broken", [(0, 1, 2, 3), (0, 1, 2, 3, 4, 5, 6, 7), (20, 21, 22), (6, 7), range(N)])
@pytest.mark.usefixtures("every_batch")
def test_arrays_may_be_short_where_images_are_broken(tmp_path: Path, broken: Sequence[int]) -> None:
    """Whole batches of them have no rows at the end, or no array yet."""
    some = job(folder(tmp_path / "images", broken=broken))
    for stop in range(1, some.batches):
        progress = Progress(tmp_path / f"p{stop}", N, 4)
        progress.begin(MANIFEST)

        def tell(images: int, after: int = 4 * stop) -> None:
            if images == after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            extract(some, progress, tell=tell)
        names = extraction.arrays_of(some)
        assert progress.begin(MANIFEST, names) == stop
        extract(some, progress)
        assert progress.begin(MANIFEST, names) == some.batches


def test_a_damaged_list_of_broken_images_is_told(tmp_path: Path) -> None:
    """Their rows would be taken for whole ones, and hold what networks say about black images."""
    some = job(folder(tmp_path / "images", broken=(3, 9, 17)))
    progress = Progress(tmp_path / "p", N, 4)
    progress.begin(MANIFEST)
    extract(some, progress)
    path = progress.path / "broken.jsonl"
    first, *lines = path.read_bytes().splitlines(keepends=True)
    for content in (b"", first, first + lines[0] + b"[17", b"7\n" + first, b"[null, 1]\n", first * 3):
        path.write_bytes(content)
        damaged(progress, "expected 3 broken images in broken.jsonl, found")
    path.unlink()
    damaged(progress, "expected broken.jsonl as an earlier run wrote it, found no such file")


def test_a_damaged_description_is_told(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "p", N, 4)
    progress.begin(MANIFEST)
    for content in ("", "{", "[]", "7", "{}"):
        (progress.path / "manifest.json").write_text(content)
        damaged(progress)


def test_what_killed_runs_left_in_the_folder_goes(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "p", N, 4)
    progress.begin(MANIFEST)
    (progress.path / ".outputs.npz.7.0123abcd.tmp").write_bytes(b"much")
    progress.begin(MANIFEST)
    assert sorted(path.name for path in progress.path.iterdir()) == ["broken.jsonl", "done", "manifest.json"]
    (progress.path / "manifest.json").unlink()
    (progress.path / "0.npy").write_bytes(b"of another run")
    progress.begin(MANIFEST)
    assert not (progress.path / "0.npy").exists()


def test_a_folder_that_was_left_before_its_description_was_written_is_begun_anew(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "p", N, 4)
    progress.path.mkdir()
    (progress.path / "done").write_text("7")
    assert progress.begin(MANIFEST) == 0


def test_the_folder_goes(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "p", N, 4)
    progress.begin(MANIFEST)
    (tmp_path / "p.done" / "left").mkdir(parents=True)  # a run that was killed when it had all but ended
    progress.remove()
    assert list(tmp_path.iterdir()) == []


# --- small parts


def test_blocks_give_the_same_bytes_as_the_array(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    write_npz({"a": array}, tmp_path / "whole.npz")
    write_npz({"a": Blocks((4, 3), array.dtype, [array[:3], array[3:3], array[3:]])}, tmp_path / "blocks.npz")
    assert (tmp_path / "whole.npz").read_bytes() == (tmp_path / "blocks.npz").read_bytes()


def test_arrays_are_put_together_in_blocks(
    images: Images, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(job(images))
    monkeypatch.setattr(extraction, "BLOCK", 30)
    same(run(job(images), "y"), whole)


def test_classes_are_renamed(images: Images) -> None:
    assert renamed(images, ["cow=dog", "dog=cow"]).classes == ("cat", "dog", "cow")
    assert renamed(images, ["x", "y", "z"]).classes == ("x", "y", "z")
    for called in (["x", "y"], ["bird=cat"], ["cat=x", "y"]):
        with pytest.raises(InputError, match=r"--classes: expected a name for each of 3 classes \(cat, cow, dog\)"):
            renamed(images, called)


def test_outputs_are_finite_and_named_by_the_stage_s_number(images: Images) -> None:
    some = job(images, stage(), stage("b"), pooled=True)
    found = outputs_of(some, Decoder(images, ways_of(some.stages), 4)[5][1], 5)
    assert {name: array.shape for name, array in found.items()} == {
        **{"0": (3, 3), "0.pooled": (3, 5)},
        **{"1": (3, 3), "1.pooled": (3, 5)},
    }
