"""A summary turned into one sentence: is the learned policy worth having on these data?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offramp.eval.report.routers import routers

Record = Mapping[str, Any]


def verdict(summary: Record) -> dict[str, str]:
    """A code, the rival it is about, and a sentence.

    ``no_help``: neither policy nor thresholds are cheaper than the best single stage at its error, or have less area
    than the line between single stages. ``policy_ahead``: the policy has less area than the rival. ``behind``: the
    rival has less area, or, where the areas can't be told apart, is cheaper at some margin and the policy at none.
    ``threshold_as_good``: none of these. "Less" and "cheaper" mean that the interval leaves no doubt. The rival is the
    threshold router of least area on the part that points are chosen on, empty if there is none.
    """
    rivals: Record = summary["rivals"]
    rival = min(rivals, key=lambda name: float(rivals[name]["chosen_area"] or 0.0), default="")
    simple = routers()[rival].told if rival else ""
    difference: Record | None = summary["area"]["policy_above"].get(rival)
    duels = rivals[rival]["margins"] if rival else []
    wins = [duel for duel in duels if duel["cheaper"] == "policy"]
    losses = [duel for duel in duels if duel["cheaper"] == rival]
    stage = summary["best_single"]["stage"]
    above: Record = summary["area"]["above_singles"]["policy"]
    if not any(_helps(summary, name) for name in ("policy", *rivals)):
        code = "no_help"
        text = f"Does not help here: on unseen examples nothing is cheaper than {stage} at its error, or better than "
        text += "a random mix of single stages."
        if _above(above, 0.0):
            text += f" The learned policy is wrong {_points(above['value'])} more often than that mix: don't use it."
    elif not rival:
        code = "policy_ahead"
        text = f"The learned policy helps: {_saving(summary, 'policy')}; there was no threshold to compare it with."
    elif difference and _below(difference, 0.0):
        code = "policy_ahead"
        won = (
            _less(wins[0], summary)
            if wins
            else f"over all budgets it is wrong {_range(difference, -100)} points less often"
        )
        text = f"The learned policy is ahead of {simple}: {won}."
        if losses:
            text += f" Not everywhere: {_more(losses[0], stage)}."
    elif difference and _above(difference, 0.0):
        code = "behind"
        text = f"A tuned threshold does better here ({simple}): over all budgets the learned policy is wrong "
        text += f"{_range(difference, 100)} points more often."
    elif losses and not wins:
        code, text = "behind", f"A tuned threshold does better here ({simple}): {_more(losses[0], stage)}."
    else:
        code = "threshold_as_good"
        text = f"A tuned threshold does as well: {_saving(summary, 'policy')}, with {simple} "
        text += f"{_times(summary, rival)}; the difference may be chance."
    return {"code": code, "rival": rival, "text": text}


def _helps(summary: Record, router: str) -> bool:
    first: Record = summary["routers"][router][0]
    cheaper = first["reached"] and _above(first["speedup"], 1.0) and not _above(first["extra_error"], 0.0)
    return bool(cheaper) or _below(summary["area"]["above_singles"][router], 0.0)


def _above(estimate: Record, number: float) -> bool:
    return estimate["low"] is not None and bool(estimate["low"] > number)


def _below(estimate: Record | None, number: float) -> bool:
    return estimate is not None and estimate["high"] is not None and bool(estimate["high"] < number)


def _points(share: float) -> str:
    return f"{100 * share:.3g} points"


def _range(estimate: Record, times: float) -> str:
    low, high = sorted(times * estimate[key] for key in ("low", "high"))
    return f"{times * estimate['value']:.2f} ({low:.2f} to {high:.2f})"


def _where(margin: float, stage: str) -> str:
    return f"within {_points(margin)} of {stage}'s error" if margin else f"at {stage}'s error"


def _less(duel: Record, summary: Record) -> str:
    stage = summary["best_single"]["stage"]
    here = next(record for record in summary["routers"]["policy"] if record["margin"] == duel["margin"])
    found = duel["times_cheaper"]
    interval = f"{found['value']:.2f} times less ({found['low']:.2f} to {found['high']:.2f}) than they"
    if not here["reached"]:
        return f"at equal error on the test part, {_where(duel['margin'], stage)}, it costs {interval}"
    alone = f"{_fold(here['speedup']['value'])} less than {stage} ({_given_up(here)})"
    return f"{_where(duel['margin'], stage)} it costs {alone}; at equal error on the test part, {interval}"


def _more(duel: Record, stage: str) -> str:
    found = duel["times_cheaper"]
    value, low, high = (f"{1 / found[key]:.2f}" if found[key] else "any" for key in ("value", "high", "low"))
    return f"{_where(duel['margin'], stage)} the learned policy costs {value} times more ({low} to {high})"


def _saving(summary: Record, router: str) -> str:
    margin = summary["routers"][router][0]["margin"]
    stage = summary["best_single"]["stage"]
    first = summary["routers"][router][0]
    given_up = f" ({_given_up(first)})" if first["reached"] else ""
    return f"{_where(margin, stage)} it costs {_times(summary, router)} less than {stage}{given_up}"


def _times(summary: Record, router: str) -> str:
    first: Record = summary["routers"][router][0]
    return _fold(first["speedup"]["value"]) if first["reached"] else "no"


def _given_up(record: Record) -> str:
    """The error that a point picked elsewhere really gave up here: rarely just what it was picked for."""
    extra: Record = record["extra_error"]
    if extra["value"] is None or extra["low"] is None:
        return "its error here unknown"
    return f"error {100 * extra['value']:+.2f} points, {100 * extra['low']:+.2f} to {100 * extra['high']:+.2f}"


def _fold(value: float | None) -> str:
    return "any number of times" if value is None else f"{value:.2f} times"
