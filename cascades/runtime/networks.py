"""Loaded networks turned into the callables that the runtime runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from offramp.features.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from offramp.cascades.models.branches import BranchedNet
    from offramp.cascades.models.zoo import StageModel


@dataclass(frozen=True)
class Trunk:
    """A branched network on its device, whose exits are stages."""

    name: str
    net: BranchedNet
    pieces: tuple[Any, ...]
    heads: tuple[Any, ...]


@dataclass(frozen=True)
class Network:
    """One stage on its device: pixels (n, h, w, channels) of 8 bits in, logits (n, c) float32 out.

    On a branched network it is exit number ``exit`` of ``trunk``.
    """

    name: str
    module: Any
    preprocessing: Any
    autocast: Any = None
    trunk: Trunk | None = None
    exit: int = 0

    def inputs(self, pixels: Tensor) -> Tensor:
        """What the network is given."""
        return self.preprocessing.normalise(pixels)  # type: ignore[no-any-return]

    def logits(self, inputs: Tensor) -> Tensor:
        """Logits (n, c) float32 of what ``inputs`` gave."""
        return self._cast(self.module, inputs).float()

    def said(self, inputs: Tensor) -> Tensor:
        """As ``head``, of what ``inputs`` gave; of a network without exits its logits."""
        if self.trunk is None:
            return self.logits(inputs)
        for i in range(self.exit + 1):
            inputs = self.segment(i, inputs)
        return self.head(inputs)

    def segment(self, i: int, x: Tensor) -> Tensor:
        """Segment ``i`` of the trunk: from cut i - 1 (0: what ``inputs`` gave) to cut i."""
        assert self.trunk is not None
        return self._cast(self.trunk.pieces[i], x)

    def head(self, x: Tensor) -> Tensor:
        """Logits (n, c) float32 of what the trunk's segment number ``exit`` gave; (n, c + 1) with its gate's behind."""
        assert self.trunk is not None
        return self._cast(self.trunk.heads[self.exit], x).float()

    def _cast(self, module: Any, x: Tensor) -> Tensor:
        """What a module makes of ``x``, in the precision asked for."""
        if self.autocast is None:
            return module(x)  # type: ignore[no-any-return]
        with self.autocast():
            return module(x)  # type: ignore[no-any-return]


def networks(
    models: Sequence[StageModel],
    device: torch.device,
    dtype: str = "float32",
    compiled: bool = False,
    gates: bool = False,
) -> tuple[Network, ...]:
    """The models on ``device``, in eval mode and channels-last; ``dtype`` "bfloat16" multiplies in it (autocast).

    With ``gates``, exits that have one say it too, in a column behind their logits, for a cascade that looks at gates.
    """
    import torch

    def autocast() -> Any:
        return torch.autocast(device.type, torch.bfloat16)

    if dtype not in ("float32", "bfloat16"):
        raise InputError("float32 or bfloat16", repr(dtype), "dtype")

    def ready(module: Any) -> Any:
        module = module.eval().to(device).to(memory_format=torch.channels_last)
        return torch.compile(module, dynamic=True) if compiled else module

    found = []
    trunks: dict[str, Trunk] = {}
    for model in models:
        place, cast = model.place, autocast if dtype == "bfloat16" else None
        module = ready(model.module)
        if place is None:
            found.append(Network(model.name, module, model.preprocessing, cast))
            continue
        if place.network not in trunks:
            pieces = tuple(ready(place.net.piece(i)) for i in range(len(place.net)))
            heads = (*map(ready, heads_of(place.net, gates)), _unchanged)
            trunks[place.network] = Trunk(place.network, place.net, pieces, heads)
        found.append(Network(model.name, module, model.preprocessing, cast, trunks[place.network], place.exit))
    return tuple(found)


def heads_of(net: BranchedNet, gates: bool) -> list[Any]:
    """The heads of a branched network; with ``gates``, those that have one together with it."""
    from offramp.cascades.models.branches import GatedHead

    return [GatedHead(net, i) if gates and i < len(net.gates) else head for i, head in enumerate(net.heads)]


def _unchanged(x: Tensor) -> Tensor:
    return x
