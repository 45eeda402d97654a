"""A log of where examples stopped turned into sequential tests of whether the world has changed."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascades.chains import chain_name
from cascades.deployment import Certificate, Deployment, Reference
from cascades.routing import Routes, Routing
from features.errors import InputError
from features.glance import glance
from features.outputs import Floats, Ints, Outputs
from features.writing import replacing

EDGES = tuple((1 / (1 + np.exp(-np.arange(-3, 9.5, 0.25)))).tolist())
"""Confidences between which examples are counted, even in the log odds, from 0.05 to 0.9999. They are given and not
quantiles of the reference: only then are its counts a plain sample, which the tests rest on."""

NONE = -1
"""Stands for a path, an answer or a label that a line of a log does not give."""


def reference_of(routing: Routing, outputs: Outputs) -> Reference:
    """How often each path was taken, with what confidence, and what was answered, on the examples of ``outputs``.

    Raises ValueError when the routing is of other examples. They should be such as nothing was learned from, or they
    look surer than what comes.
    """
    routes = routing.routes
    if len(routing) != len(outputs) or routing.part != outputs.part or set(routes.stages) - set(outputs.names):
        raise ValueError("a reference needs the outputs of every stage on the very examples that were routed")
    names = path_names(routes)
    sure = confidences(routing, outputs)
    counts = {}
    for q, name in enumerate(names):
        here = sure[routing.path == q]
        if len(here) and not np.isnan(here).any():
            counts[name] = tuple(np.bincount(np.searchsorted(EDGES, here, "right"), minlength=len(EDGES) + 1).tolist())
    known = bool(((routing.answer >= 0) & (routing.answer < outputs.classes)).all())
    return Reference(
        len(routing),
        dict(zip(names, routing.visits.tolist(), strict=True)),
        EDGES,
        counts,
        tuple(np.bincount(routing.answer, minlength=outputs.classes).tolist()) if known else (),
        int((routing.answer != outputs.labels).sum()),
    )


def confidences(routing: Routing, outputs: Outputs) -> Floats:
    """Maximum softmax probability (n,) of the last stage on each example's path; NaN where there is none.

    A stage of answers alone has the number that came with them as "confidence", if it is a probability throughout.
    """
    sure = np.full(len(routing), np.nan)
    for s, stage in enumerate(outputs.of(routing.routes.stages).stages):
        rows = np.flatnonzero(routing.exit == s)
        if stage.logits is not None and len(rows):
            sure[rows] = np.exp(glance(np.asarray(stage.logits[rows]), ranks=1).top_logp[:, 0])
        elif "confidence" in stage.measured:
            told = np.asarray(stage.measured["confidence"], dtype=np.float64)
            sure[rows] = told[rows] if ((told >= 0) & (told <= 1)).all() else np.nan
    return np.asarray(np.minimum(sure, 1.0))


def path_names(routes: Routes) -> tuple[str, ...]:
    """Every path as logs have it, "alexnet>resnet"."""
    return tuple(chain_name(routes, path) for path in routes.paths)


# --- what is watched


@dataclass(frozen=True)
class Subject:
    """What a stream is held against: q paths over k stages, and what is known and promised of them.

    ``paths`` their names; ``cost`` (q,) in ``unit``; ``runs`` (q, k) whether a path runs a stage. ``loss``: what the
    certificate's risk is the mean of.
    """

    paths: tuple[str, ...]
    stages: tuple[str, ...]
    cost: Floats
    runs: NDArray[np.bool_]
    unit: str
    classes: int
    reference: Reference
    certificate: Certificate | None = None
    loss: str = "top1"


def subject_of(deployment: Deployment, where: str = "policy") -> Subject:
    """What to watch of a policy. Raises InputError if it has no reference, or one that can't be of its paths."""
    reference, routes = deployment.reference, deployment.fitted.sweep.routes
    if reference is None:
        raise InputError("a policy with a reference (run eval.certify on it first)", "none", where)
    names = path_names(routes)
    strange = [name for name in (*reference.exits, *reference.counts) if name not in names]
    if strange:
        raise InputError(f"a reference of the paths {', '.join(names)}", strange[0], where)
    n, edges = reference.examples, np.asarray(reference.edges)
    fine = n > 0 and sum(reference.exits.values()) == n and bool((np.diff(edges) > 0).all())
    fine &= all(
        len(counts) == len(edges) + 1 and sum(counts) == reference.exits.get(name, 0)
        for name, counts in reference.counts.items()
    )
    fine &= not reference.answers or (len(reference.answers) == deployment.classes and sum(reference.answers) == n)
    fine &= reference.wrong is None or 0 <= reference.wrong <= n
    if not fine:
        raise InputError("a reference whose counts add up to its examples", "others", where)
    runs = np.array([[s in path for s in range(len(routes.stages))] for path in routes.paths])
    return Subject(
        names,
        routes.stages,
        np.asarray(routes.cost, dtype=np.float64),
        runs,
        routes.unit,
        deployment.classes,
        reference,
        deployment.certificate,
        deployment.fitted.sweep.loss,
    )


@dataclass(frozen=True)
class Examples:
    """Lines of a log, each field (n,): ``path`` into the subject's, ``confidence`` (NaN: none), ``answer``, ``label``
    and ``largest``, the answer of the largest stage (``NONE`` where there is none). A line without a path is a label
    that came late."""

    path: Ints
    confidence: Floats
    answer: Ints
    label: Ints
    largest: Ints

    def __len__(self) -> int:
        return len(self.path)

    def take(self, rows: slice | Ints) -> Examples:
        """The lines ``rows``."""
        return Examples(*(getattr(self, field.name)[rows] for field in fields(self)))


# --- the mathematics: urns, bets, and starting anew

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


# --- what is tested

GROUPS = 64
"""Classes watched one by one at most; where there are more, neighbours are watched together."""

FEWEST = 31
"""Reference examples on a path below which their confidence is not watched: they say too little."""

Count = Callable[[Examples, Floats], Ints]


class Monitor:
    """One thing that is watched: how lines are counted, the test of the counts, and what an alarm says of them."""

    def __init__(self, name: str, test: Urns | Bets, count: Count, words: Callable[[Find], str]) -> None:
        self.name, self.test, self.count, self.words = name, test, count, words
        self.restarts = Restarts(test)
        self.highest = 0.0
        """Largest logarithm of the e-value so far, shared out over the sequences."""
        self.alarm: Alarm | None = None


@dataclass(frozen=True)
class Find:
    """Where a test's wealth is: ``sequence``, ``cut`` and the way ("up" or "down") that won most since ``start``;
    ``before`` and ``after``: what was counted until then and since, ``tally`` of all that is watched since."""

    sequence: int
    cut: int
    up: bool
    before: Ints
    after: Ints
    tally: Mapping[str, Ints]


@dataclass(frozen=True)
class Alarm:
    """What a monitor found: at which example, since about which, how strong it was, and in words."""

    monitor: str
    at: int
    since: int
    log_e: float
    text: str


def monitors_of(subject: Subject, rng: np.random.Generator) -> list[Monitor]:
    """Everything that can be watched of a subject; the draws cut the reference into shares."""
    reference, paths = subject.reference, subject.paths
    exits = np.array([reference.exits.get(name, 0) for name in paths])
    n = np.array([reference.examples])
    found = []
    sets, told = path_sets(subject)
    if len(sets):
        found.append(_of_sets("exits", sets, exits, lambda e: e.path, lambda f: _exit_words(f, sets, told, exits), rng))
    order = np.argsort(np.argsort(subject.cost, kind="stable"))
    if np.ptp(subject.cost) > 0:
        above = cuts(n)
        where = thresholds(exits[np.argsort(order)], above[0], rng)[None]
        found.append(
            Monitor(
                "cost",
                Urns(above, n, "up"),
                lambda e, u: _above((order[e.path] + u[:, 0])[e.path != NONE][None], where),
                lambda f: _cost_words(f, subject, float(exits @ subject.cost / n[0])),
            )
        )
    sure = [q for q, name in enumerate(paths) if sum(reference.counts.get(name, ())) >= FEWEST]
    if sure:
        found.append(_of_confidence(subject, sure, rng))
    if sum(reference.answers):
        size = -(-subject.classes // GROUPS)
        group = np.arange(subject.classes) // size
        ones = np.eye(int(group[-1]) + 1, dtype=bool)[:, group]
        answers = np.array(reference.answers)
        found.append(_of_sets("answers", ones, answers, _answered, lambda f: _answer_words(f, ones, answers), rng))
    if reference.wrong is not None:
        wrong = np.array([reference.examples - reference.wrong, reference.wrong])
        found.append(
            _of_sets(
                "error", np.array([[False, True]]), wrong, _wrong, lambda f: _error_words(f, wrong[1] / n[0]), rng, "up"
            )
        )
    if subject.certificate is not None:
        found += _promised(subject, subject.certificate)
    return found


def path_sets(subject: Subject) -> tuple[NDArray[np.bool_], list[str]]:
    """Sets (s, q) of paths whose shares are watched, and what their examples do: run a stage, or stop after a path."""
    sets: list[NDArray[np.bool_]] = []
    told = []
    alone = np.eye(len(subject.paths), dtype=bool)
    for members, does in [
        *((subject.runs[:, s], f"go to {stage}") for s, stage in enumerate(subject.stages)),
        *((alone[q], f"stop after {name}") for q, name in enumerate(subject.paths)),
    ]:
        known = any((members == other).all() or (members != other).all() for other in sets)
        if not (known or members.all() or not members.any()):
            sets.append(members)
            told.append(does)
    return np.array(sets[:GROUPS], dtype=bool).reshape(-1, len(subject.paths)), told


def _answered(e: Examples) -> Ints:
    return np.asarray(np.where(e.path == NONE, NONE, e.answer))  # a late label's answer has been counted before


def _wrong(e: Examples) -> Ints:
    known = (e.label != NONE) & (e.answer != NONE)
    return np.asarray(np.where(known, e.answer != e.label, NONE))


def _above(scores: Floats, where: Floats) -> Ints:
    """Counts (s, c + 1) of scores (s, n) above cuts (s, c), and of all."""
    up = (scores[:, :, None] > where[:, None, :]).sum(axis=1)
    return np.column_stack([up, np.full(len(up), scores.shape[1])])


def _of_sets(
    name: str,
    sets: NDArray[np.bool_],
    counts: Ints,
    value: Callable[[Examples], Ints],
    words: Callable[[Find], str],
    rng: np.random.Generator,
    ways: str = "both",
) -> Monitor:
    """Watches how often a value falls into each of the ``sets`` (s, values), of which a reference has ``counts``."""
    total = np.full(len(sets), counts.sum())
    above = cuts(total)
    inside = sets @ counts
    where = np.array(
        [thresholds([n - k, k], m, rng) for n, k, m in zip(total.tolist(), inside.tolist(), above, strict=True)]
    )

    def count(e: Examples, u: Floats) -> Ints:
        values = value(e)
        known = values != NONE
        return _above(sets[:, values[known]] + u[known, 0], where)

    return Monitor(name, Urns(above, total, ways), count, words)


def _of_confidence(subject: Subject, sure: Sequence[int], rng: np.random.Generator) -> Monitor:
    """Watches the confidence of the examples that take each of the paths ``sure``."""
    reference = subject.reference
    counts = np.array([reference.counts[subject.paths[q]] for q in sure])
    edges = np.array(reference.edges)
    total = counts.sum(axis=1)
    above = cuts(total)
    where = np.array([thresholds(one, m, rng) for one, m in zip(counts, above, strict=True)])

    def count(e: Examples, u: Floats) -> Ints:
        score = np.searchsorted(edges, e.confidence, "right") + u[:, 1]
        known = ~np.isnan(e.confidence)
        return np.concatenate(
            [_above(score[known & (e.path == q)][None], cut[None]) for q, cut in zip(sure, where, strict=True)]
        )

    ends = np.concatenate([[0.0], edges, [1.0]])
    cell = where.astype(np.int64)
    values = ends[cell] + (where - cell) * (ends[cell + 1] - ends[cell])
    test = Urns(above, total, together=len(sure) > 1)
    names = [subject.paths[q] for q in sure]
    return Monitor("confidence", test, count, lambda f: _confidence_words(f, names, values, test))


def _promised(subject: Subject, certificate: Certificate) -> list[Monitor]:
    """Watches the bounds of a certificate: the mean cost, and the risk as far as labels tell."""
    found = []
    low, high = float(subject.cost.min()), float(subject.cost.max())
    if high > low and certificate.cost_bound < high:
        outcomes = (subject.cost - low) / (high - low)
        found.append(
            Monitor(
                "cost bound",
                Bets(outcomes, (certificate.cost_bound - low) / (high - low)),
                lambda e, _: np.bincount(e.path[e.path != NONE], minlength=len(outcomes))[None],
                lambda f: _bound_words(f, subject, certificate.cost_bound),
            )
        )
    if subject.loss != "top5" and certificate.risk_bound < 1:
        found.append(
            Monitor(
                "risk bound",
                Bets(np.array([0.0, 0.5, 1.0]), (1 + certificate.risk_bound) / 2),
                lambda e, _: np.bincount(risks(e, subject) + 1, minlength=3)[None],
                lambda f: _risk_words(f, certificate),
            )
        )
    return found


def risks(e: Examples, subject: Subject) -> Ints:
    """What each labelled line (m,) adds to the certificate's risk: -1, 0 or 1; lines that don't tell are left out.

    An increase over the largest stage needs its answer too, and so does a loss that counts only what it got right.
    """
    wrong, largest = _wrong(e), np.where(e.largest == NONE, NONE, e.largest != e.label)
    excess = subject.loss == "excess"
    assert subject.certificate is not None
    if not excess and subject.certificate.risk == "error":
        return np.asarray(wrong[wrong != NONE])
    known = (wrong != NONE) & (largest != NONE)
    wrong, largest = wrong[known], largest[known]
    return np.asarray(wrong & (1 - largest) if excess else wrong - largest)


# --- in words


def _share(x: float) -> str:
    return f"{100 * x:.3g} %"


def _exit_words(f: Find, sets: NDArray[np.bool_], told: Sequence[str], exits: Ints) -> str:
    paths, members = f.tally["paths"], sets[f.sequence]
    now, then = paths[members].sum() / max(paths.sum(), 1), exits[members].sum() / exits.sum()
    return f"{'more' if now > then else 'fewer'} examples than in the reference {told[f.sequence]}: " + _against(
        now, then
    )


def _answer_words(f: Find, groups: NDArray[np.bool_], answers: Ints) -> str:
    found, classes = f.tally["answers"], np.flatnonzero(groups[f.sequence])
    now, then = found[classes].sum() / max(found.sum(), 1), answers[classes].sum() / answers.sum()
    named = f"class {classes[0]} is" if len(classes) == 1 else f"classes {classes[0]} to {classes[-1]} are"
    return f"{named} answered {'more' if now > then else 'less'} often than in the reference: " + _against(now, then)


def _cost_words(f: Find, subject: Subject, then: float) -> str:
    return f"the mean cost is higher than in the reference: {_cost(f, subject)} against {then:.4g} {subject.unit}"


def _bound_words(f: Find, subject: Subject, bound: float) -> str:
    return f"the mean cost is above the certified bound: {_cost(f, subject)} against {bound:.4g} {subject.unit}"


def _cost(f: Find, subject: Subject) -> str:
    paths = f.tally["paths"]
    return f"{paths @ subject.cost / max(paths.sum(), 1):.4g}"


def _confidence_words(f: Find, paths: Sequence[str], values: Floats, test: Urns) -> str:
    s = f.sequence
    if s == len(paths):  # all alike: the one that it is seen at best
        logs = test.logs([one[None] for one in test.prepare(f.before)], f.before + f.after)[0, :-1, f.cut]
        s = int(logs[:, : len(SHIFTS)].max(axis=1).argmax() if f.up else logs[:, len(SHIFTS) :].max(axis=1).argmax())
    up, seen = f.after[s, f.cut], f.after[s, -1]
    now, then = 1 - up / max(seen, 1), test.below[s, f.cut] / (test.below[s, f.cut] + test.above[s, f.cut])
    says = f"those that stop after {paths[s]} are {'surer' if now < then else 'less sure'} than in the reference: "
    return says + f"confidence is under {values[s, f.cut]:.4g} for {_against(now, then)}"


def _error_words(f: Find, then: float) -> str:
    right, wrong = f.tally["right or wrong"].tolist()
    labelled = f" (of {right + wrong:,} labelled)"
    return (
        "answers are wrong more often than in the reference: "
        + _against(wrong / max(right + wrong, 1), then)
        + labelled
    )


def _risk_words(f: Find, certificate: Certificate) -> str:
    less, same, more = f.after[0].tolist()
    now = (more - less) / max(less + same + more, 1)
    named = "increase of the error over the largest stage" if certificate.risk == "increase" else "error"
    says = f"the {named} is above the certified bound: {_against(now, certificate.risk_bound)}"
    return says + f" (of {less + same + more:,} labelled)"


def _against(now: float, then: float) -> str:
    return f"{_share(now)} against {_share(then)}"


# --- watching


class Watch:
    """All monitors of a subject, fed with the lines of a log as they come.

    The probability that any of them ever raises an alarm while the examples, those of the reference included, are
    exchangeable (and the certificate holds) is at most ``alpha``: each sequence of each monitor has its part of it, and
    is a martingale, which ever exceeds 1 / part with at most that probability (Ville, 1939). Looks are taken after
    every ``BLOCK`` lines, however these come, and where ``look`` is called.
    """

    def __init__(self, subject: Subject, alpha: float, seed: int = 0) -> None:
        self.subject, self.alpha, self.seed = subject, alpha, seed
        cutting, self.rng = (np.random.default_rng([seed, stream]) for stream in (0, 1))
        self.monitors = monitors_of(subject, cutting)
        self.lines = 0
        self.counts: dict[str, Ints] = {
            "paths": np.zeros(len(subject.paths), dtype=np.int64),
            "answers": np.zeros(subject.classes, dtype=np.int64),
            "right or wrong": np.zeros(2, dtype=np.int64),
        }
        for monitor in self.monitors:
            monitor.restarts.start(0, self._note())

    @property
    def examples(self) -> int:
        """Examples so far; late labels are none."""
        return int(self.counts["paths"].sum())

    @property
    def alarms(self) -> list[Alarm]:
        """All alarms, the first one first."""
        return sorted((m.alarm for m in self.monitors if m.alarm is not None), key=lambda alarm: alarm.at)

    @property
    def needed(self) -> float:
        """The logarithm of the e-value at which a monitor raises an alarm."""
        return float(np.log(len(self.monitors) / self.alpha))

    def feed(self, examples: Examples) -> list[Alarm]:
        """Take up the lines of a log, and return the alarms that they raise."""
        raised = []
        while len(examples):
            size = min(BLOCK - self.lines % BLOCK, len(examples))
            self._count(examples.take(slice(size)))
            examples = examples.take(slice(size, None))
            if self.lines % BLOCK == 0:
                raised += self.look(close=True)
        return raised

    def _count(self, e: Examples) -> None:
        draws = self.rng.random((len(e), 2))
        self.lines += len(e)
        for name, values in (("paths", e.path), ("answers", _answered(e)), ("right or wrong", _wrong(e))):
            counts = self.counts[name]
            counts += np.bincount(values[values != NONE], minlength=len(counts))
        for monitor in self.monitors:
            if monitor.alarm is None:
                monitor.restarts.now += monitor.count(e, draws)

    def look(self, close: bool = False) -> list[Alarm]:
        """Compare the evidence with what an alarm needs; may be done at any time."""
        raised = []
        for monitor in self.monitors:
            restarts = monitor.restarts
            if monitor.alarm is not None or (restarts.now == restarts.then[-1]).all():
                continue  # an alarm stays; without news there is nothing to see
            worth = restarts.worth()
            logs = restarts.look(worth) - np.log(restarts.test.sequences)
            monitor.highest = max(monitor.highest, float(logs.max()))
            if logs.max() >= self.needed:
                monitor.alarm = self._alarm(monitor, worth, int(logs.argmax()), float(logs.max()))
                raised.append(monitor.alarm)
            elif close:
                restarts.close(worth, self._note())
        return raised

    def _note(self) -> Ints:
        return np.concatenate([[self.lines], *self.counts.values()])

    def _alarm(self, monitor: Monitor, worth: Floats, sequence: int, log_e: float) -> Alarm:
        restarts = monitor.restarts
        row = int(worth[:, sequence].argmax())
        note = restarts.notes[row]
        since = self._note() - note
        sizes = np.cumsum([1, *(len(counts) for counts in self.counts.values())])
        tally = dict(zip(self.counts, np.split(since, sizes[:-1])[1:], strict=True))
        cut, up = 0, True
        if isinstance(monitor.test, Urns):
            logs = monitor.test.logs([one[row : row + 1] for one in restarts.active()], restarts.now)[0, sequence]
            cut, shift = (int(i) for i in np.unravel_index(logs.argmax(), logs.shape))
            up = bool(monitor.test.shifts[shift] > 0)
        before = restarts.then[row]
        text = monitor.words(Find(sequence, cut, up, before, restarts.now - before, tally))
        return Alarm(monitor.name, self.lines, int(note[0]), log_e, f"since about example {int(note[0]) + 1:,}: {text}")

    def to_plain(self) -> dict[str, Any]:
        """All that it knows, in JSON's types, so that ``take_up`` can go on as if nothing had happened."""
        return {
            "key": self.key,
            "lines": self.lines,
            "counts": {name: counts.tolist() for name, counts in self.counts.items()},
            "draws": {key: str(value) for key, value in self._draws.items()},  # 128 bits: no number in JSON
            "monitors": {
                m.name: {"highest": m.highest, "alarm": m.alarm and asdict(m.alarm), **m.restarts.to_plain()}
                for m in self.monitors
            },
        }

    @property
    def _draws(self) -> Mapping[str, int]:
        return dict(self.rng.bit_generator.state["state"])

    @property
    def key(self) -> str:
        """Tells whether a state is that of a watch of the same subject, by the same means."""
        means = [BLOCK, SHIFTS, STEP, FAR, FIRST, PATIENCE, KEPT, STAKES, GROUPS, FEWEST, self.alpha, self.seed]
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self.subject).items()}
        plain |= {"reference": asdict(self.subject.reference)}
        plain |= {"certificate": self.subject.certificate and asdict(self.subject.certificate)}
        return sha256(json.dumps([plain, means], sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()

    def take_up(self, found: Mapping[str, Any]) -> None:
        """Go on from what ``to_plain`` wrote. Raises ValueError, KeyError or TypeError for what it did not write."""
        if found["key"] != self.key:
            raise ValueError("of another policy, --alpha or --seed")
        if (
            type(found["lines"]) is not int
            or found["lines"] < 0
            or set(found["monitors"]) != {m.name for m in self.monitors}
        ):
            raise ValueError("not as this program writes it")
        counts = {name: counted(found["counts"][name], held.shape) for name, held in self.counts.items()}
        draws = {key: int(str(found["draws"][key])[:40]) for key in self._draws}
        state = self.rng.bit_generator.state
        self.rng.bit_generator.state = {**state, "state": draws}
        self.lines, self.counts = found["lines"], counts
        for monitor in self.monitors:
            own = found["monitors"][monitor.name]
            monitor.highest = float(own["highest"])
            monitor.alarm = None if own["alarm"] is None else _alarm(own["alarm"])
            monitor.restarts.take_up(own, self._note())


def _alarm(found: Mapping[str, Any]) -> Alarm:
    alarm = Alarm(**found)
    if [type(value) for value in vars(alarm).values()] != [str, int, int, float, str]:
        raise ValueError("not an alarm as this program writes it")
    return alarm


# --- logs

COLUMNS = ("path", "confidence", "answer", "label", "largest")
"""What is read of a log; any other column, such as ``id``, is passed over."""

CHUNK = 1 << 16
LONGEST = 1 << 20
"""Bytes of a line at most."""

FORMS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


def write_log(
    path: Path,
    paths: Sequence[str],
    confidence: Floats,
    answer: Ints | None = None,
    label: Ints | None = None,
    ids: Sequence[Any] | NDArray[Any] | None = None,
    largest: Ints | None = None,
) -> None:
    """Write a routing log of n examples, one line each, as CSV, JSON lines or parquet, by the name of ``path``.

    ``paths`` "alexnet>resnet", the stages run; ``confidence`` (n,) maximum softmax probability of the last of them, NaN
    where there is none; ``answer`` (n,) classes; ``label`` (n,); ``ids`` (n,); ``largest`` (n,) answers of the largest
    stage. ``NONE`` stands for an answer or a label that is not known. Raises InputError for another kind of file.
    """
    form = FORMS.get(path.suffix.lower())
    if form is None:
        raise InputError(f"a name that ends in {', '.join(FORMS)}", path.name, str(path.parent))
    columns: dict[str, list[Any]] = {} if ids is None else {"id": np.asarray(ids).tolist()}
    columns["path"] = list(paths)
    columns["confidence"] = [None if np.isnan(one) else float(f"{one:.9g}") for one in np.asarray(confidence).tolist()]
    for name, values in (("answer", answer), ("label", label), ("largest", largest)):
        if values is not None:
            columns[name] = [None if one == NONE else one for one in np.asarray(values).tolist()]
    if len({len(column) for column in columns.values()}) != 1:
        raise ValueError("columns of a log have one value an example")
    rows = zip(*columns.values(), strict=True)
    with replacing(path) as temporary:
        if form == "parquet":
            import pyarrow as pa
            from pyarrow import parquet

            parquet.write_table(pa.table(columns), temporary)
        elif form == "jsonl":
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines(
                    json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n" for row in rows
                )
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(columns)
                writer.writerows(rows)


class BrokenLineError(Exception):
    """A line of a log that can't be used: what was expected and what was found."""


class Log:
    """Lines of a log turned into ``Examples``: CSV with a header, or JSON lines, told apart by the first line.

    ``where`` names the log in errors. A line that can't be used raises InputError with its number, or is only counted
    if ``skip``; ``complaints`` are the first of these.
    """

    def __init__(self, subject: Subject, where: str, skip: bool = False) -> None:
        self.subject, self.where, self.skip = subject, where, skip
        self.index = {name: q for q, name in enumerate(subject.paths)}
        self.sure = {self.index[name] for name, counts in subject.reference.counts.items() if sum(counts) >= FEWEST}
        self.form: str | None = None
        self.columns: list[str] = []
        self.places: list[int] = []
        self.number = self.broken = 0
        self.complaints: list[str] = []
        self.rows: list[tuple[int, float, int, int, int]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def begin(self, number: int = 0, columns: Sequence[str] = (), form: str | None = None) -> None:
        """Go on behind line ``number`` of a log whose header is known, or with the first line of another."""
        self.number, self.form = number, form
        if columns:
            self.header(columns)

    def take(self) -> Examples:
        """What was read since the last time."""
        rows, self.rows = self.rows, []
        table = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
        path, answer, label, largest = (np.array(table[i], dtype=np.int64) for i in (0, 2, 3, 4))
        return Examples(path, np.array(table[1], dtype=np.float64), answer, label, largest)

    def line(self, raw: bytes) -> None:
        """Take up the next line, with its end or without."""
        self.number += 1
        try:
            if len(raw) > LONGEST:
                raise BrokenLineError(f"at most {LONGEST} bytes", "more")
            try:
                text = raw.decode("utf-8-sig" if self.number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise BrokenLineError("UTF-8", f"byte {raw[error.start]:#04x}") from None
            if not text.strip():
                return
            if self.form is None:
                self.form = "jsonl" if text.lstrip().startswith("{") else "csv"
                if self.form == "csv":
                    self.header(_fields(text))
                    return
            self.rows.append(self._row(self._split(text) if self.form == "csv" else self._object(text)))
        except BrokenLineError as error:
            self._complain(error)

    def values(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Take up examples by columns, as from a parquet file."""
        none = [None] * len(next(iter(columns.values())))
        for row in zip(*(columns.get(name, none) for name in COLUMNS), strict=True):
            self.number += 1
            try:
                self.rows.append(self._row(row))
            except BrokenLineError as error:
                self._complain(error)

    def header(self, columns: Sequence[str]) -> None:
        """Take up the names of the columns. Raises InputError if one that is needed is missing, or stands twice."""
        columns = [name.strip() for name in columns]
        needed = ("path", "confidence") if self.sure else ("path",)
        for name in needed:
            if name not in columns:
                found = ", ".join(ascii(one)[1:-1] for one in columns)
                raise InputError(f"a column {name!r} (a log has {', '.join(COLUMNS)})", found[:200], self.where)
        twice = [name for name in COLUMNS if columns.count(name) > 1]
        if twice:
            raise InputError("every column once", f"{twice[0]!r} twice", self.where)
        self.columns = list(columns)
        self.places = [self.columns.index(name) if name in self.columns else NONE for name in COLUMNS]

    def _complain(self, error: BrokenLineError) -> None:
        expected, found = error.args
        place = f"{self.where}, {'row' if self.form == 'parquet' else 'line'} {self.number}"
        if not self.skip:
            raise InputError(expected, f"{found} (--broken skip passes over such lines)", place) from None
        self.broken += 1
        if len(self.complaints) < 5:
            self.complaints.append(str(InputError(expected, found, place)))

    def _split(self, text: str) -> list[Any]:
        found = text.split(",") if '"' not in text else _fields(text)
        if len(found) != len(self.columns):
            raise BrokenLineError(f"{len(self.columns)} fields", str(len(found)))
        return [None if at == NONE else found[at] for at in self.places]

    def _object(self, text: str) -> list[Any]:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BrokenLineError("a line of JSON", f"none ({error})"[:100]) from None
        if not isinstance(found, dict):
            raise BrokenLineError("an object", type(found).__name__)
        return [found.get(name) for name in COLUMNS]

    def _row(self, row: Sequence[Any]) -> tuple[int, float, int, int, int]:
        path, sure, answer, label, largest = row
        classes = self.subject.classes
        answered, labelled = _class(answer, "answer", classes), _class(label, "label", classes)
        full = _class(largest, "largest", classes)
        if path is None or path == "":
            if answered == NONE or labelled == NONE:
                raise BrokenLineError("a path, or the answer and the label of an example that came before", "neither")
            return NONE, float("nan"), answered, labelled, full
        taken = self.index.get(path) if isinstance(path, str) else None
        if taken is None:
            raise BrokenLineError(f"a path of the policy, {_some(self.subject.paths)}", ascii(path)[:100])
        if sure is None or sure == "":
            if taken in self.sure:
                raise BrokenLineError(f"the confidence after {path}", "none")
            return taken, float("nan"), answered, labelled, full
        try:
            confidence = NONE if isinstance(sure, bool) else float(sure)
        except (TypeError, ValueError, OverflowError):
            confidence = NONE
        if not 0 <= confidence <= 1:
            raise BrokenLineError("a confidence from 0 to 1", ascii(sure)[:100])
        return taken, confidence, answered, labelled, full


def _class(found: Any, name: str, classes: int) -> int:
    if found is None or found == "":
        return NONE
    try:
        number = float(found)
        if not isinstance(found, bool) and 0 <= number < classes and number == int(number):
            return int(number)
        if number != number and not isinstance(found, str):  # a missing whole number in a table of floats
            return NONE
    except (TypeError, ValueError, OverflowError):
        pass
    raise BrokenLineError(f"as {name} a class from 0 to {classes - 1}", ascii(found)[:100])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" or {len(names) - 8} more" if len(names) > 8 else "")


def _fields(text: str) -> list[str]:
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise BrokenLineError("fields with commas between", str(error)) from None


def read_log(source: Path | Iterable[bytes | None], log: Log, skipped: int = 0) -> Iterator[Examples]:
    """The examples of a log, in parts of at most ``BLOCK`` lines or a batch of rows; in a pause, none of them.

    ``source``: a file, or the lines of one as they come, None where a pause is. Of parquet the first ``skipped`` rows
    are passed over. Raises InputError for what can't be read, naming the line or row.
    """
    try:
        if not isinstance(source, Path):
            yield from _read_lines(source, log)
        elif FORMS.get(source.suffix.lower()) == "parquet":
            yield from _read_parquet(source, log, skipped)
        else:
            with source.open("rb") as file:
                yield from _read_lines(Lines(iter(partial(file.read, CHUNK), b"")), log)
    except OSError as error:
        raise InputError("a log that can be read", error.strerror or str(error), log.where) from error


class Lines:
    """Lines with their ends out of bytes as they come; None, a pause, is handed on.

    Of a line that is longer than ``LONGEST`` only so much comes that this is seen. ``within``: the first bytes are
    the rest of a line that was taken up before, and are passed over. ``taken``: bytes of all lines so far.
    """

    def __init__(self, chunks: Iterable[bytes | None], within: bool = False) -> None:
        self.chunks, self.within, self.taken = chunks, within, 0

    def __iter__(self) -> Iterator[bytes | None]:
        """The lines, as they come."""
        rest = b""
        for chunk in self.chunks:
            if chunk is None:
                yield None
                continue
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self.taken += len(line) + 1
                if not self.within:
                    yield line + b"\n"
                self.within = False
            if self.within or len(rest) > LONGEST:
                self.taken += len(rest)
                if not self.within:
                    yield rest
                rest, self.within = b"", True
        if rest:
            self.taken += len(rest)
            yield rest


def _read_lines(lines: Iterable[bytes | None], log: Log) -> Iterator[Examples]:
    for raw in lines:
        if raw is not None:
            log.line(raw)
        if len(log) >= BLOCK or (raw is None and len(log)):
            yield log.take()
        if raw is None:
            yield log.take()
    if len(log):
        yield log.take()


def _read_parquet(path: Path, log: Log, skipped: int) -> Iterator[Examples]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            log.form, log.number = "parquet", 0
            log.header(file.schema_arrow.names)
            there = [name for name in COLUMNS if name in file.schema_arrow.names]
            for batch in file.iter_batches(10_000, columns=there):
                begin = max(0, min(skipped - log.number, len(batch)))
                log.number += begin
                if begin < len(batch):
                    log.values(batch.slice(begin).to_pydict())
                    yield log.take()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError("a parquet file", str(error).split("\n")[0], str(path)) from error
