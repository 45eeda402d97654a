"""Cascades and single networks timed side by side on the same batches, and what exits have to bring to pay."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from offramp.cascades.runtime.networks import Network
from offramp.cascades.runtime.run import Batch, Runtime, Served
from offramp.features.outputs import Floats, Ints

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Pixels = Mapping[Any, Tensor]

WARM_BATCHES = 3
"""Batches that every system runs before the clock: buffers are allocated, kernels chosen."""

CELL_REPEATS = 3
"""Timings of a stage at one batch size, in each round."""


class System(Protocol):
    """Something that answers batches."""

    @property
    def name(self) -> str:
        """How it is called in the table."""

    def __call__(self, pixels: Pixels, start: int) -> Served:
        """Answers for a batch whose first example is number ``start``, on the host: everything is waited for."""


@dataclass(frozen=True)
class Alone:
    """One stage, run on every example, answering with its likeliest class."""

    name: str
    stage: int
    network: Network
    device: torch.device

    def __call__(self, pixels: Pixels, start: int) -> Served:  # noqa: ARG002
        """See ``System``."""
        import torch

        with torch.inference_mode():
            batch = Batch(pixels, self.device)
            answer = self.network.logits(batch.inputs(self.network, None)).argmax(1).cpu().numpy()
        n = len(answer)
        segments = range(self.network.exit + 1) if self.network.trunk is not None else ()
        run = tuple((self.stage, segment, n) for segment in segments)
        return Served(answer, np.zeros(n, np.int64), ((self.stage, n),), run)


@dataclass(frozen=True)
class Together:
    """A cascade; ``plan`` (n,) says which of its plans each of the n examples follows, None if there is one."""

    name: str
    runtime: Runtime
    plan: Ints | None

    def __call__(self, pixels: Pixels, start: int) -> Served:
        """See ``System``."""
        if self.plan is None:
            return self.runtime.run(pixels)
        rows = len(next(iter(pixels.values())))
        return self.runtime.run(pixels, self.plan[start : start + rows])


@dataclass(frozen=True)
class Race:
    """Seconds (s, rounds, batches) that each of s systems took for every batch, and what each answered.

    ``inputs``: median seconds of making a batch's inputs from pixels, by (stage, size).

    ``served`` holds, per system, one ``Served`` a batch (of the last round); ``cells`` the median seconds of stages
    alone at the sizes of batch that reached them, by (stage, size), for an exit of its head; and for exits those of
    each segment of the trunk, by (stage, segment, size).
    """

    seconds: Floats
    served: tuple[tuple[Served, ...], ...]
    cells: Mapping[tuple[int, ...], float]
    inputs: Mapping[tuple[int, int], float]
    networks: tuple[Network, ...]

    def ideal(self, system: int) -> Floats:
        """Seconds (batches,) that the stages alone would have taken for the system's batches."""
        return np.array([sum(self.spent(one)) for one in self.served[system]])

    def spent(self, served: Served) -> Floats:
        """Seconds (k,) that the stages alone would have taken for one batch of a system, by stage."""
        found = np.zeros(len(self.networks))
        for cell in (*served.batches, *served.segments):
            found[cell[0]] += self.cells[cell]
        for stage, size in made(served, self.networks):
            found[stage] += self.inputs[stage, size]
        return found

    def times(self, stage: int, since: int = -1) -> list[tuple[int, float]]:
        """Sizes of batch and seconds of a stage; of an exit, with the segments of its trunk behind exit ``since``."""
        sizes = [(cell[1], seconds) for cell, seconds in self.cells.items() if len(cell) == 2 and cell[0] == stage]
        parts: dict[int, dict[int, float]] = {}
        for cell, seconds in self.cells.items():
            if len(cell) == 3 and cell[0] == stage and cell[1] > since:
                parts.setdefault(cell[1], {})[cell[2]] = seconds
        return [
            (size, seconds + sum(part[size] for part in parts.values()))
            for size, seconds in sizes
            if all(size in part for part in parts.values())
        ]


def race(
    systems: Sequence[System],
    networks: Sequence[Network],
    pixels: Pixels,
    batch: int,
    rounds: int,
    device: torch.device,
    tell: Callable[[int], None] = lambda _: None,
) -> Race:
    """Run every system on every batch, ``rounds`` times, alternating from batch to batch, the first one changing.

    ``pixels`` (n, h, w, channels) uint8 on the host for each crop. In every round each stage is also timed alone, on
    ready inputs, at the sizes of batch that reached it in the first pass, and so is making these inputs from pixels
    where that had to be done (``made``). ``tell`` hears of each pass over the batches.
    """
    n = len(next(iter(pixels.values())))
    starts = range(0, n, batch)
    parts = [{key: x[start : start + batch] for key, x in pixels.items()} for start in starts]
    for system in systems:
        for part, start in list(zip(parts, starts, strict=True))[:WARM_BATCHES]:
            system(part, start)
    seconds = np.empty((len(systems), rounds, len(parts)))
    served: list[list[Served]] = [[] for _ in systems]
    timings: dict[tuple[int, ...], list[float]] = {}
    entering: dict[tuple[int, int], list[float]] = {}
    with _quiet():
        for turn in range(rounds):
            for b, (part, start) in enumerate(zip(parts, starts, strict=True)):
                for i in range(len(systems)):
                    s = (i + b + turn) % len(systems)
                    begin = time.perf_counter()
                    found = systems[s](part, start)
                    seconds[s, turn, b] = time.perf_counter() - begin
                    if turn == 0:
                        served[s].append(found)
            tell(2 * turn)
            if turn == 0:
                timings = {cell: [] for each in served for one in each for cell in (*one.batches, *one.segments)}
                entering = {cell: [] for each in served for one in each for cell in made(one, networks)}
            for cell, found_times in timings.items():
                part_of = cell[1] if len(cell) == 3 else None
                found_times += time_cell(networks[cell[0]], pixels, cell[-1], device, CELL_REPEATS, part_of)
            for (stage, size), found_times in entering.items():
                found_times += time_inputs(networks[stage], pixels, size, device, CELL_REPEATS)
            tell(2 * turn + 1)
    cells = {cell: float(np.median(times)) for cell, times in timings.items()}
    inputs = {cell: float(np.median(times)) for cell, times in entering.items()}
    return Race(seconds, tuple(tuple(each) for each in served), cells, inputs, tuple(networks))


def made(served: Served, networks: Sequence[Network]) -> list[tuple[int, int]]:
    """The batches, as (stage, size), whose inputs had to be made from pixels: for each preprocessing the first ones,
    until it was a whole batch, whose inputs serve all that follows. Exits go on from their trunk's state."""
    found, whole, trunks = [], set(), set()
    for stage, size in served.batches:
        network = networks[stage]
        if network.trunk is not None:
            if network.trunk.name in trunks:
                continue
            trunks.add(network.trunk.name)
        if network.preprocessing in whole:
            continue
        found.append((stage, size))
        if size == len(served.answer):
            whole.add(network.preprocessing)
    return found


def time_cell(
    network: Network, pixels: Pixels, size: int, device: torch.device, repeats: int, part: int | None
) -> list[float]:
    """Seconds of ``repeats`` runs on ``size`` examples whose inputs are ready, each waited for.

    Of a network, or for an exit of its head (``part`` None) or of segment number ``part`` of its trunk.
    """
    import torch

    found = []
    with torch.inference_mode():
        x = Batch({key: rows[:size] for key, rows in pixels.items()}, device).inputs(network, None)
        if network.trunk is not None:
            for i in range(network.exit + 1 if part is None else part):
                x = network.segment(i, x)

        def work() -> Tensor:
            if network.trunk is None:
                return network.logits(x).cpu()
            if part is None:
                return network.head(x).cpu()
            return network.segment(part, x).flatten()[:1].cpu()  # the wait for a device

        work()
        for _ in range(repeats):
            begin = time.perf_counter()
            work()
            found.append(time.perf_counter() - begin)
    return found


def time_inputs(network: Network, pixels: Pixels, size: int, device: torch.device, repeats: int) -> list[float]:
    """Seconds of ``repeats`` times making what the network is given of the pixels of ``size`` examples."""
    import torch

    part = {key: rows[:size] for key, rows in pixels.items()}
    found = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            begin = time.perf_counter()
            Batch(part, device).inputs(network, None).flatten()[:1].cpu()
            found.append(time.perf_counter() - begin)
    return found[1:]


@contextmanager
def _quiet() -> Iterator[None]:
    """The garbage collector waits until afterwards."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def line(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Overhead and slope, neither negative, of the least-squares line through times (m,) of batches (m,).

    >>> overhead, slope = line([1, 2, 4], [3.0, 4.0, 6.0])
    >>> round(overhead, 9), round(slope, 9)
    (2.0, 1.0)
    """
    from scipy.optimize import nnls

    columns = np.column_stack([np.ones(len(sizes)), np.asarray(sizes, dtype=float)])
    weight = 1 / np.maximum(np.asarray(seconds, dtype=float), 1e-12)  # relative errors count
    found, _ = nnls(columns * weight[:, None], np.asarray(seconds, dtype=float) * weight)
    return float(found[0]), float(found[1])


def break_even(spent: float, saved: float, batch: int) -> float:
    """The least share of ``batch`` examples that must stop at a stage for it to pay, in time.

    Running the stage and its policy takes ``spent`` a batch; each example that stops saves ``saved``. Infinite if not
    even all of them stopping pays.

    >>> break_even(spent=2.0, saved=0.1, batch=64), break_even(7.0, 0.1, 64), break_even(1.0, 5.0, 1)
    (0.3125, inf, 0.2)
    """
    share = spent / (saved * batch) if saved > 0 else float("inf")
    return share if share <= 1 else float("inf")
