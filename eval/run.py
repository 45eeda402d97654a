"""A fitted cascade run on images, timed beside its networks alone: ``python -m eval.run --topology a_g_r``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offramp.cascades.command.settings import guard, parse
from offramp.features.errors import InputError
from offramp.features.outputs import LEARNT
from offramp.features.store.limits import NOTE_BYTES, SHOWN
from offramp.features.store.opening import read_bytes

if TYPE_CHECKING:
    from offramp.cascades.files.datafolder import DataFolder
    from offramp.cascades.files.policy import Deployment
    from offramp.cascades.graph.routing import Routes
    from offramp.cascades.images.images import Images
    from offramp.cascades.learning.points import Fitted
    from offramp.cascades.models.zoo import StageModel
from offramp.cascades.command.progress import steps
from offramp.cascades.files.provenance import PICTURES, fitted_on, home, noted, refuse_other_networks, unseen_rows
from offramp.eval.measured.flags import MARGINS, Settings
from offramp.eval.measured.promises import held_against, promised, warnings_of
from offramp.eval.measured.trial import Pick, Trial

FILES = ("run.csv", "run.json")
READ = ("frontier.csv", "policies.json")
APART = 0.05
"""Logits that differ by more than this from the stored ones are no matter of rounding: the networks are others."""

WIDE = 124
"""Columns of the table in a pipe: it must not be cut."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit code."""
    return guard(lambda: run(parse(Settings, argv, "python -m eval.run", __doc__ or "")))


def run(settings: Settings) -> None:
    """Fit or read the cascades, pick, load the networks and images, time all side by side, print, write."""
    from offramp.eval.report.files import csv_bytes, json_bytes, writable

    deployment = None if settings.policy is None else read_policy(settings)
    if deployment is not None:
        settings = following(settings, deployment)
    elif not settings.topology:
        raise InputError("a topology (a_g_r), or a policy file (--policy)", "neither", "--topology")
    if settings.log is not None:
        refuse_log(settings)
    refuse_overwritten(settings)
    folder = None if settings.out is None else writable(settings.out, "--out", FILES)
    data, routes = read_data(settings, deployment)
    with steps() as step:
        import torch

        from offramp.cascades.models.probing import pick_device

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
        contents = {"run.csv": csv_bytes(rows), "run.json": json_bytes(report)}
        for path in folder.write_all(contents, tie="run.json"):
            sys.stdout.write(f"  {path}\n")
    if settings.log is not None:
        sys.stdout.write(f"  {settings.log}\n")


# --- a policy file


def read_policy(settings: Settings) -> Deployment:
    """The deployment that --policy names, a file or the folder of one."""
    from offramp.cascades.files.policy import read_deployment

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
    from offramp.cascades.files.datafolder import DataFolder, keep_back, read_folder
    from offramp.cascades.graph.topology import parse_topology, unroll

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


def point_of(deployment: Deployment) -> tuple[Fitted, list[Pick]]:
    """The deployment's cascades and its one pick."""
    point, expected = deployment.point, deployment.expected
    sweep = deployment.fitted.sweep
    if sweep.loss not in ("top1", "excess"):
        raise InputError("a policy fitted for top1 or excess loss", sweep.loss, "--policy")
    cost, error = float(expected.cost[point]), float(expected.error[point])
    return deployment.fitted, [Pick(point, error - expected.reference, cost, error, "policy")]


def refuse_log(settings: Settings) -> None:
    """Raises InputError where the log of a run can't be written, or it would be of several cascades."""
    from offramp.eval.monitoring.routinglog import FORMS
    from offramp.eval.report.files import writable

    assert settings.log is not None
    if settings.log.suffix.lower() not in FORMS:
        raise InputError(f"a name that ends in {', '.join(FORMS)}", settings.log.name, "--log")
    if settings.policy is None and len(settings.margins) > 1:
        raise InputError("one cascade to log (--policy, or one of --margins)", f"{len(settings.margins)}", "--log")
    writable(settings.log.parent, "--log", (settings.log.name,))


def refuse_overwritten(settings: Settings) -> None:
    """Raises InputError where a file that is to be written is one that is read."""
    from offramp.features.store.atomic import files_of, refuse_overwriting

    outputs = [("--out", settings.out / name) for name in FILES] if settings.out is not None else []
    inputs = [("--data", settings.data), ("--images", settings.images), ("--weights", settings.weights)]
    if settings.policy is not None:
        inputs += [("--policy", settings.policy), ("--policy", settings.policy / "policy.json")]
    if settings.policies is not None:
        inputs += [("--policies", settings.policies / name) for name in (*READ, "summary.json")]
    refuse_overwriting([*outputs, ("--log", settings.log)], [*inputs, *files_of(settings.models)])


# --- what is run


def load_models(settings: Settings, data: DataFolder, routes: Routes) -> tuple[StageModel, ...]:
    """The networks of the routes' stages, in order; exits of one network share it."""
    from offramp.cascades.models.zoo import load_cascade

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


def open_whole(settings: Settings, models: Sequence[StageModel]) -> Images:
    """All images of the source, labels numbered as the models' classes."""
    from offramp.cascades.images.sources import open_images
    from offramp.cascades.measuring.extraction import renamed

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
    from offramp.cascades.images.sources import rows_of

    images = whole.take(rows_of(settings.rows, len(whole)))
    if not len(images):
        raise InputError("at least one image", "none", f"--rows {settings.rows}")
    return images


def pick_cascades(settings: Settings, data: DataFolder, routes: Routes) -> tuple[Fitted, list[Pick]]:
    """The fitted cascades; for each margin the cheapest whose held-out error is within it of the largest model's."""
    import numpy as np

    from offramp.cascades.files.policies import read_policies
    from offramp.cascades.graph.routing import largest
    from offramp.cascades.learning.points import cheapest_within, fit_points
    from offramp.cascades.learning.recipe import Recipe

    dearest = largest(routes)
    if settings.policies is None:
        topology = settings.topology or ""
        how = Recipe(topology, loss=settings.loss, pooled=False, seed=settings.seed).fit_settings
        parts = {name: outputs.of(routes.stages) for name, outputs in data.parts.items()}
        fitted, picking = fit_points(parts["fit"], parts.get("tune"), routes, settings.points, how)
        cost = np.array([routing.mean_cost for routing in picking.routings])
        error = np.array([routing.error for routing in picking.routings])
        reference = float(picking.there.wrong[:, dearest].mean())
    else:
        from offramp.eval.report.files import refuse_mixed

        table, policies = (settings.policies / name for name in READ)
        whole = refuse_mixed(settings.policies, READ)
        fitted = read_policies(policies)
        refuse_others(fitted, settings, data, routes)
        cost, error, reference = picked_on(table, len(fitted.names), routes.stages[dearest])
        if refuse_mixed(settings.policies, READ) != whole:
            raise InputError("files that nobody writes while they are read", "new ones", str(settings.policies))
    found = []
    for margin in settings.margins:
        point = cheapest_within(cost, error, reference + margin)
        found.append(Pick(point, margin, float(cost[point]), float(error[point])))
    return fitted, found


def refuse_others(fitted: Fitted, settings: Settings, data: DataFolder, routes: Routes) -> None:
    """Raises InputError for policies that were not fitted on this data folder's stages, topology, split and loss."""
    from offramp.cascades.learning.points import digest_of

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
    import numpy as np
    import pandas as pd

    written = "the frontier.csv that stands beside policies.json"
    try:
        frame = pd.read_csv(BytesIO(read_bytes(path, written, NOTE_BYTES)))
        policy = frame[frame["router"] == "policy"].head(points)
        single = frame[(frame["router"] == "single") & (frame["family"] == largest)]
        if len(policy) != points or not len(single):
            raise InputError(f"{points} policies and {largest} alone", f"{len(policy)} and {len(single)}", str(path))
        cost, error = (pd.to_numeric(policy[name]).to_numpy(np.float64) for name in ("cost", "error"))
        reference = float(single["error"].iloc[0])
        if not np.isfinite([*cost, *error, reference]).all():
            raise InputError("finite costs and errors", "others", str(path))
        return cost, error, reference
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(written, str(error)[:SHOWN], str(path)) from error


# --- the trial


# --- what is printed


def show(report: Mapping[str, Any]) -> None:
    """Print the side-by-side table and the break-even lines."""
    from rich.text import Text

    from offramp.cascades.command import console
    from offramp.eval.report.table import number, plain_table

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
    lines: list[str] = []
    if here["left_out"]:
        lines.append(f"{here['left_out']:,} images were left out: the policies were fitted on them.")
    if here["broken"]:
        lines.append(f"{here['broken']:,} images were left out: they are broken.")
    apart = here["logits_apart"]
    if apart is not None and apart > APART:
        lines.append(
            f"The networks answer otherwise than in the data folder (logits differ by up to {number(apart)}): are they "
            "those that it was made with?"
        )
    if not here["known"]:
        lines.append(
            "The data folder knows none of these images: if they stand in it under other names, the errors are too low."
        )
    for row in rows:
        if "routed_as_stored" in row:
            shares = ", ".join(f"{100 * row[f'share_{stage}']:.0f} % at {stage}" for stage in stages)
            same = f"{row['routed_as_stored']:,} of {here['images']:,} examples"
            lines.append(
                f"{row['system']}: exits {shares}; routed and answered as from outputs in whole batches: {same}."
            )
    lines += promised(report.get("policy"))
    for line in report["break_even"]:
        share = line["pays_above"]
        pays = "can't pay" if share is None else f"pays above {100 * share:.0f} % exits"
        says = f"at batch {line['batch']} the exit at {line['stage']} {pays}; now {100 * line['stops']:.0f} %"
        lines.append(f"{line['system']}: {says} (then comes {line['following']}).")
    for row in report["queue"] or ():
        lines.append(
            f"{row['system']}, requests of {row['request']}: {number(row['ms_per_image'])} ms an image gathered across "
            f"requests, {number(row['ms_per_image_alone'])} one request at a time."
        )
    console.show([table, *map(Text, lines)], width=WIDE)


if __name__ == "__main__":
    sys.exit(main())
