"""The name of a network of torchvision or timm turned into a loaded network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offramp.cascades.models.hubs import hub_file, hugging_face_file
from offramp.cascades.models.preprocessing import Preprocessing, of_timm, of_torchvision
from offramp.cascades.models.weights import (
    SHOWN,
    read_weights,
    reason_of,
)
from offramp.features.errors import InputError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Loaded:
    """What a loader makes of the part of a name that is its own."""

    module: nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    origin: str
    branched: bool = False


def _torchvision(what: str, pretrained: bool, where: str, own: tuple[str, ...] = ()) -> Loaded:
    """``own``: classes to build for, if not those of the published weights."""
    models = _torchvision_models()
    name, _, chosen = what.partition("@")
    names = models.list_models(module=models)
    if name not in names:
        raise InputError("a classification model of torchvision", repr(name) + _meant(name, names), where)
    published = models.get_model_weights(name)
    if chosen and chosen not in published.__members__:
        raise InputError(f"weights {' or '.join(published.__members__)}", repr(chosen), where)
    picked = published[chosen] if chosen else published.DEFAULT
    classes = own or tuple(picked.meta["categories"] or ())
    if not classes:
        raise InputError("weights of a whole classifier", f"{picked}, which has no classes", where)
    preprocessing = of_torchvision(picked.transforms(), where)
    if not pretrained:
        module = _random(lambda: _torchvision_module(name, picked, len(classes)))
        return Loaded(module, preprocessing, classes, "random weights")
    path = hub_file(picked.url, where)
    # torchvision's own loader would run a pickle, so the file is looked at first; then it knows best how old names,
    # auxiliary heads and the like are dealt with
    read_weights(path)
    try:
        module = models.get_model(name, weights=picked, progress=False)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the weights {picked}", reason_of(error), str(path)) from error
    return Loaded(module, preprocessing, classes, f"{picked}, {picked.url}")


def _torchvision_models() -> Any:
    from torchvision import models  # type: ignore[import-untyped]

    return models


def _torchvision_module(name: str, picked: Any, classes: int) -> nn.Module:
    """The network as its published weights want it, with random ones."""
    extra: dict[str, Any] = {"num_classes": classes}
    if name in ("googlenet", "inception_v3"):
        extra |= {"aux_logits": False, "transform_input": True, "init_weights": False}
    if name.startswith("vit_"):
        extra["image_size"] = picked.meta["min_size"][0]
    module: nn.Module = _torchvision_models().get_model(name, weights=None, **extra)
    return module


def _timm(what: str, pretrained: bool, where: str, own: tuple[str, ...] = ()) -> Loaded:
    """``own``: classes to build for, if not those of the published weights."""
    import timm

    source = _timm_source(what, where)
    config = dict(source.config)
    origin = "random weights"
    if pretrained:
        path = _timm_file(source, where)
        if path.suffix != ".npz":
            read_weights(path)  # refuses all but tensors, which older timm would not
        # the file is given by hand: timm itself would ask the hub again and again when there is no network
        foreign = bool(config.get("custom_load")) and not source.repository
        config |= {"file": str(path), "source": "", "custom_load": foreign}
        origin = f"timm {source.architecture}, {source.repository or source.url}"
    extra = dict(source.arguments) | ({"num_classes": len(own)} if own else {})
    try:
        module = _random(
            lambda: timm.create_model(source.architecture, pretrained=pretrained, pretrained_cfg=config, **extra)
        )
    except Exception as error:
        raise InputError(f"weights for timm's {source.architecture}", reason_of(error), where) from error
    classes = own or _timm_classes(module, config, where)
    preprocessing = of_timm(_timm_data().resolve_data_config({}, model=module), where)
    return Loaded(module, preprocessing, classes, origin)


def _timm_data() -> Any:
    """Timm's module without its types, of which it has only some."""
    from timm import data

    return data


@dataclass(frozen=True)
class _TimmSource:
    architecture: str
    config: dict[str, Any]
    arguments: dict[str, Any]
    repository: str
    revision: str | None
    url: str


def _timm_source(what: str, where: str) -> _TimmSource:
    import timm

    if what.startswith(("hf-hub:", "hf_hub:")) or "/" in what:
        repository, _, revision = re.sub(r"^hf[-_]hub:", "", what).partition("@")
        path = hugging_face_file(repository, revision or None, ("config.json",), where)
        return _timm_repository(path, repository, revision or None, where)
    architecture = what.split(".")[0]
    if not timm.is_model(architecture):
        raise InputError("a model of timm", repr(what) + _meant(architecture, timm.list_models()), where)
    try:
        known = timm.get_pretrained_cfg(what)
    except RuntimeError as error:
        tags = ", ".join(timm.list_pretrained(f"{architecture}.*")) or architecture
        raise InputError(f"one of {tags}", repr(what), where) from error
    config: dict[str, Any] = {} if known is None else known.to_dict()  # type: ignore[no-untyped-call]
    repository, _, revision = (config.get("hf_hub_id") or "").partition("@")
    return _TimmSource(architecture, config, {}, repository, revision or None, config.get("url") or "")


def _timm_repository(path: Path, repository: str, revision: str | None, where: str) -> _TimmSource:
    """What the ``config.json`` of a model on the hub says."""
    from dataclasses import fields

    from timm.models import PretrainedCfg

    try:
        held = json.loads(path.read_text("utf-8"))
        nested = held.get("pretrained_cfg", held)
        config = {field.name: nested[field.name] for field in fields(PretrainedCfg) if field.name in nested}
        config |= {key: held[key] for key in ("num_classes", "label_names") if key in held}
        return _TimmSource(held["architecture"], config, held.get("model_args") or {}, repository, revision, "")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError("the config.json of a timm model", reason_of(error), f"{where}, {path}") from error


def _timm_file(source: _TimmSource, where: str) -> Path:
    if source.repository:
        named = source.config.get("hf_hub_filename")
        names = (named,) if named else ("model.safetensors", "pytorch_model.bin")
        return hugging_face_file(source.repository, source.revision, names, where)
    if source.url:
        return hub_file(source.url, where)
    raise InputError("a timm model with pretrained weights", f"{source.architecture}, which has none", where)


def _timm_classes(module: nn.Module, config: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Names of the classes; for ImageNet-1k torchvision's, for its larger kin WordNet's ids, else numbers."""
    data = _timm_data()
    count = int(getattr(module, "num_classes", 0) or 0)
    if count < 1:
        raise InputError("a classifier", "a network without classes, made for features", where)
    given = config.get("label_names")
    subset = data.infer_imagenet_subset({"num_classes": count})
    if given and len(given) == count:
        names = tuple(str(name) for name in given)
    elif subset:
        names = tuple(data.ImageNetInfo(subset).label_names())
    else:
        names = tuple(str(i) for i in range(count))
    return imagenet_classes() if names == imagenet_synsets() else names


def _random(build: Callable[[], nn.Module]) -> nn.Module:
    """Built with random weights that are the same every time, without touching the caller's generator."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def _meant(name: str, names: Sequence[str]) -> str:
    close = get_close_matches(name, names, n=SHOWN)
    return f" (near it: {', '.join(close)})" if close else ""


def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 classes of ImageNet as torchvision names them, each name once.

    A network of timm for ImageNet-1k gets these names too, so that both can stand in one cascade.
    """
    return tuple(_torchvision_models().AlexNet_Weights.DEFAULT.meta["categories"])


def imagenet_synsets() -> tuple[str, ...]:
    """WordNet's ids of the same 1,000 classes ("n01440764", …), which ImageNet's folders are called by."""
    return tuple(_timm_data().ImageNetInfo("imagenet-1k").label_names())
