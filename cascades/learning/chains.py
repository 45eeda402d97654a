"""Chains of confidence cuts: how examples pass along one, and the cuts that are best together for each price."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from offramp.cascades.graph.routing import OperatingPoint, Routes, Routing
from offramp.cascades.learning.outcomes import Outcomes
from offramp.features.outputs import Floats, Ints

Path = tuple[int, ...]
Cuts = tuple[float, ...]

FINEST = 4096
"""Classes of confidence that each stage's examples are sorted into, once; one in 4096 moves no frontier visibly."""

RESOLUTION = {1: FINEST, 2: 256, 3: 64, 4: 30}
"""Classes per cut on a chain of so many cuts, so that a grid of all combinations stays below a million cells.
Chains of more cuts than are named here are tuned one cut at a time, on the finest classes."""

ALL_CHAINS = 6
"""Longer chains than three stages are all tried while there are no more of one length than this. Beyond it, only
those are tried that lengthen one of the ``BEAM`` chains that were best, one stage shorter, at the most prices."""

BEAM = 4

SWEEPS = 20
"""Passes over the cuts of a long chain before its descent is stopped; it settles after three to six."""

BETTER = 1e-12
"""A longer chain must be ahead by more than rounding to replace a shorter one that does the same."""

ROUNDING = 1e-12
"""Relative; a budget that is just some path's cost shall pay for that path."""


def full_chain(routes: Routes) -> Path:
    """The longest path there is; among equally long ones the first."""
    return max(routes.paths, key=len)


def chain_name(routes: Routes, path: Sequence[int]) -> str:
    """The path as users write it, "alexnet>resnet"."""
    return ">".join(routes.stages[stage] for stage in path)


def route_chain(examples: Outcomes, routes: Routes, path: Path, cuts: Cuts) -> Routing:
    """Send examples along one path; each stops at the first stage whose confidence is at least that stage's cut.

    ``cuts`` has one number for each stage of ``path`` but the last: -inf always stops, inf never does.
    """
    going = np.ones(len(examples), dtype=bool)
    passed = np.zeros(len(examples), dtype=np.min_scalar_type(len(path)))
    for stage, cut in zip(path[:-1], cuts, strict=True):
        going &= examples.confidence[:, stage] < cut
        passed += going
    return examples.follow(routes, ends_along(routes, path)[passed])


def ends_along(routes: Routes, path: Path) -> Ints:
    """Index in ``routes.paths`` of every beginning of ``path``, the shortest first."""
    places = [routes.index[path[: j + 1]] for j in range(len(path))]
    return np.array(places, dtype=np.min_scalar_type(len(routes.paths)))


def chain_points(
    router: str, examples: Outcomes, routes: Routes, plans: Sequence[tuple[Path, Cuts]], prices: Iterable[float]
) -> list[OperatingPoint]:
    """One operating point for each plan and its price; equal plans share one routing. The family is the chain."""
    made = {plan: route_chain(examples, routes, *plan) for plan in set(plans)}
    return [
        OperatingPoint(router, chain_name(routes, plan[0]), float(price), made[plan])
        for price, plan in zip(prices, plans, strict=True)
    ]


def joint_thresholds(
    fit: Outcomes, routes: Routes, prices: Floats, budgets: Floats | Sequence[float] = ()
) -> list[tuple[Path, Cuts]]:
    """For each price (p,) the path and the cuts on it that lose and spend least on ``fit`` together.

    Behind these, for each budget (b,) those that lose least among the ones that spend no more on average: no price
    leads to where the frontier bends inward. Budgets no smaller than the cheapest entry.

    Every path is a chain that may win, one stage alone included. Up to five stages, all combinations of
    ``RESOLUTION`` quantiles are compared, at their exact loss and cost; where a stage's confidence takes no
    more values than that, no cut at all does better. Longer chains descend one cut at a time, for prices only.
    """
    graded = [_grade(column, FINEST) for column in fit.confidence.T]
    wanted = _Wanted(np.asarray(prices, dtype=float), np.asarray(budgets, dtype=float))
    least = np.full(len(wanted), np.inf)
    plans: list[tuple[Path, Cuts]] = [(routes.paths[0], ())] * len(wanted)
    beam: list[_Tuned] = []
    for chains in _by_length(routes):
        if len(chains) > ALL_CHAINS and len(chains[0]) > 3:
            chains = [path for path in chains if any(_shortens(tuned.path, path) for tuned in beam)]
        results = [_tune(fit, graded, routes, path, wanted, beam) for path in chains]
        beam = _winners(results)
        for tuned in results:
            for i in np.flatnonzero(tuned.objective < least - BETTER):
                least[i], plans[i] = tuned.objective[i], (tuned.path, tuned.cuts[i])
    return plans


def held_out_chains(fit: Outcomes, routes: Routes, prices: Floats, folds: Ints) -> list[Routing]:
    """For each price the routing of ``fit`` in which every fold follows the thresholds tuned on the other folds."""
    parts = []
    for fold in np.unique(folds):
        rows = np.flatnonzero(folds == fold)
        plans = joint_thresholds(fit.take(np.flatnonzero(folds != fold)), routes, prices)
        here = fit.take(rows)
        parts.append((rows, [route_chain(here, routes, *plan) for plan in plans]))
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    return [
        Routing(
            routes,
            np.concatenate([routings[i].path for _, routings in parts])[order],
            np.concatenate([routings[i].answer for _, routings in parts])[order],
            np.concatenate([routings[i].wrong for _, routings in parts])[order],
            fit.part,
        )
        for i in range(len(prices))
    ]


@dataclass(frozen=True)
class _Wanted:
    """Prices (p,) for which loss + price * cost is to be least, and budgets (b,) within which loss is."""

    prices: Floats
    budgets: Floats

    def __len__(self) -> int:
        return len(self.prices) + len(self.budgets)


@dataclass(frozen=True)
class _Tuned:
    """One chain's best cuts for each price and budget, and what they reach; infinite where a budget is too small."""

    path: Path
    objective: Floats
    cuts: list[Cuts]


@dataclass(frozen=True)
class _Grades:
    """One stage's confidences sorted into classes: class b holds those from ``edges[b - 1]`` to below ``edges[b]``.

    Class numbers (n,) in ``grade``. A cut is written as a number t of classes that go on: those of grade t or
    more stop. So t = 0 always stops, and t = len(edges) + 1 never.
    """

    edges: Floats
    grade: Ints

    @property
    def classes(self) -> int:
        return len(self.edges) + 1

    def cut(self, t: int) -> float:
        """The confidence from which on examples stop."""
        return -np.inf if t == 0 else np.inf if t == self.classes else float(self.edges[t - 1])

    def place(self, cut: float) -> int:
        """The t of a cut that stands among the edges."""
        return 0 if cut == -np.inf else int(np.searchsorted(self.edges, cut)) + 1

    def coarser(self, classes: int) -> _Grades:
        """The same confidences in fewer classes of about equal size."""
        kept = _even(np.bincount(self.grade, minlength=self.classes), classes)
        into = np.searchsorted(kept, np.arange(self.classes), side="right").astype(self.grade.dtype)
        return _Grades(self.edges[kept - 1], into[self.grade])


def _grade(confidence: Floats, classes: int) -> _Grades:
    values, counts = np.unique(confidence, return_counts=True)
    edges = values[_even(counts, classes)]
    return _Grades(edges, np.searchsorted(edges, confidence, side="right").astype(np.uint16))


def _even(counts: Ints, classes: int) -> Ints:
    """Where to begin a new class, so that at most ``classes`` of about equal size remain."""
    if len(counts) <= classes:
        return np.arange(1, len(counts))
    before = np.cumsum(counts)[:-1]
    wanted = counts.sum() * np.arange(1, classes) / classes
    return np.asarray(np.unique(1 + np.searchsorted(before, wanted).clip(max=len(before) - 1)))


def _by_length(routes: Routes) -> Iterator[list[Path]]:
    for length in range(1, 1 + max(map(len, routes.paths))):
        yield [path for path in routes.paths if len(path) == length]


def _shortens(short: Path, path: Path) -> bool:
    return short in combinations(path, len(path) - 1)


def _winners(results: Sequence[_Tuned]) -> list[_Tuned]:
    """The ``BEAM`` chains that are best of their length at the most prices."""
    best = np.argmin([tuned.objective for tuned in results], axis=0) if results else np.array([], int)
    wins = np.bincount(best, minlength=len(results))
    return [results[i] for i in np.argsort(-wins, kind="stable")[:BEAM] if wins[i]]


def _tune(
    fit: Outcomes, graded: Sequence[_Grades], routes: Routes, path: Path, wanted: _Wanted, beam: Sequence[_Tuned]
) -> _Tuned:
    spent = [routes.cost[routes.index[path[: j + 1]]] for j in range(len(path))]
    steps = np.diff(spent, prepend=0.0)
    wrong = [fit.wrong[:, stage] for stage in path]
    cuts = len(path) - 1
    if cuts in RESOLUTION or cuts == 0:
        grades = [graded[stage].coarser(RESOLUTION[cuts]) for stage in path[:-1]]
        placed, objective = _grid(grades, wrong, steps, wanted)
    else:
        grades = [graded[stage] for stage in path[:-1]]
        shorter = [tuned for tuned in beam if _shortens(tuned.path, path)]
        starts = []
        for i in range(len(wanted.prices) if shorter else 0):
            cuts_there = _lengthened(min(shorter, key=lambda tuned: tuned.objective[i]), i, path)
            starts.append([g.place(cut) for g, cut in zip(grades, cuts_there, strict=True)])
        placed, objective = _descend(grades, wrong, steps, wanted, starts)
    return _Tuned(path, objective, [tuple(g.cut(t) for g, t in zip(grades, places, strict=True)) for places in placed])


def _grid(
    grades: Sequence[_Grades], wrong: Sequence[Floats], steps: Floats, wanted: _Wanted
) -> tuple[list[list[int]], Floats]:
    """The best of all combinations of cuts for each price and budget.

    One table of loss and one of cost over all combinations (t0, t1, …), from histograms summed along every axis:
    the examples that pass the first j cuts are those with grade below t in each, a corner of the histogram.
    """
    cuts, n = len(grades), len(wrong[0])
    shape = tuple(g.classes for g in grades)
    loss = np.zeros(tuple(classes + 1 for classes in shape))
    cost = np.full(loss.shape, steps[0])
    cell = np.zeros(n, dtype=np.intp)
    for j, g in enumerate(grades):
        cell = cell * g.classes + g.grade
        spread = (slice(None),) * (j + 1) + (None,) * (cuts - j - 1)
        passed = _corners(cell, wrong[j], shape[: j + 1])
        loss += (passed[..., -1:] - passed)[spread]
        cost += steps[j + 1] / n * _corners(cell, None, shape[: j + 1])[spread]
    loss += _corners(cell, wrong[-1], shape)
    loss /= n
    return _choose(loss, cost, wanted)


def _choose(loss: Floats, cost: Floats, wanted: _Wanted) -> tuple[list[list[int]], Floats]:
    """The cell that each price and each budget wants, and its objective; of equal cells the cheapest."""
    order = np.argsort(cost, axis=None, kind="stable")
    least = np.minimum.accumulate(loss.ravel()[order])
    # Whatever is wanted, it stands on the front: nothing as cheap loses as little.
    front = order[np.concatenate([[True], least[1:] < least[:-1]])]
    loss_there, cost_there = loss.ravel()[front], cost.ravel()[front]
    for_price = np.array([np.argmin(loss_there + price * cost_there) for price in wanted.prices], dtype=int)
    for_budget = np.searchsorted(cost_there, wanted.budgets * (1 + ROUNDING), side="right") - 1
    objective = np.concatenate(
        [
            loss_there[for_price] + wanted.prices * cost_there[for_price],
            np.where(for_budget < 0, np.inf, loss_there[for_budget]),
        ]
    )
    # The axis in front is dropped again; it lets a table without axes, of a chain without cuts, through.
    cells = np.unravel_index(front[np.concatenate([for_price, for_budget])], (1, *loss.shape))
    return np.array(cells[1:], dtype=int).reshape(loss.ndim, len(wanted)).T.tolist(), objective


def _corners(cell: Ints, weight: Floats | None, shape: tuple[int, ...]) -> Floats:
    """Total weight of the examples below t along every axis, for all t from nothing to everything."""
    table = np.zeros(tuple(classes + 1 for classes in shape))
    inner = np.bincount(cell, weight, minlength=int(np.prod(shape))).reshape(shape)
    table[(slice(1, None),) * len(shape)] = inner
    for axis in range(len(shape)):
        np.cumsum(table, axis=axis, out=table)
    return table


def _lengthened(tuned: _Tuned, price: int, path: Path) -> Cuts:
    """A shorter chain's cuts on a longer one: a stage put in never stops, and one put behind is never reached."""
    known = dict(zip(tuned.path, (*tuned.cuts[price], -np.inf), strict=True))
    return tuple(known.get(stage, np.inf) for stage in path[:-1])


def _descend(
    grades: Sequence[_Grades],
    wrong: Sequence[Floats],
    steps: Floats,
    wanted: _Wanted,
    starts: Sequence[list[int]],
) -> tuple[list[list[int]], Floats]:
    """Cuts found one at a time, each exactly best for the others, from several starts.

    The starts are the best shorter chain's cuts (p,), the previous price's result, and at first the middle of each.
    """
    found: list[list[int]] = []
    objective = np.full(len(wanted), np.inf)
    for i, price in enumerate(wanted.prices):
        tries = [*starts[i : i + 1], found[-1] if found else [g.classes // 2 for g in grades]]
        reached = [_settle(grades, wrong, price * steps, list(start)) for start in tries]
        objective[i], places = min(reached)
        found.append(places)
    found += [[0] * len(grades)] * len(wanted.budgets)
    return found, objective


def _settle(
    grades: Sequence[_Grades], wrong: Sequence[Floats], paid: Floats, places: list[int]
) -> tuple[float, list[int]]:
    """Move one cut after the other, last first, until none can be bettered; the mean of loss + price * cost."""
    least = np.inf
    for _ in range(SWEEPS):
        arriving = [np.ones(len(wrong[0]), dtype=bool)]
        for g, t in zip(grades[:-1], places, strict=False):
            arriving.append(arriving[-1] & (g.grade < t))
        onward = wrong[-1].astype(float)
        for j in reversed(range(len(grades))):
            go = paid[j + 1] + onward
            here = arriving[j]
            gain = np.bincount(grades[j].grade[here], (go - wrong[j])[here], minlength=grades[j].classes)
            places[j] = int(np.argmin(np.concatenate([[0.0], np.cumsum(gain)])))
            onward = np.where(grades[j].grade < places[j], go, wrong[j])
        total = float(paid[0] + onward.mean())
        if total >= least - BETTER:
            break
        least = total
    return min(least, total), places
