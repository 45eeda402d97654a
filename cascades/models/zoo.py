"""Names of networks turned into stages that are ready to run."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from offramp.cascades.files.embedded import embedded_path, missing
from offramp.cascades.models.preprocessing import Preprocessing
from offramp.cascades.models.probing import checked_logits
from offramp.cascades.models.weights import (
    TORCH_SUFFIXES,
    Weights,
    put_weights,
    read_weights,
    reason_of,
    weights_digest,
)
from offramp.features.errors import InputError
from offramp.features.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

    from offramp.cascades.models.branches import BranchedNet, Branching
from offramp.cascades.models.loaders import Loaded, _random, _timm, _torchvision

WEIGHTS = "weights"
"""The folder of embedded weights."""
"""Where the zoo's own networks find their weights unless told otherwise."""

PUBLISHED = "https://github.com/akamaster/pytorch_resnet_cifar10/tree/master/pretrained_models"
"""Weights of ResNet-20 to -110 for CIFAR-10, which load as they are."""

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR_PREPROCESSING = Preprocessing(None, (32, 32), "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Pixels as they are; ImageNet's means, because the published ResNets were trained with them."""

MNIST_CLASSES = tuple(str(digit) for digit in range(10))
MNIST_PREPROCESSING = Preprocessing(None, (28, 28), "bilinear", (0.1307,), (0.3081,), channels=1)

ALIASES = (
    *("alexnet", "googlenet", "inception_v3", "vgg11", "vgg16", "vgg16_bn", "vgg19", "squeezenet1_1", "densenet121"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2"),
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "shufflenet_v2_x1_0", "mnasnet1_0"),
    *("efficientnet_b0", "efficientnet_b1", "efficientnet_b4", "efficientnet_v2_s", "regnet_y_400mf"),
    *("convnext_tiny", "convnext_small", "convnext_base", "swin_t", "vit_b_16", "vit_b_32", "vit_l_16"),
)
"""Names that mean torchvision's network without saying so."""


@dataclass(frozen=True)
class Architecture:
    """How one of our own networks is built, for a number of classes, and what it sees.

    ``published``: where weights that load as they are can be had; empty if only ``cascades.train`` makes them.
    """

    build: Callable[[int], nn.Module]
    preprocessing: Preprocessing = CIFAR_PREPROCESSING
    published: str = ""
    classes: tuple[str, ...] = CIFAR_CLASSES


@dataclass(frozen=True)
class Place:
    """Exit number ``exit`` (from 0) of ``net``, which its stages share; ``network`` is what it is called."""

    network: str
    net: BranchedNet
    exit: int


@dataclass(frozen=True)
class StageModel:
    """A network that can be a stage: on the CPU, in float32, in evaluation mode, with all that belongs to it.

    ``origin``: where the weights came from, in words. ``weights_digest``: of the weights, so that a run that is
    resumed can tell whether they are the same ones. ``place``: where on a branched network it is, if on one; then
    ``module`` is everything up to that exit, so that the stage can be used like any other.
    """

    name: str
    spec: str
    origin: str
    module: nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    parameters: int
    weights_digest: str
    place: Place | None = None


# --- the zoo's own networks


def _alexnet(classes: int) -> nn.Module:
    from offramp.cascades.models.nets import CifarAlexNet

    return CifarAlexNet((24, 48, 64, 64, 48), 192, classes)


def _googlenet(classes: int) -> nn.Module:
    from offramp.cascades.models.nets import CifarGoogLeNet

    modules = [[(24, (24, 40), (12, 16), 16)] * 2, [(48, (40, 80), (16, 32), 32)] * 3]
    return CifarGoogLeNet((32, 48), modules, classes)


def _wide_resnet10(classes: int) -> nn.Module:
    from offramp.cascades.models.nets import CifarResNet

    return CifarResNet((1, 1, 2), (64, 128, 256), True, classes)


def _resnet(blocks: int) -> Callable[[int], nn.Module]:
    def build(classes: int) -> nn.Module:
        from offramp.cascades.models.nets import CifarResNet

        return CifarResNet((blocks,) * 3, classes=classes)

    return build


def _lenet(classes: int) -> nn.Module:
    from offramp.cascades.models.nets import LeNet

    return LeNet(classes)


def _branchy_alexnet(classes: int) -> nn.Module:
    from offramp.cascades.models.nets import BranchyAlexNet

    return BranchyAlexNet(classes)


ZOO: Registry[Architecture] = Registry(
    "network",
    "offramp.networks",
    {
        "cifar_alexnet": Architecture(_alexnet),
        "cifar_googlenet": Architecture(_googlenet),
        "cifar_wide_resnet10": Architecture(_wide_resnet10),
        "cifar_resnet20": Architecture(_resnet(3), published=PUBLISHED),
        "cifar_resnet32": Architecture(_resnet(5), published=PUBLISHED),
        "cifar_resnet44": Architecture(_resnet(7), published=PUBLISHED),
        "cifar_resnet56": Architecture(_resnet(9), published=PUBLISHED),
        "cifar_resnet110": Architecture(_resnet(18), published=PUBLISHED),
        "lenet": Architecture(_lenet, MNIST_PREPROCESSING, classes=MNIST_CLASSES),
        "branchy_alexnet": Architecture(_branchy_alexnet),
    },
)

BRANCHED: dict[str, tuple[str, tuple[tuple[str, tuple[int, ...]], ...]]] = {
    "b_lenet": ("lenet", (("conv1", (10,)),)),
    "b_alexnet": ("branchy_alexnet", (("conv1", (32, 32)), ("conv3", (32,)))),
    "b_resnet20": ("cifar_resnet20", (("layer1.0", (32, 32, 32)), ("layer1", (32, 32)))),
    "b_resnet56": ("cifar_resnet56", (("layer1.0", (32, 32, 32)), ("layer1", (32, 32)), ("layer2", (64,)))),
    "b_resnet110": ("cifar_resnet110", (("layer1.0", (32, 32, 32)), ("layer1", (32, 32)))),
    "exits_googlenet": ("cifar_googlenet", tuple((f"features.{i}", ()) for i in (0, 1, 2, 4, 5, 6))),
    "exits_resnet": ("cifar_wide_resnet10", (("relu", ()), ("layer1", ()), ("layer2", ()), ("layer3.0", ()))),
}
"""BranchyNet's networks (Teerapittayanon et al., 2016): the backbone, and behind which of its layers there are exits,
with the channels of their heads' convolutions. The paper's first exit of ResNet-110, behind the second convolution,
would lie inside a residual block, so it stands behind that block; the second one is behind the 37th, where all blocks
of the first size end. ResNet-20 has its own at the same places; ResNet-56 there and behind its own 37th convolution,
where the blocks of the second size end. The ``exits_`` networks have linear heads
behind every block of a frozen network of the embedded cascade, as Bolukbasi et al. (2017) have."""


# --- from a name to a stage


def load_stage(spec: str, weights: Path | None = None, pretrained: bool = True) -> StageModel:
    """The network that ``spec`` names, ready to run.

    ``spec``: ``torchvision:NAME`` (``torchvision:NAME@WEIGHTS`` for other weights than the default ones),
    ``timm:NAME`` (``timm:hf-hub:OWNER/NAME`` from the Hugging Face hub), a plain name of ALIASES, a network of ZOO,
    or ``file:PATH`` or ``file:PATH@ARCHITECTURE``; ``x=SPEC`` calls the stage x. ``weights``: the folder, or the file,
    that has a zoo network's weights. Without ``pretrained`` weights are random, always the same, and need no file, but
    preprocessing and classes are the pretrained network's; a ``file:`` is read all the same.

    Raises InputError for an unknown name, a file that is missing, broken or of another architecture, a network
    that does not answer with finite logits, one a class, and one with several exits.
    """
    stages = load_stages(spec, weights, pretrained)
    if len(stages) > 1:
        raise InputError("a network with one answer", f"one with {len(stages)} exits", spec)
    return stages[0]


def load_stages(spec: str, weights: Path | None = None, pretrained: bool = True) -> tuple[StageModel, ...]:
    """The stages of the network that ``spec`` names: one, or its exits if it is branched; see ``load_stage``.

    A branched network is one of BRANCHED, or a file that ``cascades.training`` wrote. The exits of a network x are
    called x.e1, x.e2, ...
    """
    name, rest = short_name(spec)
    loaded = _load(rest, weights, pretrained)
    module = loaded.module.eval().float().requires_grad_(False)
    digest = weights_digest(module)
    if not loaded.branched:
        _try_out(module, loaded, spec)
        parameters = sum(p.numel() for p in module.parameters())
        return (
            StageModel(name, spec, loaded.origin, module, loaded.preprocessing, loaded.classes, parameters, digest),
        )
    from offramp.cascades.models.branches import BranchedNet, ExitModule

    assert isinstance(module, BranchedNet)
    found = []
    for i in range(len(module)):
        exit_module = ExitModule(module, i)
        _try_out(exit_module, loaded, f"{spec}, exit {i + 1}")
        found.append(
            StageModel(
                f"{name}.e{i + 1}",
                spec,
                loaded.origin,
                exit_module.eval(),
                loaded.preprocessing,
                loaded.classes,
                sum(p.numel() for p in exit_module.used()),
                digest,
                Place(name, module, i),
            )
        )
    return tuple(found)


def load_cascade(specs: Sequence[str], weights: Path | None = None, pretrained: bool = True) -> tuple[StageModel, ...]:
    """The stages that ``specs`` name, in that order, those of a branched network one after another.

    Raises InputError if two have one name, or if they do not share one list of classes; see ``load_stages``.
    """
    if not specs:
        raise InputError("at least one model", "none", "models")
    names: dict[str, str] = {}
    for spec in specs:
        name, _ = short_name(spec)
        if name in names:
            found = f"{names[name]!r} and {spec!r}, both called {name!r}"
            raise InputError("models of different names (write NEWNAME=MODEL to call one otherwise)", found, "models")
        names[name] = spec
    stages = tuple(stage for spec in specs for stage in load_stages(spec, weights, pretrained))
    for stage in stages[1:]:
        _share_classes(stages[0], stage)
    return stages


def short_name(spec: str) -> tuple[str, str]:
    """What a stage is called, and the ``spec`` without a name given in front.

    >>> [short_name(s)[0] for s in ("alexnet", "torchvision:resnet50@IMAGENET1K_V1", "cifar_resnet20", "timm:vit.a1")]
    ['alexnet', 'resnet50', 'resnet20', 'vit']
    >>> short_name("big=timm:hf-hub:owner/net.tag")
    ('big', 'timm:hf-hub:owner/net.tag')
    """
    named = re.fullmatch(r"([A-Za-z0-9][\w-]*)=(.+)", spec)
    if named:
        return named[1], named[2]
    kind, colon, what = spec.partition(":")
    if kind == "file" and colon:
        stem = Path(file_parts(what)[0]).stem
        return re.sub(r"[^\w-]+", "-", stem).strip("-") or "file", spec
    last = re.split(r"[:/]", spec)[-1]
    return re.split(r"[.@]", last)[0].removeprefix("cifar_"), spec


def _load(spec: str, weights: Path | None, pretrained: bool) -> Loaded:
    if spec in ZOO or spec in BRANCHED:
        return _zoo(spec, weights, pretrained)
    if spec in ALIASES:
        return _torchvision(spec, pretrained, spec)
    kind, _, what = spec.partition(":")
    if kind in LOADERS and what:
        return LOADERS[kind](what, pretrained, spec)
    close = get_close_matches(spec, (*ZOO, *BRANCHED, *ALIASES), n=1)
    raise InputError(
        "torchvision:NAME, timm:NAME, timm:hf-hub:OWNER/NAME, file:PATH@ARCHITECTURE, a network of the zoo"
        f" ({', '.join((*ZOO, *BRANCHED))}) or one of {', '.join(ALIASES)}",
        repr(spec) + (f" (is {close[0]!r} meant?)" if close else ""),
        "models",
    )


def _try_out(module: nn.Module, loaded: Loaded, spec: str) -> None:
    """One grey image, so that a network that answers with something else is told of before any work is done."""
    import torch

    height, width = loaded.preprocessing.crop or (224, 224)
    image = torch.zeros(1, loaded.preprocessing.channels, height, width)
    with torch.inference_mode():
        try:
            output = module(image)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            found = reason_of(error)
            raise InputError(f"a network for images of {height} x {width} pixels", found, spec) from error
    checked_logits(output, len(loaded.classes), spec)


def _share_classes(first: StageModel, other: StageModel) -> None:
    if first.classes == other.classes:
        return
    where = f"stages {first.name!r} and {other.name!r}"
    if len(first.classes) != len(other.classes):
        found = f"{len(first.classes)} classes and {len(other.classes)}"
    else:
        at = next(i for i, (a, b) in enumerate(zip(first.classes, other.classes, strict=True)) if a != b)
        found = f"class {at} called {first.classes[at]!r} by one and {other.classes[at]!r} by the other"
    raise InputError("stages that share one list of classes", found, where)


# --- loaders


def _zoo(name: str, weights: Path | None, pretrained: bool) -> Loaded:
    if not pretrained:
        architecture = ZOO[BRANCHED[name][0] if name in BRANCHED else name]
        plain = Loaded(
            _random(lambda: architecture.build(len(architecture.classes))),
            architecture.preprocessing,
            architecture.classes,
            "random weights",
        )
        return _branched(plain, _published_exits(name)) if name in BRANCHED else plain
    path = _zoo_file(name, embedded_path(WEIGHTS) if weights is None else weights)
    return _from_file(path, name, read_weights(path), name)


def blank(architecture: str, classes: tuple[str, ...], where: str) -> Loaded:
    """A network of that architecture with random weights; for its published classes if none are given."""
    kind, _, what = architecture.partition(":")
    if architecture in ZOO:
        own = classes or ZOO[architecture].classes
        return Loaded(
            _random(lambda: ZOO[architecture].build(len(own))), ZOO[architecture].preprocessing, own, "random weights"
        )
    if architecture in ALIASES or kind == "torchvision":
        return _torchvision(what or architecture, False, where, classes)
    if kind == "timm":
        return _timm(what, False, where, classes)
    expected = f"an architecture: torchvision:NAME, timm:NAME, one of {', '.join((*ZOO, *ALIASES))}"
    raise InputError(expected, repr(architecture), where)


def load_plain(name: str, classes: Sequence[str], weights: Path | None) -> Loaded:
    """A network without exits to be trained: with the weights of the file ``weights``; else a zoo's network with random
    ones for these ``classes``, any other with its published ones.

    Raises InputError as ``load_stage`` does.
    """
    if weights is not None:
        return _from_file(weights, name, read_weights(weights), name)
    if name not in ZOO:
        return _load(name, None, True)
    return blank(name, tuple(classes), name)


def find_weights(name: str, where: Path) -> Path:
    """The file of ``where``, a file or a folder, with the weights of the branched network ``name`` or its backbone."""
    if where.is_dir() and name in BRANCHED and not any(where.glob(f"{name}.*")):
        return _zoo_file(BRANCHED[name][0], where)
    return _zoo_file(name, where) if name in (*ZOO, *BRANCHED) or where.is_dir() else where


def _published_exits(name: str) -> Branching:
    from offramp.cascades.models.branches import Branching, Exit

    return Branching(tuple(Exit(layer, convs) for layer, convs in BRANCHED[name][1]))


def _branched(plain: Loaded, branching: Branching) -> Loaded:
    """The network with exits, whose heads have random weights."""
    from offramp.cascades.models.branches import BranchedNet

    how = plain.preprocessing
    shape = (how.channels, *(how.crop or (224, 224)))
    net = _random(
        lambda: BranchedNet(plain.module, branching.exits, shape, len(plain.classes), branching.gated),
    )
    return replace(plain, module=net, branched=True)


def _zoo_file(name: str, where: Path) -> Path:
    """The one file of ``where`` that holds the weights of ``name``."""
    if where.is_file():
        return where
    short = name.removeprefix("cifar_")
    wanted = [f"{name}{suffix}" for suffix in (".safetensors", *TORCH_SUFFIXES)]
    for file in wanted:
        if (where / file).is_file():
            return where / file
    found = sorted(where.glob(f"{short}-*.th"))
    if len(found) == 1:
        return found[0]
    program = f"cascades.training --network {name}" if name in BRANCHED else f"cascades.train --models {name}"
    published = "" if name in BRANCHED else ZOO[name].published
    how = f"from {published}" if published else f"made by: python -m {program}"
    expected = f"one of {', '.join(wanted)} or {short}-*.th ({how}; --weights names the folder)"
    there = (
        ", ".join(path.name for path in found)
        if found
        else "none"
        if where.is_dir()
        else f"no such folder{missing(WEIGHTS)}"
    )
    raise InputError(expected, there, str(where))


def _file(what: str, pretrained: bool, where: str) -> Loaded:  # noqa: ARG001 a file is there to be read
    text, given = file_parts(what)
    path = Path(text)
    weights = read_weights(path)
    architecture = given or weights.about.get("architecture", "")
    if not architecture:
        found = "a file that does not say which it is"
        raise InputError(
            f"an architecture: file:{text}@ARCHITECTURE, such as cifar_resnet20 or timm:NAME", found, where
        )
    if not given and is_on_a_hub(architecture):
        # a file is data: what it says must not send the program anywhere
        expected = f"the architecture by your own word, as it is on a hub: file:{text}@{architecture}"
        raise InputError(expected, "it in the file's notes alone", where)
    return _from_file(path, architecture, weights, where)


def is_on_a_hub(architecture: str) -> bool:
    """Whether building such a network asks a hub in the network.

    >>> is_on_a_hub("timm:hf-hub:x/y"), is_on_a_hub("timm:resnet18"), is_on_a_hub("timm:x/y")
    (True, False, True)
    """
    return "hub:" in architecture.replace("_", "-") or "/" in architecture


def file_parts(what: str) -> tuple[str, str]:
    """Path and architecture; a path may have an @ of its own."""
    path, _, architecture = what.rpartition("@")
    known = architecture in (*ZOO, *BRANCHED, *ALIASES) or architecture.startswith(("torchvision:", "timm:"))
    if path and (known or not Path(what).exists()):
        return path, architecture
    return what, ""


def _from_file(path: Path, architecture: str, weights: Weights, where: str) -> Loaded:
    """A network of that architecture with the weights that were read from ``path``."""
    noted = weights.about.get("architecture", "")
    own = (*ZOO, *BRANCHED)
    if architecture in own and noted in own and noted not in (architecture, *BRANCHED.get(architecture, ())[:1]):
        raise InputError(f"weights of {architecture}", f"weights of {noted}", str(path))
    called, branching = architecture, None
    if "exits" in weights.about:
        from offramp.cascades.models.branches import Branching

        branching = Branching.read(weights.about["exits"], str(path))
        architecture = BRANCHED.get(architecture, (architecture,))[0]
    elif architecture in BRANCHED:
        raise InputError(f"weights of {architecture}, with its exits", "weights without exits", str(path))
    plain = blank(architecture, weights.classes, where)
    tensors = with_backbone(path, architecture, weights)
    if branching is not None:
        plain = _branched(plain, branching)
    wanted = f"weights of {called} for {len(plain.classes)} classes"
    put_weights(plain.module, tensors, wanted, str(path))
    return replace(plain, origin=str(path))


def with_backbone(path: Path, architecture: str, weights: Weights) -> dict[str, Tensor]:
    """The tensors of the file ``path``, and where it holds heads alone those of the frozen backbone, which stand in a
    file of their own beside it or among the embedded ones.

    Raises InputError if they are not those that the heads were trained on.
    """
    if "backbone" not in weights.about:
        return dict(weights.tensors)
    beside = path.parent if any(path.parent.glob(f"{architecture}.*")) else embedded_path(WEIGHTS)
    file = _zoo_file(architecture, beside)
    own = _from_file(file, architecture, read_weights(file), str(file))
    if weights_digest(own.module.float()) != weights.about["backbone"]:
        raise InputError(f"the weights of {architecture} that the heads of {path} were trained on", "others", str(file))
    return {**weights.tensors, **{f"backbone.{name}": tensor for name, tensor in own.module.state_dict().items()}}


LOADERS: dict[str, Callable[[str, bool, str], Loaded]] = {"torchvision": _torchvision, "timm": _timm, "file": _file}
"""What stands before the colon -> (what stands behind it, pretrained, whole name for errors) -> a network."""


# --- classes
