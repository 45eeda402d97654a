"""What was seen of examples at the end of a path, turned into every number that a policy may look at: ``COLUMNS``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal, Protocol

import numpy as np

from offramp.features.arrays import Array, Ops
from offramp.features.belief.pooling import CORRECTED_CLASSES, FLOOR
from offramp.features.confidence import FARTHEST
from offramp.features.errors import InputError
from offramp.features.outputs import NO_ANSWER
from offramp.features.registry import Registry


class Seen(Protocol):
    """What is known of n examples at the end of a path: lists have an entry for each of its stages, in order.

    ``m`` alternatives: the classes, or with many classes those that the stages named, and "another". Arrays are
    numpy's or torch's, as ``ops`` takes them.
    """

    @property
    def ops(self) -> Ops:
        """The array operations of numpy or torch."""

    @property
    def shape(self) -> Shape:
        """What there is to see."""

    @property
    def best(self) -> Array:
        """(n,) index of the alternative believed in."""

    @property
    def logp(self) -> Array:
        """(n, m) log belief, in any order."""

    @property
    def p(self) -> Array:
        """(n, m) belief, in the same order."""

    @property
    def left(self) -> Array:
        """(n,) belief that is not in the best alternative."""

    @property
    def said(self) -> Any:
        """(n, m) log probability that the stage gives to each alternative."""

    @property
    def stage_p(self) -> Any:
        """(n, m) the same as probabilities."""

    @property
    def first(self) -> Any:
        """(n,) the stage's answer, as index of an alternative."""

    @property
    def answers(self) -> Any:
        """(n,) the stage's answer, a class."""

    @property
    def ranked(self) -> Any:
        """(n, r) the stage's likeliest classes, best first."""

    @property
    def entropies(self) -> Any:
        """(n,) entropy of the stage's own probabilities, in nats."""

    @property
    def log_sum_exp(self) -> Any:
        """(n,) of the stage's logits over its temperature."""

    def top(self, rank: int) -> Array:
        """(n,) log belief in the alternative of that rank, 0 the best; at least ``-FARTHEST``."""

    def rank(self, i: int, rank: int) -> Array:
        """(n,) log probability that stage ``i`` gives its class of that rank; at least ``-FARTHEST``."""

    def measured(self, i: int, name: str) -> Array:
        """(n,) a number that came with stage ``i``."""

    def pooled_doubt(self, i: int) -> Array:
        """(n,) doubt by the pooled features of stage ``i``."""


@dataclass(frozen=True)
class Shape:
    """What there is to see at the end of a path: its ``stages``; of each whether it has ``logits``, which ``measured``
    numbers may be looked at, whether it has a doubt by ``pooled`` features; ``classes``; ``ranks`` kept of a stage;
    whether stages are compared (``agreement``); names of the columns ``added`` to the program's own.
    """

    stages: tuple[str, ...]
    logits: tuple[bool, ...]
    measured: tuple[tuple[str, ...], ...]
    pooled: tuple[bool, ...]
    classes: int
    ranks: int
    agreement: bool = True
    added: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A number (n,) of a ``belief``, of one ``stage`` or of a ``pair`` of stages.

    ``of(seen)``, ``of(seen, i)`` or ``of(seen, i, j)`` gives it, by ``seen.ops``, for places i < j on the path;
    ``when(shape, *places)`` whether it is there. With ``keys(shape, *places)`` there is one for each key, which
    ``of`` gets last. ``live``: whether a live batch brings what it needs.
    """

    owner: Literal["belief", "stage", "pair"]
    of: Callable[..., Array]
    when: Callable[..., bool] = lambda *_: True
    keys: Callable[..., Sequence[Any]] | None = None
    live: bool = True


@dataclass(frozen=True)
class Placed:
    """A column at the end of one path: its full ``name``, what its formula gets behind ``seen``, and whether it was
    ``added`` to the program's own."""

    name: str
    column: Column
    places: tuple[Any, ...]
    added: bool = False

    def __call__(self, seen: Seen) -> Array:
        """The column (n,)."""
        return self.column.of(seen, *self.places)


LEAST_DOUBT = float(np.exp(-FARTHEST))
LEAST_PROBABILITY = float(np.exp(FLOOR))


def _divergence(seen: Seen, i: int, j: int) -> Array:
    """Jensen and Shannon's, in nats."""
    ops, p, q = seen.ops, seen.stage_p[i], seen.stage_p[j]
    middle = ops.log((p + q) / 2 + ops.scalar(LEAST_PROBABILITY))
    return 0.5 * (ops.dot(p, seen.said[i] - middle) + ops.dot(q, seen.said[j] - middle))


def _overlap(seen: Seen, i: int, j: int) -> Array:
    """How many of the likeliest classes two stages share."""
    a, b = seen.ranked[i][:, :, None], seen.ranked[j][:, None, :]
    shared = a == b
    if not all(seen.shape.logits):
        shared = shared & (a != NO_ANSWER)
    return shared.sum((1, 2))


def _stage_doubt(seen: Seen, i: int) -> Array:
    """Log probability that the best class is wrong: spreads out the many examples that are almost sure."""
    ops = seen.ops
    return ops.log(ops.at_least(-ops.expm1(seen.rank(i, 0)), LEAST_DOUBT))


def _classes(shape: Shape) -> Sequence[int]:
    return range(shape.classes) if shape.classes <= CORRECTED_CLASSES else ()


def _logits(shape: Shape, i: int) -> bool:
    return shape.logits[i]


PROGRAM: dict[str, Column] = {
    "belief.margin": Column("belief", lambda seen: seen.top(0) - seen.top(1)),
    "belief.second_margin": Column("belief", lambda seen: seen.top(1) - seen.top(2)),
    "belief.entropy": Column("belief", lambda seen: -seen.ops.dot(seen.p, seen.ops.at_least(seen.logp, -100))),
    "belief.doubt": Column("belief", lambda seen: seen.ops.log(seen.ops.at_least(seen.left, LEAST_DOUBT))),
    "belief.is_": Column("belief", lambda seen, y: seen.ops.number(seen.best == y), keys=_classes),
    "stage.on_belief": Column("stage", lambda seen, i: seen.ops.pick(seen.said[i], seen.best)),
    "stage.max_probability": Column("stage", lambda seen, i: seen.ops.exp(seen.rank(i, 0)), _logits),
    "stage.margin": Column("stage", lambda seen, i: seen.rank(i, 0) - seen.rank(i, 1), _logits),
    "stage.second_margin": Column("stage", lambda seen, i: seen.rank(i, 1) - seen.rank(i, 2), _logits),
    "stage.entropy": Column("stage", lambda seen, i: seen.entropies[i], _logits),
    "stage.doubt": Column("stage", _stage_doubt, _logits),
    "stage.log_sum_exp": Column("stage", lambda seen, i: seen.log_sum_exp[i], _logits),
    "stage.second_probability": Column("stage", lambda seen, i: seen.ops.exp(seen.rank(i, 1)), _logits),
    "stage.third_probability": Column("stage", lambda seen, i: seen.ops.exp(seen.rank(i, 2)), _logits),
    "stage.": Column(
        "stage",
        lambda seen, i, name: seen.measured(i, name),
        keys=lambda shape, i: shape.measured[i],
        live=False,
    ),
    "stage.reliability": Column(
        "stage",
        lambda seen, i: seen.ops.pick(seen.said[i], seen.first[i]),
        lambda shape, i: not shape.logits[i],
        live=False,
    ),
    "stage.pooled_doubt": Column(
        "stage", lambda seen, i: seen.pooled_doubt(i), lambda shape, i: shape.pooled[i], live=False
    ),
    "pair.same": Column("pair", lambda seen, i, j: seen.answers[i] == seen.answers[j]),
    "pair.later_on_earlier": Column("pair", lambda seen, i, j: seen.ops.pick(seen.said[j], seen.first[i])),
    "pair.earlier_on_later": Column("pair", lambda seen, i, j: seen.ops.pick(seen.said[i], seen.first[j])),
    "pair.divergence": Column("pair", _divergence),
    "pair.overlap": Column("pair", _overlap, lambda shape, *_: shape.ranks > 1),
}

COLUMNS: Registry[Column] = Registry("column", "offramp.columns", PROGRAM)
"""The program's own columns by ``owner.name``, in the order in which they stand behind each other for one owner; those
of plug-ins (a name without owner) follow behind them all, in the order that the fitted policies' file records."""

OWN = tuple(PROGRAM)
"""Names of the program's own columns: files of policies count on their order, so new ones join by ``added`` too."""


def added() -> tuple[str, ...]:
    """Names of the columns that were added to the program's own, by plug-ins or by hand.

    Raises InputError for one that has the name of another.
    """
    names = tuple(name for name in COLUMNS if name not in OWN)
    taken = {name.partition(".")[2] for name in OWN}
    for name in names:
        if not name.isidentifier() or name in taken or name.startswith("is_"):
            raise InputError("a column's name that is a new word", repr(name), "columns (offramp.columns)")
    return names


def layout(shape: Shape) -> tuple[Placed, ...]:
    """The columns of a path of that shape, in their order."""
    found: list[Placed] = []
    own = {owner: [name for name in OWN if name.startswith(owner + ".")] for owner in ("belief", "stage", "pair")}
    for owner, places, called in _owners(shape):
        for name in own[owner]:
            found += _placed(shape, name.partition(".")[2], COLUMNS[name], places, called)
    for name in shape.added:
        column = COLUMNS.find(name, "columns that the policies look at")
        for owner, places, called in _owners(shape):
            if owner == column.owner:
                found += [replace(each, added=True) for each in _placed(shape, name, column, places, called)]
    return tuple(found)


def _owners(shape: Shape) -> list[tuple[str, tuple[int, ...], str]]:
    """What may own a column: its kind, its places on the path and its name."""
    every = range(len(shape.stages))
    pairs = list(combinations(every, 2)) if shape.agreement else []
    return [
        ("belief", (), "belief"),
        *(("stage", (i,), shape.stages[i]) for i in every),
        *(("pair", (i, j), f"{shape.stages[i]}~{shape.stages[j]}") for i, j in pairs),
    ]


def _placed(shape: Shape, name: str, column: Column, places: tuple[int, ...], owner: str) -> list[Placed]:
    if not column.when(shape, *places):
        return []
    if column.keys is None:
        return [Placed(f"{owner}.{name}", column, places)]
    return [Placed(f"{owner}.{name}{key}", column, (*places, key)) for key in column.keys(shape, *places)]
