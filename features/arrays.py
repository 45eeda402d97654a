"""The few array operations that columns and live decisions need, as NumPy has them (torch: ``cascades.runtime``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from offramp.features.outputs import Floats, Ints

Array = Any
"""An array of numpy, or a tensor of torch on any device."""


class lazy:  # noqa: N801 - used like ``property``
    """A property reckoned once: functools' own takes a lock every time, as long as two operations on a small array."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function, self.name = function, function.__name__

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        """Reckon, and leave the result where the next look finds it without coming here."""
        value = owner.__dict__[self.name] = self.function(owner)
        return value


@dataclass(frozen=True)
class Ops:
    """The few operations that are called differently in numpy and torch; arrays are (n, c) unless said."""

    const: Callable[[Any, Array], Array]
    exp: Callable[[Array], Array]
    expm1: Callable[[Array], Array]
    scalar: Callable[[float], Any]
    log: Callable[[Array], Array]
    at_least: Callable[[Array, Any], Array]
    no_less: Callable[[Array, Array], Array]
    highest: Callable[[Array], Array]
    total: Callable[[Array], Array]
    summed: Callable[[Array], Array]
    ranked: Callable[[Array, int], Array]
    rising: Callable[[Array], Array]
    pick: Callable[[Array, Array], Array]
    columns: Callable[[Sequence[Array]], Array]
    take: Callable[[Array, Array], Array]
    dot: Callable[[Array, Array], Array]
    number: Callable[[Array], Array]
    joined: Callable[[Sequence[Array]], Array]
    host: Callable[[Array], Any]
    back: Callable[[Any, Array], Array]


_ROWS = np.arange(4096)


def _rows(n: int) -> Ints:
    return _ROWS[:n] if n <= len(_ROWS) else np.arange(n)


def _np_pick(x: Floats, index: Ints) -> Floats:
    return np.asarray(x[_rows(len(x)), index])


def _np_columns(parts: Sequence[Floats]) -> Floats:
    out = np.empty((len(parts[0]), len(parts)), np.float32)
    for j, part in enumerate(parts):
        out[:, j] = part
    return out


_ONES = np.ones((4096, 1), np.float32)


def _np_total(x: Floats) -> Floats:
    # a product with ones takes a third of the time of a sum along rows
    return np.asarray(x @ _ONES[: x.shape[1]]) if x.shape[1] <= len(_ONES) else x.sum(1, keepdims=True)


def _np_rising(x: Floats) -> Floats:
    """Sorted along rows; numpy's own function goes through four more."""
    out = x.copy()
    out.sort(1)
    return out


NUMPY = Ops(
    const=lambda value, _like: value,
    exp=np.exp,
    expm1=np.expm1,
    scalar=float,
    log=np.log,
    at_least=np.maximum,
    no_less=np.maximum,
    highest=lambda x: np.maximum.reduce(x, 1, keepdims=True),
    total=_np_total,
    summed=lambda x: x @ np.ones(x.shape[1], x.dtype),
    ranked=lambda x, ranks: np.argsort(-x, 1, kind="stable")[:, :ranks],
    rising=_np_rising,
    pick=_np_pick,
    columns=_np_columns,
    take=lambda x, index: x.take(index, 1),
    dot=np.vecdot,
    number=lambda x: x.astype(np.float32),
    joined=lambda parts: np.concatenate(parts, 1),
    host=np.asarray,
    back=lambda value, _like: value,
)


STORED = replace(NUMPY, scalar=np.float64, dot=lambda a, b: np.einsum("nm,nm->n", a, b))
"""For stored outputs: sums in the order, and constants of the width, in which fitted policies saw them first."""
