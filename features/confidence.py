"""Logits turned into the confidence numbers of one stage, each example read once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from offramp.features.outputs import Floats, Ints

TOP = 3
"""Ranked classes kept of every example, unless more are asked for (top-5 loss needs five)."""

CHUNK_BYTES = 1 << 19
"""Logits read at a time: half of a common L2 cache, so that the passes over a chunk after the first are cheap."""

LOWEST = np.float32(-1e30)
"""Logits over the temperature below are it: masked classes often hold the lowest float, and dividing that overflows."""


@dataclass(frozen=True)
class Confidence:
    """What a distribution over c classes looks like from outside, for n examples.

    ``top`` (n, r) the r likeliest classes, best first (ties: the lower class); ``top_logp`` (n, r) their log
    probabilities; ``entropy`` (n,) in nats; ``log_sum_exp`` (n,) of the logits over the temperature.
    """

    top: Ints
    top_logp: Floats
    entropy: Floats
    log_sum_exp: Floats


def read_confidence(
    logits: Floats, temperature: float = 1.0, ranks: int = TOP, workers: int | None = None
) -> Confidence:
    """Read logits (n, c) over ``temperature`` in chunks, on ``workers`` threads (unless said, all cores), as float32.

    Logits of any float type, memory-mapped or not; nothing of their size is allocated.

    >>> seen = read_confidence(np.log([[0.7, 0.2, 0.1]]))
    >>> seen.top.tolist(), [f"{p:.3f}" for p in np.exp(seen.top_logp[0])], f"{seen.entropy[0]:.3f}"
    ([[0, 1, 2]], ['0.700', '0.200', '0.100'], '0.802')
    """
    n, c = logits.shape
    r = min(ranks, c)
    out = Confidence(
        np.empty((n, r), np.int32), np.empty((n, r), np.float32), np.empty(n, np.float32), np.empty(n, np.float32)
    )
    workers = workers or os.cpu_count() or 1
    if workers == 1:
        _read(logits, temperature, slice(0, n), out)
        return out
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(lambda part: _read(logits, temperature, part, out), _shares(n, workers)):
            pass
    return out


def _shares(n: int, workers: int) -> list[slice]:
    edges = np.linspace(0, n, workers + 1).astype(int)
    return [slice(int(low), int(high)) for low, high in pairwise(edges) if high > low]


def _read(logits: Floats, temperature: float, part: slice, out: Confidence) -> None:
    """Fill ``out`` for the rows ``part``: one worker's share, in chunks, with two buffers used again and again."""
    c = logits.shape[1]
    step = max(1, min(CHUNK_BYTES // (4 * c), part.stop - part.start))
    z_buffer, p_buffer = np.empty((step, c), np.float32), np.empty((step, c), np.float32)
    ones = np.ones(c, np.float32)
    for start in range(part.start, part.stop, step):
        rows = slice(start, min(start + step, part.stop))
        z, p = z_buffer[: rows.stop - start], p_buffer[: rows.stop - start]
        with np.errstate(over="ignore"):
            np.multiply(logits[rows], np.float32(1.0 / temperature), out=z, casting="same_kind")
        np.maximum(z, LOWEST, out=z)
        index = np.arange(len(z))
        best = z.argmax(axis=1)
        highest = z[index, best]
        z -= highest[:, None]
        np.exp(z, out=p)
        total = p @ ones  # a matrix product: four times as fast as a sum over rows
        log_total = np.log(total)
        out.log_sum_exp[rows] = highest + log_total
        out.entropy[rows] = np.maximum(log_total - np.vecdot(p, z) / total, 0)
        out.top[rows, 0], out.top_logp[rows, 0] = best, -log_total
        for rank in range(1, out.top.shape[1]):
            z[index, best] = -np.inf  # struck out, so that the next best is the best
            best = z.argmax(axis=1)
            out.top[rows, rank], out.top_logp[rows, rank] = best, z[index, best] - log_total


FARTHEST = np.float32(15.0)
"""Log odds beyond which one answer is as sure as another (one in three million): keeps splines off the tails."""
