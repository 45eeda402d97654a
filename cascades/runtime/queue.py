"""Requests of a few images each turned into batches that are worth running, across requests, within a deadline."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp.cascades.runtime.decide import LiveCascade
from offramp.cascades.runtime.networks import Network
from offramp.cascades.runtime.run import Batch, Served
from offramp.features.errors import InputError
from offramp.features.outputs import Ints

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SLACK = 0.1
"""Share of a batch's time that may go to what every batch costs, however small: beyond it, waiting for more pays."""


def worth_running(overhead: float, slope: float, most: int, slack: float = SLACK) -> int:
    """The least batch of which at most ``slack`` is overhead, for a stage that takes overhead + slope * batch.

    Never more than ``most``. Overhead and slope in one unit of time.

    >>> worth_running(overhead=2.0, slope=1.0, most=64), worth_running(2.0, 1.0, most=8), worth_running(0.0, 1.0, 64)
    (18, 8, 1)
    """
    if overhead <= 0:
        return 1
    if slope <= 0:
        return most
    return int(min(most, max(1, np.ceil(overhead * (1 - slack) / (slack * slope)))))


@dataclass(frozen=True)
class Waiting:
    """One example before its next stage: row ``row`` of ``request``, on its plan's path, since ``since`` (seconds)."""

    request: Request
    row: int
    plan: int
    path: int
    since: float


@dataclass(frozen=True)
class Request:
    """Images that came together and get their answers together; the arrays are filled as these come."""

    batch: Batch
    answer: Ints
    path: Ints
    logits: dict[tuple[int, int], Any]
    states: dict[tuple[str, int, int], Any]
    unanswered: list[int]
    future: Future[Served]


@dataclass(frozen=True)
class Queue:
    """A cascade that gathers the examples before each stage, whosever they are, and runs them together.

    ``live`` decides on numpy arrays. ``worth`` (k,) is the batch that each stage waits for, ``patience`` the seconds
    after which it runs with fewer, and ``most`` what it takes at once. Stages that are worth running go first, the
    last stage before the others: what is nearly done leaves. One thread runs the networks; use as a context manager,
    or ``close`` it, which answers what has been submitted.
    """

    stages: tuple[Network, ...]
    live: LiveCascade
    device: torch.device
    worth: Sequence[int]
    patience: float
    most: int = 64
    clock: Callable[[], float] = time.monotonic
    coin: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))
    queues: tuple[deque[Waiting], ...] = ()
    changed: threading.Condition = field(default_factory=threading.Condition)
    state: dict[str, Any] = field(default_factory=lambda: {"open": True, "batches": [], "sizes": {}})

    def __post_init__(self) -> None:
        """Make a queue a stage, and begin."""
        object.__setattr__(self, "queues", tuple(deque() for _ in self.stages))
        thread = threading.Thread(target=self._work, name="offramp queue", daemon=True)
        self.state["thread"] = thread
        thread.start()

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(drain=kind is None)

    def close(self, drain: bool = True) -> None:
        """Answer what waits, and stop; without ``drain`` what waits fails with RuntimeError at once."""
        with self.changed:
            self.state["open"] = False
            waiting = [] if drain else [each for queue in self.queues for each in queue]
            self.changed.notify_all()
        self._fail(waiting, RuntimeError("the queue is closed"))
        self.state["thread"].join()

    @property
    def batches(self) -> list[tuple[int, int]]:
        """Every batch so far, as (stage, size)."""
        return self.state["batches"]  # type: ignore[no-any-return]

    def submit(self, pixels: Mapping[Any, Tensor], plan: Ints | None = None) -> Future[Served]:
        """A request: pixels (n, h, w, channels) uint8 for each crop. The future holds what became of each example;
        its ``batches`` are empty, since they are shared, and it can't be cancelled. Raises RuntimeError when closed,
        InputError for pixels that the stages can't be given, or not of the first request's size, and for plans that
        are not one an example."""
        n = self._checked(pixels, plan)
        batch = Batch(pixels, self.device)
        future: Future[Served] = Future()
        future.set_running_or_notify_cancel()
        if n == 0:
            future.set_result(Served(np.zeros(0, np.int64), np.zeros(0, np.int64), ()))
            return future
        request = Request(batch, np.zeros(n, np.int64), np.zeros(n, np.int64), {}, {}, [n], future)
        with self.changed:
            if not self.state["open"]:
                raise RuntimeError("the queue is closed")
            if plan is None:
                plans = len(self.live.plans)
                plan = self.coin.choice(plans, n, p=self.live.shares) if plans > 1 else np.zeros(n, np.int64)
            now = self.clock()
            for row, p in enumerate(plan.tolist()):
                entry = self.live.plans[p].entry
                self._queue_of(entry).append(Waiting(request, row, p, entry, now))
            self.changed.notify_all()
        return future

    def _checked(self, pixels: Mapping[Any, Tensor], plan: Ints | None) -> int:
        """The number of examples."""
        import torch

        sizes = {key: tuple(x.shape) for key, x in pixels.items()}
        for stage in self.stages:
            shape = sizes.get(stage.preprocessing.pixels_key, ())
            x = pixels.get(stage.preprocessing.pixels_key)
            if len(shape) != 4 or x is None or x.dtype != torch.uint8:
                found = "none" if x is None else f"{x.dtype} of shape {shape}"
                raise InputError("pixels (n, h, w, channels) uint8", found, f"request, stage {stage.name!r}")
        if len(counts := {shape[0] for shape in sizes.values()}) > 1:
            raise InputError("as many images in every size of crop", ", ".join(map(str, sorted(counts))), "request")
        n = counts.pop()
        known = self.state["sizes"].setdefault
        for key, shape in sizes.items():
            if n and (before := known(key, shape[1:])) != shape[1:]:
                raise InputError(f"images of {before}, as in the first request", str(shape[1:]), "request")
        if plan is not None and (
            np.shape(plan) != (n,) or (n and not 0 <= min(plan) <= max(plan) < len(self.live.plans))
        ):
            raise InputError(f"a plan below {len(self.live.plans)} for each of {n} images", str(plan)[:80], "request")
        return n

    def _queue_of(self, path: int) -> deque[Waiting]:
        return self.queues[self.live.routes.paths[path][-1]]

    def due(self, now: float, closing: bool = False) -> tuple[int | None, float | None]:
        """The stage to run at the time ``now``, or None and the seconds until one is due (None: nothing waits).

        First what has waited for too long, the longest first; then what is worth running.
        """
        waits = [(queue[0].since + self.patience - now, stage) for stage, queue in enumerate(self.queues) if queue]
        wait, stage = min(waits, default=(0.0, -1))
        if stage < 0:
            return None, None
        if wait <= 0:
            return stage, None
        for full in reversed(range(len(self.queues))):
            if len(self.queues[full]) >= self.worth[full] or (closing and self.queues[full]):
                return full, None
        return None, wait

    def _work(self) -> None:
        import torch

        with torch.inference_mode():
            while True:
                with self.changed:
                    while True:
                        closing = not self.state["open"]
                        stage, wait = self.due(self.clock(), closing)
                        if stage is not None:
                            queue = self.queues[stage]
                            taken = [queue.popleft() for _ in range(min(self.most, len(queue)))]
                            break
                        if closing:
                            return
                        self.changed.wait(wait)
                try:
                    going = self._run(stage, taken)
                except BaseException as error:  # the thread must live on: those who wait are told
                    self._fail(taken, error)
                    continue
                with self.changed:
                    for waiting in going:
                        if not waiting.request.future.done():
                            self._queue_of(waiting.path).append(waiting)

    def _fail(self, taken: Sequence[Waiting], error: BaseException) -> None:
        lost = {id(waiting.request): waiting.request for waiting in taken}
        with self.changed:
            for queue in self.queues:
                kept = [waiting for waiting in queue if id(waiting.request) not in lost]
                queue.clear()
                queue.extend(kept)
            for request in lost.values():
                if not request.future.done():
                    request.future.set_exception(error)

    def _run(self, stage: int, taken: Sequence[Waiting]) -> list[Waiting]:
        """Run one batch; those that go on."""
        import torch

        network = self.stages[stage]
        if network.trunk is None:
            order, joined = self._inputs(network, taken, range(len(taken)))
            logits = network.logits(joined.contiguous(memory_format=torch.channels_last)).cpu().numpy()
        else:
            order, logits = self._along_the_trunk(network, network.trunk.name, taken)
        self.batches.append((stage, len(order)))
        if not np.isfinite(logits).all():
            bad = {order[i] for i in np.flatnonzero(~np.isfinite(logits).all(axis=1))}
            lost = [taken[i] for i in bad]
            self._fail(lost, InputError("finite logits", "NaN or infinity", f"network {network.name!r}"))
        for position, i in enumerate(order):
            taken[i].request.logits[stage, taken[i].row] = logits[position]
        kinds: dict[tuple[int, int], list[Waiting]] = {}
        for waiting in (each for each in taken if not each.request.future.done()):
            kinds.setdefault((waiting.plan, waiting.path), []).append(waiting)
        going: list[Waiting] = []
        for (plan, path), mine in kinds.items():
            seen = [np.stack([w.request.logits[s, w.row] for w in mine]) for s in self.live.routes.paths[path]]
            action, said = self.live.plans[plan].decide[path](seen)
            going += self._settle(mine, np.asarray(action), np.asarray(said))
        return going

    @staticmethod
    def _inputs(network: Network, taken: Sequence[Waiting], which: Sequence[int]) -> tuple[list[int], Tensor]:
        """What the network is given for the examples ``which`` of those taken, and in which order."""
        import torch

        by_request: dict[int, list[int]] = {}
        for i in which:
            by_request.setdefault(id(taken[i].request), []).append(i)
        # a batch takes rows that rise; plans that go on together may have left them in another order
        groups = [sorted(group, key=lambda i: taken[i].row) for group in by_request.values()]
        inputs = [
            taken[group[0]].request.batch.inputs(network, np.array([taken[i].row for i in group])) for group in groups
        ]
        order = [i for group in groups for i in group]
        return order, inputs[0] if len(inputs) == 1 else torch.cat(inputs)

    def _along_the_trunk(self, network: Network, trunk: str, taken: Sequence[Waiting]) -> tuple[list[int], Any]:
        """The order of the examples, and their logits at an exit, going on from where each has come to."""
        import torch

        joining: dict[int, list[int]] = {}
        for i, waiting in enumerate(taken):
            before = (self.stages[s] for s in self.live.routes.paths[waiting.path][:-1])
            place = max((each.exit for each in before if each.trunk is network.trunk), default=-1)
            joining.setdefault(place, []).append(i)
        order: list[int] = []
        parts: list[Tensor] = []
        for segment in range(min(joining) + 1, network.exit + 1):
            which = joining.get(segment - 1, [])
            if which and segment == 0:
                which, found = self._inputs(network, taken, which)
                parts.append(found)
            elif which:
                there = [taken[i].request.states.pop((trunk, segment - 1, taken[i].row)) for i in which]
                parts.append(torch.stack(there))
            order += which
            x = parts[0] if len(parts) == 1 else torch.cat(parts)
            if x.ndim == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            parts = [network.segment(segment, x)]
        for position, i in enumerate(order):
            taken[i].request.states[trunk, network.exit, taken[i].row] = parts[0][position]
        return order, network.head(parts[0]).cpu().numpy()

    def _settle(self, mine: Sequence[Waiting], action: Ints, said: Ints) -> list[Waiting]:
        now, going = self.clock(), []
        for waiting, way, answer in zip(mine, action.tolist(), said.tolist(), strict=True):
            request = waiting.request
            if way:
                child = self.live.routes.children[waiting.path][int(way) - 1]
                going.append(Waiting(request, waiting.row, waiting.plan, child, now))
                continue
            request.answer[waiting.row], request.path[waiting.row] = answer, waiting.path
            request.unanswered[0] -= 1
            if not request.unanswered[0]:
                with self.changed:
                    if not request.future.done():
                        request.future.set_result(Served(request.answer, request.path, ()))
        return going
