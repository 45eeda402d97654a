"""A fitted cascade run on images, timed beside its networks alone: ``python -m eval.run --topology a_g_r``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isinf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascades.settings import guard, parse
from features.errors import InputError

if TYPE_CHECKING:
    from cascades.folder import DataFolder
    from cascades.images import Images
    from cascades.points import Fitted
    from cascades.routing import Routes, Routing
    from cascades.trial import Race, System, Together
    from cascades.zoo import StageModel
    from features.outputs import Outputs

FILES = ("run.csv", "run.json")
LEVEL = 0.95
PICTURES = "cifar10-test.npz"
"""Images that come with the package: some of the test images of the embedded ``cifar10`` data."""


@dataclass(frozen=True)
class Settings:
    """The flags of the command."""

    topology: str = field(metadata={"help": "as in eval.frontier: a_g_r, or a>g,r;g>r"})
    data: str = field(
        default="cifar10", metadata={"help": "embedded data or a data folder: policies are fitted on its fit part"}
    )
    policies: Path | None = field(
        default=None,
        metadata={"help": "folder that eval.frontier wrote: its cascades are run instead of fitting them here"},
    )
    models: tuple[str, ...] = field(
        default=(), metadata={"help": "STAGE=NETWORK for each stage, if not as eval.extract noted in the data folder"}
    )
    weights: Path | None = field(default=None, metadata={"help": "folder or file with the networks' weights"})
    images: Path | None = field(
        default=None, metadata={"help": "labelled images to run on (the embedded ones for embedded data)"}
    )
    rows: str = field(default=":", metadata={"help": "which of the images, such as 10000:12000"})
    margins: tuple[float, ...] = field(
        default=(0.0, 0.01),
        metadata={"help": "errors allowed over the largest model's: a cascade is picked for each", "minimum": 0},
    )
    batch: int = field(default=64, metadata={"help": "images a batch", "minimum": 1, "maximum": 65_536})
    rounds: int = field(default=5, metadata={"help": "times that all images are run", "minimum": 1, "maximum": 1000})
    queue: int = field(
        default=0,
        metadata={
            "help": "also serve requests of so many images by a queue that gathers them across requests (0: don't)",
            "minimum": 0,
            "maximum": 65_536,
        },
    )
    patience: float = field(
        default=20.0, metadata={"help": "milliseconds after which the queue runs what waits", "minimum": 0}
    )
    device: str = field(default="auto", metadata={"help": "cpu, cuda, or auto: cuda if there is one"})
    dtype: str = field(
        default="float32", metadata={"help": "what networks multiply in", "choices": ("float32", "bfloat16")}
    )
    compile: bool = field(default=False, metadata={"help": "compile the networks first (torch.compile)"})
    threads: int | None = field(default=None, metadata={"help": "CPU threads, if not all", "minimum": 1})
    loss: str = field(default="top1", metadata={"help": "as in eval.frontier", "choices": ("top1", "excess")})
    points: int = field(default=50, metadata={"help": "as in eval.frontier", "minimum": 1, "maximum": 1000})
    seed: int = field(default=0, metadata={"help": "seed of splits and folds", "minimum": 0, "maximum": 2**31})
    out: Path | None = field(default=None, metadata={"help": "folder to write run.csv and run.json into"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit code."""
    return guard(lambda: run(parse(Settings, argv, "python -m eval.run", __doc__ or "")))


def run(settings: Settings) -> None:
    """Fit or read the cascades, pick, load the networks and images, time all side by side, print, write."""
    from cascades.folder import read_folder
    from cascades.topology import parse_topology, unroll
    from eval.files import csv_bytes, json_bytes, writable

    folder = None if settings.out is None else writable(settings.out, "--out", FILES)
    data = read_folder(settings.data, settings.seed)
    routes = unroll(parse_topology(settings.topology, tuple(data.costs.stages)), data.costs)
    with watching() as step:
        import torch

        from cascades.probing import pick_device

        device = pick_device(settings.device)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        step("loading the networks")
        models = load_models(settings, routes)
        step("reading the images")
        images = open_labelled(settings, models)
        step("fitting the cascades")
        fitted, picks = pick_cascades(settings, data, routes)
        step("decoding the images")
        unseen = unseen_rows(images, data)
        trial = Trial(settings, data, routes, fitted, picks, models, images, unseen, device)
        report = trial.report(step)
    show(report)
    if folder is not None:
        import pandas as pd

        rows = pd.DataFrame([{**report["about"], **row} for row in report["systems"]])
        for path in folder.write_all({"run.csv": csv_bytes(rows), "run.json": json_bytes(report)}):
            sys.stdout.write(f"  {path}\n")


# --- what is run


def load_models(settings: Settings, routes: Routes) -> tuple[StageModel, ...]:
    """The networks of the routes' stages, in order."""
    from cascades.folder import EMBEDDED, embedded_names
    from cascades.zoo import load_cascade

    specs = {spec.partition("=")[0]: spec for spec in settings.models}
    if not specs:
        where = EMBEDDED / settings.data if settings.data in embedded_names() else Path(settings.data)
        specs = noted_specs(where)
    if missing := [stage for stage in routes.stages if stage not in specs]:
        found = ", ".join(specs) or "none"
        raise InputError(
            f"a network for each of {', '.join(missing)}: --models {missing[0]}=NETWORK", found, "--models"
        )
    return load_cascade([specs[stage] for stage in routes.stages], settings.weights)


def noted_specs(folder: Path) -> dict[str, str]:
    """Stage -> ``STAGE=NETWORK`` as ``eval.extract`` noted it in a data folder; empty if it did not make it."""
    for path in sorted(folder.glob("*extracted.json")):
        try:
            noted = json.loads(path.read_text("utf-8")).get("networks", {})
        except (OSError, ValueError, AttributeError) as error:
            raise InputError("what eval.extract writes", str(error), str(path)) from error
        return {name: f"{name}={spec}" for name, spec in noted.items()}
    return {}


def open_labelled(settings: Settings, models: Sequence[StageModel]) -> Images:
    """The images, labels numbered as the models' classes."""
    from cascades.folder import EMBEDDED, embedded_names
    from cascades.images import open_images, rows_of

    where = settings.images
    if where is None:
        if settings.data not in embedded_names() or not (EMBEDDED / settings.data / PICTURES).exists():
            raise InputError("images to run on", "none", "--images")
        where = EMBEDDED / settings.data / PICTURES
    images = open_images(where)
    rows = rows_of(settings.rows, len(images))
    images = images.take(rows).numbered_as(models[0].classes)
    if not len(images):
        raise InputError("at least one image", "none", f"--rows {settings.rows}")
    return images


def unseen_rows(images: Images, data: DataFolder) -> list[int]:
    """Rows of the images that no rule was fitted or picked on. Raises InputError if there are none."""
    seen = {str(one) for name, part in data.parts.items() if name != "test" for one in part.ids.tolist()}
    unseen = [i for i, name in enumerate(images.names.tolist()) if name not in seen]
    if not unseen:
        raise InputError("images that the policies were not fitted on", "none", f"--images {images.name}")
    return unseen


@dataclass(frozen=True)
class Pick:
    """A point of the frontier: its number, the error allowed over the largest model's, and what the part that it was
    picked on promised, cost and error."""

    point: int
    margin: float
    cost: float
    error: float


def pick_cascades(settings: Settings, data: DataFolder, routes: Routes) -> tuple[Fitted, list[Pick]]:
    """The fitted cascades; for each margin the cheapest whose held-out error is within it of the largest model's."""
    import numpy as np

    from cascades.points import fit_points, read_policies
    from eval.frontier import Settings as Frontier
    from eval.frontier import fit_settings

    largest = int(np.argmax(routes.alone if routes.alone is not None else routes.cost[list(routes.entries)]))
    if settings.policies is None:
        how = fit_settings(Frontier(topology=settings.topology, loss=settings.loss, pooled=False, seed=settings.seed))
        parts = {name: outputs.of(routes.stages) for name, outputs in data.parts.items()}
        fitted, picking = fit_points(parts["fit"], parts.get("tune"), routes, settings.points, how)
        cost = np.array([routing.mean_cost for routing in picking.routings])
        error = np.array([routing.error for routing in picking.routings])
        reference = float(picking.there.wrong[:, largest].mean())
    else:
        fitted = read_policies(settings.policies / "policies.json")
        if fitted.sweep.routes.stages != routes.stages or fitted.sweep.routes.paths != routes.paths:
            raise InputError(f"cascades of {settings.topology}", "of another topology", str(settings.policies))
        cost, error, reference = picked_on(
            settings.policies / "frontier.csv", len(fitted.names), routes.stages[largest]
        )
    found = []
    for margin in settings.margins:
        allowed = np.where(error <= reference + margin + 1e-12, cost, np.inf)
        point = int(allowed.argmin()) if np.isfinite(allowed).any() else int(error.argmin())
        found.append(Pick(point, margin, float(cost[point]), float(error[point])))
    return fitted, found


def refuse_other_split(settings: Settings) -> None:
    """Raises InputError if the policies were fitted with another seed: which examples they saw would be unknown."""
    assert settings.policies is not None
    path = settings.policies / "summary.json"
    try:
        seed = json.loads(path.read_text("utf-8"))["intervals"]["seed"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError("the summary.json that stands beside policies.json", str(error), str(path)) from error
    if seed != settings.seed:
        raise InputError(f"--seed {seed}, with which the policies were fitted", str(settings.seed), "--seed")


def picked_on(path: Path, points: int, largest: str) -> tuple[Any, Any, float]:
    """Cost and error of the ``points`` policies on the part that they are picked on, and the largest model's error."""
    import pandas as pd

    try:
        frame = pd.read_csv(path)
        policy = frame[frame["router"] == "policy"].head(points)
        single = frame[(frame["router"] == "single") & (frame["family"] == largest)]
        if len(policy) != points or not len(single):
            raise InputError(f"{points} policies and {largest} alone", f"{len(policy)} and {len(single)}", str(path))
        return policy["cost"].to_numpy(), policy["error"].to_numpy(), float(single["error"].iloc[0])
    except (OSError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("the frontier.csv that stands beside policies.json", str(error), str(path)) from error


# --- the trial


class Trial:
    """Everything timed side by side in one process, and the report of it."""

    def __init__(
        self,
        settings: Settings,
        data: DataFolder,
        routes: Routes,
        fitted: Fitted,
        picks: Sequence[Pick],
        models: Sequence[StageModel],
        images: Images,
        rows: Sequence[int],
        device: Any,
    ) -> None:
        import numpy as np
        import torch

        from cascades.extraction import ways_of
        from cascades.live import live_cascade
        from cascades.runtime import Runtime, networks
        from cascades.trial import Alone, Together

        self.settings, self.data, self.routes, self.fitted, self.picks = settings, data, routes, fitted, picks
        self.models, self.device = models, device
        self.labels, self.left_out = images.labels[list(rows)], len(images) - len(rows)
        ways = ways_of(models)
        decoded = [images.image(i) for i in rows]
        self.pixels = {
            way.pixels_key: torch.from_numpy(np.stack([way.cropped(image) for image in decoded])) for way in ways
        }
        self.networks = networks(models, device, settings.dtype, settings.compile)
        self.alone = [Alone(net.name, s, net, device) for s, net in enumerate(self.networks)]
        self.cascades: list[Together] = []
        for pick in picks:
            live = live_cascade(fitted, pick.point, on_device=device.type != "cpu")
            name = f"cascade +{100 * pick.margin:g}"
            plan = None
            if len(live.plans) > 1:  # the coin of the stored outputs' routing
                plan = (np.random.default_rng(fitted.coin).random(len(rows)) < live.shares[1]).astype(np.int64)
            self.cascades.append(Together(name, Runtime(self.networks, live, device), plan))

    def report(self, step: Any) -> dict[str, Any]:
        """Time, compare, and put together what the command prints and writes; JSON's own types."""
        from cascades.trial import race

        settings = self.settings
        systems = self._systems()
        step("timing", 2 * settings.rounds)
        found = race(
            systems, self.networks, self.pixels, settings.batch, settings.rounds, self.device, lambda _: step("timing")
        )
        step("checking the routing")
        outputs = self._outputs()
        routings = self.fitted.route(outputs)
        rows = [self._row(i, found, routings) for i in range(len(systems))]
        return {
            "about": {**about(settings, self.device, len(self.labels)), "left_out": self.left_out},
            "systems": rows,
            "break_even": [line for i in range(len(self.cascades)) for line in self._break_even(i, found)],
            "queue": self._queue(found) if settings.queue else None,
        }

    def _outputs(self) -> Outputs:
        """Logits of all stages on all images, as eval.extract would store them."""
        import numpy as np
        import torch

        from cascades.runtime import Batch
        from features.outputs import Outputs, Stage

        stages = []
        with torch.inference_mode():
            for network in self.networks:
                parts = []
                for start in range(0, len(self.labels), self.settings.batch):
                    part = {key: x[start : start + self.settings.batch] for key, x in self.pixels.items()}
                    inputs = Batch(part, self.device).inputs(network, None)
                    parts.append(network.logits(inputs).cpu().numpy())
                logits = np.concatenate(parts)
                if not np.isfinite(logits).all():
                    raise InputError("finite logits", "NaN or infinity", f"network {network.name}")
                stages.append(Stage(network.name, logits=logits))
        n = len(self.labels)
        return Outputs(tuple(stages), self.labels.astype(np.int64), np.arange(n), "test", len(self.models[0].classes))

    def _row(self, i: int, race: Race, routings: Sequence[Routing]) -> dict[str, Any]:
        import numpy as np

        n, stages = len(self.labels), self.routes.stages
        largest = self._largest()
        answer = np.concatenate([served.answer for served in race.served[i]])
        wrong = answer != self.labels
        base = np.concatenate([served.answer for served in race.served[largest]]) != self.labels
        per_round = race.seconds[i].sum(axis=1)
        ratios = race.seconds[largest].sum(axis=1) / per_round
        low, high = np.quantile(per_round, [0.25, 0.75]) / n * 1e3
        seconds = float(np.median(race.seconds[i], axis=0).sum())
        reference = float(np.median(race.seconds[largest], axis=0).sum())
        ideal = float(race.ideal(i).sum())
        costs = self.data.costs
        predicted = costs.step((), stages[i]) if i < len(stages) else self._spent(i, race)
        whole = costs.step((), stages[largest])
        row: dict[str, Any] = {
            "system": self._systems()[i].name,
            "ms_per_image": seconds / n * 1e3,
            "ms_low_quartile": float(low),
            "ms_high_quartile": float(high),
            "speedup": reference / seconds,
            "speedup_low": float(ratios.min()),
            "speedup_high": float(ratios.max()),
            "ideal_ms_per_image": ideal / n * 1e3,
            "times_ideal": seconds / ideal,
            "predicted_cost": predicted,
            "unit": costs.unit,
            "predicted_speedup": whole / predicted if predicted else None,
            "error": float(wrong.mean()),
            **dict(zip(("error_low", "error_high"), wilson(int(wrong.sum()), n), strict=True)),
            **extra_error(wrong, base, self.settings.seed),
        }
        share = np.bincount(self._exits(i, race), minlength=len(stages)) / n
        row |= {f"share_{stage}": float(part) for stage, part in zip(stages, share, strict=True)}
        if i >= len(stages):
            pick = self.picks[i - len(stages)]
            routing = routings[pick.point]
            path = np.concatenate([served.path for served in race.served[i]])
            same = (path == routing.path) & (answer == routing.answer)
            row |= {
                "family": self.fitted.names[pick.point][0],
                "promised_error": pick.error,
                "promised_cost": pick.cost,
                "routed_as_stored": int(same.sum()),
            }
        return row

    def _systems(self) -> list[System]:
        return [*self.alone, *self.cascades]

    def _largest(self) -> int:
        costs = [self.data.costs.step((), stage) for stage in self.routes.stages]
        return max(range(len(costs)), key=lambda s: costs[s])

    def _exits(self, i: int, race: Race) -> Any:
        import numpy as np

        if i < len(self.routes.stages):
            return np.full(len(self.labels), i)
        return self.routes.exits[np.concatenate([served.path for served in race.served[i]])]

    def _spent(self, i: int, race: Race) -> float:
        """Mean cost of the paths taken, by the data folder's costs."""
        import numpy as np

        return float(self.routes.cost[np.concatenate([served.path for served in race.served[i]])].mean())

    def _break_even(self, i: int, race: Race) -> list[dict[str, Any]]:
        """For each stage of a cascade that examples left and others went on from: what must stop there to pay."""
        import numpy as np

        from cascades.trial import break_even, line

        system = i + len(self.alone)
        path = np.concatenate([served.path for served in race.served[system]])
        ways = [self.routes.paths[q] for q in path]
        found = []
        for stage, name in enumerate(self.routes.stages):
            through = [way for way in ways if stage in way]
            onward = [way[way.index(stage) + 1] for way in through if way[-1] != stage]
            if not through or not onward:
                continue
            following = max(set(onward), key=onward.count)
            overhead, slope = line(*zip(*self._cells(race, following), strict=True))
            sizes = [size for each in race.served[system] for s, size in each.batches if s == stage]
            batch = int(np.median(sizes))
            extra = self._policy_seconds(system, stage, race)
            spent = race.cells[stage, min(sizes, key=lambda size: abs(size - batch))] + extra
            found.append(
                {
                    "system": self.cascades[i].name,
                    "stage": name,
                    "batch": batch,
                    "pays_above": None if isinf(share := break_even(spent, overhead, slope, batch)) else share,
                    "stops": 1 - len(onward) / len(through),
                    "following": self.routes.stages[following],
                }
            )
        return [
            {**line, "pays_above": None if line["pays_above"] == float("inf") else line["pays_above"]} for line in found
        ]

    @staticmethod
    def _cells(race: Race, stage: int) -> list[tuple[int, float]]:
        return [(size, seconds) for (s, size), seconds in race.cells.items() if s == stage]

    def _policy_seconds(self, system: int, stage: int, race: Race) -> float:
        """What a batch takes beyond its stages (policy, gathering, bookkeeping), for one of its stages."""
        import numpy as np

        beyond = np.median(race.seconds[system], axis=0) - race.ideal(system)
        runs = [len(served.batches) for served in race.served[system]]
        assert stage < len(self.routes.stages)
        return max(0.0, float(beyond.sum() / sum(runs)))

    def _queue(self, race: Race) -> list[dict[str, Any]]:
        return [queue_row(self, i, race) for i in range(len(self.cascades))]


def queue_row(trial: Trial, i: int, race: Race) -> dict[str, Any]:
    """Requests of a few images each, all submitted at once, served by the queue, and one after another without it."""
    import time

    import numpy as np

    from cascades.live import live_cascade
    from cascades.queueing import Queue, worth_running
    from cascades.trial import line

    settings, size = trial.settings, trial.settings.queue
    n = len(trial.labels)
    plan = trial.cascades[i].plan
    parts = [({key: x[start : start + size] for key, x in trial.pixels.items()}, start) for start in range(0, n, size)]
    worth = []
    for stage in range(len(trial.networks)):
        cells = trial._cells(race, stage)
        overhead, slope = line(*zip(*cells, strict=True)) if len(cells) > 1 else (0.0, 1.0)
        worth.append(max(worth_running(overhead, slope, settings.batch), min(settings.batch, 16)))
    live = live_cascade(trial.fitted, trial.picks[i].point)
    gathered, alone, answers = [], [], []
    for _ in range(settings.rounds):
        begin = time.perf_counter()
        with Queue(trial.networks, live, trial.device, worth, settings.patience / 1e3, settings.batch) as queue:
            futures = [
                queue.submit(pixels, None if plan is None else plan[start : start + size]) for pixels, start in parts
            ]
            answers = [future.result().answer for future in futures]
        gathered.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        for pixels, start in parts:
            trial.cascades[i](pixels, start)
        alone.append(time.perf_counter() - begin)
    said = np.concatenate(answers)
    return {
        "system": trial.cascades[i].name,
        "request": size,
        "worth": dict(zip(trial.routes.stages, worth, strict=True)),
        "ms_per_image": float(np.median(gathered)) / n * 1e3,
        "ms_per_image_alone": float(np.median(alone)) / n * 1e3,
        "error": float((said != trial.labels).mean()),
    }


def about(settings: Settings, device: Any, images: int) -> dict[str, Any]:
    """The circumstances, without which no time means anything."""
    import torch

    from cascades.profiling import device_name

    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "dtype": settings.dtype,
        "compiled": settings.compile,
        "torch": torch.__version__,
        "batch": settings.batch,
        "images": images,
        "rounds": settings.rounds,
        "topology": settings.topology,
        "data": settings.data,
    }


def wilson(wrong: int, n: int) -> tuple[float, float]:
    """Interval of a share, ``wrong`` of ``n`` (Wilson, 1927).

    >>> [round(end, 3) for end in wilson(0, 10)], [round(end, 3) for end in wilson(5, 10)]
    ([0.0, 0.278], [0.237, 0.763])
    """
    from scipy.stats import binomtest

    found = binomtest(wrong, n).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def extra_error(wrong: Any, base: Any, seed: int) -> dict[str, float]:
    """Errors beyond the largest model's, with a paired bootstrap interval."""
    import numpy as np

    change = wrong.astype(float) - base.astype(float)
    values, counts = np.unique(change, return_counts=True)
    n = len(change)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, 2000) @ values / n
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"extra_error": float(change.mean()), "extra_low": float(low), "extra_high": float(high)}


# --- what is printed


def show(report: Mapping[str, Any]) -> None:
    """Print the side-by-side table and the break-even lines."""
    from rich.console import Console

    from eval.table import WIDTH, number, plain_table

    console = Console(markup=False, emoji=False, highlight=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    here, rows = report["about"], report["systems"]
    words = "compiled, " if here["compiled"] else ""
    table = plain_table(
        f"{here['images']:,} images, batches of {here['batch']}, {words}{here['dtype']}, {here['device']}, "
        f"{here['threads']} threads; {here['rounds']} rounds, alternating"
    )
    table.add_column("", no_wrap=True)
    for name in ("ms/image", "times faster", "predicted", "/ ideal", "error, %", "points over largest"):
        table.add_column(name, justify="right", no_wrap=True)
    stages = [key.removeprefix("share_") for key in rows[0] if key.startswith("share_")]
    for row in rows:
        predicted = "-" if row["predicted_speedup"] is None else f"{row['predicted_speedup']:.2f}"
        table.add_row(
            row["system"],
            number(row["ms_per_image"]),
            f"{row['speedup']:.2f} [{row['speedup_low']:.2f}, {row['speedup_high']:.2f}]",
            predicted,
            f"{row['times_ideal']:.3f}",
            f"{100 * row['error']:.2f}",
            f"{100 * row['extra_error']:+.2f} [{100 * row['extra_low']:+.2f}, {100 * row['extra_high']:+.2f}]",
        )
    console.print(table)
    if here["left_out"]:
        console.print(f"{here['left_out']:,} images were left out: the policies were fitted on them.")
    for row in rows:
        if "routed_as_stored" in row:
            shares = ", ".join(f"{100 * row[f'share_{stage}']:.0f} % at {stage}" for stage in stages)
            same = f"{row['routed_as_stored']:,} of {here['images']:,} examples"
            console.print(f"{row['system']}: exits {shares}; routed and answered as from stored outputs: {same}.")
    for line in report["break_even"]:
        share = line["pays_above"]
        pays = "can't pay" if share is None else f"pays above {100 * share:.0f} % exits"
        says = f"at batch {line['batch']} the exit at {line['stage']} {pays}; now {100 * line['stops']:.0f} %"
        console.print(f"{line['system']}: {says} (then comes {line['following']}).")
    for row in report["queue"] or ():
        console.print(
            f"{row['system']}, requests of {row['request']}: {number(row['ms_per_image'])} ms an image gathered across "
            f"requests, {number(row['ms_per_image_alone'])} one request at a time."
        )


class watching:  # noqa: N801 - used as a context manager
    """A progress bar on a terminal; nothing in a pipe."""

    def __enter__(self) -> watching:
        """Begin."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self.progress = Progress(
            *(BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}")),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.progress.start()
        self.task = self.progress.add_task("starting", total=None)
        return self

    def __call__(self, text: str, total: int | None = None) -> None:
        """Say what is being done."""
        self.progress.update(self.task, description=text, advance=1, total=total or self.progress.tasks[0].total)

    def __exit__(self, *_: object) -> None:
        """End."""
        self.progress.stop()


if __name__ == "__main__":
    sys.exit(main())
