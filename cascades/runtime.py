"""Live batches turned into answers by a cascade of networks, each run only on the examples that reach it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cascades.live import LiveCascade
from features.errors import InputError
from features.outputs import Ints

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cascades.zoo import StageModel


@dataclass(frozen=True)
class Served:
    """What became of n examples, in the order in which they came.

    ``answer`` (n,) classes; ``path`` (n,) indexes the routes' paths, its last stage is where the example stopped;
    ``batches`` the size of every batch that a stage was run on, as (stage, size).
    """

    answer: Ints
    path: Ints
    batches: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Network:
    """One stage on its device: pixels (n, h, w, channels) of 8 bits in, logits (n, c) float32 out."""

    name: str
    module: Any
    preprocessing: Any
    autocast: Any = None

    def inputs(self, pixels: Tensor) -> Tensor:
        """What the network is given."""
        return self.preprocessing.normalise(pixels)  # type: ignore[no-any-return]

    def logits(self, inputs: Tensor) -> Tensor:
        """Logits (n, c) float32 of what ``inputs`` gave."""
        if self.autocast is None:
            return self.module(inputs)  # type: ignore[no-any-return]
        with self.autocast():
            return self.module(inputs).float()  # type: ignore[no-any-return]


def networks(
    models: Sequence[StageModel], device: torch.device, dtype: str = "float32", compiled: bool = False
) -> tuple[Network, ...]:
    """The models on ``device``, in eval mode and channels-last; ``dtype`` "bfloat16" multiplies in it (autocast)."""
    import torch

    def autocast() -> Any:
        return torch.autocast(device.type, torch.bfloat16)

    if dtype not in ("float32", "bfloat16"):
        raise InputError("float32 or bfloat16", repr(dtype), "dtype")
    found = []
    for model in models:
        module: Any = model.module.eval().to(device).to(memory_format=torch.channels_last)
        if compiled:
            module = torch.compile(module, dynamic=True)
        found.append(Network(model.name, module, model.preprocessing, autocast if dtype == "bfloat16" else None))
    return tuple(found)


@dataclass(frozen=True)
class Runtime:
    """A cascade on a device: ``stages`` are the routes' stages, in order.

    ``live`` decides on numpy arrays where the device is the CPU, on tensors elsewhere. ``coin`` seeds the draws of a
    mixture. Compacted: a stage sees only the examples that reached it, and after each stage there is one wait for
    the device, for the actions.
    """

    stages: tuple[Network, ...]
    live: LiveCascade
    device: torch.device
    coin: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))

    def __post_init__(self) -> None:
        """Refuse networks that are not the cascade's stages."""
        names = tuple(stage.name for stage in self.stages)
        if names != self.live.routes.stages:
            raise InputError(f"the stages {', '.join(self.live.routes.stages)}", ", ".join(names), "runtime")

    def run(self, pixels: Mapping[Any, Tensor], plan: Ints | None = None) -> Served:
        """Answer a batch: ``pixels`` (n, h, w, channels) uint8 for each crop (``preprocessing.pixels_key``).

        ``plan`` (n,) says which plan each example follows; drawn by the shares if there are several and it is None.
        """
        import torch

        with torch.inference_mode():
            return self._run(Batch(pixels, self.device), plan)

    def _run(self, batch: Batch, plan: Ints | None) -> Served:
        live = self.live
        n = len(batch)
        if plan is None and len(live.plans) > 1:
            plan = self.coin.choice(len(live.plans), n, p=live.shares)
        answer, path = np.zeros(n, np.int64), np.zeros(n, np.int64)
        held: dict[int, Held] = {}
        waiting: dict[tuple[int, int], Ints | None] = {}  # plan and path -> rows; None: all of them
        for p, each in enumerate(live.plans):
            mine = None if plan is None else np.flatnonzero(plan == p)
            if mine is None or len(mine):
                waiting[p, each.entry] = mine
        batches = []
        while waiting:
            stage = min(live.routes.paths[q][-1] for _, q in waiting)
            here = [(key, waiting.pop(key)) for key in list(waiting) if live.routes.paths[key[1]][-1] == stage]
            rows = _together([mine for _, mine in here])
            batches.append((stage, n if rows is None else len(rows)))
            held[stage] = Held(rows, self._logits(batch, stage, rows))
            for (p, q), group in here:
                seen = [held[s].at(group) for s in live.routes.paths[q]]
                action, said = self._decided(*live.plans[p].decide[q](seen), stage, held[stage].logits)
                if group is None and not action.any():
                    return Served(said, np.full(n, q), tuple(batches))
                self._settle(action, said, (p, q), group, answer, path, waiting)
        return Served(answer, path, tuple(batches))

    def _settle(
        self,
        action: Ints,
        said: Ints,
        key: tuple[int, int],
        mine: Ints | None,
        answer: Ints,
        path: Ints,
        waiting: dict[tuple[int, int], Ints | None],
    ) -> None:
        """Write down who stops; put who goes on where it goes on to."""
        p, q = key
        stop = (action == 0).nonzero()[0]
        rows = stop if mine is None else mine[stop]
        answer[rows], path[rows] = said[stop], q
        if len(stop) == len(action):
            return
        for way, child in enumerate(self.live.routes.children[q], start=1):
            going = (action == way).nonzero()[0]
            if len(going):
                rows = going if mine is None else mine[going]
                before = waiting.get((p, child))
                waiting[p, child] = rows if before is None else np.sort(np.concatenate([before, rows]))

    def _logits(self, batch: Batch, stage: int, rows: Ints | None) -> Any:
        network = self.stages[stage]
        logits = network.logits(batch.inputs(network, rows))
        return logits.numpy() if self.device.type == "cpu" else logits

    def _decided(self, action: Any, said: Any, stage: int, logits: Any) -> tuple[Ints, Ints]:
        """Actions and answers on the host, in one transfer, once the logits they come from are known to be finite."""
        if isinstance(action, np.ndarray):
            finite = bool(np.isfinite(np.add.reduce(logits, None)) or np.isfinite(logits).all())
        else:
            import torch

            checked = torch.isfinite(logits).all()[None].long()
            both = torch.cat([action.long(), said.long(), checked]).cpu().numpy()
            action, said, finite = both[: len(action)], both[len(action) : -1], bool(both[-1])
        if not finite:
            raise InputError("finite logits", "NaN or infinity", f"network {self.stages[stage].name!r}")
        return action, said


def _together(groups: Sequence[Ints | None]) -> Ints | None:
    """All rows of the groups, rising; one group, which alone may be None (all), as it is."""
    if len(groups) == 1:
        return groups[0]
    return np.sort(np.concatenate([rows for rows in groups if rows is not None]))


@dataclass(frozen=True)
class Held:
    """Logits of a stage for the examples ``rows``, rising (None: all)."""

    rows: Ints | None
    logits: Any

    def at(self, rows: Ints | None) -> Any:
        """Logits of the examples ``rows``, which are among these."""
        if rows is None or rows is self.rows:
            return self.logits
        index = rows if self.rows is None else np.searchsorted(self.rows, rows)
        if isinstance(self.logits, np.ndarray):
            return self.logits[index]
        import torch

        return self.logits[torch.from_numpy(index).to(self.logits.device)]


class Batch:
    """Pixels on the device, what the networks are given of them made once for all that want the same."""

    def __init__(self, pixels: Mapping[Any, Tensor], device: torch.device) -> None:
        self.pixels = dict(pixels)
        self.device = device
        self.made: dict[Any, Tensor] = {}

    def __len__(self) -> int:
        return len(next(iter(self.pixels.values())))

    def inputs(self, network: Network, rows: Ints | None) -> Tensor:
        """Inputs of ``network`` for the examples ``rows``, rising (None: all)."""
        key = network.preprocessing
        if key in self.made:
            return self._gathered(self.made[key], rows)
        there = self.pixels[key.pixels_key]
        if there.device != self.device:
            there = self.pixels[key.pixels_key] = there.to(self.device, non_blocking=True)
        if rows is None or len(rows) == len(self):
            self.made[key] = network.inputs(there)
            return self.made[key]
        return network.inputs(self._gathered(there, rows))

    @staticmethod
    def _gathered(x: Tensor, rows: Ints | None) -> Tensor:
        if rows is None or len(rows) == len(x):
            return x
        import torch

        return x[torch.from_numpy(rows).to(x.device, non_blocking=True)]
