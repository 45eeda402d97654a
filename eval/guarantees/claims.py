"""Learn-then-Test: points tested one after another on examples that nothing was learned from, until one fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.features.outputs import Floats, Ints

Losses = NDArray[Any]
"""(n,) in [0, 1]; False and True where nothing lies between."""

COST_SHARE = 0.1
"""Of delta, for the bound on the cost; the rest is the risk's, on which the saving depends."""

BUDGET_SHARE = 0.5
"""The same where the walk is about the cost."""

GROUP_SHARE = 0.3
"""Of delta, for groups where there are any."""

LEAST_GROUP = 30
"""A bound for a group of fewer examples says next to nothing."""

MOST_NEEDED = 1_000_000
"""Examples that are searched for how many would do."""

ROUNDING = 1e-12

ORDER = 0
"""Seed of the order in which the costs are bet on; any would do that does not depend on them."""


@dataclass(frozen=True)
class Claim:
    """That the mean of a ``risk``, "increase" (loss over the largest stage's) or "error" (loss), is at most ``most``;
    None: as little as can be proven."""

    risk: str
    most: float | None


# --- the order


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


# --- one point


def risk_p(wrong: Losses, base: Losses | None, bound: float, level: float) -> float:
    """P-value for "the mean of ``wrong`` (n,), less that of ``base`` (n,) if given, is at least ``bound``".

    Exact for losses that are False or True; for others in [0, 1] Hoeffding and Bentkus', or a betting one for
    differences. ``level`` is what it will be held against.
    """
    from offramp.eval.guarantees.bounds import betting_p, binomial_p, hoeffding_bentkus_p, paired_p, slack_for

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
    from offramp.eval.guarantees.bounds import betting_bound, binomial_bound, hoeffding_bentkus_bound, paired_bound

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
    from offramp.eval.guarantees.bounds import betting_bound

    low, high = span
    if high <= low:
        return high
    return low + (high - low) * betting_bound(np.clip((_shuffled(cost) - low) / (high - low), 0, 1), level)


def cost_p(cost: Floats, span: tuple[float, float], bound: float, level: float) -> float:
    """P-value for "the mean of ``cost`` (n,), each within ``span``, is at least ``bound``", by betting."""
    from offramp.eval.guarantees.bounds import betting_p

    low, high = span
    if high <= low:
        return 0.0 if high <= bound else 1.0
    return betting_p(np.clip((_shuffled(cost) - low) / (high - low), 0, 1), (bound - low) / (high - low), level)


def _shuffled(x: NDArray[Any]) -> Floats:
    """In an order that does not depend on ``x``: files may be sorted."""
    return np.asarray(x[np.random.default_rng(ORDER).permutation(len(x))], dtype=float)


# --- one after another


@dataclass(frozen=True)
class Walked:
    """What came of a sequence of points: the p-values that were looked at; how many points ``passed``; of the last
    that did the bounds on the risks of the claims and on the cost, the means on the examples, and each claim's bounds
    within the groups."""

    p: tuple[float, ...]
    passed: int
    risk_bounds: tuple[float, ...] = ()
    cost_bound: float = inf
    values: tuple[float, ...] = ()
    cost: float = inf
    groups: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True)
class Levels:
    """How ``delta`` is shared out: to the cost, to the risks of groups, and to the risk itself."""

    cost: float
    groups: float
    risk: float

    @staticmethod
    def of(delta: float, grouped: bool, budget: bool = False) -> Levels:
        """For a walk along the risk, or along the cost if there is a ``budget``."""
        cost, groups = (BUDGET_SHARE if budget else COST_SHARE) * delta, GROUP_SHARE * delta if grouped else 0.0
        return Levels(cost, groups, delta - cost - groups)


def certify_points(
    wrong: Sequence[Losses],
    cost: Sequence[Floats],
    base: Losses,
    claims: Sequence[Claim],
    delta: float,
    span: tuple[float, float],
    group: Any = None,
    budget: float | None = None,
) -> Walked:
    """Test points, in the order in which they are given, until one fails; the last that did not is certified.

    Learn-then-Test (Angelopoulos, Bates, Candès, Jordan & Lei, 2021) with fixed-sequence testing: as the order does
    not depend on the examples, each point is tested at the full level, and the first false hypothesis "its risk is at
    least as large as claimed" is rejected wrongly with at most that probability, so that a point that breaks a claim is
    certified with no more. Of several ``claims`` all have to be shown, each at the full level: who wrongly certifies
    the first point that breaks any has wrongly shown that one (an intersection-union test, Berger, 1982). ``wrong`` and
    ``cost`` hold (n,) for each of the points, which may be made when they are asked for, costs within ``span``;
    ``base`` (n,) is what an increase is over. A claim of nothing (``most`` None) is alone, and about a single point:
    its smallest bound is proven. With a ``budget`` the points are tested for a mean cost of at most that, and what can
    be proven of the risk is said of the last that passed.

    A tenth of ``delta`` is for the cost of the point (half with a budget), and with a ``group`` (n,) of each example
    three tenths for the risk within each. Which point these are said of depends on the examples, so that they have to
    hold for all of the points at once: their levels are divided by the number of points (Bonferroni), and the groups'
    by that of groups and claims, known before any loss. All that is said holds together with probability at least
    1 - ``delta``. Groups of fewer than ``LEAST_GROUP`` examples have no bound.
    """
    m = len(wrong)
    level = Levels.of(delta, group is not None, budget is not None)
    over = [base if claim.risk == "increase" else None for claim in claims]
    most = [claim.most for claim in claims if claim.most is not None]
    if budget is None and not most and m != 1:
        raise ValueError("the smallest bound is that of one point")
    if len(most) not in (0, len(claims)) or not claims or (budget is not None and most):
        raise ValueError("claims that are all to be tested, or all to be proven as far as they can be")
    p: list[float] = []
    if budget is not None:
        passed = _passed((cost_p(spent, span, budget, level.cost) for spent in cost), level.cost, p)
    elif most:
        each = (
            max(risk_p(losses, of, bound, level.risk) for of, bound in zip(over, most, strict=True)) for losses in wrong
        )
        passed = _passed(each, level.risk, p)
    else:
        passed = 1
    if not passed:
        return Walked(tuple(p), 0)
    losses, costs = wrong[passed - 1], cost[passed - 1]
    within: list[dict[str, float]] = []
    if group is not None:
        names, sizes = sizes_of(group)
        large = [name for name in names if sizes[name] >= LEAST_GROUP]
        rows = {name: group == name for name in large}
        alpha = level.groups / (m * max(len(large), 1) * len(claims))
        within = [
            {name: risk_bound(losses[at], None if of is None else of[at], alpha) for name, at in rows.items()}
            for of in over
        ]
    return Walked(
        tuple(p),
        passed,
        tuple(most) or tuple(risk_bound(losses, of, level.risk / (m * len(claims))) for of in over),
        cost_bound(costs, span, level.cost / m) if budget is None else budget,
        tuple(float(losses.mean(dtype=float)) - (0.0 if of is None else float(of.mean(dtype=float))) for of in over),
        float(costs.mean(dtype=float)),
        tuple(within),
    )


def _passed(found: Iterable[float], level: float, p: list[float]) -> int:
    """How many stand before the first that is above ``level``; all that were looked at go into ``p``."""
    for one in found:
        p.append(one)
        if one > level:
            return len(p) - 1
    return len(p)


def sizes_of(group: Any) -> tuple[list[str], dict[str, int]]:
    """The groups' names, in order, and how many examples each has."""
    names, counts = np.unique(group.astype(str), return_counts=True)
    sizes = dict(zip(names.tolist(), counts.tolist(), strict=True))
    whole = all(name.isdecimal() for name in sizes)
    return sorted(sizes, key=lambda name: (int(name) if whole else 0, name)), sizes


def examples_needed(wrong: Losses, base: Losses | None, bound: float, level: float) -> int | None:
    """About how many examples would do to certify ``bound`` if they came out as these (n,) did, only more of them; None
    if no number up to ``MOST_NEEDED`` would. Two digits, rounded up."""
    from offramp.eval.guarantees.bounds import binomial_p, paired_p, slack_for

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
