"""Routings of the same examples turned into estimates of what they cost and lose, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from offramp.cascades.graph.routing import Routing
from offramp.features.outputs import Floats, Ints

# A multinomial draw costs about as much per cell as resampling costs for 20 rows: beyond, cells don't pay.
CELLS = 500
BINS = 2**20
# Equal random blocks of examples have the same variance as the examples; 10,000 of them pin it to 1.4 %.
BLOCKS = 10_000
CHUNK = 50  # draws at a time: a few MB of counts


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: percentiles of so many draws, so wide."""

    draws: int = 1000
    seed: int = 0
    level: float = 0.95


BOOTSTRAP = Bootstrap()


@dataclass(frozen=True)
class Estimate:
    """A number measured on a sample, and the percentile interval around it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Interval:
    """Mean cost and mean loss of one routing."""

    cost: Estimate
    error: Estimate


def interval(routing: Routing, how: Bootstrap = BOOTSTRAP) -> Interval:
    """Mean cost and mean loss of a routing, with percentile bootstrap intervals over its examples.

    What has no spread in the sample gets none here: a router that was never wrong has the interval [0, 0].
    """
    means = resampled([routing], how)[:, 0]
    (cost, error), ends = means[0].tolist(), np.quantile(means[1:], _ends(how), axis=0).T.tolist()
    return Interval(Estimate(cost, *ends[0]), Estimate(error, *ends[1]))


def resampled(routings: Sequence[Routing], how: Bootstrap = BOOTSTRAP) -> Floats:
    """Means (1 + draws, m, 2) of cost and loss of m routings: as they are, then over examples drawn with replacement.

    Cost follows from the path, so where losses are 0 or 1 an example is one of a few cells (path and loss in each
    routing), and drawing n examples is one multinomial draw of the cells' counts: exact, at a price that does not
    depend on n. Where there are too many cells or other losses, rows are drawn; above ``BLOCKS`` rows, equal random
    blocks of them. Raises ValueError when the routings are not of the same examples.
    """
    if len({(len(routing), routing.part) for routing in routings}) != 1:
        raise ValueError("paired intervals need routings of the same examples of the same part")
    rng = np.random.default_rng(how.seed)
    cells = _cells(routings)
    if cells is None:
        means = _draw_rows(_sums(routings, rng), how.draws, rng)
    else:
        values, counts = cells
        n = len(routings[0])
        means = np.vstack([counts, rng.multinomial(n, counts / n, size=how.draws)]) @ values / n
    return means.reshape(1 + how.draws, -1, 2)


def estimate(drawn: Floats, how: Bootstrap = BOOTSTRAP) -> Estimate:
    """The estimate drawn[0] with the interval of the finite ones among drawn[1:]; NaN where too few are finite."""
    value, rest = float(drawn[0]), drawn[1:][np.isfinite(drawn[1:])]
    if len(rest) < how.level * (len(drawn) - 1):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(rest, _ends(how))
    return Estimate(value, float(low), float(high))


def ratio(above: Floats | float, below: Floats | float) -> Floats:
    """``above / below``, infinite or NaN where ``below`` is zero, without a warning."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.divide(above, below))


def _ends(how: Bootstrap) -> tuple[float, float]:
    return (1 - how.level) / 2, (1 + how.level) / 2


def _binary(wrong: Floats | NDArray[np.bool_]) -> bool:
    return wrong.dtype == np.bool_ or bool(((wrong == 0) | (wrong == 1)).all())


def _cells(routings: Sequence[Routing]) -> tuple[Floats, Ints] | None:
    """Values (z, 2m) of each cell that occurs and its count (z,), commonest first; None where cells don't pay."""
    shape = [size for routing in routings for size in (len(routing.routes.paths), 2)]
    if prod(shape) > BINS or not all(_binary(routing.wrong) for routing in routings):
        return None
    code = np.zeros(len(routings[0]), np.intp)
    for routing in routings:
        code = (code * len(routing.routes.paths) + routing.path) * 2 + (routing.wrong != 0)
    counts = np.bincount(code)
    seen = np.flatnonzero(counts)
    if len(seen) > CELLS:
        return None
    # Commonest first, so that the binomials behind a multinomial draw soon have little left to share out.
    seen = seen[np.argsort(-counts[seen], kind="stable")]
    index = np.unravel_index(seen, shape)
    columns = [
        column for m, routing in enumerate(routings) for column in (routing.routes.cost[index[2 * m]], index[2 * m + 1])
    ]
    return np.column_stack(columns).astype(float), counts[seen]


def _sums(routings: Sequence[Routing], rng: np.random.Generator) -> Floats:
    """(b, 2m + 1) cost and loss of each routing summed over blocks of examples, and the blocks' sizes."""
    n = len(routings[0])
    columns = (column for routing in routings for column in (routing.cost, routing.wrong))
    if n <= BLOCKS:
        return np.column_stack([*columns, np.ones(n)]).astype(float)
    block = np.empty(n, np.intp)
    block[rng.permutation(n)] = np.arange(n) % BLOCKS
    return np.column_stack([*(np.bincount(block, column) for column in columns), np.bincount(block)]).astype(float)


def _draw_rows(sums: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """(1 + draws, 2m) means over the rows of ``sums``, then over rows drawn with replacement."""
    rows = len(sums)
    total = sums.sum(axis=0, keepdims=True)
    means = [total[:, :-1] / total[:, -1:]]
    for start in range(0, draws, CHUNK):
        size = min(CHUNK, draws - start)
        drawn = rng.integers(rows, size=(size, rows)) + rows * np.arange(size)[:, None]
        total = np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows) @ sums
        means.append(total[:, :-1] / total[:, -1:])
    return np.concatenate(means)
