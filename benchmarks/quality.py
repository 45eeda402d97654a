"""How much each router saves, on every data set and over resplits: the table of policy quality.

    python -m benchmarks.quality --data cifar10 imagenet --seeds 5
    python -m benchmarks.quality --data path/to/ferplus --settings default joint
    python -m benchmarks.quality --table          # the committed CSV as the tables of docs/quality.md

A row a (data, setting, seed) is appended to the CSV as soon as it is there, and what is there is not run again.
Seed 0 is the split that the folder comes with, if it has one; other seeds pool the parts and split them in half.
Speed-ups are cost of the best single stage over cost of the router at no more than its error plus a margin:
"hindsight", read off the router's hull on the test part (as published tables do), and "honest", at the point
picked on the fit part, next to the error that it then really gives up.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t

from offramp.cascades.files.datafolder import DataFolder, read_folder
from offramp.cascades.graph.topology import parse_topology, unroll
from offramp.cascades.learning.recipe import Recipe
from offramp.eval.report.metrics import area, speedup, yardstick
from offramp.eval.report.summary import MARGINS, summarise
from offramp.features.outputs import Outputs
from offramp.oracles.comparing import operating_points

DEFAULT = Recipe(points=50)
SETTINGS: dict[str, Recipe] = {
    "default": DEFAULT,
    **{
        family: replace(DEFAULT, policies=(family,))
        for family in ("constant", "threshold", "logistic", "value", "boosted")
    },
    "with boosted": replace(DEFAULT, policies=(*DEFAULT.policies, "boosted")),
    "answer last": replace(DEFAULT, answer="last"),
    "answer any": replace(DEFAULT, answer="any"),
    "no calibration": replace(DEFAULT, calibrate=False),
    "no agreement": replace(DEFAULT, agreement=False),
    "no pooled features": replace(DEFAULT, pooled=False),
    **{f"only {topology}": replace(DEFAULT, topology=topology) for topology in ("a_r", "g_r", "a_g")},
}
RIVALS = ("joint", "myopic", "uniform", "soft_oracle")


def resplit(data: DataFolder, seed: int) -> DataFolder:
    """The pooled examples in two random halves; for seed 0 the parts as they are."""
    if seed == 0 or len(data.parts) != 2:
        return data
    fit, test = data.parts["fit"], data.parts["test"]
    stages = tuple(
        replace(
            a,
            **{
                name: np.concatenate([getattr(a, name), getattr(b, name)])
                for name in ("answers", "logits", "pooled")
                if getattr(a, name) is not None
            },
            measured={key: np.concatenate([a.measured[key], b.measured[key]]) for key in a.measured},
        )
        for a, b in zip(fit.stages, test.stages, strict=True)
    )
    labels = np.concatenate([fit.labels, test.labels])
    pooled = Outputs(stages, labels, np.arange(len(labels)), "fit", fit.classes)
    order = np.random.default_rng(seed).permutation(len(pooled))
    half = len(fit)
    return DataFolder(
        data.name, {"fit": pooled.take(order[:half]), "test": pooled.take(order[half:], "test")}, data.costs
    )


def measure(data: DataFolder, name: str, settings: Recipe, seed: int) -> list[dict[str, object]]:
    topology = settings.topology or "_".join(data.costs.stages)
    routes = unroll(parse_topology(topology, tuple(data.costs.stages)), data.costs)
    start = time.perf_counter()
    chosen, tested, _ = operating_points(replace(settings, seed=seed), resplit(data, seed), routes)
    seconds = time.perf_counter() - start
    summary = summarise(chosen, tested)
    rows = []
    for router in ("policy", *(RIVALS if name == "default" else ())):
        points = [point for point in tested if point.router == router]
        by = yardstick(tested, summary["best_single"]["stage"])
        row: dict[str, object] = {
            "data": data.name,
            "setting": name if router == "policy" else router,
            "seed": seed,
            "area": area(points, by),
            "seconds": seconds if router == "policy" else None,
        }
        for margin, honest in zip(MARGINS, summary["routers"][router], strict=True):
            row |= {
                f"hindsight {margin:g}": speedup(points, by, margin),
                f"honest {margin:g}": (honest.get("speedup") or {}).get("value"),
                f"extra {margin:g}": (honest.get("extra_error") or {}).get("value"),
            }
        rows.append(row)
    return rows


# --- as tables in Markdown

NAMES = {
    "default": "**learned, default**",
    "constant": "constants only",
    "threshold": "thresholds only",
    "logistic": "logistic only (the paper)",
    "value": "value only",
    "boosted": "boosted only",
    "answer last": "default, `--answer last`",
    "answer any": "default, `--answer any`",
    "no agreement": "default, `--no-agreement`",
    "no calibration": "default, `--no-calibrate`",
    **{f"only {topology}": f"default on `{topology}`" for topology in ("a_r", "g_r", "a_g")},
    "joint": "thresholds tuned jointly",
    "myopic": "thresholds one by one",
    "uniform": "random mix",
    "soft_oracle": "soft oracle",
}


def spread(values: pd.Series[float], times: float = 1, digits: int = 2) -> str:
    """Mean and 95 % t interval over splits; a dash where some split has none."""
    if values.isna().any():
        return "-"
    mean = f"{times * values.mean():.{digits}f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {times * t.ppf(0.975, len(values) - 1) * values.std() / len(values) ** 0.5:.{digits}f}"


def hindsight(found: pd.DataFrame) -> str:
    """Times cheaper at each margin, read off the hull on the test half."""
    lines = ["| data | router | +0 | +0.5 | +1 | +2 | splits |", "|---|---|---|---|---|---|---|"]
    for data in found["data"].unique():
        for setting, name in NAMES.items():
            some = found[(found["data"] == data) & (found["setting"] == setting)]
            if len(some):
                cells = [spread(some[f"hindsight {margin:g}"]) for margin in MARGINS]
                lines.append(f"| {data} | {name} | {' | '.join(cells)} | {len(some)} |")
    return "\n".join(lines)


def honest(found: pd.DataFrame) -> str:
    """Times cheaper at the points picked on the fit half, and the points of error that they gave up."""
    lines = ["| data | router | +0 | +0.5 | +1 | +2 |", "|---|---|---|---|---|---|"]
    for data in found["data"].unique():
        for setting in ("default", "joint"):
            some = found[(found["data"] == data) & (found["setting"] == setting)]
            cells = [f"{some[f'honest {m:g}'].mean():.2f} ({100 * some[f'extra {m:g}'].mean():+.2f})" for m in MARGINS]
            lines.append(f"| {data} | {NAMES[setting]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def areas(found: pd.DataFrame) -> str:
    """Mean error along the hull, of the default and of joint thresholds, paired."""
    lines = [
        "| data | area of the policy | of joint thresholds | difference |",
        "|---|---|---|---|",
    ]
    for data in found["data"].unique():
        of = found[found["data"] == data].set_index(["setting", "seed"])["area"]
        ours, joint = of["default"], of["joint"]
        cells = [f"{100 * ours.mean():.2f}", f"{100 * joint.mean():.2f}", spread(ours - joint, 100)]
        lines.append(f"| {data} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["cifar10", "imagenet"])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "quality.csv")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        found = pd.read_csv(args.out)
        print(hindsight(found), honest(found), areas(found), sep="\n\n")
        return
    args.out.parent.mkdir(exist_ok=True)
    for where in args.data:
        for seed in range(args.seeds):
            data = read_folder(where, seed)
            for name in args.settings:
                done = pd.read_csv(args.out) if args.out.exists() else pd.DataFrame(columns=["data", "setting", "seed"])
                if ((done["data"] == data.name) & (done["setting"] == name) & (done["seed"] == seed)).any():
                    continue
                rows = pd.DataFrame(measure(data, name, SETTINGS[name], seed))
                table = pd.concat([done, rows]) if len(done) else rows
                table.to_csv(args.out, index=False, float_format="%.6g")
                print(rows.to_string(header=False), flush=True)


if __name__ == "__main__":
    main()
