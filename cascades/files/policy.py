"""One operating point and all that is needed to trust, run and watch it: the policy file, ``policy.json``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from offramp.cascades.files.policies import policies_from_plain, policies_to_plain, refuse_version
from offramp.cascades.files.validation import MOST_STAGES
from offramp.cascades.graph.costs import MAX_COST, MIN_COST, Costs, StageCost
from offramp.cascades.graph.routing import Routes
from offramp.cascades.graph.topology import parse_topology, unroll
from offramp.cascades.learning.answers import LOSSES
from offramp.cascades.learning.points import Fitted
from offramp.cascades.learning.targets import Expected, Target
from offramp.features.checks import LONGEST_NAME, is_text
from offramp.features.errors import InputError
from offramp.features.outputs import PARTS
from offramp.features.store.atomic import replacing
from offramp.features.store.reading import MAX_CLASSES
from offramp.features.store.strictjson import brief, read_json, too_much

FORMAT, VERSION = "offramp policy", 1

SCHEMA = Path(__file__).parent / "policy.schema.json"
"""What a policy file looks like, for those who read one otherwise: JSON Schema, draft 2020-12."""

MOST_EXAMPLES = 2**53
LONGEST_TEXT = 10_000
DEEPEST = 20
"""Lists within lists at most, in what is only kept for people."""


@dataclass(frozen=True)
class Bound:
    """The mean of a ``risk``, "increase" (loss over the largest stage's) or "error" (loss), is at most ``most``.

    ``value``: its mean on the examples. ``groups``: the bound within each group that has one.
    """

    risk: str
    most: float
    value: float
    groups: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Certificate:
    """With probability at least 1 - ``delta`` over the examples it was made on, all ``bounds`` hold together with that
    on the cost, of the cascade number ``point`` of the ``policies`` (``policies_digest``) and no other.

    ``cost_bound``: what the mean cost is at most; ``cost`` what it was on the ``examples``, whose ``digest``
    (``digest_of``) tells which they were. ``method``: of the test, in words.
    """

    delta: float
    bounds: tuple[Bound, ...]
    cost_bound: float
    cost: float
    examples: int
    digest: str
    method: str
    point: int
    policies: str


@dataclass(frozen=True)
class Attempt:
    """One try at certifying something on some examples, whatever came of it: tries add up.

    ``digest`` of the examples and how many they are; ``policies`` the digest of the policies; ``asked``: what was
    tested, in words; ``point``: what was certified, None if nothing was.
    """

    digest: str
    examples: int
    delta: float
    policies: str
    asked: str
    point: int | None


@dataclass(frozen=True)
class Reference:
    """How the point behaves where the world is as it was: what a watched stream is held against.

    ``exits``: per path ("alexnet>resnet") how many of the ``examples`` stopped at its end. ``edges`` (b - 1,) cut
    confidences (maximum softmax probabilities of the stage that answered last) into b bins, and ``counts`` says for
    each path how many examples fell into which, (b,); a path whose last stage has no such number is not in it.
    ``answers``: how many were answered with each class. ``wrong``: how many answers were wrong; None if unknown.
    """

    examples: int
    exits: Mapping[str, int]
    edges: tuple[float, ...]
    counts: Mapping[str, tuple[int, ...]]
    answers: tuple[int, ...] = ()
    wrong: int | None = None


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


def policies_digest(fitted: Fitted) -> str:
    """SHA-256 of all that decides where an example stops and what that costs."""
    return _digest(policies_to_plain(fitted))


def _digest(policies: Mapping[str, Any]) -> str:
    deciding = {key: value for key, value in policies.items() if key != "cascades"}  # words for people
    text = json.dumps(deciding, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=_number)
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
    text = json.dumps(deployment_to_plain(d), indent=1, ensure_ascii=False, allow_nan=False, default=_number) + "\n"
    deployment_from_plain(json.loads(text), str(path))
    content = text.encode()
    if excess := too_much(content):
        raise InputError("a policy that can be read back (fewer points, or a smaller topology)", excess, str(path))
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _number(value: Any) -> Any:
    """A number of numpy's as one of Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in a policy file")


def read_deployment(path: Path) -> Deployment:
    """The deployment in ``path``, a policy file.

    In bounded time and memory, and nothing in it is run. Raises InputError, naming the place in the file, for anything
    that ``write_deployment`` can't have written; what comes back can route any outputs that ``check_outputs`` accepts.
    """
    return deployment_from_plain(read_json(path, "a policy file (eval.tune)"), str(path))


def deployment_to_plain(d: Deployment) -> dict[str, Any]:
    """The content of a policy file."""
    costs: dict[str, Any] = {"unit": d.costs.unit, "device": d.costs.device, "batch": d.costs.batch}
    stages = {
        name: {"network": c.network, "trunk": float(c.trunk), "head": float(c.head)}
        for name, c in d.costs.stages.items()
    }
    return {
        "format": FORMAT,
        "version": VERSION,
        "description": described(d),
        "topology": d.topology,
        "point": d.point,
        "target": {**asdict(d.target), "shares": {stage: float(share) for stage, share in d.target.shares.items()}},
        "expected": {
            "cost": d.expected.cost.tolist(),
            "error": d.expected.error.tolist(),
            "reference": d.expected.reference,
            "examples": d.expected.examples,
        },
        "certificate": None if d.certificate is None else asdict(d.certificate),
        "attempts": [asdict(attempt) for attempt in d.attempts],
        "reference": None if d.reference is None else asdict(d.reference),
        "data": d.data,
        "seed": d.seed,
        "kept": d.kept,
        "parts": dict(d.parts),
        "classes": d.classes,
        "networks": dict(d.networks),
        "tuned": dict(d.tuned),
        "versions": dict(d.versions),
        "costs": {**costs, "stages": stages},
        "policies": policies_to_plain(d.fitted),
    }


def deployment_from_plain(found: Any, where: str) -> Deployment:
    """What ``deployment_to_plain`` wrote. Raises InputError, naming ``where``, for anything else."""
    if not isinstance(found, dict) or found.get("format") != FORMAT or type(found.get("version")) is not int:
        about = [found.get("format"), found.get("version")] if isinstance(found, dict) else type(found).__name__
        raise InputError(f"a policy file, format {FORMAT!r}, version {VERSION}", brief(about), where)
    refuse_version(found["version"], VERSION, where)
    known = {*KEYS, "format", "version", "description"}
    if missing := [key for key in KEYS if key not in found]:
        raise InputError(f"a policy file with {', '.join(missing)}", "none", where)
    if strange := [key for key in found if key not in known]:
        raise InputError(f"a policy file's keys, {', '.join(KEYS)}", brief(strange[0]), where)
    at = _At(found, where)
    costs = _costs(at.inside("costs"))
    fitted = policies_from_plain(found["policies"], f"{where}, policies")
    points = len(fitted.sweep.prices) + len(fitted.plans) + len(fitted.mixtures)
    routes = fitted.sweep.routes
    _refuse_other_costs(routes, costs, where)
    _refuse_other_topology(at.text("topology", LONGEST_TEXT), routes, costs, where)
    classes = at.whole("classes", 1, MAX_CLASSES)
    if classes != fitted.sweep.reader.classes:
        raise InputError(f"the policies' {fitted.sweep.reader.classes} classes", str(classes), f"{where}, classes")
    deployment = Deployment(
        fitted,
        at.whole("point", 0, points - 1),
        at.text("topology", LONGEST_TEXT),
        costs,
        _target(at.inside("target"), routes),
        _expected(at.inside("expected"), points),
        at.text("data", LONGEST_TEXT),
        at.whole("seed", 0, 2**63 - 1),
        at.number("kept", 0, 1),
        at.mapping("parts", lambda here, key: here.text(key)),
        classes,
        at.mapping("networks", lambda here, key: here.anything(key)),
        at.mapping("tuned", lambda here, key: here.anything(key)),
        at.mapping("versions", lambda here, key: here.text(key)),
        None if found["certificate"] is None else _certificate(at.inside("certificate")),
        None if found["reference"] is None else _reference(at.inside("reference")),
        _attempts(found["attempts"], f"{where}, attempts"),
    )
    certificate = deployment.certificate
    if certificate is not None:
        if certificate.point != deployment.point:
            expected = f"the certificate's point, {certificate.point} (or no certificate: null, and certify again)"
            raise InputError(expected, str(deployment.point), f"{where}, point")
        if certificate.policies != _digest(found["policies"]):
            expected = "the policies that the certificate was made for (or no certificate: null, and certify again)"
            raise InputError(expected, "others", f"{where}, policies")
    if strange := [part for part in deployment.parts if part not in PARTS]:
        raise InputError(f"parts among {', '.join(PARTS)}", brief(strange[0]), f"{where}, parts")
    return deployment


KEYS = (
    *("topology", "point", "target", "expected", "certificate", "attempts", "reference", "data", "seed", "kept"),
    *("parts", "classes", "networks", "tuned", "versions", "costs", "policies"),
)
"""What a policy file must hold besides its format and version, and all that it may, but for a description."""


class _At:
    """An object of a JSON file and where it stands; every look into it tells what it expects."""

    def __init__(self, found: Any, where: str, keys: tuple[str, ...] = ()) -> None:
        self.found, self.where = found, where
        if not isinstance(found, dict):
            raise InputError("an object", brief(type(found).__name__), where)
        if keys and (strange := [key for key in found if key not in keys]):
            raise InputError(f"keys among {', '.join(keys)}", brief(strange[0]), where)

    def _refuse(self, key: str, expected: str) -> InputError:
        value = self.found.get(key)
        shown = brief(ascii(value)) if type(value) in SIMPLE else type(value).__name__
        return InputError(expected, shown if key in self.found else "none", f"{self.where}, {brief(key)}")

    def _one(self, key: str, fine: Callable[[Any], bool], expected: str) -> Any:
        if key not in self.found or not fine(self.found[key]):
            raise self._refuse(key, expected)
        return self.found[key]

    def inside(self, key: str, keys: tuple[str, ...] = ()) -> _At:
        return _At(self.found.get(key), f"{self.where}, {brief(key)}", keys)

    def whole(self, key: str, least: int, most: int) -> int:
        fine = self._one(key, lambda v: type(v) is int and least <= v <= most, f"a whole number from {least} to {most}")
        return int(fine)

    def number(self, key: str, least: float, most: float) -> float:
        expected = f"a number from {least:g} to {most:g}"
        return float(self._one(key, lambda v: type(v) in (int, float) and least <= v <= most, expected))

    def perhaps(self, key: str, least: float, most: float) -> float | None:
        return None if self.found.get(key) is None else self.number(key, least, most)

    def text(self, key: str, longest: int = LONGEST_NAME) -> str:
        expected = f"a line of text of at most {longest} characters"
        return str(self._one(key, lambda v: is_text(v, longest), expected))

    def numbers(self, key: str, least: float, most: float, count: int | None = None) -> list[float]:
        def fine(v: Any) -> bool:
            right = isinstance(v, list) and (count is None or len(v) == count)
            return right and all(type(x) in (int, float) and least <= x <= most for x in v)

        size = "numbers" if count is None else f"{count} numbers"
        return list(map(float, self._one(key, fine, f"{size} from {least:g} to {most:g}")))

    def counts(self, key: str, count: int | None = None) -> tuple[int, ...]:
        def fine(v: Any) -> bool:
            right = isinstance(v, list) and (count is None or len(v) == count)
            return right and all(type(x) is int and 0 <= x <= MOST_EXAMPLES for x in v)

        return tuple(self._one(key, fine, f"{'whole' if count is None else f'{count} whole'} numbers from 0 on"))

    def mapping(self, key: str, one: Callable[[_At, str], Any]) -> dict[str, Any]:
        here = self.inside(key)
        if strange := [name for name in here.found if not is_text(name, LONGEST_NAME)]:
            raise InputError("names that can be printed", brief(ascii(strange[0])), here.where)
        return {name: one(here, name) for name in here.found}

    def anything(self, key: str) -> Any:
        return self._one(key, lambda v: _harmless(v, DEEPEST), f"printable texts and numbers, {DEEPEST} deep at most")


SIMPLE = (str, int, float, bool, type(None))


def _harmless(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        below = [*value.keys(), *value.values()]
    elif isinstance(value, list):
        below = value
    else:
        return not isinstance(value, str) or is_text(value, LONGEST_TEXT)
    return depth > 0 and all(_harmless(item, depth - 1) for item in below)


def _costs(at: _At) -> Costs:
    """As ``cascades.graph.costs`` reads them, but with every stage's network, trunk and head."""
    found = at.inside("stages").found
    if not 0 < len(found) <= MOST_STAGES:
        raise InputError(f"1 to {MOST_STAGES} stages", str(len(found)), at.where)

    def stage(here: _At, name: str) -> StageCost:
        inner = here.inside(name, ("network", "trunk", "head"))
        trunk, head = inner.number("trunk", 0, MAX_COST), inner.number("head", 0, MAX_COST)
        if any(0 < cost < MIN_COST for cost in (trunk, head)):
            raise InputError(f"a cost of 0 or from {MIN_COST:g} on", f"{trunk}, {head}", inner.where)
        return StageCost(inner.text("network"), trunk, head)

    stages = at.mapping("stages", stage)
    batch = None if at.found.get("batch") is None else at.whole("batch", 1, 2**63 - 1)
    if not any(cost.trunk or cost.head for cost in stages.values()):
        raise InputError("a stage that costs more than 0", "zero for all", at.where)
    if not at.text("unit").strip():
        raise InputError("a unit in words", "none", at.where)
    return Costs(stages, at.text("unit"), at.text("device", LONGEST_TEXT), batch)


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


def _target(at: _At, routes: Routes) -> Target:
    shares = at.mapping("shares", lambda here, stage: here.number(stage, 0, 1))
    if strange := [stage for stage in shares if stage not in routes.stages]:
        raise InputError(f"stages among {', '.join(routes.stages)}", brief(strange[0]), at.where)
    budget = at.perhaps("budget", 0, MAX_COST * MOST_STAGES)
    return Target(budget, at.perhaps("error_increase", 0, 1), at.perhaps("accuracy", 0, 1), shares)


def _expected(at: _At, points: int) -> Expected:
    cost = np.array(at.numbers("cost", 0, MAX_COST * MOST_STAGES, points))
    error = np.array(at.numbers("error", 0, 1, points))
    return Expected(cost, error, at.number("reference", 0, 1), at.whole("examples", 1, MOST_EXAMPLES))


def _certificate(at: _At) -> Certificate:
    bounds = at.found.get("bounds")
    if not isinstance(bounds, list) or not 0 < len(bounds) <= len(RISKS):
        raise InputError("1 or 2 bounds", brief(type(bounds).__name__), f"{at.where}, bounds")
    found = tuple(_bound(_At(bound, f"{at.where}, bounds")) for bound in bounds)
    if len({bound.risk for bound in found}) < len(found):
        raise InputError("a bound for each risk", f"two for {found[0].risk}", f"{at.where}, bounds")
    return Certificate(
        _delta(at),
        found,
        at.number("cost_bound", 0, MAX_COST * MOST_STAGES),
        at.number("cost", 0, MAX_COST * MOST_STAGES),
        at.whole("examples", 1, MOST_EXAMPLES),
        at.text("digest"),
        at.text("method", LONGEST_TEXT),
        at.whole("point", 0, MOST_EXAMPLES),
        at.text("policies"),
    )


def _delta(at: _At) -> float:
    delta = at.number("delta", 0, 1)
    if not 0 < delta < 1:
        raise InputError("a number between 0 and 1", brief(delta), f"{at.where}, delta")
    return delta


RISKS = ("increase", "error")


def _bound(at: _At) -> Bound:
    risk = at.text("risk")
    if risk not in RISKS:
        raise InputError(f"a risk among {', '.join(RISKS)}", brief(risk), at.where)
    groups = at.mapping("groups", lambda here, group: here.number(group, -1, 1))
    return Bound(risk, at.number("most", -1, 1), at.number("value", -1, 1), groups)


MOST_ATTEMPTS = 10_000


def _attempts(found: Any, where: str) -> tuple[Attempt, ...]:
    if not isinstance(found, list) or len(found) > MOST_ATTEMPTS:
        raise InputError(f"a list of at most {MOST_ATTEMPTS:,} attempts", brief(type(found).__name__), where)
    return tuple(_attempt(_At(one, where)) for one in found)


def _attempt(at: _At) -> Attempt:
    return Attempt(
        at.text("digest"),
        at.whole("examples", 1, MOST_EXAMPLES),
        _delta(at),
        at.text("policies"),
        at.text("asked", LONGEST_TEXT),
        None if at.found.get("point") is None else at.whole("point", 0, MOST_EXAMPLES),
    )


def _reference(at: _At) -> Reference:
    edges = tuple(at.numbers("edges", -1e18, 1e18))
    if any(low >= high for low, high in pairwise(edges)):
        raise InputError("edges that rise", "others", at.where)
    return Reference(
        at.whole("examples", 1, MOST_EXAMPLES),
        at.mapping("exits", lambda here, path: here.whole(path, 0, MOST_EXAMPLES)),
        edges,
        at.mapping("counts", lambda here, path: here.counts(path, len(edges) + 1)),
        at.counts("answers"),
        None if at.found.get("wrong") is None else at.whole("wrong", 0, MOST_EXAMPLES),
    )
