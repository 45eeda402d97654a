"""Shipped networks with exits turned into published tables with our numbers: ``python -m eval.papers PAPER``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from offramp.cascades.files.datafolder import DataFolder
    from offramp.cascades.graph.routing import Routes, Routing
    from offramp.cascades.learning.outcomes import Outcomes
    from offramp.cascades.learning.points import Fitted, Picking
    from offramp.cascades.measuring.race import Race, System
    from offramp.cascades.runtime.decide import LiveCascade
    from offramp.features.outputs import Floats, Ints
from offramp.features.outputs import Floats


def knee(cost: Floats, accuracy: Floats) -> int:
    """Index of the point farthest above the line from the cheapest to the dearest point of a curve (m,).

    What BranchyNet calls the knee of accuracy against time, made exact as Satopaa et al. (2011) do, on both scaled to
    0 ... 1. Of points that are dominated none is taken.

    >>> knee(np.array([1.0, 2.0, 3.0, 6.0]), np.array([0.5, 0.8, 0.9, 0.92]))
    2
    """
    order = np.lexsort((-accuracy, cost))
    kept = order[np.concatenate([[True], np.maximum.accumulate(accuracy[order])[:-1] < accuracy[order][1:]])]
    c, a = cost[kept], accuracy[kept]
    if len(kept) == 1 or c[-1] == c[0]:
        return int(kept[-1])
    above = (a - a[0]) / (a[-1] - a[0]) - (c - c[0]) / (c[-1] - c[0])
    return int(kept[above.argmax()])


def paper_grid(exits: int) -> Floats:
    """Vectors of entropy thresholds (m, exits) as BranchyNet screens them: all combinations of one list of values."""
    values = np.array([0.0, 1e-4, 1e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, np.inf])
    return np.stack(np.meshgrid(*[values] * exits, indexing="ij"), axis=-1).reshape(-1, exits)


FILES = ("branchynet.csv", "branchynet.md", "branchynet.png")
NETWORKS = ("b_lenet", "b_alexnet", "b_resnet56")
PAPER_ROW = {"b_resnet56": "b_resnet110"}
"""Whose row of the paper stands above a network's, if not its own."""

WEIGHTED = "weighted_alexnet"
"""Data folder of what exits of B-AlexNet answer that were trained alike but for the weights of the exits' losses."""

WEIGHTS = {
    "alone": "0, 0, 1: no branches",
    "b_alexnet": "1, 0.65, 0.3: more on early exits",
    "equal": "1, 1, 1: equal",
}
PRICES = 200
"""Prices at which honest thresholds are tuned on the fit part, before one of them is picked there."""


PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "b_lenet": {"base": 99.20, "accuracy": 99.25, "ms_base": 3.37, "ms": 0.62, "shares": "94.3 / 5.7", "cuts": "0.025"},
    "b_alexnet": {
        "base": 78.38,
        "accuracy": 79.19,
        "ms_base": 9.56,
        "ms": 6.32,
        "shares": "65.6 / 25.2 / 9.2",
        "cuts": "0.0001, 0.05",
    },
    "b_resnet110": {
        "base": 80.70,
        "accuracy": 79.17,
        "ms_base": 137.2,
        "ms": 73.5,
        "shares": "41.5 / 13.8 / 44.7",
        "cuts": "0.3, 0.2",
    },
}
"""Table I of Teerapittayanon, McDanel & Kung (2016), on their CPU, one image at a time."""

HONEST = {True: "honest", False: "honest; base's error not reached on the fit part"}
"""What rows are called that were to err no more than the unbranched network on the fit part, if they do or not."""

FLAWS = (
    "thresholds are screened on the images that are reported on",
    "the clock runs for the trunk alone: heads and entropies are not in it",
)
"""What is wrong with the published protocol, and kept in *as published*. In *honest* rows thresholds come from the fit
part, and everything is on the clock."""


@dataclass(frozen=True)
class Settings:
    """The flags of the command."""

    networks: tuple[str, ...] = field(default=NETWORKS, metadata={"help": "which networks", "choices": NETWORKS})
    rounds: int = field(default=5, metadata={"help": "times that all images are run", "minimum": 1, "maximum": 1000})
    rows: int = field(
        default=200, metadata={"help": "images to time on, one at a time", "minimum": 1, "maximum": 100_000}
    )
    threads: int | None = field(
        default=None, metadata={"help": "CPU threads, if not all", "minimum": 1, "maximum": 1024}
    )
    device: str = field(default="cpu", metadata={"help": "cpu, cuda, or auto: cuda if there is one"})
    seed: int = field(default=0, metadata={"help": "seed of folds", "minimum": 0, "maximum": 2**31})
    out: Path = field(default=Path("papers"), metadata={"help": "folder to write into; made if need be"})


@dataclass(frozen=True)
class Line:
    """One row of the table: a network under a protocol and a router. Accuracies in %, times in ms an image."""

    network: str
    protocol: str
    router: str
    thresholds: str
    base: float
    accuracy: float
    ms_base: float
    ms: float
    shares: str

    @property
    def gain(self) -> float:
        """Times faster than the unbranched network."""
        return self.ms_base / self.ms


def branchynet(settings: Settings) -> None:
    """Table I of BranchyNet."""
    import pandas as pd
    import torch

    from offramp.cascades.models.probing import pick_device
    from offramp.eval.report.files import csv_bytes, png_bytes, writable

    folder = writable(settings.out, "--out", FILES)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    lines: list[Line] = []
    curves: dict[str, dict[str, tuple[Floats, Floats]]] = {}
    for name in settings.networks:
        case = Case.load(name, settings, device)
        lines += case.lines()
        curves[name] = case.curves()
    frame = pd.DataFrame([{**line.__dict__, "gain": line.gain} for line in lines])
    text = markdown(lines, device_line(device)) + weights_table(settings)
    contents = (csv_bytes(frame), text.encode(), png_bytes(picture(curves)))
    written = folder.write_all(dict(zip(FILES, contents, strict=True)))
    sys.stdout.write(text)
    for path in written:
        sys.stdout.write(f"  {path}\n")


@dataclass(frozen=True)
class Case:
    """One branched network beside its unbranched baseline: stored outputs of both, and both on their device.

    The data folder holds the exits as stages and the baseline as stage ``base``.
    """

    name: str
    data: DataFolder
    routes: Routes
    models: tuple[Any, ...]
    pixels: dict[Any, Any]
    device: Any
    settings: Settings

    @staticmethod
    def load(name: str, settings: Settings, device: Any) -> Case:
        """Read what comes along for the network."""
        import torch

        from offramp.cascades.files.datafolder import read_folder
        from offramp.cascades.files.embedded import embedded_path
        from offramp.cascades.files.provenance import PICTURES, noted
        from offramp.cascades.graph.topology import parse_topology, unroll
        from offramp.cascades.images.sources import open_images
        from offramp.cascades.measuring.extraction import ways_of
        from offramp.cascades.models.zoo import load_cascade

        data = read_folder(name, settings.seed)
        exits = [stage for stage in data.costs.stages if stage != "base"]
        routes = unroll(parse_topology(">".join(exits), tuple(data.costs.stages)), data.costs)
        specs = noted(name, "networks", {})
        models = load_cascade([f"{network}={spec}" for network, spec in specs.items()])
        own = embedded_path(name) / "images.npz"
        images = open_images(own if own.exists() else embedded_path("cifar10") / PICTURES).numbered_as(
            models[0].classes
        )
        rows = range(min(settings.rows, len(images)))
        ways = ways_of(models)
        pixels = {
            way.pixels_key: torch.from_numpy(np.stack([way.cropped(images.image(i)) for i in rows])) for way in ways
        }
        return Case(name, data, routes, models, pixels, device, settings)

    # --- what is stored

    def outcomes(self, part: str) -> Outcomes:
        """What every exit says on a part, its entropy in the place of the confidence."""
        from offramp.cascades.learning.answers import LOSSES
        from offramp.cascades.learning.outcomes import single_outcomes
        from offramp.oracles.entropy import by_entropy

        return by_entropy(single_outcomes(self.data.parts[part].of(self.routes.stages), LOSSES["top1"], {}))

    def base_wrong(self, part: str) -> float:
        """Share of mistakes of the unbranched network."""
        stage = self.data.parts[part].of(("base",)).stages[0]
        assert stage.logits is not None
        return float((stage.logits.argmax(1) != self.data.parts[part].labels).mean())

    @property
    def path(self) -> tuple[int, ...]:
        """All exits in order."""
        return tuple(range(len(self.routes.stages)))

    def published_cuts(self) -> tuple[float, ...]:
        """The knee of the grid, screened on the test part as the paper does; cuts on minus the entropy."""
        from offramp.cascades.learning.chains import route_chain

        test = self.outcomes("test")
        grid = -paper_grid(len(self.path) - 1)
        trunk = np.cumsum([self.data.costs.stages[stage].trunk for stage in self.routes.stages])
        routings = [route_chain(test, self.routes, self.path, tuple(cuts)) for cuts in grid]
        cost = np.array([trunk[self.routes.exits[routing.path]].mean() for routing in routings])
        found = grid[knee(cost, np.array([1 - routing.error for routing in routings]))]
        return tuple(float(cut) for cut in found)

    def honest_cuts(self) -> tuple[tuple[float, ...], bool]:
        """Of the best thresholds on the fit part the cheapest that err there no more than the unbranched network, and
        whether there are such; if not, those that err least."""
        from offramp.cascades.learning.chains import route_chain
        from offramp.oracles.entropy import entropy_cuts

        fit = self.outcomes("fit")
        prices = np.geomspace(1e-4, 10, PRICES) / self.routes.cost.max()
        plans = entropy_cuts(fit, self.routes, self.path, prices)
        routings = [route_chain(fit, self.routes, *plan) for plan in plans]
        point, kept = self._cheapest(routings)
        return plans[point][1], kept

    def _cheapest(self, routings: Sequence[Routing]) -> tuple[int, bool]:
        """The cheapest of some routings of the fit part that err no more than the unbranched network does there, and
        whether one does; if not, the one that errs least."""
        from offramp.cascades.learning.points import ROUNDING, cheapest_within

        cost, error = (np.array([getattr(r, name) for r in routings]) for name in ("mean_cost", "error"))
        bound = self.base_wrong("fit")
        point = cheapest_within(cost, error, bound)
        return point, bool(error[point] <= bound + ROUNDING)

    @cached_property
    def jumps(self) -> Routes:
        """The exits with every jump along them: who is sure not to stop at an exit need not pay for its head."""
        from offramp.cascades.graph.topology import Topology, unroll

        stages = self.routes.stages
        jumps = {one: stages[i + 1 :] for i, one in enumerate(stages)}
        return unroll(Topology(stages, jumps, stages), self.data.costs)

    def fitted(self, routes: Routes) -> tuple[Fitted, Picking]:
        """Learned policies on routes, and what one of them is picked by, both from the fit part."""
        from offramp.cascades.learning.points import fit_points
        from offramp.cascades.learning.recipe import Recipe

        how = Recipe(pooled=False, seed=self.settings.seed).fit_settings
        return fit_points(self.data.parts["fit"].of(routes.stages), None, routes, 50, how)

    # --- what is run

    def lines(self) -> list[Line]:
        """The paper's rows and ours: everything is timed in one run, one image at a time, alternating."""
        from offramp.cascades.learning.chains import route_chain
        from offramp.cascades.measuring.race import Alone, Together, race
        from offramp.cascades.runtime.networks import networks
        from offramp.cascades.runtime.run import Runtime

        test = self.data.parts["test"]
        published, (honest, kept) = self.published_cuts(), self.honest_cuts()
        learned = [
            Learned.fit(called, self, routes)
            for called, routes in (("learned", self.routes), ("learned, with jumps", self.jumps))
        ]
        running = networks(self.models, self.device)
        by_name = {network.name: network for network in running}
        stages = tuple(by_name[stage] for stage in self.routes.stages)
        base = Alone("base", len(stages), by_name["base"], self.device)
        examples = len(next(iter(self.pixels.values())))
        systems: list[System] = [
            base,
            Together("grid", Runtime(stages, entropy_cascade(self.routes, self.path, published), self.device), None),
            Together("entropy", Runtime(stages, entropy_cascade(self.routes, self.path, honest), self.device), None),
            *(each.system(stages, self.device, examples) for each in learned),
        ]
        found = race(systems, (*stages, by_name["base"]), self.pixels, 1, self.settings.rounds, self.device)
        n = found.seconds.shape[2]
        ms = np.median(found.seconds, axis=1).sum(axis=1) / n * 1e3
        accuracy = 100 * (1 - self.base_wrong("test"))

        def line(
            protocol: str, router: str, cuts: str, routing: Any, spent: float, ms_base: float = float(ms[0])
        ) -> Line:
            shares = " / ".join(f"{100 * each:.1f}" for each in routing.exit_share)
            return Line(self.name, protocol, router, cuts, accuracy, 100 * (1 - routing.error), ms_base, spent, shares)

        alone = found.cells[len(stages), 1] * 1e3  # as the exits' trunk: on ready inputs
        judged = self.outcomes("test")
        grid = route_chain(judged, self.routes, self.path, published)
        tuned = route_chain(judged, self.routes, self.path, honest)
        there = test.of(self.routes.stages)
        return [
            line("as published", "entropy", _shown(published), grid, self._trunk_only(found, 1), alone),
            line(HONEST[kept], "entropy", _shown(honest), tuned, float(ms[2])),
            *(
                line(HONEST[each.kept], each.name, each.told, each.fitted.route(there)[each.point], spent)
                for each, spent in zip(learned, ms[3:].tolist(), strict=True)
            ),
        ]

    @staticmethod
    def _trunk_only(found: Race, system: int) -> float:
        """Milliseconds an image of the trunk's segments alone, as the authors' loop counts."""
        seconds = [sum(found.cells[cell] for cell in served.segments) for served in found.served[system]]
        return float(np.mean(seconds)) * 1e3

    def curves(self) -> dict[str, tuple[Floats, Floats]]:
        """Cost and error (%) on the test part of entropy thresholds and learned policies, both from the fit part."""
        from offramp.oracles.entropy import entropy

        fitted, _ = self.fitted(self.routes)
        test = self.data.parts["test"].of(self.routes.stages)
        prices = fitted.sweep.prices[np.isfinite(fitted.sweep.prices)]
        points = {
            "learned policy": fitted.route(test),
            "entropy thresholds": [
                p.routing for p in entropy(self.outcomes("fit"), self.outcomes("test"), self.routes, prices)
            ],
        }
        return {
            name: (np.array([r.mean_cost for r in some]), np.array([100 * r.error for r in some]))
            for name, some in points.items()
        }


@dataclass(frozen=True)
class Learned:
    """Policies fitted on a case's exits, and the point of theirs that is run."""

    name: str
    fitted: Fitted
    point: int
    kept: bool

    @property
    def told(self) -> str:
        """What stands in the place of thresholds."""
        family, price = self.fitted.names[self.point]
        return "a mixture of two policies" if np.isnan(price) and "%" in family else family

    @staticmethod
    def fit(name: str, case: Case, routes: Routes) -> Learned:
        """Fit, and pick the cheapest that errs no more than the unbranched network does on the fit part."""
        fitted, picking = case.fitted(routes)
        return Learned(name, fitted, *case._cheapest(picking.routings))

    def system(self, stages: Sequence[Any], device: Any, examples: int) -> System:
        """As it is raced, on so many examples."""
        from offramp.cascades.graph.routing import coins
        from offramp.cascades.measuring.race import Together
        from offramp.cascades.runtime.decide import live_cascade
        from offramp.cascades.runtime.run import Runtime

        live = live_cascade(self.fitted, self.point, on_device=device.type != "cpu")
        plan = live.drawn(coins(range(examples), self.fitted.coin))
        return Together(self.name, Runtime(tuple(stages), live, device), plan)


def entropy_cascade(routes: Routes, path: Sequence[int], cuts: Sequence[float]) -> LiveCascade:
    """Stops at the first exit whose entropy is low enough; ``cuts`` on minus the entropy, as ``entropy_cuts`` says."""
    from offramp.cascades.learning.chains import ends_along
    from offramp.cascades.runtime.decide import LiveCascade, Plan

    places = ends_along(routes, tuple(path)).tolist()

    def decide(cut: float, onward: int) -> Any:
        def work(logits: Sequence[Any]) -> tuple[Ints, Ints]:
            z = logits[-1]
            answer = z.argmax(1)
            if not onward:
                return answer * 0, answer
            z = z - z.max(1, keepdims=True)
            p = np.exp(z)
            total = p.sum(1)
            entropy = np.log(total) - (p * z).sum(1) / total
            return (entropy > -cut) * onward, answer

        return work

    found = {place: decide(cut, 1) for place, cut in zip(places[:-1], cuts, strict=True)}
    found[places[-1]] = decide(-np.inf, 0)
    return LiveCascade(routes, (Plan(places[0], found),), (1.0,))


def _shown(cuts: Sequence[float]) -> str:
    return ", ".join(f"{-cut + 0.0:.3g}" for cut in cuts)


def device_line(device: Any) -> str:
    """Where it was measured."""
    import torch

    from offramp.cascades.measuring.latency import device_name

    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{device_name(device)}{threads}, torch {torch.__version__}"


def markdown(lines: Sequence[Line], where: str) -> str:
    """The table, the paper's rows first."""
    head = (
        "| network | protocol | router | thresholds | accuracy, base → exits, % | ms an image, base → exits | gain | "
        "exits, % |\n"
        "|---|---|---|---|---|---|---|---|\n"
    )
    rows = []
    for name in dict.fromkeys(line.network for line in lines):
        row = PAPER_ROW.get(name, name)
        paper = PUBLISHED[row]
        rows.append(
            f"| {row} | the paper | entropy | {paper['cuts']} | {paper['base']:.2f} → {paper['accuracy']:.2f} | "
            f"{paper['ms_base']} → {paper['ms']} | {paper['ms_base'] / paper['ms']:.1f} | {paper['shares']} |"
        )
        rows += [
            f"| {line.network} | {line.protocol} | {line.router} | {line.thresholds} | {line.base:.2f} → "
            f"{line.accuracy:.2f} | {line.ms_base:.3f} → {line.ms:.3f} | {line.gain:.2f} | {line.shares} |"
            for line in lines
            if line.network == name
        ]
    flaws = "; ".join(FLAWS)
    return f"{head}" + "\n".join(rows) + f"\n\nBatch 1, {where}. As published: {flaws}.\n"


def weights_table(settings: Settings) -> str:
    """What the weights of the exits' losses do to each exit: trained from the same network, as long, with one seed."""
    from offramp.cascades.files.datafolder import read_folder
    from offramp.cascades.files.embedded import embedded_names

    if WEIGHTED not in embedded_names() or "b_alexnet" not in settings.networks:
        return ""
    held, joint = read_folder(WEIGHTED, settings.seed), read_folder("b_alexnet", settings.seed)
    rows = []
    for network, called in WEIGHTS.items():
        data = joint if network == "b_alexnet" else held
        exits = tuple(name for name, each in data.costs.stages.items() if each.network == network)
        test = data.parts["test"].of(exits)
        right = [100 * float((stage.answer == test.labels).mean()) for stage in test.stages]
        shown = [f"{each:.1f}" for each in right]
        if network == "alone":  # heads that no loss taught
            shown[:-1] = ["-"] * (len(shown) - 1)
        rows.append(f"| {called} | " + " | ".join(shown) + " |")
    head = "\n| weights of the exits' losses | exit 1, % right | exit 2 | exit 3 |\n|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n\nB-AlexNet on 10,000 test images, eight epochs from the unbranched network.\n"


def picture(curves: Mapping[str, Mapping[str, tuple[Floats, Floats]]]) -> Any:
    """Error against cost, one panel a network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0 * len(curves), 4.2), layout="constrained")
    looks = {"learned policy": ("#0072B2", "o"), "entropy thresholds": ("#D55E00", "s")}
    for i, (name, some) in enumerate(curves.items()):
        axes = figure.add_subplot(1, len(curves), i + 1)
        for router, (cost, error) in some.items():
            colour, marker = looks[router]
            order = np.argsort(cost)
            axes.plot(cost[order], error[order], marker, color=colour, markersize=3, label=router)
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_xlabel("mean cost")
        axes.set_ylabel("error (%)")
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    return figure


# --- Adaptive Neural Networks
