"""Data folders turned into what they were made from: images, networks, examples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offramp.features.errors import InputError
from offramp.features.outputs import LEARNT

if TYPE_CHECKING:
    from offramp.cascades.files.datafolder import DataFolder
    from offramp.cascades.files.policy import Deployment
    from offramp.cascades.graph.costs import Costs
    from offramp.cascades.images.images import Images
    from offramp.cascades.models.zoo import StageModel

PICTURES = "test.npz"
"""Images that come with the package: the first test images of the embedded ``cifar10`` data, called as there."""


def fitted_on(deployment: Deployment, data: DataFolder) -> bool:
    """Whether the policy was fitted on this folder's parts."""
    from offramp.cascades.learning.points import digest_of

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


def home(data: str) -> Path:
    """Where the data folder of that name lies."""
    from offramp.cascades.files.embedded import embedded_names, embedded_path

    return embedded_path(data) if data in embedded_names() else Path(data)


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
    from offramp.cascades.images.sources import rows_of

    for report in reports(folder):
        manifest: Any = report.get("manifest")
        try:
            rows = rows_of(str(manifest["rows"]), len(whole))
            if whole.take(rows).fingerprint == manifest["images"]:
                return True
        except (InputError, KeyError, TypeError):
            continue
    return False
