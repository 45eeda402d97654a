"""What the stages on a path said, turned into a belief about the label and the columns that a policy may look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.features.arrays import STORED, lazy
from offramp.features.belief.calibration import MANY_CLASSES, AnswerCalibration
from offramp.features.belief.pooled import PooledDoubt
from offramp.features.belief.pooling import FLOOR, OUT, Pool, columns_of
from offramp.features.columns import Shape, added, layout
from offramp.features.confidence import FARTHEST, TOP, Confidence, read_confidence
from offramp.features.errors import InputError
from offramp.features.outputs import NO_ANSWER, Floats, Ints, Outputs, Stage

Path = tuple[int, ...]

Reads = Callable[[tuple[str, ...], tuple[str, ...]], Ints]


def read_none(_columns: tuple[str, ...], _added: tuple[str, ...]) -> Ints:
    """No column: where nothing is decided."""
    return np.zeros(0, np.intp)


RANKS = (TOP, 1, 5)
"""Numbers of ranked classes that a tuner may try: the usual one, none but the first, and as many as top-5 wants."""


@dataclass(frozen=True)
class EvidenceSettings:
    """What is computed from the outputs: each can be switched off to see what it buys.

    ``calibrate``: a temperature a stage; ``stack``: belief from all stages on the path rather than the last one
    alone; ``agreement``: columns that compare the stages; ``pooled``: a column from the pooled features of stages that
    have them; ``measured``: names of numbers that came with a stage's logits and may be looked at ("gate"), those of
    answers without logits always are; ``ranks``: ranked classes kept; ``added``: columns that join the program's own,
    unless said all that are installed.
    """

    calibrate: bool = True
    stack: bool = True
    agreement: bool = True
    pooled: bool = True
    measured: tuple[str, ...] = ()
    ranks: int = TOP
    added: tuple[str, ...] = field(default_factory=added, metadata={"absent": ()})

    @staticmethod
    def search_space(outputs: Outputs, ranks: int = 1) -> dict[str, tuple[Any, ...]]:
        """What a tuner may try: name -> values; only what changes anything for ``outputs``.

        ``ranks``: so many ranked classes are needed at least.
        """
        stages = outputs.stages
        space: dict[str, tuple[Any, ...]] = {}
        if any(stage.logits is not None and stage.logits.shape[1] > 1 for stage in stages):
            space["calibrate"] = (True, False)
        if len(stages) > 1:
            space |= {"stack": (True, False), "agreement": (True, False)}
        if any(stage.pooled is not None for stage in stages):
            space["pooled"] = (True, False)
        measured = [set(stage.measured) for stage in stages if stage.logits is not None]
        if names := sorted(set().union(*measured)):
            space["measured"] = ((), tuple(names))
        named = max(stage.answers.shape[1] if stage.answers is not None else outputs.classes for stage in stages)
        kept = tuple(dict.fromkeys(min(most, named) for most in RANKS if most >= ranks))
        if len(kept) > 1:
            space["ranks"] = kept
        return space


@dataclass(frozen=True)
class View:
    """What is known of n examples at the end of one path.

    ``x`` (n, d) float32 with the ``columns``' names, NaN in those that nobody reads; ``added``: names of those that
    joined the program's own; ``logp`` (n, m) log belief in each alternative;
    ``alternatives`` (n, m) their classes, None where they are the c classes themselves (``NO_ANSWER``: some class
    that nobody named).
    """

    columns: tuple[str, ...]
    x: Floats
    logp: Floats
    alternatives: Ints | None
    added: tuple[str, ...] = ()

    def ranked(self, ranks: int) -> Ints:
        """The ``ranks`` likeliest classes (n, ranks), best first; padded with ``NO_ANSWER``."""
        named = self.logp if self.alternatives is None else np.where(self.alternatives == NO_ANSWER, OUT, self.logp)
        best = named.argmax(axis=1)[:, None] if ranks == 1 else np.argsort(-named, axis=1, kind="stable")[:, :ranks]
        found = best if self.alternatives is None else np.take_along_axis(self.alternatives, best, axis=1)
        found = np.where(np.take_along_axis(named, best, axis=1) <= OUT / 2, NO_ANSWER, found)
        if found.shape[1] < ranks:
            found = np.pad(found, ((0, 0), (0, ranks - found.shape[1])), constant_values=NO_ANSWER)
        return found

    def probability(self, classes: Ints) -> Floats:
        """Belief (n,) that the label is among ``classes`` (n, r), each counted once, ``NO_ANSWER`` never."""
        total = np.zeros(len(self.logp))
        for rank in range(classes.shape[1]):
            wanted = classes[:, rank]
            usable = (wanted != NO_ANSWER) & ~(classes[:, :rank] == wanted[:, None]).any(axis=1)
            if self.alternatives is None:
                p = np.exp(np.take_along_axis(self.logp, np.where(usable, wanted, 0)[:, None], axis=1)[:, 0])
            else:
                same = (self.alternatives == wanted[:, None]) & (self.logp > OUT / 2)
                p = np.where(same, np.exp(self.logp), 0).sum(axis=1)
            total += np.where(usable, p, 0)
        return np.minimum(total, 1)


@dataclass(frozen=True)
class Reader:
    """Everything that turns outputs into evidence, fitted on the fit part.

    ``temperature`` (k,), NaN for a stage of answers; ``calibration`` of the stages of answers, by index;
    ``log_prior`` (c,), empty with many classes; ``pools`` by path; ``pooled`` of stages with pooled features.
    """

    settings: EvidenceSettings
    stages: tuple[str, ...]
    classes: int
    temperature: Floats
    calibration: Mapping[int, AnswerCalibration]
    log_prior: Floats
    pools: Mapping[Path, Pool]
    pooled: Mapping[int, PooledDoubt] = field(default_factory=dict)

    @property
    def dense(self) -> bool:
        """Whether the alternatives are the classes (few) or the answers that the stages on a path gave (many)."""
        return self.classes <= MANY_CLASSES

    def read(self, outputs: Outputs) -> Reading:
        """Read the stages once, for the views at the end of any path."""
        said = StageLogProbabilities(self, outputs)
        return Reading(
            said.ranked, lambda path, reads: _view(self, said, path, self.pools[path](*said.at(path)), reads)
        )

    @property
    def kept(self) -> int:
        """How many ranked answers are kept of each stage."""
        most = self.settings.ranks
        logits = [min(most, self.classes)] if len(self.calibration) < len(self.stages) else []
        return max(logits + [min(most, len(known.ranks)) for known in self.calibration.values()])

    def shape(self, path: Path, stages: Sequence[Stage] | None = None) -> Shape:
        """What there is to see at the end of ``path``.

        Without ``stages``, at most that: numbers that come with logits may be looked at, and not all stages need have
        them.
        """
        settings, known = self.settings, self.calibration
        there = {s: settings.measured if stages is None else tuple(stages[s].measured) for s in path}
        return Shape(
            tuple(self.stages[s] for s in path),
            tuple(s not in known for s in path),
            tuple(
                tuple(name for name in there[s] if name in settings.measured)
                if s not in known
                else (known[s].names if stages is None else there[s])
                for s in path
            ),
            tuple(s in self.pooled for s in path),
            self.classes,
            self.kept,
            settings.agreement,
            settings.added,
        )


@dataclass(frozen=True)
class Reading:
    """What was read of n examples: ``ranked`` (n, k, r), every stage's own answers, and the ``view`` of a path."""

    ranked: Ints
    made: Callable[[Path, Reads | None], View]

    def view(self, path: Path, reads: Reads | None = None) -> View:
        """What is known at the end of ``path``. Of its columns only those are computed whose indices ``reads`` gives
        for all names and the names of those that were added; unless said, all."""
        return self.made(path, reads)


class StageLogProbabilities:
    """What each stage says of each alternative, calibrated: read once, combined for every path.

    ``ranked`` (n, k, r) the stages' answers; ``logp`` per stage (n, c), with few classes; ``doubts`` (n,) by pooled
    features, of stages that have them.
    """

    def __init__(self, reader: Reader, outputs: Outputs) -> None:
        self.reader = reader
        self.stages = outputs.stages
        self.confidences: dict[int, Confidence] = {}
        ranked = []
        for s, stage in enumerate(outputs.stages):
            if stage.logits is not None:
                self.confidences[s] = read_confidence(stage.logits, float(reader.temperature[s]), reader.settings.ranks)
                ranked.append(self.confidences[s].top)
            else:
                assert stage.answers is not None
                ranked.append(stage.answers[:, : reader.settings.ranks].astype(np.int32))
        width = max(r.shape[1] for r in ranked)
        self.ranked = np.stack(
            [np.pad(r, ((0, 0), (0, width - r.shape[1])), constant_values=NO_ANSWER) for r in ranked], axis=1
        )
        self.logp = [self._dense(s) for s in range(len(outputs.stages))] if reader.dense else []
        self.doubts = {s: doubt(_pooled(outputs.stages[s])) for s, doubt in reader.pooled.items()}

    def _dense(self, s: int) -> Floats:
        stage = self.stages[s]
        if stage.logits is None:
            return np.maximum(self.reader.calibration[s].logp(stage), np.float32(FLOOR))
        z = np.asarray(stage.logits, dtype=np.float32) / np.float32(self.reader.temperature[s])
        return np.asarray(np.maximum(z - self.confidences[s].log_sum_exp[:, None], np.float32(FLOOR)))

    def alternatives(self, path: Path) -> Ints | None:
        """Classes (n, m) named by the stages of the path, then ``NO_ANSWER``; None where all classes are."""
        if self.reader.dense:
            return None
        named = self.ranked[:, list(path)].reshape(len(self.ranked), -1)
        return np.concatenate([named, np.full((len(named), 1), NO_ANSWER, named.dtype)], axis=1)

    def log_probabilities(self, path: Path) -> Floats:
        """Log probability (n, j, m) that each stage on the path gives to each alternative."""
        if self.reader.dense:
            return np.stack([self.logp[s] for s in path], axis=1)
        classes = self.alternatives(path)
        assert classes is not None
        return np.stack([self._sparse(s, classes[:, :-1]) for s in path], axis=1)

    def _sparse(self, s: int, classes: Ints) -> Floats:
        stage = self.stages[s]
        if stage.logits is None:
            named, rest = self.reader.calibration[s].logp_of(stage, classes)
        else:
            z = np.take_along_axis(stage.logits, np.maximum(classes, 0), axis=1).astype(np.float32)
            named = z / np.float32(self.reader.temperature[s]) - self.confidences[s].log_sum_exp[:, None]
            mass = np.where(_repeats(classes), 0, np.exp(named)).sum(axis=1)
            rest = np.log(np.maximum(1 - mass, np.exp(FLOOR)))
        return np.asarray(np.maximum(np.concatenate([named, rest[:, None]], axis=1), np.float32(FLOOR)))

    def at(self, path: Path) -> tuple[Floats, Floats, NDArray[np.bool_] | None]:
        """What a ``Pool`` is applied to: its columns, what was said, and what is ruled out."""
        said = self.log_probabilities(path)
        classes = self.alternatives(path)
        used = said if self.reader.settings.stack else said[:, -1:]
        return (
            columns_of(used, self._first(path, classes), self._prior(), classes is not None),
            used,
            self._out(classes),
        )

    def _first(self, path: Path, classes: Ints | None) -> Ints:
        """The stages' answers (n, j) as indices of alternatives."""
        stages = list(path) if self.reader.settings.stack else [path[-1]]
        answers = self.ranked[:, stages, 0]
        if classes is None:
            return np.asarray(answers)
        return np.asarray((classes[:, None, :] == answers[:, :, None]).argmax(axis=2))

    def _prior(self) -> Floats | None:
        return self.reader.log_prior if self.reader.dense else None

    @staticmethod
    def _out(classes: Ints | None) -> NDArray[np.bool_] | None:
        if classes is None:
            return None
        out = np.zeros(classes.shape, bool)
        out[:, :-1] = _repeats(classes[:, :-1])
        return out


def _pooled(stage: Stage) -> Floats:
    if stage.pooled is None:
        raise InputError("pooled features, as the policies were fitted with", "none", f"stage {stage.name!r}")
    return stage.pooled


def _repeats(classes: Ints) -> NDArray[np.bool_]:
    """(n, m): whether a slot holds a class of an earlier slot, or none."""
    out = np.asarray(classes == NO_ANSWER)
    for later in range(1, classes.shape[1]):
        for earlier in range(later):
            out[:, later] |= classes[:, later] == classes[:, earlier]
    return out


class SeenStored:
    """What is known of stored examples at the end of a path, each part computed when it is first asked for."""

    ops = STORED

    def __init__(self, said: StageLogProbabilities, path: Path, logp: Floats, shape: Shape) -> None:
        self.stored, self.path, self.logp, self.shape = said, path, logp, shape
        self.alternatives = said.alternatives(path)
        self.answers: list[Ints] = [said.ranked[:, s, 0] for s in path]
        self.ranked: list[Ints] = [said.ranked[:, s] for s in path]

    @lazy
    def best(self) -> Ints:
        """Alternative believed in (n,)."""
        return np.asarray(self.logp.argmax(axis=1))

    @lazy
    def p(self) -> Floats:
        """Belief (n, m)."""
        return np.asarray(np.exp(self.logp))

    @lazy
    def left(self) -> Floats:
        """Belief (n,) that is not in the best: what remains when one is taken from the sum is mostly rounding."""
        p = self.p.copy()
        np.put_along_axis(p, self.best[:, None], 0, axis=1)
        return np.asarray(p.sum(axis=1))

    @lazy
    def ordered(self) -> Floats:
        """Log belief in the best three (n, 3), at least ``-FARTHEST``."""
        best = -np.partition(-self.logp, range(min(3, self.logp.shape[1])), axis=1)[:, :3]
        padded = np.pad(best, ((0, 0), (0, 3 - best.shape[1])), constant_values=-FARTHEST)
        return np.asarray(np.maximum(padded, -FARTHEST))

    def top(self, rank: int) -> Floats:
        """Log belief (n,) in the alternative of that rank."""
        return np.asarray(self.ordered[:, rank])

    @lazy
    def said(self) -> list[Floats]:
        """Log probabilities (n, m) by each stage."""
        spoken = self.stored.log_probabilities(self.path)
        return [spoken[:, i] for i in range(len(self.path))]

    @lazy
    def stage_p(self) -> list[Floats]:
        """Probabilities (n, m) by each stage."""
        return [np.exp(said) for said in self.said]

    @lazy
    def first(self) -> list[Ints]:
        """Each stage's answer (n,) as index of an alternative."""
        if self.alternatives is None:
            return self.answers
        return [np.asarray((self.alternatives == a[:, None]).argmax(axis=1)) for a in self.answers]

    @lazy
    def entropies(self) -> dict[int, Floats]:
        """Entropy (n,) of each stage of logits, by place."""
        return {i: seen.entropy for i, seen in self._confidences.items()}

    @lazy
    def log_sum_exp(self) -> dict[int, Floats]:
        """Of the logits (n,) of each stage that has them, by place."""
        return {i: seen.log_sum_exp for i, seen in self._confidences.items()}

    @lazy
    def _confidences(self) -> dict[int, Confidence]:
        known = self.stored.confidences
        return {i: known[s] for i, s in enumerate(self.path) if s in known}

    def rank(self, i: int, rank: int) -> Floats:
        """Log probability (n,) of the stage's class of that rank."""
        found = self._confidences[i].top_logp
        if rank < found.shape[1]:
            return np.asarray(np.maximum(found[:, rank], -FARTHEST))
        return np.full(len(found), -FARTHEST, np.float32)

    def measured(self, i: int, name: str) -> Floats:
        """A number (n,) that came with the stage."""
        return np.asarray(self.stored.stages[self.path[i]].measured[name])

    def pooled_doubt(self, i: int) -> Floats:
        """Doubt (n,) by the stage's pooled features."""
        return self.stored.doubts[self.path[i]]


def _view(reader: Reader, said: StageLogProbabilities, path: Path, logp: Floats, reads: Reads | None) -> View:
    shape = reader.shape(path, said.stages)
    columns = layout(shape)
    names = tuple(each.name for each in columns)
    joined = tuple(each.name for each in columns if each.added)
    seen = SeenStored(said, path, logp, shape)
    x = np.full((len(logp), len(columns)), np.nan, np.float32)
    for at in range(len(columns)) if reads is None else reads(names, joined):
        value = columns[at](seen)
        if columns[at].added and (np.shape(value) != (len(logp),) or not np.isfinite(value).all()):
            raise InputError("a finite number for every example", "others", f"column {names[at]}")
        x[:, at] = value
    return View(names, x, logp, seen.alternatives, joined)
