"""A subject turned into what is watched of it: how lines are counted, how counts are tested, and what an alarm says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.cascades.files.policy import Bound, Certificate
from offramp.cascades.learning.answers import LOSSES
from offramp.eval.guarantees.reference import FEWEST, Subject
from offramp.eval.monitoring.routinglog import NONE, Examples
from offramp.eval.monitoring.sequential import SHIFTS, Bets, Restarts, Urns, cuts, thresholds
from offramp.features.outputs import Floats, Ints

GROUPS = 64
"""Classes watched one by one at most; where there are more, neighbours are watched together."""

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
        found.append(_of_sets("answers", ones, answers, answers_of, lambda f: _answer_words(f, ones, answers), rng))
    if reference.wrong is not None:
        wrong = np.array([reference.examples - reference.wrong, reference.wrong])
        found.append(
            _of_sets(
                "error",
                np.array([[False, True]]),
                wrong,
                errors_of,
                lambda f: _error_words(f, wrong[1] / n[0]),
                rng,
                "up",
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


def answers_of(e: Examples) -> Ints:
    """The answer of each line (n,) that is an example, ``NONE`` elsewhere."""
    return np.asarray(np.where(e.path == NONE, NONE, e.answer))  # a late label's answer has been counted before


def errors_of(e: Examples) -> Ints:
    """Whether each line's answer (n,) is wrong, ``NONE`` where that can't be told."""
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
    bounds = [] if subject.loss == "top5" else [bound for bound in certificate.bounds if bound.most < 1]
    return found + [
        _bounded(subject, bound, "risk bound" if len(bounds) == 1 else f"{bound.risk} bound") for bound in bounds
    ]


def _bounded(subject: Subject, bound: Bound, name: str) -> Monitor:
    """Watches a bound on a risk, as far as labels tell."""
    return Monitor(
        name,
        Bets(np.array([0.0, 0.5, 1.0]), (1 + bound.most) / 2),
        lambda e, _: np.bincount(risks(e, bound.risk, subject.loss) + 1, minlength=3)[None],
        lambda f: _risk_words(f, bound, subject.loss),
    )


def risks(e: Examples, risk: str, loss: str) -> Ints:
    """What each labelled line (m,) adds to a certificate's risk: -1, 0 or 1; lines that don't tell are left out.

    An increase over the largest stage needs its answer too, and so does a loss that counts only what it got right.
    """
    wrong, largest = errors_of(e), np.where(e.largest == NONE, NONE, e.largest != e.label)
    excess = loss == "excess"
    if not excess and risk == "error":
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


def _risk_words(f: Find, bound: Bound, loss: str) -> str:
    less, same, more = f.after[0].tolist()
    now = (more - less) / max(less + same + more, 1)
    told = LOSSES[loss].told
    named = f"increase of the {told} over the largest stage" if bound.risk == "increase" else told
    says = f"the {named} is above the certified bound: {_against(now, bound.most)}"
    return says + f" (of {less + same + more:,} labelled)"


def _against(now: float, then: float) -> str:
    return f"{_share(now)} against {_share(then)}"
