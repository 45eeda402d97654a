"""A measured run turned into what it says of the promises of a policy file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offramp.cascades.files.datafolder import DataFolder
    from offramp.cascades.files.policy import Deployment
from offramp.cascades.files.provenance import fitted_on
from offramp.eval.measured.trial import wilson

if TYPE_CHECKING:
    from offramp.eval.measured.flags import Settings


def warnings_of(deployment: Deployment, settings: Settings, data: DataFolder, device: str) -> list[str]:
    """What makes the figures of the policy file mean less here."""
    from offramp.cascades.learning.targets import unit_of

    found = []
    unit, made = unit_of(deployment.costs.unit), deployment.costs.device
    if unit is not None and unit.kind == "time" and made and made != device:
        found.append(f"the policy's costs were measured on {made}, this is {device}: profile and certify it here")
    if not fitted_on(deployment, data):
        found.append(f"the policy was not fitted on {settings.source}: it may have been fitted on some of these images")
    return found


def held_against(deployment: Deployment, report: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked of the policy and certified, beside what was measured: JSON's own types.

    Each of the ``promises`` has a bound, what was measured and its interval, and a verdict: "kept"; "within chance"
    where the interval reaches the bound; else "broken".
    """
    from offramp.cascades.files.policy import in_words
    from offramp.cascades.learning.targets import parse_budget, unit_of

    row = next(row for row in report["systems"] if row["system"] == "policy")
    target, certificate, unit = deployment.target, deployment.certificate, deployment.costs.unit
    found: list[dict[str, Any]] = []

    def hold(by: str, what: str, bound: float, value: float, low: float, high: float) -> None:
        verdict = "kept" if value <= bound else "within chance" if low <= bound else "broken"
        found.append({"by": by, "what": what, "bound": bound, "measured": value, "low": low, "high": high})
        found[-1]["verdict"] = verdict

    cost = (row["predicted_cost"], row["cost_low"], row["cost_high"])
    error = (row["error"], row["error_low"], row["error_high"])
    extra = (row["extra_error"], row["extra_low"], row["extra_high"])
    if target.budget is not None:
        hold("asked", f"mean cost, {unit}, by the policy's costs", target.budget, *cost)
        known = unit_of(unit)
        if known is not None and known.kind == "time" and known.times == 1:
            timed = (row["ms_per_image"], row["ms_low_quartile"], row["ms_high_quartile"])
            spent = [parse_budget(f"{ms!r} ms", unit) for ms in timed]
            hold("asked", f"time, {unit}, as measured here", target.budget, *spent)
    if target.error_increase is not None:
        hold("asked", "errors over the largest stage's", target.error_increase, *extra)
    if target.accuracy is not None:
        hold("asked", "errors", 1 - target.accuracy, *error)
    for stage, share in target.shares.items():
        exits = round(row[f"share_{stage}"] * report["about"]["images"])
        hold(
            "asked",
            f"share exiting at {stage}",
            share,
            row[f"share_{stage}"],
            *wilson(exits, report["about"]["images"]),
        )
    if certificate is not None:
        for bound in certificate.bounds:
            if bound.risk == "increase":
                hold("certified", "errors over the largest stage's", bound.most, *extra)
            else:
                hold("certified", "errors", bound.most, *error)
        hold("certified", f"mean cost, {unit}, by the policy's costs", certificate.cost_bound, *cost)
    return {
        "target": in_words(target, unit, deployment.fitted.sweep.loss),
        "delta": None if certificate is None else certificate.delta,
        "promises": found,
    }


def promised(policy: Mapping[str, Any] | None) -> Iterator[str]:
    """What was asked for and certified, and what was measured, a line each."""
    from offramp.eval.report.table import number

    if policy is None:
        return
    yield f"The policy was to be {policy['target']}."
    for line in policy["promises"]:
        by = "certified" if line["by"] == "certified" else "asked for"
        scale, of = (100, " %") if line["what"].startswith(("errors", "share")) else (1, "")
        if line["what"].startswith("errors over"):
            of = " points"
        bound, value, low, high = (number(scale * line[key]) for key in ("bound", "measured", "low", "high"))
        yield f"  {line['what']}: {by} at most {bound}{of}, measured {value} [{low}, {high}]: {line['verdict']}."
    if policy["delta"] is None:
        yield "  Nothing is certified: python -m eval.certify does."
    else:
        chance = 1 - policy["delta"]
        yield f"  What is certified holds with probability {chance:.6g}, for images like those it was certified on."
