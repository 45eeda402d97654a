"""The one result type: where every example stopped, what was answered there, and what it cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.features.outputs import Floats, Ints


def largest(routes: Routes) -> int:
    """The stage that costs most by itself: what errors are held against.

    >>> largest(Routes(("a", "b"), ((0,), (0, 1)), np.array([[1.0, 0.0], [1.0, 4.0]]), "ms"))
    1
    """
    if routes.alone is not None:
        return int(np.argmax(routes.alone))
    if set(routes.exits[list(routes.entries)].tolist()) == set(range(len(routes.stages))):
        return int(routes.exits[max(routes.entries, key=lambda q: float(routes.cost[q]))])
    return int(np.argmax(routes.spent.max(axis=0)))


@dataclass(frozen=True)
class Routes:
    """A topology with its costs, unrolled: q paths over k stages, parents before children.

    ``paths`` are tuples of stage indices in the order of ``stages``; every path from every entry is there, and
    an example may stop at the end of any. ``spent`` is (q, k), what a path spends at each stage, in ``unit``.
    ``alone`` is (k,), what each stage costs by itself, also where the topology has no entry there; None if unknown.
    """

    stages: tuple[str, ...]
    paths: tuple[tuple[int, ...], ...]
    spent: Floats
    unit: str
    alone: Floats | None = None

    @cached_property
    def cost(self) -> Floats:
        """(q,) total cost of each path."""
        return np.asarray(self.spent.sum(axis=1))

    @cached_property
    def exits(self) -> Ints:
        """(q,) the stage at which each path stops."""
        return np.array([path[-1] for path in self.paths])

    @cached_property
    def index(self) -> dict[tuple[int, ...], int]:
        """Where each path stands in ``paths``."""
        return {path: i for i, path in enumerate(self.paths)}

    @cached_property
    def entries(self) -> tuple[int, ...]:
        """Indices of the paths of one stage: the choices of where to begin."""
        return tuple(i for i, path in enumerate(self.paths) if len(path) == 1)

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """For each path the indices of the paths that go on from it by one stage."""
        found: list[list[int]] = [[] for _ in self.paths]
        for i, path in enumerate(self.paths):
            if len(path) > 1:
                found[self.index[path[:-1]]].append(i)
        return tuple(map(tuple, found))


@dataclass(frozen=True)
class Routing:
    """What a router did with n examples.

    ``path`` (n,) indexes ``routes.paths``; ``answer`` (n,) is the class answered; ``wrong`` (n,) the loss, in
    [0, 1]. Exit, cost and cost per stage follow from the path, so a routing takes a few bytes an example.
    """

    routes: Routes
    path: Ints
    answer: Ints
    wrong: Floats | NDArray[np.bool_]
    part: str

    def __len__(self) -> int:
        return len(self.path)

    @property
    def exit(self) -> Ints:
        """(n,) index of the stage where each example stopped."""
        return np.asarray(self.routes.exits[self.path])

    @property
    def cost(self) -> Floats:
        """(n,) what each example cost."""
        return np.asarray(self.routes.cost[self.path])

    @property
    def mean_cost(self) -> float:
        """Mean cost of an example."""
        return float(self.routes.cost @ self.visits / len(self))

    @property
    def error(self) -> float:
        """Mean loss."""
        return float(np.mean(self.wrong, dtype=float))

    @property
    def exit_share(self) -> Floats:
        """(k,) share of the examples that stop at each stage."""
        share = np.bincount(self.routes.exits, weights=self.visits, minlength=len(self.routes.stages))
        return np.asarray(share / len(self))

    @property
    def spent_share(self) -> Floats:
        """(k,) share of the total cost spent at each stage; all zero where nothing was spent."""
        spent = self.visits @ self.routes.spent
        return np.asarray(spent / (spent.sum() or 1.0))

    @cached_property
    def visits(self) -> Ints:
        """(q,) how many examples took each path."""
        return np.bincount(self.path, minlength=len(self.routes.paths))


@dataclass(frozen=True)
class OperatingPoint:
    """One routing of a router's frontier, and the name under which it was made.

    ``price`` is loss per unit of cost, NaN where the router has none; ``family`` tells variants of one router
    apart (a stage's name for ``single``, the chain for ``joint``).
    """

    router: str
    family: str
    price: float
    routing: Routing


def coins(ids: Iterable[Any], seed: int | str) -> Floats:
    """(n,) numbers in [0, 1), one for each of the n ``ids``, as good as drawn at random.

    An example's own, whatever stands beside it and whenever it comes: from the BLAKE2b digest of the seed and its id.

    >>> coins(["a", "b", 3], 5).round(4).tolist() == coins([3, "b", "a"], 5).round(4).tolist()[::-1]
    True
    """
    start = blake2b(f"{seed}\n".encode(), digest_size=8)
    digests = bytearray()
    for one in ids.tolist() if isinstance(ids, np.ndarray) else ids:
        digest = start.copy()
        digest.update(str(one).encode("utf-8", "surrogatepass"))
        digests += digest.digest()
    return (np.frombuffer(bytes(digests), "<u8") >> 11) * 2.0**-53


def mixed(one: Routing, other: Routing, share: float, coin: Floats) -> Routing:
    """Each example goes the ``other`` way where its ``coin`` (n,) is below ``share``, else ``one`` way.

    Two routings span every cost between them; on a frontier's hull nothing deterministic need lie there.
    """
    other_way = coin < share
    return replace(
        one,
        path=np.where(other_way, other.path, one.path),
        answer=np.where(other_way, other.answer, one.answer),
        wrong=np.where(other_way, other.wrong, one.wrong),
    )
