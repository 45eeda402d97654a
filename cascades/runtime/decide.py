"""A fitted cascade turned into decisions on batches of logits as they come, on the device where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from offramp.cascades.graph.costs import Costs, StageCost
from offramp.cascades.graph.routing import Routes
from offramp.cascades.graph.topology import parse_topology, unroll
from offramp.cascades.learning.answers import ANSWERS, LOSSES
from offramp.cascades.learning.cascade import Sweep, UnionRules
from offramp.cascades.learning.chains import ends_along
from offramp.cascades.learning.fit import FitSettings, fit_sweep
from offramp.cascades.learning.points import Fitted
from offramp.cascades.runtime.arrays import Torch
from offramp.cascades.runtime.folded import FoldedPolicy, _narrowed
from offramp.features.arrays import NUMPY
from offramp.features.confidence import LOWEST
from offramp.features.errors import InputError
from offramp.features.evidence import Path, read_none
from offramp.features.outputs import Floats, Ints, Outputs, Stage
from offramp.policies.constant import ConstantRules
from offramp.policies.threshold import ThresholdRules, chosen_by

if TYPE_CHECKING:
    from offramp.features.arrays import Array, Ops


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


# --- numpy and torch, as far as they are needed


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
        # the very operations of ``features.confidence``: cuts are confidences that occurred, near 1 often those of many
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
            return FoldedPolicy(sweep.reader, path, mode, rule if action is None else None, ops)
        except NotImplementedError:  # a rule that looks at what live logits don't tell
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
        view = reading.view(own, read_none if rules is None else rules.reads)
        answer = ANSWERS[mode](reading, view, own, ranks)[:, 0].astype(np.int64)
        action = np.zeros(n, np.int64) if rules is None else rules.actions(view.x)[:, 0].astype(np.int64)
        return ops.back(action, logits[0]), ops.back(answer, logits[0])

    return decide
