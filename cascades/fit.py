"""Outputs, routes and policies turned into a cascade for every price: bottom-up, cross-fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from threadpoolctl import threadpool_limits

from cascades.answers import ANSWERS, LOSSES
from cascades.cascade import Routed, Sweep, UnionRules, follow
from cascades.routing import Routes
from features.evidence import EvidenceSettings, Path, Reading, View, fit_reader, surely_positive
from features.outputs import Floats, Ints, Outputs
from policies import POLICIES
from policies.policy import Decision, Policy, cross_fit

FOLDS = 5
"""Folds of the cross-fitting; two are clearly worse on 10,000 examples, ten are no better."""

FIT_ROWS = 50_000
"""Examples fitted on at most, drawn at random: rules of some sixty numbers gain nothing from more."""

SOFTNESS = 0.5
"""Share of the expected loss, under the belief of all stages, in the loss that rules are fitted on; the rest is the
0-1 loss itself. Expected losses have less noise but inherit what the belief gets wrong."""

SCOUTING_PRICES = 100
"""Prices tried with the value policy alone, to place the prices of the sweep evenly in cost."""

LEAST_WEIGHT = 1e-4
"""Loss that the dearest path costs at the lowest price: less than any test part can resolve."""

LONGEST_STEP = 0.05
"""Share of the prices that may go to the interval between two neighbouring scouting prices."""

SMOOTH = 3
"""Prices on either side over which held-out regrets are averaged before a family is picked."""


@dataclass(frozen=True)
class FitSettings:
    """How a sweep is fitted: names of policies, answer mode, loss, evidence and the seed of folds and draws."""

    policies: tuple[str, ...]
    answer: str = "fused"
    loss: str = "top1"
    evidence: EvidenceSettings = field(default_factory=EvidenceSettings)
    seed: int = 0
    softness: float = SOFTNESS
    folds: int = FOLDS


@dataclass(frozen=True)
class HeldOut:
    """How the sweep does on the examples that it was fitted on, every rule kept from the examples it is judged on.

    ``rows`` (n,) of the fit part, and where they were routed; ``families`` per path the (f, q) mean held-out cost
    of going on from there by every family.
    """

    routed: Routed
    rows: Ints
    families: Mapping[Path, Floats]


@dataclass(frozen=True)
class Ground:
    """What every price's fit stands on: views, and for every path the answers and losses of all examples.

    ``wrong`` (n, p) the loss; ``blend`` (n, p) the loss that rules are fitted on; ``answer`` (n, p).
    """

    views: Mapping[Path, View]
    modes: Mapping[Path, str]
    answer: Ints
    wrong: Floats
    blend: Floats


def fit_sweep(
    outputs: Outputs,
    routes: Routes,
    points: int,
    settings: FitSettings,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Sweep, HeldOut]:
    """Fit a cascade for each of ``points`` prices on ``outputs``, whose stages are those of ``routes``, in order.

    Follows Bolukbasi et al. (2017): last decision first, each a choice between stopping and every jump, costed by
    what the fitted downstream really loses and spends on examples that it was not fitted on; the entry last. Behind
    the prices (price NaN) stand the cascades of one stage, one an entry.
    """
    rng = np.random.default_rng(settings.seed)
    rows = rng.permutation(len(outputs))[:FIT_ROWS]  # in random order: parts of the fit use the first so many
    sample = outputs.take(rows)
    folds = rng.permutation(np.arange(len(sample)) % settings.folds)
    with threadpool_limits(1, "blas"):  # the products are small: threads within them cost ten times what they gain
        progress("reading the outputs")
        reader, reading = fit_reader(sample, routes.paths, folds, settings.evidence)
        ground = _lay_ground(sample, reading, routes, settings)
        progress("placing the prices")
        scouts = price_range(routes)
        scouting = _Fit(ground, routes, folds, scouts, {"value": POLICIES["value"]}, settings.seed)
        scouting.run(lambda _: None)
        prices = place_prices(scouts, routes.cost[scouting.final()].mean(axis=0), points)
        families = {name: POLICIES[name] for name in settings.policies}
        fit = _Fit(ground, routes, folds, prices, families, settings.seed)
        fit.run(progress)
    # One stage and nothing else is a cascade too, and between two prices it may be the better one.
    alone = np.array(routes.entries)
    sweep = Sweep(
        routes,
        reader,
        settings.loss,
        ground.modes,
        np.append(prices, np.full(len(alone), np.nan)),
        {path: rules.with_stops(len(alone)) for path, rules in fit.rules.items()},
        np.append(fit.entry(), alone),
    )
    path = np.column_stack([fit.final(), np.broadcast_to(alone, (len(sample), len(alone)))])
    return sweep, HeldOut(Routed(routes, path, ground.answer, ground.wrong, outputs.part), rows, fit.regrets)


def _lay_ground(outputs: Outputs, reading: Reading, routes: Routes, settings: FitSettings) -> Ground:
    loss = LOSSES[settings.loss]
    full = reading.ranked[:, -1, : loss.ranks]
    views = {path: reading.view(path) for path in routes.paths}
    everything = views[max(routes.paths, key=len)]
    n, q = len(outputs), len(routes.paths)
    answer, wrong, blend = np.empty((n, q), np.int32), np.empty((n, q), bool), np.empty((n, q), np.float32)
    modes: dict[Path, str] = {}
    for i, path in enumerate(routes.paths):
        options = {
            mode: ANSWERS[mode](reading, views[path], path, loss.ranks)
            for mode in (("fused", "any", "last") if settings.answer == "fused" else (settings.answer,))
        }
        losses = {mode: loss.of(ranked, outputs.labels, full) for mode, ranked in options.items()}
        modes[path] = _mode(losses)
        ranked = options[modes[path]]
        answer[:, i], wrong[:, i] = ranked[:, 0], losses[modes[path]]
        expected = recalibrated(loss.expected(ranked, everything, full), wrong[:, i])
        blend[:, i] = settings.softness * expected + (1 - settings.softness) * wrong[:, i]
    return Ground(views, modes, answer, wrong, blend)


def _mode(losses: Mapping[str, Floats]) -> str:
    """The way to answer of least loss; the plain one, unless another is better by more than chance."""
    if "last" not in losses:
        return next(iter(losses))
    gains = {mode: losses["last"] - loss for mode, loss in losses.items()}
    sure = [mode for mode, gain in gains.items() if surely_positive(gain)]
    return max(sure, key=lambda mode: float(gains[mode].mean()), default="last")


def recalibrated(expected: Floats, wrong: Floats) -> Floats:
    """Expected losses (n,), moved along a line so that they fit the losses (n,) that came: without it, a belief that
    is too sure or too modest of one path's answers would draw examples to it or away.

    >>> recalibrated(np.array([0.2, 0.2, 0.4, 0.4]), np.array([0, 0, 0, 1])).round(3).tolist()
    [0.0, 0.0, 0.5, 0.5]
    """
    centred = expected - expected.mean(dtype=np.float64)
    spread = float(centred @ centred)
    slope = float(centred @ wrong) / spread if spread > 0 else 0.0
    return np.asarray(wrong.mean() + slope * centred)


def price_range(routes: Routes) -> Floats:
    """Prices (``SCOUTING_PRICES``,) from where cost hardly matters to where no second stage is worth calling."""
    steps = np.array([spent[path[-1]] for spent, path in zip(routes.spent, routes.paths, strict=True)])
    first = min(routes.entries, key=lambda q: float(routes.cost[q]))
    dear = np.delete(steps, first)
    dear = dear[dear > 0] if (dear > 0).any() else steps[steps > 0]
    if not len(dear):  # all is free, at any price
        return np.geomspace(LEAST_WEIGHT, 1.0, SCOUTING_PRICES)
    return np.geomspace(LEAST_WEIGHT / routes.cost.max(), 1.0 / dear.min(), SCOUTING_PRICES)


def place_prices(scouts: Floats, cost: Floats, points: int) -> Floats:
    """``points`` prices at which the mean cost, seen at the prices ``scouts``, falls in even steps.

    Steps are measured half in the cost and half in its logarithm, so that neither end of the frontier is left bare.

    >>> place_prices(np.array([1.0, 10.0, 100.0, 1000.0]), np.array([4.0, 4.0, 2.0, 2.0]), 3).round(1).tolist()
    [10.0, 31.6, 100.0]
    """
    falling = np.minimum.accumulate(cost)
    if not falling[0] > falling[-1]:
        return np.geomspace(scouts[0], scouts[-1], points)
    step = -np.diff(falling) / (falling[0] - falling[-1])
    if falling[-1] > 0:
        step = (step + np.diff(-np.log(falling)) / np.log(falling[0] / falling[-1])) / 2
    # where one price divides two far apart costs, more prices find nothing in between
    way = np.concatenate([[0], np.cumsum(np.minimum(step, LONGEST_STEP))])
    moving = np.flatnonzero(np.diff(way) > 0)
    ends = slice(moving[0], moving[-1] + 2)
    rising = way[ends] + np.linspace(0, 1e-9, len(way[ends]))
    return np.asarray(np.exp(np.interp(np.linspace(way[0], way[-1], points), rising, np.log(scouts[ends]))))


class _Fit:
    """One bottom-up pass over all paths at all prices; ``stop[q]`` (n, prices): where examples at path q end."""

    def __init__(
        self, ground: Ground, routes: Routes, folds: Ints, prices: Floats, families: Mapping[str, Policy], seed: int
    ) -> None:
        self.ground, self.routes, self.folds, self.prices, self.seed = ground, routes, folds, prices, seed
        self.families = families
        self.stop: dict[int, Ints] = {}
        self.rules: dict[Path, UnionRules] = {}
        self.regrets: dict[Path, Floats] = {}

    def run(self, progress: Callable[[str], None]) -> None:
        """Fit every path, last decision first."""
        paths = self.routes.paths
        for q in sorted(range(len(paths)), key=lambda q: -len(paths[q])):
            self.stop[q] = np.full((len(self.ground.wrong), len(self.prices)), q, np.int16)
            children = self.routes.children[q]
            if children:
                progress("fitting " + " > ".join(self.routes.stages[s] for s in paths[q]))
                follow(self.stop, q, children, self._decide(q))

    def _decide(self, q: int) -> Ints:
        """Fit all families at path ``q``, pick one a price, and return its held-out actions (n, prices)."""
        decision = self._decision(q)
        rules, actions = [], []
        for policy in self.families.values():
            fitted, held_out = cross_fit(policy, decision, self.folds)
            rules.append(fitted)
            actions.append(held_out)
        paid = np.stack([_mean_cost(decision.costs, taken) for taken in actions])
        pick = pick_family(paid)
        path = self.routes.paths[q]
        self.rules[path] = UnionRules(tuple(self.families), tuple(rules), pick)
        self.regrets[path] = paid
        out = actions[0].copy()
        for member in np.unique(pick):
            np.copyto(out, actions[member], where=pick == member)
        return out

    def _decision(self, q: int) -> Decision:
        """What each action at path ``q`` costs: the loss blend here, or there plus the price of what is spent."""
        ground, children = self.ground, self.routes.children[q]
        costs = np.empty((len(ground.wrong), 1 + len(children), len(self.prices)), np.float32)
        costs[:, 0] = ground.blend[:, [q]]
        for way, child in enumerate(children, start=1):
            extra = (self.routes.cost - self.routes.cost[q])[self.stop[child]] * self.prices
            costs[:, way] = np.take_along_axis(ground.blend, self.stop[child], axis=1) + extra
        later = [
            d
            for d, path in enumerate(self.routes.paths)
            if len(path) > len(self.routes.paths[q]) and path[: len(self.routes.paths[q])] == self.routes.paths[q]
        ]
        view = ground.views[self.routes.paths[q]]
        return Decision(view.columns, view.x, costs, ground.blend[:, later] - ground.blend[:, [q]], self.seed)

    def entry(self) -> Ints:
        """For each price the path of one stage that is cheapest to enter by."""
        entries = self.routes.entries
        total = np.stack([self._objective(self.stop[q]) for q in entries])
        return np.asarray(np.array(entries)[total.argmin(axis=0)])

    def _objective(self, stop: Ints) -> Floats:
        loss = np.take_along_axis(self.ground.wrong, stop, axis=1).mean(axis=0, dtype=np.float64)
        return np.asarray(loss + self.prices * self.routes.cost[stop].mean(axis=0))

    def final(self) -> Ints:
        """Where every example stops, held out, at each price (n, prices)."""
        return np.stack([self.stop[int(q)][:, i] for i, q in enumerate(self.entry())], axis=1)


def pick_family(paid: Floats) -> Ints:
    """For each price the family (row of ``paid`` (f, q)) of least held-out cost; neighbouring prices vote too.

    >>> pick_family(np.array([[1.0, 1.0, 1.0], [0.9, 1.05, 0.9]])).tolist()
    [1, 1, 1]
    """
    regret = paid / np.maximum(paid.min(axis=0), np.finfo(float).tiny) - 1
    padded = np.pad(regret, ((0, 0), (SMOOTH, SMOOTH)), mode="edge")
    window = np.lib.stride_tricks.sliding_window_view(padded, 2 * SMOOTH + 1, axis=1)
    return np.asarray(window.mean(axis=2).argmin(axis=0))


def _mean_cost(costs: Floats, actions: Ints) -> Floats:
    """Mean cost (q,) of the actions (n, q) taken."""
    chosen = np.take_along_axis(costs, actions[:, None].astype(np.intp), axis=1)
    return np.asarray(chosen.mean(axis=(0, 1), dtype=np.float64))
