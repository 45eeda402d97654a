from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from offramp.features.numeric.logistic import weighted_logistic
from offramp.features.outputs import Floats

Problem = tuple[Floats, Floats, Floats]


def problem(n: int = 200, m: int = 4, q: int = 1, seed: int = 0, dtype: str = "float64") -> Problem:
    """Standardised columns behind one of ones, labels that lean on them, and uneven weights."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), rng.normal(size=(n, m - 1))])
    lean = x @ rng.normal(size=(m, q))
    positive = (rng.random((n, q)) < 1 / (1 + np.exp(-lean))).astype(float)
    return x.astype(dtype), positive.astype(dtype), rng.exponential(size=(n, q)).astype(dtype)


def reference(x: Floats, positive: Floats, weight: Floats, ridge: float) -> Floats:
    """Scikit-learn's solution, one problem after another."""
    found = []
    for i in range(positive.shape[1]):
        model = LogisticRegression(C=1 / ridge, tol=1e-10, max_iter=1000)
        model.fit(x[:, 1:], positive[:, i], weight[:, i] / weight[:, i].sum())
        found.append(np.append(model.intercept_, model.coef_[0]))
    return np.column_stack(found)


def objective(w: Floats, x: Floats, positive: Floats, weight: Floats, ridge: float) -> float:
    """Mean weighted log loss + ridge / 2 · |w|² but for the first, of one problem, written out."""
    z = x @ w
    loss = np.logaddexp(0, z) - positive * z
    return float(weight @ loss / weight.sum() + ridge / 2 * w[1:] @ w[1:])


@pytest.mark.parametrize("ridge", [1e-4, 1e-3, 1e-2, 1.0])
@pytest.mark.parametrize(("m", "q"), [(2, 1), (5, 1), (5, 3), (9, 4), (3, 20)])
def test_coefficients_are_scikit_learns(m: int, q: int, ridge: float) -> None:
    # q problems are solved by one product or one after another, whichever is less work: both are here
    given_ = problem(300, m, q, seed=10 * m + q)
    np.testing.assert_allclose(weighted_logistic(*given_, ridge), reference(*given_, ridge), atol=1e-4)


def test_float32_is_as_good_to_three_digits() -> None:
    x, positive, weight = problem(5000, 6, 3)
    narrow = weighted_logistic(*(part.astype(np.float32) for part in (x, positive, weight)), 1e-3)
    assert narrow.dtype == np.float64
    np.testing.assert_allclose(narrow, reference(x, positive, weight, 1e-3), atol=1e-3)


def test_no_step_away_lowers_the_objective() -> None:
    x, positive, weight = problem(80, 3, seed=4)
    w = weighted_logistic(x, positive, weight, 0.05)[:, 0]
    found = minimize(objective, np.zeros(3), (x, positive[:, 0], weight[:, 0], 0.05), tol=1e-12)
    np.testing.assert_allclose(w, found.x, atol=1e-4)
    assert objective(w, x, positive[:, 0], weight[:, 0], 0.05) == pytest.approx(found.fun, abs=1e-9)


def test_one_column_by_hand() -> None:
    # the free first column alone: log odds of the weighted share, however large the ridge
    ones = np.ones((4, 1))
    positive = np.array([[1.0], [1], [0], [0]])
    weight = np.array([[1.0], [5], [2], [0]])
    np.testing.assert_allclose(weighted_logistic(ones, positive, weight, 100.0), [[np.log(3)]], atol=1e-5)


def test_the_ridge_pulls_all_but_the_first_column_to_zero() -> None:
    x, positive, weight = problem(300, 4, seed=1)
    w = weighted_logistic(x, positive, weight, 1e4)
    share = weight[positive == 1].sum() / weight.sum()
    np.testing.assert_allclose(w[1:], 0, atol=1e-3)
    assert w[0, 0] == pytest.approx(np.log(share / (1 - share)), abs=1e-3)


# --- what weights mean


def test_repeating_a_row_is_doubling_its_weight() -> None:
    x, positive, weight = problem(60, 4, 3)
    doubled = weight.copy()
    doubled[:20] *= 2
    repeated = [np.concatenate([part, part[:20]]) for part in (x, positive, weight)]
    np.testing.assert_allclose(
        weighted_logistic(x, positive, doubled, 1e-2), weighted_logistic(*repeated, 1e-2), atol=1e-10
    )


def test_weight_zero_is_leaving_out() -> None:
    x, positive, weight = problem(60, 4, 3)
    kept = weight.copy()
    kept[::3] = 0
    some = np.arange(60) % 3 > 0
    np.testing.assert_allclose(
        weighted_logistic(x, positive, kept, 1e-2),
        weighted_logistic(x[some], positive[some], weight[some], 1e-2),
        atol=1e-10,
    )


@pytest.mark.parametrize("factor", [1e-12, 0.5, 3.0, 1e9])
def test_the_unit_of_the_weights_does_not_matter(factor: float) -> None:
    x, positive, weight = problem(60, 4, 3)
    np.testing.assert_allclose(
        weighted_logistic(x, positive, weight * factor, 1e-2), weighted_logistic(x, positive, weight, 1e-2), atol=1e-10
    )


def test_copying_all_rows_changes_nothing() -> None:
    given_ = problem(60, 4, 3)
    copied = [np.concatenate([part] * 3) for part in given_]
    np.testing.assert_allclose(weighted_logistic(*copied, 1e-2), weighted_logistic(*given_, 1e-2), atol=1e-10)


def test_a_label_between_is_a_share_of_both() -> None:
    x, _, weight = problem(60, 3)
    share = np.random.default_rng(2).random((60, 1))
    both = np.concatenate([x, x]), np.repeat([[1.0], [0.0]], 60, axis=0)
    parted = np.concatenate([weight * share, weight * (1 - share)])
    np.testing.assert_allclose(
        weighted_logistic(x, share, weight, 1e-2), weighted_logistic(*both, parted, 1e-2), atol=1e-10
    )


def test_exchanging_the_classes_changes_the_sign() -> None:
    x, positive, weight = problem(60, 4, 3)
    np.testing.assert_allclose(
        weighted_logistic(x, 1 - positive, weight, 1e-2), -weighted_logistic(x, positive, weight, 1e-2), atol=1e-10
    )


# --- many problems, and hard ones


@pytest.mark.parametrize("q", [2, 7, 30])
def test_problems_solved_together_are_solved_as_if_alone(q: int) -> None:
    x, positive, weight = problem(150, 8, q, seed=q)
    together = weighted_logistic(x, positive, weight, 1e-2)
    alone = np.hstack([weighted_logistic(x, positive[:, [i]], weight[:, [i]], 1e-2) for i in range(q)])
    assert together.shape == (8, q)
    # each may take a step more in company than it would have needed
    np.testing.assert_allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("q", [1, 10])
def test_a_problem_without_weight_stays_at_zero_and_harms_no_other(q: int, dtype: str) -> None:
    x, positive, weight = problem(100, 4, q, dtype=dtype)
    empty = weight.copy()
    empty[:, 0] = 0
    found = weighted_logistic(x, positive, empty, 1e-2)
    np.testing.assert_array_equal(found[:, 0], 0)
    np.testing.assert_allclose(found[:, 1:], weighted_logistic(x, positive, weight, 1e-2)[:, 1:], atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_problem_of_one_class_is_sure_and_finite(dtype: str) -> None:
    x, _, weight = problem(100, 3, dtype=dtype)
    w = weighted_logistic(x, np.ones((100, 1), dtype), weight, 1e-3)
    assert np.isfinite(w).all()
    assert (x @ w > 4).all()


@pytest.mark.parametrize("ridge", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_classes_that_can_be_parted_are_parted_as_scikit_learn_does(ridge: float, dtype: str) -> None:
    x, _, weight = problem(400, 4, seed=3)
    positive = (x @ np.array([[0.3], [1.0], [-2.0], [0.5]]) > 0).astype(float)
    w = weighted_logistic(*(part.astype(dtype) for part in (x, positive, weight)), ridge)
    best = reference(x, positive, weight, ridge)
    np.testing.assert_allclose(w, best, rtol=1e-2)
    reached, least = (objective(c[:, 0], x, positive[:, 0], weight[:, 0], ridge) for c in (w, best))
    assert reached == pytest.approx(least, rel=1e-4)


@pytest.mark.parametrize("share", [0.3, 1e-2, 1e-4])
def test_rare_classes_are_found_within_the_steps(share: float) -> None:
    # far from the zero start: about one unit of log odds a step
    x, positive, weight = np.ones((2, 1)), np.array([[1.0], [0.0]]), np.array([[share], [1 - share]])
    np.testing.assert_allclose(weighted_logistic(x, positive, weight, 1e-3), [[np.log(share / (1 - share))]], atol=1e-4)


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 6), st.integers(1, 5), st.sampled_from([1e-3, 1e-1]))
@settings(max_examples=60, deadline=None)
def test_never_worse_than_doing_nothing(seed: int, n: int, m: int, q: int, ridge: float) -> None:
    x, positive, weight = problem(n, m, q, seed)
    w = weighted_logistic(x, positive, weight, ridge)
    for i in range(q):
        one = x, positive[:, i], weight[:, i], ridge
        assert objective(w[:, i], *one) <= objective(np.zeros(m), *one) + 1e-9


def test_a_long_step_is_shortened_but_keeps_its_direction() -> None:
    # the columns lean on each other: steps of a dozen in both, which cut one by one would lead uphill
    x = np.array([[1, 1.7], [1, 1.3], [1, 1.4]])
    positive, weight = np.array([[0.0], [1], [0]]), np.array([[0.099], [0.873], [0.028]])
    w = weighted_logistic(x, positive, weight, 1e-3)[:, 0]
    np.testing.assert_allclose(w, reference(x, positive, weight, 1e-3)[:, 0], rtol=0.02)


def test_what_is_given_is_not_changed() -> None:
    given_ = problem(30, 3, 2)
    copies = [part.copy() for part in given_]
    for part in given_:
        part.flags.writeable = False
    weighted_logistic(*given_, 1e-2)
    for part, copy in zip(given_, copies, strict=True):
        np.testing.assert_array_equal(part, copy)
