from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from offramp.features.outputs import Floats, Ints
from offramp.policies import logistic
from offramp.policies.logistic import Logistic, LogisticRules
from offramp.policies.policy import Decision

NAMES = ("a.entropy", "b.margin", "elsewhere")


def decision(n: int = 400, actions: int = 2, prices: int = 3, seed: int = 0) -> Decision:
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, 3)) * [1, 5, 1] + [0, 40, 0]).astype(np.float32)
    costs = rng.random((n, actions, prices)).astype(np.float32)
    for way in range(1, actions):
        costs[:, way] += 0.3 * x[:, [0]] * (-1) ** way
    return Decision(NAMES, x, costs, np.zeros((n, 1), np.float32))


def fitted_by_scikit_learn(z: Floats, gain: Floats, ridge: float) -> Floats:
    """Coefficients, intercept first, of: is going on cheaper, weighted by how much."""
    weight = np.abs(gain) / np.abs(gain).sum()
    model = LogisticRegression(C=1 / ridge, tol=1e-10, max_iter=1000).fit(z, gain > 0, weight)
    return np.append(model.intercept_, model.coef_[0])


def standardised(x: Floats) -> Floats:
    columns = x[:, :2].astype(float)
    return (columns - columns.mean(axis=0)) / columns.std(axis=0)


# --- what is fitted


def test_two_actions_are_a_weighted_logistic_regression() -> None:
    seen = decision()
    rules = Logistic(ridge=1e-2).fit(seen)
    assert rules.columns.tolist() == [0, 1]
    assert rules.weights.shape == (1, 3, 3)
    z = standardised(seen.x)
    for price in range(3):
        gain = (seen.costs[:, 0, price] - seen.costs[:, 1, price]).astype(float)
        wanted = fitted_by_scikit_learn(z, gain, 1e-2)
        np.testing.assert_allclose(rules.weights[0, :, price], wanted, atol=2e-3)
        score = wanted[0] + z @ wanted[1:]
        clear = np.abs(score) > 0.01
        np.testing.assert_array_equal(rules.actions(seen.x)[clear, price], (score > 0)[clear])


@pytest.mark.parametrize("actions", [3, 4])
def test_more_actions_are_a_tournament_fitted_from_its_leaves(actions: int) -> None:
    seen = decision(n=800, actions=actions, prices=2)
    rules = Logistic(ridge=1e-2).fit(seen)
    assert rules.weights.shape == (actions - 1, 3, 2)
    z = standardised(seen.x)
    for price in range(2):
        costs = seen.costs[:, :, price].astype(float)
        winner = np.full(800, actions - 1)
        for j in range(actions - 2, -1, -1):
            gain = costs[:, j] - costs[np.arange(800), winner]
            wanted = fitted_by_scikit_learn(z, gain, 1e-2)
            np.testing.assert_allclose(rules.weights[j, :, price], wanted, atol=0.03)
            own = rules.weights[j, :, price]
            winner = np.where(own[0] + z @ own[1:] > 0, winner, j)
        assert (rules.actions(seen.x)[:, price] == winner).mean() > 0.995


def test_only_its_own_columns_that_vary_are_looked_at() -> None:
    seen = decision()
    still = replace(seen, x=np.column_stack([np.full(400, 3.0), seen.x[:, 1:]]).astype(np.float32))
    assert Logistic().fit(still).columns.tolist() == [1]
    assert Logistic(columns=("elsewhere", ".entropy")).fit(seen).columns.tolist() == [0, 2]
    blind = Logistic(columns=("nowhere",)).fit(seen)
    assert blind.columns.tolist() == []
    chosen = blind.actions(seen.x)
    assert (chosen == chosen[0]).all()


def test_the_scale_of_a_column_does_not_matter() -> None:
    seen = decision()
    other = replace(seen, x=(seen.x * [1e-3, 200, 1] + [0, 7, 0]).astype(np.float32))
    one, two = (Logistic().fit(each).actions(each.x) for each in (seen, other))
    assert (one == two).mean() > 0.995


def test_examples_that_cost_alike_either_way_count_for_nothing() -> None:
    seen = decision(n=300)
    costs = seen.costs.copy()
    costs[200:, 1] = costs[200:, 0]
    one = Logistic().fit(replace(seen, costs=costs))
    # but for the standardisation, which knows no costs
    other = costs.copy()
    other[200:] += 3
    np.testing.assert_allclose(one.weights, Logistic().fit(replace(seen, costs=other)).weights, atol=1e-6)


def test_where_it_makes_no_difference_it_stops() -> None:
    seen = decision(actions=3)
    alike = replace(seen, costs=np.ones_like(seen.costs))
    assert (Logistic().fit(alike).actions(seen.x) == 0).all()


def test_the_first_so_many_examples_are_fitted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "ROWS", 150)
    seen = decision()
    np.testing.assert_array_equal(Logistic().fit(seen).weights, Logistic().fit(seen.take(slice(0, 150))).weights)
    assert (Logistic().fit(seen).weights != Logistic().fit(seen.take(slice(0, 149))).weights).any()


def test_a_stronger_ridge_is_a_flatter_rule() -> None:
    seen = decision()
    sizes = [np.abs(Logistic(ridge=ridge).fit(seen).weights[:, 1:]).sum() for ridge in (1e-3, 1e-1, 10.0)]
    assert sizes[0] > 1.2 * sizes[1] > 5 * sizes[2]


# --- what the rules do


def tournament(*matches: list[float]) -> LogisticRules:
    """Rules of one price over one column as it is: a constant and a slope for each match."""
    return LogisticRules(np.array([0]), np.zeros(1), np.ones(1), np.array(matches)[..., None])


def acted(rules: LogisticRules, *values: float) -> list[int]:
    chosen: Ints = rules.actions(np.array(values)[:, None])
    return [int(action) for action in chosen[:, 0]]


def test_a_match_by_hand() -> None:
    rules = tournament([-1.0, 2.0])  # going on where 2 x > 1
    assert acted(rules, 0.0, 0.5, 0.51, 3.0) == [0, 0, 1, 1]


def test_a_tournament_by_hand() -> None:
    # match 1: action 2 beats 1 where x > 2; match 0: the winner beats stopping where x > 1
    rules = tournament([-1.0, 1.0], [-2.0, 1.0])
    assert acted(rules, 0.0, 1.0, 1.5, 2.0, 2.5) == [0, 0, 1, 1, 2]
    # a winner of the lower match that loses the upper one is out, whatever it was
    rules = tournament([1.0, -1.0], [-2.0, 1.0])
    assert acted(rules, 0.0, 1.0, 3.0) == [1, 0, 0]


def test_columns_are_standardised_as_they_were() -> None:
    rules = LogisticRules(np.array([1]), np.array([10.0]), np.array([2.0]), np.array([[[-1.0], [1.0]]]))
    # column 1: (x - 10) / 2 > 1
    assert rules.actions(np.array([[99.0, 11.9], [-99.0, 12.1]]))[:, 0].tolist() == [0, 1]


def test_it_reads() -> None:
    assert str(Logistic().fit(decision())) == "stop where a linear score of 2 columns is at most 0"
