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

from cascades.live import LiveCascade
from cascades.runtime import Batch, Network, Served
from features.outputs import Ints

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
    state: dict[str, Any] = field(default_factory=lambda: {"open": True, "batches": []})

    def __post_init__(self) -> None:
        """Make a queue a stage, and begin."""
        object.__setattr__(self, "queues", tuple(deque() for _ in self.stages))
        thread = threading.Thread(target=self._work, name="offramp queue", daemon=True)
        self.state["thread"] = thread
        thread.start()

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Answer what waits, and stop."""
        with self.changed:
            self.state["open"] = False
            self.changed.notify_all()
        self.state["thread"].join()

    @property
    def batches(self) -> list[tuple[int, int]]:
        """Every batch so far, as (stage, size)."""
        return self.state["batches"]  # type: ignore[no-any-return]

    def submit(self, pixels: Mapping[Any, Tensor], plan: Ints | None = None) -> Future[Served]:
        """A request: pixels (n, h, w, channels) uint8 for each crop. The future holds what became of each example;
        its ``batches`` are empty, since they are shared. Raises RuntimeError when closed."""
        batch = Batch(pixels, self.device)
        n = len(batch)
        future: Future[Served] = Future()
        if n == 0:
            future.set_result(Served(np.zeros(0, np.int64), np.zeros(0, np.int64), ()))
            return future
        request = Request(batch, np.zeros(n, np.int64), np.zeros(n, np.int64), {}, [n], future)
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

    def _queue_of(self, path: int) -> deque[Waiting]:
        return self.queues[self.live.routes.paths[path][-1]]

    def due(self, now: float, closing: bool = False) -> tuple[int | None, float | None]:
        """The stage to run at the time ``now``, or None and the seconds until one is due (None: nothing waits)."""
        for stage in reversed(range(len(self.queues))):
            if len(self.queues[stage]) >= self.worth[stage] or (closing and self.queues[stage]):
                return stage, None
        waits = [(queue[0].since + self.patience - now, stage) for stage, queue in enumerate(self.queues) if queue]
        if not waits:
            return None, None
        wait, stage = min(waits)
        return (stage, None) if wait <= 0 else (None, wait)

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
                        self._queue_of(waiting.path).append(waiting)

    def _fail(self, taken: Sequence[Waiting], error: BaseException) -> None:
        lost = {id(waiting.request): waiting.request for waiting in taken}
        with self.changed:
            for queue in self.queues:
                kept = [waiting for waiting in queue if id(waiting.request) not in lost]
                queue.clear()
                queue.extend(kept)
        for request in lost.values():
            request.future.set_exception(error)

    def _run(self, stage: int, taken: Sequence[Waiting]) -> list[Waiting]:
        """Run one batch; those that go on."""
        import torch

        network = self.stages[stage]
        by_request: dict[int, list[int]] = {}
        for i, waiting in enumerate(taken):
            by_request.setdefault(id(waiting.request), []).append(i)
        # a batch takes rows that rise; plans that go on together may have left them in another order
        groups = [sorted(group, key=lambda i: taken[i].row) for group in by_request.values()]
        inputs = [
            taken[group[0]].request.batch.inputs(network, np.array([taken[i].row for i in group])) for group in groups
        ]
        order = [i for group in groups for i in group]
        joined = inputs[0] if len(inputs) == 1 else torch.cat(inputs)
        logits = network.logits(joined.contiguous(memory_format=torch.channels_last)).cpu().numpy()
        self.batches.append((stage, len(order)))
        for position, i in enumerate(order):
            taken[i].request.logits[stage, taken[i].row] = logits[position]
        kinds: dict[tuple[int, int], list[Waiting]] = {}
        for waiting in taken:
            kinds.setdefault((waiting.plan, waiting.path), []).append(waiting)
        going: list[Waiting] = []
        for (plan, path), mine in kinds.items():
            seen = [np.stack([w.request.logits[s, w.row] for w in mine]) for s in self.live.routes.paths[path]]
            action, said = self.live.plans[plan].decide[path](seen)
            going += self._settle(mine, np.asarray(action), np.asarray(said))
        return going

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
                request.future.set_result(Served(request.answer, request.path, ()))
        return going
