"""Shipped networks with exits turned into published tables with our numbers: ``python -m eval.papers PAPER``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascades.settings import guard, parse
from features.errors import InputError

if TYPE_CHECKING:
    from cascades.folder import DataFolder
    from cascades.live import LiveCascade
    from cascades.outcomes import Outcomes
    from cascades.points import Fitted, Picking
    from cascades.routing import Routes, Routing
    from cascades.trial import Race, System
    from features.outputs import Floats, Ints

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

ADAPTIVE = ("exits_googlenet", "exits_resnet")
ADAPTIVE_FILES = ("adaptive.csv", "adaptive.md", "adaptive.png")
ALLOWED = (1.0, 2.0, 5.0)
"""Points of error that a router may lose."""

ROUTERS = {
    "policy": "learned policy",
    "myopic": "myopic",
    "uniform": "uniform",
    "joint": "thresholds tuned jointly",
    "entropy": "entropy thresholds",
    "soft_oracle": "soft oracle",
}
PUBLISHED_SAVINGS = (
    ("GoogLeNet", "policy", (9, 22, 33)),
    ("GoogLeNet", "uniform", (2, 9, 20)),
    ("ResNet-50", "policy", (8, 18, 22)),
    ("ResNet-50", "uniform", (1, 12, 10)),
)
"""Early exit at 1, 2 and 5 % of top-5 loss on ImageNet (Bolukbasi et al., 2017), as known from secondary reading."""

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
class AdaptiveSettings:
    """The flags of the command for Adaptive Neural Networks."""

    networks: tuple[str, ...] = field(default=ADAPTIVE, metadata={"help": "which networks", "choices": ADAPTIVE})
    loss: str = field(
        default="top1", metadata={"help": "what a mistake is, as in eval.frontier", "choices": ("top1", "excess")}
    )
    points: int = field(default=50, metadata={"help": "as in eval.frontier", "minimum": 1, "maximum": 1000})
    seed: int = field(default=0, metadata={"help": "seed of folds", "minimum": 0, "maximum": 2**31})
    out: Path = field(default=Path("papers"), metadata={"help": "folder to write into; made if need be"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, the paper's name first; returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)

    def work() -> None:
        if not given or given[0] not in (*PAPERS, "--help", "-h"):
            raise InputError(f"one of the papers {', '.join(PAPERS)}", repr(given[0]) if given else "none", "papers")
        paper = given[0] if given[0] in PAPERS else "branchynet"
        flags = given[1:] if given[0] in PAPERS else given
        PAPERS[paper](flags)

    return guard(work)


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

    from cascades.probing import pick_device
    from eval.files import csv_bytes, png_bytes, writable

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

        from cascades.extraction import ways_of
        from cascades.folder import EMBEDDED, read_folder
        from cascades.images import open_images
        from cascades.topology import parse_topology, unroll
        from cascades.zoo import load_cascade
        from eval.run import PICTURES, noted

        data = read_folder(name, settings.seed)
        exits = [stage for stage in data.costs.stages if stage != "base"]
        routes = unroll(parse_topology(">".join(exits), tuple(data.costs.stages)), data.costs)
        specs = noted(name, "networks", {})
        models = load_cascade([f"{network}={spec}" for network, spec in specs.items()])
        own = EMBEDDED / name / "images.npz"
        images = open_images(own if own.exists() else EMBEDDED / "cifar10" / PICTURES).numbered_as(models[0].classes)
        rows = range(min(settings.rows, len(images)))
        ways = ways_of(models)
        pixels = {
            way.pixels_key: torch.from_numpy(np.stack([way.cropped(images.image(i)) for i in rows])) for way in ways
        }
        return Case(name, data, routes, models, pixels, device, settings)

    # --- what is stored

    def outcomes(self, part: str) -> Outcomes:
        """What every exit says on a part, its entropy in the place of the confidence."""
        from cascades.answers import LOSSES
        from cascades.outcomes import single_outcomes
        from oracles.entropy import by_entropy

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
        from cascades.chains import route_chain
        from policies.entropy import knee, paper_grid

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
        from cascades.chains import route_chain
        from oracles.entropy import entropy_cuts

        fit = self.outcomes("fit")
        prices = np.geomspace(1e-4, 10, PRICES) / self.routes.cost.max()
        plans = entropy_cuts(fit, self.routes, self.path, prices)
        routings = [route_chain(fit, self.routes, *plan) for plan in plans]
        point, kept = self._cheapest(routings)
        return plans[point][1], kept

    def _cheapest(self, routings: Sequence[Routing]) -> tuple[int, bool]:
        """The cheapest of some routings of the fit part that err no more than the unbranched network does there, and
        whether one does; if not, the one that errs least."""
        from cascades.points import ROUNDING, cheapest_within

        cost, error = (np.array([getattr(r, name) for r in routings]) for name in ("mean_cost", "error"))
        bound = self.base_wrong("fit")
        point = cheapest_within(cost, error, bound)
        return point, bool(error[point] <= bound + ROUNDING)

    @cached_property
    def jumps(self) -> Routes:
        """The exits with every jump along them: who is sure not to stop at an exit need not pay for its head."""
        from cascades.topology import Topology, unroll

        stages = self.routes.stages
        jumps = {one: stages[i + 1 :] for i, one in enumerate(stages)}
        return unroll(Topology(stages, jumps, stages), self.data.costs)

    def fitted(self, routes: Routes) -> tuple[Fitted, Picking]:
        """Learned policies on routes, and what one of them is picked by, both from the fit part."""
        from cascades.points import fit_points
        from eval.frontier import Settings as Frontier
        from eval.frontier import fit_settings

        how = fit_settings(Frontier(topology="", pooled=False, seed=self.settings.seed))
        return fit_points(self.data.parts["fit"].of(routes.stages), None, routes, 50, how)

    # --- what is run

    def lines(self) -> list[Line]:
        """The paper's rows and ours: everything is timed in one run, one image at a time, alternating."""
        from cascades.chains import route_chain
        from cascades.runtime import Runtime, networks
        from cascades.trial import Alone, Together, race

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
        from oracles.entropy import entropy

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
        from cascades.live import live_cascade
        from cascades.routing import coins
        from cascades.runtime import Runtime
        from cascades.trial import Together

        live = live_cascade(self.fitted, self.point, on_device=device.type != "cpu")
        plan = live.drawn(coins(range(examples), self.fitted.coin))
        return Together(self.name, Runtime(tuple(stages), live, device), plan)


def entropy_cascade(routes: Routes, path: Sequence[int], cuts: Sequence[float]) -> LiveCascade:
    """Stops at the first exit whose entropy is low enough; ``cuts`` on minus the entropy, as ``entropy_cuts`` says."""
    from cascades.chains import ends_along
    from cascades.live import LiveCascade, Plan

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

    from cascades.profiling import device_name

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
    from cascades.folder import embedded_names, read_folder

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


@dataclass(frozen=True)
class Saving:
    """One row: what a router saves of the whole network's cost when so many points of error are allowed.

    ``saved`` and ``extra`` (points of error really lost) on the test part, picked on the fit part; None where nothing
    there keeps to what is allowed.
    """

    network: str
    router: str
    allowed: float
    saved: float | None
    extra: float | None


def adaptive(settings: AdaptiveSettings) -> None:
    """Early exits behind every block of a frozen network: what each router saves at 1, 2 and 5 points of error."""
    import pandas as pd

    from cascades.folder import read_folder
    from eval.files import csv_bytes, png_bytes, writable

    folder = writable(settings.out, "--out", ADAPTIVE_FILES)
    rows: list[Saving] = []
    ladders: dict[str, tuple[Floats, Floats]] = {}
    for name in settings.networks:
        data = read_folder(name, settings.seed)
        rows += savings(name, data, settings)
        ladders[name] = ladder(data)
    text = savings_table(rows, ladders)
    frame = pd.DataFrame([row.__dict__ for row in rows])
    contents = (csv_bytes(frame), text.encode(), png_bytes(ladder_picture(ladders)))
    written = folder.write_all(dict(zip(ADAPTIVE_FILES, contents, strict=True)))
    sys.stdout.write(text)
    for path in written:
        sys.stdout.write(f"  {path}\n")


def savings(name: str, data: DataFolder, settings: AdaptiveSettings) -> list[Saving]:
    """Every router at every allowance, for one network: its exits in a chain, as in the paper."""
    from cascades.points import ROUNDING, cheapest_within
    from cascades.topology import parse_topology, unroll
    from eval.frontier import Settings as Frontier
    from eval.frontier import operating_points

    exits = tuple(data.costs.stages)
    routes = unroll(parse_topology(">".join(exits), exits), data.costs)
    how = Frontier(topology="", loss=settings.loss, points=settings.points, pooled=False, seed=settings.seed)
    picked, tested, _ = operating_points(how, data, routes)
    whole = data.costs.step((), exits[-1])
    wrong = {
        part: float((_logits(data, part, exits[-1]).argmax(1) != data.parts[part].labels).mean())
        for part in ("fit", "test")
    }
    found = []
    for router in ROUTERS:
        mine = [i for i, point in enumerate(picked) if point.router == router]
        cost = np.array([picked[i].routing.mean_cost for i in mine])
        error = np.array([picked[i].routing.error for i in mine])
        for allowed in ALLOWED:
            bound = wrong["fit"] + allowed / 100
            pick = cheapest_within(cost, error, bound) if mine else -1
            if pick < 0 or error[pick] > bound + ROUNDING:
                found.append(Saving(name, router, allowed, None, None))
                continue
            there = tested[mine[pick]].routing
            saved, extra = 100 * (1 - there.mean_cost / whole), 100 * (there.error - wrong["test"])
            found.append(Saving(name, router, allowed, saved, extra))
    return found


def _logits(data: DataFolder, part: str, stage: str) -> Floats:
    logits = data.parts[part].of((stage,)).stages[0].logits
    assert logits is not None
    return logits


def ladder(data: DataFolder) -> tuple[Floats, Floats]:
    """Cost of answering at each exit at once, and accuracy (%) there, on the test part."""
    test = data.parts["test"]
    cost = np.array([data.costs.step((), stage) for stage in data.costs.stages])
    right = np.array([100 * (_logits(data, "test", s).argmax(1) == test.labels).mean() for s in data.costs.stages])
    return cost, right


def savings_table(rows: Sequence[Saving], ladders: Mapping[str, tuple[Floats, Floats]]) -> str:
    """Percent of the whole network's cost saved, with the points of error lost; and each network's ladder of exits."""
    head = "| network | router |" + "".join(f" {allowed:g} points allowed |" for allowed in ALLOWED)
    lines = [head, "|---|---|" + "---|" * len(ALLOWED)]
    for name in dict.fromkeys(row.network for row in rows):
        for router in ROUTERS:
            cells = [
                "-" if row.saved is None else f"{row.saved:.0f} % ({row.extra:+.2f})"
                for row in rows
                if (row.network, row.router) == (name, router)
            ]
            lines.append(f"| {name} | {ROUTERS[router]} | " + " | ".join(cells) + " |")
        lines += [
            f"| {paper}, the paper, top-5 | {router} | " + " | ".join(f"{value} %" for value in values) + " |"
            for paper, router, values in PUBLISHED_SAVINGS
            if paper.lower().startswith(name.removeprefix("exits_"))
        ]
    lines += ["", "| network | cost and accuracy of each exit by itself |", "|---|---|"]
    for name, (cost, right) in ladders.items():
        steps = ", ".join(f"{c / cost[-1]:.2f}: {a:.1f} %" for c, a in zip(cost, right, strict=True))
        lines.append(f"| {name} | {steps} |")
    note = "Picked on the fit part, measured on the test part; the points of error really lost stand in brackets."
    return "\n".join(lines) + f"\n\n{note}\n"


def ladder_picture(ladders: Mapping[str, tuple[Floats, Floats]]) -> Any:
    """Accuracy against cost along each network, as a share of its whole cost."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for (name, (cost, right)), colour in zip(ladders.items(), ("#0072B2", "#D55E00"), strict=False):
        axes.plot(cost / cost[-1], right, marker="o", color=colour, label=name)
    axes.set_xlabel("cost of answering there, the whole network's = 1")
    axes.set_ylabel("right (%)")
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def differentiable(flags: Sequence[str]) -> None:
    """Gates trained with every loss, on one network."""
    from eval.differentiable import Settings as GateSettings
    from eval.differentiable import run

    run(parse(GateSettings, flags, "python -m eval.papers differentiable", __doc__ or ""))


PAPERS: Mapping[str, Callable[[Sequence[str]], None]] = {
    "branchynet": lambda flags: branchynet(parse(Settings, flags, "python -m eval.papers branchynet", __doc__ or "")),
    "adaptive": lambda flags: adaptive(parse(AdaptiveSettings, flags, "python -m eval.papers adaptive", __doc__ or "")),
    "differentiable": differentiable,
}
"""What stands behind each paper's name."""


if __name__ == "__main__":
    sys.exit(main())
