"""Cascades and single networks timed side by side on the same batches, and what exits have to bring to pay."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cascades.runtime import Batch, Network, Runtime, Served
from features.outputs import Floats, Ints

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
        return Served(answer, np.zeros(len(answer), np.int64), ((self.stage, len(answer)),))


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

    ``served`` holds, per system, one ``Served`` a batch (of the last round); ``cells`` the median seconds of stages
    alone at the sizes of batch that reached them, by (stage, size).
    """

    seconds: Floats
    served: tuple[tuple[Served, ...], ...]
    cells: Mapping[tuple[int, int], float]

    def ideal(self, system: int) -> Floats:
        """Seconds (batches,) that the stages alone would have taken for the system's batches."""
        return np.array([sum(self.cells[cell] for cell in served.batches) for served in self.served[system]])


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

    ``pixels`` (n, h, w, channels) uint8 on the host for each crop. In every round each stage is also timed alone at
    the sizes of batch that reached it in the first pass: normalising and network for a stage that is entered with
    whole batches, the network alone on ready inputs for the others. ``tell`` hears of each pass over the batches.
    """
    n = len(next(iter(pixels.values())))
    starts = range(0, n, batch)
    parts = [{key: x[start : start + batch] for key, x in pixels.items()} for start in starts]
    for system in systems:
        for part, start in list(zip(parts, starts, strict=True))[:WARM_BATCHES]:
            system(part, start)
    seconds = np.empty((len(systems), rounds, len(parts)))
    served: list[list[Served]] = [[] for _ in systems]
    timings: dict[tuple[int, int], list[float]] = {}
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
                timings = {cell: [] for each in served for found in each for cell in found.batches}
            for (stage, size), found_times in timings.items():
                found_times += time_stage(networks[stage], pixels, size, device, CELL_REPEATS, whole=size == batch)
            tell(2 * turn + 1)
    cells = {cell: float(np.median(times)) for cell, times in timings.items()}
    return Race(seconds, tuple(tuple(each) for each in served), cells)


def time_stage(
    network: Network, pixels: Pixels, size: int, device: torch.device, repeats: int, whole: bool
) -> list[float]:
    """Seconds of ``repeats`` runs of one stage on ``size`` examples: of pixels, if ``whole``, else of ready inputs."""
    import torch

    part = {key: x[:size] for key, x in pixels.items()}
    found = []
    with torch.inference_mode():
        ready = Batch(part, device).inputs(network, None)
        network.logits(ready).cpu()
        for _ in range(repeats):
            begin = time.perf_counter()
            inputs = Batch(part, device).inputs(network, None) if whole else ready
            network.logits(inputs).cpu()
            found.append(time.perf_counter() - begin)
    return found


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


def break_even(spent: float, overhead: float, slope: float, batch: int) -> float:
    """The least share of ``batch`` examples that must stop at a stage for it to pay, in time.

    Running the stage and its policy takes ``spent``; the examples that stop save a following stage that takes
    overhead + slope * examples, and the overhead too if all stop. Infinite if not even that pays.

    >>> break_even(spent=2.0, overhead=0.0, slope=0.1, batch=64)
    0.3125
    >>> break_even(spent=7.0, overhead=1.0, slope=0.1, batch=64), break_even(9.0, 1.0, 0.1, 64)
    (1.0, inf)
    """
    share = spent / (slope * batch) if slope > 0 else float("inf")
    if share <= 1:
        return share
    return 1.0 if spent <= overhead + slope * batch else float("inf")
