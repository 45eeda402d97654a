from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.cascades.graph.costs import Costs, StageCost
from offramp.cascades.graph.routing import Routes
from offramp.cascades.graph.topology import parse_topology, unroll
from offramp.cascades.learning.chains import FINEST, RESOLUTION, chain_name, full_chain, joint_thresholds, route_chain
from offramp.cascades.learning.outcomes import Outcomes
from offramp.features.outputs import Floats

LETTERS = "abcdefg"


def routes_of(k: int, text: str = "") -> Routes:
    names = tuple(LETTERS[:k])
    costs = Costs({name: StageCost(name, 3.0**i, 0.0) for i, name in enumerate(names)}, "ms")
    return unroll(parse_topology(text or "_".join(names), names), costs)


def random_outcomes(n: int, k: int, seed: int, values: int) -> Outcomes:
    """Confidence of few values, so that there are ties, and higher where the stage is right."""
    rng = np.random.default_rng(seed)
    wrong = (rng.random((n, k)) < np.linspace(0.5, 0.15, k)).astype(float)
    surer = (rng.random((n, k)) < 0.6) * (1 - wrong) / 2
    confidence = surer + rng.integers(0, values, (n, k)) / (2 * values)
    return Outcomes(tuple(LETTERS[:k]), rng.integers(0, 9, (n, k)), wrong, confidence, "fit")


def one_by_one(fit: Outcomes, routes: Routes, path: tuple[int, ...], cuts: tuple[float, ...]) -> tuple[float, float]:
    """Mean loss and cost of a chain, one example after another."""
    loss = cost = 0.0
    for wrong, confidence in zip(fit.wrong, fit.confidence, strict=True):
        run = 1
        while run < len(path) and not confidence[path[run - 1]] >= cuts[run - 1]:
            run += 1
        loss += wrong[path[run - 1]]
        cost += routes.cost[routes.index[path[:run]]]
    return loss / len(fit), cost / len(fit)


def every_plan(fit: Outcomes, routes: Routes) -> Iterator[tuple[tuple[int, ...], tuple[float, ...]]]:
    for path in routes.paths:
        choices = [[-np.inf, *np.unique(fit.confidence[:, stage]), np.inf] for stage in path[:-1]]
        for cuts in itertools.product(*choices):
            yield path, tuple(map(float, cuts))


def test_names_and_the_longest_chain() -> None:
    routes = routes_of(3)
    assert full_chain(routes) == (0, 1, 2)
    assert chain_name(routes, (0, 2)) == "a>c"
    assert full_chain(routes_of(3, "a>b,c")) == (0, 1)


def test_three_examples_by_hand() -> None:
    routes = routes_of(3)
    confidence = np.array([[0.9, 0.1, 0.5], [0.5, 0.8, 0.5], [0.4, 0.7, 0.5]])
    outcomes = Outcomes(("a", "b", "c"), np.arange(9).reshape(3, 3), np.eye(3), confidence, "fit")
    stopped = route_chain(outcomes, routes, (0, 1, 2), (0.9, 0.8))
    assert stopped.exit.tolist() == [0, 1, 2]
    assert stopped.answer.tolist() == [0, 4, 8]
    assert stopped.cost.tolist() == [1, 1 + 3, 1 + 3 + 9]
    assert route_chain(outcomes, routes, (0, 1, 2), (-np.inf, np.inf)).exit.tolist() == [0, 0, 0]
    assert route_chain(outcomes, routes, (0, 1, 2), (np.inf, np.inf)).exit.tolist() == [2, 2, 2]
    assert route_chain(outcomes, routes, (0, 2), (0.5,)).cost.tolist() == [1, 1, 1 + 9]
    assert route_chain(outcomes, routes, (1,), ()).cost.tolist() == [3, 3, 3]


@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 999), st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_routing_a_chain_is_the_obvious_loop(n: int, k: int, seed: int, values: int) -> None:
    fit, routes = random_outcomes(n, k, seed, values), routes_of(k)
    for path, cuts in itertools.islice(every_plan(fit, routes), 0, None, 7):
        routing = route_chain(fit, routes, path, cuts)
        assert (routing.error, routing.mean_cost) == pytest.approx(one_by_one(fit, routes, path, cuts))


@given(st.integers(1, 25), st.integers(1, 3), st.integers(0, 999), st.integers(1, 4), st.booleans())
@settings(max_examples=150, deadline=None)
def test_nothing_beats_the_tuned_cuts_for_prices_or_budgets(
    n: int, k: int, seed: int, values: int, chain_only: bool
) -> None:
    routes = routes_of(k, ">".join(LETTERS[:k]) + ";" if chain_only else "")
    fit = random_outcomes(n, k, seed, values)
    loss, cost = np.array([one_by_one(fit, routes, *plan) for plan in every_plan(fit, routes)]).T
    prices, budgets = np.array([0.0, 0.003, 0.03, 0.3, 1e6]), np.array([1.0, 2.5, 7.0, 13.0])
    plans = joint_thresholds(fit, routes, prices, budgets)
    reached = [one_by_one(fit, routes, *plan) for plan in plans]
    for price, (lost, spent) in zip(prices, reached[:5], strict=True):
        assert lost + price * spent == pytest.approx(np.min(loss + price * cost))
    for budget, (lost, spent) in zip(budgets, reached[5:], strict=True):
        assert spent <= budget + 1e-9
        assert lost == pytest.approx(loss[cost <= budget + 1e-9].min())


@pytest.mark.parametrize("k", [4, 5, 6])
def test_long_chains_lose_nothing_to_brute_force(k: int) -> None:
    # Six stages are tuned by descent, which has no proof; that it ends at the best of these is what it is for.
    fit, routes = random_outcomes(200, k, seed=k, values=1), routes_of(k)
    prices = np.array([1e-4, 1e-3, 1e-2])
    reached = [route_chain(fit, routes, *plan) for plan in joint_thresholds(fit, routes, prices)]
    everything = [route_chain(fit, routes, *plan) for plan in every_plan(fit, routes)]
    for price, routing in zip(prices, reached, strict=True):
        best = min(other.error + price * other.mean_cost for other in everything)
        assert routing.error + price * routing.mean_cost == pytest.approx(best)


@pytest.mark.parametrize("price", [1e-4, 1e-3])
def test_no_single_cut_of_a_long_chain_can_be_bettered(price: float) -> None:
    fit, routes = random_outcomes(150, 6, seed=2, values=1000), routes_of(6, "a>b>c>d>e>f")
    path, cuts = joint_thresholds(fit, routes, np.array([price]))[0]
    assert len(path) == 6

    def objective(tried: tuple[float, ...]) -> float:
        routing = route_chain(fit, routes, path, tried)
        return routing.error + price * routing.mean_cost

    reached = objective(cuts)
    for j, stage in enumerate(path[:-1]):
        for cut in (-np.inf, *fit.confidence[:, stage], np.inf):
            assert objective((*cuts[:j], float(cut), *cuts[j + 1 :])) >= reached - 1e-9


def test_a_budget_just_as_large_as_the_cheapest_entry_buys_that_entry() -> None:
    routes = routes_of(2, "b_a")
    assert routes.cost.tolist() == [3, 4, 1]
    fit = random_outcomes(30, 2, seed=0, values=3)
    assert joint_thresholds(fit, routes, np.array([]), [1.0]) == [((1,), ())]


@pytest.mark.parametrize("k", [6, 7])
def test_a_chain_too_long_for_a_grid_is_used_when_only_it_will_do(k: int) -> None:
    # Each stage is right and sure on its own share of the examples; nobody else knows them.
    n = 100 * k
    owner = np.arange(n) % k
    knows = owner[:, None] == np.arange(k)
    fit = Outcomes(tuple(LETTERS[:k]), np.zeros((n, k), int), 1.0 - knows, 0.2 + 0.6 * knows, "fit")
    routes = routes_of(k)
    path, cuts = joint_thresholds(fit, routes, np.array([1e-6]))[0]
    assert path == tuple(range(k))
    routing = route_chain(fit, routes, path, cuts)
    assert routing.error == 0
    assert routing.exit.tolist() == owner.tolist()


def test_a_fine_grid_is_near_the_best_cut_even_when_it_is_not_all_cuts() -> None:
    fit, routes = random_outcomes(20_000, 2, seed=0, values=100_000), routes_of(2, "a>b")
    assert len(np.unique(fit.confidence[:, 0])) > FINEST
    order = np.argsort(-fit.confidence[:, 0])
    wrong = fit.wrong[order]
    stopping = np.concatenate([[0], np.cumsum(wrong[:, 0])]) + np.append(np.cumsum(wrong[::-1, 1])[::-1], 0)
    for price in (1e-3, 1e-2, 5e-2):
        best = np.min(stopping / len(fit) + price * (1 + 3 * np.arange(len(fit), -1, -1) / len(fit)))
        found = route_chain(fit, routes, *joint_thresholds(fit, routes, np.array([price]))[0])
        # One class of 4096 is five examples.
        assert best <= found.error + price * found.mean_cost + 1e-12
        assert found.error + price * found.mean_cost <= best + 5 / len(fit)


def test_the_grids_are_as_fine_as_promised_and_stay_small() -> None:
    assert min(RESOLUTION.values()) >= 30
    assert all((classes + 1) ** cuts <= 1_000_000 for cuts, classes in RESOLUTION.items())


def test_scikit_fallback_agrees_on_every_combination_of_a_grid() -> None:
    """An independent implementation of the same cascade gives the same scores, costs and optimum."""
    from sklearn.base import BaseEstimator

    ensemble = pytest.importorskip("skfb.ensemble")
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 60)
    logits = rng.normal(size=(3, 60, 3)) + np.array([0.5, 1.2, 2.5])[:, None, None] * np.eye(3)[labels]
    p = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)

    class Stored(BaseEstimator):  # type: ignore[misc]
        def __init__(self, rows: Floats) -> None:
            self.rows, self.classes_ = rows, np.arange(3)

        def fit(self, *_: object) -> Stored:
            return self

        def predict_proba(self, x: Floats) -> Floats:
            return np.asarray(self.rows[x[:, 0]])

    grid = [round(float(q), 6) for q in np.quantile(p.max(axis=2), np.linspace(0, 1, 9))]
    routes = routes_of(3)
    answers = p.argmax(axis=2).T
    fit = Outcomes(("a", "b", "c"), answers, (answers != labels[:, None]).astype(float), p.max(axis=2).T, "fit")
    seen: dict[tuple[float, float], tuple[float, float]] = {}
    for cuts in itertools.product(grid, grid):
        cascade = ensemble.ThresholdCascadeClassifier([Stored(rows) for rows in p], list(cuts), prefit=True)
        theirs = cascade.predict(np.arange(60)[:, None])
        ours = route_chain(fit, routes, (0, 1, 2), cuts)
        np.testing.assert_array_equal(np.asarray(theirs), ours.answer)
        # They add a stage's cost for those who stop there; ours is what the path so far has cost.
        cost = float(theirs.acceptance_rates @ np.array([1.0, 1 + 3.0, 1 + 3.0 + 9.0]))
        seen[cuts] = (float(np.mean(np.asarray(theirs) != labels)), cost)
        assert (ours.error, ours.mean_cost) == pytest.approx(seen[cuts])
    for price in (0.001, 0.01, 0.05):
        ours = route_chain(fit, routes, *joint_thresholds(fit, routes, np.array([price]))[0])
        assert ours.error + price * ours.mean_cost <= min(e + price * c for e, c in seen.values()) + 1e-12
