"""Outputs, routes and policies turned into a cascade for every price: bottom-up, cross-fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from offramp.cascades.graph.routing import Routes
from offramp.cascades.learning.answers import ANSWERS, LOSSES
from offramp.cascades.learning.cascade import Routed, Sweep, UnionRules, follow
from offramp.features.evidence import EvidenceSettings, Path, Reader, Reading, Reads, View, read_none
from offramp.features.fitting import fit_reader, surely_positive
from offramp.features.outputs import Floats, Ints, Outputs
from offramp.policies import POLICIES
from offramp.policies.policy import Decision, Policy, cross_fit

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


MULTIPLIERS = (1.0, 0.5, 0.71, 1.41, 2.0)
"""By which a tuner may multiply a stage's cost: beyond two either way, a stage is called always or never."""

DEPTHS = 2
"""Depths of paths that have families of their own in a search, the last standing for all that are deeper."""

ReadsAs = Callable[[Outputs, tuple[Path, ...], Ints, EvidenceSettings], tuple[Reader, Reading]]


@dataclass(frozen=True)
class FitSettings:
    """How a sweep is fitted: names of policies, answer mode, loss, evidence and the seed of folds and draws.

    ``by_depth``: other policies behind one stage, behind two, and so on, the last for all that are deeper (empty:
    ``policies`` everywhere). ``options``: per policy settings of its own, in place of its defaults. ``multipliers``:
    per stage a number by which its cost is multiplied while rules are fitted; they are judged by the true cost.
    """

    policies: tuple[str, ...]
    answer: str = "fused"
    loss: str = "top1"
    evidence: EvidenceSettings = field(default_factory=EvidenceSettings)
    seed: int = 0
    softness: float = SOFTNESS
    folds: int = FOLDS
    by_depth: tuple[tuple[str, ...], ...] = ()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    multipliers: Mapping[str, float] = field(default_factory=dict)

    def families(self, depth: int) -> dict[str, Policy]:
        """The policies that may decide behind ``depth`` stages (from 1), each with its own settings."""
        names = self.by_depth[min(depth, len(self.by_depth)) - 1] if self.by_depth else self.policies
        return {name: _with_options(POLICIES[name], self.options.get(name, {})) for name in names}

    def search_space(self, outputs: Outputs, routes: Routes) -> dict[str, tuple[Any, ...]]:
        """What may be chosen in place of these settings: name -> values, the first of which is what stands here.

        What would change nothing is left out: evidence that ``outputs`` don't have, policies where there is only one,
        depths at which nothing is decided.
        """
        space: dict[str, tuple[Any, ...]] = {"answer": tuple(ANSWERS), "softness": (0.0, 0.25, 0.5, 0.75, 1.0)}
        own: dict[str, Any] = {"answer": self.answer, "softness": self.softness}
        for name, values in EvidenceSettings.search_space(outputs, LOSSES[self.loss].ranks).items():
            space[f"evidence.{name}"], own[f"evidence.{name}"] = values, getattr(self.evidence, name)
        if len(routes.stages) > 1:
            for stage in routes.stages:
                space[f"multiplier.{stage}"], own[f"multiplier.{stage}"] = MULTIPLIERS, self.multipliers.get(stage, 1.0)
        # The constant rule stays where it is named: it costs nothing, and takes a stage away where that is best.
        choosable = [name for name in self.policies if name != "constant"]
        for depth in range(1, min(DEPTHS, max(map(len, routes.paths)) - 1) + 1):
            for name in choosable if len(choosable) > 1 else ():
                space[f"family.{depth}.{name}"] = (True, False)
                own[f"family.{depth}.{name}"] = name in self.families(depth)
        for name in self.policies if len(routes.stages) > 1 else ():
            policy = self.families(1).get(name, POLICIES[name])
            for key, values in POLICIES[name].search_space().items():
                space[f"{name}.{key}"], own[f"{name}.{key}"] = values, getattr(policy, key)
        return {name: (own[name], *(v for v in values if v != own[name])) for name, values in space.items()}

    def chosen(self, choices: Mapping[str, Any]) -> FitSettings:
        """These settings with some of their search space's values; two choices that fit alike give equal settings."""
        found = self
        evidence = {key.removeprefix("evidence."): v for key, v in choices.items() if key.startswith("evidence.")}
        plain = {key: v for key, v in choices.items() if key in ("answer", "softness")}
        found = replace(found, evidence=replace(found.evidence, **evidence), **plain)
        factors = dict(found.multipliers)
        options = {name: dict(settings) for name, settings in found.options.items()}
        for key, value in choices.items():
            head, _, rest = key.partition(".")
            if head == "multiplier":
                factors[rest] = value
            elif head in POLICIES:
                options.setdefault(head, {})[rest] = value
        deepest = max((int(key.split(".")[1]) for key in choices if key.startswith("family.")), default=0)
        by_depth = tuple(
            tuple(
                name
                for name in self.policies
                if name == "constant" or choices.get(f"family.{depth}.{name}", name in self.families(depth))
            )
            or ("constant",)
            for depth in range(1, max(deepest, len(self.by_depth)) + 1)
        )
        used = tuple(name for name in self.policies if not by_depth or any(name in names for names in by_depth))
        if all(names == self.policies for names in by_depth):
            by_depth = ()
        options = {
            name: {key: v for key, v in options[name].items() if v != getattr(POLICIES[name], key)}
            for name in used
            if name in options
        }
        return replace(
            found,
            policies=used or ("constant",),
            by_depth=by_depth,
            options={name: settings for name, settings in options.items() if settings},
            multipliers={stage: factor for stage, factor in factors.items() if factor != 1},
        )


def _with_options(policy: Policy, options: Mapping[str, Any]) -> Policy:
    return replace(policy, **options) if options else policy  # type: ignore[type-var]


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
    *,
    prices: Floats | None = None,
    read: ReadsAs = fit_reader,
) -> tuple[Sweep, HeldOut]:
    """Fit a cascade for each of ``points`` prices on ``outputs``, whose stages are those of ``routes``, in order.

    Follows Bolukbasi et al. (2017): last decision first, each a choice between stopping and every jump, costed by
    what the fitted downstream really loses and spends on examples that it was not fitted on; the entry last. Behind
    the prices (price NaN) stand the cascades of one stage, one an entry. ``prices``, where given, are those of the
    sweep, and none are placed; ``read`` stands in for ``fit_reader`` where somebody knows what it would find.
    """
    rng = np.random.default_rng(settings.seed)
    rows = rng.permutation(len(outputs))[:FIT_ROWS]  # in random order: parts of the fit use the first so many
    sample = outputs.take(rows)
    folds = rng.permutation(np.arange(len(sample)) % settings.folds)
    with threadpool_limits(1, "blas"):  # the products are small: threads within them cost ten times what they gain
        progress("reading the outputs")
        reader, reading = read(sample, routes.paths, folds, settings.evidence)
        ground = _lay_ground(sample, reading, routes, settings, () if prices is not None else (POLICIES["value"],))
        paid = multiplied(routes, settings.multipliers)
        if prices is None:
            progress("placing the prices")
            scouts = price_range(paid)
            scouting = _Fit(ground, paid, folds, scouts, lambda _: {"value": POLICIES["value"]}, settings.seed)
            scouting.run(lambda _: None)
            prices = place_prices(scouts, routes.cost[scouting.final()].mean(axis=0), points)
        fit = _Fit(ground, paid, folds, prices, settings.families, settings.seed)
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


def multiplied(routes: Routes, multipliers: Mapping[str, float]) -> Routes:
    """The same routes, where some stages cost so many times as much; stages that are not there don't matter.

    >>> routes = Routes(("a", "b"), ((0,), (0, 1)), np.array([[1.0, 0.0], [1.0, 4.0]]), "ms")
    >>> multiplied(routes, {"b": 0.5}).cost.tolist()
    [1.0, 3.0]
    """
    if not any(stage in multipliers for stage in routes.stages):
        return routes
    factors = np.array([multipliers.get(stage, 1.0) for stage in routes.stages])
    return replace(routes, spent=routes.spent * factors)


def _reads(policies: Sequence[Policy]) -> Reads | None:
    """The columns that any of the policies may look at."""
    asked: list[Reads] = [policy.reads for policy in policies if hasattr(policy, "reads")]
    if len(asked) < len(policies):
        return None
    return lambda columns, added: np.unique(np.concatenate([reads(columns, added) for reads in asked]))


def _lay_ground(
    outputs: Outputs, reading: Reading, routes: Routes, settings: FitSettings, scouting: tuple[Policy, ...]
) -> Ground:
    loss = LOSSES[settings.loss]
    full = reading.ranked[:, -1, : loss.ranks]
    views = {
        path: reading.view(path, _reads([*settings.families(len(path)).values(), *scouting]) if children else read_none)
        for path, children in zip(routes.paths, routes.children, strict=True)
    }
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

    >>> (recalibrated(np.array([0.2, 0.2, 0.4, 0.4]), np.array([0, 0, 0, 1])).round(3) + 0.0).tolist()
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
        self,
        ground: Ground,
        routes: Routes,
        folds: Ints,
        prices: Floats,
        families: Callable[[int], Mapping[str, Policy]],
        seed: int,
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
        families = self.families(len(self.routes.paths[q]))
        rules, actions = [], []
        for policy in families.values():
            fitted, held_out = cross_fit(policy, decision, self.folds)
            rules.append(fitted)
            actions.append(held_out)
        paid = np.stack([_mean_cost(decision.costs, taken) for taken in actions])
        pick = pick_family(paid)
        path = self.routes.paths[q]
        self.rules[path] = UnionRules(tuple(families), tuple(rules), pick)
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
        return Decision(
            view.columns, view.x, costs, ground.blend[:, later] - ground.blend[:, [q]], self.seed, view.added
        )

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
