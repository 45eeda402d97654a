"""Speed and memory of ``eval.extract``, as ratios of one run: ``python -m benchmarks.extract``.

Writes ``benchmarks/results/extract.csv``. Throughput is that of the whole work but start-up (decode, compute, store,
put together) in that of a bare loop which only decodes and runs the same networks; the two alternate in one process,
and the ratio is the median over the pairs. Memory is the largest resident set of whole ``eval.extract`` processes.
Images are made up, weights are random: both take the time that real ones do.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

RESULTS = Path(__file__).parent / "results" / "extract.csv"
CASES = {
    "one small network, 32 x 32": (("cifar_alexnet",), 32, 1.0),
    "the embedded cascade, 32 x 32": (("cifar_alexnet", "cifar_googlenet", "cifar_wide_resnet10"), 32, 0.5),
    "torchvision's AlexNet and ResNet-18, photos of 500 x 375": (("alexnet", "resnet18"), 375, 0.02),
}
"""Networks, the images' height, and how many there are in units of --images."""

DIFFERENT = 500
"""Images that differ; a data set repeats them."""


def made_up(n: int, height: int, classes: tuple[str, ...], path: Path) -> Path:
    """An npz of n JPEGs: smooth, as photos are, with a little noise."""
    from PIL import Image

    rng = np.random.default_rng(0)
    width = height if height < 100 else height * 4 // 3
    some = []
    for _ in range(min(n, DIFFERENT)):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        noisy = np.clip(np.asarray(coarse, np.int16) + rng.integers(-12, 13, (height, width, 3)), 0, 255)
        stream = io.BytesIO()
        Image.fromarray(noisy.astype(np.uint8)).save(stream, "JPEG", quality=90)
        some.append(np.frombuffer(stream.getvalue(), np.uint8))
    rows = np.arange(n) % len(some)
    offsets = np.concatenate([[0], np.cumsum([len(some[row]) for row in rows])])
    jpeg = np.concatenate([some[row] for row in rows])
    np.savez(path, jpeg=jpeg, offsets=offsets, labels=rows % len(classes), classes=np.array(classes))
    return path


def throughput(add: Callable[..., None], args: argparse.Namespace) -> None:
    import torch

    from offramp.cascades.images.sources import open_images
    from offramp.cascades.measuring.extraction import Decoder, Job, Progress, assemble, extract, ways_of
    from offramp.cascades.models.probing import pick_device
    from offramp.cascades.models.zoo import load_cascade
    from offramp.eval.extract import default_workers

    device = pick_device(args.device)

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for what, (names, height, share) in CASES.items():
        stages = load_cascade(names, pretrained=False)
        n = max(2 * args.batch, int(share * args.images))
        with tempfile.TemporaryDirectory() as folder:
            images = open_images(made_up(n, height, stages[0].classes[:10], Path(folder) / "images.npz"))
            job = Job(images.numbered_as(stages[0].classes), stages, device, args.batch)
            for stage in stages:
                stage.module.to(device, memory_format=torch.channels_last)
            ways = ways_of(stages)

            def bare(job: Job = job, ways: tuple = ways) -> None:
                for number in range(job.batches):
                    rows = range(number * job.batch, min((number + 1) * job.batch, len(job.images)))
                    decoded = [job.images.image(row) for row in rows]
                    crops = {
                        way.pixels_key: torch.from_numpy(np.stack([way.cropped(image) for image in decoded])).to(
                            job.device
                        )
                        for way in ways
                    }
                    with torch.inference_mode():
                        for stage in job.stages:
                            stage.module(stage.preprocessing.normalise(crops[stage.preprocessing.pixels_key]))
                finish()

            def ours(workers: int, job: Job = job, folder: str = folder) -> None:
                progress = Progress(Path(folder) / "progress", len(job.images), job.batch)
                progress.begin({})
                extract(job, progress, workers)
                assemble(job, progress, Path(folder) / "outputs.npz")
                progress.remove()

            default = default_workers(device)
            ways_to_work = {f"{w} workers": w for w in sorted({0, default, *args.workers})}
            Decoder(job.images, ways, args.batch)[0]
            bare()
            seconds: dict[str, list[float]] = {name: [] for name in ("bare", *ways_to_work)}
            for _ in range(args.rounds):
                for name in seconds:
                    start = time.perf_counter()
                    bare() if name == "bare" else ours(ways_to_work[name])
                    seconds[name].append(time.perf_counter() - start)
            for name, workers in ways_to_work.items():
                ratio = float(np.median(np.array(seconds["bare"]) / np.array(seconds[name])))
                note = f"{name}, the default" if workers == default else name
                speed = n / float(np.median(seconds[name]))
                least = 0.9 if workers == default else None
                add(f"{what}: throughput in a bare loop's ({note})", rate=speed, ratio=ratio, ratio_least=least)


def memory(add: Callable[..., None], args: argparse.Namespace) -> None:
    from offramp.cascades.models.weights import save_weights
    from offramp.cascades.models.zoo import load_stage

    stage = load_stage("cifar_alexnet", pretrained=False)
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        about = {"architecture": "cifar_alexnet", "classes": "\n".join(stage.classes)}
        save_weights(stage.module, Path(folder) / "cifar_alexnet.safetensors", about)
        for n in (args.few, args.many):
            source = made_up(n, 32, stage.classes, Path(folder) / f"{n}.npz")
            flags = ("--weights", folder, "--images", str(source), "--out", f"{folder}/{n}", "--device", args.device)
            process = subprocess.Popen(
                [sys.executable, "-m", "eval.extract", "--models", "cifar_alexnet", *flags],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"eval.extract on {n} images failed")
            peaks.append(usage.ru_maxrss / 1024)
            add(f"peak memory of a process, {n:,} images", megabytes=peaks[-1])
    add(f"peak memory with {args.many:,} images, in that with {args.few:,}", ratio=peaks[1] / peaks[0], ratio_limit=1.1)


PARTS = {f.__name__: f for f in (memory, throughput)}
"""Memory first: a process is never counted smaller than the one that started it was then."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--images", type=int, default=10_000, help="size of the largest throughput case")
    parser.add_argument("--few", type=int, default=1_000)
    parser.add_argument("--many", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="*", default=[1], help="numbers to try besides 0 and the default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    found: list[dict[str, object]] = []

    def add(what: str, **numbers: float | None) -> None:
        found.append({"what": what, **numbers})
        print(what, {k: round(v, 3) for k, v in numbers.items() if v is not None}, flush=True)

    for part in PARTS:
        if part in args.parts:
            PARTS[part](add, args)
    columns = ["what", "rate", "megabytes", "ratio", "ratio_limit", "ratio_least"]
    args.out.parent.mkdir(exist_ok=True)
    frame = pd.DataFrame(found).reindex(columns=columns).rename(columns={"rate": "images_per_second"})
    frame.assign(machine=machine(args.device)).to_csv(args.out, index=False, float_format="%.4g")


def machine(device: str) -> str:
    import torch

    gpu = f", {torch.cuda.get_device_name(torch.device(device))}" if device.startswith("cuda") else ""
    return (
        f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores{gpu}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
