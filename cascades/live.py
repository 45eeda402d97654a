"""A fitted cascade turned into decisions on batches of logits as they come, on the device where they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from cascades.answers import ANSWERS, LOSSES
from cascades.cascade import Sweep, UnionRules
from cascades.chains import ends_along
from cascades.costs import Costs, StageCost
from cascades.fit import FitSettings, fit_sweep
from cascades.points import Fitted
from cascades.routing import Routes
from cascades.topology import parse_topology, unroll
from features.belief import CORRECTED_CLASSES, FLOOR
from features.errors import InputError
from features.evidence import Path, Reader
from features.glance import FARTHEST, LOWEST
from features.outputs import Floats, Ints, Outputs, Stage
from policies.constant import ConstantRules
from policies.logistic import LogisticRules
from policies.threshold import ThresholdRules
from policies.value import ValueRules

Array = Any
"""An array of numpy, or a tensor of torch on any device."""


class Decide(Protocol):
    """What happens at the end of one path, for logits (n, c) of each of its stages, in order; (n, c + 1) of an exit
    whose gate comes along, which stands last."""

    def __call__(self, logits: Sequence[Array]) -> tuple[Array, Array]:
        """Actions (n,), 0 to stop, else the number of the child to go on to; and answers (n,), classes."""


@dataclass(frozen=True)
class Plan:
    """One deterministic cascade: ``entry`` and the keys of ``decide`` index the routes' paths.

    A path whose ``decide`` is missing is never reached.
    """

    entry: int
    decide: Mapping[int, Decide]


@dataclass(frozen=True)
class LiveCascade:
    """The plans that examples are drawn into, with chances (``shares``) that sum to one, and where they may go."""

    routes: Routes
    plans: tuple[Plan, ...]
    shares: tuple[float, ...]

    def drawn(self, coin: Floats) -> Ints | None:
        """(n,) which plan each example follows by its ``coin`` (n,) in [0, 1); None if there is but one.

        With ``coins(ids, fitted.coin)`` as in the stored outputs' routing.
        """
        if len(self.plans) == 1:
            return None
        place = np.searchsorted(np.cumsum(self.shares[1:]), coin, "right") + 1
        return np.asarray(np.where(place < len(self.plans), place, 0))


def live_cascade(fitted: Fitted, point: int, on_device: bool = False) -> LiveCascade:
    """The cascade of the frontier's point number ``point``, ready to decide.

    ``on_device``: logits come as torch tensors, and actions and answers go back as such, wherever they are; else
    numpy arrays. The decisions are those of the stored outputs' routing, but for float32 rounding.
    Raises InputError for policies that look at pooled features, which a live batch does not bring along, or at other
    numbers than gates.
    """
    routes = fitted.sweep.routes
    if unknown := [name for name in fitted.sweep.reader.settings.measured if name != "gate"]:
        raise InputError(
            "policies that look at logits and gates", f"some that look at {', '.join(unknown)}", "policies"
        )
    if fitted.sweep.reader.pooled:
        raise InputError(
            "policies that look at logits alone (--no-pooled)", "some that need pooled features", "policies"
        )
    ops: Ops = Torch() if on_device else NUMPY
    bound = len(fitted.sweep.prices) + len(fitted.plans)

    gates = bool(fitted.sweep.reader.settings.measured)

    def plan(index: int) -> Plan:
        if index < len(fitted.sweep.prices):
            return _learned_plan(fitted.sweep, index, ops)
        path, cuts = fitted.plans[index - len(fitted.sweep.prices)]
        found = _threshold_plan(routes, path, cuts, ops)
        if not gates:
            return found
        return Plan(
            found.entry, {q: _ungated(decide, fitted.sweep.reader.classes) for q, decide in found.decide.items()}
        )

    if point < bound:
        return LiveCascade(routes, (plan(point),), (1.0,))
    mixture = fitted.mixtures[point - bound]
    return LiveCascade(routes, (plan(mixture.one), plan(mixture.other)), (1 - mixture.share, mixture.share))


class lazy:  # noqa: N801 - used like ``property``
    """A property reckoned once: functools' own takes a lock every time, as long as two operations on a small array."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function, self.name = function, function.__name__

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        """Reckon, and leave the result where the next look finds it without coming here."""
        value = owner.__dict__[self.name] = self.function(owner)
        return value


# --- numpy and torch, as far as they are needed


@dataclass(frozen=True)
class Ops:
    """The few operations that are called differently in numpy and torch; arrays are (n, c) unless said."""

    const: Callable[[Any, Array], Array]
    exp: Callable[[Array], Array]
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


def Torch() -> Ops:  # noqa: N802 - an ``Ops``, made late because of the import
    """The operations on torch's tensors, without a wait for the device in any of them."""
    import torch

    def const(value: Any, like: Any) -> Any:
        return torch.as_tensor(value, device=like.device)

    return Ops(
        const=const,
        exp=torch.exp,
        log=torch.log,
        at_least=lambda x, low: torch.clamp_min(x, float(low)),
        no_less=torch.maximum,
        highest=lambda x: x.amax(1, keepdim=True),
        total=lambda x: x.sum(1, keepdim=True),
        summed=lambda x: x.sum(1),
        ranked=lambda x, ranks: torch.sort(x, dim=1, descending=True, stable=True).indices[:, :ranks],
        rising=lambda x: torch.sort(x, 1).values,
        pick=lambda x, index: x.gather(1, index[:, None])[:, 0],
        columns=lambda parts: torch.stack([part.float() for part in parts], dim=1),
        take=lambda x, index: x.index_select(1, index),
        dot=lambda a, b: (a * b).sum(1),
        number=lambda x: x.float(),
        joined=lambda parts: torch.cat(list(parts), 1),
        host=lambda x: x.cpu().numpy(),
        back=lambda value, like: torch.as_tensor(value, device=like.device),
    )


def typical_policy(stages: int, classes: int, on_device: bool = False) -> dict[int, Decide]:
    """For each number of stages that were run one after another, from 1, a learned policy as it decides there.

    Fitted on random logits: it decides nothing of use, in the time that any of its kind takes.
    """
    names = tuple(f"s{i}" for i in range(stages))
    costs = Costs({name: StageCost(name, 2.0**i, 0.0) for i, name in enumerate(names)}, "")
    routes = unroll(parse_topology(">".join(names) if stages > 1 else names[0], names), costs)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, TYPICAL_EXAMPLES)
    hit = labels[:, None] == np.arange(classes)
    logits = [rng.normal(size=(TYPICAL_EXAMPLES, classes)) + (i + 1) * hit for i in range(stages)]
    said = tuple(Stage(name, logits=z.astype(np.float32)) for name, z in zip(names, logits, strict=True))
    outputs = Outputs(said, labels, np.arange(TYPICAL_EXAMPLES), "fit", classes)
    sweep, _ = fit_sweep(outputs, routes, 3, FitSettings(("value",)))
    ops = Torch() if on_device else NUMPY
    return {
        len(path): _decide(sweep, path, sweep.rules[path].take(np.array([1])) if path in sweep.rules else None, ops)
        for path in routes.paths
    }


TYPICAL_EXAMPLES = 500


# --- plans


def _threshold_plan(routes: Routes, path: Path, cuts: Sequence[float], ops: Ops) -> Plan:
    """Stop at the first stage on ``path`` whose maximum probability is at least its cut."""
    places = ends_along(routes, path).tolist()
    found: dict[int, Decide] = {}
    for j, place in enumerate(places):
        if j == len(path) - 1:
            found[place] = _own_answer()
        else:
            found[place] = _confident(float(cuts[j]), 1 + routes.children[place].index(places[j + 1]), ops)
    return Plan(places[0], found)


def parted(z: Array, classes: int) -> tuple[Array, Array | None]:
    """Logits (n, c), and the gate's log odds (n,) if they stand behind them."""
    return (z[:, :classes], z[:, classes]) if z.shape[1] > classes else (z, None)


def _ungated(decide: Decide, classes: int) -> Decide:
    """A decision that does not look at gates, where they come along."""
    return lambda logits: decide([parted(z, classes)[0] for z in logits])


def _own_answer() -> Decide:
    def decide(logits: Sequence[Array]) -> tuple[Array, Array]:
        answer = logits[-1].argmax(1)
        return answer * 0, answer

    return decide


def _confident(cut: float, onward: int, ops: Ops) -> Decide:
    def decide(logits: Sequence[Array]) -> tuple[Array, Array]:
        # the very operations of ``features.glance``: cuts are confidences that occurred, near 1 often those of many
        z = ops.at_least(logits[-1], LOWEST)
        probability = ops.exp(-ops.log(ops.summed(ops.exp(z - ops.highest(z)))))
        return (probability < cut) * onward, z.argmax(1)

    return decide


def _learned_plan(sweep: Sweep, price: int, ops: Ops) -> Plan:
    routes = sweep.routes
    found: dict[int, Decide] = {}
    waiting = [int(sweep.entry[price])]
    while waiting:
        q = waiting.pop()
        path = routes.paths[q]
        rules = sweep.rules[path].take(np.array([price])) if path in sweep.rules else None
        found[q] = _decide(sweep, path, rules, ops)
        rule = None if rules is None else rules.members[int(rules.pick[0])].take(np.array([0]))
        if isinstance(rule, ConstantRules):
            action = int(rule.action[0])
            waiting += [routes.children[q][action - 1]] if action else []
        elif rule is not None:
            waiting += routes.children[q]
    return Plan(int(sweep.entry[price]), found)


def _decide(sweep: Sweep, path: Path, rules: UnionRules | None, ops: Ops) -> Decide:
    """The quickest way to decide at ``path`` that there is."""
    if sweep.reader.settings.measured:
        return _gated(sweep, path, rules, ops)
    ranks = LOSSES[sweep.loss].ranks
    mode = sweep.modes[path]
    rule = None if rules is None else rules.members[int(rules.pick[0])].take(np.array([0]))
    action = 0 if rule is None else int(rule.action[0]) if isinstance(rule, ConstantRules) else None
    if action == 0 and mode == "last":
        return _own_answer()
    if action:
        return _passing(action)
    logits = [not np.isnan(sweep.reader.temperature[s]) for s in path]
    if sweep.reader.dense and all(logits) and ranks == 1 and mode in ("last", "fused", "any"):
        try:
            return Reckoner(sweep.reader, path, mode, rule if action is None else None, ops)
        except NotImplementedError:  # a rule that looks at what is not reckoned here
            pass
    return _general(sweep, path, mode, rules, ops)


def _gated(sweep: Sweep, path: Path, rules: UnionRules | None, ops: Ops) -> Decide:
    """Where gates come along: a threshold on one and the last stage's answer in two operations, else as stored."""
    classes, mode = sweep.reader.classes, sweep.modes[path]
    rule = None if rules is None else rules.members[int(rules.pick[0])].take(np.array([0]))
    action = 0 if rule is None else int(rule.action[0]) if isinstance(rule, ConstantRules) else None
    if action or (action == 0 and mode == "last"):
        return _ungated(_passing(action) if action else _own_answer(), classes)
    if mode == "last" and isinstance(rule, ThresholdRules) and rule.name[0] == f"{sweep.reader.stages[path[-1]]}.gate":
        cuts, order = rule.cuts[0].tolist(), [int(each) for each in rule.order[0]]

        def decide(logits: Sequence[Array]) -> tuple[Array, Array]:
            z, gate = parted(logits[-1], classes)
            assert gate is not None
            return chosen_by(gate, cuts, order), z.argmax(1)

        return decide
    return _general(sweep, path, mode, rules, ops)


def chosen_by(x: Array, cuts: Sequence[float], order: Sequence[int]) -> Array:
    """Actions (n,) by the intervals between rising ``cuts`` (a - 1,) that x (n,) falls into; ``order`` (a,) theirs."""
    action = (x < cuts[0]) * order[0]
    for low, high, taken in zip(cuts, [*cuts[1:], np.inf], order[1:], strict=True):
        if taken:
            action = action + ((x >= low) & (x < high)) * taken
    return action


def _passing(action: int) -> Decide:
    """Always goes on; the answer, nobody's, is the last stage's."""

    def decide(logits: Sequence[Array]) -> tuple[Array, Array]:
        answer = logits[-1].argmax(1)
        return answer * 0 + action, answer

    return decide


def _general(sweep: Sweep, path: Path, mode: str, rules: UnionRules | None, ops: Ops) -> Decide:
    """By the very code that reads stored outputs, on the host."""
    reader, own, ranks = _narrowed(sweep.reader, path), tuple(range(len(path))), LOSSES[sweep.loss].ranks

    def decide(logits: Sequence[Array]) -> tuple[Array, Array]:
        arrays = [parted(ops.host(z), reader.classes) for z in logits]
        n = len(arrays[0][0])
        stages = tuple(
            Stage(name, logits=z, measured={} if gate is None else {"gate": gate})
            for name, (z, gate) in zip(reader.stages, arrays, strict=True)
        )
        reading = reader.read(Outputs(stages, np.zeros(n, np.int64), np.arange(n), "test", reader.classes))
        view = reading.view(own)
        answer = ANSWERS[mode](reading, view, own, ranks)[:, 0].astype(np.int64)
        action = np.zeros(n, np.int64) if rules is None else rules.actions(view.x)[:, 0].astype(np.int64)
        return ops.back(action, logits[0]), ops.back(answer, logits[0])

    return decide


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


class Reckoner:
    """Decides at one path as the reader, the pool and the rule would, with everything linear folded together.

    Only what the rule looks at is reckoned: a few dozen small operations, since at a batch of one each of them costs
    as much as at a batch of sixty-four. Raises NotImplementedError for a rule or a column that it does not know.
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
        self.names = [reader.stages[s] for s in path]
        self.score = self._scorer(rule, _columns(reader, path))
        self.constants: dict[int, Array] = {}

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

    def _scorer(self, rule: Any, columns: Sequence[str]) -> Callable[[Seen], Array] | None:
        if rule is None:
            return None
        if isinstance(rule, ThresholdRules):
            return self._intervals(rule, columns[int(rule.column[0])])
        if isinstance(rule, ValueRules):
            return self._value(rule, [columns[int(i)] for i in rule.columns])
        if isinstance(rule, LogisticRules):
            return self._tournament(rule, [columns[int(i)] for i in rule.columns])
        raise NotImplementedError(type(rule).__name__)

    def _intervals(self, rule: ThresholdRules, column: str) -> Callable[[Seen], Array]:
        value = self._column(column)
        cuts, order = rule.cuts[0].tolist(), [int(action) for action in rule.order[0]]

        return lambda seen: chosen_by(value(seen), cuts, order)

    def _value(self, rule: ValueRules, columns: Sequence[str]) -> Callable[[Seen], Array]:
        spline, weights = rule.spline, rule.weights[:, :, 0]
        slope = weights[1:] / spline.scale[:, None]
        constant = weights[0] - spline.mean @ slope
        source, hinged = spline.column.astype(int), np.isfinite(spline.knot)
        one_hot = {i: name for i, name in enumerate(columns) if name.startswith("belief.is_")}
        kept = [i for i in range(len(columns)) if i not in one_hot and (source == i).any()]
        values = [self._column(columns[i]) for i in kept]
        place = {i: at for at, i in enumerate(kept)}
        classes = len(self.base)
        table = np.tile(constant, (classes, 1))
        terms = []  # (place, knot, least, slope): a straight line is a hinge that nothing is below of
        for i, knot, hinge, by in zip(source, spline.knot, hinged, slope, strict=True):
            if i not in one_hot:
                terms.append((place[i], knot if hinge else 0.0, 0.0 if hinge else -np.inf, by))
            elif hinge:
                raise NotImplementedError("a hinge in an indicator")
            else:
                table[int(one_hot[i].removeprefix("belief.is_"))] += by
        table = table.astype(np.float32)
        index = np.array([term[0] for term in terms], np.int64)
        knots = np.array([term[1] for term in terms], np.float32)
        least = np.array([term[2] for term in terms], np.float32)
        by = np.array([term[3] for term in terms], np.float32).reshape(len(terms), slope.shape[1])
        ops = self.ops

        def score(seen: Seen) -> Array:
            like = seen.best
            cost = self.const(table, like)[like]
            if len(index):
                x = ops.take(ops.columns([value(seen) for value in values]), self.const(index, like))
                x = ops.no_less(x - self.const(knots, like), self.const(least, like))
                cost = cost + x @ self.const(by, like)
            if cost.shape[1] == 1:
                return cost[:, 0] < 0
            way = cost.argmin(1)
            return (ops.pick(cost, way) < 0) * (way + 1)

        return score

    def _tournament(self, rule: LogisticRules, columns: Sequence[str]) -> Callable[[Seen], Array]:
        values = [self._column(name) for name in columns]
        slope = rule.weights[:, 1:, 0] / rule.scale
        constant = rule.weights[:, 0, 0] - slope @ rule.mean
        matrix, bias = slope.T.astype(np.float32), constant.astype(np.float32)
        matches = len(rule.weights)
        ops = self.ops

        def score(seen: Seen) -> Array:
            like = seen.best
            keeps = (ops.columns([value(seen) for value in values]) @ self.const(matrix, like)) + self.const(bias, like)
            winner = (keeps[:, -1] > 0) * 1 + (matches - 1)
            for j in range(matches - 2, -1, -1):
                kept = keeps[:, j] > 0
                winner = kept * winner + (~kept) * j
            return winner

        return score

    def _column(self, name: str) -> Callable[[Seen], Array]:
        """How the column is reckoned."""
        owner, _, what = name.rpartition(".")
        if owner == "belief" and what in BELIEF:
            return BELIEF[what]
        if owner in self.names and what in OWN:
            return _bound(OWN[what], self.names.index(owner))
        first, _, second = owner.partition("~")
        if first in self.names and second in self.names and what in PAIR:
            return _bound(PAIR[what], self.names.index(first), self.names.index(second))
        if what.startswith("is_") and owner == "belief":
            wanted = int(what.removeprefix("is_"))
            return lambda seen: seen.ops.number(seen.best == wanted)
        raise NotImplementedError(name)


def _bound(function: Callable[..., Array], *places: int) -> Callable[[Seen], Array]:
    return lambda seen: function(seen, *places)


class Seen:
    """What is known of one batch at the end of a path, each part reckoned when it is first asked for."""

    def __init__(self, reckoner: Reckoner, logits: Sequence[Array]) -> None:
        self.reckoner, self.ops, self.logits = reckoner, reckoner.ops, logits

    @lazy
    def said(self) -> list[Array]:
        """Log probabilities (n, c) by each stage."""
        ops, found = self.ops, []
        for z, inverse in zip(self.logits, self.reckoner.inverse, strict=True):
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
        return [self.ops.ranked(z, self.reckoner.ranks) for z in self.logits]

    @lazy
    def score(self) -> Array:
        """Log belief (n, c), but for a constant an example."""
        me = self.reckoner
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
        classes = self.reckoner.const(CLASSES, like)[: like.shape[1]]
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
