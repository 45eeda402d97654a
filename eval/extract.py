"""Images and networks turned into a data folder: ``python -m eval.extract --models a b --images FOLDER --out X``."""

from __future__ import annotations

import os
import shutil
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offramp.cascades.command.console import show as printed
from offramp.cascades.command.progress import Bar
from offramp.cascades.command.progress import bar as bar_of
from offramp.cascades.command.settings import guard, parse
from offramp.features.errors import InputError
from offramp.features.outputs import PARTS

if TYPE_CHECKING:
    import torch

    from offramp.cascades.graph.costs import StageCost
    from offramp.cascades.images.images import Images
    from offramp.cascades.measuring.extraction import Extracted, Job
    from offramp.cascades.models.zoo import StageModel

COSTS = "costs.json"
UNIT = "million multiply-adds per image"
UNCROPPED = (224, 224)
"""Height and width that the multiply-adds are counted at for a network that takes any."""
LOCK = ".extract.lock"
MOST_WORKERS = 16
"""More than these decode photos faster than one GPU takes them, or wait for the disk."""
NAMED = 5
"""Broken images that are named on the terminal; a file has all."""


SHOWN = ("text", "bar", "count", "speed", "remaining")
"""What the bar shows."""


@dataclass(frozen=True)
class Settings:
    """The flags of the command."""

    models: tuple[str, ...] = field(
        metadata={
            "help": "stages from cheap to dear: a network of the zoo, torchvision:NAME, timm:NAME, file:PATH; "
            "x=SPEC names the stage x"
        }
    )
    images: str = field(
        metadata={
            "help": "a folder per class, a data set's folder, an .npz of JPEG bytes, parquet or webdataset shards"
        }
    )
    out: Path = field(metadata={"help": "data folder to write into; made if need be"})
    weights: Path | None = field(default=None, metadata={"help": "folder that holds weights of the zoo's networks"})
    part: str | None = field(
        default=None,
        metadata={"help": "what these images are for; without it the folder is split at random", "choices": PARTS},
    )
    rows: str = field(default=":", metadata={"help": "which of the images, such as :40000 or 40000:"})
    batch: int = field(default=64, metadata={"help": "images computed together", "minimum": 1, "maximum": 2**16})
    workers: int | None = field(
        default=None,
        metadata={
            "help": "processes that decode, 0 for none; chosen by the device and the number of cores if not given",
            "minimum": 0,
            "maximum": 1024,
        },
    )
    device: str = field(default="auto", metadata={"help": "cpu, cuda, or auto: cuda if there is one"})
    dtype: str = field(
        default="float32", metadata={"help": "precision of the multiplications", "choices": ("float32", "bfloat16")}
    )
    pooled: bool = field(default=False, metadata={"help": "store what goes into each last layer too"})
    broken: str = field(
        default="skip",
        metadata={
            "help": "what to do about a broken image: leave it out and say so, or stop",
            "choices": ("skip", "stop"),
        },
    )
    classes: tuple[str, ...] = field(
        default=(),
        metadata={"help": "the models' names for the images' classes, in their order, or pairs ours=theirs"},
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit code."""
    return guard(lambda: run(parse(Settings, argv, "python -m eval.extract", __doc__ or "")))


def run(settings: Settings) -> None:
    """Decode, compute, write the data folder, print the accuracies; what an earlier run computed is not done again."""
    from offramp.cascades.images.sources import open_images, rows_of
    from offramp.eval.report.files import writable
    from offramp.features.store.atomic import files_of, refuse_overwriting

    names = _Names(settings.part)
    inputs = [("--images", settings.images), ("--weights", settings.weights), *files_of(settings.models)]
    files = (names.outputs, names.report, names.broken, COSTS)
    refuse_overwriting((("--out", settings.out / name) for name in files), inputs)
    folder = writable(settings.out, "--out", files).path
    with _alone(folder), bar_of(SHOWN) as bar:
        for part in (None, *PARTS):  # of runs that were killed
            shutil.rmtree(folder / f"{_Names(part).progress}.done", ignore_errors=True)
        _refuse_mixed_parts(folder, names)
        bar("looking at the images", completed=0)
        whole = open_images(settings.images)
        rows = rows_of(settings.rows, len(whole))
        bar("loading the models", completed=0)
        from offramp.cascades.measuring.extraction import Job, Progress
        from offramp.cascades.models.probing import pick_device
        from offramp.cascades.models.zoo import load_cascade

        device = pick_device(settings.device)
        stages = load_cascade(settings.models, settings.weights)
        _refuse_taken_names(stages)
        images = _numbered(whole, settings.classes, stages[0].classes).take(rows)
        skip = settings.broken == "skip"
        job = Job(images, stages, device, settings.batch, settings.dtype, settings.pooled, skip)
        manifest = {
            **described(job),
            "rows": f"{rows.start}:{rows.stop}",
            "images": images.fingerprint,
        }
        _refuse_other_parts(folder, names, manifest)
        progress = Progress(folder / names.progress, len(images), settings.batch)
        news, ended = "done before", None if progress.path.exists() else _ended(folder, names, job, manifest)
        if ended is None:
            _write_costs(folder, stages)
            workers = default_workers(device) if settings.workers is None else settings.workers
            news, ended = _extract(job, progress, manifest, workers, folder, names, bar, settings.classes)
    printed([news], sys.stderr)
    _show(ended, folder, names)


@dataclass(frozen=True)
class _Names:
    """What the files of one part are called."""

    part: str | None

    @property
    def progress(self) -> str:
        return f".{self.part or 'all'}.extracting"

    @property
    def outputs(self) -> str:
        return self._of("outputs.npz")

    @property
    def report(self) -> str:
        return self._of("extracted.json")

    @property
    def broken(self) -> str:
        return self._of("broken.txt")

    def _of(self, name: str) -> str:
        return f"{self.part}.{name}" if self.part else name


def _extract(
    job: Job,
    progress: Any,
    manifest: Mapping[str, Any],
    workers: int,
    folder: Path,
    names: _Names,
    bar: Bar,
    called: Sequence[str],
) -> tuple[str, Extracted]:
    from offramp.cascades.measuring.extraction import arrays_of, assemble, extract, json_text, write_surely
    from offramp.cascades.models.zoo import short_name

    n, start = len(job.images), time.monotonic()
    before = done = min(progress.begin(manifest, arrays_of(job)) * job.batch, n)

    def tell(images: int) -> None:
        nonlocal done
        done = images
        bar("extracting", completed=done, total=n)

    try:
        tell(done)
        extract(job, progress, workers, tell)
        bar("putting together", completed=done, total=n)
        ended = assemble(job, progress, progress.path / names.outputs)
        report = {
            "manifest": manifest,
            "networks": {network_of(stage): short_name(stage.spec)[1] for stage in job.stages},
            "called": list(called),
            "images": ended.images,
            "skipped": ended.skipped,
            "error": ended.error,
        }
        lines = "".join(_printable(f"{name}\t{why}") + "\n" for name, why in ended.skipped)
        write_surely(progress.path / names.broken, lines.encode())
        write_surely(progress.path / names.report, json_text(report))
        for name in (names.broken, names.outputs, names.report):  # where the last one stands, the others do
            (progress.path / name).replace(folder / name)
        if not lines:
            (folder / names.broken).unlink()
    except BaseException:
        if done:
            printed([f"{done:,} of {n:,} images are done and kept; the same command goes on from there"], sys.stderr)
        raise
    progress.remove()
    seconds = time.monotonic() - start
    return f"{n - before:,} images in {seconds:,.1f} s, {(n - before) / seconds:,.0f} a second", ended


def described(job: Job) -> dict[str, Any]:
    """All that the numbers depend on but the images: a run may only go on, and a part only stand beside another,
    where this is the same."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    def there(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "none"

    kind = torch.backends.cpu.get_cpu_capability()
    cuda = job.device.type == "cuda"
    return {
        "format": "offramp extraction 1",
        "stages": [
            {
                "name": stage.name,
                "weights": stage.weights_digest,
                "network": type(stage.module).__name__,
                "preprocessing": repr(stage.preprocessing),
            }
            for stage in job.stages
        ],
        "pooled": job.pooled,
        "dtype": job.dtype,
        "batch": job.batch,
        "device": torch.cuda.get_device_name(job.device) if cuda else f"{platform.machine()} {kind}",
        "threads": torch.get_num_threads(),
        "versions": {name: there(name) for name in ("torch", "torchvision", "timm", "numpy", "pillow")},
    }


def _numbered(images: Images, called: Sequence[str], classes: Sequence[str]) -> Images:
    """The images with labels that index the models' ``classes``."""
    from offramp.cascades.measuring.extraction import renamed

    if called:
        images = renamed(images, called)
    try:
        return images.numbered_as(classes)
    except InputError as error:
        found = f"{error.found} (--classes calls the images' classes otherwise)"
        raise InputError(error.expected, found, error.where) from error


# What must not be mixed.


def _refuse_mixed_parts(folder: Path, names: _Names) -> None:
    """Named parts and an unnamed one don't go together, as ``cascades.files.datafolder`` has it."""
    for part in PARTS if names.part is None else (None,):
        for there in (_Names(part).outputs, _Names(part).progress):
            if (folder / there).exists():
                expected = "named parts only, or one unnamed part"
                raise InputError(expected, f"{there} beside {names.outputs}", f"--part, in {folder}")


def _refuse_taken_names(stages: Sequence[StageModel]) -> None:
    for stage in stages:
        if stage.name in {"labels", "ids"}:
            raise InputError("stages named otherwise than labels and ids (x=SPEC)", repr(stage.name), "--models")


def _refuse_other_parts(folder: Path, names: _Names, manifest: Mapping[str, Any]) -> None:
    """All parts come from the same networks, or a rule fitted on one could not be used on another."""
    from offramp.cascades.measuring.extraction import AFRESH, MANIFEST, read_json, refuse_others

    for part in PARTS:
        if part == names.part:
            continue
        ended, begun = folder / _Names(part).report, folder / _Names(part).progress / MANIFEST
        held = {}
        if ended.is_file():
            held[ended] = _report(ended, f"{ended} {AFRESH}")["manifest"]
        if begun.is_file():
            held[begun] = read_json(begun, f"{begun.parent} {AFRESH}")
        for path, theirs in held.items():
            keys = ("stages", "pooled", "dtype")
            where = f"{path}, for the other parts"
            refuse_others({k: theirs.get(k) for k in keys}, {k: manifest[k] for k in keys}, where)


def _report(path: Path, where: str) -> dict[str, Any]:
    """What an earlier run said at its end. Raises InputError, about ``where``, if it can't have said that."""
    from offramp.cascades.measuring.extraction import read_json

    report = read_json(path, where)
    for key, kind in {"manifest": dict, "images": int, "skipped": list, "error": dict}.items():
        if not isinstance(report.get(key), kind):
            found = f"{report[key]!r:.50}" if key in report else "none"
            raise InputError(f"{key} as an earlier run wrote it in {path.name}", found, where)
    for stage, error in report["error"].items():
        if not isinstance(error, int | float):
            raise InputError(f"the error of {stage!r} in {path.name}", f"{error!r:.50}", where)
    return report


def _ended(folder: Path, names: _Names, job: Job, manifest: Mapping[str, Any]) -> Extracted | None:
    """What an earlier run of the same kind said at its end; None if there was none."""
    from offramp.cascades.measuring.extraction import AFRESH, Extracted, refuse_others

    outputs, path = folder / names.outputs, folder / names.report
    where = f"{outputs} {AFRESH}"
    if not outputs.is_file():
        return None
    if not path.is_file():
        raise InputError("outputs that this command wrote, or none", "others", where)
    report = _report(path, where)
    refuse_others(report["manifest"], manifest, where)
    stages = [stage.name for stage in job.stages]
    if list(report["error"]) != stages:
        raise InputError(f"the errors of {', '.join(stages)} in {path.name}", ", ".join(report["error"]), where)
    lines, n = folder / names.broken, len(report["skipped"])
    broken = lines.read_text("utf-8", "replace").splitlines() if n and lines.is_file() else []
    if len(broken) != n:
        raise InputError(f"{n} broken images in {names.broken}", str(len(broken)), where)
    if broken and not job.skip:
        raise InputError("whole images, or --broken skip", f"{n} left out by an earlier run", str(outputs))
    _refuse_damaged(outputs, ("labels", "ids", *stages), report["images"] - n, where)
    skipped = tuple((name, why) for name, _, why in (line.partition("\t") for line in broken))
    return Extracted(report["images"], skipped, report["error"])


def _refuse_damaged(path: Path, names: Sequence[str], rows: int, where: str) -> None:
    """Raises InputError, about ``where``, unless an npz has arrays of these names, all of so many rows, and each is as
    long as its head says. Not a byte of the numbers is read."""
    expected = f"whole arrays of {rows} rows, as an earlier run wrote them in {path.name}"
    try:
        with zipfile.ZipFile(path) as archive:
            there = {info.filename.removesuffix(".npy"): _rows_of(archive, info) for info in archive.infolist()}
    except (zipfile.BadZipFile, ValueError, EOFError, RuntimeError, struct.error, zlib.error) as error:
        raise InputError(expected, f"a truncated or other file ({error})", where) from error
    for name in dict.fromkeys((*names, *there)):
        if there.get(name) != rows:
            found = f"{there[name]} rows of {name!r}" if name in there else f"none called {name!r}"
            raise InputError(expected, found, where)


def _rows_of(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Length of an array in an npz. Raises ValueError if it takes other room than its head says."""
    from math import prod

    from numpy.lib import format as npy

    if info.header_offset < 0:
        raise ValueError("shorter than its table of contents says")
    with archive.open(info) as stream:
        header = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = header(stream)
        size = stream.tell() + prod(shape) * dtype.itemsize
    if not shape or not size == info.file_size == info.compress_size:
        raise ValueError(f"{info.filename} of {info.file_size} bytes, not {size}")
    return int(shape[0])


def _write_costs(folder: Path, stages: Sequence[StageModel]) -> None:
    """Multiply-adds as costs; measured ones of the same stages stay."""
    from offramp.cascades.graph.costs import Costs, read_costs, write_costs

    names, path = [stage.name for stage in stages], folder / COSTS
    if path.exists():
        if (there := set(read_costs(path).stages)) != set(names):
            raise InputError(
                f"costs of {', '.join(names)}, or no file", f"those of {', '.join(sorted(there))}", str(path)
            )
        return
    try:
        costs = {stage.name: counted_cost(stage) for stage in stages}
    except InputError as error:
        expected = f"{error.expected}, or a costs.json of your own in {folder}"
        raise InputError(expected, error.found, error.where) from error
    write_costs(Costs(costs, UNIT), path)


def counted_cost(stage: StageModel) -> StageCost:
    """Millions of multiply-adds of one image; of an exit for its head, and its trunk from the exit before."""
    from offramp.cascades.graph.costs import StageCost
    from offramp.cascades.models.probing import multiply_adds

    if stage.place is None:
        return StageCost(stage.name, multiply_adds(stage.module, _shape(stage)) / 1e6, 0.0)
    net, i = stage.place.net, stage.place.exit
    until = [0, *(cut.work for cut in net.cuts), net.work]
    head = multiply_adds(net.heads[i], net.cuts[i].shape) / 1e6 if i < len(net.cuts) else 0.0
    return StageCost(stage.place.network, (until[i + 1] - until[i]) / 1e6, head)


def network_of(stage: StageModel) -> str:
    """What the stage's network is called: the stage itself, unless it is an exit."""
    return stage.name if stage.place is None else stage.place.network


def _shape(stage: StageModel) -> tuple[int, ...]:
    how = stage.preprocessing
    return (1, how.channels, *(how.crop or UNCROPPED))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else extracts into ``folder`` meanwhile; raises InputError that names who does.

    The system gives the lock back when the process dies. It is of the kind that worker processes don't inherit,
    because they outlive a killed run by seconds.
    """
    import fcntl
    import socket

    path = folder / LOCK
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = os.read(file, 200).decode(errors="replace") or "another process"
            os.close(file)
            raise InputError("a folder that no other run writes into", f"{holder} at work", f"--out {folder}") from None
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            break
        os.close(file)  # a run that has just ended took the file away between the two lines
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def default_workers(device: torch.device) -> int:
    """Processes that decode: beside a GPU all cores but one; on the CPU a quarter, since the networks need them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_WORKERS, max(1, cores - 1)) if device.type == "cuda" else cores // 4


# What is said.


def _show(ended: Extracted, folder: Path, names: _Names) -> None:
    """One line a stage, what was left out, and where the outputs are."""
    whole = ended.images - len(ended.skipped)
    lines = [f"{stage}: {100 * (1 - error):.2f} % of {whole:,} images right" for stage, error in ended.error.items()]
    if ended.skipped:
        lines.append(f"{len(ended.skipped):,} broken images left out, all of them in {folder / names.broken}:")
        lines += [_printable(f"  {name}: {why}") for name, why in ended.skipped[:NAMED]]
    printed([*lines, f"{folder / names.outputs}"])


def _printable(line: str) -> str:
    """A file's name may hold anything."""
    return "".join(c if c.isprintable() or c == "\t" else "?" for c in line)


if __name__ == "__main__":
    sys.exit(main())
