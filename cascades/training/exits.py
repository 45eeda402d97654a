"""Labelled images turned into a network with exits: ``python -m cascades.training --network b_alexnet ...``."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offramp.cascades.command.progress import bar
from offramp.cascades.command.settings import guard, parse
from offramp.cascades.models.weights import save_weights, weights_digest
from offramp.cascades.models.zoo import BRANCHED, ZOO
from offramp.cascades.training.loop import (
    EVALUATION_BATCH,
    SHOWN,
    Course,
    Labelled,
    augmented,
    fast_bfloat16,
    groups_of,
    initialise,
    load,
    prepared,
    round_to_half,
    say,
    train,
)
from offramp.features.errors import InputError

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from offramp.cascades.images.images import Images
    from offramp.cascades.models.branches import BranchedNet, Branching
    from offramp.cascades.models.loaders import Loaded
    from offramp.cascades.training.objectives import BranchOutputs, Objective

OBJECTIVES = ("frozen", "joint", "gated")
"""``frozen``: the backbone stays as it is, and linear heads are fitted on the averages over its feature maps, a convex
problem an exit (Bolukbasi et al., 2017). ``joint``: a weighted sum of the exits' losses, Adam, from a trained backbone
or from nothing (BranchyNet, Teerapittayanon et al., 2016). ``gated``: a gate at each exit, trained with the network or
on a frozen one (Scardapane et al., 2020)."""

RIDGE = 1e-4
"""Weight of half the squared coefficients of a frozen head, beside the mean cross-entropy."""

WATCHED = 2_000
"""Test images on which the log follows the exits' accuracy."""

FIRST, LAST = 1.0, 0.3
"""Weights of the first and the last exit's loss that BranchyNet found best; in between they fall by equal steps."""

RARE = 0.1
"""Share of its fair share of the images below which the program says that a class is rarely seen."""

STARVED = 0.001
"""Share of the examples below which the program says that an exit gets none."""


@dataclass(frozen=True)
class Settings:
    """The flags of the command."""

    network: str = field(
        metadata={
            "help": "b_lenet, b_alexnet, b_resnet20/56/110, any network that eval.extract takes, or a file with exits"
        }
    )
    images: Path = field(metadata={"help": "labelled training images, as eval.extract takes them"})
    objective: str = field(default="joint", metadata={"help": "what is trained how", "choices": OBJECTIVES})
    exits: str = field(
        default="",
        metadata={
            "help": "blocks, stages, a number, or LAYER[:CONVS],... (the published ones of b_ networks; else stages)"
        },
    )
    heads: str = field(default="linear", metadata={"help": "heads that no CONVS says", "choices": ("linear", "conv")})
    start: Path | None = field(
        default=None,
        metadata={"help": "file or folder of weights to start from: the backbone's, or a branched network's"},
    )
    freeze: bool = field(
        default=False, metadata={"help": "train only the heads that are new, or with the gated objective the gates"}
    )
    weights: tuple[float, ...] = field(
        default=(), metadata={"help": "weight of each exit's own loss, one for all, or one each", "minimum": 0}
    )
    loss: str = field(
        default="expected", metadata={"help": "of the gated objective", "choices": ("mixture", "expected")}
    )
    price: float = field(
        default=0.0, metadata={"help": "loss per unit of cost, of the gated objective", "minimum": 0, "maximum": 1e9}
    )
    costs: Path | None = field(
        default=None,
        metadata={"help": "costs.json of the exits, for the price; multiply-adds of the whole = 1 if none"},
    )
    sharpen: float = field(
        default=10.0,
        metadata={
            "help": "by how much the gates' log odds grow while training, so that soft gates end hard",
            "minimum": 1,
            "maximum": 1000,
        },
    )
    distill: float = field(
        default=0.0, metadata={"help": "weight of what earlier exits learn from the last one's answers", "minimum": 0}
    )
    test: Path | None = field(default=None, metadata={"help": "labelled images that accuracies are reported on"})
    test_rows: str = field(default=":", metadata={"help": "which of the test images"})
    rows: str = field(default=":", metadata={"help": "which images to train on, such as :40000"})
    epochs: int = field(default=20, metadata={"help": "epochs", "minimum": 1, "maximum": 10_000})
    rate: float = field(default=1e-3, metadata={"help": "Adam's peak rate", "minimum": 1e-9, "maximum": 1e30})
    decay: float = field(default=1e-4, metadata={"help": "weight decay, decoupled", "minimum": 0})
    batch: int = field(default=128, metadata={"help": "images a step", "minimum": 1, "maximum": 65_536})
    cutout: int = field(default=0, metadata={"help": "side of the square that is blanked", "minimum": 0, "maximum": 64})
    augment: bool = field(default=True, metadata={"help": "move images by a few pixels, and flip those in colour"})
    mixed: bool = field(default=True, metadata={"help": "multiply in bfloat16 where the device is fast at it"})
    half: bool = field(default=True, metadata={"help": "write kernels and matrices as float16"})
    heads_only: bool = field(
        default=False,
        metadata={"help": "leave a frozen zoo network's own weights out of the file, which is then read beside theirs"},
    )
    device: str = field(default="auto", metadata={"help": "cpu, cuda, or auto: cuda if there is one"})
    threads: int | None = field(
        default=None, metadata={"help": "CPU threads, if not all", "minimum": 1, "maximum": 1024}
    )
    seed: int = field(default=0, metadata={"help": "seed of weights, order, crops and flips", "minimum": 0})
    name: str = field(default="", metadata={"help": "what the files are called, if not as the network"})
    out: Path = field(default=Path("weights"), metadata={"help": "folder for weights, log, picture and checkpoint"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit code."""
    return guard(lambda: run(parse(Settings, argv, "python -m cascades.training", __doc__ or "")))


def run(settings: Settings) -> None:
    """Build, train from where a killed run was, report, write the weights."""
    import torch
    from torch import nn

    from offramp.cascades.images.sources import open_images, rows_of
    from offramp.features.store.atomic import files_of, refuse_overwriting

    settings = named(settings)
    _refuse_contradictions(settings)
    outputs = [("--out", settings.out / f"{settings.name}{end}") for end in (".safetensors", ".log.csv", ".log.png")]
    inputs = [("--images", settings.images), ("--test", settings.test), ("--costs", settings.costs)]
    refuse_overwriting(outputs, [*inputs, ("--start", settings.start), *files_of([settings.network], "--network")])
    device = prepared(settings.out, settings.device, settings.threads)
    whole = open_images(settings.images)
    images = whole.take(rows_of(settings.rows, len(whole)))
    torch.manual_seed(settings.seed)
    built = build(settings, images.classes)
    if settings.heads_only and built.trained_heads:
        expected = "a network of the zoo whose own file it can be read beside"
        raise InputError(expected, "one that starts from a branched file", "--heads-only")
    images = images.numbered_as(built.loaded.classes)
    _refuse_few(images, settings)
    test = None
    if settings.test is not None:
        judged = open_images(settings.test).numbered_as(built.loaded.classes)
        test = judged.take(rows_of(settings.test_rows, len(judged)))
        if not len(test):
            raise InputError("at least one image to test on", "none", f"--test-rows {settings.test_rows}")
    net = built.net.to(device).to(memory_format=torch.channels_last)
    name = settings.name or settings.network.rpartition("/")[2].rpartition(":")[2]
    job = Job(net, settings, name, objective_of(settings, net), device, images, test, built)
    _tell_of_imbalance(images, name)
    if settings.objective == "frozen" and not any(each.convs for each in net.exits):
        if settings.weights or settings.distill:
            expected = "a joint or gated objective, or heads with convolutions: each linear head is fitted by itself"
            raise InputError(expected, "a frozen one", "--weights" if settings.weights else "--distill")
        job.fit_heads()
    else:
        job.train()
    # a frozen backbone stays as it is, to the last bit
    half = settings.half and settings.objective != "frozen" and not settings.freeze
    if half:
        round_to_half(net)
    if not all(bool(torch.isfinite(parameter).all()) for parameter in net.parameters()):
        raise InputError("finite weights (a lower --rate or --sharpen?)", "others at the end", name)
    about = {
        "architecture": built.architecture,
        "classes": "\n".join(built.loaded.classes),
        "exits": built.branching.text(),
        "objective": settings.objective,
    }
    about |= job.report()
    path = settings.out / f"{name}.safetensors"
    if settings.heads_only:
        about["backbone"] = weights_digest(net.backbone)
        save_weights(nn.ModuleDict({"heads": net.heads, "gates": net.gates}), path, about, half)
    else:
        save_weights(net, path, about, half)


def named(settings: Settings) -> Settings:
    """With the architecture in the place of a file that says or is told which it is, and the file to start from."""
    from offramp.cascades.models.weights import read_weights
    from offramp.cascades.models.zoo import file_parts

    if "/" in settings.name or settings.name in (".", ".."):
        raise InputError("a name of files in --out", repr(settings.name), "--name")
    kind, _, what = settings.network.partition(":")
    if kind != "file":
        return settings
    if settings.start is not None:
        raise InputError("a file to start from once", f"{settings.network} and {settings.start}", "--start")
    path, given = file_parts(what)
    architecture = given or read_weights(Path(path)).about.get("architecture", "")
    if not architecture:
        raise InputError(f"file:{path}@ARCHITECTURE", "a file that does not say which it is", settings.network)
    return replace(settings, network=architecture, start=Path(path), name=settings.name or Path(path).stem)


def _refuse_contradictions(settings: Settings) -> None:
    frozen = settings.objective == "frozen" or settings.freeze
    if settings.heads_only and not (frozen and settings.network in (*ZOO, *BRANCHED)):
        raise InputError("a frozen network of the zoo", settings.network, "--heads-only")
    if settings.objective != "gated" and settings.price:
        raise InputError("--objective gated, whose gates a price is for", settings.objective, "--price")
    for flag in ("loss", "sharpen") if settings.objective != "gated" else ():
        if getattr(settings, flag) != getattr(Settings, flag):
            raise InputError(f"--objective gated, which --{flag} is for", settings.objective, f"--{flag}")


def _tell_of_imbalance(images: Images, name: str) -> None:
    """Say so where some class is rarely seen in training."""
    import numpy as np

    counts = np.bincount(images.labels, minlength=len(images.classes))
    rare = [f"{images.classes[i]} ({counts[i]})" for i in np.flatnonzero(counts < RARE * len(images) / len(counts))]
    if rare:
        more = f" and {len(rare) - 5} more" if len(rare) > 5 else ""
        say(f"{name}: few images of {', '.join(rare[:5])}{more} among {len(images)}: their accuracy will suffer")


def _refuse_few(images: Images, settings: Settings) -> None:
    import numpy as np

    if len(images) < settings.batch:
        raise InputError(f"at least {settings.batch} images, a batch", str(len(images)), f"--rows {settings.rows}")
    counts = np.bincount(images.labels, minlength=len(images.classes))
    if not counts.all():
        missing = [images.classes[i] for i in np.flatnonzero(counts == 0)[:5]]
        raise InputError("an image of every class", f"none of {', '.join(missing)}", f"--rows {settings.rows}")


# --- what is trained


@dataclass(frozen=True)
class Built:
    """A branched network, what it was built from, and what of it had weights already."""

    net: BranchedNet
    loaded: Loaded
    architecture: str
    branching: Branching
    trained_heads: bool


def build(settings: Settings, classes: Sequence[str]) -> Built:
    """The network with its exits, as far as there are weights with these.

    Raises InputError for exits that can't be, and where a frozen backbone would have random weights.
    """
    from offramp.cascades.models.branches import Branching, Exit, parse_exits, trace
    from offramp.cascades.models.weights import put_weights, read_weights
    from offramp.cascades.models.zoo import blank, load_plain, with_backbone

    start = None if settings.start is None else _file_of(settings)
    held = None if start is None else read_weights(start)
    backbone, published = BRANCHED.get(settings.network, (settings.network, ()))
    if start is not None and held is not None and "exits" in held.about:
        if settings.exits:
            raise InputError("no --exits, since the weights to start from have some", settings.exits, "--exits")
        branching = Branching.read(held.about["exits"], str(start))
        if held.about.get("architecture") not in (settings.network, backbone):
            raise InputError(f"weights of {settings.network}", str(held.about.get("architecture")), str(start))
        loaded = blank(backbone, held.classes, str(start))
        net = _net(loaded, Branching(branching.exits, settings.objective == "gated"))
        own = net.state_dict()
        fresh = [key for key in own if key.startswith("gates.") and key not in held.tensors]
        tensors = {**with_backbone(start, backbone, held), **{key: own[key] for key in fresh}}
        tensors = {key: value for key, value in tensors.items() if key in own or not key.startswith("gates.")}
        put_weights(net, tensors, f"weights of {settings.network} with these exits", str(start))
        return Built(net, loaded, settings.network, Branching(net.exits, settings.objective == "gated"), True)
    loaded = load_plain(backbone, classes, start)
    how = loaded.preprocessing
    shape = (how.channels, *(how.crop or (224, 224)))
    if settings.exits:
        exits = parse_exits(trace(loaded.module, shape), settings.exits, settings.heads)
    elif published:
        exits = tuple(Exit(layer, convs) for layer, convs in published)
    else:
        exits = parse_exits(trace(loaded.module, shape), "stages", settings.heads)
    gated = settings.objective == "gated"
    trained = loaded.origin != "random weights"
    if not trained and (settings.objective == "frozen" or settings.freeze):
        raise InputError("weights of the backbone that is to be frozen (--start)", "random ones", settings.network)
    if not trained:
        initialise(loaded.module)
    net = _net(loaded, Branching(exits, gated))
    return Built(net, loaded, settings.network, Branching(net.exits, gated), False)


def _file_of(settings: Settings) -> Path:
    """The file of weights to start from."""
    from offramp.cascades.models.zoo import find_weights

    assert settings.start is not None
    return find_weights(settings.network, settings.start)


def _net(loaded: Loaded, branching: Branching) -> BranchedNet:
    from offramp.cascades.models.branches import BranchedNet

    how = loaded.preprocessing
    shape = (how.channels, *(how.crop or (224, 224)))
    return BranchedNet(loaded.module.float(), branching.exits, shape, len(loaded.classes), branching.gated)


def objective_of(settings: Settings, net: BranchedNet) -> Objective:
    """What is made small. Raises InputError for another number of weights than exits."""
    from offramp.cascades.training.objectives import Objective

    k, gated = len(net), settings.objective == "gated"
    weights = settings.weights or ((0.0,) if gated else ())
    if len(weights) == 1:
        weights = weights * k
    if not weights:
        weights = tuple(FIRST + (LAST - FIRST) * i / max(k - 1, 1) for i in range(k))
    if len(weights) != k:
        raise InputError(f"one weight, or {k}, one an exit", str(len(weights)), "--weights")
    fixed = settings.objective == "frozen" or settings.freeze
    if not gated and not settings.distill and not any(weights[: k - 1] if fixed else weights):
        raise InputError("a weight above 0 of an exit that is trained", ", ".join(map(str, weights)), "--weights")
    costs = stop_costs(net, settings.costs)
    return Objective(weights, settings.loss if gated else "", settings.price if gated else 0.0, costs, settings.distill)


def stop_costs(net: BranchedNet, path: Path | None) -> tuple[float, ...]:
    """(k,) what stopping at each exit costs in all, the heads passed included: from a costs.json, where one network has
    as many exits, or in multiply-adds as shares of the backbone's."""
    from offramp.cascades.graph.costs import read_costs
    from offramp.cascades.models.probing import count_work

    if path is not None:
        costs = read_costs(path)
        exits: dict[str, list[str]] = {}
        for name, cost in costs.stages.items():
            exits.setdefault(cost.network, []).append(name)
        fitting = [names for names in exits.values() if len(names) == len(net)]
        if len(fitting) != 1:
            raise InputError(f"costs of one network's {len(net)} exits", ", ".join(costs.stages), str(path))
        names = fitting[0]
        return tuple(sum(costs.step(tuple(names[:j]), names[j]) for j in range(i + 1)) for i in range(len(names)))
    heads = [count_work(head, cut.shape).multiply_adds for head, cut in zip(net.heads, net.cuts, strict=True)]
    found, passed = [], 0
    for cut, head in zip(net.cuts, heads, strict=True):
        passed += head
        found.append((cut.work + passed) / net.work)
    return (*found, (net.work + passed) / net.work)


# --- training


class Job:
    """One network's way through its epochs; all randomness follows from the seed and the epoch's number."""

    def __init__(
        self,
        net: BranchedNet,
        settings: Settings,
        name: str,
        objective: Objective,
        device: torch.device,
        images: Images,
        test: Images | None,
        built: Built,
    ) -> None:
        self.net, self.settings, self.name, self.objective, self.device = net, settings, name, objective, device
        self.images, self.built = images, built
        self.test = None if test is None else load(test, device, built.loaded.preprocessing)
        self.log: list[dict[str, float]] = []
        self.sharp = 1.0

    def fit_heads(self) -> None:
        """Each head by itself: multinomial logistic regression on what it sees, which has one minimum."""
        import numpy as np
        import torch
        from sklearn.linear_model import LogisticRegression

        start = time.perf_counter()
        seen, labels = self._pooled()
        for i, x in enumerate(seen):
            mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
            # sklearn weighs the sum of the losses by C against half the squared coefficients
            model = LogisticRegression(C=1.0 / (RIDGE * len(x)), max_iter=500)
            model.fit((x - mean) / scale, labels)
            weight = model.coef_ / scale
            bias = model.intercept_ - weight @ mean
            if len(model.classes_) == 2:  # one row stands for the difference
                weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
            head: Any = self.net.heads[i]
            with torch.no_grad():
                head.linear.weight.copy_(torch.from_numpy(weight))
                head.linear.bias.copy_(torch.from_numpy(bias))
            say(f"{self.name}: exit {i + 1} at {self.net.exits[i].layer}: fitted on {x.shape[1]} averages")
        self.net.eval()
        say(f"{self.name}: {len(seen)} heads in {time.perf_counter() - start:.1f} s")

    def _pooled(self) -> tuple[list[Any], Any]:
        """Averages (n, channels) over the feature map at every cut, for all training images as they are."""
        import numpy as np
        import torch

        from offramp.cascades.models.branches import pooled

        how = self.built.loaded.preprocessing
        parts: list[list[Any]] = [[] for _ in self.net.heads]
        self.net.eval()
        with torch.inference_mode(), bar(SHOWN, len(self.images), self.name) as update:
            for begin in range(0, len(self.images), EVALUATION_BATCH):
                rows = range(begin, min(begin + EVALUATION_BATCH, len(self.images)))
                pixels = torch.from_numpy(np.stack([how.cropped(self.images.image(i)) for i in rows]))
                states = self.net.states(how.normalise(pixels.to(self.device)))
                for part, state in zip(parts, states, strict=False):
                    part.append(pooled(state).float().cpu().numpy())
                update(f"{self.name} what the exits see", advance=len(rows))
        return [np.concatenate(part) for part in parts], self.images.labels

    def train(self) -> None:
        """All epochs; what the gates say from then on is what they were trained to say in the end."""
        import torch

        settings, net = self.settings, self.net
        data = load(self.images, self.device, self.built.loaded.preprocessing)
        trained = self._trained()
        net.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        optimiser = torch.optim.AdamW(groups_of(trained, settings.decay), lr=settings.rate)
        course = Course(settings.epochs, settings.batch, settings.rate, settings.seed)
        train(self, data, optimiser, course, settings.out / f"{self.name}.checkpoint")
        with torch.no_grad():
            for parameter in net.gates.parameters():
                parameter.mul_(settings.sharpen)
        self.sharp = 1.0

    def _trained(self) -> list[nn.Parameter]:
        """What is not frozen."""
        net, settings = self.net, self.settings
        if settings.objective == "gated" and settings.freeze:
            new: list[Any] = [net.gates] if self.built.trained_heads else [net.gates, net.heads]
        elif settings.objective == "frozen" or settings.freeze:
            new = [net.heads]
        else:
            new = [net]
        return [parameter for module in new for parameter in module.parameters()]

    @property
    def remedy(self) -> str:
        """See ``Trainee``."""
        return "a lower --rate, or --price?" if self.settings.price else "a lower --rate?"

    def begin(self) -> None:
        """What is frozen stays in evaluation mode: its batch norms must not move."""
        self.net.train()
        frozen = self.settings.objective == "frozen" or self.settings.freeze
        if frozen:
            self.net.backbone.eval()
        if frozen and self.settings.objective == "gated" and self.built.trained_heads:
            self.net.heads.eval()

    def loss(self, images: Tensor, labels: Tensor, epoch: int, done: float) -> Tensor:  # noqa: ARG002
        """See ``Trainee``."""
        import torch

        settings, x = self.settings, images
        self.sharp = settings.sharpen**done
        if settings.augment:
            colour = images.shape[1] == 3
            x = augmented(images, cutout=settings.cutout, flip=colour, pad=4 if colour else 2)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.mixed and fast_bfloat16(self.device)):
            spoken = self.said(x)
        return self.objective(spoken, labels)

    def end(self, line: dict[str, float]) -> str:
        """Accuracy of every exit, and of the gates' choice with the share that stops at each, on some test images."""
        if self.test is not None:
            line |= self.measured(Labelled(self.test.images[:WATCHED], self.test.labels[:WATCHED]))
        self._write_log([*self.log, line])
        told = (f"{key} {value:.4g}" for key, value in line.items() if key not in ("epoch", "seconds"))
        return f"{', '.join(told)};"

    def said(self, x: Tensor) -> BranchOutputs:
        """What all exits, and the gates if there are some, say of images (n, c, h, w)."""
        import torch

        from offramp.cascades.training.objectives import BranchOutputs

        logits, gates = [], []
        for i, state in enumerate(self.net.states(x)):
            logits.append(self.net.head(i, state))
            if i < len(self.net.gates):
                gates.append(self.net.gate(i, state))
        return BranchOutputs(logits, self.sharp * torch.stack(gates, dim=1) if gates else None)

    def measured(self, data: Labelled) -> dict[str, float]:
        """Accuracy and share of every exit, and of the gates' choice, on ``data``."""
        import torch

        right = torch.zeros(len(self.net), dtype=torch.float64)
        shares = torch.zeros(len(self.net), dtype=torch.float64)
        gated, soft = 0.0, 0.0
        costs = torch.tensor(self.objective.costs, dtype=torch.float64)
        self.net.eval()
        with torch.inference_mode():
            for begin in range(0, len(data.labels), EVALUATION_BATCH):
                rows = slice(begin, begin + EVALUATION_BATCH)
                spoken = self.said(data.images[rows].contiguous(memory_format=torch.channels_last))
                hits = torch.stack([z.argmax(1) == data.labels[rows] for z in spoken.logits], dim=1).cpu()
                right += hits.sum(dim=0)
                if spoken.gates is not None:
                    from offramp.cascades.training.objectives import expected_cost

                    stops = torch.cat([spoken.gates.cpu() >= 0, torch.ones(len(hits), 1, dtype=torch.bool)], dim=1)
                    first = stops.int().argmax(dim=1)
                    shares += torch.bincount(first, minlength=len(shares))
                    gated += float(hits[torch.arange(len(hits)), first].sum())
                    soft += float(expected_cost(spoken.gates, costs.to(self.device))) * len(hits)
        n = len(data.labels)
        found = {f"accuracy_e{i + 1}": float(each) / n for i, each in enumerate(right)}
        if len(self.net.gates):
            found |= {f"share_e{i + 1}": float(each) / n for i, each in enumerate(shares)}
            found |= {"accuracy_gated": gated / n, "cost_gated": float(shares @ costs) / n, "cost_soft": soft / n}
        return found

    def report(self) -> dict[str, str]:
        """What is said at the end, and stands in the file: accuracies on all test images."""
        found = {} if self.test is None else self.measured(self.test)
        untaught = [str(i + 1) for i, each in enumerate(self.objective.weights[:-1]) if not each]
        if untaught and self.settings.objective == "joint" and not self.settings.distill:
            say(f"{self.name}: exits that no loss taught (weight 0): {', '.join(untaught)}")
        for i in range(len(self.net)) if found else ():
            say(f"{self.name}: exit {i + 1}: {found[f'accuracy_e{i + 1}']:.2%} right")
        if len(self.net.gates) and not found:
            some = load(self.images.take(slice(0, WATCHED)), self.device, self.built.loaded.preprocessing)
            self._tell_of_gates(self.measured(some))
        elif len(self.net.gates):
            self._tell_of_gates(found)
        return {key: f"{value:.4f}" for key, value in found.items()}

    def _tell_of_gates(self, found: Mapping[str, float]) -> None:
        """What the gates do with ``measured`` examples, and whether that is a trade-off."""
        shares = [found[f"share_e{i + 1}"] for i in range(len(self.net))]
        told = ", ".join(f"{share:.1%} at exit {i + 1}" for i, share in enumerate(shares))
        say(f"{self.name}: gates: {found['accuracy_gated']:.2%} right; {told}")
        if starved := [str(i + 1) for i, share in enumerate(shares) if share < STARVED]:
            all_at_one = ""
            if len(starved) == len(shares) - 1:
                all_at_one = (
                    f": all stop at exit {1 + max(range(len(shares)), key=lambda i: shares[i])}, so that the gates "
                )
                all_at_one += "are no trade-off at this price (or were not trained for long enough)"
            say(f"{self.name}: exits that get no examples: {', '.join(starved)}{all_at_one}")

    @property
    def about(self) -> dict[str, str]:
        """What a run must share with the one whose checkpoint it goes on from."""
        settings = self.settings
        kept = (
            "objective",
            "weights",
            "loss",
            "sharpen",
            "augment",
            "mixed",
            "price",
            "distill",
            "epochs",
            "rate",
            "decay",
            "batch",
            "cutout",
            "seed",
        )
        return {
            "network": settings.network,
            "exits": self.built.branching.text(),
            "images": self.images.fingerprint,
            "classes": ", ".join(self.images.classes),
            "start": str(settings.start or "none"),
            "frozen": str(settings.freeze),
            "costs": str(self.objective.costs),
            **{key: str(getattr(settings, key)) for key in kept},
        }

    def _write_log(self, log: Sequence[Mapping[str, float]]) -> None:
        """The log as a table and as a picture."""
        from offramp.features.store.atomic import replacing

        with (
            replacing(self.settings.out / f"{self.name}.log.csv") as temporary,
            temporary.open("w", newline="") as file,
        ):
            table = csv.DictWriter(file, list(dict.fromkeys(key for line in log for key in line)), restval="")
            table.writeheader()
            table.writerows(log)
        if any(key.startswith("accuracy") for key in log[-1]):
            with replacing(self.settings.out / f"{self.name}.log.png") as temporary:
                log_picture(log, self.name).savefig(temporary, format="png", dpi=150)


def log_picture(log: Sequence[Mapping[str, float]], name: str) -> Figure:
    """Accuracy of every exit over the epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for key in (key for key in log[-1] if key.startswith("accuracy")):
        known = [line for line in log if key in line]
        label = key.removeprefix("accuracy_").replace("e", "exit ", 1) if key != "accuracy_gated" else "gates"
        style = "--" if key == "accuracy_gated" else "-"
        axes.plot(
            [line["epoch"] for line in known],
            [100 * line[key] for line in known],
            style,
            marker="o",
            markersize=3,
            label=label,
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel("right, % of test images")
    axes.set_title(name, loc="left", fontsize=10)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
