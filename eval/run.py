"""A fitted cascade run on images, timed beside its networks alone: ``python -m eval.run --topology a_g_r``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isinf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascades.settings import guard, parse
from features.errors import InputError
from features.outputs import LEARNT

if TYPE_CHECKING:
    from cascades.costs import Costs
    from cascades.deployment import Deployment
    from cascades.folder import DataFolder
    from cascades.images import Images
    from cascades.live import LiveCascade
    from cascades.points import Fitted
    from cascades.preprocessing import Preprocessing
    from cascades.routing import Routes, Routing
    from cascades.trial import Race, System, Together
    from cascades.zoo import StageModel
    from features.outputs import Outputs

FILES = ("run.csv", "run.json")
LEVEL = 0.95
APART = 0.05
"""Logits that differ by more than this from the stored ones are no matter of rounding: the networks are others."""

WIDE = 124
"""Columns of the table in a pipe: it must not be cut."""

MARGINS = (0.0, 0.01)
"""Errors allowed over the largest model's, unless others are given: no loss, and one point."""

PICTURES = "test.npz"
"""Images that come with the package: the first test images of the embedded ``cifar10`` data, called as there."""


@dataclass(frozen=True)
class Settings:
    """The flags of the command."""

    topology: str | None = field(
        default=None, metadata={"help": "as in eval.frontier: a_g_r, or a>g,r;g>r; required without --policy"}
    )
    data: str | None = field(
        default=None,
        metadata={
            "help": "embedded data or a data folder: policies are fitted on its fit part (cifar10, or the data that "
            "the policy was fitted on)"
        },
    )
    policy: Path | None = field(
        default=None,
        metadata={
            "help": "policy file of eval.tune or eval.certify: its operating point is run, and held against what was "
            "asked for and certified"
        },
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
    classes: tuple[str, ...] = field(
        default=(), metadata={"help": "as in eval.extract, if not as it noted in the data folder"}
    )
    broken: str = field(
        default="skip",
        metadata={
            "help": "what to do about a broken image: leave it out and say so, or stop",
            "choices": ("skip", "stop"),
        },
    )
    margins: tuple[float, ...] = field(
        default=MARGINS,
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
    threads: int | None = field(
        default=None, metadata={"help": "CPU threads, if not all", "minimum": 1, "maximum": 1024}
    )
    loss: str = field(default="top1", metadata={"help": "as in eval.frontier", "choices": ("top1", "excess")})
    points: int = field(default=50, metadata={"help": "as in eval.frontier", "minimum": 1, "maximum": 1000})
    seed: int = field(default=0, metadata={"help": "seed of splits and folds", "minimum": 0, "maximum": 2**31})
    log: Path | None = field(
        default=None,
        metadata={"help": "file to write the routing of every image into, for eval.watch (.csv, .jsonl or .parquet)"},
    )
    out: Path | None = field(default=None, metadata={"help": "folder to write run.csv and run.json into"})

    @property
    def source(self) -> str:
        """The data that policies are fitted on."""
        return self.data or "cifar10"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit code."""
    return guard(lambda: run(parse(Settings, argv, "python -m eval.run", __doc__ or "")))


def run(settings: Settings) -> None:
    """Fit or read the cascades, pick, load the networks and images, time all side by side, print, write."""
    from eval.files import csv_bytes, json_bytes, writable

    deployment = None if settings.policy is None else read_policy(settings)
    if deployment is not None:
        settings = following(settings, deployment)
    elif not settings.topology:
        raise InputError("a topology (a_g_r), or a policy file (--policy)", "neither", "--topology")
    if settings.log is not None:
        refuse_log(settings)
    folder = None if settings.out is None else writable(settings.out, "--out", FILES)
    data, routes = read_data(settings, deployment)
    with watching() as step:
        import torch

        from cascades.probing import pick_device

        device = pick_device(settings.device)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        step("loading the networks")
        models = load_models(settings, data, routes)
        if deployment is not None:
            refuse_other_networks(deployment, models, settings.source, str(settings.policy))
        step("reading the images")
        whole = open_whole(settings, models)
        images = open_labelled(settings, whole)
        step("fitting the cascades" if deployment is None else "reading the policy")
        fitted, picks = pick_cascades(settings, data, routes) if deployment is None else point_of(deployment)
        refuse_unlike(fitted, models, settings.source)
        step("decoding the images")
        unseen = unseen_rows(images, whole, data, home(settings.source))
        trial = Trial(settings, data, routes, fitted, picks, models, images, unseen, device)
        report = trial.report(step)
    if deployment is not None:
        report["policy"] = held_against(deployment, report)
        for line in warnings_of(deployment, settings, data, report["about"]["device"]):
            sys.stderr.write(f"warning: {line}\n")
    show(report)
    if folder is not None:
        import pandas as pd

        rows = pd.DataFrame([{**report["about"], **row} for row in report["systems"]])
        for path in folder.write_all({"run.csv": csv_bytes(rows), "run.json": json_bytes(report)}):
            sys.stdout.write(f"  {path}\n")
    if settings.log is not None:
        sys.stdout.write(f"  {settings.log}\n")


# --- a policy file


def read_policy(settings: Settings) -> Deployment:
    """The deployment that --policy names, a file or the folder of one."""
    from cascades.deployment import read_deployment

    assert settings.policy is not None
    inside = settings.policy / "policy.json"
    return read_deployment(inside if inside.is_file() else settings.policy)


def following(settings: Settings, deployment: Deployment) -> Settings:
    """The settings with what the policy file decides. Raises InputError for flags that would decide it otherwise."""
    margins = None if settings.margins == MARGINS else settings.margins
    taken = {"--topology": settings.topology, "--policies": settings.policies, "--margins": margins}
    for flag, value in taken.items():
        if value is not None:
            raise InputError("no such flag beside --policy, which has its own operating point", str(value), flag)
    return replace(settings, topology=deployment.topology, data=settings.data or deployment.data, seed=deployment.seed)


def read_data(settings: Settings, deployment: Deployment | None) -> tuple[DataFolder, Routes]:
    """The data folder and the routes; with a policy file its routes and costs, and the parts split as they were then.

    Raises InputError for a folder without the policy's stages, and, unless --data named it, for one in which other
    examples were fitted on.
    """
    from cascades.folder import DataFolder, keep_back, read_folder
    from cascades.topology import parse_topology, unroll

    data = read_folder(settings.source, settings.seed)
    if deployment is None:
        return data, unroll(parse_topology(settings.topology or "", tuple(data.costs.stages)), data.costs)
    routes, where = deployment.fitted.sweep.routes, f"--data {settings.source}"
    if missing := [stage for stage in routes.stages if stage not in data.costs.stages]:
        raise InputError(f"the policy's stages {', '.join(routes.stages)}", f"no {missing[0]}", where)
    if data.parts["test"].classes != deployment.classes:
        raise InputError(f"the policy's {deployment.classes} classes", str(data.parts["test"].classes), where)
    if deployment.kept:
        data = keep_back(data, deployment.kept, deployment.seed)
    if not fitted_on(deployment, data) and settings.source == deployment.data:
        raise InputError("the examples that the policy was fitted on (or other data, by --data)", "others", where)
    return DataFolder(data.name, data.parts, deployment.costs), routes


def fitted_on(deployment: Deployment, data: DataFolder) -> bool:
    """Whether the policy was fitted on this folder's parts."""
    from cascades.points import digest_of

    own = [outputs for name, outputs in data.parts.items() if name in LEARNT]
    return deployment.fitted.examples == digest_of(own)


def networks_noted(data: str, costs: Costs) -> dict[str, Any]:
    """Per network of ``costs`` its spec, the digest of its weights and its preprocessing, as ``eval.extract`` noted
    them in the data folder; empty if it did not make the folder."""
    for report in reports(home(data)):
        specs, found = report.get("networks"), {}
        try:
            for stage in report["manifest"]["stages"]:
                if stage["name"] in costs.stages:
                    name = costs.stages[stage["name"]].network
                    spec = specs.get(name, "") if isinstance(specs, dict) else ""
                    kept = {"weights": str(stage["weights"]), "preprocessing": str(stage["preprocessing"])}
                    found[name] = {"spec": str(spec), **kept}
        except (KeyError, TypeError) as error:
            said = f"{type(error).__name__} {error}"
            raise InputError("stages in what eval.extract writes", said, data) from error
        return found
    return {}


def refuse_other_networks(deployment: Deployment, models: Sequence[StageModel], data: str, where: str) -> None:
    """Raises InputError where a network's weights or preprocessing are not those that the policy was made for.

    What the policy file says counts; where it says nothing, what ``eval.extract`` noted in the data folder.
    """
    known = {name: each for name, each in deployment.networks.items() if isinstance(each, dict)}
    known = known or networks_noted(data, deployment.costs)
    for model in models:
        name = deployment.costs.stages[model.name].network
        own = {"weights": model.weights_digest, "preprocessing": repr(model.preprocessing)}
        for what, value in own.items():
            told = known.get(name, {}).get(what)
            if told is not None and told != value:
                shown = (str(told)[:200], value[:200]) if what == "preprocessing" else (str(told)[:12], value[:12])
                raise InputError(f"network {name} with the policy's {what} {shown[0]}", shown[1], where)


def point_of(deployment: Deployment) -> tuple[Fitted, list[Pick]]:
    """The deployment's cascades and its one pick."""
    point, expected = deployment.point, deployment.expected
    sweep = deployment.fitted.sweep
    if sweep.loss not in ("top1", "excess"):
        raise InputError("a policy fitted for top1 or excess loss", sweep.loss, "--policy")
    cost, error = float(expected.cost[point]), float(expected.error[point])
    return deployment.fitted, [Pick(point, error - expected.reference, cost, error, "policy")]


def warnings_of(deployment: Deployment, settings: Settings, data: DataFolder, device: str) -> list[str]:
    """What makes the figures of the policy file mean less here."""
    from cascades.targets import unit_of

    found = []
    unit, made = unit_of(deployment.costs.unit), deployment.costs.device
    if unit is not None and unit.kind == "time" and made and made != device:
        found.append(f"the policy's costs were measured on {made}, this is {device}: profile and certify it here")
    if not fitted_on(deployment, data):
        found.append(f"the policy was not fitted on {settings.source}: it may have been fitted on some of these images")
    return found


def held_against(deployment: Deployment, report: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked of the policy and certified, beside what was measured: JSON's own types.

    Each of the ``promises`` has a bound, what was measured and its interval, and a verdict: "kept"; "within chance"
    where the interval reaches the bound; else "broken".
    """
    from cascades.deployment import in_words
    from cascades.targets import parse_budget, unit_of

    row = next(row for row in report["systems"] if row["system"] == "policy")
    target, certificate, unit = deployment.target, deployment.certificate, deployment.costs.unit
    found: list[dict[str, Any]] = []

    def hold(by: str, what: str, bound: float, value: float, low: float, high: float) -> None:
        verdict = "kept" if value <= bound else "within chance" if low <= bound else "broken"
        found.append({"by": by, "what": what, "bound": bound, "measured": value, "low": low, "high": high})
        found[-1]["verdict"] = verdict

    cost = (row["predicted_cost"], row["cost_low"], row["cost_high"])
    error = (row["error"], row["error_low"], row["error_high"])
    extra = (row["extra_error"], row["extra_low"], row["extra_high"])
    if target.budget is not None:
        hold("asked", f"mean cost, {unit}, by the policy's costs", target.budget, *cost)
        known = unit_of(unit)
        if known is not None and known.kind == "time" and known.times == 1:
            timed = (row["ms_per_image"], row["ms_low_quartile"], row["ms_high_quartile"])
            spent = [parse_budget(f"{ms!r} ms", unit) for ms in timed]
            hold("asked", f"time, {unit}, as measured here", target.budget, *spent)
    if target.error_increase is not None:
        hold("asked", "errors over the largest stage's", target.error_increase, *extra)
    if target.accuracy is not None:
        hold("asked", "errors", 1 - target.accuracy, *error)
    for stage, share in target.shares.items():
        exits = round(row[f"share_{stage}"] * report["about"]["images"])
        hold(
            "asked",
            f"share exiting at {stage}",
            share,
            row[f"share_{stage}"],
            *wilson(exits, report["about"]["images"]),
        )
    if certificate is not None:
        for bound in certificate.bounds:
            if bound.risk == "increase":
                hold("certified", "errors over the largest stage's", bound.most, *extra)
            else:
                hold("certified", "errors", bound.most, *error)
        hold("certified", f"mean cost, {unit}, by the policy's costs", certificate.cost_bound, *cost)
    return {
        "target": in_words(target, unit, deployment.fitted.sweep.loss),
        "delta": None if certificate is None else certificate.delta,
        "promises": found,
    }


def refuse_log(settings: Settings) -> None:
    """Raises InputError where the log of a run can't be written, or it would be of several cascades."""
    from eval.files import writable
    from eval.routinglog import FORMS

    assert settings.log is not None
    if settings.log.suffix.lower() not in FORMS:
        raise InputError(f"a name that ends in {', '.join(FORMS)}", settings.log.name, "--log")
    if settings.policy is None and len(settings.margins) > 1:
        raise InputError("one cascade to log (--policy, or one of --margins)", f"{len(settings.margins)}", "--log")
    writable(settings.log.parent, "--log", (settings.log.name,))


# --- what is run


def load_models(settings: Settings, data: DataFolder, routes: Routes) -> tuple[StageModel, ...]:
    """The networks of the routes' stages, in order; exits of one network share it."""
    from cascades.zoo import load_cascade

    wanted = list(dict.fromkeys(data.costs.stages[stage].network for stage in routes.stages))
    specs = {spec.partition("=")[0]: spec for spec in settings.models}
    if not specs:
        specs = {name: f"{name}={spec}" for name, spec in noted(settings.source, "networks", {}).items()}
    if missing := [name for name in wanted if name not in specs]:
        found = ", ".join(specs) or "none"
        raise InputError(
            f"a network for each of {', '.join(missing)}: --models {missing[0]}=NETWORK", found, "--models"
        )
    there = {model.name: model for model in load_cascade([specs[name] for name in wanted], settings.weights)}
    if missing := [stage for stage in routes.stages if stage not in there]:
        raise InputError(f"networks with the stages {', '.join(routes.stages)}", ", ".join(there), "--models")
    return tuple(there[stage] for stage in routes.stages)


def home(data: str) -> Path:
    """Where the data folder of that name lies."""
    from cascades.folder import EMBEDDED, embedded_names

    return EMBEDDED / data if data in embedded_names() else Path(data)


def noted(data: str, what: str, otherwise: Any) -> Any:
    """What ``eval.extract`` noted in the data folder under ``what``; ``otherwise`` if it did not make the folder."""
    for report in reports(home(data)):
        return report.get(what, otherwise)
    return otherwise


def reports(folder: Path) -> Iterator[dict[str, Any]]:
    """What ``eval.extract`` wrote about each part. Raises InputError for anything else under that name."""
    for path in sorted(folder.glob("*extracted.json")):
        try:
            report = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise InputError("what eval.extract writes", str(error), str(path)) from error
        if not isinstance(report, dict):
            raise InputError("what eval.extract writes", type(report).__name__, str(path))
        yield report


def open_whole(settings: Settings, models: Sequence[StageModel]) -> Images:
    """All images of the source, labels numbered as the models' classes."""
    from cascades.extraction import renamed
    from cascades.images import open_images

    where = settings.images
    if where is None:
        where = home(settings.source) / PICTURES
        if not where.exists():
            raise InputError("images to run on", "none", "--images")
    images = open_images(where)
    called = settings.classes or tuple(noted(settings.source, "called", ()))
    if called and settings.images is not None:
        images = renamed(images, called)
    return images.numbered_as(models[0].classes)


def open_labelled(settings: Settings, whole: Images) -> Images:
    """The rows of the images that were asked for."""
    from cascades.images import rows_of

    images = whole.take(rows_of(settings.rows, len(whole)))
    if not len(images):
        raise InputError("at least one image", "none", f"--rows {settings.rows}")
    return images


@dataclass(frozen=True)
class Unseen:
    """Rows of the images that no rule was fitted or picked on, whether the data folder knows any of the images, and
    what it calls each image if so."""

    rows: list[int]
    known: bool
    names: list[str]


def unseen_rows(images: Images, whole: Images, data: DataFolder, folder: Path) -> Unseen:
    """See ``Unseen``. Raises InputError if none is unseen.

    Images are known by their source's name and their own, or, where the source is another name for what the data
    folder was made from (its fingerprint tells), by their own.
    """
    seen = {str(one) for name, part in data.parts.items() if name in LEARNT for one in part.ids.tolist()}
    every = seen | {str(one) for one in data.parts["test"].ids.tolist()}
    names = images.names.tolist()
    if not every.intersection(names) and _is_source(whole, folder):
        called = next(iter(every)).partition("/")[0]
        names = [f"{called}/{one}" for one in images.ids.tolist()]
    unseen = [i for i, name in enumerate(names) if name not in seen]
    if not unseen:
        raise InputError("images that the policies were not fitted on", "none", f"--images {images.name}")
    return Unseen(unseen, bool(every.intersection(names)), names)


def stored_rows(names: Sequence[str], data: DataFolder) -> list[int] | None:
    """Where the images stand in the test part; None unless all do."""
    place = {str(one): row for row, one in enumerate(data.parts["test"].ids.tolist())}
    rows = [place.get(name, -1) for name in names]
    return rows if min(rows) >= 0 else None


def _is_source(whole: Images, folder: Path) -> bool:
    """Whether some part of the data folder was extracted from these images, whatever they were called then."""
    from cascades.images import rows_of

    for report in reports(folder):
        manifest: Any = report.get("manifest")
        try:
            rows = rows_of(str(manifest["rows"]), len(whole))
            if whole.take(rows).fingerprint == manifest["images"]:
                return True
        except (InputError, KeyError, TypeError):
            continue
    return False


def decoded(images: Images, rows: Sequence[int], ways: Sequence[Preprocessing], skip: bool) -> tuple[Any, list[int]]:
    """Crops (m, h, w, channels) uint8 for each way of cropping, and the rows that could be decoded.

    Raises InputError for a broken image unless it is to be skipped, and if none is whole.
    """
    import numpy as np
    import torch

    from cascades.images import BrokenImage

    crops: list[list[Any]] = [[] for _ in ways]
    whole = []
    for row in rows:
        try:
            image = images.image(row)
            made = [way.cropped(image) for way in ways]
        except BrokenImage:
            if not skip:
                raise
            continue
        whole.append(row)
        for some, crop in zip(crops, made, strict=True):
            some.append(crop)
    if not whole:
        raise InputError("an image that is whole", "broken ones only", f"--images {images.name}")
    pixels = {way.pixels_key: torch.from_numpy(np.stack(some)) for way, some in zip(ways, crops, strict=True)}
    return pixels, whole


def live_of(fitted: Fitted, point: int, on_device: bool, settings: Settings) -> LiveCascade:
    """The cascade of a point. Raises InputError if what was read holds numbers that don't fit together."""
    from cascades.live import live_cascade

    try:
        return live_cascade(fitted, point, on_device)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("policies as eval.frontier writes them", str(error), str(settings.policies)) from error


@dataclass(frozen=True)
class Pick:
    """A point of the frontier: its number, the error allowed over the largest model's, and what the part that it was
    picked on promised, cost and error."""

    point: int
    margin: float
    cost: float
    error: float
    called: str = ""

    @property
    def name(self) -> str:
        """How it is called in the table."""
        return self.called or f"cascade +{100 * self.margin:g}"


def pick_cascades(settings: Settings, data: DataFolder, routes: Routes) -> tuple[Fitted, list[Pick]]:
    """The fitted cascades; for each margin the cheapest whose held-out error is within it of the largest model's."""
    import numpy as np

    from cascades.deployment import largest
    from cascades.points import cheapest_within, fit_points, read_policies
    from eval.frontier import Settings as Frontier
    from eval.frontier import fit_settings

    dearest = largest(routes)
    if settings.policies is None:
        topology = settings.topology or ""
        how = fit_settings(Frontier(topology=topology, loss=settings.loss, pooled=False, seed=settings.seed))
        parts = {name: outputs.of(routes.stages) for name, outputs in data.parts.items()}
        fitted, picking = fit_points(parts["fit"], parts.get("tune"), routes, settings.points, how)
        cost = np.array([routing.mean_cost for routing in picking.routings])
        error = np.array([routing.error for routing in picking.routings])
        reference = float(picking.there.wrong[:, dearest].mean())
    else:
        fitted = read_policies(settings.policies / "policies.json")
        refuse_others(fitted, settings, data, routes)
        cost, error, reference = picked_on(
            settings.policies / "frontier.csv", len(fitted.names), routes.stages[dearest]
        )
    found = []
    for margin in settings.margins:
        point = cheapest_within(cost, error, reference + margin)
        found.append(Pick(point, margin, float(cost[point]), float(error[point])))
    return fitted, found


def refuse_others(fitted: Fitted, settings: Settings, data: DataFolder, routes: Routes) -> None:
    """Raises InputError for policies that were not fitted on this data folder's stages, topology, split and loss."""
    from cascades.points import digest_of

    where, sweep = str(settings.policies), fitted.sweep
    if sweep.routes.stages != routes.stages or sweep.routes.paths != routes.paths:
        raise InputError(f"cascades of {settings.topology}", "of another topology", where)
    own = [outputs for name, outputs in data.parts.items() if name in LEARNT]
    if fitted.examples != digest_of(own):
        expected = f"policies fitted on {settings.source}, split by --seed {settings.seed}"
        raise InputError(expected, "policies fitted on other examples", where)
    if sweep.loss not in ("top1", "excess"):
        raise InputError("policies fitted for top1 or excess loss", sweep.loss, where)


def refuse_unlike(fitted: Fitted, models: Sequence[StageModel], data: str) -> None:
    """Raises InputError where the networks' answers are of another kind than those that the policies know."""
    import numpy as np

    reader, classes = fitted.sweep.reader, len(models[0].classes)
    if np.isnan(reader.temperature).any():
        raise InputError("policies fitted on logits, which networks give", "some fitted on answers alone", data)
    if reader.classes != classes:
        raise InputError(f"outputs over the networks' {classes} classes", f"over {reader.classes}", data)


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
        unseen: Unseen,
        device: Any,
    ) -> None:
        import numpy as np

        from cascades.extraction import ways_of
        from cascades.routing import coins
        from cascades.runtime import Runtime, networks
        from cascades.trial import Alone, Together

        self.settings, self.data, self.routes, self.fitted, self.picks = settings, data, routes, fitted, picks
        self.models, self.device = models, device
        self.pixels, rows = decoded(images, unseen.rows, ways_of(models), settings.broken == "skip")
        self.labels = images.labels[rows]
        self.left_out, self.broken = len(images) - len(unseen.rows), len(unseen.rows) - len(rows)
        self.known = unseen.known
        self.names = [unseen.names[row] for row in rows]
        self.stored = stored_rows(self.names, data)
        self.gates = bool(fitted.sweep.reader.settings.measured)
        self.networks = networks(models, device, settings.dtype, settings.compile, self.gates)
        self.alone = [Alone(net.name, s, net, device) for s, net in enumerate(self.networks)]
        self.cascades: list[Together] = []
        named = len(set(self.names)) == len(self.names)
        self.ids = np.array(self.names if named else range(len(self.names)))
        for pick in picks:
            live = live_of(fitted, pick.point, device.type != "cpu", settings)
            plan = live.drawn(coins(self.ids, fitted.coin))  # the coins of the stored outputs' routing
            self.cascades.append(Together(pick.name, Runtime(self.networks, live, device), plan))

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
        apart = self._apart(outputs)
        routings = self.fitted.route(outputs)
        rows = [self._row(i, found, routings) for i in range(len(systems))]
        if settings.log is not None:
            self._log(settings.log, found, outputs)
        return {
            "about": {
                **about(settings, self.device, len(self.labels)),
                "left_out": self.left_out,
                "broken": self.broken,
                "known": self.known,
                "logits_apart": apart,
            },
            "systems": rows,
            "break_even": [line for i in range(len(self.cascades)) for line in self._break_even(i, found)],
            "queue": self._queue(found) if settings.queue else None,
        }

    def _outputs(self) -> Outputs:
        """Logits of all stages on all images, as eval.extract would store them."""
        import numpy as np
        import torch

        from cascades.live import parted
        from cascades.runtime import Batch
        from features.outputs import Outputs, Stage

        stages = []
        with torch.inference_mode():
            for network in self.networks:
                parts = []
                for start in range(0, len(self.labels), self.settings.batch):
                    part = {key: x[start : start + self.settings.batch] for key, x in self.pixels.items()}
                    inputs = Batch(part, self.device).inputs(network, None)
                    parts.append(network.said(inputs).cpu().numpy())
                logits = np.concatenate(parts)
                if not np.isfinite(logits).all():
                    raise InputError("finite logits", "NaN or infinity", f"network {network.name}")
                z, gate = parted(logits, len(self.models[0].classes))
                stages.append(Stage(network.name, logits=z, measured={} if gate is None else {"gate": gate}))
        return Outputs(tuple(stages), self.labels.astype(np.int64), self.ids, "test", len(self.models[0].classes))

    def _log(self, path: Path, race: Race, outputs: Outputs) -> None:
        """The routing of the last system, as it was served, in the form that eval.watch reads."""
        import numpy as np

        from cascades.chains import chain_name
        from cascades.routing import Routing
        from eval.reference import confidences
        from eval.routinglog import write_log

        served, dearest = race.served[-1], outputs.stages[self._largest()].logits
        assert dearest is not None
        way, answer = (np.concatenate([getattr(one, name) for one in served]) for name in ("path", "answer"))
        routing = Routing(self.routes, way, answer, answer != self.labels, outputs.part)
        names = [chain_name(self.routes, each) for each in self.routes.paths]
        sure, taken = confidences(routing, outputs), [names[q] for q in way]
        write_log(path, taken, sure, answer, self.labels, outputs.ids, dearest.argmax(axis=1))

    def _apart(self, outputs: Outputs) -> float | None:
        """The largest difference between a logit here and the one stored in the data folder; None if none is there."""
        import numpy as np

        if self.stored is None:
            return None
        there = self.data.parts["test"].of(self.routes.stages).take(np.array(self.stored))
        pairs = zip(outputs.stages, there.stages, strict=True)
        return max(float(np.abs(ours.logits - theirs.logits).max()) for ours, theirs in pairs)  # type: ignore[operator]

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
            **dict(zip(("cost_low", "cost_high"), self._cost_interval(i, race), strict=True)),
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

    def _cost_interval(self, i: int, race: Race) -> tuple[float, float]:
        """Where the mean cost lies by the normal approximation, as far as these examples tell; a stage's is fixed."""
        import numpy as np
        from scipy.stats import norm

        if i < len(self.routes.stages):
            cost = self.data.costs.step((), self.routes.stages[i])
            return cost, cost
        cost = self.routes.cost[np.concatenate([served.path for served in race.served[i]])]
        width = float(norm.ppf((1 + LEVEL) / 2) * cost.std() / np.sqrt(len(cost)))
        return float(cost.mean()) - width, float(cost.mean()) + width

    def _break_even(self, i: int, race: Race) -> list[dict[str, Any]]:
        """For each stage of a cascade that examples left and others went on from: what must stop there to pay.

        Who stops saves what those who go on take from there to their end, on average.
        """
        import numpy as np

        from cascades.trial import break_even

        system = i + len(self.alone)
        path = np.concatenate([served.path for served in race.served[system]])
        ways = [self.routes.paths[q] for q in path]
        seconds = np.sum([race.spent(served) for served in race.served[system]], axis=0)
        through = np.array([sum(stage in way for way in ways) for stage in range(len(seconds))])
        each = seconds / np.maximum(through, 1)
        found = []
        for stage, name in enumerate(self.routes.stages):
            onward = [way[way.index(stage) + 1 :] for way in ways if stage in way and way[-1] != stage]
            if not onward or len(onward) == through[stage]:
                continue
            saved = sum(each[s] for rest in onward for s in rest) / len(onward)
            sizes = [size for served in race.served[system] for s, size in served.batches if s == stage]
            batch = int(np.median(sizes))
            spent = race.cells[stage, min(sizes, key=lambda size: abs(size - batch))] + self._policy_seconds(
                system, race
            )
            following = [rest[0] for rest in onward]
            found.append(
                {
                    "system": self.cascades[i].name,
                    "stage": name,
                    "batch": batch,
                    "pays_above": None if isinf(share := break_even(spent, saved, batch)) else share,
                    "stops": 1 - len(onward) / int(through[stage]),
                    "following": self.routes.stages[max(set(following), key=following.count)],
                }
            )
        return found

    @staticmethod
    def _policy_seconds(system: int, race: Race) -> float:
        """What a batch takes beyond its stages (policy, gathering, bookkeeping), for one of its stages."""
        import numpy as np

        beyond = np.median(race.seconds[system], axis=0) - race.ideal(system)
        runs = [len(served.batches) for served in race.served[system]]
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
        cells = race.times(stage)
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
        "data": settings.source,
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

    from eval.table import number, plain_table

    console = Console(markup=False, emoji=False, highlight=False)
    console.width = min(console.width, WIDE) if console.is_terminal else WIDE
    here, rows = report["about"], report["systems"]
    words = "compiled, " if here["compiled"] else ""
    table = plain_table(
        f"{here['images']:,} images, batches of {here['batch']}, {words}{here['dtype']}, {here['device']}, "
        f"{here['threads']} threads; {here['rounds']} rounds, alternating"
    )
    table.add_column("", overflow="fold")
    for name in ("ms/image", "times faster", "predicted", "/ ideal", "error, %", "points over largest"):
        table.add_column(name, justify="right", overflow="fold")
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
    if here["broken"]:
        console.print(f"{here['broken']:,} images were left out: they are broken.")
    apart = here["logits_apart"]
    if apart is not None and apart > APART:
        console.print(
            f"The networks answer otherwise than in the data folder (logits differ by up to {number(apart)}): are they "
            "those that it was made with?"
        )
    if not here["known"]:
        console.print(
            "The data folder knows none of these images: if they stand in it under other names, the errors are too low."
        )
    for row in rows:
        if "routed_as_stored" in row:
            shares = ", ".join(f"{100 * row[f'share_{stage}']:.0f} % at {stage}" for stage in stages)
            same = f"{row['routed_as_stored']:,} of {here['images']:,} examples"
            console.print(
                f"{row['system']}: exits {shares}; routed and answered as from outputs in whole batches: {same}."
            )
    for line in promised(report.get("policy")):
        console.print(line)
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


def promised(policy: Mapping[str, Any] | None) -> Iterator[str]:
    """What was asked for and certified, and what was measured, a line each."""
    from eval.table import number

    if policy is None:
        return
    yield f"The policy was to be {policy['target']}."
    for line in policy["promises"]:
        by = "certified" if line["by"] == "certified" else "asked for"
        scale, of = (100, " %") if line["what"].startswith(("errors", "share")) else (1, "")
        if line["what"].startswith("errors over"):
            of = " points"
        bound, value, low, high = (number(scale * line[key]) for key in ("bound", "measured", "low", "high"))
        yield f"  {line['what']}: {by} at most {bound}{of}, measured {value} [{low}, {high}]: {line['verdict']}."
    if policy["delta"] is None:
        yield "  Nothing is certified: python -m eval.certify does."
    else:
        chance = 1 - policy["delta"]
        yield f"  What is certified holds with probability {chance:.6g}, for images like those it was certified on."


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
