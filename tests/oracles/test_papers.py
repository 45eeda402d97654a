"""The oracles on real answers, against the counts of the paper's rule made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from offramp.cascades.graph.costs import Costs, StageCost
from offramp.cascades.graph.routing import OperatingPoint, Routes
from offramp.cascades.graph.topology import parse_topology, unroll
from offramp.cascades.learning.outcomes import Outcomes
from offramp.oracles import ORACLES

HERE = Path(__file__).resolve().parents[2]
PLACES = (HERE / "cascades" / "embedded" / "imagenet", HERE.parent / "shared" / "data" / "imagenet-agr")

Imagenet = tuple[Callable[[int], Outcomes], Routes]


@pytest.fixture(scope="module")
def imagenet() -> Imagenet:
    pd = pytest.importorskip("pandas")
    folder = next((place for place in PLACES if (place / "answers.parquet").exists()), None)
    if folder is None:
        pytest.skip(f"no answers.parquet in {' or '.join(map(str, PLACES))}")
    written = json.loads((folder / "costs.json").read_text())
    costs = Costs({name: StageCost(name, cost, 0.0) for name, cost in written["stages"].items()}, written["unit"])
    table = pd.read_parquet(folder / "answers.parquet")
    label = table["label"].to_numpy()

    def outcomes(top: int) -> Outcomes:
        ranks = ["", *map(str, range(2, top + 1))]
        right = [np.any([table[f"{name}.answer{rank}"] == label for rank in ranks], axis=0) for name in costs.stages]
        wrong = 1 - np.column_stack(right).astype(np.float32)
        answer = table[[f"{name}.answer" for name in costs.stages]].to_numpy()
        return Outcomes(tuple(costs.stages), answer, wrong, np.zeros_like(wrong), "test")

    return outcomes, unroll(parse_topology("a_g_r", list(costs.stages)), costs)


def paper(name: str, imagenet: Imagenet, top: int) -> OperatingPoint:
    outcomes, routes = imagenet
    point = ORACLES[name](outcomes(top), outcomes(top), routes, np.array([0.01]))[0]
    assert (point.family, np.isnan(point.price)) == ("paper", True)
    return point


def test_the_data_is_the_one_counted_on(imagenet: Imagenet) -> None:
    outcomes, routes = imagenet
    assert len(outcomes(1)) == 50_000
    assert np.round(100 * (1 - outcomes(1).wrong.mean(axis=0, dtype=float)), 2).tolist() == [56.52, 69.76, 76.13]
    assert np.round(100 * (1 - outcomes(5).wrong.mean(axis=0, dtype=float)), 2).tolist() == [79.07, 89.63, 92.86]
    assert routes.cost[list(routes.entries)].tolist() == [0.72, 1.51, 4.13]


def test_soft_oracle_top_5(imagenet: Imagenet) -> None:
    routing = paper("soft_oracle", imagenet, 5).routing
    np.testing.assert_array_equal(np.round(routing.exit_share, 5), [0.81252, 0.11856, 0.06892])
    assert round(routing.mean_cost, 5) == 1.18367
    assert round(4.13 / routing.mean_cost, 3) == 3.489
    assert routing.error == pytest.approx(imagenet[0](5).wrong[:, 2].mean(dtype=float))


def test_soft_oracle_top_1(imagenet: Imagenet) -> None:
    routing = paper("soft_oracle", imagenet, 1).routing
    np.testing.assert_array_equal(np.round(routing.exit_share, 5), [0.67442, 0.16848, 0.15710])
    assert round(routing.mean_cost, 5) == 1.62323
    assert routing.error == pytest.approx(imagenet[0](1).wrong[:, 2].mean(dtype=float))


def test_hard_oracle_top_1(imagenet: Imagenet) -> None:
    routing = paper("hard_oracle", imagenet, 1).routing
    assert round(routing.error, 5) == 0.17552
    assert round(routing.mean_cost, 5) == 1.30642
