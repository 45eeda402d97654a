"""What was certified, or why nothing could be, turned into what a person reads in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from offramp.cascades.command.console import show as printed
from offramp.eval.guarantees.claims import LEAST_GROUP, Claim

if TYPE_CHECKING:
    from offramp.cascades.files.policy import Deployment
    from offramp.eval.guarantees.certificate import Aim, Done

NAMED = 10
"""Groups that a message names at most."""


def _promise(claim: Claim, told: str, stage: str) -> str:
    from offramp.cascades.files.policy import with_article

    if claim.risk == "increase":
        return f"{with_article(told)} at most {100 * (claim.most or 0.0):g} points over {stage}'s"
    return f"{with_article(told)} of at most {100 * (claim.most or 0.0):g} %"


def none_text(done: Done, deployment: Deployment, aim: Aim, delta: float) -> str:
    """Why nothing was certified, and what would help."""
    from offramp.eval.report.table import number

    n, stage, told = len(done.base), _largest_name(deployment), _told(deployment)
    if aim.budget is not None:
        unit = deployment.costs.unit
        start = f"None can be certified to cost at most {number(aim.budget)} {unit} on average (delta {delta:g})"
        if not done.best:
            return f"{start}: every point is expected to cost more."
        return f"{start}: on these {n:,} examples the cheapest that was tried costs {number(done.best[0])}."
    promise = " and ".join(_promise(claim, told, stage) for claim in aim.claims)
    if not done.best:
        return f"No point can be certified for {promise}: none is cheaper than {stage} alone."
    start = f"None can be certified for {promise} with {n:,} examples (delta {delta:g})"
    if done.needed:
        many = f"about {done.needed:,}" if done.needed > n else "a few more"
        return f"{start}; {many} would be needed if they came out like these."
    for claim, best in zip(aim.claims, done.best, strict=True):
        if best >= (claim.most or 0.0):
            shown = f"{100 * best:.2f} points over {stage}'s" if claim.risk == "increase" else f"{100 * best:.2f} %"
            point = "the safest point" if aim.walk else "the policy's point"
            return f"{start}: {point} has {shown} on these, and more of them would not help."
    return f"{start}, nor with a million if they came out like these."


def show(deployment: Deployment, done: Done, aim: Aim, origin: str, notes: Sequence[str]) -> None:
    """Print what the certified point costs and risks, what certainty cost, and where the file is."""
    from offramp.eval.report.table import number, plain_table

    certificate = deployment.certificate
    assert certificate is not None
    stage, alone, told = _largest_name(deployment), _alone(deployment), _told(deployment)
    cost, most = certificate.cost, certificate.cost_bound
    table = plain_table("")
    for name in ("", "measured", "certified"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row(f"cost, {deployment.costs.unit}", number(cost), f"at most {number(most)}")
    if cost > 0:
        table.add_row(f"times cheaper than {stage}", number(alone / cost), f"at least {number(alone / most)}")
    titles, signs = [], []
    for bound in certificate.bounds:
        signs.append("+" if bound.risk == "increase" else "")
        titles.append(f"{told} over {stage}'s, points" if signs[-1] else f"{told}, %")
        table.add_row(titles[-1], *_points(bound.value, bound.most, signs[-1]))
    head = f"Point {done.point}, certified on {certificate.examples:,} examples{origin}:"
    lines: list[Any] = [
        f"All that is certified holds together with probability at least {100 * (1 - certificate.delta):g} %."
    ]
    picked = done.picked
    if aim.walk == "risk" and picked < cost and alone > picked:
        lost = 1 - (alone - cost) / (alone - picked)
        more = f"costs {100 * lost:.0f} % of the saving" if lost >= 0.005 else "costs none of the saving"
        lines.append(f"Certainty {more}: what was picked for the same target without it costs {number(picked)} here.")
    if aim.walk == "cost":
        lines.append(f"What was picked for the budget without certainty costs {number(picked)} here.")
    budget = deployment.target.budget
    if budget is not None and aim.budget is None:
        verdict = "is certified too" if most <= budget else "is not certified: the bound on the cost lies above it"
        lines.append(f"The budget of {number(budget)} {deployment.costs.unit} {verdict}.")
    if any(bound.groups for bound in certificate.bounds):
        each = plain_table("")
        for name in ("group", "examples", *(name for title in titles for name in (title, "certified"))):
            each.add_column(name, justify="left" if name == "group" else "right")
        for group in certificate.bounds[0].groups:
            cells = [
                cell
                for bound, sign, value in zip(certificate.bounds, signs, done.within, strict=True)
                for cell in _points(value[group], bound.groups[group], sign)
            ]
            each.add_row(group, f"{done.sizes[group]:,}", *cells)
        lines.insert(0, each)
    if small := [f"{name} ({size})" for name, size in done.sizes.items() if size < LEAST_GROUP]:
        more = f" and {len(small) - NAMED} more" if len(small) > NAMED else ""
        lines.append(f"No bound for groups of fewer than {LEAST_GROUP} examples: {', '.join(small[:NAMED])}{more}.")
    printed([head, table, *lines, *notes], wrap=True, close=True)


def _points(value: float, bound: float, sign: str) -> tuple[str, str]:
    """A risk and its bound in points; the bound is rounded up."""
    return f"{100 * value:{sign}.2f}", f"at most {ceil(10_000 * bound - 1e-6) / 100:{sign}.2f}"


def _largest_name(deployment: Deployment) -> str:
    from offramp.cascades.graph.routing import largest

    routes = deployment.fitted.sweep.routes
    return routes.stages[largest(routes)]


def _alone(deployment: Deployment) -> float:
    """What the largest stage costs by itself, or else the dearest path."""
    from offramp.cascades.graph.routing import largest

    routes = deployment.fitted.sweep.routes
    return float(routes.cost.max() if routes.alone is None else routes.alone[largest(routes)])


def _told(deployment: Deployment) -> str:
    """What the policies' mean loss is called."""
    from offramp.cascades.learning.answers import LOSSES

    return LOSSES[deployment.fitted.sweep.loss].told
