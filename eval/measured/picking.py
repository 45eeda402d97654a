"""Flags, a policy file and a data folder turned into fitted cascades and the points of them to run."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offramp.cascades.files.provenance import fitted_on
from offramp.eval.measured.flags import MARGINS, Settings
from offramp.eval.measured.trial import Pick
from offramp.features.errors import InputError
from offramp.features.outputs import LEARNT
from offramp.features.store.limits import NOTE_BYTES, SHOWN
from offramp.features.store.opening import read_bytes

if TYPE_CHECKING:
    from offramp.cascades.files.datafolder import DataFolder
    from offramp.cascades.files.policy import Deployment
    from offramp.cascades.graph.routing import Routes
    from offramp.cascades.learning.points import Fitted

READ = ("frontier.csv", "policies.json")
"""Of the folder that eval.frontier wrote."""


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
