"""A policy file turned into a certified one: ``python -m eval.certify --policy X/policy.json --delta 0.05``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, inf, isfinite, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cascades.settings import guard, parse
from features.errors import InputError
from features.outputs import LEARNT, Floats, Ints

if TYPE_CHECKING:
    from cascades.deployment import Certificate, Deployment, Target
    from cascades.routing import Routing
    from features.outputs import Outputs

Losses = NDArray[Any]
"""(n,) in [0, 1]; False and True where nothing lies between."""

RISKS = ("increase", "error")

COST_SHARE = 0.1
"""Of delta, for the bound on the cost; the rest is the risk's, on which the saving depends."""

GROUP_SHARE = 0.3
"""Of delta, for groups where there are any."""

LEAST_EXAMPLES = 50
"""As eval.frontier asks of a part."""

LEAST_GROUP = 30
"""A bound for a group of fewer examples says next to nothing."""

MOST_NEEDED = 1_000_000
"""Examples that are searched for how many would do."""

LEAST_DELTA = 1e-6
"""Smaller ones take minutes."""

ROUNDING = 1e-12
REPEATED = 0.01
"""Share of examples that may be exact repetitions: data sets have some."""

NAMED = 10
"""Groups that a message names at most."""

ORDER = 0
"""Seed of the order in which the costs are bet on; any would do that does not depend on them."""

NONE_CERTIFIED = 1
"""Exit code where nothing can be certified; the policy file is as it was."""


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

    deployment = read_deployment(settings.policy)
    aim = aim_of(settings, deployment.target)
    outputs, note = certification_examples(deployment, settings.data)
    group = None if settings.groups is None else groups_of(settings.groups, outputs)
    done = certify(deployment, outputs, aim, settings.delta, group)
    notes = [note, used_before(deployment, done.certificate)]
    if done.certificate is None:
        _print([none_text(done, deployment, aim, settings.delta), *filter(None, notes)])
        return NONE_CERTIFIED
    from eval.drift import reference_of

    certified = replace(
        deployment,
        point=done.point,
        certificate=done.certificate,
        reference=reference_of(done.routings[done.point], outputs),
    )
    where = settings.out or settings.policy
    write_deployment(certified, where)
    show(certified, done, aim, [*filter(None, notes), f"  {where}"])
    return 0


# --- what is asked for


@dataclass(frozen=True)
class Aim:
    """The ``risk`` to bound by ``bound``, or as low as can be proven if that is None. ``walk``: whether the cheapest
    point that keeps to it is sought, or the policy's own point is judged."""

    risk: str
    bound: float | None
    walk: bool


def aim_of(settings: Settings, target: Target) -> Aim:
    """What the flags, or else the policy's own target, ask for.

    A budget, or shares of exits, were met by choosing a point, and so were two limits on the error at once: that point
    is judged, and no other. Raises InputError for an error that can't be.
    """
    own = {"increase": target.error_increase, "error": None if target.accuracy is None else 1 - target.accuracy}
    risk = settings.risk or next((risk for risk in RISKS if own[risk] is not None), "increase")
    bound = own[risk] if settings.target is None else settings.target
    if bound is not None and risk == "error" and not 0 < bound < 1:
        raise InputError(
            "an error between 0 and 1", str(bound), "--target" if settings.target is not None else "target"
        )
    several = all(each is not None for each in own.values())
    return Aim(risk, bound, bound is not None and target.budget is None and not target.shares and not several)


# --- the examples


def certification_examples(deployment: Deployment, where: str | None) -> tuple[Outputs, str]:
    """The examples to certify on, with the policy's stages in order, and what people should know about them.

    Those that were put aside in the policy's data folder, or those of the folder ``where``. Raises InputError where
    there are none, where any was learned from, and where the stages or the classes are others.
    """
    from cascades.checking import check_outputs

    outputs, note = _kept_aside(deployment) if where is None else _new(deployment, where)
    name = where or deployment.data
    if len(outputs) < LEAST_EXAMPLES:
        raise InputError(f"at least {LEAST_EXAMPLES} examples to certify on", str(len(outputs)), name)
    check_outputs(deployment.fitted.sweep, outputs, name)
    refuse_repeated(outputs, name)
    return outputs, note


def _kept_aside(deployment: Deployment) -> tuple[Outputs, str]:
    from cascades.folder import keep_back, read_folder
    from cascades.points import digest_of

    name = deployment.data
    try:
        data = read_folder(name, deployment.seed)
    except InputError as error:
        raise InputError(
            f"{error.expected}, the policy's data; or new examples: --data FOLDER", error.found, name
        ) from None
    if "certify" not in data.parts and not deployment.kept:
        raise InputError("examples that nothing was learned from: --data FOLDER", "no certify part", name)
    data = keep_back(data, deployment.kept, deployment.seed)
    changed = [
        part
        for part, outputs in data.parts.items()
        if part in (*LEARNT, "certify") and digest_of(outputs) != deployment.parts.get(part, digest_of(outputs))
    ]
    learnt = [part for part in LEARNT if part in data.parts]
    if changed or digest_of([data.parts[part] for part in learnt]) != deployment.fitted.examples:
        found = f"others in {', '.join(changed or learnt)}"
        raise InputError("the very examples that the policy was made with; or new ones: --data FOLDER", found, name)
    outputs = _of(data.parts["certify"], deployment, name)
    both = shared_examples(outputs, pooled([_of(data.parts[part], deployment, name) for part in learnt]))
    if len(both) > REPEATED * len(outputs):
        found = f"{len(both):,} of {len(outputs):,} that it was, such as id {both[0]}"
        raise InputError("a certify part that nothing was learned from", found, name)
    return outputs, ""


def _new(deployment: Deployment, where: str) -> tuple[Outputs, str]:
    from cascades.folder import read_folder
    from cascades.points import digest_of

    data = read_folder(where, deployment.seed)
    parts = [data.parts["certify"]] if "certify" in data.parts else list(data.parts.values())
    outputs = _of(pooled(parts), deployment, where)
    digests = {digest_of(part) for part in (*parts, outputs)}
    if learnt := digests.intersection([deployment.fitted.examples, *map(deployment.parts.get, LEARNT)]):
        raise InputError(
            "examples that nothing was learned from", f"the policy's own ({min(map(str, learnt))[:12]})", where
        )
    try:
        own = read_folder(deployment.data, deployment.seed)
        if deployment.kept or "certify" in own.parts:
            from cascades.folder import keep_back

            own = keep_back(own, deployment.kept, deployment.seed)
        learnt_parts = [own.parts[part] for part in LEARNT if part in own.parts]
        # a policy is fitted on the fit part, or on it and the tune part
        if deployment.fitted.examples not in (digest_of(learnt_parts), digest_of(learnt_parts[0])):
            raise InputError("the examples that the policy was fitted on", "others", own.name)
        learned = pooled([_of(part, deployment, own.name) for part in learnt_parts])
    except InputError:
        return outputs, (
            f"The policy's data, {deployment.data}, can't be read here: that none of these examples was learned from "
            "is taken on trust."
        )
    if both := shared_examples(outputs, learned):
        found = f"{len(both):,} of {len(outputs):,} that it was, such as id {both[0]}"
        raise InputError("examples that nothing was learned from", found, where)
    return outputs, ""


def _of(outputs: Outputs, deployment: Deployment, where: str) -> Outputs:
    """With the policy's stages, in its order."""
    stages = deployment.fitted.sweep.routes.stages
    if missing := [stage for stage in stages if stage not in outputs.names]:
        raise InputError(f"the policy's stages, {', '.join(stages)}", f"no {', '.join(missing)}", where)
    return outputs.of(stages)


def pooled(parts: Sequence[Outputs]) -> Outputs:
    """Several parts' examples as one certify part; the parts of one folder have the same stages."""
    if len(parts) == 1:
        return replace(parts[0], part="certify")
    stages = []
    for some in zip(*(part.stages for part in parts), strict=True):
        arrays: dict[str, Any] = {
            name: np.concatenate([getattr(stage, name) for stage in some])
            for name in ("answers", "logits", "pooled")
            if all(getattr(stage, name) is not None for stage in some)
        }
        names = [name for name in some[0].measured if all(name in stage.measured for stage in some)]
        measured = {name: np.concatenate([stage.measured[name] for stage in some]) for name in names}
        stages.append(replace(some[0], **{"answers": None, "logits": None, "pooled": None} | arrays, measured=measured))
    ids = np.concatenate([part.ids for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    return replace(parts[0], stages=tuple(stages), labels=labels, ids=ids, part="certify")


def shared_examples(outputs: Outputs, learned: Outputs) -> list[Any]:
    """Ids of the ``outputs`` that are among the ``learned`` examples, known by what the stages said of them.

    Logits tell examples apart whatever they are called, and so does a name, other than a row's number, with its label,
    whatever the digits of the logits. Answers alone don't: there the id has to be the same too, and where ids are but
    row numbers, most of the answers as well.
    """
    told = any(stage.logits is not None for stage in outputs.stages)
    texts = outputs.ids.dtype.kind == learned.ids.dtype.kind == "U"
    if told and texts and not all(map(str.isdecimal, outputs.ids.tolist())):
        known = set(zip(learned.ids.tolist(), learned.labels.tolist(), strict=True))
        named = [one for one in zip(outputs.ids.tolist(), outputs.labels.tolist(), strict=True) if one in known]
        if named:
            return [one for one, _ in named]
    there = set(_rows(learned, named=not told))
    both = [one for one, row in zip(outputs.ids.tolist(), _rows(outputs, named=not told), strict=True) if row in there]
    numbered = not told and sorted(map(str, outputs.ids.tolist())) == sorted(map(str, range(len(outputs))))
    return [] if numbered and 2 * len(both) < len(outputs) else both


def refuse_repeated(outputs: Outputs, where: str) -> None:
    """Raises InputError where more than ``REPEATED`` of the examples stand there already: they tell nothing twice."""
    if not any(stage.logits is not None for stage in outputs.stages):
        return  # answers of different examples are often the same
    n = len(outputs)
    again = n - len(set(_rows(outputs, named=False)))
    if again > REPEATED * n:
        raise InputError("examples that are all different", f"{again:,} of {n:,} that stand there twice", where)


def _rows(outputs: Outputs, named: bool) -> list[bytes]:
    """A digest of each example: its label, what every stage said, and its id if ``named``."""
    from hashlib import blake2b

    ids = outputs.ids.tolist() if named else [""] * len(outputs)
    heads = (f"{label} {one}" for label, one in zip(outputs.labels.tolist(), ids, strict=True))
    found = [blake2b(head.encode("utf-8", "surrogatepass"), digest_size=16) for head in heads]
    for stage in outputs.stages:
        columns = [stage.logits] if stage.logits is not None else [stage.answers, *stage.measured.values()]
        for column in columns:
            assert column is not None
            for row, digest in zip(column, found, strict=True):  # large ones are mapped, not in memory
                digest.update(np.asarray(row, dtype=np.float64).tobytes())
    return [digest.digest() for digest in found]


def used_before(deployment: Deployment, certificate: Certificate | None) -> str:
    """A warning where the policy has a certificate on the very same examples already."""
    old = deployment.certificate
    if old is None or certificate is None or old.digest != certificate.digest:
        return ""
    return (
        "The policy had a certificate on these very examples already: of several that are made on them, the best is "
        "wrong with a probability up to the sum of their deltas."
    )


def groups_of(where: str, outputs: Outputs) -> Any:
    """(n,) the name of each example's group: its label, or what the CSV file ``where`` says (columns id, group).

    Raises InputError for a file that can't be read, lacks an example or names it twice.
    """
    if where == "class":
        return outputs.labels.astype(str).astype(object)
    import csv

    from cascades.checking import is_text

    found: dict[str, str] = {}
    try:
        with Path(where).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"id", "group"} <= set(reader.fieldnames or ()):
                header = ", ".join(reader.fieldnames or ()) or "nothing"
                raise InputError("class, or a CSV file with the columns id and group", header, f"--groups {where}")
            for row in reader:
                one, name = row["id"], row["group"]
                if not is_text(one) or not is_text(name):
                    raise InputError(
                        "an id and a group of one line", repr(name)[:80], f"{where}, line {reader.line_num}"
                    )
                if found.setdefault(one, name) != name:
                    raise InputError(f"one group for {one!r}", f"{found[one]!r} and {name!r}", where)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError("class, or a CSV file with the columns id and group", reason, f"--groups {where}") from None
    if missing := [one for one in map(str, outputs.ids.tolist()) if one not in found]:
        raise InputError("a group for every example", f"none for {len(missing):,}, such as id {missing[0]}", where)
    return np.array([found[str(one)] for one in outputs.ids.tolist()], dtype=object)


# --- Learn-then-Test


def fixed_sequence(cost: Floats, error: Floats, most: float = inf, below: float = inf) -> Ints:
    """The points (of m) that are tested one after another, from the safest to the cheapest.

    Those that nothing cheaper is as accurate as, by the ``cost`` and ``error`` (m,) expected of them, which come from
    examples that no test will see: the order is fixed before. All of them, rather than those of the lower hull: one
    is tested at the full level whatever their number, neighbours fail or pass together, and a finer sequence ends
    closer to the bound. Points that cost ``below`` or more are left out, and those expected to err more than ``most``,
    but for the safest.

    >>> fixed_sequence(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.3, 0.1, 0.2, 0.05]))
    array([3, 1, 0])
    """
    front: list[int] = []
    least = inf
    for i in np.lexsort((error, cost)).tolist():
        if error[i] < least and cost[i] < below:
            front.append(i)
            least = float(error[i])
    kept = [i for i in front if error[i] <= most + ROUNDING]
    return np.array((kept or front[-1:])[::-1], int)


def risk_p(wrong: Losses, base: Losses | None, bound: float, level: float) -> float:
    """P-value for "the mean of ``wrong`` (n,), less that of ``base`` (n,) if given, is at least ``bound``".

    Exact for losses that are False or True; for others in [0, 1] Hoeffding and Bentkus', or a betting one for
    differences. ``level`` is what it will be held against.
    """
    from eval.bounds import betting_p, binomial_p, hoeffding_bentkus_p, paired_p, slack_for

    n = len(wrong)
    if base is None:
        if wrong.dtype == np.bool_:
            return binomial_p(int(wrong.sum()), n, bound)
        return hoeffding_bentkus_p(float(wrong.mean()), n, bound)
    if wrong.dtype == np.bool_ and base.dtype == np.bool_:
        return paired_p(int((wrong & ~base).sum()), int((base & ~wrong).sum()), n, bound, slack_for(level))
    return betting_p((_shuffled(wrong - base) + 1) / 2, (bound + 1) / 2, level)


def risk_bound(wrong: Losses, base: Losses | None, level: float) -> float:
    """Upper confidence bound for what ``risk_p`` tests."""
    from eval.bounds import betting_bound, binomial_bound, hoeffding_bentkus_bound, paired_bound

    n = len(wrong)
    if base is None:
        if wrong.dtype == np.bool_:
            return binomial_bound(int(wrong.sum()), n, level)
        return hoeffding_bentkus_bound(float(wrong.mean()), n, level)
    if wrong.dtype == np.bool_ and base.dtype == np.bool_:
        return paired_bound(int((wrong & ~base).sum()), int((base & ~wrong).sum()), n, level)
    return 2 * betting_bound((_shuffled(wrong - base) + 1) / 2, level) - 1


def cost_bound(cost: Floats, span: tuple[float, float], level: float) -> float:
    """Upper confidence bound for the mean of ``cost`` (n,), each within ``span``, by betting."""
    from eval.bounds import betting_bound

    low, high = span
    if high <= low:
        return high
    return low + (high - low) * betting_bound(np.clip((_shuffled(cost) - low) / (high - low), 0, 1), level)


def _shuffled(x: NDArray[Any]) -> Floats:
    """In an order that does not depend on ``x``: files may be sorted."""
    return np.asarray(x[np.random.default_rng(ORDER).permutation(len(x))], dtype=float)


@dataclass(frozen=True)
class Walked:
    """What came of a sequence of points: the p-values that were looked at; how many points ``passed``; of the last
    that did the bounds, and the means on the examples."""

    p: tuple[float, ...]
    passed: int
    risk_bound: float = inf
    cost_bound: float = inf
    value: float = inf
    cost: float = inf
    groups: Mapping[str, float] = field(default_factory=dict)


def certify_points(
    wrong: Sequence[Losses],
    cost: Sequence[Floats],
    base: Losses | None,
    bound: float | None,
    delta: float,
    span: tuple[float, float],
    group: Any = None,
) -> Walked:
    """Test points, in the order in which they are given, until one fails; the last that did not is certified.

    Learn-then-Test (Angelopoulos, Bates, Candès, Jordan & Lei, 2021) with fixed-sequence testing: as the order does
    not depend on the examples, each point is tested at the full level, and the first false hypothesis "its risk is at
    least ``bound``" is rejected wrongly with at most that probability, so that a point that breaks the bound is
    certified with no more. ``wrong`` and ``cost`` hold (n,) for each of the points, which may be made when they are
    asked for; ``base`` (n,) is what the risk is over, None for the error itself; ``bound`` None: of a single point
    the smallest bound.

    A tenth of ``delta`` is for the cost of the point, and with a ``group`` (n,) of each example three tenths for the
    risk within each. Which point these are said of depends on the examples, so that they have to hold for all of the
    points at once: their levels are divided by the number of points (Bonferroni), and the groups' by that of groups,
    known before any loss. All that is said holds together with probability at least 1 - ``delta``. Groups of fewer
    than ``LEAST_GROUP`` examples have no bound.
    """
    m = len(wrong)
    for_cost, for_groups = COST_SHARE * delta, GROUP_SHARE * delta if group is not None else 0.0
    level = delta - for_cost - for_groups
    p: list[float] = []
    if bound is None:
        if m != 1:
            raise ValueError("the smallest bound is that of one point")
        passed, proven = 1, risk_bound(wrong[0], base, level)
    else:
        for losses in wrong:
            p.append(risk_p(losses, base, bound, level))
            if p[-1] > level:
                break
        passed, proven = sum(one <= level for one in p), bound
    if not passed:
        return Walked(tuple(p), 0)
    losses, costs = wrong[passed - 1], cost[passed - 1]
    within: dict[str, float] = {}
    if group is not None:
        names, sizes = _sizes(group)
        large = [name for name in names if sizes[name] >= LEAST_GROUP]
        for name in large:
            rows = group == name
            of_base = None if base is None else base[rows]
            within[name] = risk_bound(losses[rows], of_base, for_groups / (m * len(large)))
    value = float(losses.mean(dtype=float)) - (0.0 if base is None else float(base.mean(dtype=float)))
    return Walked(
        tuple(p), passed, proven, cost_bound(costs, span, for_cost / m), value, float(costs.mean(dtype=float)), within
    )


def _sizes(group: Any) -> tuple[list[str], dict[str, int]]:
    """The groups' names, in order, and how many examples each has."""
    names, counts = np.unique(group.astype(str), return_counts=True)
    sizes = dict(zip(names.tolist(), counts.tolist(), strict=True))
    whole = all(name.isdecimal() for name in sizes)
    return sorted(sizes, key=lambda name: (int(name) if whole else 0, name)), sizes


def examples_needed(wrong: Losses, base: Losses | None, bound: float, level: float) -> int | None:
    """About how many examples would do to certify ``bound`` if they came out as these (n,) did, only more of them; None
    if no number up to ``MOST_NEEDED`` would. Two digits, rounded up."""
    from eval.bounds import binomial_p, paired_p, slack_for

    n = len(wrong)
    worse = int(((wrong != 0) & (base == 0)).sum()) if base is not None else int((wrong != 0).sum())
    better = int(((wrong == 0) & (base != 0)).sum()) if base is not None else 0

    def enough(examples: int) -> bool:
        more, fewer = (round(count * examples / n) for count in (worse, better))
        if base is None:
            return binomial_p(more, examples, bound) <= level
        return paired_p(more, min(fewer, examples - more), examples, bound, slack_for(level)) <= level

    if (worse - better) / n >= bound or not enough(MOST_NEEDED):
        return None
    low, high = 0, MOST_NEEDED
    while high - low > max(high // 100, 1):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    digits = int(10 ** max(int(log10(high)) - 1, 0))
    return -(-high // digits) * digits


# --- a deployment certified


@dataclass(frozen=True)
class Done:
    """What came of certifying: the ``point``, its ``certificate`` (None: none), every point's routing, the ``steps``
    that could be gone, what was ``picked`` for the same target without a certificate, how many examples would be
    ``needed`` if there is none, the size and the risk ``within`` each group, and the sizes of those too ``small`` for a
    bound."""

    point: int
    certificate: Certificate | None
    routings: Sequence[Routing]
    base: Losses
    steps: int
    picked: int
    needed: int | None = None
    best: float = inf
    within: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    small: Mapping[str, int] = field(default_factory=dict)


def certify(deployment: Deployment, outputs: Outputs, aim: Aim, delta: float, group: Any = None) -> Done:
    """Test the deployment's points, or its own, on ``outputs``, whose stages are the policy's.

    The points that are tested are cheaper than the largest stage, where the risk is over that. Raises InputError where
    no outcome whatever would do, and where no group is large enough.
    """
    from cascades.answers import LOSSES
    from cascades.deployment import Certificate, largest
    from cascades.outcomes import single_outcomes
    from cascades.points import cheapest_within, digest_of

    fitted, expected = deployment.fitted, deployment.expected
    routes = fitted.sweep.routes
    sizes = {} if group is None else _sizes(group)[1]
    small = {name: size for name, size in sizes.items() if size < LEAST_GROUP}
    if sizes and len(small) == len(sizes):
        found = f"{len(sizes)} groups, the largest of {max(sizes.values())}"
        raise InputError(f"a group of at least {LEAST_GROUP} examples", found, "--groups")
    _refuse_too_few(len(outputs), aim, delta, group is not None)
    top = largest(routes)
    routings = fitted.route(outputs)
    base = single_outcomes(outputs, LOSSES[fitted.sweep.loss], fitted.sweep.reader.calibration).wrong[:, top] != 0
    over = base if aim.risk == "increase" else None
    order, picked = np.array([deployment.point]), deployment.point
    if aim.walk and aim.bound is not None:
        most = aim.bound + (expected.reference if over is not None else 0.0)
        alone = inf if over is None or routes.alone is None else float(routes.alone[top])
        order = fixed_sequence(expected.cost, expected.error, most, alone)
        picked = cheapest_within(expected.cost, expected.error, most)
    wrong = [np.asarray(routings[i].wrong) != 0 for i in order]
    span = float(routes.cost.min()), float(routes.cost.max())
    tested = (
        certify_points(wrong, [routings[i].cost for i in order], over, aim.bound, delta, span, group)
        if len(order)
        else Walked((), 0)
    )
    if not tested.passed:
        level = delta * (1 - COST_SHARE - (GROUP_SHARE if group is not None else 0.0))
        needed, best = _what_would_do(wrong, over, aim.bound or 0.0, level)
        return Done(deployment.point, None, routings, base, len(order), picked, needed, best)
    how = "exact binomial tail" if over is None else "exact unconditional test of paired losses"
    walked = f"fixed sequence of {len(order)} points" if aim.walk else "one point"
    certificate = Certificate(
        delta,
        aim.risk,
        tested.risk_bound,
        tested.cost_bound,
        tested.value,
        tested.cost,
        len(outputs),
        digest_of(outputs),
        f"Learn-then-Test, {walked}, {how}; mean cost by betting",
        tested.groups,
    )
    change = wrong[tested.passed - 1].astype(float) - (0.0 if over is None else over)
    within = {name: (sizes[name], float(change[group == name].mean())) for name in tested.groups}
    return Done(
        int(order[tested.passed - 1]), certificate, routings, base, len(order), picked, None, inf, within, small
    )


def _refuse_too_few(n: int, aim: Aim, delta: float, grouped: bool) -> None:
    """Raises InputError where not even a point that was never wrong would be certified."""
    level = delta * (1 - COST_SHARE - (GROUP_SHARE if grouped else 0.0))
    none = np.zeros(n, bool)
    if aim.bound is None or aim.risk != "error" or risk_p(none, None, aim.bound, level) <= level:
        return
    needed = examples_needed(none, None, aim.bound, level)
    expected = f"at least {needed:,} examples" if needed else "more than a million examples"
    raise InputError(f"{expected}, to certify an error of {aim.bound:g} at delta {delta:g}", f"{n:,}", "--delta")


def _what_would_do(
    wrong: Sequence[Floats], base: Floats | None, bound: float, level: float
) -> tuple[int | None, float]:
    """How many examples would do for the point that is likeliest to pass, and the least risk of all points here."""
    if not wrong:
        return None, inf
    n = len(wrong[0])
    change = np.array([losses.astype(float) - (0.0 if base is None else base) for losses in wrong])
    mean = change.mean(axis=1)
    sure = (bound - mean) / np.sqrt(change.var(axis=1) + 1 / n)
    return examples_needed(wrong[int(sure.argmax())], base, bound, level), float(mean.min())


# --- what is printed


def none_text(done: Done, deployment: Deployment, aim: Aim, delta: float) -> str:
    """Why nothing was certified, and what would help."""
    n, stage, bound = len(done.base), _largest_name(deployment), aim.bound or 0.0
    over = aim.risk == "increase"
    promise = (
        f"errors at most {100 * bound:g} points over {stage}'s" if over else f"an error of at most {100 * bound:g} %"
    )
    if not isfinite(done.best):
        return f"No point can be certified for {promise}: none is cheaper than {stage} alone."
    start = f"None can be certified for {promise} with {n:,} examples (delta {delta:g})"
    if done.needed:
        return f"{start}; about {done.needed:,} would be needed if they came out like these."
    if done.best >= bound:
        shown = f"{100 * done.best:.2f} points over {stage}'s" if over else f"{100 * done.best:.2f} %"
        return f"{start}: the best that was tried has {shown} on these, and more of them would not help."
    return f"{start}, nor with a million if they came out like these."


def show(deployment: Deployment, done: Done, aim: Aim, notes: Sequence[str]) -> None:
    """Print what the certified point costs and risks, what certainty cost, and where the file is."""
    from eval.table import number, plain_table

    certificate, point = deployment.certificate, done.point
    assert certificate is not None
    stage, alone = _largest_name(deployment), _alone(deployment)
    cost, most = certificate.cost, certificate.cost_bound
    sign = "+" if aim.risk == "increase" else ""
    table = plain_table("")
    for name in ("", "measured", "certified"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row(f"cost, {deployment.costs.unit}", number(cost), f"at most {number(most)}")
    if cost > 0:
        table.add_row(f"times cheaper than {stage}", number(alone / cost), f"at least {number(alone / most)}")
    title = f"error over {stage}'s, points" if sign else "error, %"
    table.add_row(title, *_points(certificate.value, certificate.risk_bound, sign))
    head = f"Point {point}, certified on {certificate.examples:,} examples that nothing was learned from:"
    lines: list[Any] = [
        f"All that is certified holds together with probability at least {100 * (1 - certificate.delta):g} %."
    ]
    picked = done.routings[done.picked].mean_cost
    if aim.walk and done.picked != point and alone > picked:
        lost = 1 - (alone - cost) / (alone - picked)
        more = f"costs {100 * lost:.0f} % of the saving" if lost >= 0.005 else "costs none of the saving"
        lines.append(f"Certainty {more}: for the same target without it, point {done.picked} costs {number(picked)}.")
    budget = deployment.target.budget
    if budget is not None:
        verdict = "is certified too" if most <= budget else "is not certified: the bound on the cost lies above it"
        lines.append(f"The budget of {number(budget)} {deployment.costs.unit} {verdict}.")
    if certificate.groups:
        each = plain_table("")
        for name in ("group", "examples", title, "certified"):
            each.add_column(name, justify="left" if name == "group" else "right")
        for name, bound in certificate.groups.items():
            examples, value = done.within[name]
            each.add_row(name, f"{examples:,}", *_points(value, bound, sign))
        lines.insert(0, each)
    if done.small:
        some = [f"{name} ({size})" for name, size in list(done.small.items())[:NAMED]]
        more = f" and {len(done.small) - NAMED} more" if len(done.small) > NAMED else ""
        lines.append(f"No bound for groups of fewer than {LEAST_GROUP} examples: {', '.join(some)}{more}.")
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
