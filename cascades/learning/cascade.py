"""Rules for every path and price, turned into a routing of examples that they have not seen."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from offramp.cascades.graph.routing import Routes, Routing
from offramp.cascades.learning.answers import ANSWERS, LOSSES
from offramp.features.evidence import Path, Reader, read_none
from offramp.features.outputs import Floats, Ints, Outputs
from offramp.policies.constant import ConstantRules
from offramp.policies.policy import Rules

CHUNK_ROWS = 8_192
"""Examples routed at a time: bounds the memory whatever their number."""


@dataclass(frozen=True)
class UnionRules:
    """At each of q prices the rule of one of several families: ``pick`` (q,) indexes ``members``."""

    names: tuple[str, ...]
    members: tuple[Rules, ...]
    pick: Ints

    @property
    def prices(self) -> int:
        """Number q of rules."""
        return len(self.pick)

    def actions(self, x: Floats) -> Ints:
        """Chosen action (n, q)."""
        out = np.empty((len(x), len(self.pick)), np.int8)
        for member in np.unique(self.pick):
            prices = np.flatnonzero(self.pick == member)
            out[:, prices] = self.members[member].take(prices).actions(x)
        return out

    @property
    def looks_at(self) -> Ints:
        """Indices of the columns that any of the rules picked looks at."""
        parts = [self.members[m].take(np.flatnonzero(self.pick == m)).looks_at for m in np.unique(self.pick)]
        return np.unique(np.concatenate(parts))

    def reads(self, _columns: tuple[str, ...], _added: tuple[str, ...]) -> Ints:
        """The same, as a view asks for it."""
        return self.looks_at

    def take(self, prices: Ints) -> UnionRules:
        """The rules of some of the prices."""
        return UnionRules(self.names, tuple(member.take(prices) for member in self.members), self.pick[prices])

    def with_stops(self, more: int) -> UnionRules:
        """The same, and behind it ``more`` rules that always stop."""
        prices = np.append(np.arange(self.prices), np.zeros(more, np.intp))
        stop = ConstantRules(np.zeros(len(prices), np.int64))
        members = (*(member.take(prices) for member in self.members), stop)
        return UnionRules((*self.names, "constant"), members, np.append(self.pick, np.full(more, len(self.members))))

    def family(self, price: int) -> str:
        """Name of the family picked at a price."""
        return str(self.names[self.pick[price]])

    def __str__(self) -> str:
        return str(self.members[self.pick[0]].take(np.array([0])))


@dataclass(frozen=True)
class Routed:
    """Where n examples stop at each of q prices, and what every path would answer.

    ``path`` (n, q) indexes the routes' paths; ``answer`` and ``wrong`` (n, p) of each path.
    """

    routes: Routes
    path: Ints
    answer: Ints
    wrong: Floats
    part: str

    def at(self, price: int) -> Routing:
        """The routing of one price."""
        path = self.path[:, price]
        index = np.arange(len(path))
        return Routing(self.routes, path, self.answer[index, path], self.wrong[index, path], self.part)


@dataclass(frozen=True)
class Sweep:
    """A fitted cascade for each of q prices, sharing the reader.

    ``modes`` says how to answer at the end of each path; ``rules`` are there for every path that can go on;
    ``entry`` (q,) indexes ``routes.paths``: where to begin.
    """

    routes: Routes
    reader: Reader
    loss: str
    modes: Mapping[Path, str]
    prices: Floats
    rules: Mapping[Path, UnionRules]
    entry: Ints

    def take(self, prices: Ints) -> Sweep:
        """The cascades of some of the prices."""
        rules = {path: rule.take(prices) for path, rule in self.rules.items()}
        return Sweep(self.routes, self.reader, self.loss, self.modes, self.prices[prices], rules, self.entry[prices])

    def route(self, outputs: Outputs, progress: Callable[[int], None] = lambda _: None) -> Routed:
        """Route the examples of ``outputs`` (stages as in ``routes``) at every price, in chunks, on all cores."""
        n = len(outputs)
        dtype = np.min_scalar_type(len(self.routes.paths))
        path = np.empty((n, len(self.prices)), dtype)
        answer = np.empty((n, len(self.routes.paths)), np.int32)
        wrong = np.empty((n, len(self.routes.paths)), bool)

        def work(rows: slice) -> None:
            path[rows], answer[rows], wrong[rows] = self._route_chunk(outputs.take(rows))
            progress(rows.stop)

        with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(work, _slices(n)):
                pass
        return Routed(self.routes, path, answer, wrong, outputs.part)

    def _route_chunk(self, outputs: Outputs) -> tuple[Ints, Ints, Floats]:
        loss = LOSSES[self.loss]
        reading = self.reader.read(outputs)
        full = reading.ranked[:, -1, : loss.ranks]
        paths = self.routes.paths
        answer = np.empty((len(outputs), len(paths)), np.int32)
        wrong = np.empty((len(outputs), len(paths)), bool)
        stop: dict[int, Ints] = {}
        for q in sorted(range(len(paths)), key=lambda q: -len(paths[q])):
            rules = self.rules[paths[q]] if self.routes.children[q] else None
            view = reading.view(paths[q], read_none if rules is None else rules.reads)
            ranked = ANSWERS[self.modes[paths[q]]](reading, view, paths[q], loss.ranks)
            answer[:, q], wrong[:, q] = ranked[:, 0], loss.of(ranked, outputs.labels, full)
            stop[q] = np.full((len(outputs), len(self.prices)), q, np.int16)
            if rules is not None:
                follow(stop, q, self.routes.children[q], rules.actions(view.x))
        final = np.stack([stop[int(e)][:, i] for i, e in enumerate(self.entry)], axis=1)
        return final, answer, wrong


def follow(stop: dict[int, Ints], q: int, children: tuple[int, ...], actions: Ints) -> None:
    """Set where examples stop from path ``q`` on (n, prices): here, or where the chosen child's path leads."""
    for way, child in enumerate(children, start=1):
        np.copyto(stop[q], stop[child], where=actions == way)


def _slices(n: int) -> Iterator[slice]:
    return (slice(start, min(start + CHUNK_ROWS, n)) for start in range(0, n, CHUNK_ROWS))
