"""Networks on a device turned into what they cost there: ``python -m eval.profile --models a b --out DIR``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offramp.cascades.command.console import show as printed
from offramp.cascades.command.progress import bar
from offramp.cascades.command.settings import guard, parse
from offramp.features.errors import InputError
from offramp.features.store.limits import NOTE_BYTES
from offramp.features.store.opening import read_bytes

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from rich.table import Table
    from torch import Tensor

    from offramp.cascades.graph.costs import StageCost
    from offramp.cascades.images.images import Images
    from offramp.cascades.measuring.latency import Line, Overheads, Profile
    from offramp.cascades.models.preprocessing import Preprocessing
    from offramp.cascades.models.zoo import StageModel

FILES = ("profile.csv", "profile.json", "latency.png")
COSTS = "costs.json"
UNIT = "ms per image"
COLUMNS = (
    *("stage", "what", "batch", "ms_median", "ms_low_quartile", "ms_high_quartile", "ms_low", "ms_high", "repeats"),
    *("multiply_adds", "parameters", "peak_memory_mb", "energy_j", "energy_note"),
)
"""Of profile.csv, one row a batch that was timed."""

WHOLE_ONLY = "measured of whole networks"
INCHES = (8.0, 4.8)  # 1200 pixels wide at 150 to the inch
NAMED = 8  # rows that two profiles don't agree on and that are named
# Colours of Okabe and Ito, which the colour-blind can tell apart, and markers for who sees none.
LOOKS = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "D"),
    ("#CC79A7", "^"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
    ("#000000", "X"),
)
LOG_LEVEL = "6"  # torch's profiler reports its own starts and stops on stderr below this


@dataclass(frozen=True)
class Settings:
    """The flags of the command."""

    models: tuple[str, ...] = field(
        metadata={
            "help": "stages from cheap to dear: a network of the zoo, torchvision:NAME, timm:NAME, file:PATH; "
            "x=SPEC names the stage x"
        }
    )
    weights: Path | None = field(default=None, metadata={"help": "folder that holds weights of the zoo's networks"})
    pretrained: bool = field(
        default=True, metadata={"help": "load trained weights; random ones take the same time and need no download"}
    )
    data: str | None = field(
        default=None, metadata={"help": "images to measure on, as eval.extract takes them; random pixels if not given"}
    )
    batches: tuple[int, ...] = field(
        default=(1, 2, 4, 8, 16, 32, 64), metadata={"help": "batch sizes", "minimum": 1, "maximum": 2**16}
    )
    batch_cost: int | None = field(
        default=None,
        metadata={"help": "batch size at which costs.json quotes the cost; the largest if not given", "minimum": 1},
    )
    device: str = field(default="auto", metadata={"help": "cpu, cuda, cuda:N, or auto: cuda if there is one"})
    dtype: str = field(
        default="float32", metadata={"help": "precision of the multiplications", "choices": ("float32", "bfloat16")}
    )
    threads: int | None = field(
        default=None, metadata={"help": "CPU threads, if not all", "minimum": 1, "maximum": 1024}
    )
    compile: bool = field(default=False, metadata={"help": "compile the networks with torch.compile"})
    seconds: float = field(
        default=1.0,
        metadata={"help": "time to spend on each network and batch size", "minimum": 1e-3, "maximum": 86_400},
    )
    seed: int = field(default=0, metadata={"help": "seed of random pixels and of the order of measuring", "minimum": 0})
    check: Path | None = field(
        default=None, metadata={"help": "profile.csv of an earlier run: say which medians agree with it"}
    )
    out: Path = field(default=Path("profile"), metadata={"help": "folder to write into; made if need be"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit code."""
    return guard(lambda: run(parse(Settings, argv, "python -m eval.profile", __doc__ or "")))


def run(settings: Settings) -> None:
    """Load, measure, write the files, print the tables."""
    from offramp.eval.report.files import csv_bytes, json_bytes, png_bytes, writable
    from offramp.features.store.atomic import files_of, refuse_overwriting

    batches = tuple(sorted(set(settings.batches)))
    quoted = settings.batch_cost or batches[-1]
    if quoted not in batches:
        raise InputError(f"one of the batch sizes {', '.join(map(str, batches))}", str(quoted), "--batch-cost")
    outputs = [("--out", settings.out / name) for name in (*FILES, COSTS)]
    refuse_overwriting(outputs, [("--check", settings.check), ("--data", settings.data), *files_of(settings.models)])
    earlier = None if settings.check is None else read_profile(settings.check)
    folder = writable(settings.out, "--out", (*FILES, COSTS))
    os.environ.setdefault("KINETO_LOG_LEVEL", LOG_LEVEL)
    with bar(drawn_by_itself=False) as update:

        def step(text: str, total: int = 0) -> None:
            update(text, advance=1 if total else 0, total=total or None)

        step("loading torch")
        import torch

        from offramp.cascades.graph.costs import Costs, write_costs
        from offramp.cascades.measuring.latency import NETWORK, Bench, fit_lines, profile_stages
        from offramp.cascades.models.probing import pick_device
        from offramp.cascades.models.zoo import load_cascade

        device = pick_device(settings.device)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        images = None
        if settings.data is not None:
            from offramp.cascades.images.sources import open_images

            images = open_images(settings.data)
        step("loading the models")
        models = load_cascade(settings.models, settings.weights, settings.pretrained)
        refuse_other_stages(folder.path, models)
        pixels = pixels_of(models, batches[-1], images, settings.seed)
        work = {model.name: _multiply_adds(model, pixels[model.preprocessing.pixels_key]) for model in models}
        bench = Bench(device, batches, settings.dtype, settings.compile, settings.seconds, seed=settings.seed)
        found = profile_stages(models, pixels, bench, overheads(models, device), step)
        lines = fit_lines(found.timings)
        about = _about(settings, device)
        frame = profile_frame(found, models, work)
        costs = Costs(
            {model.name: stage_cost(model, found, quoted) for model in models},
            UNIT,
            about["device"],
            quoted,
            {key: about[key] for key in ("threads", "dtype", "compiled", "versions")},
        )
        whole = {stage: line for (stage, what), line in lines.items() if what == NETWORK}
        record = {**about, **described(found, models, lines, quoted)}
        picture = latency_picture(frame, whole, _title(about))
        contents = (csv_bytes(frame), json_bytes(record), png_bytes(picture))
        written = folder.write_all(dict(zip(FILES, contents, strict=True)), tie="profile.json")
        write_costs(costs, folder.path / COSTS)
    show(frame, whole, _title(about), quoted, [*written, folder.path / COSTS])
    if earlier is not None:
        printed(agreement(frame, earlier))


def stage_cost(model: StageModel, found: Profile, quoted: int) -> StageCost:
    """What a stage costs, ms an image at batch ``quoted``; an exit pays its head, and its trunk if nobody has."""
    from offramp.cascades.graph.costs import StageCost
    from offramp.cascades.measuring.latency import NETWORK, Cell

    def cost(what: str) -> float:
        cell = Cell(model.name, what, quoted)
        return found.timings[cell].median / quoted if cell in found.timings else 0.0

    if model.place is None:
        return StageCost(model.name, cost(NETWORK), 0.0)
    return StageCost(model.place.network, cost("trunk"), cost("head"))


def refuse_other_stages(folder: Path, models: Sequence[StageModel]) -> None:
    """Raises InputError for a data folder of other stages: without its costs it could not be read any more."""
    from offramp.cascades.graph.costs import read_costs

    path = folder / COSTS
    if not path.is_file() or not any(folder.glob("*outputs.npz")):
        return
    there, here = list(read_costs(path).stages), [model.name for model in models]
    if set(there) != set(here):
        raise InputError(f"the stages of the data folder, {', '.join(there)}", ", ".join(here), f"--out {folder}")


def overheads(models: Sequence[StageModel], device: torch.device) -> Mapping[str, Overheads]:
    """What is timed besides the networks: "policy" -> stage -> batch size -> a learned policy at work on its logits.

    The policy stands behind the stages in their order, all of them run: what it looks at grows with their number.
    """
    import numpy as np
    import torch

    from offramp.cascades.runtime.decide import typical_policy

    on_device, classes = device.type != "cpu", len(models[0].classes)
    decide = typical_policy(len(models), classes, on_device)

    def work_of(stages: int) -> Callable[[int], Callable[[], None]]:
        def make(batch: int) -> Callable[[], None]:
            logits: list[Any] = list(np.random.default_rng(0).normal(size=(stages, batch, classes)).astype(np.float32))
            if on_device:
                logits = [torch.from_numpy(z).to(device) for z in logits]

            def work() -> None:
                decide[stages](logits)

            return work

        return make

    return {"policy": {model.name: work_of(i) for i, model in enumerate(models, start=1)}}


# --- what is measured


def pixels_of(models: Sequence[StageModel], n: int, images: Images | None, seed: int) -> dict[Any, Tensor]:
    """Images (n, h, w, channels) uint8 for every crop that the models want: the first of ``images``, again from the
    beginning if they are too few; else random. Raises InputError where they have no size of their own."""
    import numpy as np
    import torch

    if images is not None and not len(images):
        raise InputError("at least one image", "none", "--data")
    found: dict[Any, Tensor] = {}
    for model in models:
        how = model.preprocessing
        if how.pixels_key in found:
            continue
        if images is not None:
            crops = whole_crops(images, how, n)
            if len({crop.shape for crop in crops}) > 1:
                raise InputError(
                    "images of one size, since this model doesn't crop", "several", f"--data, {model.spec}"
                )
            rows = np.stack([crops[i % len(crops)] for i in range(n)])
        else:
            size = how.crop or how.resize
            if size is None:
                raise InputError("--data, since this model takes images of any size", "no images", model.spec)
            height, width = (size, size) if isinstance(size, int) else size
            rows = np.random.default_rng(seed).integers(0, 256, (n, height, width, how.channels), np.uint8)
        found[how.pixels_key] = torch.from_numpy(rows)
    return found


def whole_crops(images: Images, how: Preprocessing, n: int) -> list[NDArray[np.uint8]]:
    """The first ``n`` images that are whole, cropped; fewer if there are not as many. Raises InputError if none is."""
    from offramp.cascades.images.files import BrokenImage

    found: list[NDArray[np.uint8]] = []
    for i in range(len(images)):
        try:
            found.append(how.cropped(images.image(i)))
        except BrokenImage:
            continue
        if len(found) == n:
            break
    if not found:
        raise InputError("an image that is whole", "broken ones only", "--data")
    return found


def _multiply_adds(model: StageModel, pixels: Tensor) -> int | None:
    """Of one image; None if the model does something that can't be counted."""
    from offramp.cascades.models.probing import multiply_adds

    _, height, width, channels = pixels.shape
    try:
        return multiply_adds(model.module, (1, channels, height, width))
    except InputError:
        return None


def _about(settings: Settings, device: torch.device) -> dict[str, Any]:
    """Where and with what it was measured."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from offramp.cascades.measuring.latency import device_name

    versions = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "timm"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    cpu = device_name(torch.device("cpu"))
    return {
        "device": device_name(device),
        "kind": device.type,
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "dtype": settings.dtype,
        "compiled": settings.compile,
        "versions": versions,
    }


def _title(about: Mapping[str, Any]) -> str:
    many = f", {about['threads']} thread{'' if about['threads'] == 1 else 's'}"
    threads = many if about["kind"] == "cpu" else ""
    return f"{about['device']}{threads}, {about['dtype']}{', compiled' if about['compiled'] else ''}"


def profile_frame(found: Profile, models: Sequence[StageModel], work: Mapping[str, int | None]) -> pd.DataFrame:
    """One row a cell, with the columns of ``COLUMNS``; ``work``: multiply-adds of one image."""
    import pandas as pd

    from offramp.cascades.measuring.latency import NETWORK

    parameters = {model.name: model.parameters for model in models}
    rows = []
    for cell, timing in found.timings.items():
        whole = cell.what == NETWORK
        rows.append(
            (
                *(cell.stage, cell.what, cell.batch, timing.median, *timing.quartiles, *timing.interval),
                *(timing.repeats, work.get(cell.stage) if whole else None),
                *(parameters.get(cell.stage) if whole else None, found.memory.get(cell), found.energy.get(cell)),
                found.energy_note if whole else WHOLE_ONLY,
            )
        )
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"multiply_adds": "Int64", "parameters": "Int64"})


def described(
    found: Profile, models: Sequence[StageModel], lines: Mapping[tuple[str, str], Line], quoted: int
) -> dict[str, Any]:
    """The part of profile.json that no table holds: what the rows mean, the stages, the lines."""
    from offramp.cascades.measuring.latency import BLOCKS, LEVEL, UNSEEN, WHAT

    return {
        "unit": "ms per batch",
        "batch_cost": quoted,
        "rows": WHAT,
        "interval": f"{LEVEL:.0%} of the median, by order statistics of all repeats and of {BLOCKS} blocks' medians, "
        f"the wider end, and at least {UNSEEN:.0%} to either side",
        "memory": "MB of weights, inputs and what torch allocates at most for a batch",
        "energy": found.energy_note or "J of a batch, everything that the device used meanwhile",
        "stages": [{"stage": model.name, "spec": model.spec, "origin": model.origin} for model in models],
        "lines": [{"stage": stage, "what": what, **asdict(line)} for (stage, what), line in lines.items()],
    }


def read_profile(path: Path) -> pd.DataFrame:
    """A profile.csv. Raises InputError if it is none."""
    import pandas as pd

    needed = ("stage", "what", "batch", "ms_median", "ms_low", "ms_high")
    try:
        content = BytesIO(read_bytes(path, "a profile.csv", NOTE_BYTES))
        frame = pd.read_csv(content, keep_default_na=False, na_values={name: [""] for name in COLUMNS[3:]})
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        found = error.found if isinstance(error, InputError) else str(error)
        raise InputError("a profile.csv", found, f"--check {path}") from error
    if missing := [name for name in needed if name not in frame]:
        raise InputError(f"a profile.csv, with columns {', '.join(needed)}", f"no {missing[0]}", f"--check {path}")
    if not all(pd.api.types.is_numeric_dtype(frame[name]) for name in needed[2:]):
        raise InputError("numbers in " + ", ".join(needed[2:]), "something else", f"--check {path}")
    return frame


def agreement(here: pd.DataFrame, earlier: pd.DataFrame) -> list[str]:
    """Sentences on how many of the rows that both profiles have agree, their intervals having a point in common, and
    on those that do not."""
    key = ["stage", "what", "batch"]
    both = here.merge(earlier, on=key, suffixes=("", "_earlier"))
    apart = both[(both["ms_low"] > both["ms_high_earlier"]) | (both["ms_low_earlier"] > both["ms_high"])]
    if not len(both):
        raise InputError("an earlier profile of these stages and batch sizes", "no row in common", "--check")
    lines = [f"agrees with the earlier profile in {len(both) - len(apart)} of {len(both)} rows"]
    for row in apart.head(NAMED).to_dict("records"):
        now, before = ([row[f"{name}{end}"] for name in ("ms_median", "ms_low", "ms_high")] for end in ("", "_earlier"))
        lines.append(
            f"  {row['stage']}, {row['what']} at {row['batch']}: now {_spread(*now)} ms, then {_spread(*before)}"
        )
    return lines + ([f"  and {len(apart) - NAMED} more"] if len(apart) > NAMED else [])


# --- what is shown


def latency_picture(frame: pd.DataFrame, lines: Mapping[str, Line], title: str) -> Figure:
    """Time of a batch (ms) against its size, both logarithmic: medians, bars between the quartiles, fitted lines."""
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    from offramp.cascades.measuring.latency import NETWORK

    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    rows = frame[frame["what"] == NETWORK]
    for i, (stage, line) in enumerate(lines.items()):
        colour, marker = LOOKS[i % len(LOOKS)]
        mine = rows[rows["stage"] == stage].sort_values("batch")
        batch, median = mine["batch"].to_numpy(float), mine["ms_median"].to_numpy(float)
        bars = [median - mine["ms_low_quartile"].to_numpy(float), mine["ms_high_quartile"].to_numpy(float) - median]
        label = f"{stage}: {line.overhead:.3g} + {line.slope:.3g} b"
        axes.errorbar(
            batch,
            median,
            np.maximum(bars, 0),
            fmt=marker,
            color=colour,
            markersize=5,
            capsize=3,
            linewidth=1.2,
            label=label,
            zorder=4,
        )
        along = np.geomspace(batch[0], batch[-1], 100)
        axes.plot(along, line.overhead + line.slope * along, color=colour, linewidth=1.2, zorder=3)
    sizes = sorted(set(rows["batch"].tolist()))
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("images in a batch")
    axes.set_ylabel("time of a batch (ms)")
    axes.set_title(f"Pixels on the host to logits: median, quartiles, line\n{title}", fontsize=10, loc="left")
    legend = figure.legend(loc="outside right upper", frameon=False, fontsize=9, title="ms for b images")
    legend.set_alignment("left")
    for text in (axes.title, axes.xaxis.label, *legend.get_texts()):
        text.set_parse_math(False)
    return figure


def show(frame: pd.DataFrame, lines: Mapping[str, Line], title: str, quoted: int, files: Sequence[Path]) -> None:
    """Prints the medians, what lies around a network at batch ``quoted``, the lines, and where the files are."""
    things: list[Table | str] = [
        *(f"Time of a batch, ms: median [95 % interval]. {title}", _median_table(frame)),
        *(f"Around the networks, batch {quoted}: ms (share of that network's time)", _beside_table(frame, quoted)),
        *("Fitted: overhead + slope * batch, ms, with standard errors", _line_table(lines)),
    ]
    printed([*things, *(f"  {file}" for file in files)])


def _median_table(frame: pd.DataFrame) -> Table:
    from offramp.cascades.measuring.latency import NETWORK

    table = _table()
    whole = frame[frame["what"] == NETWORK]
    stages = list(dict.fromkeys(whole["stage"]))
    table.add_column("batch", justify="right")
    for stage in stages:
        table.add_column(stage, justify="right")
    for batch, rows in whole.groupby("batch"):
        cells = {row["stage"]: _spread(row["ms_median"], row["ms_low"], row["ms_high"]) for row in _records(rows)}
        table.add_row(str(batch), *(cells[stage] for stage in stages))
    return table


def _beside_table(frame: pd.DataFrame, quoted: int) -> Table:
    """The small things around each network, and which share of the network's own time they are."""
    from offramp.cascades.measuring.latency import NETWORK

    rows = frame[frame["batch"] == quoted]
    whole = {row["stage"]: row["ms_median"] for row in _records(rows[rows["what"] == NETWORK])}
    table = _table()
    table.add_column("")
    for stage in whole:
        table.add_column(stage, justify="right")
    for what, group in rows[rows["what"] != NETWORK].groupby("what", sort=False):
        cells = {row["stage"]: row["ms_median"] for row in _records(group)}
        shares = {stage: _share(ms, whole[stage]) for stage, ms in cells.items() if stage in whole}
        table.add_row(str(what), *(shares.get(stage, "-") for stage in whole))
    return table


def _line_table(lines: Mapping[str, Line]) -> Table:
    table = _table()
    for name in ("stage", "overhead", "slope", "largest misfit"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage, line in lines.items():
        over, slope = _give_or_take(line.overhead, line.overhead_error), _give_or_take(line.slope, line.slope_error)
        table.add_row(stage, over, slope, f"{line.misfit:.1%}")
    return table


def _records(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    return frame.to_dict("records")


def _table() -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False)


def _spread(value: float, low: float, high: float) -> str:
    from offramp.eval.report.table import number

    return f"{number(value)} [{number(low)}, {number(high)}]"


def _share(part: float, whole: float) -> str:
    from offramp.eval.report.table import number

    return f"{number(part)} ({part / whole:.1%})" if whole else number(part)


def _give_or_take(value: float, error: float | None) -> str:
    from offramp.eval.report.table import number

    return f"{number(value)} \N{PLUS-MINUS SIGN} {number(error)}"


if __name__ == "__main__":
    sys.exit(main())
