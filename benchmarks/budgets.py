"""Whether what was solved for on the fit part holds on the test part: budgets and accuracies across the frontier.

    python -m benchmarks.budgets --data cifar10 path/to/cifar10-agr path/to/ferplus path/to/yelp path/to/command

For each data set, 20 budgets evenly from the cheapest to the dearest point of the frontier (the lower hull of the
held-out points), and 20 accuracies evenly between theirs, each solved for on the fit part (held-out routings) and
routed on the test part. A budget holds if the test part's mean cost is within 2 % of it, or the budget within the 95 %
interval of that mean; an accuracy holds if it is reached there, or lies within the 95 % interval. The intervals are
bootstrapped over the test part alone: that the fit part is a sample too is not in them. ``holds_both`` counts both
parts' noise: the difference of the two means is within 1.96 of its standard errors.

Costs are told in two ways: "held out", by routings of rules that saw four fifths of the fit part, and "as fitted", by
those of the very rules that are deployed, on the examples that they were fitted on (``spending`` of
``cascades.learning.targets.solve``). Errors are always told by held-out routings.

Seed 0 is the split that the folder comes with; other seeds pool the parts and split them in half.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.quality import DEFAULT, resplit
from offramp.cascades.files.datafolder import DataFolder, read_folder
from offramp.cascades.graph.hull import lower_hull
from offramp.cascades.graph.routing import Routing, largest
from offramp.cascades.graph.topology import parse_topology, unroll
from offramp.cascades.learning.points import fit_points
from offramp.cascades.learning.targets import Target, expected_of, solve
from offramp.eval.report.intervals import Estimate, interval
from offramp.features.errors import InputError

TARGETS = 20
NEAR = 0.02


def measure(data: DataFolder, seed: int) -> list[dict[str, object]]:
    """A row a target and way of telling costs."""
    routes = unroll(parse_topology("_".join(data.costs.stages), tuple(data.costs.stages)), data.costs)
    parts = {name: part.of(routes.stages) for name, part in resplit(data, seed).parts.items()}
    fitted, picking = fit_points(parts["fit"], parts.get("tune"), routes, DEFAULT.points, DEFAULT.fit_settings)
    reference = float(picking.there.wrong[:, largest(routes)].mean())
    points = len(fitted.names) - len(fitted.mixtures)
    tested = fitted.route(parts["test"])[:points]
    mine = parts.get("tune", parts["fit"])
    own = fitted.route(mine)[:points]
    rows = []
    for how, spending in {"held out": picking.routings[:points], "as fitted": own}.items():
        expected = expected_of(fitted, picking.routings, reference, spending)
        hull = lower_hull(expected.cost, expected.error)
        cost, accuracy = expected.cost[hull], 1 - expected.error[hull]
        wanted = [Target(budget=float(b)) for b in np.linspace(cost[0], cost[-1], TARGETS)]
        wanted += [Target(accuracy=float(a)) for a in np.linspace(accuracy[0], accuracy[-1], TARGETS)]
        for target in wanted:
            solved, point = solve(target, fitted, picking.routings, reference, spending)
            there = solved.with_mixtures(tested, parts["test"].ids)[point]
            here = solved.with_mixtures(spending, picking.ids if how == "held out" else mine.ids)[point]
            found = interval(there)
            row: dict[str, object] = {"data": data.name, "seed": seed, "costs": how}
            if target.budget is not None:
                row |= judged_budget(target.budget, here, there, found.cost)
            elif target.accuracy is not None:
                here = solved.with_mixtures(picking.routings[:points], picking.ids)[point]
                row |= judged_accuracy(target.accuracy, here, there, found.error)
            rows.append(row | {"point": solved.names[point][0]})
    return rows


def judged_budget(budget: float, learned: Routing, tested: Routing, found: Estimate) -> dict[str, object]:
    off = found.value / budget - 1
    return {
        "kind": "budget",
        "target": budget,
        "test": found.value,
        "low": found.low,
        "high": found.high,
        "off": off,
        "holds": abs(off) <= NEAR or found.low <= budget <= found.high,
        "holds_both": abs(off) <= NEAR or abs(found.value - budget) <= spread(learned.cost, tested.cost),
    }


def judged_accuracy(accuracy: float, learned: Routing, tested: Routing, found: Estimate) -> dict[str, object]:
    reached = 1 - found.value
    return {
        "kind": "accuracy",
        "target": accuracy,
        "test": reached,
        "low": 1 - found.high,
        "high": 1 - found.low,
        "off": reached - accuracy,
        "holds": reached >= accuracy or accuracy <= 1 - found.low,
        "holds_both": reached >= accuracy or accuracy - reached <= spread(learned.wrong, tested.wrong),
    }


def spread(one: np.ndarray, other: np.ndarray) -> float:
    """1.96 standard errors of the difference of two samples' means."""
    return 1.96 * float(np.sqrt(np.var(one) / len(one) + np.var(other) / len(other)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["cifar10"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "budgets.csv")
    args = parser.parse_args()
    rows: list[dict[str, object]] = []
    for where in args.data:
        for seed in range(args.seeds):
            try:
                data = read_folder(where, seed)
            except InputError as error:
                print(f"SKIPPED {where}: {error}", flush=True)
                break
            rows += measure(data, seed)
            print(summary(pd.DataFrame(rows)).tail(4).to_string(header=len(rows) <= 4 * TARGETS), flush=True)
            args.out.parent.mkdir(exist_ok=True)
            pd.DataFrame(rows).to_csv(args.out, index=False, float_format="%.6g")
    print(summary(pd.DataFrame(rows)).to_string())


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """How many of the targets hold, by data set, split and kind."""
    grouped = frame.groupby(["data", "seed", "costs", "kind"], sort=False)
    return grouped.agg(of=("holds", "size"), holds=("holds", "sum"), holds_both=("holds_both", "sum")).reset_index()


if __name__ == "__main__":
    main()
