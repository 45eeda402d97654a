"""Live batches turned into answers by a cascade of networks, each run only on the examples that reach it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp.cascades.runtime.decide import LiveCascade
from offramp.features.errors import InputError
from offramp.features.outputs import Ints

if TYPE_CHECKING:
    import torch
    from torch import Tensor

if TYPE_CHECKING:
    from offramp.cascades.runtime.networks import Network, Trunk


@dataclass(frozen=True)
class Served:
    """What became of n examples, in the order in which they came.

    ``answer`` (n,) classes; ``path`` (n,) indexes the routes' paths, its last stage is where the example stopped;
    ``batches`` the size of every batch that a stage was run on, as (stage, size); ``segments`` that of every batch that
    a segment of a trunk was run on, for a stage that is an exit, as (stage, segment, size).
    """

    answer: Ints
    path: Ints
    batches: tuple[tuple[int, int], ...]
    segments: tuple[tuple[int, int, int], ...] = ()


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

        ``plan`` (n,) says which plan each example follows (``live.drawn``); drawn by the shares if there are several
        and it is None.
        Raises InputError for no pixels, and for logits that are not finite.
        """
        import torch

        if not pixels:
            raise InputError("pixels (n, h, w, channels) uint8 for each crop", "none", "runtime")
        with torch.inference_mode():
            return self._run(Batch(pixels, self.device), plan)

    def _run(self, batch: Batch, plan: Ints | None) -> Served:
        live = self.live
        n = len(batch)
        if plan is None and len(live.plans) > 1:
            plan = self.coin.choice(len(live.plans), n, p=live.shares)
        answer, path = np.zeros(n, np.int64), np.zeros(n, np.int64)
        held: dict[int, Held] = {}
        trunks = Trunks(self.stages, self.live.routes.paths, batch)
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
            if self.stages[stage].trunk is None:
                logits = self.stages[stage].logits(batch.inputs(self.stages[stage], rows))
            else:
                logits = trunks.logits(stage, [(key[1], mine) for key, mine in here])
            held[stage] = Held(rows, self._there(logits))
            for (p, q), group in here:
                seen = [held[s].at(group) for s in live.routes.paths[q]]
                action, said = self._decided(*live.plans[p].decide[q](seen), stage, held[stage].logits)
                if group is None and not action.any():
                    return Served(said, np.full(n, q), tuple(batches), tuple(trunks.segments))
                self._settle(action, said, (p, q), group, answer, path, waiting)
        return Served(answer, path, tuple(batches), tuple(trunks.segments))

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

    def _there(self, logits: Tensor) -> Any:
        """Logits as the policies take them."""
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
    """Logits of a stage, or what a trunk has come to, for the examples ``rows``, rising (None: all)."""

    rows: Ints | None
    logits: Any

    def at(self, rows: Ints | None) -> Any:
        """Logits of the examples ``rows``, which are among these."""
        if rows is None or rows is self.rows:
            return self.logits
        index = rows if self.rows is None else np.searchsorted(self.rows, rows)
        return self.logits[index] if isinstance(self.logits, np.ndarray) else gathered(self.logits, index)


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
        return x if rows is None or len(rows) == len(x) else gathered(x, rows)


def gathered(x: Tensor, rows: Ints) -> Tensor:
    """The examples ``rows`` of ``x``, in the same layout of memory."""
    import torch

    index = torch.from_numpy(rows).to(x.device, non_blocking=True)
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        # whole examples lie together in memory: copied as such, in a third of the time that x[index] takes
        return x.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)
    return x.index_select(0, index)


class Trunks:
    """How far the examples of one batch are on the trunks of branched networks: each segment is run once an example.

    ``paths`` are the routes'; ``segments`` fills with what was run, as ``Served`` has it.
    """

    def __init__(self, stages: Sequence[Network], paths: Sequence[Sequence[int]], batch: Batch) -> None:
        self.stages, self.paths, self.batch = stages, paths, batch
        self.states: dict[tuple[str, int], Held] = {}
        self.segments: list[tuple[int, int, int]] = []

    def logits(self, stage: int, groups: Sequence[tuple[int, Ints | None]]) -> Tensor:
        """Logits of an exit, for groups of examples that came along a path each; rows rising over all groups."""
        network = self.stages[stage]
        assert network.trunk is not None
        joining: dict[int, list[Ints | None]] = {}
        for path, rows in groups:
            joining.setdefault(self._place(path, network.trunk), []).append(rows)
        now: Held | None = None
        for segment in range(min(joining) + 1, network.exit + 1):
            if segment - 1 in joining:
                rows = _together(joining[segment - 1])
                before = self.states.get((network.trunk.name, segment - 1))
                x = self.batch.inputs(network, rows) if before is None else before.at(rows)
                now = Held(rows, x) if now is None else _merged(now, Held(rows, x))
            assert now is not None
            now = Held(now.rows, network.segment(segment, now.logits))
            self.segments.append((stage, segment, len(now.logits)))
        assert now is not None
        self.states[network.trunk.name, network.exit] = now
        return network.head(now.logits)

    def _place(self, path: int, trunk: Trunk) -> int:
        """The last exit of the trunk that lies on the path before its end; -1 if none does."""
        stages = (self.stages[stage] for stage in self.paths[path][:-1])
        return max((each.exit for each in stages if each.trunk is trunk), default=-1)


def _merged(one: Held, other: Held) -> Held:
    """What two groups of examples, none in both, have come to, in the order of their rows."""
    import torch

    assert one.rows is not None
    assert other.rows is not None
    rows = np.concatenate([one.rows, other.rows])
    order = np.argsort(rows)
    return Held(rows[order], gathered(torch.cat([one.logits, other.logits]), order))
