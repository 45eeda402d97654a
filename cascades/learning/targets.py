"""What a user wants of an operating point turned into the point, or the mixture of two, that meets it best."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from offramp.cascades.graph.routing import Routes, Routing
from offramp.cascades.graph.topology import parse_topology
from offramp.cascades.learning.points import ROUNDING, Fitted, Mixture
from offramp.features.errors import InputError
from offramp.features.outputs import Floats


@dataclass(frozen=True)
class Target:
    """What was asked for; whatever is None or empty was not.

    ``budget``: mean cost of an example, in the costs' unit. ``error_increase``: mean loss over that of the largest
    stage, in [0, 1]. ``accuracy``: at least one minus the mean loss. ``shares``: per stage, at most this share of the
    examples may exit there. At least one is given.
    """

    budget: float | None = None
    error_increase: float | None = None
    accuracy: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Expected:
    """What each of the m points of a ``Fitted`` did on the examples that points are picked on, held out.

    ``cost``, ``error`` (m,); ``reference`` the mean loss of the largest stage there; ``examples`` how many.
    """

    cost: Floats
    error: Floats
    reference: float
    examples: int


SHOWN = 60
"""Characters of a user's own text that a message repeats."""

# --- units


@dataclass(frozen=True)
class Unit:
    """What is counted (``kind``, "time"), in how many of its smallest unit known here (``size``), and for how many of
    what (``per`` "image", ``times`` 1)."""

    kind: str
    size: float
    per: str = ""
    times: float = 1.0


PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
NUMERALS = {"": 1.0, "thousand ": 1e3, "million ": 1e6, "billion ": 1e9}
UNITS: dict[str, tuple[str, float]] = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), ("time", 1e9)),
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), ("time", 1e6)),
    **dict.fromkeys(("us", "\N{MICRO SIGN}s", "\N{GREEK SMALL LETTER MU}s", "microseconds"), ("time", 1e3)),
    **dict.fromkeys(("ns", "nanoseconds"), ("time", 1.0)),
    **{f"{p}{name}": ("MACs", size) for p, size in PREFIXES.items() for name in ("mac", "macs")},
    **{f"{p}multiply-add{s}": ("MACs", size) for p, size in NUMERALS.items() for s in ("", "s")},
    **{f"{p}{name}": ("FLOPs", size) for p, size in PREFIXES.items() for name in ("flop", "flops")},
    **dict.fromkeys(("$", "usd", "us$", "dollar", "dollars"), ("US dollars", 1.0)),
    **dict.fromkeys(("\N{EURO SIGN}", "eur", "euro", "euros"), ("euros", 1.0)),
}
"""Names of units, in any case, and how many of the smallest of their kind each is."""

BARE = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
"""Short for so many multiply-adds, or operations, where costs are counted in such."""

UNDERSTOOD = "s, ms, us, ns; MACs, kMACs, MMACs, GMACs; FLOPs, MFLOPs, GFLOPs; $"
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
PER = re.compile(r"(?:\bper\b|/)\s*(?:([0-9][0-9,]*)\s*)?(\S.*)")


def unit_of(text: str) -> Unit | None:
    """What ``text``, the unit of a costs.json or a user's own, counts; None if it is no unit that is known here.

    >>> unit_of("ms per image")
    Unit(kind='time', size=1000000.0, per='image', times=1.0)
    >>> unit_of("USD per 10,000 calls")
    Unit(kind='US dollars', size=1.0, per='call', times=10000.0)
    """
    head, per, times = _parted(text)
    known = UNITS.get(head.lower())
    return None if known is None else Unit(*known, per, times)


def _parted(text: str) -> tuple[str, str, float]:
    """The unit itself, what it is for ("" if that is not said), and for how many."""
    tail = PER.search(text)
    if tail is None:
        return " ".join(text.split()), "", 1.0
    count = float((tail[1] or "1").replace(",", "")[:15])
    noun = " ".join(tail[2].split()).lower()
    return " ".join(text[: tail.start()].split()), noun.removesuffix("s") if len(noun) > 3 else noun, count or 1.0


def parse_budget(text: str, unit: str) -> float:
    """``text``, a number and perhaps a unit, as a number of ``unit``, that of a costs.json.

    Units of one kind are converted; a bare number counts the costs' own unit; what the cost is for ("per image") need
    not be said. Raises InputError for no number, one that is negative or not finite, and for a unit that is not known,
    or of another kind than the costs'.

    >>> parse_budget("5ms", "ms per image"), parse_budget("0.005 s", "ms per image"), parse_budget("5", "ms per image")
    (5.0, 5.0, 5.0)
    >>> parse_budget("3 GMACs", "MMACs per image"), parse_budget("$2 per 1,000 calls", "USD per 10,000 calls")
    (3000.0, 20.0)
    """
    shown, where = repr(text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."), "--budget"
    expected = f"a number of {unit}, such as 2.5, or with a unit that is understood ({UNDERSTOOD})"
    words = text.strip()
    ahead = words[:1] if words[:1] in ("$", "\N{EURO SIGN}") else ""
    words = words.removeprefix(ahead).lstrip()
    found = NUMBER.match(words) if len(words) <= 200 else None
    if found is None:
        raise InputError(expected, shown, where)
    number, given = float(found[0]), f"{ahead}{words[found.end() :].strip()}".strip()
    if re.match(r"[0-9.,_]", given):  # 1,000 is a thousand to some and one to others
        raise InputError("a number with a point and nothing else in it, such as 1000.5", shown, where)
    if not 0 <= number < math.inf:
        raise InputError("a finite budget of at least 0", shown, where)
    if not given or given.lower() == unit.strip().lower():
        return number
    factor = _factor(given, unit)
    if factor is None:
        raise InputError(expected, shown, where)
    if not (factor > 0 and math.isfinite(number * factor)):
        raise InputError("a finite budget of at least 0", shown, where)
    return number * factor


def _factor(given: str, unit: str) -> float | None:
    """How many ``unit`` one ``given`` is; None if they can't be compared."""
    costs, (head, per, times) = unit_of(unit), _parted(given)
    own_head, own_per, own_times = _parted(unit)
    if per not in ("", own_per):
        return None
    share = own_times / times if per else 1.0
    if head.lower() == own_head.lower():
        return share
    if costs is None:
        return None
    if head in BARE and costs.kind in ("MACs", "FLOPs"):
        return share * BARE[head] / costs.size
    known = UNITS.get(head.lower())
    return None if known is None or known[0] != costs.kind else share * known[1] / costs.size


def parse_shares(texts: Sequence[str], routes: Routes) -> dict[str, float]:
    """``STAGE=SHARE`` each, as stage -> the share of the examples that may exit there at most.

    A stage is named as in a topology; shares from 0 to 1, or in percent ("10%"). Raises InputError for anything else.

    >>> routes = Routes(("alexnet", "resnet"), ((0,), (1,)), np.eye(2), "ms")
    >>> parse_shares(("res=0.1", "a=50%"), routes)
    {'resnet': 0.1, 'alexnet': 0.5}
    """
    found: dict[str, float] = {}
    for text in texts:
        where = f"--max-share {text if len(text) <= SHOWN else text[: SHOWN - 3] + '...'}"
        token, equals, number = (part.strip() for part in text.partition("="))
        if not equals:
            raise InputError("STAGE=SHARE, such as resnet=0.1", repr(text[:SHOWN]), where)
        try:
            named = parse_topology(token[:200], routes.stages).stages
        except InputError as error:
            raise InputError(error.expected, error.found, where) from None
        if len(named) != 1:
            raise InputError("one stage", ", ".join(named), where)
        percent = number.endswith("%")
        digits = NUMBER.fullmatch(number.removesuffix("%").strip()) if len(number) < 200 else None
        share = float(digits[0]) / (100 if percent else 1) if digits else math.nan
        if not 0 <= share <= 1:
            raise InputError("a share from 0 to 1", repr(number[:SHOWN]), where)
        if named[0] in found:
            raise InputError("one share a stage", f"two for {named[0]}", where)
        found[named[0]] = share
    return found


# --- the problem


@dataclass(frozen=True)
class Limit:
    """One constraint: of a mixture, the mean of ``values`` (m,) over its points is at most ``bound``.

    ``flag`` is what asked for it, and ``said`` how a value is told to people.
    """

    flag: str
    values: Floats
    bound: float
    unit: str = ""
    complement: bool = False

    @property
    def slack(self) -> Floats:
        """(m,) by how much each point stays below the bound; 0 where only rounding keeps it from that."""
        slack = self.bound - self.values
        return np.where(np.abs(slack) <= _rounding(self.values, self.bound), 0.0, slack)

    def told(self, value: float) -> str:
        """A value as the flag counts it."""
        shown = 1 - value if self.complement else value
        return f"{self.flag} {shown:.6g}{self.unit and ' ' + self.unit}"


def check_target(target: Target, stages: Sequence[str]) -> None:
    """Raises InputError for a target that asks for nothing, for what no number is, or for a stage that is not there."""
    if target.budget is None and target.error_increase is None and target.accuracy is None and not target.shares:
        raise InputError(
            "at least one of --budget, --max-error-increase, --min-accuracy and --max-share", "none of them", "target"
        )
    if target.budget is not None and not 0 <= target.budget < math.inf:
        raise InputError("a finite budget of at least 0", str(target.budget), "--budget")
    within = {"--max-error-increase": target.error_increase, "--min-accuracy": target.accuracy}
    within |= {f"--max-share {stage}": share for stage, share in target.shares.items()}
    for flag, value in within.items():
        if value is not None and not 0 <= value <= 1:
            raise InputError("a number from 0 to 1", str(value), flag)
    if strange := [stage for stage in target.shares if stage not in stages]:
        raise InputError(f"stages among {', '.join(stages)}", strange[0], "--max-share")


def limits_of(
    target: Target, routings: Sequence[Routing], reference: float, spending: Sequence[Routing]
) -> list[Limit]:
    """The target's constraints on mixtures of m points; see ``solve`` for their two kinds of routings."""
    routes = routings[0].routes
    cost, error = _costs(spending), _errors(routings)
    found = []
    if target.budget is not None:
        found.append(Limit("--budget", cost, target.budget, routes.unit))
    if target.error_increase is not None:
        found.append(Limit("--max-error-increase", error - reference, target.error_increase))
    if target.accuracy is not None:
        found.append(Limit("--min-accuracy", error, 1 - target.accuracy, complement=True))
    if target.shares:
        exits = np.array([routing.exit_share for routing in spending])
        found += [
            Limit(f"--max-share of {stage}", exits[:, routes.stages.index(stage)], share)
            for stage, share in target.shares.items()
        ]
    return found


def solve(
    target: Target,
    fitted: Fitted,
    picking_routings: Sequence[Routing],
    reference: float,
    spending: Sequence[Routing] | None = None,
) -> tuple[Fitted, int]:
    """The point of ``fitted`` that meets ``target`` best on the examples of ``picking_routings``, and its number.

    Best is the most accurate one where a budget is given, or shares alone; else the cheapest. The routings are those of
    the sweep and of the thresholds, in order; what stands behind them is not looked at. ``reference`` is the largest
    stage's mean loss there.

    ``spending``: routings by which costs and shares are held to their limits, in place of the held-out ones: those of
    the rules as they are, ``fitted.route(fit part)``. Held-out routings come from rules that saw four fifths of the
    examples: they tell errors honestly, but other rules spend otherwise, by up to a tenth on a few thousand examples,
    while what a rule spends depends on no label, so that the examples it was fitted on tell it nearly as well as new
    ones. What is cheapest is told by the held-out routings nonetheless: whoever errs less by spending more would
    otherwise look cheap (``benchmarks/budgets.py``).

    All mixtures of two points are searched, exactly: along one, everything is linear in the share, so constraints leave
    an interval, and an end of it is best. If it is not a point that is there already, the mixture is put behind the
    others. Mixing more than two could only help where two or more constraints bind at once: a linear programme over
    shares that sum to one has an optimum with no more points than constraints that bind, and one. Two points are all
    that a mixture has here, and the best two are found. In the mean over the coin the constraints are met exactly; on
    n examples their own luck comes on top.

    Raises InputError where nothing meets the target: it says what could be had instead.
    """
    bound = len(fitted.sweep.prices) + len(fitted.plans)
    routes, routings = fitted.sweep.routes, picking_routings[:bound]
    spent = routings if spending is None else spending[:bound]
    check_target(target, routes.stages)
    if not 0 <= reference <= 1 or not len(routings) == len(spent) == bound:
        raise ValueError("solving needs a routing of every point and the mean loss of the largest stage")
    limits = limits_of(target, routings, _exact(reference, len(routings[0])), spent)
    if target.budget is not None:
        _refuse_out_of_range(target.budget, _costs(spent), routes)
    error = _errors(routings)
    accurate = target.budget is not None or (target.error_increase is None and target.accuracy is None)
    found = best_pair(*((error, _costs(spent)) if accurate else (_costs(routings), error)), limits)
    if found is None:
        raise _contradiction(limits)
    one, other, share = found
    if share == 0:
        return fitted, one
    mixture = Mixture(one, other, share)
    if mixture in fitted.mixtures:
        return fitted, bound + fitted.mixtures.index(mixture)
    return replace(fitted, mixtures=(*fitted.mixtures, mixture)), bound + len(fitted.mixtures)


def best_pair(first: Floats, second: Floats, limits: Sequence[Limit]) -> tuple[int, int, float] | None:
    """Points i and j and the share of j at which the mean of ``first`` (m,) is least within all ``limits``.

    Of equally good ones, that of least ``second`` (m,), and a single point (i, i, 0) before a mixture. None if nothing
    keeps to the limits. Exact, over all pairs: O(m² · limits), a row of them at a time.
    """
    m = len(first)
    slack = [limit.slack for limit in limits]
    fine = np.all([s >= 0 for s in slack], axis=0) if slack else np.ones(m, bool)
    best: tuple[int, int, float] | None = None
    value = tie = np.inf
    margin, slight = _rounding(first), _rounding(second)
    if fine.any():
        inside = np.flatnonzero(fine)
        i = int(inside[np.lexsort((second[inside], first[inside]))[0]])
        best, value, tie = (i, i, 0.0), float(first[i]), float(second[i])
    for i in range(m - 1):
        j = np.arange(i + 1, m)
        low, high = np.zeros(len(j)), np.ones(len(j))
        for s in slack:
            here, there = s[i], s[j]
            with np.errstate(divide="ignore", invalid="ignore"):
                crossing = here / (here - there)
            low = np.where((here < 0) & (there >= 0), np.maximum(low, crossing), low)
            high = np.where((here >= 0) & (there < 0), np.minimum(high, crossing), high)
            high = np.where((here < 0) & (there < 0), -1.0, high)
        for share in (low, high):
            usable = np.flatnonzero((low <= high) & (share > 0) & (share < 1))
            if not len(usable):
                continue
            by, to = share[usable], j[usable]
            total, other = first[i] + by * (first[to] - first[i]), second[i] + by * (second[to] - second[i])
            least = total <= total.min() + margin
            at = int(np.flatnonzero(least)[other[least].argmin()])
            better = total[at] < value - margin
            if better or (total[at] <= value + margin and other[at] < tie - slight):
                best, value, tie = (i, int(to[at]), float(by[at])), float(total[at]), float(other[at])
    return best


def _rounding(*values: Floats | float) -> float:
    """Differences of so much, between numbers like these, are no matter of choice."""
    return ROUNDING * max(float(np.abs(each).max()) for each in values)


def expected_of(
    fitted: Fitted, routings: Sequence[Routing], reference: float, spending: Sequence[Routing] | None = None
) -> Expected:
    """What each point of ``fitted`` did on the examples of ``routings``; a mixture's is the mean over its coin.

    The routings are those of the sweep and the thresholds, in order; what stands behind them is not looked at.
    ``spending`` as in ``solve``.
    """
    bound = len(fitted.sweep.prices) + len(fitted.plans)
    cost, error = _costs((routings if spending is None else spending)[:bound]), _errors(routings[:bound])
    mixtures = fitted.mixtures
    one, other = np.array([m.one for m in mixtures], int), np.array([m.other for m in mixtures], int)
    share = np.array([m.share for m in mixtures])
    return Expected(
        np.concatenate([cost, (1 - share) * cost[one] + share * cost[other]]),
        np.concatenate([error, (1 - share) * error[one] + share * error[other]]),
        _exact(reference, len(routings[0])),
        len(routings[0]),
    )


def _exact(mean: float, n: int) -> float:
    """A mean of n losses of 0 and 1 that was taken in single precision, as it would be in double."""
    counted = round(mean * n) / n
    return counted if abs(counted - mean) <= SINGLE * abs(mean) else float(mean)


SINGLE = float(np.finfo(np.float32).eps)


def _costs(routings: Sequence[Routing]) -> Floats:
    return np.array([routing.mean_cost for routing in routings])


def _errors(routings: Sequence[Routing]) -> Floats:
    return np.array([routing.error for routing in routings])


# --- why there is none


def cost_range(cost: Floats, routes: Routes) -> tuple[float, float]:
    """What budgets may be: from the cheapest of the points' costs (m,) to the dearest, or the dearest stage alone."""
    alone = routes.cost[list(routes.entries)] if routes.alone is None else routes.alone
    return float(cost.min()), float(max(cost.max(), alone.max()))


def _refuse_out_of_range(budget: float, cost: Floats, routes: Routes) -> None:
    low, high = cost_range(cost, routes)
    if not low * (1 - ROUNDING) <= budget <= high * (1 + ROUNDING):
        side = "below the cheapest" if budget < low else "above the dearest"
        expected = f"a budget from {low:.6g} to {high:.6g} {routes.unit}, the cheapest and the dearest to be had"
        raise InputError(expected, f"{budget:.6g}, {side}", "--budget")


def _contradiction(limits: Sequence[Limit]) -> InputError:
    """Which limits can't be kept together, as few as possible, and the best that each allows of the last."""
    core = list(limits)
    for limit in limits:  # what is left when nothing more can be dropped contradicts itself
        rest = [other for other in core if other is not limit]
        if rest and best_pair(rest[0].values, rest[0].values, rest) is None:
            core = rest
    if len(core) == 1:
        only = core[0]
        return InputError(
            f"a target that can be met; the best to be had is {only.told(float(only.values.min()))}",
            only.told(only.bound),
            "target",
        )
    offers = []
    for limit in core:
        rest = [other for other in core if other is not limit]
        found = best_pair(limit.values, limit.values, rest)
        if found is not None:
            i, j, share = found
            best = float((1 - share) * limit.values[i] + share * limit.values[j])
            offers.append(f"{limit.told(best)} with {' and '.join(other.told(other.bound) for other in rest)}")
    expected = f"constraints that do not contradict each other; the best to be had: {'; or '.join(offers)}"
    return InputError(expected, " and ".join(limit.told(limit.bound) for limit in core), "target")
