"""Gates of every kind trained on one network turned into the table and trade-off curve of Differentiable Branching."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp.features.errors import InputError

if TYPE_CHECKING:
    from offramp.cascades.files.datafolder import DataFolder
    from offramp.cascades.graph.routing import OperatingPoint, Routes
    from offramp.cascades.images.images import Images
    from offramp.features.outputs import Floats, Ints, Outputs

FILES = ("differentiable.csv", "differentiable.md", "differentiable.png", "systems.md", "systems.png")
NETWORK, BACKBONE, FOLDER, SHIPPED = "b_alexnet", "branchy_alexnet", "b_alexnet", "gates_alexnet"
PRICES, FROZEN_PRICES = (0.1, 0.3, 1.0), (0.03, 0.1, 0.3, 1.0, 3.0)
"""Loss (nats) per millisecond that gates are trained at."""

SURE_PRICES = (0.03, 0.06, 0.1, 0.2, 0.3, 0.6, 1.0, 1.5)
"""Of gates on confidences, which take a second to train, on stored logits."""

SURE_STEPS, SURE_BATCH, SURE_RATE, SHARPEN = 600, 256, 0.01, 10.0

EPOCHS, HELD_EPOCHS, FROZEN_EPOCHS = 4, 4, 1
"""Of whole networks; of gates on the fit part, 10,000 images; of gates on 40,000 training images: as many steps."""

STARVED = 0.001
"""Share of the examples below which an exit gets none."""

POOR = 0.5
"""An exit that is right less often was not trained: the joint loss makes each right three times in four at least."""

PUBLISHED = (("baseline", 77.40), ("joint + entropy", 78.94), ("gates", 77.43), ("gates on maximum probability", 79.51))
"""VGG-13 on CIFAR-10, % right (Scardapane et al., 2020)."""


@dataclass(frozen=True)
class Settings:
    """The flags of the command for Differentiable Branching."""

    images: Path | None = field(
        default=None, metadata={"help": "training images: systems that are missing in --weights are trained on them"}
    )
    test: Path | None = field(default=None, metadata={"help": "test images, with --images"})
    weights: Path = field(
        default=Path("weights"),
        metadata={"help": "folder for the trained systems, with --images; what is there is kept"},
    )
    threads: int | None = field(
        default=None, metadata={"help": "CPU threads, if not all", "minimum": 1, "maximum": 1024}
    )
    points: int = field(default=50, metadata={"help": "as in eval.frontier", "minimum": 1, "maximum": 1000})
    seed: int = field(default=0, metadata={"help": "seed of training and folds", "minimum": 0, "maximum": 2**31})
    out: Path = field(default=Path("papers"), metadata={"help": "folder to write into; made if need be"})


@dataclass(frozen=True)
class System:
    """Gates trained one way at one price.

    ``kind``: of the line it is a point of; ``loss`` of the gates; ``deep``: the exits' own losses are added (deep
    supervision); ``frozen``: only the gates are trained, on the network of the joint loss; ``held``: on the fit part's
    images rather than those that the network was trained on.
    """

    kind: str
    loss: str
    price: float
    deep: bool = False
    frozen: bool = False
    held: bool = False

    @property
    def name(self) -> str:
        """As a file and as a network."""
        return f"{self.kind.replace(' ', '-')}-{self.price:g}".replace(".", "_")

    def flags(self, settings: Settings) -> list[str]:
        """The command line of ``cascades.training`` that trains it."""
        from offramp.cascades.files.embedded import embedded_path

        start = embedded_path("weights") / f"{NETWORK if self.frozen else BACKBONE}.safetensors"
        costs = embedded_path(FOLDER) / "costs.json"
        epochs = HELD_EPOCHS if self.held else FROZEN_EPOCHS if self.frozen else EPOCHS
        rows = FIT_ROWS if self.held else TRAIN_ROWS
        found = ["--network", NETWORK, "--objective", "gated", "--loss", self.loss, "--price", f"{self.price:g}"]
        found += ["--start", str(start), "--costs", str(costs), "--epochs", str(epochs), "--rows", rows]
        found += ["--images", str(settings.images), "--name", self.name, "--out", str(settings.weights)]
        found += ["--seed", str(settings.seed), "--rate", "0.01" if self.frozen else "0.001"]
        if self.deep:
            found += ["--weights", "1", "0.65", "0.3"]
        if self.frozen:
            found += ["--freeze"]
        if settings.threads:
            found += ["--threads", str(settings.threads)]
        return found


TRAIN_ROWS, FIT_ROWS = ":40000", "40000:"

SYSTEMS: tuple[System, ...] = (
    *(System(loss, loss, price) for loss in ("expected", "mixture") for price in PRICES),
    *(System(f"{loss} deep", loss, price, deep=True) for loss in ("expected", "mixture") for price in PRICES),
    *(System("frozen", "expected", price, frozen=True) for price in FROZEN_PRICES),
    *(System("frozen held out", "expected", price, frozen=True, held=True) for price in FROZEN_PRICES),
)

KINDS = {
    "expected": "expected loss",
    "mixture": "mixture loss",
    "expected deep": "expected loss + deep supervision",
    "mixture deep": "mixture loss + deep supervision",
    "frozen": "frozen network, its training images",
    "frozen held out": "frozen network, images it was not trained on",
    "sure expected": "on confidences, frozen network, expected loss",
    "sure mixture": "on confidences, frozen network, mixture loss",
}


@dataclass(frozen=True)
class Trained:
    """Gates of one kind, trained at one price: the stages of ``data`` that they stand at, and per part their log odds
    (n, k - 1)."""

    kind: str
    price: float
    data: DataFolder
    exits: tuple[str, ...]
    odds: Mapping[str, Floats]


def run(settings: Settings) -> None:
    """Train what is missing if there are images, else read what comes along; write tables and pictures."""
    import pandas as pd

    from offramp.cascades.files.datafolder import read_folder
    from offramp.eval.report.files import csv_bytes, png_bytes, writable
    from offramp.features.store.atomic import refuse_overwriting

    inputs = [("--images", settings.images), ("--test", settings.test)]
    refuse_overwriting((("--out", settings.out / name) for name in FILES), inputs)
    folder = writable(settings.out, "--out", FILES)
    if settings.images is None:
        if settings.test is not None or settings.weights != Settings.weights:
            raise InputError("--images beside --test and --weights, to train on", "none", "--images")
        gates = read_folder(SHIPPED, settings.seed)
    else:
        if settings.test is None:
            raise InputError("test images beside the training images", "none", "--test")
        refuse_other_images(settings, read_folder(FOLDER, settings.seed))
        train_missing(settings)
        write_outputs(settings)
        gates = read_folder(settings.weights / SHIPPED, settings.seed)
    joint = read_folder(FOLDER, settings.seed)
    trained = [stored(system, gates) for system in SYSTEMS]
    trained += [on_confidences(joint, loss, price, settings.seed) for loss in LOSSES for price in SURE_PRICES]
    lines = [line for each in trained for line in judged(each)]
    picked, tested = rivals(settings, joint)
    contents: list[bytes] = [csv_bytes(pd.DataFrame(lines)), table(lines, joint, picked, tested).encode()]
    contents.append(png_bytes(trade_off(lines, picked, tested)))
    contents += together(settings, trained, joint, picked, tested)
    written = folder.write_all(dict(zip(FILES, contents, strict=True)))
    sys.stdout.write(contents[1].decode() + "\n" + contents[3].decode())
    for path in written:
        sys.stdout.write(f"  {path}\n")


# --- training, and what the trained systems say


def images_of(settings: Settings) -> dict[str, Images]:
    """The images of the fit and test part, labels numbered as the network's classes."""
    from offramp.cascades.images.sources import open_images, rows_of
    from offramp.cascades.models.zoo import CIFAR_CLASSES

    assert settings.images is not None
    assert settings.test is not None
    whole, test = (open_images(path).numbered_as(CIFAR_CLASSES) for path in (settings.images, settings.test))
    return {"fit": whole.take(rows_of(FIT_ROWS, len(whole))), "test": test}


def refuse_other_images(settings: Settings, joint: DataFolder) -> None:
    """Raises InputError for images that are not those of which the joint network's outputs are stored: what gates do is
    compared with them example by example."""
    for part, images in images_of(settings).items():
        labels = joint.parts[part].labels
        if len(images) != len(labels) or not np.array_equal(images.labels, labels):
            where = "--test" if part == "test" else f"--images, rows {FIT_ROWS}"
            raise InputError(f"the {len(labels)} images that {FOLDER} has outputs of", f"{len(images)} others", where)


def train_missing(settings: Settings) -> None:
    """Train every system whose weights are not there yet."""
    from offramp.cascades.training.exits import main

    for system in SYSTEMS:
        note = settings.weights / f"{system.name}.flags"
        flags = " ".join(system.flags(settings))
        if (settings.weights / f"{system.name}.safetensors").exists():
            if not note.exists() or note.read_text("utf-8") != flags:
                raise InputError(f"weights that were trained by: {flags} (or another --weights)", "others", system.name)
            continue
        if main(system.flags(settings)):
            raise InputError("gates that can be trained", "a training that failed, see above", system.name)
        note.write_text(flags, "utf-8")


def write_outputs(settings: Settings) -> None:
    """The answers of every exit and the gates' log odds of all systems, as one data folder of answers."""
    import pandas as pd

    from offramp.cascades.files.datafolder import read_folder
    from offramp.cascades.graph.costs import Costs, StageCost, write_costs
    from offramp.features.store.atomic import replacing

    out = settings.weights / SHIPPED
    out.mkdir(exist_ok=True)
    for part, images in images_of(settings).items():
        columns: dict[str, Any] = {"id": images.names, "label": images.labels}
        for system in SYSTEMS:
            columns |= said(system, settings.weights, images)
        with replacing(out / f"{part}.answers.parquet") as temporary:
            pd.DataFrame(columns).to_parquet(temporary, index=False, compression="zstd")
    costs = read_folder(FOLDER).costs
    own = {name: each for name, each in costs.stages.items() if each.network == NETWORK}
    stages = {
        f"{system.name}.{name.rpartition('.')[2]}": StageCost(system.name, each.trunk, each.head)
        for system in SYSTEMS
        for name, each in own.items()
    }
    write_costs(Costs(stages, costs.unit, costs.device, costs.batch), out / "costs.json")


def said(system: System, weights: Path, images: Images) -> dict[str, Any]:
    """Columns of one system: the class that each exit answers, and the gates' log odds, to the digits of float16."""
    import torch

    from offramp.cascades.models.zoo import load_stages
    from offramp.cascades.training.loop import load

    stages = load_stages(f"{system.name}=file:{weights / system.name}.safetensors")
    data = load(images, torch.device("cpu"), stages[0].preprocessing)
    place = stages[0].place
    assert place is not None
    columns: dict[str, list[Any]] = {}
    with torch.inference_mode():
        for begin in range(0, len(data.labels), 500):
            x = data.images[begin : begin + 500].contiguous(memory_format=torch.channels_last)
            for i, state in enumerate(place.net.states(x)):
                answer = place.net.head(i, state).argmax(1).numpy().astype(np.int16)
                columns.setdefault(f"{stages[i].name}.answer", []).append(answer)
                if i < len(place.net.gates):
                    gate = place.net.gate(i, state).half().float().numpy()
                    columns.setdefault(f"{stages[i].name}.gate", []).append(gate)
    return {name: np.concatenate(parts) for name, parts in columns.items()}


# --- what they do


def exits_of(system: System, gates: DataFolder) -> tuple[str, ...]:
    """The system's stages, in order. Raises InputError if the folder lacks them."""
    found = tuple(name for name, each in gates.costs.stages.items() if each.network == system.name)
    if not found:
        raise InputError(f"the exits of {system.name}", "none", gates.name)
    return found


def stored(system: System, gates: DataFolder) -> Trained:
    """What the gates of a trained system said."""
    exits = exits_of(system, gates)
    odds = {part: gate_logits(outputs.of(exits)) for part, outputs in gates.parts.items()}
    return Trained(system.kind, system.price, gates, exits, odds)


LOSSES = ("expected", "mixture")


def on_confidences(joint: DataFolder, loss: str, price: float, seed: int) -> Trained:
    """Gates that look at how sure their own exit is (``confidences``), trained on the stored logits of the fit part.

    As the paper's gates on the maximum probability: one linear unit each, all trained together on the gates' loss and
    the price of the expected cost, with nothing else moving.
    """
    import torch

    from offramp.cascades.training.loop import ramp
    from offramp.cascades.training.objectives import BranchOutputs, Objective

    exits = tuple(name for name, each in joint.costs.stages.items() if each.network == NETWORK)
    costs = tuple(cost_of_stopping(joint, exits, i) for i in range(len(exits)))
    objective = Objective((0.0,) * len(exits), loss, price, costs)
    said = {part: confidences(outputs.of(exits)) for part, outputs in joint.parts.items()}
    mean, scale = said["fit"].mean(axis=0), said["fit"].std(axis=0)
    seen = {part: torch.from_numpy(((x - mean) / scale).astype(np.float32)) for part, x in said.items()}
    fit = joint.parts["fit"].of(exits)
    logits = [torch.from_numpy(np.asarray(stage.logits, np.float32)) for stage in fit.stages]
    labels = torch.from_numpy(fit.labels)
    weight = torch.zeros(seen["fit"].shape[1:], requires_grad=True)
    bias = torch.zeros(weight.shape[0], requires_grad=True)
    optimiser = torch.optim.Adam([weight, bias], lr=SURE_RATE)
    draw = torch.Generator().manual_seed(seed)
    for step in range(SURE_STEPS):
        done = step / SURE_STEPS
        for group in optimiser.param_groups:
            group["lr"] = SURE_RATE * ramp(done)
        rows = torch.randint(len(labels), (SURE_BATCH,), generator=draw)
        odds = SHARPEN**done * ((seen["fit"][rows] * weight).sum(dim=2) + bias)
        optimiser.zero_grad()
        objective(BranchOutputs([z[rows] for z in logits], odds), labels[rows]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    with torch.no_grad():
        found = {part: (SHARPEN * ((x * weight).sum(dim=2) + bias)).numpy() for part, x in seen.items()}
    return Trained(f"sure {loss}", price, joint, exits, found)


def confidences(outputs: Outputs) -> Floats:
    """(n, k - 1, 3) of every stage but the last: log of the highest probability, its margin, and the entropy."""
    from scipy.special import log_softmax

    found = []
    for stage in outputs.stages[:-1]:
        said = log_softmax(np.asarray(stage.logits, np.float64), axis=1)
        top = np.sort(said, axis=1)[:, -2:]
        entropy = -(np.exp(said) * said).sum(axis=1)
        found.append(np.column_stack([top[:, 1], top[:, 1] - top[:, 0], entropy]))
    return np.stack(found, axis=1)


def gate_logits(outputs: Outputs) -> Floats:
    """(n, k - 1) log odds of the gates of the stages of ``outputs``."""
    return np.column_stack([stage.measured["gate"] for stage in outputs.stages if "gate" in stage.measured])


def hard_stops(odds: Floats) -> Ints:
    """(n,) the first exit whose gate (n, k - 1) is at least as likely to stop as not; the last one else.

    >>> hard_stops(np.array([[-1.0, 2.0], [0.5, -1.0], [-1.0, -1.0]])).tolist()
    [1, 0, 2]
    """
    stops = np.concatenate([odds >= 0, np.ones((len(odds), 1), bool)], axis=1)
    return np.asarray(stops.argmax(axis=1))


def soft_cost(odds: Floats, costs: Sequence[float]) -> float:
    """Mean of the costs (k,) of stopping at each exit under the chances that the gates (n, k - 1) give.

    >>> soft_cost(np.zeros((1, 2)), [1.0, 2.0, 4.0])
    2.0
    """
    # log(1 + e^-x) without overflow
    stop = np.concatenate([-np.logaddexp(0, -odds), np.zeros((len(odds), 1))], axis=1)
    going = np.concatenate([np.zeros((len(odds), 1)), np.cumsum(-np.logaddexp(0, odds), axis=1)], axis=1)
    return float((np.exp(stop + going) @ np.asarray(costs)).mean())


def judged(trained: Trained) -> Iterator[dict[str, Any]]:
    """What gates do on each part: accuracy (%), cost, shares, each exit's accuracy, soft against hard cost."""
    exits = trained.exits
    costs = [cost_of_stopping(trained.data, exits, i) for i in range(len(exits))]
    for part in ("fit", "test"):
        outputs, odds = trained.data.parts[part].of(exits), trained.odds[part]
        stop = hard_stops(odds)
        right = np.column_stack([outputs.stages[i].answer == outputs.labels for i in range(len(exits))])
        cost = float(np.asarray(costs)[stop].mean())
        share = np.bincount(stop, minlength=len(exits)) / len(stop)
        line: dict[str, Any] = {"kind": trained.kind, "price": trained.price, "part": part, "cost": cost}
        line |= {"accuracy": 100 * float(right[np.arange(len(stop)), stop].mean())}
        line |= {"soft_cost": soft_cost(odds, costs)}
        line |= {f"share_e{i + 1}": float(each) for i, each in enumerate(share)}
        line |= {f"accuracy_e{i + 1}": 100 * float(each) for i, each in enumerate(right.mean(axis=0))}
        yield line


def cost_of_stopping(data: DataFolder, exits: Sequence[str], place: int) -> float:
    """Of an example that went through all exits up to number ``place``: every head on the way is paid."""
    return sum(data.costs.step(tuple(exits[:i]), exits[i]) for i in range(place + 1))


def rivals(settings: Settings, joint: DataFolder) -> tuple[list[OperatingPoint], list[OperatingPoint]]:
    """Points of the learned policy, thresholds and oracles on the network of the joint loss, on fit and test part."""
    from offramp.cascades.learning.recipe import Recipe
    from offramp.oracles.comparing import operating_points

    routes = routes_of(joint, [name for name, each in joint.costs.stages.items() if each.network == NETWORK])
    how = Recipe(points=settings.points, pooled=False, seed=settings.seed)
    picked, tested, _ = operating_points(how, joint, routes)
    return picked, tested


def routes_of(data: DataFolder, exits: Sequence[str]) -> Routes:
    """Every jump along the exits."""
    from offramp.cascades.graph.topology import parse_topology, unroll

    return unroll(parse_topology("_".join(name.rpartition(".")[2] for name in exits), exits), data.costs)


def gate_points(trained: Sequence[Trained], part: str) -> list[OperatingPoint]:
    """Hard gates as operating points of the router ``gates``."""
    from offramp.cascades.graph.routing import OperatingPoint, Routing

    found = []
    for each in trained:
        routes = routes_of(each.data, each.exits)
        outputs = each.data.parts[part].of(each.exits)
        stop = hard_stops(each.odds[part])
        along = np.array([routes.index[tuple(range(i + 1))] for i in range(len(each.exits))])
        answer = np.column_stack([stage.answer for stage in outputs.stages])[np.arange(len(stop)), stop]
        routing = Routing(routes, along[stop], answer, answer != outputs.labels, part)
        found.append(OperatingPoint("gates", each.kind, each.price, routing))
    return found


# --- tables and pictures


def table(
    lines: Sequence[Mapping[str, Any]],
    joint: DataFolder,
    picked: Sequence[OperatingPoint],
    tested: Sequence[OperatingPoint],
) -> str:
    """Markdown: baseline, joint + entropy, and every system on the test part."""
    test = joint.parts["test"]
    base = test.of(("base",))
    whole = joint.costs.step((), "base")
    right = 100 * float((base.stages[0].answer == test.labels).mean())
    fit = joint.parts["fit"]
    allowed = float((fit.of(("base",)).stages[0].answer != fit.labels).mean())
    head = (
        "| trained with | price | right, % | cost, ms | soft cost | exits, % | right at each exit, % | |\n"
        "|---|---|---|---|---|---|---|---|\n"
    )
    rows = [f"| no exits (baseline) | | {right:.2f} | {whole:.3f} | | | | |"]
    for router, called in (("entropy", "joint loss, entropy thresholds"), ("policy", "joint loss, learned policy")):
        for where, point in picked_for(router, picked, tested, allowed):
            share = " / ".join(f"{100 * each:.1f}" for each in point.routing.exit_share)
            right_here, cost = 100 * (1 - point.routing.error), point.routing.mean_cost
            rows.append(f"| {called}, {where} | | {right_here:.2f} | {cost:.3f} | | {share} | | |")
    for line in (each for each in lines if each["part"] == "test"):
        k = sum(key.startswith("share_e") for key in line)
        share = " / ".join(f"{100 * line[f'share_e{i + 1}']:.1f}" for i in range(k))
        each = " / ".join(f"{line[f'accuracy_e{i + 1}']:.1f}" for i in range(k))
        off = line["soft_cost"] / line["cost"] - 1
        rows.append(
            f"| gates, {KINDS[line['kind']]} | {line['price']:g} | {line['accuracy']:.2f} | {line['cost']:.3f} | "
            f"{line['soft_cost']:.3f} ({100 * off:+.1f} %) | {share} | {each} | {remark(line)} |"
        )
    paper = ", ".join(f"{name} {value:.2f}" for name, value in PUBLISHED)
    return head + "\n".join(rows) + f"\n\nThe paper's VGG-13 on CIFAR-10, % right: {paper}.\n"


def remark(line: Mapping[str, Any]) -> str:
    """What went wrong in training, in words: exits that get nobody, exits that learned nothing."""
    k = sum(key.startswith("share_e") for key in line)
    starved = [f"e{i + 1}" for i in range(k) if line[f"share_e{i + 1}"] < STARVED]
    poor = [f"e{i + 1}" for i in range(k) if line[f"accuracy_e{i + 1}"] < 100 * POOR]
    if len(starved) == k - 1:
        return "all at one exit: no trade-off at this price" + (f"; untrained: {', '.join(poor)}" if poor else "")
    said = [f"nobody at {', '.join(starved)}"] if starved else []
    return "; ".join(said + ([f"untrained: {', '.join(poor)}"] if poor else []))


def picked_for(
    router: str, picked: Sequence[OperatingPoint], tested: Sequence[OperatingPoint], error: float
) -> Iterator[tuple[str, OperatingPoint]]:
    """On the test part, the router's point that on the fit part is the cheapest with at most ``error``, and the one
    that is most often right there."""
    mine = [i for i, point in enumerate(picked) if point.router == router]
    within = [i for i in mine if picked[i].routing.error <= error]
    if within:
        yield "as good as the baseline", tested[min(within, key=lambda i: picked[i].routing.mean_cost)]
    if mine:
        yield "most often right", tested[min(mine, key=lambda i: picked[i].routing.error)]


COLOURS = ("#CC79A7", "#E69F00", "#AA3377", "#BB9900", "#999999", "#000000", "#D55E00", "#994F00")


def trade_off(
    lines: Sequence[Mapping[str, Any]], picked: Sequence[OperatingPoint], tested: Sequence[OperatingPoint]
) -> Any:
    """Error against cost over the price, one line a kind of gates, beside thresholds, learned policy and oracle, whose
    lines join the points that lie on the lower hull of the part to pick on."""
    from matplotlib.figure import Figure

    from offramp.cascades.graph.hull import lower_hull

    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for router, colour, called in (
        ("policy", "#0072B2", "learned policy"),
        ("entropy", "#56B4E9", "entropy thresholds"),
        ("soft_oracle", "#009E73", "soft oracle"),
    ):
        before, after = ([p.routing for p in some if p.router == router] for some in (picked, tested))
        hull = lower_hull(np.array([r.mean_cost for r in before]), np.array([r.error for r in before]))
        cost, error = [after[i].mean_cost for i in hull], [100 * after[i].error for i in hull]
        axes.plot(cost, error, color=colour, marker="o", markersize=3, label=f"{called} (joint loss)")
    for kind, colour in zip(KINDS, COLOURS, strict=True):
        mine_lines = sorted((x for x in lines if (x["kind"], x["part"]) == (kind, "test")), key=lambda x: x["cost"])
        axes.plot(
            [each["cost"] for each in mine_lines],
            [100 - each["accuracy"] for each in mine_lines],
            "--",
            color=colour,
            marker="o",
            markersize=4,
            linewidth=1,
            label=f"gates, {KINDS[kind]}",
        )
    axes.set_xlabel("mean cost, ms an image")
    axes.set_ylabel("error (%)")
    axes.set_ylim(top=min(axes.get_ylim()[1], 45))
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


def together(
    settings: Settings,
    trained: Sequence[Trained],
    joint: DataFolder,
    picked: Sequence[OperatingPoint],
    tested: Sequence[OperatingPoint],
) -> list[bytes]:
    """One table and one picture of all systems on one network, that of the joint loss, and one test set."""
    from offramp.eval.report.files import frontier_frame, png_bytes
    from offramp.eval.report.intervals import Bootstrap
    from offramp.eval.report.picture import frontier_picture
    from offramp.eval.report.routers import routers
    from offramp.eval.report.summary import summarise

    sure = [each for each in trained if each.kind == "sure expected"]
    picked, tested = [*picked, *gate_points(sure, "fit")], [*tested, *gate_points(sure, "test")]
    how = Bootstrap(seed=settings.seed)
    summary = summarise(picked, tested, how=how)
    area, base = summary["area"], summary["best_single"]
    head = (
        "| router | mean error over the span of costs, % | above the learned policy, points | times cheaper at no loss "
        "|\n"
        "|---|---|---|---|\n"
    )
    rows = []
    for router in ("policy", "joint", "entropy", "gates", "myopic", "uniform", "soft_oracle", "hard_oracle"):
        if router not in area["routers"]:
            continue
        value = area["routers"][router]
        apart = area["policy_above"].get(router)
        cell = "" if apart is None else spread(apart, -100)
        first = summary["routers"][router][0]
        speed = "out of reach" if not first["reached"] else spread(first["speedup"], 1)
        rows.append(f"| {routers()[router].told} | {spread(value, 100)} | {cell} | {speed} |")
    n = summary["tested_on"]["examples"]
    note = (
        f"One network ({NETWORK}, joint loss), {n:,} test images, everything picked on the fit part; 95 % intervals, "
        f"paired bootstrap. No loss: the error of {base['stage']} alone. Gates: on confidences, trained on the stored "
        "logits of the fit part with the expected loss, once for each price, decided at one half."
    )
    text = head + "\n".join(rows) + f"\n\n{note}\n"
    frame = frontier_frame(picked, tested, how)
    picture = frontier_picture(frame, joint.costs.unit, n, f"{NETWORK}: all systems on one network")
    return [text.encode(), png_bytes(picture)]


def spread(estimate: Mapping[str, Any], times: float) -> str:
    """Value and interval."""
    if estimate["low"] is None:
        return "-"
    low, high = sorted((times * estimate["low"], times * estimate["high"]))
    return f"{times * estimate['value']:.2f} ({low:.2f} to {high:.2f})"
