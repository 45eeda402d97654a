"""Reader, pool and rule of one path turned into one folded decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp.features.arrays import NUMPY, lazy
from offramp.features.belief.pooling import CORRECTED_CLASSES, FLOOR
from offramp.features.columns import layout
from offramp.features.confidence import FARTHEST
from offramp.features.evidence import Path, Reader

if TYPE_CHECKING:
    from offramp.features.arrays import Array, Ops
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
        self.shape, self.classes = reader.shape(path), c
        self.columns = layout(self.shape)
        self.names = tuple(each.name for each in self.columns)
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
        placed = self.columns[index]
        if not placed.column.live:
            raise NotImplementedError(placed.name)
        of, places = placed.column.of, placed.places
        return lambda seen: of(seen, *places)


class Seen:
    """What is known of one batch at the end of a path, each part computed when it is first asked for."""

    def __init__(self, policy: FoldedPolicy, logits: Sequence[Array]) -> None:
        self.policy, self.ops, self.logits, self.shape = policy, policy.ops, logits, policy.shape

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

    @property
    def answers(self) -> list[Array]:
        """The same: alternatives are the classes."""
        found: list[Array] = self.first
        return found

    @lazy
    def ordered(self) -> list[Array]:
        """Each stage's log probabilities, rising."""
        return [self.ops.rising(s) for s in self.said]

    @lazy
    def ranked(self) -> list[Array]:
        """Each stage's best classes (n, r)."""
        return [self.ops.ranked(z, self.policy.ranks) for z in self.logits]

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
    def best_three(self) -> Array:
        """Log belief in the best three classes, rising, not below what margins are counted from."""
        return self.ops.at_least(self.logp[:, -3:], -FARTHEST)

    def top(self, rank: int) -> Array:
        """Log belief (n,) in the class of that rank."""
        return _from_behind(self.best_three, rank)

    def rank(self, i: int, rank: int) -> Array:
        """Log probability (n,) of the stage's class of that rank."""
        return _from_behind(self.ordered[i], rank)

    @lazy
    def left(self) -> Array:
        """Belief (n,) that is not in the best class."""
        return self.ops.total(self.p[:, :-1])[:, 0]

    @lazy
    def entropies(self) -> list[Array]:
        """Entropy (n,) of each stage."""
        return [-self.ops.dot(p, said) for p, said in zip(self.stage_p, self.said, strict=True)]

    @lazy
    def log_sum_exp(self) -> list[Array]:
        """Of each stage's logits over its temperature (n,)."""
        ops, found = self.ops, []
        for z, inverse in zip(self.logits, self.policy.inverse, strict=True):
            highest = ops.highest(z * inverse)
            found.append((highest + ops.log(ops.total(ops.exp(z * inverse - highest))))[:, 0])
        return found

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


def _from_behind(rising: Array, rank: int) -> Array:
    """The number (n,) of that rank of rising rows (n, c); ``-FARTHEST`` where there are not so many."""
    return rising[:, -1 - rank] if rank < rising.shape[1] else rising[:, 0] * 0 - float(FARTHEST)
