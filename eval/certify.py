"""A policy file turned into a certified one: ``python -m eval.certify --policy X/policy.json --delta 0.05``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascades.settings import guard, parse
from eval.claims import (
    LEAST_GROUP,
    Claim,
    Levels,
    Losses,
    Walked,
    certify_points,
    examples_needed,
    fixed_sequence,
    risk_p,
    sizes_of,
)
from features.errors import InputError
from features.outputs import Floats

if TYPE_CHECKING:
    from cascades.deployment import Attempt, Certificate, Deployment, Expected, Target
    from cascades.points import Fitted, Mixture
    from cascades.routing import Routing
    from features.outputs import Outputs

RISKS = ("increase", "error")

LEAST_DELTA = 1e-6
"""Smaller ones take minutes."""

NAMED = 10
"""Groups that a message names at most."""

BELOW = (0.6, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.04)
"""How far below a budget the points are expected to cost that are tested for it, one after another. The mean cost of a
few thousand examples is known to some percent, or to some tens of percent where few of them go to a dear stage; more
steps would widen what can be said of the risk."""

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
    from cascades.deployment import read_deployment, write_deployment
    from eval.files import writable
    from eval.untouched import certification_examples, groups_of

    deployment = read_deployment(settings.policy)
    where = settings.out or settings.policy
    writable(where.parent, "--out" if settings.out else "--policy", (where.name,))  # before the examples are looked at
    aim = aim_of(settings, deployment.target)
    outputs, on_trust = certification_examples(deployment, settings.data)
    group = None if settings.groups is None else groups_of(settings.groups, outputs)
    done = certify(deployment, outputs, aim, settings.delta, group)
    attempt = attempt_of(deployment, outputs, aim, settings, done, group)
    attempts = tuple(dict.fromkeys([*deployment.attempts, attempt]))
    notes = [*on_trust, *tried(attempts, attempt)]
    if done.certificate is None:
        notes += recorded(deployment, attempts, settings.policy)
        _print([none_text(done, deployment, aim, settings.delta), *notes])
        return NONE_CERTIFIED
    from eval.reference import reference_of

    certified = replace(
        deployment,
        fitted=done.fitted,
        expected=done.expected,
        point=done.point,
        certificate=done.certificate,
        reference=reference_of(done.routing, outputs),
        attempts=attempts,
    )
    write_deployment(certified, where)
    if where.resolve() != settings.policy.resolve():
        notes += recorded(deployment, attempts, settings.policy)
    show(certified, done, aim, "" if on_trust else " that nothing was learned from", [*notes, f"  {where}"])
    return 0


# --- what is asked for


@dataclass(frozen=True)
class Aim:
    """The ``claims`` to test, or to prove as far as they can be, and of which points: ``walk`` "risk" seeks the
    cheapest that keeps to all claims, "cost" the dearest that keeps to the ``budget``; "" judges the policy's own."""

    claims: tuple[Claim, ...]
    walk: str = ""
    budget: float | None = None


def aim_of(settings: Settings, target: Target) -> Aim:
    """What the flags, or else the policy's own target, ask for.

    Where shares of exits were limited, or both the cost and the error, a point was chosen that meets it all: that one
    is judged, and no other. Raises InputError for an error that can't be.
    """
    own = {"increase": target.error_increase, "error": None if target.accuracy is None else 1 - target.accuracy}
    asked = [Claim(risk, most) for risk, most in own.items() if most is not None]
    if settings.risk is not None or settings.target is not None:
        risk = settings.risk or next((claim.risk for claim in asked), "increase")
        asked = [Claim(risk, own[risk] if settings.target is None else settings.target)]
    claims = tuple(asked) or (Claim("increase", None),)
    for claim in claims:
        if claim.most is not None and claim.risk == "error" and not 0 < claim.most < 1:
            where = "--target" if settings.target is not None else "target"
            raise InputError("an error between 0 and 1", str(claim.most), where)
    bounded, walk = claims[0].most is not None, ""
    if not target.shares:
        walk = "risk" if bounded and target.budget is None else "cost" if target.budget is not None else ""
    if walk == "cost" and (bounded or own != dict.fromkeys(own)):
        walk = ""
    return Aim(claims, walk, target.budget if walk == "cost" else None)


# --- what was tried before


def attempt_of(
    deployment: Deployment, outputs: Outputs, aim: Aim, settings: Settings, done: Done, group: Any = None
) -> Attempt:
    """What is tried now, and what came of it, for the record; the same try makes the same record."""
    from cascades.deployment import Attempt, policies_digest
    from cascades.points import digest_of

    asked = [
        f"the least {claim.risk}" if claim.most is None else f"{claim.risk} at most {claim.most:.12g}"
        for claim in aim.claims
    ]
    if aim.budget is not None:
        asked.append(f"cost at most {aim.budget:.12g}")
    if not aim.walk:
        asked.append(f"of point {deployment.point} alone")
    if group is not None:
        named = "class" if settings.groups == "class" else f"a file, {_groups_digest(outputs, group)}"
        asked.append(f"groups by {named}")
    return Attempt(
        digest_of(outputs),
        len(outputs),
        settings.delta,
        policies_digest(replace(deployment.fitted, mixtures=())),  # those that a walk adds make no other policies
        "; ".join(asked),
        done.point if done.certificate is not None else None,
    )


def _groups_digest(outputs: Outputs, group: Any) -> str:
    """Of who is in which group, whatever the file's name and order."""
    from hashlib import sha256

    lines = sorted(f"{one} {name}" for one, name in zip(outputs.ids.tolist(), group.tolist(), strict=True))
    return sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def tried(attempts: Sequence[Attempt], now: Attempt) -> list[str]:
    """A warning where more than what is tried ``now`` was tried on the same examples."""
    same = [attempt for attempt in attempts if attempt.digest == now.digest]
    if len(same) == 1:
        return []
    sum_ = min(sum(attempt.delta for attempt in same), 1.0)
    return [
        f"{len(same)} attempts were made on these very examples, counting this one. Of the best of them say no more "
        f"than that it is wrong with a probability of at most {100 * sum_:g} %."
    ]


def recorded(deployment: Deployment, attempts: tuple[Attempt, ...], path: Path) -> list[str]:
    """Put the attempts down in the policy file, or say why that can't be."""
    from cascades.deployment import write_deployment

    if attempts == deployment.attempts:
        return []
    try:
        write_deployment(replace(deployment, attempts=attempts), path)
    except InputError as error:
        return [f"This attempt could not be put down in {path} ({error.found}): it counts nonetheless."]
    return []


# --- a deployment certified


@dataclass(frozen=True)
class Done:
    """What came of certifying: the ``point`` of ``fitted`` with its ``routing`` and its ``certificate`` (None: none).

    ``expected`` goes with ``fitted``, to which a walk along the cost may have added mixtures. ``base`` (n,) is the
    largest stage's loss; ``steps`` how many points could be gone; ``picked`` the mean cost of what would be picked
    without a certificate. If there is none: how many examples would be ``needed``, and the mean risks, or cost, of the
    first point, the ``best`` there is. ``within``: per claim the mean risk of each group; ``sizes`` of all groups.
    """

    point: int
    certificate: Certificate | None
    fitted: Fitted
    expected: Expected
    routing: Routing
    base: Losses
    steps: int
    picked: float
    needed: int | None = None
    best: tuple[float, ...] = ()
    within: tuple[Mapping[str, float], ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)


class Points:
    """The cascades of ``fitted`` on the examples of ``outputs``, and mixtures of them, each when it is asked for.

    A mixture's coins are tossed anew for these examples (their digest is the seed), so that they are as good as
    independent whatever the examples are called: the promise is about an example and its coin. Costs need no luck: the
    mean over the coin is taken.
    """

    def __init__(self, fitted: Fitted, outputs: Outputs) -> None:
        from cascades.points import digest_of
        from cascades.routing import coins

        self.plain = replace(fitted, mixtures=()).route(outputs)
        self.coin = coins(range(len(outputs)), f"{fitted.coin} {digest_of(outputs)}")
        self.fitted = fitted

    def mixture(self, point: int) -> Mixture:
        """What a point is a mixture of; of itself, most often."""
        from cascades.points import Mixture

        plain = len(self.plain)
        return Mixture(point, point, 0.0) if point < plain else self.fitted.mixtures[point - plain]

    def routing(self, m: Mixture) -> Routing:
        """Where each example stops, and whether that was wrong."""
        from cascades.routing import mixed

        return self.plain[m.one] if m.share == 0 else mixed(self.plain[m.one], self.plain[m.other], m.share, self.coin)

    def wrong(self, m: Mixture) -> Losses:
        """(n,) the loss."""
        return np.asarray(np.asarray(self.routing(m).wrong) != 0)

    def cost(self, m: Mixture) -> Floats:
        """(n,) what is spent, on average over the coin."""
        one, other = self.plain[m.one].cost, self.plain[m.other].cost
        return np.asarray(one if m.share == 0 else (1 - m.share) * one + m.share * other)


def certify(deployment: Deployment, outputs: Outputs, aim: Aim, delta: float, group: Any = None) -> Done:
    """Test the deployment's points, or its own, on ``outputs``, whose stages are the policy's.

    The points that are tested are cheaper than the largest stage, where the risk is over that. Raises InputError where
    no outcome whatever would do, and where no group is large enough.
    """
    from cascades.answers import LOSSES
    from cascades.deployment import Bound, Certificate, largest, policies_digest
    from cascades.outcomes import single_outcomes
    from cascades.points import digest_of

    fitted, expected = deployment.fitted, deployment.expected
    routes = fitted.sweep.routes
    sizes = {} if group is None else sizes_of(group)[1]
    if sizes and max(sizes.values()) < LEAST_GROUP:
        found = f"{len(sizes)} groups, the largest of {max(sizes.values())}"
        raise InputError(f"a group of at least {LEAST_GROUP} examples", found, "--groups")
    _refuse_too_few(len(outputs), aim, delta, group is not None)
    top = largest(routes)
    points = Points(fitted, outputs)
    base = single_outcomes(outputs, LOSSES[fitted.sweep.loss], fitted.sweep.reader.calibration).wrong[:, top] != 0
    alone = inf if routes.alone is None else float(routes.alone[top])
    order, picked = sequence_of(deployment, aim, points, alone)
    wrong, cost = [points.wrong(m) for m in order], [points.cost(m) for m in order]
    span = float(routes.cost.min()), float(routes.cost.max())
    tested = certify_points(wrong, cost, base, aim.claims, delta, span, group, aim.budget) if order else Walked((), 0)
    spent = float(points.cost(picked).mean())
    if not tested.passed:
        there = points.routing(points.mixture(deployment.point))
        none = Done(deployment.point, None, fitted, expected, there, base, len(order), spent, sizes=sizes)
        return replace(none, **_what_would_do(wrong, cost, base, aim, Levels.of(delta, group is not None).risk))
    chosen = order[tested.passed - 1]
    fitted, expected, point = _with_point(fitted, expected, chosen)
    kinds = [claim.risk for claim in aim.claims]
    groups = tested.groups or ({},) * len(kinds)
    bounds = map(Bound, kinds, tested.risk_bounds, tested.values, groups)
    certificate = Certificate(
        delta,
        tuple(bounds),
        tested.cost_bound,
        tested.cost,
        len(outputs),
        digest_of(outputs),
        method_of(aim, len(order)),
        point,
        policies_digest(fitted),
    )
    losses = wrong[tested.passed - 1].astype(float)
    within = tuple(
        {name: float((losses - (base if kind == "increase" else 0.0))[group == name].mean()) for name in of}
        for kind, of in zip(kinds, groups, strict=True)
    )
    routing = points.routing(chosen)
    return Done(point, certificate, fitted, expected, routing, base, len(order), spent, None, (), within, sizes)


def method_of(aim: Aim, steps: int) -> str:
    """How it is tested, in words."""
    walked = f"fixed sequence of {steps} points by {aim.walk}" if aim.walk else "one point"
    tests = {"increase": "exact unconditional test of paired losses", "error": "exact binomial tail"}
    return f"Learn-then-Test, {walked}, {', '.join(tests[claim.risk] for claim in aim.claims)}; mean cost by betting"


def sequence_of(deployment: Deployment, aim: Aim, points: Points, alone: float) -> tuple[list[Mixture], Mixture]:
    """What is tested one after another, and what would be picked without a certificate.

    From what is expected of the points on other examples. The largest stage costs ``alone``.
    """
    from cascades.points import cheapest_within

    fitted, expected = deployment.fitted, deployment.expected
    own = points.mixture(deployment.point)
    if not aim.walk:
        return [own], own
    if aim.budget is not None:
        return budget_sequence(fitted, expected, aim.budget), own
    over = any(claim.risk == "increase" for claim in aim.claims)
    most = min(
        claim.most + (expected.reference if claim.risk == "increase" else 0.0)
        for claim in aim.claims
        if claim.most is not None
    )
    order = fixed_sequence(expected.cost, expected.error, most, alone if over else inf)
    picked = cheapest_within(expected.cost, expected.error, most)
    return [points.mixture(int(i)) for i in order], points.mixture(picked)


def budget_sequence(fitted: Fitted, expected: Expected, budget: float) -> list[Mixture]:
    """What is tested for a budget one after another: the cheapest point, and then closer and closer to it."""
    from cascades.points import Mixture

    plain = len(fitted.names) - len(fitted.mixtures)
    cheapest = int(expected.cost[:plain].argmin())
    found = [within_budget(fitted, expected, (1 - share) * budget) for share in BELOW]
    first = [Mixture(cheapest, cheapest, 0.0)] if expected.cost[cheapest] <= budget else []
    return list(dict.fromkeys([*first, *(m for m in found if m is not None)]))


def within_budget(fitted: Fitted, expected: Expected, budget: float) -> Mixture | None:
    """The most accurate mixture expected to cost at most so much; None if even the cheapest point costs more."""
    from cascades.points import Mixture
    from cascades.targets import Limit, best_pair

    plain = len(fitted.names) - len(fitted.mixtures)
    cost, error = expected.cost[:plain], expected.error[:plain]
    found = best_pair(error, cost, [Limit("--budget", cost, budget)])
    return None if found is None else Mixture(*found)


def _with_point(fitted: Fitted, expected: Expected, m: Mixture) -> tuple[Fitted, Expected, int]:
    """A mixture's number, put behind the others if it is not there."""
    plain = len(fitted.names) - len(fitted.mixtures)
    if m.share == 0:
        return fitted, expected, m.one
    if m in fitted.mixtures:
        return fitted, expected, plain + fitted.mixtures.index(m)
    cost, error = ((1 - m.share) * x[m.one] + m.share * x[m.other] for x in (expected.cost, expected.error))
    more = replace(expected, cost=np.append(expected.cost, cost), error=np.append(expected.error, error))
    return replace(fitted, mixtures=(*fitted.mixtures, m)), more, len(fitted.names)


def _refuse_too_few(n: int, aim: Aim, delta: float, grouped: bool) -> None:
    """Raises InputError where not even a point that was never wrong would be certified."""
    level = Levels.of(delta, grouped).risk
    none = np.zeros(n, bool)
    for claim in aim.claims:
        if claim.most is None or claim.risk != "error" or risk_p(none, None, claim.most, level) <= level:
            continue
        needed = examples_needed(none, None, claim.most, level)
        expected = f"at least {needed:,} examples" if needed else "more than a million examples"
        raise InputError(f"{expected}, to certify an error of {claim.most:g} at delta {delta:g}", f"{n:,}", "--delta")


def _what_would_do(
    wrong: Sequence[Losses], cost: Sequence[Floats], base: Losses, aim: Aim, level: float
) -> dict[str, Any]:
    """How many examples would do for the first point, at which the walk stopped, and its risks, or cost, here."""
    if not wrong:
        return {}
    if aim.budget is not None:
        return {"best": (float(cost[0].mean()),)}
    best, needed = [], []
    for claim in aim.claims:
        over = base if claim.risk == "increase" else None
        best.append(float(wrong[0].mean(dtype=float)) - (0.0 if over is None else float(over.mean(dtype=float))))
        needed.append(examples_needed(wrong[0], over, claim.most or 0.0, level))
    known = [one for one in needed if one is not None]
    return {"best": tuple(best), "needed": max(known) if len(known) == len(needed) else None}


# --- what is printed


def _promise(claim: Claim, told: str, stage: str) -> str:
    from cascades.deployment import with_article

    if claim.risk == "increase":
        return f"{with_article(told)} at most {100 * (claim.most or 0.0):g} points over {stage}'s"
    return f"{with_article(told)} of at most {100 * (claim.most or 0.0):g} %"


def none_text(done: Done, deployment: Deployment, aim: Aim, delta: float) -> str:
    """Why nothing was certified, and what would help."""
    from eval.table import number

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
    from eval.table import number, plain_table

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
    _print([head, table, *lines, *notes])


def _points(value: float, bound: float, sign: str) -> tuple[str, str]:
    """A risk and its bound in points; the bound is rounded up."""
    return f"{100 * value:{sign}.2f}", f"at most {ceil(10_000 * bound - 1e-6) / 100:{sign}.2f}"


def _largest_name(deployment: Deployment) -> str:
    from cascades.deployment import largest

    routes = deployment.fitted.sweep.routes
    return routes.stages[largest(routes)]


def _alone(deployment: Deployment) -> float:
    """What the largest stage costs by itself, or else the dearest path."""
    from cascades.deployment import largest

    routes = deployment.fitted.sweep.routes
    return float(routes.cost.max() if routes.alone is None else routes.alone[largest(routes)])


def _told(deployment: Deployment) -> str:
    """What the policies' mean loss is called."""
    from cascades.answers import LOSSES

    return LOSSES[deployment.fitted.sweep.loss].told


def _print(lines: Sequence[Any]) -> None:
    """Tables and lines, at most as wide as the other commands'; letters that a terminal lacks are no reason to stop."""
    from rich.console import Console
    from rich.table import Table

    from eval.table import WIDTH

    if sys.stdout is None:  # closed before the program began
        return
    console = Console(markup=False, emoji=False, highlight=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    with console.capture() as capture:
        for line in lines:
            console.print(
                line,
                soft_wrap=isinstance(line, str) and line.startswith("  "),
                end="" if isinstance(line, Table) else "\n",
            )
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(capture.get().encode(encoding, "replace").decode(encoding))


if __name__ == "__main__":
    sys.exit(main())
