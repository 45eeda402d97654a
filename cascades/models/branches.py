"""A network cut behind some of its layers, and answers at each cut: one trunk whose segments run one after another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from importlib import import_module
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, fx, nn

from offramp.cascades.models.nets import conv_norm
from offramp.features.errors import InputError

SHOWN = 6
"""How many layers an error lists before it stops."""

NUMBER = re.compile(r"[0-9]{1,9}")
REST = 0.01
"""Share of the multiply-adds that a network has to have left behind a block for an exit there to be of use."""

EVERY = ("blocks", "stages")
"""Words that stand for cuts: behind every block, or behind the last one of every size of the feature map."""


# --- where a network can be cut


@dataclass(frozen=True)
class Cut:
    """A place where one tensor is all that the rest of the network needs.

    ``layer``: the outermost module that ends there, as ``named_modules`` calls it. ``shape``: of the tensor for one
    image, without the first dimension. ``work``: multiply-adds of one image up to here, in all.
    """

    layer: str
    shape: tuple[int, ...]
    work: int


@dataclass(frozen=True)
class Traced:
    """A network as a graph: its nodes in order, and the nodes behind which it can be cut."""

    module: nn.Module
    graph: fx.Graph
    cuts: tuple[tuple[fx.Node, Cut], ...]
    work: int


class _Tracer(fx.Tracer):
    """Follows Python until a module of torch, or one that ``leaves`` names, which is called as a whole."""

    def __init__(self, leaves: tuple[type[nn.Module], ...], functions: tuple[Callable[..., Any], ...]) -> None:
        super().__init__(autowrap_functions=functions)
        self.leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the module is one node."""
        return isinstance(m, self.leaves) or super().is_leaf_module(m, module_qualified_name)


def trace(module: nn.Module, shape: Sequence[int]) -> Traced:
    """The graph of ``module``, in evaluation mode, for one image of ``shape`` (channels, h, w), with its cuts.

    Raises InputError for a network whose way depends on its input, which no graph can show.
    """
    training = module.training
    module.eval()
    leaves, functions = _timm_leaves(module)
    try:
        graph = _Tracer(leaves, functions).trace(_OneInput(module))
    except (
        fx.proxy.TraceError,
        NameError,
        TypeError,
        RuntimeError,
        ValueError,
        AssertionError,
        NotImplementedError,
    ) as error:
        found = str(error).strip().partition("\n")[0][:200]
        raise InputError("a network that torch.fx can trace", found, type(module).__name__) from error
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = node.target.removeprefix("module.")
    image = torch.zeros(1, *shape, device=next(module.parameters()).device)
    seen = _walk(module, graph, image)
    module.train(training)
    return Traced(module, graph, tuple(_cuts(graph, seen)), max(work for _, work in seen.values()))


class _OneInput(nn.Module):
    """A network that takes images and nothing else: what it could be given besides has its default."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Any:
        """What the network answers."""
        return self.module(x)


def _timm_leaves(module: nn.Module) -> tuple[tuple[type[nn.Module], ...], tuple[Callable[..., Any], ...]]:
    """What timm says cannot be traced through."""
    if not type(module).__module__.startswith("timm."):
        return (), ()
    layers: Any = import_module("timm.layers")
    return tuple(layers.get_notrace_modules()), tuple(layers.get_notrace_functions())


def _walk(module: nn.Module, graph: fx.Graph, image: Tensor) -> dict[fx.Node, tuple[Any, int]]:
    """What comes out of every node for one image (its shape if a tensor), and multiply-adds so far."""
    from torch.utils.flop_counter import FlopCounterMode

    found: dict[fx.Node, tuple[Any, int]] = {}
    counter = FlopCounterMode(display=False)

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            what = tuple(result.shape) if isinstance(result, Tensor) else None
            found[n] = (what, counter.get_total_flops() // 2)
            return result

    with torch.no_grad(), counter:
        Watch(fx.GraphModule(module, graph)).run(image)
    return found


def _cuts(graph: fx.Graph, seen: Mapping[fx.Node, tuple[Any, int]]) -> Iterator[tuple[fx.Node, Cut]]:
    """Nodes behind which nothing but their own tensor is needed, and after which something is still computed."""
    nodes = [node for node in graph.nodes if node.op != "get_attr"]
    last = {node: i for i, node in enumerate(nodes)}
    until = {node: max((last[user] for user in node.users), default=last[node]) for node in nodes}
    whole = seen[nodes[-1]][1]
    reach = 0  # the latest use of anything computed so far, but for the node itself
    for i, node in enumerate(nodes):
        shape, work = seen[node]
        inside = node.op in ("call_module", "call_function", "call_method")
        if inside and reach <= i and shape is not None and len(shape) >= 3 and shape[0] == 1 and work < whole:
            yield node, Cut(_ends(node, nodes[i + 1 :]), shape[1:], work)
        reach = max(reach, until[node])


def _ends(node: fx.Node, later: Sequence[fx.Node]) -> str:
    """The outermost module whose last node this is; the node's own name if it is in none."""
    inside = {name for other in later for name in _modules(other)}
    own = [name for name in _modules(node) if name and name not in inside]
    return min(own, key=len) if own else str(node.name)


def _modules(node: fx.Node) -> list[str]:
    """Qualified names of the modules that the node is in, outermost first."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [str(value[0]).removeprefix("module").removeprefix(".") for value in stack.values()]
    return [*names, str(node.target)] if node.op == "call_module" and str(node.target) not in names else names


def blocks(traced: Traced) -> list[Cut]:
    """The last cut before each piece of work: behind every block, be it one convolution or a residual block.

    But where next to nothing is left to do (``REST``): an exit there would answer what the network answers.
    """
    found = [cut for _, cut in traced.cuts if cut.work]
    ends = [cut for cut, after in zip(found, [*found[1:], None], strict=True) if not after or after.work > cut.work]
    return [cut for cut in ends if traced.work - cut.work > REST * traced.work]


def choose_cuts(traced: Traced, wanted: str | int | Sequence[str]) -> list[Cut]:
    """The cuts that ``wanted`` means, in the network's order.

    ``blocks``: behind every block; ``stages``: behind the last layer of every size of the feature map, of the outermost
    ones that there are (a block, rather than a convolution inside the next); a number k: the blocks nearest to equal
    shares, so that k exits before the last one cut the multiply-adds into k + 1 parts as equal as they can be; else
    names of layers. Raises InputError for a layer that does not exist (the nearest names are
    shown), inside which more than one tensor is under way, or behind which nothing is left but the answer.
    """
    every = blocks(traced)
    if not every:
        raise InputError("a network that can be cut", "one without a place where one tensor is all", "exits")
    if wanted == "blocks":
        return every
    if wanted == "stages":
        groups = [list(group) for _, group in groupby(every, key=lambda cut: _space(cut.shape))]
        # where a block ends, not inside the next one, which may shrink the map in its middle
        return [min(reversed(group), key=lambda cut: cut.layer.count(".")) for group in groups]
    if isinstance(wanted, int) or (isinstance(wanted, str) and NUMBER.fullmatch(wanted)):
        return _equal(traced, every, int(wanted))
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    chosen = [_named(traced, name) for name in names]
    order = sorted({cut.layer: cut for cut in chosen}.values(), key=lambda cut: _place(traced, cut))
    if len(order) < len(chosen):
        raise InputError("every exit once", ", ".join(names), "exits")
    return order


def _equal(traced: Traced, every: Sequence[Cut], k: int) -> list[Cut]:
    if not 1 <= k <= len(every):
        raise InputError(f"1 to {len(every)} exits, as many as there are blocks", str(k), "exits")
    found: list[int] = []
    for i in range(1, k + 1):
        # as near as can be to its share, leaving room for those that follow
        low, high = (found[-1] + 1 if found else 0), len(every) - (k - i)
        goal = traced.work * i / (k + 1)
        found.append(min(range(low, high), key=lambda j: abs(every[j].work - goal)))
    return [every[j] for j in found]


def _place(traced: Traced, cut: Cut) -> int:
    return next(i for i, (_, other) in enumerate(traced.cuts) if other == cut)


def _named(traced: Traced, name: str) -> Cut:
    """The last cut at which the layer ``name`` has ended."""
    for _, cut in reversed(traced.cuts):
        if cut.layer == name:
            return cut
    modules = dict(traced.module.named_modules())
    there = [cut.layer for _, cut in traced.cuts]
    if name not in modules and name not in there:
        near = get_close_matches(name, dict.fromkeys([*there, *filter(None, modules)]), n=SHOWN, cutoff=0.4)
        listed = ", ".join(near or there[-SHOWN:])
        raise InputError(f"a layer of the network, such as {listed}", repr(name), "exits")
    # the end of a module inside another that ends at the same node
    nodes = [node for node in traced.graph.nodes if name in _modules(node)]
    behind = [cut for node, cut in traced.cuts if nodes and node is nodes[-1]]
    if behind:
        return behind[0]
    end = max((i for i, node in enumerate(traced.graph.nodes) if name in _modules(node)), default=-1)
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    rest = [cut for node, cut in traced.cuts if order[node] > end]
    before = [cut.layer for node, cut in traced.cuts if order[node] < end][-2:]
    if not rest:
        raise InputError(f"a layer before the classifier, such as {', '.join(before)}", repr(name), "exits")
    about = ", ".join([*before[-1:], rest[0].layer])
    raise InputError(
        f"a layer behind which one tensor is all that the rest needs, such as {about}", repr(name), "exits"
    )


# --- what answers at a cut


@dataclass(frozen=True)
class Exit:
    """An exit behind ``layer``: ``convs`` 3x3 convolutions of so many channels, then one linear layer.

    Without convolutions the linear layer sees averages over the feature map (Bolukbasi et al., 2017); with them, each
    followed by batch norm, ReLU and a pooling that halves the map, it sees what is left of it (BranchyNet).
    """

    layer: str
    convs: tuple[int, ...] = ()


class LinearHead(nn.Module):
    """Average over the feature map, then one linear layer. (n, channels, h, w) -> logits (n, classes)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of feature maps."""
        return self.linear(pooled(x))  # type: ignore[no-any-return]


class ConvHead(nn.Module):
    """Convolutions, then one linear layer on the whole map. (n, channels, h, w) -> logits (n, classes)."""

    def __init__(self, shape: Sequence[int], convs: Sequence[int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        layers: list[nn.Module] = []
        for outputs in convs:
            layers.append(conv_norm(channels, outputs, 3))
            if min(height, width) >= 2:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            channels = outputs
        self.convs = nn.Sequential(*layers)
        self.linear = nn.Linear(channels * height * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of feature maps."""
        return self.linear(self.convs(x).flatten(1))  # type: ignore[no-any-return]


def pooled(x: Tensor) -> Tensor:
    """Averages over the map (n, channels, h, w) or (n, h, w, channels), or over the tokens (n, t, d)."""
    dims = {4: (1, 2) if _last(x.shape[1:]) else (2, 3), 3: (1,)}.get(x.ndim, tuple(range(2, x.ndim)))
    return x.mean(dim=dims)


def _last(shape: Sequence[int]) -> bool:
    """Whether channels stand last in ``shape``: of tokens (t, d), and where the other two of three are alike."""
    return len(shape) == 2 or (len(shape) == 3 and shape[0] == shape[1] != shape[2])


def _channels(shape: Sequence[int]) -> int:
    return shape[-1] if _last(shape) else shape[0]


def _space(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(shape[:-1] if _last(shape) else shape[1:])


# --- the branched network


class BranchedNet(nn.Module):
    """``backbone`` cut behind the layers of ``exits``, a head at each cut, the backbone's own answer at the end.

    k exits, numbered from 0; the last one is the backbone's. ``segment`` i leads from cut i - 1 (0: the images) to cut
    i, or for the last one to the logits, so that an example that left costs nothing more. With ``gated``, a gate at
    each cut but the last (Scardapane et al., 2020): one linear unit on averages over the feature map.

    The segments share the backbone's parameters; the state dict is the backbone's under ``backbone.``, ``heads.I.``
    and ``gates.I.``. Raises InputError for exits that can't be where they should.
    """

    def __init__(
        self, backbone: nn.Module, exits: Sequence[Exit], shape: Sequence[int], classes: int, gated: bool = False
    ) -> None:
        super().__init__()
        traced = trace(backbone, shape)
        cuts = choose_cuts(traced, [each.layer for each in exits]) if exits else []
        by_layer = {_named(traced, each.layer).layer: each for each in exits}
        self.exits = tuple(Exit(cut.layer, by_layer[cut.layer].convs) for cut in cuts)
        self.cuts = tuple(cuts)
        self.work = traced.work
        self.backbone = backbone
        self.heads = nn.ModuleList(_head(cut, each, classes) for cut, each in zip(cuts, self.exits, strict=True))
        self.gates = nn.ModuleList(nn.Linear(_channels(cut.shape), 1) for cut in cuts if gated)
        self._segments = tuple(_segments(traced, [node for node, cut in traced.cuts if cut in cuts]))

    def __len__(self) -> int:
        """How many exits there are, the last one counted."""
        return len(self._segments)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> BranchedNet:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for segment in self._segments:  # buffers that stand in the graph itself are the segment's own
            segment._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def segment(self, i: int, x: Tensor) -> Tensor:
        """From cut i - 1 (or the images) to cut i (or the logits)."""
        return self._segments[i](x)  # type: ignore[no-any-return]

    def piece(self, i: int) -> fx.GraphModule:
        """Segment ``i`` as a module."""
        return self._segments[i]

    def head(self, i: int, x: Tensor) -> Tensor:
        """Logits (n, c) of exit i, of what ``segment`` i gave."""
        return self.heads[i](x) if i < len(self.heads) else x

    def gate(self, i: int, x: Tensor) -> Tensor:
        """(n,) log odds that an example stops at exit i, of what ``segment`` i gave."""
        return self.gates[i](pooled(x))[:, 0]  # type: ignore[no-any-return]

    def states(self, x: Tensor) -> Iterator[Tensor]:
        """What each segment gives, one after another, each computed when it is asked for."""
        for segment in self._segments:
            x = segment(x)
            yield x

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits (n, c) of every exit, of images (n, channels, h, w)."""
        return [self.head(i, state) for i, state in enumerate(self.states(x))]


class GatedHead(nn.Module):
    """What an exit and its gate say at once: logits, and behind them the log odds that an example stops there."""

    def __init__(self, net: BranchedNet, place: int) -> None:
        super().__init__()
        self.head, self.gate = net.heads[place], net.gates[place]

    def forward(self, x: Tensor) -> Tensor:
        """(n, c + 1) of what the trunk's segment gave."""
        logits = self.head(x)
        return torch.cat([logits, self.gate(pooled(x)).to(logits.dtype)], dim=1)


class ExitModule(nn.Module):
    """One exit of a branched network as a network of its own: everything up to it, and its head."""

    def __init__(self, net: BranchedNet, place: int) -> None:
        super().__init__()
        self.net, self.place = net, place

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, c) of images (n, channels, h, w)."""
        for i in range(self.place + 1):
            x = self.net.segment(i, x)
        return self.net.head(self.place, x)

    def used(self) -> Iterator[nn.Parameter]:
        """The parameters that the exit's answer depends on."""
        pieces = [self.net.piece(i) for i in range(self.place + 1)]
        heads = self.net.heads[self.place : self.place + 1]
        yield from dict.fromkeys(p for piece in (*pieces, *heads) for p in piece.parameters())


def _head(cut: Cut, wanted: Exit, classes: int) -> nn.Module:
    if not wanted.convs:
        return LinearHead(_channels(cut.shape), classes)
    if len(cut.shape) != 3 or _last(cut.shape):
        raise InputError(
            "a linear head behind what is no feature map (n, channels, h, w)", "convolutions", f"exit at {cut.layer}"
        )
    return ConvHead(cut.shape, wanted.convs, classes)


def _segments(traced: Traced, ends: Sequence[fx.Node]) -> Iterator[fx.GraphModule]:
    """The graph in pieces, each from one of ``ends`` to the next, on the module's own layers."""
    graph, copies, source = fx.Graph(), {}, None
    nodes = list(traced.graph.nodes)

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies and node.op == "get_attr":  # parameters that stand in the graph itself
            copies[node] = graph.node_copy(node, copied)
        return copies[node]

    for node in nodes:
        if node.op == "get_attr":
            continue
        if source is not None:
            graph, copies = fx.Graph(), {}
            copies[source] = graph.placeholder("x")
            source = None
        if node.op == "output":
            graph.output(graph_argument(node.args[0], copied))
        else:
            copies[node] = _kept_whole(traced.module, graph.node_copy(node, copied))
        if node in ends:
            graph.output(copies[node])
            source = node
        elif node.op != "output":
            continue
        graph.lint()
        yield fx.GraphModule(traced.module, graph)


def _kept_whole(module: nn.Module, node: fx.Node) -> fx.Node:
    """The node, made to leave a segment's input as it is: a head and a gate look at it too."""
    if any(each.op == "placeholder" for each in node.all_input_nodes):
        if node.op == "call_module" and getattr(module.get_submodule(str(node.target)), "inplace", False):
            module.get_submodule(str(node.target)).inplace = False  # type: ignore[assignment]
        if node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
    return node


def graph_argument(argument: Any, copied: Callable[[fx.Node], fx.Node]) -> Any:
    """What the graph gives back, in the copy's own nodes. Raises InputError for anything but one tensor."""
    if not isinstance(argument, fx.Node):
        raise InputError("a network that answers with one tensor", type(argument).__name__, "exits")
    return copied(argument)


# --- what a file says of its exits


@dataclass(frozen=True)
class Branching:
    """All that has to be known, besides the backbone's architecture, to build a branched network again."""

    exits: tuple[Exit, ...]
    gated: bool = False

    def text(self) -> str:
        """As it stands in a file of weights."""
        import json

        return json.dumps({"exits": [asdict(each) for each in self.exits], "gated": self.gated})

    @staticmethod
    def read(text: str, where: str) -> Branching:
        """From what ``text`` wrote. Raises InputError for anything else."""
        import json

        try:
            found = json.loads(text)
            exits = tuple(Exit(str(each["layer"]), tuple(int(c) for c in each["convs"])) for each in found["exits"])
            return Branching(exits, bool(found["gated"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError("exits as cascades.training writes them", str(error), where) from error


def parse_exits(traced: Traced, text: str, heads: str, width: int = 32) -> tuple[Exit, ...]:
    """Exits as a command line has them: ``blocks``, ``stages``, a number, or layers, each ``LAYER`` or ``LAYER:CONVS``.

    ``CONVS`` says how many 3x3 convolutions the head has; else 0 if ``heads`` is linear, 1 if it is conv. ``width``:
    their channels, at least.
    """
    if text in EVERY or NUMBER.fullmatch(text):
        cuts, convs = choose_cuts(traced, text), {}
    else:
        pairs = [re.fullmatch(r"(.+?)(?::(\d+))?", part.strip()) for part in text.split(",")]
        if not all(pairs):
            raise InputError("blocks, stages, a number, or LAYER[:CONVS],...", repr(text), "--exits")
        given = [(found[1], found[2]) for found in pairs if found]
        cuts = choose_cuts(traced, [layer for layer, _ in given])
        convs = {_named(traced, layer).layer: int(count) for layer, count in given if count is not None}
    default = 0 if heads == "linear" else 1
    return tuple(Exit(cut.layer, (max(width, _channels(cut.shape)),) * convs.get(cut.layer, default)) for cut in cuts)
