"""A target and a search over everything that can be chosen turned into a policy file: ``python -m eval.tune``."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascades.settings import FAILED, INTERRUPTED, guard, parse
from features.errors import InputError

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from matplotlib.figure import Figure
    from optuna.trial import FrozenTrial
    from rich.table import Table

    from cascades.costs import Costs
    from cascades.deployment import Attempt, Expected, Target
    from cascades.fit import FitSettings
    from cascades.folder import DataFolder
    from cascades.points import Fitted, Picking, Plan
    from cascades.routing import Routes, Routing
    from cascades.topology import Topology
    from eval.study import Found, Report
    from eval.study import Plan as StudyPlan
    from features.evidence import Reader, Reading
    from features.outputs import Floats, Ints, Outputs

FILES = ("policy.json", "trials.csv", "importance.png", "pareto.png", "summary.json")

POLICIES = ("constant", "threshold", "logistic", "value")
"""Families searched unless others are named, as in eval.frontier."""

OBJECTIVES = ("cost", "error", "p95")

LEAST_EXAMPLES = 90
"""Fewer leave a fold's rules fewer than ten examples a fold of their own."""

CV_ROWS = 12_000
"""Examples judged on at most, drawn at random: beyond, a trial's time grows and its rank hardly moves."""

INNER_FOLDS = 3
"""Cross-fitting within a fold while searching, where a policy that is kept has five: half of the time, same order."""

PRICES, FACTOR = 9, 6.0
"""Prices that a choice is tried at, and how far to either side of the plain policy's price they reach: enough for
multipliers of two, and neighbours so close that the line between two is a hundredth from the curve at most."""

WIDE_PRICES = 14
"""Prices where a whole front is searched rather than one point of it."""

AIMS = (0.5, 0.0, 0.125, 0.25, 0.375, 0.625, 0.75, 0.875, 1.0)
"""Where on its own frontier, from the cheapest to the most accurate point, a trial with several objectives stands."""

KNOWN_BYTES = 2**28
"""Of beliefs kept: fitting them takes half of a trial's time, and four settings share all that are left of them."""

FINALISTS = 5
"""Best trials that are judged again, on folds that no trial was chosen by, before one replaces the plain policy."""

DOUBT = 2.0
"""Standard errors by which a finalist has to be ahead there: the best of five that are no better looks ahead by more
than one, and what was learned from is what is judged on."""

FRESH = 1009
"""Added to the seed for those folds."""

FULL_LATTICE = 4
"""Stages up to which any may be dropped; beyond, one at a time."""

QUANTILE = 0.95
LEVEL = 0.95
ENDS = ("value", "low", "high")


@dataclass(frozen=True)
class Settings:
    """The flags of the command."""

    topology: str = field(metadata={"help": "as in eval.frontier: a_g_r, or a>g,r;g>r"})
    data: str = field(default="cifar10", metadata={"help": "name of embedded data, or a data folder"})
    budget: str | None = field(
        default=None, metadata={"help": "the most accurate policy of at most this mean cost, such as 5ms"}
    )
    max_error_increase: float | None = field(
        default=None,
        metadata={"help": "the cheapest that errs at most so much more than the largest stage", "minimum": 0},
    )
    min_accuracy: float | None = field(
        default=None, metadata={"help": "the cheapest that is right in at least this share", "minimum": 0, "maximum": 1}
    )
    max_share: tuple[str, ...] = field(
        default=(), metadata={"help": "STAGE=SHARE: at most this share of the examples may exit there"}
    )
    loss: str = field(default="top1", metadata={"help": "as in eval.frontier", "choices": ("top1", "top5", "excess")})
    policies: tuple[str, ...] = field(
        default=POLICIES,
        metadata={
            "help": "policy families to choose from",
            "choices": ("constant", "threshold", "logistic", "value", "boosted", "entropy", "gate"),
        },
    )
    trials: int = field(
        default=100,
        metadata={
            "help": "trials of the study, whoever runs them; 0: no search, the plain frontier's policy",
            "minimum": 0,
            "maximum": 100_000,
        },
    )
    objectives: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "what is made small: the target's own (cost, or error within a budget), or several for their "
            "Pareto set",
            "choices": OBJECTIVES,
        },
    )
    sampler: str = field(
        default="tpe", metadata={"help": "how choices are drawn", "choices": ("tpe", "random", "grid")}
    )
    folds: int = field(default=3, metadata={"help": "folds that a trial is judged on", "minimum": 2, "maximum": 20})
    storage: str = field(
        default="",
        metadata={
            "help": "where the study is kept: an SQLite file, journal:FILE, or a URL as Optuna takes it "
            "(postgresql://..., mysql://...); study.db in --out unless named"
        },
    )
    study: str = field(default="offramp", metadata={"help": "name of the study: those that share one share its trials"})
    workers: int = field(default=1, metadata={"help": "processes that run trials here", "minimum": 1, "maximum": 256})
    keep_back: float = field(
        default=0.3,
        metadata={
            "help": "share of the fit part kept for eval.certify, unless the data have a certify part",
            "minimum": 0,
            "maximum": 0.9,
        },
    )
    points: int = field(
        default=50, metadata={"help": "prices of the policies that are kept", "minimum": 1, "maximum": 1000}
    )
    grace: float = field(
        default=60.0,
        metadata={
            "help": "seconds without a sign of life after which a worker's trial is given to another",
            "minimum": 1,
            "maximum": 86_400,
        },
    )
    patience: float = field(
        default=60.0,
        metadata={"help": "seconds that a storage may take to answer", "minimum": 1, "maximum": 86_400},
    )
    seed: int = field(
        default=0, metadata={"help": "seed of splits, folds, draws and bootstrap", "minimum": 0, "maximum": 2**31}
    )
    out: Path = field(default=Path("tuned"), metadata={"help": "folder to write into; made if need be"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit code."""
    return guard(lambda: run(parse(Settings, argv, "python -m eval.tune", __doc__ or "")))


def run(settings: Settings) -> int:
    """Solve for the plain frontier's policy, search, choose, measure once on the test part, write, print."""
    from eval.files import writable

    folder = writable(settings.out, "--out", FILES)
    task = read_task(settings)
    plain = solved(task, task.plain, task.topology, settings.points)
    searched = Searched() if not settings.trials else search(settings, task, plain)
    try:
        result = conclude(settings, task, plain, searched)
    except KeyboardInterrupt:  # while the best trials were judged again: what is known is written none the less
        stopped = "interrupted; all trials are done, and the best by their own folds is written"
        searched = replace(searched, stopped=stopped, code=INTERRUPTED)
        result = conclude(settings, task, plain, searched)
    written = folder.write_all(files_of(settings, task, result))
    show(task, result, written)
    if searched.stopped:
        say(searched.stopped)
    return searched.code


# --- what is searched for, on what


@dataclass(frozen=True)
class Task:
    """The problem: ``learnt`` are the examples that anything may be learned or chosen on, ``target`` what is wanted.

    ``topologies``: name -> topology, the one given first. ``plain``: how the plain frontier is fitted.
    """

    settings: Settings
    data: DataFolder
    kept: float
    learnt: Outputs
    topology: Topology
    topologies: Mapping[str, Topology]
    routes: Routes
    target: Target
    plain: FitSettings
    objectives: tuple[str, ...]

    @property
    def natural(self) -> str:
        """What the target leaves to be made small."""
        return "error" if accurate(self.target) else "cost"

    @property
    def space(self) -> dict[str, tuple[Any, ...]]:
        """Everything that a trial chooses: name -> values, the plain frontier's first."""
        found: dict[str, tuple[Any, ...]] = {}
        if len(self.topologies) > 1:
            found["topology"] = tuple(self.topologies)
        found |= self.plain.search_space(self.learnt, self.routes)
        if len(self.objectives) > 1:
            found["aim"] = AIMS
        return found

    def chosen(self, choices: Mapping[str, Any]) -> tuple[FitSettings, Topology]:
        """How a trial's cascades are fitted, and on which topology."""
        topology = self.topologies[choices.get("topology", next(iter(self.topologies)))]
        rest = {name: value for name, value in choices.items() if name not in ("topology", "aim")}
        # what a topology without a stage would do with that stage's multiplier changes nothing
        rest = {k: v for k, v in rest.items() if k.partition(".")[0] != "multiplier" or k[11:] in topology.stages}
        return self.plain.chosen(rest), topology

    def key(self, choices: Mapping[str, Any]) -> str:
        """The same for choices that come to the same."""
        how, topology = self.chosen(choices)
        return json.dumps([asdict(how), written_out(topology, self.data.costs), choices.get("aim")], sort_keys=True)


def accurate(target: Target) -> bool:
    """Whether the most accurate policy is wanted, as within a budget, rather than the cheapest."""
    return target.budget is not None or (target.error_increase is None and target.accuracy is None)


def read_task(settings: Settings) -> Task:
    """The data and the flags, checked against each other. Raises InputError."""
    from cascades.answers import LOSSES
    from cascades.deployment import Target, largest
    from cascades.fit import FitSettings
    from cascades.folder import keep_back, read_folder
    from cascades.targets import check_target, parse_budget, parse_shares
    from cascades.topology import parse_topology, unroll
    from features.evidence import EvidenceSettings
    from features.glance import TOP
    from features.outputs import LEARNT

    whole = read_folder(settings.data, settings.seed)
    kept = settings.keep_back if "certify" not in whole.parts else 0.0
    data = keep_back(whole, kept, settings.seed) if kept else whole
    topology = parse_topology(settings.topology, tuple(data.costs.stages))
    routes = unroll(topology, data.costs)
    if settings.trials and len(topology.stages) < 2:
        raise InputError("at least two stages to choose between (or --trials 0)", topology.stages[0], "--topology")
    shares = parse_shares(settings.max_share, routes)
    budget = None if settings.budget is None else parse_budget(settings.budget, data.costs.unit)
    target = Target(budget, settings.max_error_increase, settings.min_accuracy, shares)
    check_target(target, routes.stages)
    learnt = pooled([data.parts[part].of(routes.stages) for part in LEARNT if part in data.parts])
    if len(learnt) < LEAST_EXAMPLES:
        raise InputError(f"at least {LEAST_EXAMPLES} examples to learn from", str(len(learnt)), data.name)
    measured = {name for stage in learnt.stages if stage.logits is not None for name in stage.measured}
    if "gate" in settings.policies and "gate" not in measured:
        raise InputError("stages with gates (cascades.training --objective gated)", "none", "--policies gate")
    looks = {"measured": ("gate",)} if "gate" in settings.policies else {}
    evidence = EvidenceSettings(ranks=max(TOP, LOSSES[settings.loss].ranks), **looks)  # type: ignore[arg-type]
    plain = FitSettings(
        tuple(dict.fromkeys(settings.policies)), loss=settings.loss, evidence=evidence, seed=settings.seed
    )
    # what the promise is held against, or speaks of, can't be left out
    bound = {routes.stages[largest(routes)]} if target.error_increase is not None else set()
    bound |= set(shares) | ({routes.stages[-1]} if LOSSES[settings.loss].excess else set())
    topologies = sub_topologies(topology, data.costs, bound)
    objectives = tuple(dict.fromkeys(settings.objectives)) or ("error" if accurate(target) else "cost",)
    task = Task(settings, data, kept, learnt, topology, topologies, routes, target, plain, objectives)
    if len(objectives) == 1 and objectives != (task.natural,):
        raise InputError(
            f"{task.natural}, which the target leaves to be made small, or several objectives",
            objectives[0],
            "--objectives",
        )
    return task


def pooled(parts: Sequence[Outputs]) -> Outputs:
    """Several parts as one; the first one's name."""
    import numpy as np

    from features.outputs import Outputs, Stage

    if len(parts) == 1:
        return parts[0]

    def joined(at: int, name: str) -> Any:
        found = [getattr(part.stages[at], name) for part in parts]
        if any(one is None for one in found):
            return None
        if name == "answers":
            width = min(one.shape[1] for one in found)
            found = [one[:, :width] for one in found]
        return np.concatenate(found)

    stages = []
    for s, stage in enumerate(parts[0].stages):
        others = [part.stages[s] for part in parts]
        common = [key for key in stage.measured if all(key in other.measured for other in others)]
        measured = {key: np.concatenate([other.measured[key] for other in others]) for key in common}
        stages.append(Stage(stage.name, joined(s, "answers"), joined(s, "logits"), measured, joined(s, "pooled")))
    ids = np.concatenate([part.ids for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    return Outputs(tuple(stages), labels, ids, parts[0].part, max(part.classes for part in parts))


def sub_topologies(topology: Topology, costs: Costs, bound: set[str]) -> dict[str, Topology]:
    """The topology and those inside it, by how they are written: fewer stages, or only the shortest jumps.

    ``bound``: stages that stay. Of up to ``FULL_LATTICE`` stages any may go while two are left, of more one at a time.
    """
    from cascades.topology import Topology

    stages = topology.stages
    most = len(stages) - 2 if len(stages) <= FULL_LATTICE else 1
    found: dict[Any, Topology] = {}
    for dropped in range(max(most, 0) + 1):
        for gone in combinations(stages, dropped):
            kept = tuple(stage for stage in stages if stage not in gone)
            jumps = {s: tuple(t for t in topology.jumps.get(s, ()) if t in kept) for s in kept}
            entries = tuple(stage for stage in topology.entries if stage in kept)
            for shortest in (False, True):
                fewer = {s: to[:1] if shortest else to for s, to in jumps.items() if to}
                with suppress(InputError):  # some stage can't be reached any more
                    if bound <= set(kept):
                        one = Topology(kept, fewer, entries)
                        found.setdefault(_paths(one, costs), one)
    return {written_out(one, costs): one for one in found.values()}


def written_out(topology: Topology, costs: Costs) -> str:
    """The topology as ``parse_topology`` reads it.

    >>> from cascades.costs import Costs, StageCost
    >>> from cascades.topology import parse_topology
    >>> costs = Costs({name: StageCost(name, 1.0, 0.0) for name in ("a", "b", "c")}, "ms")
    >>> written_out(parse_topology("a_b_c", "abc"), costs), written_out(parse_topology("a>b>c", "abc"), costs)
    ('a_b_c', 'a>b;b>c;a')
    """
    from cascades.topology import parse_topology

    chain = "_".join(topology.stages)
    with suppress(InputError):
        if _paths(parse_topology(chain, tuple(costs.stages)), costs) == _paths(topology, costs):
            return chain
    jumps = [f"{stage}>{','.join(to)}" for stage, to in topology.jumps.items() if to]
    return ";".join([*jumps, *topology.entries])


def _paths(topology: Topology, costs: Costs) -> tuple[tuple[str, ...], ...]:
    from cascades.topology import unroll

    return tuple(tuple(topology.stages[s] for s in path) for path in unroll(topology, costs).paths)


# --- policies that could be kept


@dataclass(frozen=True)
class Solved:
    """Cascades fitted on all that may be learned from, and the point of them that meets the target on held-out folds.

    ``routings`` are the held-out ones of the sweep and the thresholds; ``price`` what is paid there: loss per cost.
    """

    how: FitSettings
    topology: Topology
    fitted: Fitted
    point: int
    routings: list[Routing]
    expected: Expected
    cost: float
    error: float
    price: float


def solved(task: Task, how: FitSettings, topology: Topology, points: int) -> Solved:
    """Fit, and solve for the target. Raises InputError where nothing meets it."""
    import numpy as np

    from cascades.deployment import largest
    from cascades.points import fit_points
    from cascades.targets import expected_of, solve
    from cascades.topology import unroll

    routes = unroll(topology, task.data.costs)
    outputs = task.learnt.of(routes.stages)
    fitted, picking = fit_points(outputs, None, routes, points, how)
    reference = _reference(task, picking, routes, largest(task.routes))
    spending = fitted.route(outputs)  # what the rules themselves spend; what they lose is told by held-out ones
    fitted, point = solve(task.target, fitted, picking.routings, reference, spending)
    bound = len(fitted.sweep.prices) + len(fitted.plans)
    expected = expected_of(fitted, picking.routings, reference, spending)
    cost, error = float(expected.cost[point]), float(expected.error[point])
    prices = fitted.sweep.prices[np.isfinite(fitted.sweep.prices)]
    near = np.argsort(np.abs(expected.cost[: len(prices)] - cost), kind="stable")[:3]
    price = float(np.exp(np.log(prices[near]).mean()))
    return Solved(how, topology, fitted, point, picking.routings[:bound], expected, cost, error, price)


def _reference(task: Task, picking: Picking, routes: Routes, largest: int) -> float:
    """The mean loss of the largest stage of the whole topology on the examples that points are picked by."""
    name = task.routes.stages[largest]
    if name in routes.stages:
        return float(picking.there.wrong[:, routes.stages.index(name)].mean())
    return float(singly(task.learnt, task.plain.loss)[:, largest].mean())


def singly(outputs: Outputs, loss: str) -> Floats:
    """What every stage alone loses on every example, (n, k)."""
    from cascades.answers import LOSSES
    from cascades.outcomes import single_outcomes
    from features.calibration import fit_answers

    answering = [s for s, stage in enumerate(outputs.stages) if stage.logits is None and not stage.measured]
    calibration = {s: fit_answers(outputs.stages[s], outputs.labels, outputs.classes) for s in answering}
    return single_outcomes(outputs, LOSSES[loss], calibration).wrong


# --- judging a choice


@dataclass(frozen=True)
class Judged:
    """How a choice did on held-out examples: of the point that the target picks (or ``aim``) its mean cost, error and
    p95 of the cost; by how much it misses the target; its frontier; and each example's expected loss and cost."""

    cost: float
    error: float
    p95: float
    violation: float
    curve: list[list[float]]
    loss_rows: Floats
    cost_rows: Floats


class Judge:
    """Cross-validates choices on the learnt examples.

    Every fold is fitted on the others and routed; the target is solved on all folds routed so far. The folds, their
    order and the prices are the same for all choices, so that what differs between two is the choices and little noise.
    Measured on the embedded data (7,000 examples, a fold fitted on two thirds or three quarters of them), in seconds of
    a core: a fold took 1.2 as ``eval.frontier`` would fit it, 0.64 with nine given prices and three inner folds, 0.27
    where beliefs were known already. Half of the trials end after one fold or two.
    """

    def __init__(self, task: Task, prices: Sequence[float], folds: int, seed: int) -> None:
        import numpy as np

        from cascades.deployment import largest

        self.task, self.prices = task, np.array(prices)
        rng = np.random.default_rng([seed, folds])
        rows = np.sort(rng.permutation(len(task.learnt))[:CV_ROWS])
        self.outputs = task.learnt.take(rows) if len(rows) < len(task.learnt) else task.learnt
        order = rng.permutation(len(self.outputs))
        self.folds = [np.sort(order[fold::folds]) for fold in range(folds)]
        self.largest = singly(self.outputs, task.plain.loss)[:, largest(task.routes)]
        self.known: list[dict[Any, Any]] = [{} for _ in self.folds]
        self.plans: dict[Any, list[Plan]] = {}

    def evaluate(self, choices: Mapping[str, Any], report: Report) -> Found:
        """As a study wants it: the objectives' values."""
        from eval.study import Found

        judged = self.judge(choices, report)
        values = {"cost": judged.cost, "error": judged.error, "p95": judged.p95}
        about = {**values, "curve": judged.curve}
        return Found(tuple(values[name] for name in self.task.objectives), judged.violation, about)

    def judge(self, choices: Mapping[str, Any], report: Report = lambda *_: None) -> Judged:
        """Fold after fold; ``report`` hears the value so far, a miss of the target being worse than any hit."""
        import numpy as np

        how, topology = self.task.chosen(choices)
        parts: list[list[Routing]] = []
        for fold, rows in enumerate(self.folds):
            parts.append(self._routings(fold, rows, how, topology))
            seen = np.concatenate(self.folds[: fold + 1])
            judged = self._solve(parts, float(self.largest[seen].mean()), choices.get("aim"))
            value = {"cost": judged.cost, "error": judged.error}[self.task.natural]
            worst = float(self.task.routes.cost.max()) if self.task.natural == "cost" else 1.0
            report(fold, value if judged.violation <= 0 else worst * (1 + judged.violation))
        return judged

    def _routings(self, fold: int, rows: Ints, how: FitSettings, topology: Topology) -> list[Routing]:
        """Where the examples ``rows`` go by what was fitted on all others: at each price, by one stage alone, and by
        jointly tuned thresholds if those are among the families."""
        import numpy as np

        from cascades.answers import LOSSES
        from cascades.chains import joint_thresholds, route_chain
        from cascades.fit import fit_sweep
        from cascades.outcomes import single_outcomes
        from cascades.topology import unroll
        from features.evidence import fit_reader

        routes = unroll(topology, self.task.data.costs)
        here = self.outputs.of(routes.stages)
        rest = here.take(np.setdiff1d(np.arange(len(here)), rows))
        key = (fold, routes.stages, routes.paths)

        known = self.known[fold]
        if sum(found[1].nbytes for key, found in known.items() if key[0] == "pool") > KNOWN_BYTES / len(self.folds):
            known.clear()

        def read(sample: Outputs, paths: Any, inner: Ints, evidence: Any) -> tuple[Reader, Reading]:
            return fit_reader(sample, paths, inner, evidence, known)

        how = replace(how, folds=min(how.folds, INNER_FOLDS))
        sweep, _ = fit_sweep(rest, routes, len(self.prices), how, prices=self.prices, read=read)
        there, loss = here.take(rows), LOSSES[how.loss]
        routed = sweep.route(there)
        found = [routed.at(i) for i in range(routed.path.shape[1])]
        if "threshold" in how.policies:
            calibration = sweep.reader.calibration
            if key not in self.plans:
                self.plans[key] = joint_thresholds(single_outcomes(rest, loss, calibration), routes, self.prices)
            examples = single_outcomes(there, loss, calibration)
            found += [route_chain(examples, routes, *plan) for plan in self.plans[key]]
        return found

    def _solve(self, parts: Sequence[Sequence[Routing]], reference: float, aim: float | None) -> Judged:
        """The target's point, or the one at ``aim``, of the folds' routings put together."""
        import numpy as np

        from cascades.hull import lower_hull
        from cascades.targets import best_pair, cost_range, limits_of

        routings = [_joined(of_point) for of_point in zip(*parts, strict=True)]
        target = self.task.target
        limits = limits_of(target, routings, reference, routings)
        cost = np.array([routing.mean_cost for routing in routings])
        error = np.array([routing.error for routing in routings])
        hull = lower_hull(cost, error).tolist()
        if aim is not None:
            at = aim * (len(hull) - 1)
            low = min(int(at), len(hull) - 2) if len(hull) > 1 else 0
            one, other, share = hull[low], hull[min(low + 1, len(hull) - 1)], at - low
        else:
            first, second = (error, cost) if accurate(target) else (cost, error)
            found = best_pair(first, second, limits)
            if found is None:  # the point that misses least
                nearest = int(np.max([_missed(limit.values, limit.bound) for limit in limits], axis=0).argmin())
                found = nearest, nearest, 0.0
            one, other, share = found

        def mean(values: Floats) -> float:
            return float((1 - share) * values[one] + share * values[other])

        violation = max(
            float((1 - share) * _missed(v.values, v.bound)[one] + share * _missed(v.values, v.bound)[other])
            for v in limits
        )
        routes = routings[0].routes
        if target.budget is not None and target.budget > cost_range(cost, routes)[1]:
            violation = 1.0  # smaller than what was asked for: another topology would use the budget
        a, b = routings[one], routings[other]
        return Judged(
            mean(cost),
            mean(error),
            percentile(a, b, share),
            0.0 if violation <= 1e-9 else violation,
            [[float(f"{x:.6g}") for x in (cost[i], error[i], percentile(routings[i], routings[i], 0))] for i in hull],
            (1 - share) * np.asarray(a.wrong, float) + share * np.asarray(b.wrong, float),
            (1 - share) * a.cost + share * b.cost,
        )


def _missed(values: Floats, bound: float) -> Floats:
    """(m,) by how much each of some points misses a bound, in shares of their span."""
    import numpy as np

    return np.asarray((values - bound) / (float(np.ptp(values)) or 1.0))


def _joined(routings: Sequence[Routing]) -> Routing:
    import numpy as np

    return replace(
        routings[0],
        path=np.concatenate([routing.path for routing in routings]),
        answer=np.concatenate([routing.answer for routing in routings]),
        wrong=np.concatenate([routing.wrong for routing in routings]),
    )


def percentile(one: Routing, other: Routing, share: float, q: float = QUANTILE) -> float:
    """The cost that a share ``q`` of the examples stays within, ``share`` of them being routed the ``other`` way."""
    import numpy as np

    mass = (1 - share) * one.visits / len(one) + share * other.visits / len(other)
    order = np.argsort(one.routes.cost, kind="stable")
    reached = np.cumsum(mass[order]) >= q - 1e-12
    return float(one.routes.cost[order][reached.argmax()])


# --- searching


@dataclass(frozen=True)
class Searched:
    """What a study has: its trials, the prices they were judged at; why it stopped before its end, if it did."""

    trials: Sequence[FrozenTrial] = ()
    prices: Sequence[float] = ()
    seconds: float = 0.0
    stopped: str = ""
    code: int = 0
    where: str = ""


def plan_of(settings: Settings, task: Task) -> StudyPlan:
    """The study that the flags speak of."""
    from eval.study import Plan, digest, labelled, storage_named

    space = task.space
    values = {name: [labelled({"": v})[""] for v in values] for name, values in space.items()}
    how = [settings.folds, settings.seed, settings.loss, CV_ROWS, INNER_FOLDS, asdict(task.plain)]
    fingerprint = {
        "data": data_digest(task),
        "costs": digest([task.routes.spent.tolist(), task.routes.unit]),
        "topology": next(iter(task.topologies)),
        "target": json.dumps(asdict(task.target), sort_keys=True),
        "search space": digest(values),
        "folds, seed, loss or policies": digest(how),
    }
    return Plan(
        storage_named(settings.storage, settings.out),
        settings.study,
        space,
        task.objectives,
        fingerprint,
        settings.trials,
        settings.sampler,
        settings.seed,
        settings.grace,
        settings.patience,
        task.key,
    )


def data_digest(task: Task) -> str:
    """Of the examples that may be learned from and of what the stages said on up to a few thousand of them."""
    from hashlib import sha256

    import numpy as np

    from cascades.points import digest_of

    found = sha256(digest_of(task.learnt).encode())
    rows = np.linspace(0, len(task.learnt) - 1, min(len(task.learnt), 4096)).astype(int)
    for stage in task.learnt.take(rows).stages:
        for array in (stage.answers, stage.logits, stage.pooled, *stage.measured.values()):
            if array is not None:
                found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def prices_of(task: Task, plain: Solved) -> list[float]:
    """Prices around the plain policy's; over all of the plain frontier where a whole front is searched."""
    import numpy as np

    if len(task.objectives) == 1:
        return [float(p) for p in plain.price * np.geomspace(1 / FACTOR, FACTOR, PRICES)]
    prices = plain.fitted.sweep.prices[np.isfinite(plain.fitted.sweep.prices)]
    return [
        float(p)
        for p in np.exp(np.interp(np.linspace(0, 1, WIDE_PRICES), np.linspace(0, 1, len(prices)), np.log(prices)))
    ]


def search(settings: Settings, task: Task, plain: Solved) -> Searched:
    """Run the study to its end, by as many processes as were asked for; an interrupt or a lost storage ends it too."""
    from eval.study import OutOfReachError, accounts, open_study, shown, work

    opened = open_study(plan_of(settings, task))
    prices = opened.noted("prices", lambda: prices_of(task, plain))
    judge = Judge(task, prices, settings.folds, settings.seed)
    begin, seen, stopped, code = time.monotonic(), list[Any](), "", 0
    where = f"study {settings.study!r} in {shown(opened.plan.storage)}"
    with _helpers(settings) as helpers, _bar(settings.trials) as bar:

        def told(trials: Sequence[FrozenTrial]) -> None:
            seen[:] = trials
            finished = len(accounts(trials, settings.trials).finished)
            bar(finished, _best_text(task, trials))

        try:
            work(opened, judge.evaluate, told)
        except KeyboardInterrupt:
            stopped, code = "interrupted", INTERRUPTED
            for helper in helpers:
                with suppress(OSError):
                    os.kill(helper.pid or 0, signal.SIGINT)
        except OutOfReachError as error:
            stopped, code = str(error), FAILED
    opened.close()
    if stopped:
        finished = len(accounts(seen, settings.trials).finished)
        stopped = f"{stopped}; {finished} of {settings.trials} trials are done and the best of them is written"
        if code == INTERRUPTED:
            stopped += f": give the same command again and {where} goes on"
    return Searched(seen, prices, time.monotonic() - begin, stopped, code, where)


@contextmanager
def _helpers(settings: Settings) -> Iterator[list[BaseProcess]]:
    """The other processes that run trials here; they leave by themselves when nothing is left to begin."""
    from multiprocessing import get_context

    context = get_context("spawn")
    found: list[BaseProcess] = []
    for _ in range(settings.workers - 1):
        helper: BaseProcess = context.Process(target=help_with, args=(settings, os.getpid()), daemon=True)
        helper.start()
        found.append(helper)
    try:
        yield found
    finally:
        for helper in found:
            helper.join(timeout=10)
            if helper.is_alive():
                helper.terminate()
                helper.join()


def help_with(settings: Settings, parent: int) -> None:
    """Run trials of a study that another process has opened, until none is left or that process is gone."""
    from eval.study import OutOfReachError, open_study, work

    class OrphanedError(Exception):
        pass

    def told(_: object) -> None:
        if os.getppid() != parent:
            raise OrphanedError

    with suppress(KeyboardInterrupt, OutOfReachError, OrphanedError):
        task = read_task(settings)
        opened = open_study(plan_of(settings, task))
        prices = opened.noted("prices", lambda: [])
        work(opened, Judge(task, prices, settings.folds, settings.seed).evaluate, told, alone=True)


@contextmanager
def _bar(trials: int) -> Iterator[Callable[[int, str], None]]:
    """Trials done, the best so far and the time left, on a terminal; nothing in a pipe."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        *(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=trials)

        def update(finished: int, text: str) -> None:
            progress.update(task, completed=finished, description=text)

        yield update


def _best_text(task: Task, trials: Sequence[FrozenTrial]) -> str:
    ranked = ranking(task, trials)
    if not ranked:
        return "nothing within the target yet"
    found = ranked[0].user_attrs["found"]
    return f"best: {found['cost']:.4g} {task.routes.unit}, {100 * found['error']:.2f} % wrong"


def ranking(task: Task, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Completed trials within the target, the best first, one of each key."""
    from eval.study import KEY, done

    order = sorted(done(trials), key=lambda t: (t.user_attrs["found"][task.natural], t.number))
    once: dict[str, FrozenTrial] = {}
    for trial in order:
        once.setdefault(trial.user_attrs[KEY], trial)
    return list(once.values())


# --- choosing


@dataclass(frozen=True)
class Result:
    """What is written. ``best`` the policy kept, ``trial`` the one that found it (None: the plain policy).

    ``gain``: how much less the best trial loses and spends than the plain policy, in cost at equal error, on folds that
    no trial was chosen by, and its standard error; ``tested`` what the test part says, None if it was not touched.
    """

    plain: Solved
    best: Solved
    trial: FrozenTrial | None
    gain: tuple[float, float] | None
    searched: Searched
    tested: dict[str, Any] | None
    verdict: dict[str, str]


def conclude(settings: Settings, task: Task, plain: Solved, searched: Searched) -> Result:
    """Choose on the folds, refit, and measure on the test part, once, if the study came to its end."""
    trial, gain = choose(settings, task, plain, searched)
    best = plain
    failed = sorted({str(t.user_attrs["failure"]) for t in searched.trials if "failure" in t.user_attrs})
    note = f" (every trial failed: {failed[0]})" if failed and not ranking(task, searched.trials) else ""
    if trial is not None:
        how, topology = task.chosen(_choices(task, trial))
        try:
            best = solved(task, how, topology, settings.points)
        except InputError as error:  # solvable on the folds, by a hair, and not on the whole
            trial, note = None, f" (the best trial's policy can't meet the target when fitted on all: {error})"
    tested = None if searched.stopped else measured_on_test(settings, task, plain, best)
    return Result(plain, best, trial, gain, searched, tested, verdict(task, trial, gain, tested, note))


def choose(
    settings: Settings, task: Task, plain: Solved, searched: Searched
) -> tuple[FrozenTrial | None, tuple[float, float] | None]:
    """The trial to keep, None for the plain policy; and the gain of the best finalist on fresh folds.

    The best of many trials looks better than it is, having been chosen for it. So one is kept only if it is ahead on
    other folds by more than ``DOUBT`` standard errors. After an interrupt there is no time for that, and the order of
    the trials decides.
    """
    from eval.study import done

    if searched.stopped:
        first = [t for t in done(searched.trials, feasible=False) if t.user_attrs["slot"] == 0]
        value = first[0].user_attrs["found"][task.natural] if first else math.inf
        ahead = [t for t in ranking(task, searched.trials) if t.user_attrs["found"][task.natural] < value]
        return (ahead[0] if ahead else None), None
    found = finalist(settings, task, plain, searched)
    if found is None:
        return None, None
    trial, mean, error = found
    return (trial if mean > DOUBT * error else None), (mean, error)


def finalist(
    settings: Settings, task: Task, plain: Solved, searched: Searched
) -> tuple[FrozenTrial, float, float] | None:
    """Of the ``FINALISTS`` best trials the one that gains most over the plain choice on folds that none was chosen by.

    With its mean gain and the standard error of that: how much less it spends, and loses, turned into cost at the plain
    frontier's price. None if no trial but the plain one keeps to the target.
    """
    import numpy as np

    from eval.study import default_of

    defaults = default_of(task.space)
    ranked = [t for t in ranking(task, searched.trials) if task.key(_choices(task, t)) != task.key(defaults)]
    if not ranked:
        return None
    judge = Judge(task, searched.prices, settings.folds, settings.seed + FRESH)
    found: list[tuple[FrozenTrial, float, float]] = []
    try:
        base = judge.judge({name: value for name, value in defaults.items() if name != "aim"})
    except (ValueError, ArithmeticError):  # nothing to hold the others against
        return None
    for trial in ranked[:FINALISTS]:
        choices = {name: value for name, value in _choices(task, trial).items() if name != "aim"}
        with suppress(ValueError, ArithmeticError):
            judged = judge.judge(choices)
            saved = (base.loss_rows - judged.loss_rows) / plain.price + base.cost_rows - judged.cost_rows
            if judged.violation <= 0 or base.violation > 0:
                found.append((trial, float(saved.mean()), float(saved.std() / np.sqrt(len(saved)))))
    return max(found, key=lambda each: each[1], default=None)


def _choices(task: Task, trial: FrozenTrial) -> dict[str, Any]:
    """A trial's choices as values, from their labels."""
    from eval.study import values_of

    return values_of(task.space, trial.params)


def measured_on_test(settings: Settings, task: Task, plain: Solved, best: Solved) -> dict[str, Any]:
    """Both policies on the test part: cost and error with intervals, and the difference, paired."""
    from eval.intervals import Bootstrap, estimate, interval, ratio, resampled

    how = Bootstrap(seed=settings.seed, level=LEVEL)
    outputs = task.data.parts["test"]

    def routed(one: Solved) -> Routing:
        return one.fitted.route(outputs.of(one.fitted.sweep.routes.stages))[one.point]

    policies = {"plain": routed(plain)} | ({} if best is plain else {"tuned": routed(best)})
    found: dict[str, Any] = {name: asdict(interval(routing, how)) for name, routing in policies.items()}
    largest = task.routes.stages[_largest(task)]
    wrong = singly(outputs.of(task.routes.stages), task.plain.loss)[:, _largest(task)]
    found["largest"] = {"stage": largest, "error": float(wrong.mean())}
    if best is not plain:
        means = resampled([policies["tuned"], policies["plain"]], how)
        cost, error = means[:, 0, 0] - means[:, 1, 0], means[:, 0, 1] - means[:, 1, 1]
        found["difference"] = {
            "times_cheaper": asdict(estimate(ratio(means[:, 1, 0], means[:, 0, 0]), how)),
            "cost": asdict(estimate(cost, how)),
            "error": asdict(estimate(error, how)),
            "net_cost": asdict(estimate(cost + error / plain.price, how)),
        }
    return {"examples": len(outputs), "level": LEVEL, **found}


def _largest(task: Task) -> int:
    from cascades.deployment import largest

    return largest(task.routes)


def verdict(
    task: Task,
    trial: FrozenTrial | None,
    gain: tuple[float, float] | None,
    tested: dict[str, Any] | None,
    note: str,
) -> dict[str, str]:
    """A code and a sentence: whether the search gained anything."""
    unit = task.routes.unit
    if not task.settings.trials:
        return {"code": "no_search", "text": "No search: the plain frontier's policy for this target."}
    if trial is None:
        text = "The search gained nothing: no trial but the plain one kept to the target on the folds"
        if gain is not None and gain[0] <= 0:
            text = "The search gained nothing: on folds that no trial was chosen by, none was better"
        elif gain is not None:
            text = (
                "The search gained nothing that is sure: on folds that no trial was chosen by, the best trial saves "
                f"{gain[0]:.3g} {unit} at equal error, with a standard error of {gain[1]:.2g}"
            )
        return {"code": "plain_kept", "text": f"{text}; the plain frontier's policy is kept{note}."}
    if tested is None:
        return {"code": "untested", "text": "The best so far is kept; the test part has not been touched."}
    net, cost, error = (tested["difference"][name] for name in ("net_cost", "cost", "error"))
    base = tested["plain"]["cost"]["value"]
    share = f" ({100 * net['value'] / base:+.1f} % of its cost)" if base else ""
    text = (
        f"it costs {_spread(cost)} {unit} more and errs {_spread(error, 100)} points more; at equal error, "
        f"{_spread(net)} {unit} more{share}"
    )
    if net["high"] < 0:
        return {"code": "gained", "text": f"Tuning gained on the test part: against the plain policy {text}."}
    if net["low"] > 0:
        return {"code": "lost", "text": f"Tuning did harm on the test part: against the plain policy {text}."}
    return {
        "code": "not_shown",
        "text": f"Tuning gained nothing that the test part could show: against the plain policy {text}.",
    }


def _spread(estimate: Mapping[str, float], times: float = 1) -> str:
    value, low, high = (times * estimate[key] for key in ("value", "low", "high"))
    return f"{value:+.3g} [{low:+.3g}, {high:+.3g}]"


# --- files and words


def files_of(settings: Settings, task: Task, result: Result) -> dict[str, bytes]:
    """The content of every file."""
    from tempfile import TemporaryDirectory

    from cascades.deployment import write_deployment
    from eval.files import csv_bytes, json_bytes, png_bytes

    with TemporaryDirectory() as folder:
        path = Path(folder) / "policy.json"
        write_deployment(deployment_of(settings, task, result), path)
        policy = path.read_bytes()
    importance = importance_of(task, result.searched.trials)
    contents = {"policy.json": policy, "pareto.png": png_bytes(pareto_picture(task, result))}
    if settings.trials:
        contents["trials.csv"] = csv_bytes(trials_frame(task, result.searched.trials))
        contents["importance.png"] = png_bytes(importance_picture(importance, len(result.searched.trials)))
    contents["summary.json"] = json_bytes(summary_of(settings, task, result, importance))
    return contents


def deployment_of(settings: Settings, task: Task, result: Result) -> Any:
    """The policy file's content: the chosen policy, what it was chosen for and from."""
    from importlib.metadata import version

    from cascades.deployment import Deployment
    from cascades.points import digest_of
    from eval.run import networks_noted

    best = result.best
    tuned: dict[str, Any] = {}
    if result.trial is not None:
        from eval.study import default_of, label, labelled

        plain = labelled(default_of(task.space))
        tuned = {
            "trial": result.trial.number,
            "trials": settings.trials,
            "choices": {name: label(v) for name, v in result.trial.params.items() if v != plain.get(name)},
        }
    return Deployment(
        best.fitted,
        best.point,
        written_out(best.topology, task.data.costs),
        task.data.costs,
        task.target,
        best.expected,
        settings.data,
        settings.seed,
        task.kept,
        {part: digest_of(outputs) for part, outputs in task.data.parts.items()},
        task.learnt.classes,
        networks_noted(settings.data, task.data.costs),
        tuned,
        {name: version(name) for name in ("numpy", "scipy", "optuna")},
        attempts=attempts_in(settings.out / "policy.json"),
    )


def attempts_in(path: Path) -> tuple[Attempt, ...]:
    """What was tried to certify of the policy that stands there: a new one on the same examples does not undo that."""
    from cascades.deployment import read_deployment

    try:
        return read_deployment(path).attempts if path.exists() else ()
    except InputError:
        return ()


def trials_frame(task: Task, trials: Sequence[FrozenTrial]) -> Any:
    """One row a trial, those that died and those that nobody began too: when, how it ended, what it chose."""
    import pandas as pd

    from eval.study import BEAT, FAILURE, FOUND, SLOT

    names = ["trial", "slot", "state", "cost", "error", "p95", "violation", "seconds", "same_as", "failure"]
    folds = [f"fold_{fold + 1}" for fold in range(task.settings.folds)]
    rows = []
    for trial in trials:
        found = trial.user_attrs.get(FOUND, {})
        state = trial.state.name.lower()
        if state == "fail" and FAILURE not in trial.user_attrs:
            state = "died"
        row = {
            "trial": trial.number,
            "slot": trial.user_attrs.get(SLOT),
            "state": state,
            **{name: found.get(name) for name in names[3:9]},
            "failure": trial.user_attrs.get(FAILURE),
            **{name: trial.intermediate_values.get(fold) for fold, name in enumerate(folds)},
            **{name: trial.params.get(name) for name in task.space},
        }
        rows.append(row)
    assert BEAT not in names
    return pd.DataFrame(rows, columns=[*names, *folds, *task.space])


def importance_of(task: Task, trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """How much of the difference between completed trials each choice explains (fANOVA), largest first; empty where
    there are too few trials, or no difference."""
    import optuna

    from eval.study import FOUND, done

    complete = [t for t in done(trials, feasible=False) if set(task.space) <= set(t.params)]
    values = {t.user_attrs[FOUND][task.natural] for t in complete}
    if len(complete) < 4 or len(values) < 2:
        return {}
    study = optuna.create_study()
    for trial in complete:
        study.add_trial(
            optuna.create_trial(
                params=trial.params, distributions=trial.distributions, value=trial.user_attrs[FOUND][task.natural]
            )
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=task.settings.seed)
    try:
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (ValueError, RuntimeError):  # every choice but one never varied
        return {}
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def importance_picture(importance: Mapping[str, float], trials: int) -> Figure:
    """A bar a choice, the most important on top."""
    from matplotlib.figure import Figure

    from eval.picture import INCHES, LOOKS

    shown = list(importance.items())[:20][::-1]
    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        f"What explains the differences between completed trials (fANOVA, of {trials})",
        fontsize=10,
        loc="left",
    )
    axes.set_xlabel("share of the variance (%)")
    if shown:
        axes.barh([name for name, _ in shown], [100 * v for _, v in shown], color=LOOKS["policy"].colour)
        axes.grid(True, axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    else:
        axes.text(0.5, 0.5, "too few trials, or none that differ", ha="center", va="center", transform=axes.transAxes)
        axes.set_yticks([])
    for text in (axes.xaxis.label, *axes.get_yticklabels()):
        text.set_parse_math(False)
    return figure


def pareto_of(task: Task, trials: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
    """All points of all trials' held-out frontiers that none betters in every objective, the cheapest first."""
    import numpy as np

    from eval.study import FOUND, done

    wanted = [OBJECTIVES.index(name) for name in (task.objectives if len(task.objectives) > 1 else ("cost", "error"))]
    rows = [(t.number, *point) for t in done(trials, feasible=False) for point in t.user_attrs[FOUND]["curve"]]
    if not rows:
        return []
    table = np.array(rows, float)
    values = table[:, 1:][:, wanted]
    values, at = np.unique(values, axis=0, return_index=True)  # sorted: only earlier rows may better later ones
    kept: list[int] = []
    for i, value in enumerate(values):
        if not any((values[j] <= value).all() for j in kept):
            kept.append(i)
    found = table[at[kept]]
    return [{"trial": int(t), "cost": c, "error": e, "p95": p} for t, c, e, p in found.tolist()]


def pareto_picture(task: Task, result: Result) -> Figure:
    """Error against cost on the folds: every trial's point, the front of all, the plain frontier, the policy kept."""
    import numpy as np
    from matplotlib.figure import Figure

    from cascades.hull import lower_hull
    from eval.picture import INCHES, LOOKS, _scale
    from eval.study import FOUND, SLOT, done

    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.add_subplot()
    complete = done(result.searched.trials, feasible=False)
    points = [t.user_attrs[FOUND] for t in complete]
    first = [t.user_attrs[FOUND] for t in complete if t.user_attrs[SLOT] == 0]
    # on the trials' own folds, where there are trials: what was fitted on more examples stands lower
    if first:
        cost, error = np.array(first[0]["curve"]).T[:2]
        star = first[0] if result.trial is None else result.trial.user_attrs[FOUND]
    else:
        cost = np.array([routing.mean_cost for routing in result.plain.routings])
        error = np.array([routing.error for routing in result.plain.routings])
        star = {"cost": result.best.cost, "error": result.best.error}
    hull = lower_hull(cost, error)
    _scale(axes, cost)
    if points:
        axes.plot(
            [p["cost"] for p in points],
            [100 * p["error"] for p in points],
            ".",
            color="#999999",
            label="trials",
            zorder=2,
        )
    front = pareto_of(task, result.searched.trials)
    if front:
        look = LOOKS["joint"]
        across, up = [p["cost"] for p in front], [100 * p["error"] for p in front]
        axes.plot(across, up, look.line, color=look.colour, linewidth=look.width, label="best of all trials", zorder=3)
    look = LOOKS["policy"]
    axes.plot(cost[hull], 100 * error[hull], look.line, color=look.colour, label="plain frontier", zorder=4)
    axes.plot([star["cost"]], [100 * star["error"]], "*", color="#000000", markersize=11, label="policy kept", zorder=5)
    if task.target.budget is not None:
        axes.axvline(task.target.budget, color="#000000", linewidth=0.7, label="budget")
    bounds = [result.plain.expected.reference + b for b in (task.target.error_increase,) if b is not None]
    bounds += [1 - b for b in (task.target.accuracy,) if b is not None]
    for bound in bounds:
        axes.axhline(100 * bound, color="#000000", linewidth=0.7, label="error allowed")
    axes.set_xlabel(f"mean cost ({task.routes.unit})")
    axes.set_ylabel("error (%)")
    title = f"Held out, on {len(task.learnt):,} examples; the best of many looks better than it is"
    axes.set_title(title, fontsize=10, loc="left")
    axes.legend(frameon=False, fontsize=9)
    for text in (axes.xaxis.label, *axes.texts):
        text.set_parse_math(False)
    return figure


def summary_of(settings: Settings, task: Task, result: Result, importance: Mapping[str, float]) -> dict[str, Any]:
    """All of it as JSON."""
    from cascades.deployment import in_words
    from eval.study import FAILURE, accounts

    trials = result.searched.trials
    finished = accounts(trials, settings.trials).finished.values()
    states = [trial.state.name.lower() for trial in finished]
    failures = sorted({str(t.user_attrs[FAILURE]) for t in finished if FAILURE in t.user_attrs})

    def policy(one: Solved) -> dict[str, Any]:
        family, price = one.fitted.names[one.point]
        return {
            "topology": written_out(one.topology, task.data.costs),
            "point": one.point,
            "family": family,
            "price": price if math.isfinite(price) else None,
            "held_out": {"cost": one.cost, "error": one.error, "largest": one.expected.reference},
        }

    found: dict[str, Any] = _finite(
        {
            "target": in_words(task.target, task.routes.unit, task.plain.loss),
            "unit": task.routes.unit,
            "objectives": list(task.objectives),
            "examples": {"learnt": len(task.learnt), **{k: len(v) for k, v in task.data.parts.items()}},
            "study": {"where": result.searched.where, "sampler": settings.sampler, "seed": settings.seed},
            "trials": {
                "wanted": settings.trials,
                **{state: states.count(state) for state in ("complete", "pruned", "fail")},
                "died": sum(t.state.name == "FAIL" and FAILURE not in t.user_attrs for t in trials),
                "failures": failures[:10],
                "seconds": result.searched.seconds,
            },
            "kept": "plain" if result.trial is None else "tuned",
            "plain": policy(result.plain),
            "tuned": None
            if result.trial is None
            else policy(result.best) | {"trial": result.trial.number, "choices": dict(result.trial.params)},
            "fresh_folds": None if result.gain is None else {"gain": result.gain[0], "standard_error": result.gain[1]},
            "price": result.plain.price,
            "test": result.tested,
            "verdict": result.verdict,
            "stopped": result.searched.stopped,
            "importance": dict(importance),
            "pareto": pareto_of(task, trials),
        }
    )
    return found


def _finite(value: Any) -> Any:
    """The same without NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show(task: Task, result: Result, written: Sequence[Path]) -> None:
    """Prints the table, the verdict and where the files are."""
    from cascades.deployment import in_words

    say(f"Wanted: {in_words(task.target, task.routes.unit, task.plain.loss)}.")
    told = f"Expected: held out, of {len(task.learnt):,} examples to learn from"
    told += f"; test part: {result.tested['examples']:,}, with 95 % intervals" if result.tested else ""
    say(f"{told}.")
    say(table_of(task, result))
    if result.searched.trials:
        from eval.study import accounts

        finished = accounts(result.searched.trials, task.settings.trials).finished.values()
        states = [trial.state.name.lower() for trial in finished]
        names = {"complete": "complete", "pruned": "pruned", "fail": "failed"}
        counts = ", ".join(f"{states.count(state)} {name}" for state, name in names.items())
        say(f"{len(states)} of {task.settings.trials} trials: {counts}; {result.searched.seconds:.0f} s.")
    say(result.verdict["text"])
    for path in written:
        say(f"  {path}")


def say(what: str | Table) -> None:
    """Prints a table, or a sentence over as many lines as it needs; plain text in a pipe."""
    from rich.console import Console
    from rich.text import Text

    from eval.table import WIDTH

    if sys.stdout is None:  # closed before the program began
        return
    console = Console(file=sys.stdout, markup=False, emoji=False, highlight=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    with console.capture() as capture:
        console.print(Text(what) if isinstance(what, str) else what, soft_wrap=isinstance(what, str))
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(capture.get().encode(encoding, "replace").decode(encoding))


def table_of(task: Task, result: Result) -> Table:
    """Plain and tuned: what they cost and how often they err, held out and on the test part."""
    from eval.table import number, plain_table

    table = plain_table("")
    table.add_column("")
    policies = {"plain": result.plain} | ({} if result.trial is None else {"tuned": result.best})
    for name in policies:
        table.add_column(f"{name} policy", justify="right")
    unit = task.routes.unit
    table.add_row(f"cost expected, {unit}", *(number(one.cost) for one in policies.values()))
    table.add_row("error expected, %", *(f"{100 * one.error:.2f}" for one in policies.values()))
    if result.tested:
        tested = [result.tested[name] for name in policies]
        costs = [[number(one["cost"][key]) for key in ENDS] for one in tested]
        errors = [[f"{100 * one['error'][key]:.2f}" for key in ENDS] for one in tested]
        for what, cells in ((f"cost on the test part, {unit}", costs), ("error on the test part, %", errors)):
            table.add_row(what, *(f"{value} [{low}, {high}]" for value, low, high in cells))
    return table


if __name__ == "__main__":
    sys.exit(main())
