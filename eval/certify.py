"""A policy file turned into a certified one: ``python -m eval.certify --policy X/policy.json --delta 0.05``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offramp.cascades.command.console import show as printed
from offramp.cascades.command.settings import guard, parse
from offramp.eval.guarantees.certificate import Aim, Record, aim_of, attempt_of, certify, tried
from offramp.eval.guarantees.claims import LEAST_GROUP, Claim
from offramp.features.errors import InputError

if TYPE_CHECKING:
    from offramp.cascades.files.policy import Deployment
    from offramp.eval.guarantees.certificate import Done

RISKS = ("increase", "error")

LEAST_DELTA = 1e-6
"""Smaller ones take minutes."""

NAMED = 10
"""Groups that a message names at most."""


NONE_CERTIFIED = 1
"""Exit code where nothing can be certified; the policy file then holds the attempt, and is otherwise as it was."""


@dataclass(frozen=True)
class Settings:
    """The flags of the command."""

    policy: Path = field(metadata={"help": "the policy file, policy.json, that eval.tune wrote"})
    delta: float = field(
        default=0.05, metadata={"help": "probability, between 0 and 1, with which the certificate may be wrong"}
    )
    risk: str | None = field(
        default=None,
        metadata={
            "help": "what is bounded: the mean loss over the largest stage's (increase) or the mean loss itself "
            "(error); as the policy's own target has it unless given",
            "choices": RISKS,
        },
    )
    target: float | None = field(
        default=None,
        metadata={
            "help": "what the risk is to be at most, if not as the policy's own target",
            "minimum": -1,
            "maximum": 1,
        },
    )
    data: str | None = field(
        default=None,
        metadata={
            "help": "a folder of new examples to certify on (its certify part, or all if it has none), in place of "
            "those that were put aside in the policy's data"
        },
    )
    groups: str | None = field(
        default=None,
        metadata={
            "help": "bound the risk in every group too: class (the true label), or a CSV file with the columns id and "
            "group"
        },
    )
    out: Path | None = field(default=None, metadata={"help": "file to write in place of the policy file itself"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit code."""
    return guard(lambda: run(parse(Settings, argv, "python -m eval.certify", __doc__ or "")))


def run(settings: Settings) -> int:
    """Read the policy and the examples, test, print, write; the exit code says whether anything was certified."""
    if not LEAST_DELTA <= settings.delta < 1:
        raise InputError(f"a number between 0 and 1, {LEAST_DELTA:g} at least", str(settings.delta), "--delta")
    from offramp.cascades.files.policy import read_deployment, write_deployment
    from offramp.eval.guarantees.holdout import certification_examples, groups_of
    from offramp.eval.report.files import writable
    from offramp.features.store.atomic import refuse_overwriting

    where = settings.out or settings.policy
    refuse_overwriting([("--out", settings.out)], [("--data", settings.data), ("--groups", settings.groups)])
    refuse_overwriting([("--policy", settings.policy)], [("--groups", settings.groups)])
    deployment = read_deployment(settings.policy)
    writable(where.parent, "--out" if settings.out else "--policy", (where.name,))  # before the examples are looked at
    aim = aim_of(deployment.target, settings.risk, settings.target)
    outputs, on_trust = certification_examples(deployment, settings.data)
    group = None if settings.groups is None else groups_of(settings.groups, outputs)
    done = certify(deployment, outputs, aim, settings.delta, group)
    attempt = attempt_of(deployment, outputs, aim, settings.delta, done, group, settings.groups)
    with Record(settings.policy, deployment, attempt) as record:
        notes = [*on_trust, *tried(record.attempts, attempt)]
        if done.certificate is None:
            notes += record.put_down()
            printed([none_text(done, deployment, aim, settings.delta), *notes], wrap=True, close=True)
            return NONE_CERTIFIED
        from offramp.eval.guarantees.reference import reference_of

        certified = replace(
            deployment,
            fitted=done.fitted,
            expected=done.expected,
            point=done.point,
            certificate=done.certificate,
            reference=reference_of(done.routing, outputs),
            attempts=record.attempts,
        )
        in_place = where.resolve() == settings.policy.resolve()
        if in_place:
            record.refuse_another_policy()
        write_deployment(certified, where)
        if not in_place:
            notes += record.put_down()
    show(certified, done, aim, "" if on_trust else " that nothing was learned from", [*notes, f"  {where}"])
    return 0


# --- what is printed


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


if __name__ == "__main__":
    sys.exit(main())
