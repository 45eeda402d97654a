"""Requests of a few images each turned into batches that are worth running, across requests, within a deadline."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
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

LATEST = 10_000
"""Batches that are remembered; their counts are kept of all."""

LONGEST_WAIT = 3600.0
"""Seconds that the thread sleeps at most before it looks again, however long the patience: longer ones overflow."""

HOPELESS = 4
"""Examples that fail one by one, while none succeeds, before the rest of a batch is failed with them."""

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

    @property
    def open(self) -> bool:
        """Whether it still waits for answers; who makes it stop, under the queue's lock, sets the future."""
        return self.unanswered[0] > 0

    @cached_property
    def shape(self) -> tuple[Any, ...]:
        """Sizes of its images: only those of equal size share a batch."""
        return tuple(sorted((repr(key), tuple(x.shape[1:])) for key, x in self.batch.pixels.items()))


class Promise(Future[Served]):
    """A future whose callbacks run in threads of their own: one that waits for the queue does not stop it."""

    def add_done_callback(self, fn: Callable[[Future[Served]], object]) -> None:
        """Call ``fn`` with the future once it is done."""
        super().add_done_callback(lambda done: threading.Thread(target=fn, args=(done,), daemon=True).start())


@dataclass(frozen=True)
class Queue:
    """A cascade that gathers the examples before each stage, whosever they are, and runs them together.

    ``live`` decides on numpy arrays. ``worth`` (k,) is the batch that each stage waits for, ``patience`` the seconds
    after which it runs with fewer, and ``most`` what it takes at once. Stages that are worth running go first, the
    last stage before the others: what is nearly done leaves. A batch that fails is halved until those are found that
    it fails for; the others are answered. Images of unlike sizes never share a batch. One thread runs the networks;
    use as a context manager, or ``close`` it, which answers what has been submitted.
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
    state: dict[str, Any] = field(
        default_factory=lambda: {"open": True, "batches": deque(maxlen=LATEST), "counts": Counter()}
    )

    def __post_init__(self) -> None:
        """Make a queue a stage, and begin. Raises InputError for a patience that is no time, and for empty batches."""
        if not self.patience >= 0:
            raise InputError("a patience of at least 0 seconds", str(self.patience), "queue")
        if self.most < 1 or any(worth < 1 for worth in self.worth):
            raise InputError("batches of at least one image", f"{self.most}, {list(self.worth)}", "queue")
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
        """The latest batches, at most ``LATEST``, as (stage, size)."""
        return list(self.state["batches"])

    @property
    def counts(self) -> Mapping[tuple[int, int], int]:
        """How often a stage was run on a batch of each size, as (stage, size), since the queue began."""
        return dict(self.state["counts"])

    def submit(self, pixels: Mapping[Any, Tensor], plan: Ints | None = None) -> Future[Served]:
        """A request: pixels (n, h, w, channels) uint8 for each crop, which are copied. The future holds what became of
        each example; its ``batches`` are empty, since they are shared, and it can't be cancelled. Raises RuntimeError
        when closed, InputError for pixels that the stages can't be given, and for plans that are not one an example."""
        n = self._checked(pixels, plan)
        batch = Batch({key: x.clone() for key, x in pixels.items()}, self.device)
        future = Promise()
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
        """The thread: one batch after another. Whatever ends it fails all that waits, rather than leave it for ever."""
        import torch

        try:
            with torch.inference_mode():
                while (batch := self._next()) is not None:
                    going = self._surely(*batch)
                    with self.changed:
                        for waiting in going:
                            if waiting.request.open:
                                self._queue_of(waiting.path).append(waiting)
        except BaseException as error:
            with self.changed:
                self.state["open"] = False
                left = [each for queue in self.queues for each in queue]
            self._fail(left, error)
            raise

    def _next(self) -> tuple[int, list[Waiting]] | None:
        """The stage that is due, once one is, and the examples to run it on, all of one size; None at the end."""
        with self.changed:
            while True:
                closing = not self.state["open"]
                stage, wait = self.due(self.clock(), closing)
                if stage is not None:
                    return stage, self._taken(self.queues[stage])
                if closing:
                    return None
                self.changed.wait(None if wait is None else min(wait, LONGEST_WAIT))

    def _taken(self, queue: deque[Waiting]) -> list[Waiting]:
        """The first of the queue and those of its size, up to ``most``; the others keep their places."""
        taken: list[Waiting] = []
        passed: list[Waiting] = []
        while queue and len(taken) < self.most:
            waiting = queue.popleft()
            (taken if not taken or waiting.request.shape == taken[0].request.shape else passed).append(waiting)
        queue.extendleft(reversed(passed))
        return taken

    def _surely(self, stage: int, taken: list[Waiting]) -> list[Waiting]:
        """Run a batch, and where it fails its halves, until those are found that fail by themselves; those that go on.

        With g guilty examples of n that is O(g log n) runs. A stage that fails for ``HOPELESS`` examples by themselves
        before it succeeds for any fails for all.
        """
        going: list[Waiting] = []
        left, failures, succeeded = [taken], 0, False
        while left:
            some = [waiting for waiting in left.pop() if waiting.request.open]
            if not some:
                continue
            try:
                going += self._run(stage, some)
                succeeded = True
            except Exception as error:  # whatever a stage throws: those whom it concerns are told
                if len(some) > 1 and (succeeded or failures < HOPELESS):
                    left += [some[len(some) // 2 :], some[: len(some) // 2]]
                    continue
                failures += 1
                self._fail(some, error)
            except BaseException as error:
                self._fail(taken, error)
                raise
        return going

    def _fail(self, taken: Sequence[Waiting], error: BaseException) -> None:
        with self.changed:
            lost = {id(waiting.request): waiting.request for waiting in taken if waiting.request.open}
            for queue in self.queues if lost else ():
                kept = [waiting for waiting in queue if id(waiting.request) not in lost]
                queue.clear()
                queue.extend(kept)
            for request in lost.values():
                request.unanswered[0] = 0
        for request in lost.values():
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
        self.state["batches"].append((stage, len(order)))
        self.state["counts"][stage, len(order)] += 1
        if not np.isfinite(logits).all():
            bad = {order[i] for i in np.flatnonzero(~np.isfinite(logits).all(axis=1))}
            lost = [taken[i] for i in bad]
            self._fail(lost, InputError("finite logits", "NaN or infinity", f"network {network.name!r}"))
        for position, i in enumerate(order):
            taken[i].request.logits[stage, taken[i].row] = logits[position]
        kinds: dict[tuple[int, int], list[Waiting]] = {}
        for waiting in (each for each in taken if each.request.open):
            kinds.setdefault((waiting.plan, waiting.path), []).append(waiting)
        decided = []  # all of them before any is settled: if one throws, the batch is as it was
        for (plan, path), mine in kinds.items():
            seen = [np.stack([w.request.logits[s, w.row] for w in mine]) for s in self.live.routes.paths[path]]
            action, said = self.live.plans[plan].decide[path](seen)
            decided.append((mine, np.asarray(action), np.asarray(said)))
        return [waiting for each in decided for waiting in self._settle(*each)]

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
                there = [taken[i].request.states[trunk, segment - 1, taken[i].row] for i in which]
                parts.append(torch.stack(there))
            order += which
            x = parts[0] if len(parts) == 1 else torch.cat(parts)
            if x.ndim == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            parts = [network.segment(segment, x)]
        logits = network.head(parts[0]).cpu().numpy()
        for place, group in joining.items():  # what a trunk has come to is kept until it has come farther
            for i in group if place >= 0 else ():
                del taken[i].request.states[trunk, place, taken[i].row]
        for position, i in enumerate(order):
            taken[i].request.states[trunk, network.exit, taken[i].row] = parts[0][position]
        return order, logits

    def _settle(self, mine: Sequence[Waiting], action: Ints, said: Ints) -> list[Waiting]:
        now = self.clock()
        going: list[Waiting] = []
        finished: list[Request] = []
        with self.changed:
            for waiting, way, answer in zip(mine, action.tolist(), said.tolist(), strict=True):
                request = waiting.request
                if way:
                    child = self.live.routes.children[waiting.path][int(way) - 1]
                    going.append(Waiting(request, waiting.row, waiting.plan, child, now))
                elif request.open:
                    request.answer[waiting.row], request.path[waiting.row] = answer, waiting.path
                    request.unanswered[0] -= 1
                    if not request.open:
                        finished.append(request)
        for request in finished:  # whoever listens does so without the lock
            request.future.set_result(Served(request.answer, request.path, ()))
        return going
