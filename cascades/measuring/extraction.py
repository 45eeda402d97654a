"""Images and networks turned into logits on disk, batch by batch, so that a run that was killed can go on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from offramp.features.errors import InputError
from offramp.features.outputs import Floats
from offramp.features.store import strictjson
from offramp.features.store.atomic import replacing
from offramp.features.store.limits import NOTE_BYTES
from offramp.features.store.npz import Blocks, npy_header, write_npz

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from offramp.cascades.images.images import Images
    from offramp.cascades.models.preprocessing import Preprocessing
    from offramp.cascades.models.zoo import StageModel

RECORD_SECONDS = 1.0
"""Work that a kill can cost: making sure of the disk takes milliseconds, and so does a small batch."""
BLOCK = 4 * 2**20
"""Bytes of an array that are in memory together when the results are put together."""
SCALAR = np.dtype("<f4")
MANIFEST, DONE, BROKEN = "manifest.json", "done", "broken.jsonl"
AFRESH = "(delete it to begin anew, or choose another --out)"

Crops = list["Tensor"]
"""Of one batch, uint8 of shape (b, h, w, channels), for each way of cropping; empty if no image was whole."""
Batch = tuple[int, Crops, list[tuple[int, str]], tuple[str, str, str] | None]
"""A batch's number, its crops, the rows of broken images with what is wrong, and an InputError's parts if there
was one: errors with several arguments don't come back from another process."""


@dataclass(frozen=True)
class Job:
    """What is computed: ``stages`` on ``images``, ``batch`` at a time; ``dtype`` is "float32" or "bfloat16".

    The images' labels index the stages' classes.
    ``pooled``: also what goes into each last layer; ``skip``: leave out broken images rather than stop at one.
    """

    images: Images
    stages: tuple[StageModel, ...]
    device: torch.device
    batch: int = 64
    dtype: str = "float32"
    pooled: bool = False
    skip: bool = True

    @property
    def batches(self) -> int:
        """How many batches there are; the last one may be smaller."""
        return -(-len(self.images) // self.batch)


def renamed(images: Images, called: Sequence[str]) -> Images:
    """The images with classes called as ``called`` has it: a name each, in their order, or pairs "theirs=new".

    Raises InputError for another number of names, or for a class that the images don't have.
    """
    expected = f"a name for each of {len(images.classes)} classes ({_some(images.classes)}), or pairs theirs=new"
    if all("=" in name for name in called):
        pairs = dict(name.split("=", 1) for name in called)
        if strange := [name for name in pairs if name not in images.classes]:
            raise InputError(expected, _some(strange), "--classes")
        called = [pairs.get(name, name) for name in images.classes]
    if len(called) != len(images.classes):
        raise InputError(expected, str(len(called)), "--classes")
    return replace(images, classes=tuple(called), named=True)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f", ... ({len(names)})" if len(names) > 8 else "")


# Decoding, here or in worker processes.


class Stopped(Protocol):
    """Whether to stop, asked before every image."""

    def is_set(self) -> bool:
        """True once everybody should stop."""


@dataclass(frozen=True)
class Decoder:
    """Batches of decoded images by number; every image is decoded once, and cropped once in each way."""

    images: Images
    ways: tuple[Preprocessing, ...]
    batch: int
    stopped: Stopped | None = None

    def __getitem__(self, number: int) -> Batch:
        """Batch ``number``. A broken image keeps its place, black, so that the others' results don't depend on it."""
        import torch

        from offramp.cascades.images.files import BrokenImage

        rows = range(number * self.batch, min((number + 1) * self.batch, len(self.images)))
        crops: list[NDArray[np.uint8]] = []
        broken = []
        for row in rows:
            if self.stopped is not None and self.stopped.is_set():
                return number, [], [], None
            try:
                image = self.images.image(row)
                made = [way.cropped(image) for way in self.ways]
            except BrokenImage as error:
                broken.append((row, error.found))
                continue
            except InputError as error:
                return number, [], [], (error.expected, error.found, error.where)
            if not crops:
                crops = [np.zeros((len(rows), *crop.shape), np.uint8) for crop in made]
            for whole, crop in zip(crops, made, strict=True):
                if crop.shape != whole.shape[1:]:
                    found = f"{crop.shape[:2]} after {whole.shape[1:3]}"
                    return number, [], [], ("images that come out in one size", found, f"image {self.images.ids[row]}")
                whole[row - rows.start] = crop
        return number, [torch.from_numpy(crop) for crop in crops], broken, None


def ways_of(stages: Sequence[StageModel]) -> tuple[Preprocessing, ...]:
    """One preprocessing for each way of cropping that some stage needs."""
    ways: dict[Any, Preprocessing] = {}
    for stage in stages:
        ways.setdefault(stage.preprocessing.pixels_key, stage.preprocessing)
    return tuple(ways.values())


@contextmanager
def decoding(job: Job, first: int, workers: int) -> Iterator[Iterator[Batch]]:
    """The batches from ``first`` on, in order, decoded by ``workers`` processes, or by this one if there are none.

    The workers have ended when the block has, and they don't hear Ctrl-C, which a terminal sends to all.
    """
    if not workers:
        decoder = Decoder(job.images, ways_of(job.stages), job.batch)
        yield map(decoder.__getitem__, range(first, job.batches))
        return
    import multiprocessing

    from torch.utils.data import DataLoader

    stop = multiprocessing.Event()
    loader: Any = DataLoader(
        Decoder(job.images, ways_of(job.stages), job.batch, stop),  # type: ignore[arg-type]
        batch_size=None,
        sampler=range(first, job.batches),
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=job.device.type == "cuda",
    )
    batches: Any = None
    try:
        with _deaf_to_interrupts():
            batches = iter(loader)
        yield batches
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError("worker processes that live on", str(error), "--workers (0 does without)") from error
    finally:
        stop.set()
        if batches is not None:
            # Otherwise they end when the loader is collected, which an error's traceback puts off.
            batches._shutdown_workers()


def _unchanged(batch: Any) -> Any:
    return batch


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started inside never get SIGINT; this one gets it afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# The folder that results grow in.


@dataclass(frozen=True)
class Progress:
    """A folder of arrays of ``rows`` rows that are filled batch by batch, and the record of how far that went.

    Bytes are written rather than mapped: on a full disk a write is an error that can be told, a page a signal.
    """

    path: Path
    rows: int
    batch: int

    def begin(self, manifest: Mapping[str, Any], arrays: Iterable[str] = ()) -> int:
        """How many batches are done of the run that ``manifest`` describes; a new folder if there is none.

        Raises InputError if the folder holds another run, naming what differs, or if something is gone of what was
        done: ``arrays`` are those that must be there beside any others that are.
        """
        if (self.path / MANIFEST).is_file():
            refuse_others(read_json(self.path / MANIFEST, self._where), manifest, self._where)
            done = self.done()
            broken = self.broken(done)
            lost = {row for row, _ in broken}
            last = next((row for row in reversed(range(min(done * self.batch, self.rows))) if row not in lost), -1)
            if last >= 0:  # else an array may be there in part, or not at all
                for name in sorted({*arrays, *(path.stem for path in self.path.glob("*.npy"))}):
                    self._width(name, last + 1)
            for left in self.path.glob(".*.tmp"):  # by runs that were killed
                left.unlink(missing_ok=True)
            with replacing(self.path / BROKEN) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in broken), "utf-8")
            return done
        self.path.mkdir(exist_ok=True)
        for path in self.path.glob("*.npy"):
            path.unlink()
        for name, content in ((DONE, _record(0, 0)), (BROKEN, b"")):
            (self.path / name).write_bytes(content)
            _sync(self.path / name)
        write_surely(self.path / MANIFEST, json_text(manifest))
        return 0

    @property
    def _where(self) -> str:
        return f"{self.path} {AFRESH}"

    def done(self) -> int:
        """How many batches are recorded as done. Raises InputError if the record, or the list of broken images that
        goes with it, is damaged."""
        for name in (DONE, BROKEN):
            if not (self.path / name).is_file():
                raise InputError(f"{name} as an earlier run wrote it", "no such file", self._where)
        text = (self.path / DONE).read_bytes()
        record = re.fullmatch(rb"(\d{20}) (\d{20})\n", text)
        batches, broken = map(int, record.groups()) if record else (-1, 0)
        if not 0 <= batches <= -(-self.rows // self.batch):
            raise InputError(f"{DONE} as an earlier run wrote it", repr(text[:50]), self._where)
        if (there := len(self.broken(batches))) != broken:
            raise InputError(f"{broken} broken images in {BROKEN}", str(there), self._where)
        return batches

    def _width(self, name: str, rows: int) -> int:
        """Columns of array ``name``. Raises InputError unless its file has at least the first ``rows`` rows."""
        path, expected = self.path / f"{name}.npy", f"{name}.npy with the {rows} rows that are done"
        if not path.is_file():
            raise InputError(expected, "no such file", self._where)
        size = path.stat().st_size
        try:
            with path.open("rb") as file:
                npy.read_magic(file)
                (n, width), _, dtype = npy.read_array_header_1_0(file)
                head = file.tell()
        except ValueError as error:
            raise InputError(expected, f"{size} bytes without a head", self._where) from error
        row = width * SCALAR.itemsize
        if (n, dtype) != (self.rows, SCALAR) or not head + rows * row <= size <= head + n * row:
            raise InputError(expected, f"{size} bytes of {dtype} ({n}, {width})", self._where)
        return int(width)

    def put(self, name: str, start: int, block: Floats) -> None:
        """Write the rows from ``start`` on of array ``name``; ``block`` is (b, m)."""
        header = _header((self.rows, block.shape[1]))
        path = self.path / f"{name}.npy"
        place = len(header) + start * block.shape[1] * SCALAR.itemsize
        _write_at(path, 0, header)
        _write_at(path, place, block.astype(SCALAR, copy=False).tobytes())

    def put_broken(self, rows: Sequence[tuple[int, str]]) -> None:
        """Remember rows that have no results, and why."""
        path = self.path / BROKEN
        text = "".join(json.dumps(line) + "\n" for line in rows)
        _write_at(path, path.stat().st_size, text.encode())

    def record(self, batches: int, broken: int) -> None:
        """Make sure that what was put is on the disk, then that so many batches are done, with so many broken images
        among them."""
        for path in (*self.path.glob("*.npy"), self.path / BROKEN):
            _sync(path)
        # In place, in one write of a few bytes, which is whole or not at all and needs no room on a full disk.
        _write_at(self.path / DONE, 0, _record(batches, broken))

    def broken(self, batches: int) -> list[tuple[int, str]]:
        """Rows without results among those of the first ``batches``, with the reasons."""
        found: list[tuple[int, str]] = []
        last = -1
        for line in (self.path / BROKEN).read_text("utf-8", "replace").splitlines():
            try:
                row, why = json.loads(line)
                if not last < row < min(batches * self.batch, self.rows):
                    break
                found.append((int(row), str(why)))
            except (ValueError, TypeError):  # half a line: the run was killed before the batch was done
                break
            last = row
        return found

    def blocks(self, name: str, keep: NDArray[np.bool_]) -> Blocks:
        """The rows of array ``name`` that ``keep`` (n,) has, read some at a time. Raises InputError if one is gone."""
        width = self._width(name, int(keep.nonzero()[0].max(initial=-1)) + 1)
        return Blocks((int(keep.sum()), width), SCALAR, self._blocks(name, keep, width))

    def _blocks(self, name: str, keep: NDArray[np.bool_], width: int) -> Iterator[NDArray[Any]]:
        size = width * SCALAR.itemsize
        some = max(1, BLOCK // size)
        with (self.path / f"{name}.npy").open("rb") as file:
            file.seek(len(_header((self.rows, width))))
            for start in range(0, self.rows, some):
                rows = min(some, self.rows - start)
                # Broken images at the very end leave the file short.
                block = np.frombuffer(file.read(rows * size).ljust(rows * size, b"\0"), SCALAR)
                yield block.reshape(rows, width)[keep[start : start + rows]]

    def remove(self) -> None:
        """Delete the folder; a kill in between leaves nothing that looks like a run's beginning."""
        gone = self.path.with_name(f"{self.path.name}.done")
        shutil.rmtree(gone, ignore_errors=True)
        self.path.rename(gone)
        shutil.rmtree(gone)


def refuse_others(held: Any, manifest: Mapping[str, Any], where: str) -> None:
    """Raises InputError if the descriptions of two runs differ, naming what does."""
    theirs, ours = _flat(held), _flat(json.loads(json_text(manifest)))
    differing = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
    if differing:
        one, other = (
            "; ".join(f"{key} {each.get(key, 'none')!s:.120}" for key in differing[:4]) for each in (theirs, ours)
        )
        raise InputError(f"a run like the one that is there, with {one}", other, where)


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested dicts and lists under names such as "stage 1 weights"."""
    if isinstance(tree, list):
        tree = {str(i + 1): branch for i, branch in enumerate(tree)}
    if not isinstance(tree, dict):
        return {name: tree}
    return {
        leaf: value for key, branch in tree.items() for leaf, value in _flat(branch, f"{name} {key}".strip()).items()
    }


def read_json(path: Path, where: str) -> dict[str, Any]:
    """The object in a JSON file that an earlier run wrote; raises InputError if it is none, about ``where``."""
    expected = f"JSON as an earlier run wrote it in {path.name}"
    try:
        found = strictjson.read_json(path, expected, NOTE_BYTES)
    except InputError as error:
        raise InputError(expected, error.found, where) from error
    if not isinstance(found, dict):
        raise InputError(expected, f"a {type(found).__name__}", where)
    return found


def json_text(value: Any) -> bytes:
    """JSON that is the same for the same value."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")


def write_surely(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and on the disk."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _record(batches: int, broken: int) -> bytes:
    return b"%020d %020d\n" % (batches, broken)


def _header(shape: tuple[int, int]) -> bytes:
    stream = BytesIO()
    npy.write_array_header_1_0(stream, npy_header(shape, SCALAR))
    return stream.getvalue()


def _write_at(path: Path, place: int, content: bytes) -> None:
    """Raises OSError, which names the file, if there is no room."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        left = memoryview(content)
        while left:
            written = os.pwrite(file, left, place)
            left, place = left[written:], place + written
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(file)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(file)


# The work.


def _silent(images: int) -> None:
    """The news for who doesn't watch."""


def refuse_broken(job: Job, broken: Sequence[tuple[int, str]]) -> None:
    """Raises InputError that names the first of the broken images, rows with reasons, unless they are to be skipped."""
    if broken and not job.skip:
        row, why = broken[0]
        raise InputError("a whole image (--broken skip leaves others out)", why, f"image {job.images.ids[row]}")


def extract(job: Job, progress: Progress, workers: int = 0, tell: Callable[[int], None] = _silent) -> None:
    """Compute what ``progress`` lacks yet; ``tell`` hears how many images are done, as soon as that is recorded.

    Whatever ends it early, what was done stays. Raises InputError for outputs that are no logits, and, unless they are
    to be skipped, for a broken image.
    """
    import torch

    done = progress.done()
    before = progress.broken(done)
    refuse_broken(job, before)
    lost = len(before)
    recorded, last = done, -RECORD_SECONDS
    if done == job.batches:
        return
    for stage in job.stages:
        stage.module.to(job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        with decoding(job, done, workers) as batches:
            for number, crops, broken, failure in batches:
                if failure:
                    raise InputError(*failure)
                refuse_broken(job, broken)
                # A batch of broken images only has nothing to compute.
                for name, array in outputs_of(job, crops, number).items() if crops else ():
                    progress.put(name, number * job.batch, array)
                if broken:
                    progress.put_broken(broken)
                done, lost = number + 1, lost + len(broken)
                if time.monotonic() - last >= RECORD_SECONDS or done == job.batches:
                    progress.record(done, lost)
                    recorded, last = done, time.monotonic()
                    tell(min(done * job.batch, len(job.images)))
    except torch.OutOfMemoryError as error:
        raise InputError("a batch that the device has memory for", f"{job.batch} images", "--batch") from error
    finally:
        if done > recorded:
            progress.record(done, lost)
            tell(min(done * job.batch, len(job.images)))


def outputs_of(job: Job, crops: Crops, number: int = 0) -> dict[str, Floats]:
    """What each stage says on one batch: (b, c) logits under the stage's number, pooled features under "0.pooled".

    The trunk that exits share is run once.
    """
    from offramp.cascades.models.probing import checked_logits, pooled_of

    pixels = dict(zip((way.pixels_key for way in ways_of(job.stages)), crops, strict=True))
    pixels = {key: crop.to(job.device, non_blocking=True) for key, crop in pixels.items()}
    inputs: dict[Preprocessing, Tensor] = {}
    found: dict[str, Floats] = {}
    trunks: dict[str, Tensor] = {}
    with _exactly(job):
        for i, stage in enumerate(job.stages):
            way = stage.preprocessing
            if way not in inputs:
                inputs[way] = way.normalise(pixels[way.pixels_key])
            if stage.place is not None:
                place = stage.place
                state = place.net.segment(place.exit, trunks.get(place.network, inputs[way]))
                trunks[place.network] = state
                output = place.net.head(place.exit, state)
                if job.pooled:
                    found[f"{i}.pooled"] = _seen_at(stage, inputs[way], state)
                if place.exit < len(place.net.gates):
                    found[f"{i}.gate"] = place.net.gate(place.exit, state)[:, None].float().cpu().numpy()
            elif job.pooled:
                output, pooled = pooled_of(stage.module, inputs[way])
                found[f"{i}.pooled"] = pooled.float().cpu().numpy()
            else:
                output = stage.module(inputs[way])
            first = number * job.batch
            where = f"stage {stage.name!r}, images {first} to {first + len(inputs[way]) - 1}"
            found[f"{i}"] = checked_logits(output, len(stage.classes), where).float().cpu().numpy()
    return found


def arrays_of(job: Job) -> list[str]:
    """Names of the arrays that ``outputs_of`` makes."""
    names = [f"{i}" for i in range(len(job.stages))]
    names += [f"{i}.pooled" for i in range(len(job.stages)) if job.pooled]
    places = ((i, stage.place) for i, stage in enumerate(job.stages))
    return names + [f"{i}.gate" for i, place in places if place is not None and place.exit < len(place.net.gates)]


def _seen_at(stage: StageModel, inputs: Tensor, state: Tensor) -> Floats:
    """Averages (b, m) over the feature map at an exit; at the last one what its linear layer is given."""
    from offramp.cascades.models.branches import pooled
    from offramp.cascades.models.probing import pooled_of

    assert stage.place is not None
    inner = stage.place.exit < len(stage.place.net.cuts)
    seen = pooled(state) if inner else pooled_of(stage.module, inputs)[1]
    return np.asarray(seen.float().cpu().numpy())


@contextmanager
def _exactly(job: Job) -> Iterator[None]:
    """Inference in the job's precision, by algorithms that give the same bits in every run."""
    import torch

    with (
        torch.inference_mode(),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        torch.autocast(job.device.type, torch.bfloat16, enabled=job.dtype == "bfloat16"),
    ):
        yield


# What comes out.


@dataclass(frozen=True)
class Extracted:
    """How an extraction ended: images asked for, those left out with the reasons, each stage's share of mistakes."""

    images: int
    skipped: tuple[tuple[str, str], ...] = ()
    error: Mapping[str, float] = field(default_factory=dict)


def assemble(job: Job, progress: Progress, path: Path) -> Extracted:
    """Write ``path``, an outputs.npz of the images that are whole, from all that ``progress`` holds.

    Raises InputError if no image is left.
    """
    broken = progress.broken(job.batches)
    keep = np.ones(len(job.images), bool)
    keep[[row for row, _ in broken]] = False
    ids: NDArray[Any] = np.asarray(job.images.ids)
    skipped = tuple((str(ids[row]), why) for row, why in broken)
    if not keep.any():
        raise InputError("an image that is whole", f"{len(skipped)} broken ones, {': '.join(skipped[0])}", "images")
    labels = job.images.labels[keep]
    arrays: dict[str, NDArray[Any] | Blocks] = {"labels": labels}
    arrays["ids"] = job.images.names[keep]
    error = {}
    for i, stage in enumerate(job.stages):
        arrays[stage.name] = progress.blocks(f"{i}", keep)
        if job.pooled:
            arrays[f"{stage.name}.pooled"] = progress.blocks(f"{i}.pooled", keep)
        if stage.place is not None and stage.place.exit < len(stage.place.net.gates):
            arrays[f"{stage.name}.gate"] = np.concatenate([*progress.blocks(f"{i}.gate", keep).blocks])[:, 0]
        answers = np.concatenate([block.argmax(axis=1) for block in progress.blocks(f"{i}", keep).blocks])
        error[stage.name] = float(np.mean(answers != labels))
    with replacing(path) as temporary:
        write_npz(arrays, temporary)
    return Extracted(len(job.images), skipped, error)
