"""Speed and memory of the main job, as ratios and whole-process figures of one run: ``python -m benchmarks.speed``.

Writes ``benchmarks/results/speed.csv``. Times are wall-clock times of whole processes, start-up and files included,
unless a row says otherwise; memory is the process's largest resident set, mapped pages of the input included, and
never less than this program had reached when it started that process.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

RESULTS = Path(__file__).parent / "results" / "speed.csv"
STAGES = {"alexnet": 1.0, "googlenet": 5.0, "resnet": 25.0, "wide": 60.0}
SKILL = {"alexnet": 1.6, "googlenet": 2.2, "resnet": 2.8, "wide": 3.0}
"""How far a made-up stage raises the right class's logit, in standard deviations of the rest."""


def made_up(n: int, classes: int, stages: list[str], folder: Path, *, answers: bool) -> None:
    """A data folder of made-up outputs: examples differ in how hard they are, stages in skill."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, n)
    hard = rng.normal(size=n).astype(np.float32)
    columns: dict[str, np.ndarray] = {}
    for name in stages:
        if answers:
            odds = SKILL[name] - 1.5 * hard + 0.7 * rng.normal(size=n)
            right = rng.random(n) < 1 / (1 + np.exp(-odds))
            columns[f"{name}.answer"] = np.where(right, labels, rng.integers(0, classes, n)).astype(np.int16)
            columns[f"{name}.confidence"] = (1 / (1 + np.exp(-odds + 0.7 * rng.normal(size=n)))).astype(np.float32)
        else:
            logits = rng.standard_normal((n, classes), dtype=np.float32)
            logits[np.arange(n), labels] += np.sqrt(2 * np.log(classes)) * (SKILL[name] - hard) / 2
            columns[name] = logits * np.float32(1.5)
    if answers:
        pd.DataFrame({"label": labels.astype(np.int16), **columns}).to_parquet(folder / "answers.parquet")
    else:
        np.savez(folder / "outputs.npz", labels=labels, **columns)
    costs = ", ".join(f'"{name}": {STAGES[name]}' for name in stages)
    (folder / "costs.json").write_text(f'{{"unit": "ms per image", "stages": {{{costs}}}}}')


def whole_process(*arguments: str) -> tuple[float, float]:
    """Wall seconds and peak megabytes of ``python -m eval.frontier`` with these arguments."""
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "eval.frontier", *arguments, "--out", out], stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"eval.frontier {' '.join(arguments)} failed")
    return seconds, usage.ru_maxrss / 1024


def fastest(work: Callable[[], object], runs: int = 5) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main_job(add: Callable[..., None]) -> None:
    runs = [whole_process("--topology", "a_g_r") for _ in range(3)]
    seconds, megabytes = sorted(runs)[1]
    add("embedded data, 50 prices, all default families", seconds=seconds, limit=10, megabytes=megabytes, memory=700)


def logits(add: Callable[..., None]) -> None:
    from offramp.features.confidence import read_confidence

    z = np.random.default_rng(0).standard_normal((50_000, 1_000), dtype=np.float32) * 3
    target = np.empty_like(z)
    copy = fastest(lambda: np.copyto(target, z))
    seen = fastest(lambda: read_confidence(z))
    add("confidence pass over 50,000 x 1,000 logits, in copies of the array", ratio=seen / copy, ratio_limit=4)
    z = target = np.empty(0)
    with tempfile.TemporaryDirectory() as folder:
        made_up(50_000, 1_000, list(STAGES)[:3], Path(folder), answers=False)
        seconds, megabytes = whole_process("--topology", "a_g_r", "--data", folder)
    add("50,000 x 1,000 x 3 logits from disk", seconds=seconds, limit=20, megabytes=megabytes, memory=2000)


def rows(add: Callable[..., None]) -> None:
    sizes, times = (10_000, 100_000, 1_000_000), []
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            made_up(n, 100, list(STAGES)[:3], Path(folder), answers=True)
            seconds, megabytes = whole_process("--topology", "a_g_r", "--data", folder)
        times.append(seconds)
        last = n == sizes[-1]
        add(
            f"{n:,} rows of answers x 3 stages",
            seconds=seconds,
            limit=60 if last else None,
            megabytes=megabytes,
            memory=3000 if last else None,
        )
    add(
        "exponent of the time from 10,000 to 1,000,000 rows",
        ratio=np.polyfit(np.log(sizes), np.log(times), 1)[0],
        ratio_limit=1.07,
    )  # n log n over this range


def four_stages(add: Callable[..., None]) -> None:
    times = []
    for k in (3, 4):
        with tempfile.TemporaryDirectory() as folder:
            made_up(20_000, 10, list(STAGES)[:k], Path(folder), answers=False)
            times.append(whole_process("--topology", "_".join(list(STAGES)[:k]), "--data", folder)[0])
    add("four stages, all jumps, in times of three stages", ratio=times[1] / times[0], ratio_limit=4)


def obvious_program(add: Callable[..., None]) -> None:
    """Against one scikit-learn logistic regression for each price, path, match and fold."""
    from offramp.cascades.files.datafolder import read_folder
    from offramp.cascades.graph.topology import parse_topology, unroll
    from offramp.cascades.learning.fit import FitSettings, fit_sweep

    data = read_folder("cifar10")
    routes = unroll(parse_topology("a_g_r", tuple(data.costs.stages)), data.costs)
    start = time.perf_counter()
    sweep, _ = fit_sweep(data.parts["fit"], routes, 50, FitSettings(("constant", "threshold", "logistic", "value")))
    routed = sweep.route(data.parts["test"])
    ours = time.perf_counter() - start
    prices = sweep.prices[:50]
    objective = np.mean([routed.at(i).error + price * routed.at(i).mean_cost for i, price in enumerate(prices)])
    start = time.perf_counter()
    theirs = np.mean([_obvious(data, routes.cost, routes.index, price) for price in prices])
    add(
        "the obvious program's time, in times of ours (in process)",
        ratio=(time.perf_counter() - start) / ours,
        ratio_least=10,
    )
    add("our objective on the test part, in times of the obvious program's", ratio=objective / theirs, ratio_limit=1)


def _obvious(data: object, cost: np.ndarray, index: dict[tuple[int, ...], int], price: float) -> float:
    """The paper's cascade at one price, fitted plainly; its mean loss + price * cost on the test part."""
    from scipy.special import log_softmax
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def read(part: str) -> tuple[list[np.ndarray], np.ndarray]:
        outputs, features, wrong = data.parts[part], [], []  # type: ignore[attr-defined]
        for stage in outputs.stages:
            logp = log_softmax(stage.logits.astype(float), axis=1)
            top = -np.sort(-logp, axis=1)
            features.append(np.column_stack([-(np.exp(logp) * logp).sum(1), np.exp(top[:, 0]), top[:, 0] - top[:, 1]]))
            wrong.append((logp.argmax(1) != outputs.labels).astype(float))
        return features, np.column_stack(wrong)

    (x, wrong), (x_test, wrong_test) = read("fit"), read("test")

    def learn(seen: np.ndarray, gain: np.ndarray) -> object:
        if (gain > 0).all() or (gain <= 0).all():
            always = bool((gain > 0).all())
            return type("Always", (), {"predict": lambda _, z: np.full(len(z), always)})()
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
        return model.fit(seen, gain > 0, logisticregression__sample_weight=np.abs(gain))

    held: dict[tuple[int, ...], np.ndarray] = {}
    tested: dict[tuple[int, ...], np.ndarray] = {}
    for path in sorted(index, key=len, reverse=True):
        stop, stop_test = wrong[:, path[-1]], wrong_test[:, path[-1]]
        ways = [p for p in index if p[:-1] == path]
        if not ways:
            held[path], tested[path] = stop, stop_test
            continue
        seen, seen_test = np.hstack([x[s] for s in path]), np.hstack([x_test[s] for s in path])
        here, here_test = stop, stop_test
        extra = [price * (cost[index[way]] - cost[index[path]]) for way in ways]
        for way, more in zip(ways, extra, strict=True):
            gain = here - (held[way] + more)
            goes = np.zeros(len(gain), bool)
            for rest, fold in (
                StratifiedKFold(5).split(seen, gain > 0) if min((gain > 0).sum(), (gain <= 0).sum()) > 5 else []
            ):
                goes[fold] = learn(seen[rest], gain[rest]).predict(seen[fold])  # type: ignore[attr-defined]
            go_test = learn(seen, gain).predict(seen_test)  # type: ignore[attr-defined]
            here = np.where(goes, held[way] + more, here)
            here_test = np.where(go_test, tested[way] + more, here_test)
        held[path], tested[path] = here, here_test
    entry = min((p for p in index if len(p) == 1), key=lambda p: held[p].mean() + price * cost[index[p]])
    return float(tested[entry].mean() + price * cost[index[entry]])


PARTS = {f.__name__: f for f in (main_job, logits, rows, four_stages, obvious_program)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    found: list[dict[str, object]] = []

    def add(what: str, **numbers: float | None) -> None:
        found.append({"what": what, **numbers})
        print(what, {k: round(v, 3) for k, v in numbers.items() if v is not None}, flush=True)

    for part in args.parts:
        PARTS[part](add)
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}"
    )
    columns = ["what", "seconds", "limit", "megabytes", "memory", "ratio", "ratio_limit", "ratio_least"]
    args.out.parent.mkdir(exist_ok=True)
    pd.DataFrame(found).reindex(columns=columns).assign(machine=machine).to_csv(
        args.out, index=False, float_format="%.4g"
    )


if __name__ == "__main__":
    main()
