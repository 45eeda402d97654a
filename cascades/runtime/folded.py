"""Reader, pool and rule of one path turned into one folded decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp.cascades.runtime.arrays import NUMPY, lazy
from offramp.features.belief.pooling import CORRECTED_CLASSES, FLOOR
from offramp.features.confidence import FARTHEST, FEATURES, Confidence, read_confidence
from offramp.features.evidence import Path, Reader
from offramp.features.outputs import Outputs, Stage

if TYPE_CHECKING:
    from offramp.cascades.runtime.arrays import Array, Ops
    from offramp.policies.policy import Rules


def _narrowed(reader: Reader, path: Path) -> Reader:
    """The reader of a world in which there are only the stages of ``path``, in this order."""
    kept = list(path)
    return replace(
        reader,
        stages=tuple(reader.stages[s] for s in kept),
        temperature=reader.temperature[kept],
        calibration={i: reader.calibration[s] for i, s in enumerate(kept) if s in reader.calibration},
        pools={tuple(range(len(path))): reader.pools[path]},
    )


class FoldedPolicy:
    """Decides at one path as the reader, the pool and the rule would, with everything linear folded together.

    Only what the rule looks at is computed: a few dozen small operations, since at a batch of one each of them costs
    as much as at a batch of sixty-four. Raises NotImplementedError for a column that live
    logits don't tell.
    """

    def __init__(self, reader: Reader, path: Path, mode: str, rule: Any, ops: Ops) -> None:
        self.ops, self.mode, self.path = ops, mode, path
        pool = reader.pools[path]
        self.inverse = [np.float32(1.0 / reader.temperature[s]) for s in path]
        self.temperature = [float(reader.temperature[s]) for s in path]
        self.stack, self.ranks = reader.settings.stack, reader.settings.ranks
        j, c = len(path), reader.classes
        used = j if self.stack else 1
        weights = pool.weights
        mix = [np.eye(c) * weights[i] for i in range(used)]
        base = weights[used] * reader.log_prior
        self.votes = [(count, float(weights[used + 1 + k])) for k, count in enumerate(range(2, used + 1))]
        if pool.correction.size:
            spread = pool.correction[1:] / pool.scale[:, None]
            base = base + pool.correction[0] - pool.mean @ spread
            mix = [m + spread[i * c : (i + 1) * c] for i, m in enumerate(mix)]
        self.mix = np.concatenate(mix).astype(np.float32)
        self.base = base.astype(np.float32)
        self.owners = [reader.stages[s] for s in path]
        self.names, self.classes = _columns(reader, path), c
        self.constants: dict[int, Array] = {}
        self.score = self._scorer(rule)

    def __call__(self, logits: Sequence[Array]) -> tuple[Array, Array]:
        """Actions (n,) and answers (n,)."""
        seen = Seen(self, logits)
        answer = seen.best if self.mode == "fused" else seen.first[-1] if self.mode == "last" else seen.trusted
        return (self.score(seen) if self.score is not None else answer * 0), answer

    def const(self, value: Any, like: Array) -> Array:
        """``value`` where ``like`` is; sent there once."""
        if self.ops is NUMPY:
            return value
        key = id(value)
        if key not in self.constants:
            self.constants[key] = self.ops.const(value, like)
        return self.constants[key]

    def _scorer(self, rule: Rules | None) -> Callable[[Seen], Array] | None:
        if rule is None:
            return None
        live = getattr(rule, "live", None)
        return self._as_stored(rule) if live is None else live(self)

    def _as_stored(self, rule: Rules) -> Callable[[Seen], Array]:
        """The rule's own ``actions``, on the host, of the columns that it looks at; the others are zero."""
        looked, width, ops = rule.looks_at, len(self.names), self.ops
        values = [self.column(int(i)) for i in looked]

        def score(seen: Seen) -> Array:
            x = np.zeros((len(seen.best), width), np.float32)
            if values:
                x[:, looked] = ops.host(ops.columns([value(seen) for value in values]))
            return ops.back(rule.actions(x)[:, 0].astype(np.int64), seen.best)

        return score

    def column(self, index: int) -> Callable[[Seen], Array]:
        """How the column of that index is computed. Raises NotImplementedError for one that live logits don't tell."""
        return self._column(self.names[index])

    def _column(self, name: str) -> Callable[[Seen], Array]:
        """How the column is computed."""
        owner, _, what = name.rpartition(".")
        if owner == "belief" and what in BELIEF:
            return BELIEF[what]
        if owner in self.owners and what in OWN:
            return _bound(OWN[what], self.owners.index(owner))
        if owner in self.owners and what in FEATURES:
            feature, i = FEATURES[what], self.owners.index(owner)
            return lambda seen: seen.ops.back(feature(seen.confidences[i]), seen.best)
        first, _, second = owner.partition("~")
        if first in self.owners and second in self.owners and what in PAIR:
            return _bound(PAIR[what], self.owners.index(first), self.owners.index(second))
        if what.startswith("is_") and owner == "belief":
            wanted = int(what.removeprefix("is_"))
            return lambda seen: seen.ops.number(seen.best == wanted)
        raise NotImplementedError(name)


def _bound(function: Callable[..., Array], *places: int) -> Callable[[Seen], Array]:
    return lambda seen: function(seen, *places)


class Seen:
    """What is known of one batch at the end of a path, each part computed when it is first asked for."""

    def __init__(self, policy: FoldedPolicy, logits: Sequence[Array]) -> None:
        self.policy, self.ops, self.logits = policy, policy.ops, logits

    @lazy
    def said(self) -> list[Array]:
        """Log probabilities (n, c) by each stage."""
        ops, found = self.ops, []
        for z, inverse in zip(self.logits, self.policy.inverse, strict=True):
            z = z * inverse
            z = z - ops.highest(z)
            found.append(ops.at_least(z - ops.log(ops.total(ops.exp(z))), FLOOR))
        return found

    @lazy
    def first(self) -> list[Array]:
        """Each stage's answer (n,)."""
        return [z.argmax(1) for z in self.logits]

    @lazy
    def ordered(self) -> list[Array]:
        """Each stage's log probabilities, rising."""
        return [self.ops.rising(s) for s in self.said]

    @lazy
    def ranked(self) -> list[Array]:
        """Each stage's best classes (n, r)."""
        return [self.ops.ranked(z, self.policy.ranks) for z in self.logits]

    @lazy
    def confidences(self) -> list[Confidence]:
        """Each stage's logits as stored outputs are read, on the host."""
        me = self.policy
        pairs = zip(self.logits, me.temperature, strict=True)
        return [read_confidence(self.ops.host(z), t, me.ranks, workers=1) for z, t in pairs]

    @lazy
    def score(self) -> Array:
        """Log belief (n, c), but for a constant an example."""
        me = self.policy
        used = self.said if me.stack else self.said[-1:]
        both = used[0] if len(used) == 1 else self.ops.joined(used)
        score = both @ me.const(me.mix, both) + me.const(me.base, both)
        for count, weight in me.votes:
            score = score + weight * self._voted(count)
        return score

    @lazy
    def best(self) -> Array:
        """The class believed in (n,)."""
        return self.score.argmax(1)

    @lazy
    def logp(self) -> Array:
        """Log belief (n, c), rising: the classes' order is of no use to a policy, and the best stands last."""
        ops = self.ops
        score = ops.rising(self.score)
        score = score - score[:, -1:]
        return score - ops.log(ops.total(ops.exp(score)))

    @lazy
    def p(self) -> Array:
        """Belief (n, c), rising."""
        return self.ops.exp(self.logp)

    @lazy
    def top(self) -> Array:
        """Log belief in the best three classes, rising, not below what margins are counted from."""
        return self.ops.at_least(self.logp[:, -3:], -FARTHEST)

    @lazy
    def left(self) -> Array:
        """Belief that is not in the best class (n, 1)."""
        return self.ops.total(self.p[:, :-1])

    def _voted(self, count: int) -> Array:
        """(n, c) 1 where exactly ``count`` stages give the class as their answer."""
        like = self.said[0]
        classes = self.policy.const(CLASSES, like)[: like.shape[1]]
        first = self.first
        if len(first) == 2:
            return self.ops.number((first[0][:, None] == classes) & (first[1][:, None] == classes))
        votes = (first[0][:, None] == classes) * 1
        for other in first[1:]:
            votes = votes + (other[:, None] == classes) * 1
        return self.ops.number(votes == count)

    @lazy
    def trusted(self) -> Array:
        """The likeliest of the stages' answers (n,); the earlier stage's where two are as likely."""
        ops, answer = self.ops, self.first[0]
        likely = ops.pick(self.score, answer)
        for other in self.first[1:]:
            p = ops.pick(self.score, other)
            better = p > likely
            answer, likely = better * other + ~better * answer, better * p + ~better * likely
        return answer

    @lazy
    def stage_p(self) -> list[Array]:
        """Probabilities (n, c) by each stage, of the log probabilities as floored."""
        return [self.ops.exp(s) for s in self.said]


CLASSES = np.arange(CORRECTED_CLASSES * 4)


def _margin(rising: Array, low: int) -> Array:
    """Between neighbouring ranks, ``low`` and the next better, counted from behind."""
    return rising[:, low + 1] - rising[:, low]


LEAST_DOUBT = float(np.exp(-FARTHEST))


BELIEF: dict[str, Callable[[Seen], Array]] = {
    "margin": lambda seen: _margin(seen.top, -2),
    "second_margin": lambda seen: _margin(seen.top, -3) if seen.top.shape[1] > 2 else seen.top[:, 0] + float(FARTHEST),
    "entropy": lambda seen: -seen.ops.dot(seen.p, seen.ops.at_least(seen.logp, -100)),
    "doubt": lambda seen: seen.ops.log(seen.ops.at_least(seen.left, LEAST_DOUBT))[:, 0],
}
"""Columns of the belief on the path."""


OWN: dict[str, Callable[[Seen, int], Array]] = {
    "on_belief": lambda seen, i: seen.ops.pick(seen.said[i], seen.best),
    "entropy": lambda seen, i: -seen.ops.dot(seen.stage_p[i], seen.said[i]),
    "margin": lambda seen, i: _margin(seen.ordered[i], -2),
}
"""Columns of one stage on the path."""


def _divergence(seen: Seen, i: int, j: int) -> Array:
    ops, p, q = seen.ops, seen.stage_p[i], seen.stage_p[j]
    middle = ops.log((p + q) * 0.5 + float(np.exp(FLOOR)))
    return 0.5 * (ops.dot(p, seen.said[i] - middle) + ops.dot(q, seen.said[j] - middle))


def _overlap(seen: Seen, i: int, j: int) -> Array:
    a, b = seen.ranked[i], seen.ranked[j]
    return (a[:, :, None] == b[:, None, :]).sum((1, 2))


PAIR: dict[str, Callable[[Seen, int, int], Array]] = {
    "same": lambda seen, i, j: seen.first[i] == seen.first[j],
    "later_on_earlier": lambda seen, i, j: seen.ops.pick(seen.said[j], seen.first[i]),
    "earlier_on_later": lambda seen, i, j: seen.ops.pick(seen.said[i], seen.first[j]),
    "divergence": _divergence,
    "overlap": _overlap,
}
"""Columns of two stages on the path."""


def _columns(reader: Reader, path: Path) -> tuple[str, ...]:
    """Names of the columns of a view of ``path``."""
    n = 2
    narrow, own = _narrowed(reader, path), tuple(range(len(path)))
    stages = tuple(Stage(name, logits=np.zeros((n, reader.classes), np.float32)) for name in narrow.stages)
    return narrow.read(Outputs(stages, np.zeros(n, np.int64), np.arange(n), "test", reader.classes)).view(own).columns
