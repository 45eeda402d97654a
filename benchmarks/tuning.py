"""What a search gains over the plain frontier's policy, and which sampler finds it: the table of tuning.

    python -m benchmarks.tuning
    python -m benchmarks.tuning --data path/to/ferplus --budget 5 --trials 30
    python -m benchmarks.tuning --time 200

A row a (data, sampler, seed) is appended to the CSV as soon as it is there, and what is there is not run again;
``--table`` prints all as Markdown. Held-out figures are those of the study's own folds, where the best of many looks
better than it is; "fresh" is the gain of the best finalist, in cost at equal error on other folds, with its standard
error, and "kept" whether eval.tune would keep its policy. For the table that policy is fitted on all and measured on
the test part, kept or not: "net" is how much more it costs than the plain one at equal error (at the plain frontier's
price), in percent of the plain one's cost. ``--time N`` instead measures N trials by two processes: seconds by the
clock, and of processors.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from offramp.eval.tuning.choose import DOUBT, choices_of, finalist, measured_on_test
from offramp.eval.tuning.problem import Settings, read_problem
from offramp.eval.tuning.search import ranking, search
from offramp.eval.tuning.solve import solved
from offramp.eval.tuning.study import FOUND, SLOT, done

SAMPLERS = ("tpe", "random", "grid")
RESULTS = Path(__file__).parent / "results" / "tuning.csv"
KEYS = ["data", "target", "trials", "sampler", "seed"]


def measure(settings: Settings) -> dict[str, object]:
    """One study: its best trial beside the plain policy."""
    problem = read_problem(settings)
    plain = solved(problem, problem.plain, problem.topology)
    begin, used = time.perf_counter(), time.process_time()
    searched = search(problem, plain)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - used
    found = finalist(problem, plain, searched)
    first = next(t for t in done(searched.trials, feasible=False) if t.user_attrs[SLOT] == 0)
    best = ranking(problem, searched.trials)[0]
    trial, mean, error = found or (first, 0.0, 0.0)
    other = plain if trial is first else solved(problem, *problem.chosen(choices_of(problem, trial)))
    tested = measured_on_test(problem, plain, other)
    name = "plain" if other is plain else "tuned"
    difference = tested.get("difference", {"net_cost": {"value": 0.0, "low": 0.0, "high": 0.0}})["net_cost"]
    base = tested["plain"]["cost"]["value"]
    states = [trial.state.name for trial in searched.trials]
    return {
        "data": problem.data.name,
        "target": "budget" if settings.budget else "error",
        "trials": settings.trials,
        "sampler": settings.sampler,
        "seed": settings.seed,
        "natural": problem.natural,
        "plain held out": first.user_attrs[FOUND][problem.natural],
        "best held out": best.user_attrs[FOUND][problem.natural],
        "fresh gain": mean,
        "fresh error": error,
        "kept": mean > DOUBT * error,
        "plain test cost": base,
        "plain test error": tested["plain"]["error"]["value"],
        "finalist test cost": tested[name]["cost"]["value"],
        "finalist test error": tested[name]["error"]["value"],
        **{f"net {end} %": 100 * difference[end] / base for end in ("value", "low", "high")},
        "complete": states.count("COMPLETE"),
        "pruned": states.count("PRUNED"),
        "seconds": seconds,
        "cpu seconds": cpu,
    }


def table(found: pd.DataFrame) -> str:
    """Every study as a line of Markdown."""
    lines = [
        "| data, trials | sampler | seed | held out: plain | best | fresh gain ± s.e. | kept | test: plain | finalist "
        "| net cost, % |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found.to_dict("records"):
        times = 100 if row["natural"] == "error" else 1
        plain = f"{row['plain test cost']:.4g}, {100 * row['plain test error']:.2f} %"
        best = f"{row['finalist test cost']:.4g}, {100 * row['finalist test error']:.2f} %"
        net = f"{row['net value %']:+.1f} [{row['net low %']:+.1f}, {row['net high %']:+.1f}]"
        lines.append(
            f"| {row['data']}, {row['trials']} | {row['sampler']} | {row['seed']} | "
            f"{times * row['plain held out']:.4g} | {times * row['best held out']:.4g} | "
            f"{row['fresh gain']:.3g} ± {row['fresh error']:.2g} | {'yes' if row['kept'] else 'no'} | "
            f"{plain} | {best} | {net} |"
        )
    return "\n".join(lines)


def summary(found: pd.DataFrame) -> str:
    """A line a data set, target and sampler, over the seeds: what the docs show."""
    lines = [
        "| data, target, trials | sampler | best held out, % better than plain | kept, of | finalist on the test part: "
        "net cost, %, by seed |",
        "|---|---|---|---|---|",
    ]
    for (data, target, trials, sampler), some in found.groupby(["data", "target", "trials", "sampler"], sort=False):
        gain = 100 * (1 - some["best held out"] / some["plain held out"])
        net = ", ".join(
            f"{row['net value %']:+.0f} [{row['net low %']:+.0f}, {row['net high %']:+.0f}]{'*' * bool(row['kept'])}"
            for row in some.to_dict("records")
        )
        kept = f"{int(some['kept'].sum())} of {len(some)}"
        lines.append(f"| {data}, {target}, {trials} | {sampler} | {gain.mean():.0f} | {kept} | {net} |")
    return "\n".join(lines)


def timed(trials: int) -> str:
    """Two processes on the embedded data, the whole command: by the clock, and what processors worked."""
    with TemporaryDirectory() as out:
        flags = ["--topology", "a_g_r", "--max-error-increase", "0.005", "--trials", str(trials), "--workers", "2"]
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "eval.tune", *flags, "--out", out], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begin
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return f"{trials} trials by two processes: {seconds:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of processors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--budget")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--time", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.time:
        print(timed(args.time))
        return
    args.out.parent.mkdir(exist_ok=True)
    from offramp.cascades.files.datafolder import read_folder

    data = read_folder(args.data)
    aim = "budget" if args.budget else "error"
    for seed in range(0 if args.table else args.seeds):
        for sampler in SAMPLERS:
            there = pd.read_csv(args.out) if args.out.exists() else pd.DataFrame(columns=KEYS)
            if (there[KEYS] == [data.name, aim, args.trials, sampler, seed]).all(axis=1).any():
                continue
            with TemporaryDirectory() as out:
                settings = Settings(
                    topology="_".join(data.costs.stages),
                    data=args.data,
                    budget=args.budget,
                    max_error_increase=None if args.budget else 0.005,
                    trials=args.trials,
                    sampler=sampler,
                    seed=seed,
                    out=Path(out),
                )
                row = pd.DataFrame([measure(settings)])
            (pd.concat([there, row]) if len(there) else row).to_csv(args.out, index=False, float_format="%.6g")
            print(table(row).splitlines()[-1], flush=True)
    print(table(pd.read_csv(args.out)), summary(pd.read_csv(args.out)), sep="\n\n")


if __name__ == "__main__":
    main()
