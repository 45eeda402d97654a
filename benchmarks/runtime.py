"""What the runtime really saves, and what it adds: ``python -m benchmarks.runtime``.

    python -m benchmarks.runtime --images path/to/test.npz      # all test images in place of the embedded ones

Writes ``benchmarks/results/runtime.csv``: the embedded cascade at batch 64, timed in alternation with its networks
(``eval.run``), and the policy's and the gathering's time beside the cheapest network's at batches of 64 and 1,
alternating too. Where there is a GPU, ``benchmarks/results/gpu.csv``: AlexNet, GoogLeNet and ResNet-50 at 224 x 224
with random weights, batches of 1 to 256, float32 and bfloat16, and the break-even shares; else it says so.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

RESULTS = Path(__file__).parent / "results"
BATCHES = (1, 8, 64, 256)
NETWORKS = ("alexnet", "googlenet", "resnet50")


def alternating(works: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Median seconds of each piece of work, run in turns for so long."""
    found: list[list[float]] = [[] for _ in works]
    for work in works:
        for _ in range(10):
            work()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for work, times in zip(works, found, strict=True):
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
    return [float(np.median(times)) for times in found]


def overhead(add: Callable[..., None], seconds: float) -> None:
    """Features, decision and gathering, as a share of the cheapest network's time."""
    import torch

    from offramp.cascades.files.datafolder import read_folder
    from offramp.cascades.files.provenance import noted
    from offramp.cascades.graph.topology import parse_topology, unroll
    from offramp.cascades.models.zoo import load_cascade
    from offramp.cascades.runtime.decide import live_cascade
    from offramp.cascades.runtime.folded import FoldedPolicy
    from offramp.cascades.runtime.networks import networks
    from offramp.eval.measured.flags import Settings
    from offramp.eval.measured.picking import pick_cascades

    data = read_folder("cifar10")
    routes = unroll(parse_topology("a_g_r", tuple(data.costs.stages)), data.costs)
    fitted, _ = pick_cascades(Settings(topology="a_g_r"), data, routes)
    specs = noted("cifar10", "networks", {})
    models = load_cascade([f"{stage}={specs[stage]}" for stage in routes.stages])
    device = torch.device("cpu")
    network = networks(models, device)[0]
    first = routes.index[(0,)]
    # the dearest decision there is: a learned rule behind the cheapest network
    point = next(
        i
        for i in range(len(fitted.sweep.prices))
        if (live := live_cascade(fitted, i)).plans[0].entry == first
        and isinstance(decide := live.plans[0].decide[first], FoldedPolicy)
        and decide.score is not None
    )
    decide = live_cascade(fitted, point).plans[0].decide[first]
    for batch in (64, 1):
        times = timed(network, decide, models[0].preprocessing.pixels_key, batch, seconds)
        add(
            "features, policy and gathering, in times of the cheapest network's",
            batch,
            (times[1] + times[2]) / times[0],
            0.03 if batch == 64 else 0.15,
        )
        add("  of that the policy, microseconds", batch, times[1] * 1e6, None)
        add("  of that gathering, microseconds", batch, times[2] * 1e6, None)


def timed(network: Any, decide: Any, key: Any, batch: int, seconds: float) -> list[float]:
    """Seconds of the network, of the policy behind it, and of gathering every second example."""
    import torch

    from offramp.cascades.runtime.run import Batch

    device = torch.device("cpu")
    pixels = torch.randint(0, 256, (batch, 32, 32, 3), dtype=torch.uint8)
    rows = np.arange(0, batch, 2)
    with torch.inference_mode():
        whole = Batch({key: pixels}, device)
        logits = network.logits(whole.inputs(network, None)).numpy()

        def run() -> object:
            return network.logits(Batch({key: pixels}, device).inputs(network, None)).numpy()

        def policy() -> object:
            action, answer = decide([logits])
            return action.any(), (action == 0).nonzero(), answer

        def gather() -> object:
            return whole.inputs(network, rows)

        return alternating((run, policy, gather), seconds)


def cascade(add: Callable[..., None], images: Path | None, rounds: int) -> None:
    """The embedded cascade by ``eval.run``."""
    from offramp.eval.run import main as run

    with tempfile.TemporaryDirectory() as out:
        given = [] if images is None else ["--images", str(images)]
        margins = ["--margins", "0", "0.005", "0.01", "0.02"]
        if run(["--topology", "a_g_r", "--rounds", str(rounds), "--out", out, *margins, *given]):
            raise SystemExit("eval.run failed")
        frame = pd.read_csv(Path(out) / "run.csv")
    wanted = {"cascade +0": 1.8, "cascade +1": 3.0}
    for row in frame.to_dict("records"):
        name, batch = row["system"], row["batch"]
        add(f"{name}: times faster than the largest network", batch, row["speedup"], wanted.get(name))
        add(f"{name}: milliseconds an image", batch, row["ms_per_image"], None)
        add(f"{name}: error", batch, row["error"], None)
        if name.startswith("cascade"):
            add(f"{name}: error beyond the largest's", batch, row["extra_error"], None)
            add(f"{name}: time in times of the ideal", batch, row["times_ideal"], 1.1)
            add(f"{name}: share routed as stored outputs say", batch, row["routed_as_stored"] / row["images"], 1.0)


def gpu() -> pd.DataFrame:
    """The table of three networks at 224 x 224, or one row that says that it was not measured."""
    import torch

    if not torch.cuda.is_available():
        return pd.DataFrame([{"device": "none here", "note": "not measured: no GPU was at hand"}])
    from offramp.cascades.measuring.race import break_even
    from offramp.eval.profile import main as profile

    frames = []
    for dtype in ("float32", "bfloat16"):
        with tempfile.TemporaryDirectory() as out:
            flags = ["--no-pretrained", "--device", "cuda", "--dtype", dtype, "--out", out]
            batches = list(map(str, BATCHES))
            if profile(["--models", *NETWORKS, "--batches", *batches, *flags]):
                raise SystemExit("eval.profile failed")
            frame = pd.read_csv(Path(out) / "profile.csv")
        frame.insert(0, "dtype", dtype)
        frame.insert(0, "device", torch.cuda.get_device_name())
        whole = frame[frame["what"] == "network"].set_index(["stage", "batch"])["ms_median"]
        policy = frame[frame["what"] == "policy"].set_index(["stage", "batch"])["ms_median"]
        for stage, following in (("alexnet", "googlenet"), ("alexnet", "resnet50"), ("googlenet", "resnet50")):
            for batch in BATCHES:
                # what a whole batch would take there, an example
                share = break_even(whole[stage, batch] + policy[stage, batch], whole[following, batch] / batch, batch)
                at = (frame["stage"] == stage) & (frame["batch"] == batch) & (frame["what"] == "network")
                frame.loc[at, f"pays_before_{following}_above"] = share
        frames.append(frame)
    return pd.concat(frames)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    args = parser.parse_args()

    import torch

    from offramp.cascades.measuring.latency import device_name

    rows: list[dict[str, object]] = []

    def add(what: str, batch: int, measured: float, wanted: float | None) -> None:
        higher_is_better = "faster" in what or "share routed" in what
        met = "" if wanted is None else bool(measured >= wanted if higher_is_better else measured <= wanted)
        rows.append({"what": what, "batch": batch, "measured": measured, "wanted": wanted, "met": met})
        print(f"{what} | batch {batch} | {measured:.4g} | wanted {wanted} | {met}", flush=True)

    overhead(add, args.seconds)
    cascade(add, args.images, args.rounds)
    frame = pd.DataFrame(rows)
    frame["device"] = device_name(torch.device("cpu"))
    frame["threads"] = torch.get_num_threads()
    frame["torch"] = torch.__version__
    frame["images"] = "embedded" if args.images is None else args.images.name
    RESULTS.mkdir(exist_ok=True)
    frame.to_csv(RESULTS / "runtime.csv", index=False, float_format="%.4g")
    gpu().to_csv(RESULTS / "gpu.csv", index=False, float_format="%.5g")


if __name__ == "__main__":
    main()
