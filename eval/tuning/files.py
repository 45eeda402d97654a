"""The result of a search turned into its files: the policy, every trial, two pictures, a summary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp.cascades.files.policy import Deployment, in_words, policies_digest, read_deployment, write_deployment
from offramp.cascades.learning.points import digest_of
from offramp.eval.report.files import csv_bytes, json_bytes, png_bytes
from offramp.eval.tuning.choose import Result
from offramp.eval.tuning.pictures import importance_picture, pareto_picture
from offramp.eval.tuning.plan import label, labelled
from offramp.eval.tuning.problem import OBJECTIVES, Problem
from offramp.eval.tuning.search import ended
from offramp.eval.tuning.solve import Solved
from offramp.eval.tuning.study import FAILURE, FOUND, SLOT, default_of, done
from offramp.eval.tuning.subtopologies import written_out
from offramp.features.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from optuna.trial import FrozenTrial

FILES = ("policy.json", "trials.csv", "importance.png", "pareto.png", "summary.json")


def files_of(problem: Problem, result: Result, there: Deployment | None = None) -> dict[str, bytes]:
    """The content of every file; ``there`` is the policy that stands where the new one is to be."""
    trials = result.searched.trials
    with TemporaryDirectory() as folder:
        path = Path(folder) / "policy.json"
        write_deployment(kept(there, deployment_of(problem, result)), path)
        policy = path.read_bytes()
    importance, front = importance_of(problem, trials), pareto_of(problem, trials)
    contents = {"policy.json": policy, "pareto.png": png_bytes(pareto_picture(problem, result, front))}
    if problem.settings.trials:
        contents["trials.csv"] = csv_bytes(trials_frame(problem, trials))
        contents["importance.png"] = png_bytes(importance_picture(importance, len(trials)))
    contents["summary.json"] = json_bytes(summary_of(problem, result, importance, front))
    return contents


def deployment_of(problem: Problem, result: Result) -> Deployment:
    """The policy file's content: the chosen policy, what it was chosen for and from."""
    from offramp.cascades.files.provenance import networks_noted

    settings, best = problem.settings, result.best
    tuned: dict[str, Any] = {}
    if result.trial is not None:
        plain = labelled(default_of(problem.space))
        tuned = {
            "trial": result.trial.number,
            "trials": settings.trials,
            "choices": {name: label(v) for name, v in result.trial.params.items() if v != plain.get(name)},
        }
    return Deployment(
        best.fitted,
        best.point,
        written_out(best.topology, problem.data.costs),
        problem.data.costs,
        problem.target,
        best.expected,
        settings.data,
        settings.seed,
        problem.kept,
        {part: digest_of(outputs) for part, outputs in problem.data.parts.items()},
        problem.learnt.classes,
        networks_noted(settings.data, problem.data.costs),
        tuned,
        {name: version(name) for name in ("numpy", "scipy", "optuna")},
    )


def standing(path: Path) -> Deployment | None:
    """The policy that stands there; None if there is none, or none that can be read."""
    try:
        return read_deployment(path) if path.exists() else None
    except InputError:
        return None


def kept(there: Deployment | None, made: Deployment) -> Deployment:
    """What stands there already, if it is the same policy with a certificate; else the one that was made now, which
    remembers what was tried to certify: a new policy on the same examples does not undo that."""
    if there is None:
        return made

    def what(one: Deployment) -> tuple[Any, ...]:
        bare = policies_digest(replace(one.fitted, mixtures=()))  # a certificate's walk may add mixtures
        return bare, one.target, one.parts, one.data, one.seed, one.kept, one.costs, one.networks

    if there.certificate is not None and what(there) == what(made):
        return there
    return replace(made, attempts=there.attempts)


def trials_frame(problem: Problem, trials: Sequence[FrozenTrial]) -> pd.DataFrame:
    """One row a trial, those that died and those that nobody began too: when, how it ended, what it chose."""
    import pandas as pd

    told = ["cost", "error", "p95", "violation", "seconds", "same_as"]
    folds = [f"fold_{fold + 1}" for fold in range(problem.settings.folds)]
    rows = []
    for trial in trials:
        found = trial.user_attrs.get(FOUND, {})
        state = trial.state.name.lower()
        if state == "fail" and FAILURE not in trial.user_attrs:
            state = "died"
        rows.append(
            {
                "trial": trial.number,
                "slot": trial.user_attrs.get(SLOT),
                "state": state,
                **{name: found.get(name) for name in told},
                "failure": trial.user_attrs.get(FAILURE),
                **{name: trial.intermediate_values.get(fold) for fold, name in enumerate(folds)},
                **{name: trial.params.get(name) for name in problem.space},
            }
        )
    return pd.DataFrame(rows, columns=["trial", "slot", "state", *told, "failure", *folds, *problem.space])


def importance_of(problem: Problem, trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """How much of the difference between completed trials each choice explains (fANOVA), largest first; empty where
    there are too few trials, or no difference."""
    import optuna

    complete = [t for t in done(trials, feasible=False) if set(problem.space) <= set(t.params)]
    values = {t.user_attrs[FOUND][problem.natural] for t in complete}
    if len(complete) < 4 or len(values) < 2:
        return {}
    study = optuna.create_study()
    for trial in complete:
        study.add_trial(
            optuna.create_trial(
                params=trial.params, distributions=trial.distributions, value=trial.user_attrs[FOUND][problem.natural]
            )
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=problem.settings.seed)
    try:
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (ValueError, RuntimeError):  # every choice but one never varied
        return {}
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def pareto_of(problem: Problem, trials: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
    """All points of all trials' held-out frontiers that none betters in every objective, the cheapest first."""
    wanted = [
        OBJECTIVES.index(name) for name in (problem.objectives if len(problem.objectives) > 1 else ("cost", "error"))
    ]
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


def summary_of(
    problem: Problem, result: Result, importance: Mapping[str, float], front: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """All of it as JSON; ``front`` is what ``pareto_of`` finds."""
    settings, trials = problem.settings, result.searched.trials
    finished = ended(problem, trials)
    states = [trial.state.name.lower() for trial in finished]
    failures = sorted({str(t.user_attrs[FAILURE]) for t in finished if FAILURE in t.user_attrs})

    def policy(one: Solved) -> dict[str, Any]:
        family, price = one.fitted.names[one.point]
        return {
            "topology": written_out(one.topology, problem.data.costs),
            "point": one.point,
            "family": family,
            "price": price if math.isfinite(price) else None,
            "held_out": {"cost": one.cost, "error": one.error, "largest": one.expected.reference},
        }

    found: dict[str, Any] = _finite(
        {
            "target": in_words(problem.target, problem.routes.unit, problem.plain.loss),
            "unit": problem.routes.unit,
            "objectives": list(problem.objectives),
            "examples": {"learnt": len(problem.learnt), **{k: len(v) for k, v in problem.data.parts.items()}},
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
            "pareto": front,
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
