"""Flags and a data folder turned into networks and images, and refusals of what does not go together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from offramp.cascades.files.provenance import PICTURES, home, noted
from offramp.eval.measured.flags import Settings
from offramp.eval.measured.picking import READ
from offramp.features.errors import InputError

if TYPE_CHECKING:
    from offramp.cascades.files.datafolder import DataFolder
    from offramp.cascades.graph.routing import Routes
    from offramp.cascades.images.images import Images
    from offramp.cascades.learning.points import Fitted
    from offramp.cascades.models.zoo import StageModel

FILES = ("run.csv", "run.json")


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


def refuse_unlike(fitted: Fitted, models: Sequence[StageModel], data: str) -> None:
    """Raises InputError where the networks' answers are of another kind than those that the policies know."""
    import numpy as np

    reader, classes = fitted.sweep.reader, len(models[0].classes)
    if np.isnan(reader.temperature).any():
        raise InputError("policies fitted on logits, which networks give", "some fitted on answers alone", data)
    if reader.classes != classes:
        raise InputError(f"outputs over the networks' {classes} classes", f"over {reader.classes}", data)


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
