"""One operating point and all that is needed to trust, run and watch it: the policy file, ``policy.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from offramp.cascades.files.policies import policies_from_plain, policies_to_plain, refuse_version
from offramp.cascades.files.typed import (
    LONGEST_TEXT,
    Chance,
    Change,
    CostFields,
    Count,
    Edge,
    Examples,
    ExpectedFields,
    PoliciesFields,
    Prose,
    Risk,
    Seed,
    Share,
    Spent,
    StageFields,
    TargetFields,
    Text,
    plain_of,
    read_as,
)
from offramp.cascades.graph.costs import MIN_COST, Costs, StageCost
from offramp.cascades.graph.routing import Routes
from offramp.cascades.graph.topology import parse_topology, unroll
from offramp.cascades.learning.answers import LOSSES
from offramp.cascades.learning.points import Fitted
from offramp.cascades.learning.targets import Expected, Target
from offramp.features.checks import is_text
from offramp.features.errors import InputError
from offramp.features.outputs import PARTS
from offramp.features.store.atomic import replacing
from offramp.features.store.reading import MAX_CLASSES
from offramp.features.store.strictjson import brief, read_json, too_much

FORMAT: Final = "offramp policy"
VERSION: Final = 1

MOST_ATTEMPTS = 10_000
DEEPEST = 20
"""Lists within lists at most, in what is only kept for people."""


@dataclass(frozen=True)
class Bound:
    """The mean of a ``risk``, "increase" (loss over the largest stage's) or "error" (loss), is at most ``most``.

    ``value``: its mean on the examples. ``groups``: the bound within each group that has one.
    """

    risk: Risk
    most: Change
    value: Change
    groups: Mapping[Text, Change]


@dataclass(frozen=True)
class Certificate:
    """With probability at least 1 - ``delta`` over the examples it was made on, all ``bounds`` hold together with that
    on the cost, of the cascade number ``point`` of the ``policies`` (``policies_digest``) and no other.

    ``cost_bound``: what the mean cost is at most; ``cost`` what it was on the ``examples``, whose ``digest``
    (``digest_of``) tells which they were. ``method``: of the test, in words.
    """

    delta: Chance
    bounds: Annotated[tuple[Bound, ...], Meta(min_length=1, max_length=2)]
    cost_bound: Spent
    cost: Spent
    examples: Examples
    digest: Text
    method: Prose
    point: Count
    policies: Text


@dataclass(frozen=True)
class Attempt:
    """One try at certifying something on some examples, whatever came of it: tries add up.

    ``digest`` of the examples and how many they are; ``policies`` the digest of the policies; ``asked``: what was
    tested, in words; ``point``: what was certified, None if nothing was.
    """

    digest: Text
    examples: Examples
    delta: Chance
    policies: Text
    asked: Prose
    point: Count | None = None


@dataclass(frozen=True)
class Reference:
    """How the point behaves where the world is as it was: what a watched stream is held against.

    ``exits``: per path ("alexnet>resnet") how many of the ``examples`` stopped at its end. ``edges`` (b - 1,) cut
    confidences (maximum softmax probabilities of the stage that answered last) into b bins, and ``counts`` says for
    each path how many examples fell into which, (b,); a path whose last stage has no such number is not in it.
    ``answers``: how many were answered with each class. ``wrong``: how many answers were wrong; None if unknown.
    """

    examples: Examples
    exits: Mapping[Text, Count]
    edges: tuple[Edge, ...]
    counts: Mapping[Text, tuple[Count, ...]]
    answers: tuple[Count, ...]
    wrong: Count | None = None


@dataclass(frozen=True)
class Deployment:
    """A policy file: ``point`` is the number of the chosen cascade among those of ``fitted``, which are all kept, so
    that certification can step back along them.

    ``data``: name of the data folder, with the ``seed`` it was split by and the ``kept`` share of its fit part that
    nothing was learned from (0 if it has a certify part). ``parts``: per part the digest of its examples. ``classes``:
    their number. ``networks``: per network its spec, weights' digest and preprocessing, as ``eval.extract`` noted, or
    empty. ``tuned``: what was chosen by search, in JSON's types. ``versions``: of the libraries. ``attempts``: every
    try at a certificate, also for the policies that stood in the same file before.
    """

    fitted: Fitted
    point: int
    topology: str
    costs: Costs
    target: Target
    expected: Expected
    data: str
    seed: int
    kept: float
    parts: Mapping[str, str]
    classes: int
    networks: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    certificate: Certificate | None = None
    reference: Reference | None = None
    attempts: tuple[Attempt, ...] = ()


class PolicyFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One operating point of a cascade of classifiers and all that is needed to trust, run and watch it; written by
    eval.tune and eval.certify, read by eval.certify, eval.run and eval.watch. What a schema can't say (shapes of arrays
    against each other, numbers of points) is checked when the file is read."""

    format: Literal["offramp policy"]
    version: Literal[1]
    description: Annotated[Any, Meta(description="For people; nobody reads it back.")] = None
    topology: Annotated[Prose, Meta(description="Stages and jumps, as eval.frontier takes them.")]
    point: Annotated[Count, Meta(description="Of the sweep by price, the stages alone, the thresholds, the mixtures.")]
    target: TargetFields
    expected: ExpectedFields
    certificate: Certificate | None
    attempts: Annotated[tuple[Attempt, ...], Meta(max_length=MOST_ATTEMPTS)]
    reference: Reference | None
    data: Annotated[Prose, Meta(description="Embedded name or data folder.")]
    seed: Annotated[Seed, Meta(description="By which the data were split.")]
    kept: Annotated[Share, Meta(description="Of the fit part, that nothing was learned from, for certificates.")]
    parts: Annotated[
        dict[Literal["fit", "tune", "certify", "test"], Text],
        Meta(
            description="SHA-256 of its examples' ids, labels.",
            extra_json_schema={"propertyNames": {"enum": list(PARTS)}},
        ),
    ]
    classes: Annotated[int, Meta(ge=1, le=MAX_CLASSES)]
    networks: Annotated[dict[Text, Any], Meta(description="Spec, digest of the weights, preprocessing, if known.")]
    tuned: Annotated[dict[Text, Any], Meta(description="What a search chose.")]
    versions: Annotated[dict[Text, Text], Meta(description="Of the libraries.")]
    costs: CostFields
    policies: PoliciesFields


KEYS = tuple(name for name in PolicyFields.__struct_fields__ if name not in ("format", "version", "description"))
"""What a policy file must hold besides its format and version, and all that it may, but for a description."""

ALIKE = tuple(key for key in KEYS if key not in ("target", "expected", "costs", "policies"))
"""Fields that a ``Deployment`` has as the file has them."""


def policies_digest(fitted: Fitted) -> str:
    """SHA-256 of all that decides where an example stops and what that costs."""
    return _digest(policies_to_plain(fitted))


def _digest(policies: Mapping[str, Any]) -> str:
    deciding = {key: value for key, value in policies.items() if key != "cascades"}  # words for people
    text = json.dumps(deciding, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return sha256(text.encode()).hexdigest()


# --- in words


def in_words(target: Target, unit: str, loss: str = "top1") -> str:
    """What was asked for, in a sentence without a full stop; ``loss`` is a name of ``LOSSES``.

    >>> in_words(Target(budget=5.0, shares={"resnet": 0.1}), "ms per image")
    'the most accurate of at most 5 ms per image on average, at most 10 % of the examples exiting at resnet'
    """
    parts = []
    if target.budget is not None:
        parts.append(f"of at most {target.budget:.6g} {unit} on average")
    told = LOSSES[loss].told
    if target.error_increase is not None:
        parts.append(
            f"with {with_article(told)} at most {100 * target.error_increase:.6g} points above the largest stage's"
        )
    if target.accuracy is not None:
        parts.append(f"with {with_article(told)} of at most {100 * (1 - target.accuracy):.6g} %")
    shares: Mapping[str, float] = target.shares
    parts += [f"at most {100 * share:.6g} % of the examples exiting at {stage}" for stage, share in shares.items()]
    cheap = target.budget is None and not (target.error_increase is None and target.accuracy is None)
    return f"the {'cheapest' if cheap else 'most accurate'} {', '.join(parts)}"


def with_article(told: str) -> str:
    """What an error is called, after its article."""
    return f"{'an' if told[0] in 'aeiou' else 'a'} {told}"


def described(deployment: Deployment) -> dict[str, str]:
    """The policy for people, a sentence a heading; nobody reads it back."""
    unit, point, expected = deployment.costs.unit, deployment.point, deployment.expected
    family, price = deployment.fitted.names[point]
    rule = family if np.isnan(price) else f"{family}, at {price:.6g} of loss per {unit}"
    bound = len(deployment.fitted.names) - len(deployment.fitted.mixtures)
    if point >= bound:
        m = deployment.fitted.mixtures[point - bound]
        names = deployment.fitted.names
        rule = (
            f"for each example a coin, of seed {deployment.fitted.coin}: with probability {m.share:.6g} "
            f"point {m.other} ({names[m.other][0]}), else point {m.one} ({names[m.one][0]})"
        )
    device = f", on {deployment.costs.device}" if deployment.costs.device else ""
    loss = deployment.fitted.sweep.loss
    told = LOSSES[loss].told
    found = {
        "topology": f"{deployment.topology}, of the stages {', '.join(deployment.fitted.sweep.routes.stages)}",
        "target": in_words(deployment.target, unit, loss) if _asked(deployment.target) else "none",
        "point": f"{point} of {len(deployment.fitted.names)}: {rule}",
        "expected": f"{expected.cost[point]:.6g} {unit}{device}, "
        f"{with_article(told)} of {100 * expected.error[point]:.4g} %, the largest stage's "
        f"{100 * expected.reference:.4g} % (held out: {expected.examples:,} examples of {deployment.data})",
        "certificate": "none: nothing is promised (eval.certify)",
    }
    if deployment.certificate is not None:
        c = deployment.certificate
        what = [
            f"{with_article(told)} at most {100 * bound.most:.6g} points above the largest stage's"
            if bound.risk == "increase"
            else f"{with_article(told)} of at most {100 * bound.most:.6g} %"
            for bound in c.bounds
        ]
        found["certificate"] = (
            f"with probability at least {1 - c.delta:.6g} it has {', '.join(what)} and costs at "
            f"most {c.cost_bound:.6g} {unit} on average ({c.method}; {c.examples:,} examples)"
        )
    return found


def _asked(target: Target) -> bool:
    return bool(target.shares) or any(x is not None for x in (target.budget, target.error_increase, target.accuracy))


# --- to a file and back


def write_deployment(d: Deployment, path: Path) -> None:
    """Write ``path``, a policy file from which ``read_deployment`` makes the same deployment; whole or not at all.

    Raises InputError where it can't be written, and for what could not be read back, such as names with line breaks.
    """
    text = json.dumps(deployment_to_plain(d), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    deployment_from_plain(json.loads(text), str(path))
    content = text.encode()
    if excess := too_much(content):
        raise InputError("a policy that can be read back (fewer points, or a smaller topology)", excess, str(path))
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def read_deployment(path: Path) -> Deployment:
    """The deployment in ``path``, a policy file.

    In bounded time and memory, and nothing in it is run. Raises InputError, naming the place in the file, for anything
    that ``write_deployment`` can't have written; what comes back can route any outputs that ``check_outputs`` accepts.
    """
    return deployment_from_plain(read_json(path, "a policy file (eval.tune)"), str(path))


def deployment_to_plain(d: Deployment) -> dict[str, Any]:
    """The content of a policy file."""
    stages = {name: StageFields(c.network, float(c.trunk), float(c.head)) for name, c in d.costs.stages.items()}
    shares = {stage: float(share) for stage, share in d.target.shares.items()}
    of_its_own: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "description": described(d),
        "target": replace(d.target, shares=shares),
        "expected": ExpectedFields(
            d.expected.cost.tolist(), d.expected.error.tolist(), d.expected.reference, d.expected.examples
        ),
        "costs": CostFields(unit=d.costs.unit, device=d.costs.device, batch=d.costs.batch, stages=stages),
        "policies": policies_to_plain(d.fitted),
    }
    return plain_of(PolicyFields(**of_its_own, **{name: getattr(d, name) for name in ALIKE}))


def deployment_from_plain(found: Any, where: str) -> Deployment:
    """What ``deployment_to_plain`` wrote. Raises InputError, naming ``where``, for anything else."""
    if not isinstance(found, dict) or found.get("format") != FORMAT or type(found.get("version")) is not int:
        about = [found.get("format"), found.get("version")] if isinstance(found, dict) else type(found).__name__
        raise InputError(f"a policy file, format {FORMAT!r}, version {VERSION}", brief(about), where)
    refuse_version(found["version"], VERSION, where)
    if missing := [key for key in KEYS if key not in found]:
        raise InputError(f"a policy file with {', '.join(missing)}", "none", where)
    if strange := [key for key in found if key not in PolicyFields.__struct_fields__]:
        raise InputError(f"a policy file's keys, {', '.join(KEYS)}", brief(strange[0]), where)
    fitted = policies_from_plain(found["policies"], f"{where}, policies")
    fields = read_as(found, PolicyFields, where)
    expected, routes = fields.expected, fitted.sweep.routes
    costs = _costs(fields.costs, f"{where}, costs")
    _refuse_other_costs(routes, costs, where)
    _refuse_other_topology(fields.topology, routes, costs, where)
    points = len(fitted.sweep.prices) + len(fitted.plans) + len(fitted.mixtures)
    if not 0 <= fields.point < points:
        raise InputError(f"a whole number from 0 to {points - 1}", str(fields.point), f"{where}, point")
    if fields.classes != fitted.sweep.reader.classes:
        known = fitted.sweep.reader.classes
        raise InputError(f"the policies' {known} classes", str(fields.classes), f"{where}, classes")
    if strange := [stage for stage in fields.target.shares if stage not in routes.stages]:
        raise InputError(f"stages among {', '.join(routes.stages)}", brief(strange[0]), f"{where}, target")
    for name, numbers in (("cost", expected.cost), ("error", expected.error)):
        if len(numbers) != points:
            raise InputError(f"{points} numbers, one a point", str(len(numbers)), f"{where}, expected, {name}")
    for name in ("networks", "tuned"):
        if not _harmless(found[name], DEEPEST + 1):
            said = f"printable texts and numbers, {DEEPEST} deep at most"
            raise InputError(said, "others", f"{where}, {name}")
    if fields.certificate is not None:
        _refuse_other_certified(fields.certificate, fields.point, found["policies"], where)
    if fields.reference is not None:
        _refuse_other_bins(fields.reference, f"{where}, reference")
    return Deployment(
        fitted=fitted,
        costs=costs,
        target=Target(**msgspec.structs.asdict(fields.target)),
        expected=Expected(np.array(expected.cost), np.array(expected.error), expected.reference, expected.examples),
        **{name: getattr(fields, name) for name in ALIKE},
    )


def _harmless(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        below = [*value.keys(), *value.values()]
    elif isinstance(value, list):
        below = value
    else:
        return not isinstance(value, str) or is_text(value, LONGEST_TEXT)
    return depth > 0 and all(_harmless(item, depth - 1) for item in below)


# --- what one field says about another


def _costs(fields: CostFields, where: str) -> Costs:
    """As ``cascades.graph.costs`` reads them, but with every stage's network, trunk and head."""
    for name, cost in fields.stages.items():
        if any(0 < part < MIN_COST for part in (cost.trunk, cost.head)):
            found = f"{cost.trunk}, {cost.head}"
            raise InputError(f"a cost of 0 or from {MIN_COST:g} on", found, f"{where}, stages, {brief(name)}")
    if not any(cost.trunk or cost.head for cost in fields.stages.values()):
        raise InputError("a stage that costs more than 0", "zero for all", where)
    if not fields.unit.strip():
        raise InputError("a unit in words", "none", where)
    stages = {name: StageCost(cost.network, cost.trunk, cost.head) for name, cost in fields.stages.items()}
    return Costs(stages, fields.unit, fields.device, fields.batch)


def _refuse_other_costs(routes: Routes, costs: Costs, where: str) -> None:
    """Raises InputError unless the costs of the policies' paths are those of the stages."""
    if strange := [stage for stage in routes.stages if stage not in costs.stages]:
        raise InputError(f"the cost of {strange[0]}", "none", f"{where}, costs")
    if routes.unit != costs.unit:
        raise InputError(f"costs in {routes.unit}, as the policies have them", costs.unit, f"{where}, costs")
    expected = np.zeros(routes.spent.shape)
    for q, path in enumerate(routes.paths):
        names = tuple(routes.stages[s] for s in path)
        if len(path) > 1:  # a path stands behind the one that it lengthens
            expected[q] = expected[routes.index[path[:-1]]]
        expected[q, path[-1]] = costs.step(names[:-1], names[-1])
    alone = np.array([costs.step((), stage) for stage in routes.stages])
    if not np.allclose(routes.spent, expected, rtol=1e-9, atol=0) or (
        routes.alone is not None and not np.allclose(routes.alone, alone, rtol=1e-9, atol=0)
    ):
        raise InputError("costs by which the policies' paths cost what they do", "others", f"{where}, costs")


def _refuse_other_topology(topology: str, routes: Routes, costs: Costs, where: str) -> None:
    """Raises InputError unless the topology in words is that of the policies."""
    try:
        other = unroll(parse_topology(topology, tuple(costs.stages)), costs)
    except InputError as error:
        raise InputError(error.expected, error.found, f"{where}, topology") from None
    here, there = ({tuple(one.stages[s] for s in path) for path in one.paths} for one in (routes, other))
    if here != there:
        raise InputError("the topology of the policies", brief(topology), f"{where}, topology")


def _refuse_other_certified(certificate: Certificate, point: int, policies: Any, where: str) -> None:
    """Raises InputError for a certificate of another point, of other policies, or with two bounds on one risk."""
    if len({bound.risk for bound in certificate.bounds}) < len(certificate.bounds):
        found = f"two for {certificate.bounds[0].risk}"
        raise InputError("a bound for each risk", found, f"{where}, certificate, bounds")
    if certificate.point != point:
        expected = f"the certificate's point, {certificate.point} (or no certificate: null, and certify again)"
        raise InputError(expected, str(point), f"{where}, point")
    if certificate.policies != _digest(policies):
        expected = "the policies that the certificate was made for (or no certificate: null, and certify again)"
        raise InputError(expected, "others", f"{where}, policies")


def _refuse_other_bins(reference: Reference, where: str) -> None:
    """Raises InputError unless the edges rise and every path's counts are one more than the edges."""
    if any(low >= high for low, high in pairwise(reference.edges)):
        raise InputError("edges that rise", "others", where)
    bins = len(reference.edges) + 1
    for path, counts in reference.counts.items():
        if len(counts) != bins:
            found = str(len(counts))
            raise InputError(f"{bins} whole numbers from 0 on", found, f"{where}, counts, {brief(path)}")
