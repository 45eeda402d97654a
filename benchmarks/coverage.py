"""Whether certificates keep their promise, and what they cost: the table of coverage.

    python -m benchmarks.coverage --data path/to/cifar10-agr path/to/ferplus path/to/yelp path/to/command
    python -m benchmarks.coverage --table          # the committed CSV as a table in Markdown

For every data set all examples are pooled, and ``--fits`` times a random half of them, 10,000 at most, is drawn to fit
a frontier on, as ``eval.tune`` would. The others, 20,000 at most, are then the *world*: ``--draws`` times a
certification part of n examples is drawn from it, and ``eval.certify``'s test is made on that for every target and
delta. A row of ``results/coverage.csv`` is the mean over fits times draws (1,000 unless told otherwise) of what came.

Two designs. "exact": examples are drawn from the world with replacement, so they are independent draws from one
distribution, and the certified point's true risk and cost are its means over the world, without any error of their
own. Theory promises exactly here that at most delta of the draws break. "held out": n examples without replacement,
judged on all the others, as one would with data that are no simulation. It is the stricter look, and no theorem holds
for it: the others have an error of their own, and what is drawn is missing there, so that where luck made a point look
good, the rest looks bad. The error of the difference is sqrt(1 / n + 1 / (N - n)) in place of sqrt(1 / n), by which
alone a bound that is right in 95 % holds in 91 % when half is drawn. Drawn up to a third of the world.

"budget" is the first design for the walk along the cost: the target is a share of what the reference stage costs,
"saving" how much of the budget the certified point spends in truth ("none certified" spends nothing), and "cost_over"
how far the bound on the risk lies above what was measured.

"increase" is over the largest stage, or over the best one of the fit part where that is another.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import ndtri

from offramp.cascades.files.datafolder import read_folder
from offramp.cascades.graph.routing import Routes, largest
from offramp.cascades.graph.topology import parse_topology, unroll
from offramp.cascades.learning.answers import LOSSES
from offramp.cascades.learning.outcomes import single_outcomes
from offramp.cascades.learning.points import Fitted, Picking, fit_points
from offramp.cascades.learning.recipe import Recipe
from offramp.cascades.learning.targets import Target, expected_of, solve
from offramp.eval.guarantees.bounds import _most, _score, betting_p, paired_p, slack_for
from offramp.eval.guarantees.certificate import Points, budget_sequence, within_budget
from offramp.eval.guarantees.claims import COST_SHARE, Claim, Levels, certify_points, cost_bound, cost_p, fixed_sequence
from offramp.eval.guarantees.holdout import pooled
from offramp.features.errors import InputError
from offramp.features.outputs import Floats, Ints, Outputs

RESULTS = Path(__file__).parent / "results" / "coverage.csv"
TARGETS = (0.0, 0.005, 0.01, 0.02)
DELTAS = (0.1, 0.05)
SIZES = (1_000, 3_000, 5_000)
FIT, WORLD = 10_000, 20_000
POINTS = 20
HELD_OUT = 1 / 3
"""Share of the world that is drawn at most where the rest is what is judged on."""

CHECKED = 1
"""Draws a fit that are tested by ``certify_points`` itself too, which must say the same."""

MANY, FAR = 100, 0.03

DESIGNS = ("exact", "held out")

BUDGETS = (0.05, 0.1, 0.2, 0.4)
"""Of what the largest stage costs."""


@dataclass(frozen=True)
class World:
    """What a fit's points do in the world of N examples: ``wrong`` (m, N) and ``cost`` (m, N); ``base`` (N,) is the
    reference stage's, which alone costs ``alone``; ``order`` per target, the points to test; ``picked`` what would have
    been chosen without a certificate, or -1. ``budgets``: for each, as a share of ``alone``, the points to test for it,
    one after another, as indices of ``wrong``; the last is what would have been chosen."""

    wrong: Floats
    cost: Floats
    base: Floats
    alone: float
    span: tuple[float, float]
    order: dict[float, Ints]
    picked: dict[float, int]
    budgets: dict[float, list[int]]


def worlds(data: Outputs, routes: Routes, seed: int) -> Iterator[tuple[str, World]]:
    """Fit on a random half, or ``FIT`` examples; the others, for each reference stage."""
    order = np.random.default_rng([seed, 5]).permutation(len(data))
    half = min(len(data) // 2, FIT)
    others = np.sort(order[half : half + WORLD])
    fit, rest = data.take(np.sort(order[:half]), "fit"), data.take(others, "certify")
    how = Recipe(points=POINTS, seed=seed).fit_settings
    fitted, picking = fit_points(fit, None, routes, POINTS, how)
    assert routes.alone is not None
    top, best = largest(routes), int(picking.there.wrong.mean(axis=0).argmin())
    for name, stage in {"largest": top, "best": best}.items():
        if name == "best" and best == top:
            continue
        yield name, world(fitted, picking, rest, stage, float(routes.alone[stage]))


def world(fitted: Fitted, picking: Picking, rest: Outputs, stage: int, alone: float) -> World:
    reference = float(picking.there.wrong[:, stage].mean())
    picked = {}
    for target in TARGETS:  # before anything is routed: this may add a mixture each
        try:
            fitted, picked[target] = solve(Target(error_increase=target), fitted, picking.routings, reference)
        except InputError:
            picked[target] = -1
    expected = expected_of(fitted, picking.routings, reference)
    order = {target: fixed_sequence(expected.cost, expected.error, reference + target, alone) for target in TARGETS}
    points = Points(fitted, rest)
    every = [points.mixture(i) for i in range(len(fitted.names))]
    budgets: dict[float, list[int]] = {}
    for share in BUDGETS:
        own = within_budget(fitted, expected, share * alone)
        found = [*budget_sequence(fitted, expected, share * alone), *filter(None, [own])]
        if own is not None and own not in found[:-1]:  # it lies among the costs to be had
            budgets[share] = [*range(len(every), len(every) + len(found))]
            every += found
    base = single_outcomes(rest, LOSSES["top1"], fitted.sweep.reader.calibration).wrong[:, stage] != 0
    cost = fitted.sweep.routes.cost
    return World(
        np.stack([points.wrong(m) for m in every]),
        np.stack([points.cost(m) for m in every]),
        base,
        alone,
        (float(cost.min()), float(cost.max())),
        order,
        picked,
        budgets,
    )


# --- the test of eval.certify, thousands of times


def passed_of(worse: Ints, better: Ints, n: int, target: float, level: float) -> int:
    """How many points pass before the first that fails, by ``paired_p``, of which the counts (m,) are given.

    It is worked out where it could be in doubt. Elsewhere, with ``MANY`` that differ, the normal approximation says it:
    the two were never found more than a hundredth of a standard error apart there, and ``FAR`` is more.
    """
    score, limit = _score(worse, better, n, target), ndtri(level - slack_for(level))
    clear = (abs(score - limit) > FAR) & (worse + better >= MANY)
    for i, (sure, fine) in enumerate(zip(clear.tolist(), (score < limit).tolist(), strict=True)):
        if not (fine if sure else worse[i] - better[i] <= critical(int(worse[i] + better[i]), n, target, level)):
            return i
    return len(worse)


@cache
def critical(apart: int, n: int, target: float, level: float) -> int:
    """The largest difference, of ``apart`` examples that differ, that passes; -apart - 2 if none does. With as many
    that differ the p-value falls in the difference."""

    def fine(difference: int) -> bool:
        return paired_p((apart + difference) // 2, (apart - difference) // 2, n, target, slack_for(level)) <= level

    guess = round(n * target + ndtri(level) * np.sqrt(max(apart, 1)))
    guess = min(max(guess + (guess + apart) % 2, -apart), apart)
    while guess <= apart and fine(guess):
        guess += 2
    guess = min(guess, apart)
    while guess >= -apart and not fine(guess):
        guess -= 2
    return guess


def judge(here: World, name: str, design: str, n: int, draws: int, rng: np.random.Generator) -> list[dict[str, object]]:
    """A row a draw, target and delta."""
    size = len(here.base)
    picks = {point for point in here.picked.values() if point >= 0}
    every = sorted(picks | {int(i) for order in here.order.values() for i in order})
    place = {point: row for row, point in enumerate(every)}
    worse = (here.wrong[every] & ~here.base).astype(np.float32)
    better = (~here.wrong[every] & here.base).astype(np.float32)
    each = here.cost[every]
    change, cost = (worse - better).sum(axis=1, dtype=float), each.sum(axis=1)
    rows = []
    for draw in range(draws):
        taken = rng.integers(size, size=n) if design == "exact" else rng.permutation(size)[:n]
        often = np.bincount(taken, minlength=size).astype(np.float32)
        up, down = (worse @ often).round().astype(int), (better @ often).round().astype(int)
        if design == "exact":
            risk, spent = change / size, cost / size
        else:
            risk = (change - up + down) / (size - n)
            spent = (cost - each @ often) / (size - n)
        for target in TARGETS:
            order = here.order[target]
            picked = here.picked[target]
            for delta in DELTAS:
                level = (1 - COST_SHARE) * delta
                at = [place[int(i)] for i in order]
                passed = passed_of(up[at], down[at], n, target, level) if at else 0
                row: dict[str, object] = {"reference": name, "design": design, "n": n, "target": target, "delta": delta}
                row |= {"none": passed == 0, "broken_risk": False, "broken_cost": False, "saving": 0.0}
                if picked >= 0:
                    row["picked_saving"] = 1 - spent[place[picked]] / here.alone
                    row["picked_broken"] = (here.wrong[picked].mean() - here.base.mean()) > target + 1e-12
                if draw < CHECKED and design == "exact" and len(order) and (target, delta) == (TARGETS[1], DELTAS[-1]):
                    parts = ([here.wrong[i][taken] for i in order], [here.cost[i][taken] for i in order])
                    found = certify_points(*parts, here.base[taken], [Claim("increase", target)], delta, here.span)
                    assert found.passed == passed, "eval.certify says otherwise"
                if passed:
                    point = int(order[passed - 1])
                    low, high = here.span
                    share = COST_SHARE * delta / len(order)
                    x, truth = (
                        (here.cost[point][taken] - low) / (high - low),
                        (spent[place[point]] - low) / (high - low),
                    )
                    row["saving"] = 1 - spent[place[point]] / here.alone
                    row["broken_risk"] = risk[place[point]] > target + 1e-12
                    # the bound is below the truth exactly if the truth itself is rejected
                    row["broken_cost"] = betting_p(np.clip(x, 0, 1), float(truth), share) <= share
                    if draw < CHECKED:
                        bound = cost_bound(here.cost[point][taken], here.span, share)
                        row["cost_over"] = bound / spent[place[point]] - 1
                rows.append(row)
    return rows


def judge_budgets(here: World, name: str, n: int, draws: int, rng: np.random.Generator) -> list[dict[str, object]]:
    """A row a draw, budget and delta, of the exact design: whether what is certified to keep to the budget does, and
    whether the bound on its risk holds."""
    size = len(here.base)
    change = here.wrong.mean(axis=1) - here.base.mean()
    spent = here.cost.mean(axis=1)
    rows = []
    for draw in range(draws):
        taken = rng.integers(size, size=n)
        base = here.base[taken]
        for share, (*order, picked) in here.budgets.items():
            budget = share * here.alone
            for delta in DELTAS:
                level = Levels.of(delta, grouped=False, budget=True)
                passed = 0
                for i in order:
                    if cost_p(here.cost[i][taken], here.span, budget, level.cost) > level.cost:
                        break
                    passed += 1
                row: dict[str, object] = {
                    "reference": name,
                    "design": "budget",
                    "n": n,
                    "target": share,
                    "delta": delta,
                }
                row |= {"none": passed == 0, "broken_risk": False, "broken_cost": False, "saving": 0.0}
                row |= {"picked_saving": spent[picked] / budget, "picked_broken": spent[picked] > budget}
                if passed:
                    point, alpha = order[passed - 1], level.risk / len(order)
                    worse, better = (int((x & ~y).sum()) for x, y in _both(here.wrong[point][taken], base))
                    row["saving"] = spent[point] / budget
                    row["broken_cost"] = spent[point] > budget
                    row["broken_risk"] = paired_bound_below(worse, better, n, float(change[point]), alpha)
                    if draw < CHECKED:
                        parts = ([here.wrong[i][taken] for i in order], [here.cost[i][taken] for i in order])
                        least = [Claim("increase", None)]
                        found = certify_points(*parts, base, least, delta, here.span, budget=budget)
                        assert found.passed == passed, "eval.certify says otherwise"
                        assert (found.risk_bounds[0] < change[point] - 2e-5) <= row["broken_risk"]
                        row["cost_over"] = found.risk_bounds[0] - found.values[0]
                rows.append(row)
    return rows


def _both(wrong: Floats, base: Floats) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    return (wrong, base), (base, wrong)


def paired_bound_below(worse: int, better: int, n: int, truth: float, alpha: float) -> bool:
    """Whether ``paired_bound`` lies below the truth: exactly if its test rejects that, which needs no look where they
    are within a standard error and a half."""
    if (worse - better) / n > truth - 1.5 * np.sqrt(worse + better) / n:
        return False
    p = _most(lambda a: np.maximum(a - (worse - better), 0), worse + better, n, truth, slack_for(alpha))
    return p <= alpha


def measure(where: str, fits: int, draws: int) -> pd.DataFrame:
    folder = read_folder(where, 0)
    routes = unroll(parse_topology("_".join(folder.costs.stages), tuple(folder.costs.stages)), folder.costs)
    data = pooled([part.of(routes.stages) for part in folder.parts.values()])
    data = replace(data, ids=np.arange(len(data)))
    rows = []
    for seed in range(fits):
        start = time.perf_counter()
        for name, here in worlds(data, routes, seed):
            fitted = time.perf_counter()
            for k, n in enumerate(SIZES):
                for d, design in enumerate(DESIGNS):
                    if n <= len(here.base) * (1.0 if design == "exact" else HELD_OUT):
                        rows += judge(here, name, design, n, draws, np.random.default_rng([seed, k, d]))
                if n <= len(here.base):
                    rows += judge_budgets(here, name, n, draws, np.random.default_rng([seed, k, 9]))
            took = time.perf_counter() - fitted
            print(f"{folder.name} {seed} {name}: fitted in {fitted - start:.0f} s, judged in {took:.0f} s", flush=True)
            start = time.perf_counter()
    table = pd.DataFrame(rows)
    table["broken_either"] = table["broken_risk"] | table["broken_cost"]
    by = ["reference", "design", "n", "target", "delta"]
    means = table.groupby(by, sort=False).mean(numeric_only=False).astype(float).reset_index()
    means.insert(0, "data", folder.name)
    means.insert(6, "draws", table.groupby(by, sort=False).size().to_numpy())
    means["kept"] = means["saving"] / means["picked_saving"]
    return means


COLUMNS = (
    *("data", "reference", "design", "n", "target", "delta", "draws", "broken_risk", "broken_cost", "broken_either"),
    *("none", "saving", "picked_saving", "kept", "picked_broken", "cost_over"),
)


def markdown(table: pd.DataFrame) -> str:
    """What the docs show: the worst share of broken promises over targets, and what is kept of the saving at each."""
    lines = [
        "| data, over its | n | broken, delta 0.1 | delta 0.05 | held out, 0.1 | 0.05 | saving kept (none certified), "
        "delta 0.05, at 0 | 0.5 | 1 | 2 points |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (data, reference, n), some in table[table["design"] != "budget"].groupby(
        ["data", "reference", "n"], sort=False
    ):
        cells = []
        for design in DESIGNS:
            for delta in DELTAS:
                found = some[(some["design"] == design) & (some["delta"] == delta)]["broken_either"]
                cells.append(f"{100 * found.max():.1f} %" if len(found) else "-")
        exact = some[(some["design"] == "exact") & (some["delta"] == DELTAS[-1])].set_index("target")
        for target in TARGETS:
            row = exact.loc[target]
            kept = f"{100 * row['kept']:.0f} %" if row["picked_saving"] > 0 else "-"
            cells.append(kept + (f" ({100 * row['none']:.0f} %)" if row["none"] >= 0.005 else ""))
        lines.append(f"| {data}, {reference} | {n:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def budget_markdown(table: pd.DataFrame) -> str:
    """What the docs show of budgets: the worst share of broken promises, and how much of each budget is spent."""
    told = " | ".join(f"{100 * share:g} %" for share in BUDGETS)
    lines = [
        f"| data, over its | n | broken, delta 0.1 | delta 0.05 | budget spent, delta 0.05, at {told} of its cost |",
        "|---" * (4 + len(BUDGETS)) + "|",
    ]
    for (data, reference, n), some in table[table["design"] == "budget"].groupby(
        ["data", "reference", "n"], sort=False
    ):
        worst = [f"{100 * some[some['delta'] == delta]['broken_either'].max():.1f} %" for delta in DELTAS]
        spent = some[some["delta"] == DELTAS[-1]].set_index("target")
        cells = [f"{100 * spent.loc[share, 'saving']:.0f} %" if share in spent.index else "-" for share in BUDGETS]
        lines.append(f"| {data}, {reference} | {n:,} | {' | '.join([*worst, *cells])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=[])
    parser.add_argument("--fits", type=int, default=4)
    parser.add_argument("--draws", type=int, default=250)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    args.out.parent.mkdir(exist_ok=True)
    for where in args.data:
        if not Path(where).is_dir():
            print(f"SKIPPED: {where} is not there, and its coverage was not measured")
            continue
        found = measure(where, args.fits, args.draws).reindex(columns=list(COLUMNS))
        if args.out.exists():
            old = pd.read_csv(args.out)
            found = pd.concat([old[old["data"] != found["data"].iloc[0]], found])
        found.to_csv(args.out, index=False, float_format="%.6g")
    if args.out.exists():
        print(markdown(pd.read_csv(args.out)), budget_markdown(pd.read_csv(args.out)), sep="\n\n")
    elif args.table:
        print(f"no {args.out}: nothing was measured yet")


if __name__ == "__main__":
    main()
