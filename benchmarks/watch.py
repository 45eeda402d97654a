"""How often the watch alarms where nothing has changed, and how soon where something has.

    python -m benchmarks.watch --data path/to/cifar10-agr
    python -m benchmarks.watch --repeats 5 --unchanged 20 --out somewhere.csv

A cascade is fitted on half of the fit part; its point is picked half a point of error above the largest network. The
world is the test part: the reference (5,000 examples) and every stream are drawn from it with replacement, so that in
an unchanged world both are samples of the very same distribution, which is what the promise is about. (Streams drawn
from the test part and held against other examples are not: the test part's 10,000 differ from those by chance, and a
stream ten times as long sees it. That is measured too, as "nothing, other examples": the reference is then the
kept-back half of the fit part itself. And "nothing, certified on the reference": as ``eval.certify`` does, the cheapest
point is chosen that passes for a target on n examples drawn from the world, which are the reference too, and on which
the point looked good; draws on which none passes are drawn anew.) While nothing changes the certificate's bounds are
the world's own mean cost and increase of the error, where a breach is hardest to tell, or what was certified; else they
lie two standard errors of 5,000 examples above.

A changed stream is the same up to an example, then drawn otherwise: a class doubled or removed (each class in turn),
the networks' logits scaled (surer or less sure), or with noise added. Delays are counted in examples from the change;
no alarm is waited for longer than 100,000. "log": only paths and confidences, answers too, or also a label at each
twentieth example, or at every one. "alarmed before": share of runs with an alarm before the change; "never": share of
the others with none within 100,000 examples; "median", "90 %" of the delay; "first": which monitor was first how often,
"rightly" where it is one of a certified bound that does not hold in the world.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from offramp.cascades.files.datafolder import DataFolder, keep_back, read_folder
from offramp.cascades.files.policy import Bound, Certificate
from offramp.cascades.graph.routing import Routing
from offramp.cascades.graph.topology import parse_topology, unroll
from offramp.cascades.learning.fit import FitSettings
from offramp.cascades.learning.points import cheapest_within, fit_points
from offramp.eval.guarantees.reference import Subject, confidences, path_names, reference_of
from offramp.eval.monitoring.drift import Watch
from offramp.eval.monitoring.monitors import Alarm
from offramp.eval.monitoring.routinglog import NONE, Examples
from offramp.features.outputs import Floats, Ints, Outputs

MARGIN = 0.005
KEPT = 0.5
REFERENCE = 5_000
LENGTH = 100_000
STARTS = (0, 5_000, 20_000)
LABELLED = {"paths": 0.0, "answers": 0.0, "labels": 0.05, "every label": 1.0}
PIECE = 2_500
LOGS = tuple(LABELLED)
DELTA = 0.05
CERTIFIED = [(n, target) for n in (1_000, 5_000) for target in (0.005, 0.0)]


@dataclass(frozen=True)
class World:
    """All that logs can say of n examples, and how likely each is drawn (n,), in parts of any sum."""

    examples: Examples
    routing: Routing
    outputs: Outputs
    chance: Floats

    @property
    def wrong(self) -> NDArray[np.bool_]:
        return np.asarray(self.examples.answer != self.examples.label)

    @property
    def base(self) -> NDArray[np.bool_]:
        """Whether the largest stage is wrong."""
        return np.asarray(self.examples.largest != self.examples.label)

    @property
    def error(self) -> float:
        return float(np.average(self.wrong, weights=self.chance))

    def draw(self, count: int, log: str, rng: np.random.Generator) -> Examples:
        """So many lines of a log that says so much."""
        rows = np.searchsorted(np.cumsum(self.chance) / self.chance.sum(), rng.random(count), "right")
        found = self.examples.take(rows)
        blank = np.full(count, NONE)
        labelled = rng.random(count) < LABELLED[log]
        return replace(
            found,
            answer=blank if log == "paths" else found.answer,
            label=np.where(labelled, found.label, NONE),
            largest=np.where(labelled, found.largest, NONE),
        )


class Bench:
    """A fitted cascade on a data folder, and the worlds that its examples can be made into."""

    def __init__(self, data: DataFolder) -> None:
        data = keep_back(data, KEPT, 0)
        stages = tuple(data.costs.stages)
        self.routes = unroll(parse_topology("_".join(stages), stages), data.costs)
        self.largest = int(np.argmax(self.routes.alone if self.routes.alone is not None else self.routes.cost))
        how = FitSettings(("constant", "threshold", "logistic", "value"))
        parts = {name: part.of(self.routes.stages) for name, part in data.parts.items()}
        self.fitted, picking = fit_points(parts["fit"], parts.get("tune"), self.routes, 20, how)
        self.cost = np.array([routing.mean_cost for routing in picking.routings])
        self.error = np.array([routing.error for routing in picking.routings])
        self.reference = float(picking.there.wrong[:, self.largest].mean())
        self.point = cheapest_within(self.cost, self.error, self.reference + MARGIN)
        self.test, self.other = parts["test"], self.world(parts["certify"])
        self.usual = self.world(self.test)

    def world(self, outputs: Outputs, point: int | None = None) -> World:
        routing = self.fitted.route(outputs)[self.point if point is None else point]
        full = np.asarray(outputs.stages[self.largest].logits).argmax(axis=1)
        labels, answer = outputs.labels.astype(np.int64), routing.answer.astype(np.int64)
        examples = Examples(routing.path.astype(np.int64), confidences(routing, outputs), answer, labels, full)
        return World(examples, routing, outputs, np.ones(len(labels)))

    def reweighted(self, world: World, factor: float) -> list[World]:
        """Each class in turn so many times as frequent as before."""
        chances = (np.where(world.examples.label == label, factor, 1.0) for label in range(world.outputs.classes))
        return [replace(world, chance=chance) for chance in chances]

    def distorted(self, scale: float, noise: float) -> World:
        rng = np.random.default_rng(1)
        stages = []
        for stage in self.test.stages:
            logits = np.asarray(stage.logits, dtype=np.float32)
            stages.append(replace(stage, logits=scale * logits + noise * rng.standard_normal(logits.shape, np.float32)))
        return self.world(replace(self.test, stages=tuple(stages)))

    def promised(self, errors: float) -> Certificate:
        """Its bounds lie so many standard errors above what is true."""
        usual = self.usual
        increase, cost = usual.wrong.astype(float) - usual.base, usual.routing.cost
        bounds = [float(x.mean() + errors * x.std() / np.sqrt(REFERENCE)) for x in (increase, cost)]
        risk = Bound("increase", bounds[0], float(increase.mean()), {})
        return Certificate(DELTA, (risk,), bounds[1], float(cost.mean()), REFERENCE, "", "", self.point, "")

    @cached_property
    def points(self) -> list[World]:
        """The usual world at every point."""
        return [self.world(self.test, point) for point in range(len(self.cost))]

    def certified(self, n: int, target: float, rng: np.random.Generator) -> tuple[World, Ints, Certificate]:
        """The world at the point that is certified on n of its examples, these, and the certificate."""
        from offramp.eval.guarantees.claims import Claim, certify_points, fixed_sequence

        alone = self.routes.alone
        below = float("inf") if alone is None else float(alone[self.largest])
        order = fixed_sequence(self.cost, self.error, self.reference + target, below)
        worlds, base = [self.points[int(point)] for point in order], self.usual.base
        span = float(self.routes.cost.min()), float(self.routes.cost.max())
        while True:
            rows = rng.integers(len(base), size=n)
            wrong, cost = [world.wrong[rows] for world in worlds], [world.routing.cost[rows] for world in worlds]
            found = certify_points(wrong, cost, base[rows], [Claim("increase", target)], DELTA, span)
            if found.passed:
                point = int(order[found.passed - 1])
                risk = Bound("increase", target, found.values[0], {})
                made = Certificate(DELTA, (risk,), found.cost_bound, found.cost, n, "", "", point, "")
                return self.points[point], rows, made

    def subject(self, rows: Ints, world: World, promised: Certificate) -> Subject:
        """The reference is these examples of a world."""
        routing, outputs = world.routing, world.outputs
        drawn = replace(routing, path=routing.path[rows], answer=routing.answer[rows], wrong=routing.wrong[rows])
        runs = np.array([[s in path for s in range(len(self.routes.stages))] for path in self.routes.paths])
        return Subject(
            path_names(self.routes),
            self.routes.stages,
            np.asarray(self.routes.cost, dtype=np.float64),
            runs,
            self.routes.unit,
            outputs.classes,
            reference_of(drawn, outputs.take(rows)),
            promised,
        )

    def changes(self) -> Iterator[tuple[str, list[World]]]:
        """Names and worlds of each change; a repeat takes the next of its worlds."""
        yield "a class doubled", self.reweighted(self.usual, 2.0)
        yield "a class removed", self.reweighted(self.usual, 0.0)
        yield "logits halved", [self.distorted(0.5, 0.0)]
        yield "logits times 0.8", [self.distorted(0.8, 0.0)]
        yield "logits times 1.25", [self.distorted(1.25, 0.0)]
        yield "noise of 1 on logits", [self.distorted(1.0, 1.0)]
        yield "noise of 2 on logits", [self.distorted(1.0, 2.0)]
        yield "a class doubled, noise of 1", self.reweighted(self.distorted(1.0, 1.0), 2.0)


@dataclass(frozen=True)
class Case:
    """Streams that change ``at`` an example from the first world into one of ``worlds``, which take turns. ``certify``:
    how many examples a point is certified on, and for what target; there nothing changes."""

    name: str
    worlds: list[World]
    at: int
    log: str
    runs: int
    certify: tuple[int, float] | None = None


def subject_and_world(bench: Bench, case: Case, rng: np.random.Generator) -> tuple[Subject, World]:
    """What is watched, and the world before any change."""
    if case.certify is not None:
        world, rows, certificate = bench.certified(*case.certify, rng)
        return bench.subject(rows, world, certificate), world
    other = case.name == "nothing, other examples"
    world = bench.other if other else bench.usual
    rows = np.arange(len(world.examples)) if other else rng.integers(len(world.examples), size=REFERENCE)
    promised = bench.promised(0.0 if case.name.startswith("nothing") else 2.0)
    return bench.subject(rows, world, promised), bench.usual


def rightly(alarm: Alarm, subject: Subject, world: World) -> bool:
    """Whether a bound is alarmed about that does not hold."""
    promised = subject.certificate
    assert promised is not None
    truth = {"risk bound": world.error - float(world.base.mean()), "cost bound": world.routing.mean_cost}
    bounds = {"risk bound": promised.bounds[0].most, "cost bound": promised.cost_bound}
    return alarm.monitor in truth and truth[alarm.monitor] > bounds[alarm.monitor] + 1e-12


def delays(bench: Bench, case: Case) -> dict[str, object]:
    """One row of the table."""
    found, first, early, begun = [], Counter[str](), 0, time.perf_counter()
    errors = [world.error for world in case.worlds]
    for repeat in range(case.runs):
        rng = np.random.default_rng([case.at, repeat, LOGS.index(case.log), *case.name.encode()])
        subject, usual = subject_and_world(bench, case, rng)
        watch = Watch(subject, 0.05, repeat)
        worlds = case.worlds if case.certify is None else [usual]
        errors += [] if case.certify is None else [usual.error]
        alarm = None
        for begin in range(0, case.at + LENGTH, PIECE):
            here = usual if begin < case.at else worlds[repeat % len(worlds)]
            raised = watch.feed(here.draw(PIECE, case.log, rng))
            if raised:
                alarm = raised[0]
                break
        if alarm is not None and alarm.at <= case.at:
            early += 1
            continue
        found.append(np.inf if alarm is None else alarm.at - case.at)
        unchanged = alarm is not None and case.name.startswith("nothing")
        right = alarm is not None and unchanged and rightly(alarm, subject, usual)
        first[(alarm.monitor if alarm else "none") + (" rightly" if right else "")] += 1
    apart = np.array(found or [np.nan])
    return {
        "change": case.name,
        "at": case.at,
        "log": case.log,
        "error": float(np.mean(errors)),
        "runs": case.runs,
        "alarmed before": early / case.runs,
        "never": float(np.mean(np.isinf(apart))),
        "median": float(np.quantile(apart, 0.5, method="inverted_cdf")),
        "90 %": float(np.quantile(apart, 0.9, method="inverted_cdf")),
        "first": ", ".join(f"{monitor} {count}" for monitor, count in first.most_common()),
        "seconds": time.perf_counter() - begun,
    }


def cases(bench: Bench, unchanged: int, repeats: int) -> list[Case]:
    found = [
        Case("nothing", [bench.usual], 0, "labels", unchanged),
        Case("nothing, other examples", [bench.usual], 0, "labels", max(1, unchanged // 4)),
    ]
    for n, target in CERTIFIED:
        name = f"nothing, certified on the reference ({n:,} examples, {100 * target:g} points)"
        found.append(Case(name, [], 0, "every label", unchanged, (n, target)))
    for name, worlds in bench.changes():
        found += [Case(name, worlds, start, log, repeats) for log in LOGS[:3] for start in STARTS]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--unchanged", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "watch.csv")
    args = parser.parse_args()
    bench = Bench(read_folder(args.data))
    rows = []
    for case in cases(bench, args.unchanged, args.repeats):
        rows.append({"data": bench_name(args.data), **delays(bench, case)})
        print(rows[-1], flush=True)
    args.out.parent.mkdir(exist_ok=True)
    table = pd.DataFrame(rows)
    table.to_csv(args.out, index=False, float_format="%.6g")
    print(markdown(table))


def bench_name(data: str) -> str:
    return Path(data).name


def markdown(table: pd.DataFrame) -> str:
    """The table as the docs show it."""
    lines = [
        "| change | error | the log has | median (90 %) after 0 | after 5,000 | after 20,000 |",
        "|---|---|---|---|---|---|",
    ]
    for (name, log), group in table.groupby(["change", "log"], sort=False):
        by_start = {int(row["at"]): _delay(row) for row in group.to_dict("records")}
        cells = [by_start.get(start, "") for start in STARTS]
        lines.append(f"| {name} | {100 * group['error'].iloc[0]:.1f} % | {log} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _delay(row: dict[str, object]) -> str:
    never = float(str(row["never"]))
    if str(row["change"]).startswith("nothing"):
        return f"{100 * (1 - never):.1f} % of {row['runs']} alarm"
    shown = [f"{float(str(row[key])):,.0f}".replace("inf", "over 100,000") for key in ("median", "90 %")]
    return f"{shown[0]} ({shown[1]})" + (f", never {100 * never:.0f} %" if never else "")


if __name__ == "__main__":
    main()
