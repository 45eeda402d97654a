from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from offramp.features.numeric.spline import Spline, fit_spline
from offramp.features.outputs import Floats
from offramp.policies.policy import Decision
from offramp.policies.value import Value, ValueRules, ridge_regression


def decision(n: int = 300, actions: int = 3, prices: int = 4, seed: int = 0) -> Decision:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    costs = rng.random((n, actions, prices)).astype(np.float32)
    costs[:, 1] += 0.3 * x[:, [0]]
    costs[:, 2:] += 0.3 * x[:, [1], None] ** 2
    return Decision(("belief.doubt", "a.on_belief", "elsewhere"), x, costs, rng.normal(size=(n, 1)).astype(np.float32))


def basis_of(n: int = 200, m: int = 6, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    return np.column_stack([np.ones(n), rng.normal(size=(n, m - 1))])


# --- the regression


@pytest.mark.parametrize("ridge", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("actions", [2, 4])
def test_coefficients_are_scikit_learns(ridge: float, actions: int) -> None:
    basis, costs = basis_of(), np.random.default_rng(1).random((200, actions, 3))
    found = ridge_regression(basis, costs, ridge)
    assert found.shape == (6, actions - 1, 3)
    for way in range(actions - 1):
        for price in range(3):
            model = Ridge(alpha=ridge * 200).fit(basis[:, 1:], costs[:, way + 1, price] - costs[:, 0, price])
            np.testing.assert_allclose(found[:, way, price], [model.intercept_, *model.coef_], atol=1e-7)


def test_one_column_of_ones_estimates_means() -> None:
    costs = np.array([[1.0, 2.0, 5.0], [3.0, 1.0, 5.0]])[..., None]
    np.testing.assert_allclose(ridge_regression(np.ones((2, 1)), costs, 10.0)[0, :, 0], [-0.5, 3], rtol=1e-6)


def test_it_is_linear_in_the_costs_and_so_in_the_prices() -> None:
    basis, rng = basis_of(), np.random.default_rng(2)
    loss, spent = rng.random((2, 200, 3, 1))
    at = [ridge_regression(basis, loss + price * spent, 1e-2) for price in (0.0, 1.0, 5.0)]
    np.testing.assert_allclose(at[2], at[0] + 5 * (at[1] - at[0]), atol=1e-9)


def test_copies_and_what_all_actions_cost_alike_change_nothing() -> None:
    basis, rng = basis_of(), np.random.default_rng(3)
    costs, toll = rng.random((200, 3, 2)), rng.random((200, 1, 1))
    found = ridge_regression(basis, costs, 1e-2)
    np.testing.assert_allclose(ridge_regression(basis, costs + toll, 1e-2), found, atol=1e-9)
    twice = np.concatenate([basis, basis]), np.concatenate([costs, costs])
    np.testing.assert_allclose(ridge_regression(*twice, 1e-2), found, atol=1e-9)


def test_columns_that_say_the_same_share_the_work() -> None:
    basis = basis_of(m=3)
    doubled = np.column_stack([basis, basis[:, 1]])
    costs = np.random.default_rng(4).random((200, 2, 1))
    found = ridge_regression(doubled, costs, 1e-3)[:, 0, 0]
    assert np.isfinite(found).all()
    assert found[3] == pytest.approx(found[1])


def test_float32_is_good_enough_to_decide_by() -> None:
    basis, costs = basis_of(n=20_000), np.random.default_rng(5).random((20_000, 3, 2))
    narrow = ridge_regression(basis.astype(np.float32), costs.astype(np.float32), 3e-3)
    np.testing.assert_allclose(narrow, ridge_regression(basis, costs, 3e-3), atol=1e-5)


# --- the rules


def rules_of(*advantage: list[float]) -> ValueRules:
    """Rules of one price whose estimates, in a basis of nothing but ones, are these."""
    nothing = Spline(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0))
    return ValueRules(np.zeros(0, int), nothing, np.array(advantage).T[None])


@pytest.mark.parametrize(
    ("advantage", "action"),
    [
        ([0.1, 0.2], 0),
        ([0.0, 0.0], 0),  # not cheaper, so stop
        ([-1e-9, 0.0], 1),
        ([0.5, -0.1], 2),
        ([-0.2, -0.1], 1),
        ([-0.1, -0.2], 2),
        ([-0.3, -0.3], 1),  # of equals the first
    ],
)
def test_the_cheapest_way_on_if_it_is_cheaper_than_stopping(advantage: list[float], action: int) -> None:
    rules = rules_of(advantage)
    assert rules.actions(np.zeros((2, 1))).tolist() == [[action]] * 2
    np.testing.assert_allclose(rules.advantage(np.zeros((1, 1)))[0, :, 0], advantage)


def test_each_price_has_its_own_estimates() -> None:
    rules = rules_of([0.1, 0.2], [-0.1, 0.2], [-0.1, -0.2])
    assert rules.prices == 3
    assert rules.actions(np.zeros((1, 1))).tolist() == [[0, 1, 2]]
    assert rules.take(np.array([2, 0])).actions(np.zeros((1, 1))).tolist() == [[2, 0]]


def test_advantages_are_the_basis_times_the_weights() -> None:
    seen = decision()
    rules = Value().fit(seen)
    basis = rules.spline(seen.x[:, rules.columns]).astype(float)
    wanted = np.einsum("nm,mwq->nwq", basis, rules.weights)
    np.testing.assert_allclose(rules.advantage(seen.x), wanted, atol=1e-4)
    cheapest = np.concatenate([np.zeros((300, 1, 4)), wanted], axis=1).argmin(axis=1)
    np.testing.assert_array_equal(rules.actions(seen.x), cheapest)


def test_it_looks_at_its_columns_only_with_as_many_knots_as_it_was_told() -> None:
    seen = decision()
    assert Value().fit(seen).columns.tolist() == [0, 1]
    for knots in (0, 2, 5):
        rules = Value(knots=knots).fit(seen)
        assert len(rules.weights) == 1 + 2 * (1 + knots)
        wanted = fit_spline(seen.x[:, :2], knots)
        np.testing.assert_array_equal(rules.spline.knot, wanted.knot)
    ours, theirs = (Value(ridge=ridge).fit(seen).weights[1:] for ridge in (1e-4, 1e2))
    assert np.abs(theirs).max() < 0.05 < np.abs(ours).max()


def test_a_bend_that_a_line_can_t_follow_is_found() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, size=(2000, 1)).astype(np.float32)
    costs = np.stack([np.full(2000, 0.5), np.minimum(np.abs(x[:, 0]), 1)], axis=1)[..., None].astype(np.float32)
    seen = Decision(("belief.doubt",), x, costs, costs[:, 0])
    right = (np.abs(x) < 0.5).astype(int)
    assert (Value().fit(seen).actions(x) == right).mean() > 0.93
    assert (Value(knots=0).fit(seen).actions(x) == right).mean() < 0.8


def test_it_reads() -> None:
    text = str(Value().fit(decision()))
    assert text == "stop unless a way on looks cheaper, by 9 spline terms of 2 columns"
