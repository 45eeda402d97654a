"""Counts of what came turned into evidence that it no longer comes as it did: urns, bets, and starting anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from offramp.features.outputs import Floats, Ints

SHIFTS = (0.1, 0.25, 0.6, 1.5, 3.5)
"""Changes of log odds that are bet on, up and down."""

STEP = 2**-0.5
"""Ratio of the shares of neighbouring cuts from a half to a 64th; beyond, a few far ones do."""

FAR = (256, 1024, 4096)

BLOCK = 250
"""Examples between two looks, and between two starts."""

FIRST = 0.5
"""Share of the capital that bets on a change before the first example."""

PATIENCE = 40
"""Of the rest, start j has the share a / ((j + a) (j + a - 1)), which sums to one."""

KEPT = 4
"""A start so many times a power of two old is kept only if its number is a multiple of that power."""

LARGEST = 600.0
"""Logarithms of e-values end here."""


def cuts(examples: Ints) -> Ints:
    """Gaps above each cut (s, c): of the ``examples`` + 1 gaps (s,) that a reference of as many leaves, those on its
    upper side. Shares fall by ``STEP`` towards both ends.

    >>> cuts(np.array([9]))[0].tolist()[:3], int(cuts(np.array([9])).max())
    ([1, 1, 1], 9)
    """
    near = STEP ** np.arange(2, 13)
    share = np.concatenate([near, 1 / np.array(FAR)])
    share = np.sort(np.concatenate([share, 1 - share[1:]]))
    n = np.asarray(examples, dtype=np.int64)[:, None]
    return np.clip(np.round(share * (n + 1)).astype(np.int64), 1, n)


def thresholds(counts: Sequence[int] | Ints, above: Ints, rng: np.random.Generator) -> Floats:
    """Where the cuts (c,) with so many gaps ``above`` fall among scores of which only whole parts are known.

    A reference has ``counts`` (m,) examples in the cells 0 to m - 1. Each scores its cell plus a uniform number, and a
    cut is at one of these scores: the next example's lies above with a probability that is Beta(above, examples + 1 -
    above), whatever the cells' own probabilities are. Only the scores that are cut at are drawn, as order statistics.
    """
    counts = np.asarray(counts, dtype=np.int64)
    upto = np.cumsum(counts)
    found = np.empty(len(above))
    cell, rank, score = -1, 0, 0.0
    for i in np.argsort(-np.asarray(above), kind="stable").tolist():
        place = int(upto[-1]) + 1 - int(above[i])  # of the score that is cut at, from below, from 1
        here = int(np.searchsorted(upto, place))
        if here != cell:
            cell, rank, score = here, 0, 0.0
        within = place - int(upto[here] - counts[here])
        if within > rank:
            score += (1 - score) * float(rng.beta(within - rank, int(counts[here]) + 1 - within))
            rank = within
        found[i] = here + score
    return found


class Urns:
    """Whether new examples fall above cuts through a reference as often as they would if nothing had changed.

    s sequences, each cut at c places. While the world is as it was, the next example falls above a cut with the share
    of the gaps above it, each example that came counted as one more: an urn (Polya's), exactly, since the reference
    cut itself into random shares. Against that are bet the odds at a start, moved by ``SHIFTS``: "up", "down" or "both"
    ways. With ``together`` there is one more sequence, the product of the s: all move alike.
    """

    def __init__(self, above: Ints, examples: Ints, ways: str = "both", together: bool = False) -> None:
        self.above = above.astype(np.float64)
        self.below = np.asarray(examples, dtype=np.float64)[:, None] + 1 - self.above
        self.together = together
        up = np.array(SHIFTS) if ways != "down" else np.empty(0)
        down = -np.array(SHIFTS) if ways != "up" else np.empty(0)
        self.shifts = np.concatenate([up, down])
        s, c = above.shape
        self.shape = (s, c + 1)
        """Of what is counted: above each cut, and all."""
        self.sequences = s + together

    def prepare(self, then: Ints) -> tuple[Floats, ...]:
        """What the wealth of those who start at the counts ``then`` (s, c + 1) needs."""
        above = self.above + then[:, :-1]
        below = self.below + then[:, -1:] - then[:, :-1]
        odds = np.log(above / below)[..., None] + self.shifts
        low = -np.logaddexp(0, odds)
        return odds, low, self._likelihood(then), then.astype(np.float64)

    def wealth(self, prepared: Sequence[Floats], now: Ints) -> Floats:
        """Mean wealth (j, sequences) over cuts and shifts of those who started at j ``prepared`` counts."""
        return np.asarray(np.exp(self.logs(prepared, now)).mean(axis=(2, 3)))

    def logs(self, prepared: Sequence[Floats], now: Ints) -> Floats:
        """Logarithms of wealth (j, sequences, c, shifts)."""
        odds, low, likelihood, then = prepared
        new = now - then
        logs = odds * new[..., :-1, None]
        logs += low * new[..., -1:, None]
        logs -= (self._likelihood(now) - likelihood)[..., None]
        if self.together:
            logs = np.concatenate([logs, logs.sum(axis=1, keepdims=True)], axis=1)
        return np.minimum(logs, LARGEST, out=logs)

    def _likelihood(self, counts: Ints) -> Floats:
        """Log probability (s, c) of the counts, in the order they came, by the urn."""
        from scipy.special import betaln

        up, down = counts[:, :-1], counts[:, -1:] - counts[:, :-1]
        return np.asarray(betaln(self.above + up, self.below + down) - betaln(self.above, self.below))


STAKES = (0.005, 0.015, 0.05, 0.15, 0.45, 0.9)
"""Shares of the largest bet that can't go broke."""


class Bets:
    """Whether the mean of outcomes in [0, 1] is above a bound: bets of fixed stakes that win where an outcome is.

    ``outcomes`` (d,) that there are. The wealth of a stake is the product of 1 + stake (outcome - bound): while the
    mean of each next outcome is at most the bound, whatever came before, it is a supermartingale (Waudby-Smith and
    Ramdas, 2024).
    """

    sequences = 1

    def __init__(self, outcomes: Floats, bound: float) -> None:
        bound = max(bound, 1e-9)
        self.shape = (1, len(outcomes))
        self.table = np.log1p(np.outer(np.array(STAKES) / bound, outcomes - bound))

    def prepare(self, then: Ints) -> tuple[Floats, ...]:
        """What the wealth of those who start at the counts ``then`` (1, d) needs."""
        return (then.astype(np.float64),)

    def wealth(self, prepared: Sequence[Floats], now: Ints) -> Floats:
        """Mean wealth (j, 1) over the stakes of those who started at j ``prepared`` counts."""
        return np.asarray(np.exp(np.minimum((now - prepared[0]) @ self.table.T, LARGEST)).mean(axis=2))


class Restarts:
    """A test's capital, shared out over starts: some bets from the first example on, the rest from later ones.

    A martingale that has bet on a change for long has lost its capital when the change comes; the mean over starts,
    with weights that sum to one, is a martingale too, and has still put some by. What is not yet started is one; what
    is given up, to keep the number of starts small, is put by with the wealth that it has.
    """

    def __init__(self, test: Urns | Bets) -> None:
        self.test = test
        self.now = np.zeros(test.shape, dtype=np.int64)
        self.starts: list[int] = []
        self.then: list[Ints] = []
        self.notes: list[Ints] = []
        self.saved = np.zeros(test.sequences)
        self.prepared: list[Floats] = []

    def start(self, block: int, note: Ints) -> None:
        """A new start, at this block; ``note`` is kept beside it."""
        self.starts.append(block)
        self.then.append(self.now.copy())
        self.notes.append(note.copy())
        self._put(len(self.starts) - 1, self.test.prepare(self.now))

    def _put(self, at: int, new: Sequence[Floats]) -> None:
        """Into place ``at`` of arrays that have room to grow."""
        if not self.prepared or at >= len(self.prepared[0]):
            old = self.prepared
            self.prepared = [np.empty((2 * at + 8, *one.shape)) for one in new]
            for into, out in zip(self.prepared, old, strict=bool(old)):
                into[:at] = out[:at]
        for into, one in zip(self.prepared, new, strict=True):
            into[at] = one

    def active(self) -> list[Floats]:
        """What was prepared for each start that is kept."""
        return [one[: len(self.starts)] for one in self.prepared]

    def worth(self) -> Floats:
        """Weighted wealth (j, sequences) of each start."""
        weights = np.array([weight(start) for start in self.starts])
        return np.asarray(self.test.wealth(self.active(), self.now) * weights[:, None])

    def look(self, worth: Floats) -> Floats:
        """Log e-value (sequences,) of each sequence, where the starts have this ``worth``."""
        return np.asarray(np.log(worth.sum(axis=0) + self.saved + waiting(self.starts[-1])))

    def close(self, worth: Floats, note: Ints) -> None:
        """End a block: give up starts that are too close to their neighbours for their age, and start anew."""
        block = self.starts[-1] + 1
        keep = np.array([kept(start, block) for start in self.starts])
        if not keep.all():
            self.saved = self.saved + worth[~keep].sum(axis=0)
            rows, first = np.flatnonzero(keep), int(np.flatnonzero(~keep)[0])
            for one in self.prepared:
                one[first : len(rows)] = one[rows[first:]]
            self.starts = [self.starts[row] for row in rows]
            self.then = [self.then[row] for row in rows]
            self.notes = [self.notes[row] for row in rows]
        self.start(block, note)

    def to_plain(self) -> dict[str, Any]:
        """All that it knows, in JSON's types."""
        return {
            "now": self.now.tolist(),
            "starts": self.starts,
            "then": [one.tolist() for one in self.then],
            "notes": [one.tolist() for one in self.notes],
            "saved": self.saved.tolist(),
        }

    def take_up(self, found: Mapping[str, Any], note: Ints) -> None:
        """Go on from what ``to_plain`` wrote. Raises ValueError for what can't be that of this test."""
        now, saved = counted(found["now"], self.test.shape), np.array(found["saved"], dtype=np.float64)
        then = [counted(one, self.test.shape) for one in found["then"]]
        notes = [counted(one, note.shape) for one in found["notes"]]
        starts = list(found["starts"])
        fine = len(starts) == len(then) == len(notes) and starts[:1] == [0] and all(type(one) is int for one in starts)
        fine = fine and starts == sorted(set(starts)) and all(bool((one <= now).all()) for one in then)
        if not fine or saved.shape != (self.test.sequences,) or not (saved >= 0).all():
            raise ValueError("starts, counts and savings do not belong together")
        self.now, self.then, self.notes, self.starts, self.saved = now, then, notes, starts, saved
        self.prepared = []
        for at, counts in enumerate(then):
            self._put(at, self.test.prepare(counts))


def counted(found: Any, shape: tuple[int, ...]) -> Ints:
    """Counts of this shape, from JSON. Raises ValueError for anything else."""
    counts = np.array(found)
    if counts.shape != shape or counts.dtype.kind != "i" or (counts < 0).any():
        raise ValueError(f"no counts of shape {shape}")
    return counts


def weight(start: int) -> float:
    """Share of the capital that bets from block ``start`` on.

    >>> round(sum(weight(start) for start in range(1000)) + waiting(999), 12)
    1.0
    """
    return FIRST if start == 0 else (1 - FIRST) * PATIENCE / ((start + PATIENCE) * (start + PATIENCE - 1))


def waiting(start: int) -> float:
    """Share of the capital that starts after block ``start``."""
    return (1 - FIRST) * PATIENCE / (start + PATIENCE)


def kept(start: int, block: int) -> bool:
    """Whether a start is still kept at ``block``: a number of starts that grows with the logarithm of the age."""
    return start % (1 << max(0, ((block - start) // KEPT).bit_length() - 1)) == 0
