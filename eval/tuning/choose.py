"""A study's trials turned into the policy that is kept, measured once on the test part, and a verdict on the search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp.eval.report.intervals import Bootstrap, estimate, interval, ratio, resampled
from offramp.eval.tuning.evaluation import FoldEvaluation
from offramp.eval.tuning.problem import Problem
from offramp.eval.tuning.search import Searched, ranking
from offramp.eval.tuning.solve import Solved, losses_alone, solved
from offramp.eval.tuning.study import FAILURE, FOUND, SLOT, default_of, done, values_of
from offramp.features.errors import InputError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from offramp.cascades.graph.routing import Routing

FINALISTS = 5
"""Best trials that are judged again, on folds that no trial was chosen by, before one replaces the plain policy."""

DOUBT = 2.0
"""Standard errors by which a finalist has to be ahead there: the best of five that are no better looks ahead by more
than one, and what was learned from is what is judged on."""

FRESH = 1009
"""Added to the seed for those folds."""

LEVEL = 0.95


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


def conclude(problem: Problem, plain: Solved, searched: Searched) -> Result:
    """Choose on the folds, refit, and measure on the test part, once, if the study came to its end."""
    trial, gain = choose(problem, plain, searched)
    best = plain
    failed = sorted({str(t.user_attrs[FAILURE]) for t in searched.trials if FAILURE in t.user_attrs})
    note = f" (every trial failed: {failed[0]})" if failed and not ranking(problem, searched.trials) else ""
    if trial is not None:
        try:
            best = solved(problem, *problem.chosen(choices_of(problem, trial)))
        except InputError as error:  # solvable on the folds, by a hair, and not on the whole
            trial, note = None, f" (the best trial's policy can't meet the target when fitted on all: {error})"
    if searched.stopped and not ahead_of(problem, best, plain):
        trial, best = None, plain
    tested = None if searched.stopped else measured_on_test(problem, plain, best)
    return Result(plain, best, trial, gain, searched, tested, verdict(problem, trial, gain, tested, note))


def ahead_of(problem: Problem, one: Solved, other: Solved) -> bool:
    """Whether one policy is expected to do better than another in what the target wants small."""
    return one.error < other.error if problem.accurate else one.cost < other.cost


def choose(
    problem: Problem, plain: Solved, searched: Searched
) -> tuple[FrozenTrial | None, tuple[float, float] | None]:
    """The trial to keep, None for the plain policy; and the gain of the best finalist on fresh folds.

    The best of many trials looks better than it is, having been chosen for it. So one is kept only if it is ahead on
    other folds by more than ``DOUBT`` standard errors. After an interrupt there is no time for that, and the order of
    the trials decides.
    """
    if searched.stopped:
        first = [t for t in done(searched.trials, feasible=False) if t.user_attrs[SLOT] == 0]
        value = first[0].user_attrs[FOUND][problem.natural] if first else math.inf
        ahead = [t for t in ranking(problem, searched.trials) if t.user_attrs[FOUND][problem.natural] < value]
        return (ahead[0] if ahead else None), None
    found = finalist(problem, plain, searched)
    if found is None:
        return None, None
    trial, mean, error = found
    return (trial if mean > DOUBT * error else None), (mean, error)


def finalist(problem: Problem, plain: Solved, searched: Searched) -> tuple[FrozenTrial, float, float] | None:
    """Of the ``FINALISTS`` best trials the one that gains most over the plain choice on folds that none was chosen by.

    With its mean gain and the standard error of that: how much less it spends, and loses, turned into cost at the plain
    frontier's price. None if no trial but the plain one keeps to the target.
    """
    defaults = default_of(problem.space)
    ranked = [
        t for t in ranking(problem, searched.trials) if problem.key(choices_of(problem, t)) != problem.key(defaults)
    ]
    if not ranked:
        return None
    evaluation = FoldEvaluation(problem, searched.prices, problem.settings.folds, problem.settings.seed + FRESH)
    no_aim = {"aim": None}  # at the target's own point, wherever on the frontier a trial with several objectives stood
    found: list[tuple[FrozenTrial, float, float]] = []
    try:
        base = evaluation.held_out(defaults | no_aim)
    except (ValueError, ArithmeticError):  # nothing to hold the others against
        return None
    for trial in ranked[:FINALISTS]:
        with suppress(ValueError, ArithmeticError):
            judged = evaluation.held_out(choices_of(problem, trial) | no_aim)
            saved = (base.loss_rows - judged.loss_rows) / plain.price + base.cost_rows - judged.cost_rows
            if judged.violation <= 0 or base.violation > 0:
                found.append((trial, float(saved.mean()), float(saved.std() / np.sqrt(len(saved)))))
    return max(found, key=lambda each: each[1], default=None)


def choices_of(problem: Problem, trial: FrozenTrial) -> dict[str, Any]:
    """A trial's choices as values, from their labels."""
    return values_of(problem.space, trial.params)


def measured_on_test(problem: Problem, plain: Solved, best: Solved) -> dict[str, Any]:
    """Both policies on the test part: cost and error with intervals, and the difference, paired."""
    how = Bootstrap(seed=problem.settings.seed, level=LEVEL)
    outputs = problem.data.parts["test"]

    def routed(one: Solved) -> Routing:
        return one.fitted.route(outputs.of(one.fitted.sweep.routes.stages))[one.point]

    policies = {"plain": routed(plain)} | ({} if best is plain else {"tuned": routed(best)})
    found: dict[str, Any] = {name: asdict(interval(routing, how)) for name, routing in policies.items()}
    wrong = losses_alone(outputs.of(problem.routes.stages), problem.plain.loss)[:, problem.largest]
    found["largest"] = {"stage": problem.routes.stages[problem.largest], "error": float(wrong.mean())}
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


def verdict(
    problem: Problem,
    trial: FrozenTrial | None,
    gain: tuple[float, float] | None,
    tested: dict[str, Any] | None,
    note: str,
) -> dict[str, str]:
    """A code and a sentence: whether the search gained anything."""
    unit = problem.routes.unit
    if not problem.settings.trials:
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
