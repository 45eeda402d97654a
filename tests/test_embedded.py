"""What the toolkit reaches on the data that it ships, on examples that it has not seen."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest

from offramp.cascades.files.datafolder import DataFolder, read_folder
from offramp.cascades.files.embedded import EMBEDDED
from offramp.cascades.graph.hull import lower_hull
from offramp.cascades.graph.routing import Routes, Routing
from offramp.cascades.graph.topology import parse_topology, unroll
from offramp.cascades.learning.fit import FitSettings, fit_sweep
from offramp.cascades.learning.recipe import Recipe
from offramp.eval.report.intervals import Bootstrap, estimate, resampled
from offramp.oracles.comparing import operating_points
from offramp.policies import DEFAULT_POLICIES

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""

ROOT = Path(__file__).resolve().parents[1]
PRICES = 8
FIT, TEST = 2500, 4000
SURE = Bootstrap(draws=2000, level=0.999)
"""So many comparisons are made that five in a hundred would be chance."""

Fitted = tuple[Routes, list[Routing], list[Routing]]
"""Routes, and the routings of every price and single stage on the fit part (held out) and on the test part."""


def some(data: DataFolder, fit: int = FIT, test: int = TEST) -> DataFolder:
    """A share of the examples, at random since they may be sorted: enough for what is claimed here, and fast."""
    rng = np.random.default_rng(0)
    sizes = {"fit": fit, "test": test}
    parts = {name: data.parts[name].take(rng.permutation(len(data.parts[name]))[:n]) for name, n in sizes.items()}
    return DataFolder(data.name, parts, data.costs)


@pytest.fixture(scope="module")
def cifar10() -> DataFolder:
    return some(read_folder("cifar10"))


@pytest.fixture(scope="module")
def imagenet() -> DataFolder:
    return some(read_folder("imagenet"), 6000, 8000)


def fitted(data: DataFolder, topology: str, answer: str = "fused") -> Fitted:
    routes = unroll(parse_topology(topology, tuple(data.costs.stages)), data.costs)
    parts = {name: part.of(routes.stages) for name, part in data.parts.items()}
    sweep, held_out = fit_sweep(parts["fit"], routes, PRICES, FitSettings(DEFAULT_POLICIES, answer))
    tested = sweep.route(parts["test"])
    every = range(len(sweep.prices))
    return routes, [held_out.routed.at(i) for i in every], [tested.at(i) for i in every]


@pytest.fixture(scope="module")
def frontiers(cifar10: DataFolder) -> Callable[[str], list[Routing]]:
    """The tested routings of a topology on CIFAR-10, fitted once."""
    known: dict[str, list[Routing]] = {}

    def of(topology: str) -> list[Routing]:
        if topology not in known:
            known[topology] = fitted(cifar10, topology)[2]
        return known[topology]

    return of


def objective(routing: Routing, price: float) -> float:
    return routing.error + price * routing.mean_cost


@pytest.mark.parametrize("part_of_it", ["a_r", "g_r", "a_g", "a>g>r", "a", "g", "r"])
def test_more_to_choose_from_is_no_worse(frontiers: Callable[[str], list[Routing]], part_of_it: str) -> None:
    """At no price is the best of ``a_g_r`` behind the best of a topology that it contains by more than chance."""
    whole, contained = frontiers("a_g_r"), frontiers(part_of_it)
    for price in np.geomspace(1e-5, 1e-2, 8):
        mine, theirs = (min(points, key=lambda p: objective(p, price)) for points in (whole, contained))
        means = resampled([mine, theirs], SURE)
        behind = (means[:, 0] - means[:, 1]) @ np.array([price, 1.0])
        assert np.quantile(behind[1:], (1 - SURE.level) / 2) <= 0, (price, behind[0])


def test_the_best_stage_alone_is_matched_at_a_fraction_of_its_cost(
    cifar10: DataFolder, frontiers: Callable[[str], list[Routing]]
) -> None:
    alone = frontiers("r")[-1]
    assert alone.mean_cost == pytest.approx(cifar10.costs.step((), "resnet"))
    drawn = {p.mean_cost: resampled([p, alone], SURE) for p in frontiers("a_g_r")}
    as_good = [cost for cost, m in drawn.items() if estimate(m[:, 0, 1] - m[:, 1, 1], SURE).low <= 0]
    means = drawn[min(as_good)]
    assert estimate(means[:, 1, 0] / means[:, 0, 0], SURE).low > 2


def test_held_out_is_as_good_as_unseen(cifar10: DataFolder) -> None:
    """What cross-fitting promises comes true on the test part, apart from how hard its examples are."""
    _, held_out, tested = fitted(cifar10, "a_g_r")
    harder = [there.error - here.error for here, there in zip(held_out[PRICES:], tested[PRICES:], strict=True)]
    slack = 4 * np.sqrt(0.15 * 0.85 * (1 / FIT + 1 / TEST))
    for here, there in zip(held_out[:PRICES], tested[:PRICES], strict=True):
        assert there.error - here.error <= max(harder) + slack
        # a few examples more at the last stage, which costs twenty-two times as much as the first, show
        assert there.mean_cost == pytest.approx(here.mean_cost, rel=0.2)


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_last_answers_do_not_beat_the_hard_oracle(request: pytest.FixtureRequest, name: str) -> None:
    """At every price, on either part: no routing of one entry loses and spends less than who knows the labels."""
    data: DataFolder = request.getfixturevalue(name)
    settings = Recipe(topology="a_g_r", points=PRICES, answer="last")
    routes = unroll(parse_topology(settings.topology, tuple(data.costs.stages)), data.costs)
    for points in operating_points(settings, data, routes)[:2]:
        oracle = [p for p in points if p.router == "hard_oracle" and p.price > 0]
        mine = [p for p in points if p.router == "policy"]
        assert len(oracle) == PRICES
        assert len(mine) > PRICES
        for known in oracle:
            least = objective(known.routing, known.price)
            assert all(objective(p.routing, known.price) >= least - 1e-9 for p in mine)


def test_points_stand_on_the_same_examples_in_the_same_order(cifar10: DataFolder) -> None:
    """A cascade of one stage that answers for itself errs where the baseline of that stage errs."""
    settings = Recipe(topology="a_g_r", points=2, answer="last", policies=("constant",))
    routes = unroll(parse_topology(settings.topology, tuple(cifar10.costs.stages)), cifar10.costs)
    picked, tested, _ = operating_points(settings, cifar10, routes)
    assert [p.router for p in picked] == [p.router for p in tested]
    for points, part in ((picked, "fit"), (tested, "test")):
        single = {p.family: p.routing for p in points if p.router == "single"}
        for stage, policy in zip(routes.stages, points[2:5], strict=True):
            np.testing.assert_array_equal(policy.routing.wrong, single[stage].wrong)
            np.testing.assert_array_equal(policy.routing.answer, single[stage].answer)
            assert policy.routing.part == single[stage].part == part


def test_answers_without_any_confidence_are_enough() -> None:
    """Class reliability and agreement alone are never behind a random mix of two stages, and somewhere ahead of all."""
    data = some(read_folder("imagenet"), 12_000, 12_000)
    routes, _, tested = fitted(data, "a_g_r")
    cost, error = (np.array([getattr(p, number) for p in tested]) for number in ("mean_cost", "error"))
    hull = lower_hull(cost, error)
    labels, stages = data.parts["test"].labels, data.parts["test"].stages
    assert routes.alone is not None
    alone = [np.mean(stage.answers[:, 0] != labels) for stage in stages if stage.answers is not None]
    budgets = np.linspace(routes.alone[0], routes.alone[2], 20)
    gain = np.interp(budgets, routes.alone, alone) - np.interp(budgets, cost[hull], error[hull])
    assert gain.min() > -0.003
    assert gain.max() > 0.002


def test_everything_embedded_is_in_one_of_the_two_packages() -> None:
    """What the main job needs comes with ``offramp``; weights and what papers need with ``offramp-demo``."""

    def patterns(project: Path, package: str) -> list[str]:
        read = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))
        return [p for p in read["tool"]["setuptools"]["package-data"][package] if p.startswith("embedded/")]

    own, demo = patterns(ROOT, "offramp.cascades"), patterns(ROOT / "demo", "offramp_demo")
    files = [path for path in EMBEDDED.rglob("*") if path.is_file()]
    assert len(files) >= 7
    weight = 0
    for file in files:
        name = file.relative_to(EMBEDDED.parent).as_posix()
        there = [any(fnmatch(name, pattern) for pattern in some) for some in (own, demo)]
        assert sum(there) == 1, name
        weight += file.stat().st_size * there[0]
    assert weight < 6e6  # the wheel, with the code, stays below 12 MB
    assert (ROOT / "demo" / "offramp_demo" / "embedded").resolve() == EMBEDDED.resolve()
