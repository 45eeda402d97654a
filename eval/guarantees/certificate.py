"""A policy and unseen examples turned into a certificate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from offramp.eval.guarantees.claims import (
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
from offramp.features.errors import InputError
from offramp.features.outputs import Floats

if TYPE_CHECKING:
    from offramp.cascades.files.policy import Attempt, Certificate, Deployment
    from offramp.cascades.files.typed import Risk
    from offramp.cascades.graph.routing import Routing
    from offramp.cascades.learning.points import Fitted, Mixture
    from offramp.cascades.learning.targets import Expected, Target
    from offramp.features.outputs import Outputs

BELOW = (0.6, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.04)
"""How far below a budget the points are expected to cost that are tested for it, one after another. The mean cost of a
few thousand examples is known to some percent, or to some tens of percent where few of them go to a dear stage; more
steps would widen what can be said of the risk."""


@dataclass(frozen=True)
class Aim:
    """The ``claims`` to test, or to prove as far as they can be, and of which points: ``walk`` "risk" seeks the
    cheapest that keeps to all claims, "cost" the dearest that keeps to the ``budget``; "" judges the policy's own."""

    claims: tuple[Claim, ...]
    walk: str = ""
    budget: float | None = None


def aim_of(target: Target, risk: str | None = None, most: float | None = None) -> Aim:
    """What is asked for by ``risk`` and the ``most`` that it may be, or else by the policy's own ``target``.

    Where shares of exits were limited, or both the cost and the error, a point was chosen that meets it all: that one
    is judged, and no other. Raises InputError for an error that can't be.
    """
    own = {"increase": target.error_increase, "error": None if target.accuracy is None else 1 - target.accuracy}
    if risk is not None and risk not in own:
        raise InputError(f"a risk among {', '.join(own)}", repr(risk)[:80], "risk")
    asked = [Claim(risk, most) for risk, most in own.items() if most is not None]
    if risk is not None or most is not None:
        risk = risk or next((claim.risk for claim in asked), "increase")
        asked = [Claim(risk, own[risk] if most is None else most)]
    claims = tuple(asked) or (Claim("increase", None),)
    for claim in claims:
        if claim.most is not None and claim.risk == "error" and not 0 < claim.most < 1:
            where = "--target" if most is not None else "target"
            raise InputError("an error between 0 and 1", str(claim.most), where)
    bounded, walk = claims[0].most is not None, ""
    if not target.shares:
        walk = "risk" if bounded and target.budget is None else "cost" if target.budget is not None else ""
    if walk == "cost" and (bounded or own != dict.fromkeys(own)):
        walk = ""
    return Aim(claims, walk, target.budget if walk == "cost" else None)


def attempt_of(
    deployment: Deployment,
    outputs: Outputs,
    aim: Aim,
    delta: float,
    done: Done,
    group: Any = None,
    groups: str | None = None,
) -> Attempt:
    """What is tried now, and what came of it, for the record; the same try makes the same record."""
    from offramp.cascades.files.policy import Attempt, policies_digest
    from offramp.cascades.learning.points import digest_of

    asked = [
        f"the least {claim.risk}" if claim.most is None else f"{claim.risk} at most {claim.most:.12g}"
        for claim in aim.claims
    ]
    if aim.budget is not None:
        asked.append(f"cost at most {aim.budget:.12g}")
    if not aim.walk:
        asked.append(f"of point {deployment.point} alone")
    if group is not None:
        named = "class" if groups == "class" else f"a file, {_groups_digest(outputs, group)}"
        asked.append(f"groups by {named}")
    return Attempt(
        digest_of(outputs),
        len(outputs),
        delta,
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


class Record:
    """The policy file ``path`` while what was tried is put down there: nobody else writes it, and what others put
    down since it was read as ``judged`` stays.

    ``attempts`` are all of them, ``attempt`` included. Where the folder can't be written the file is as it was read.
    """

    def __init__(self, path: Path, judged: Deployment, attempt: Attempt) -> None:
        self.path, self.judged, self.attempt = path, judged, attempt
        self.alone, self.unlocked = ExitStack(), ""

    def __enter__(self) -> Record:
        from offramp.cascades.files.policy import read_deployment
        from offramp.features.store.atomic import locked

        try:
            self.alone.enter_context(locked(self.path))
        except InputError as error:
            self.unlocked = error.found
        try:
            self.there = self.judged if self.unlocked else read_deployment(self.path)
        except BaseException:
            self.alone.close()
            raise
        self.attempts = tuple(dict.fromkeys([*self.there.attempts, self.attempt]))
        return self

    def __exit__(self, *_: object) -> None:
        self.alone.close()

    def put_down(self) -> list[str]:
        """Add the attempt to the file as it stands now, or say why that can't be."""
        from offramp.cascades.files.policy import write_deployment

        try:
            if self.unlocked:
                raise InputError("a lock", self.unlocked, str(self.path))
            if self.attempts != self.there.attempts:
                write_deployment(replace(self.there, attempts=self.attempts), self.path)
        except InputError as error:
            return [f"This attempt could not be put down in {self.path} ({error.found}): it counts nonetheless."]
        return []

    def refuse_another_policy(self) -> None:
        """Raises InputError where a certificate of the judged policy can't be written over the file: it is not to be
        locked, or another policy stands there by now, which then holds the attempt."""
        from offramp.cascades.files.policy import policies_digest

        if self.unlocked:
            raise InputError("a policy file in a folder where a file can be locked", self.unlocked, str(self.path))
        was, now = (policies_digest(replace(one.fitted, mixtures=())) for one in (self.judged, self.there))
        if was != now:
            self.put_down()
            raise InputError("the policy that was judged (certify again)", "another, written meanwhile", str(self.path))


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
        from offramp.cascades.graph.routing import coins
        from offramp.cascades.learning.points import digest_of

        self.plain = replace(fitted, mixtures=()).route(outputs)
        self.coin = coins(range(len(outputs)), f"{fitted.coin} {digest_of(outputs)}")
        self.fitted = fitted

    def mixture(self, point: int) -> Mixture:
        """What a point is a mixture of; of itself, most often."""
        from offramp.cascades.learning.points import Mixture

        plain = len(self.plain)
        return Mixture(point, point, 0.0) if point < plain else self.fitted.mixtures[point - plain]

    def routing(self, m: Mixture) -> Routing:
        """Where each example stops, and whether that was wrong."""
        from offramp.cascades.graph.routing import mixed

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
    from offramp.cascades.files.policy import Bound, Certificate, policies_digest
    from offramp.cascades.graph.routing import largest
    from offramp.cascades.learning.answers import LOSSES
    from offramp.cascades.learning.outcomes import single_outcomes
    from offramp.cascades.learning.points import digest_of

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
    kinds = [cast("Risk", claim.risk) for claim in aim.claims]  # ``aim_of`` lets no other pass
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
    from offramp.cascades.learning.points import cheapest_within

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
    from offramp.cascades.learning.points import Mixture

    plain = len(fitted.names) - len(fitted.mixtures)
    cheapest = int(expected.cost[:plain].argmin())
    found = [within_budget(fitted, expected, (1 - share) * budget) for share in BELOW]
    first = [Mixture(cheapest, cheapest, 0.0)] if expected.cost[cheapest] <= budget else []
    return list(dict.fromkeys([*first, *(m for m in found if m is not None)]))


def within_budget(fitted: Fitted, expected: Expected, budget: float) -> Mixture | None:
    """The most accurate mixture expected to cost at most so much; None if even the cheapest point costs more."""
    from offramp.cascades.learning.points import Mixture
    from offramp.cascades.learning.targets import Limit, best_pair

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
