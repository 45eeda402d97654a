from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from offramp.features.numeric.spline import Spline, fit_spline
from offramp.features.outputs import Floats


def column_of(*values: float) -> Floats:
    return np.array(values, float)[:, None]


# --- by hand


def test_one_column_and_one_knot_by_hand() -> None:
    spline = fit_spline(column_of(0, 1, 2, 3), knots=1)
    assert spline.column.tolist() == [0, 0]
    assert spline.knot.tolist() == [-np.inf, 1]
    # x itself: 0 1 2 3, mean 1.5, variance 1.25; its hinge: 0 0 1 2, mean 0.75, variance 1.25 - 0.5625
    np.testing.assert_allclose(spline.mean, [1.5, 0.75])
    np.testing.assert_allclose(spline.scale, np.sqrt([1.25, 0.6875]))
    wanted = np.column_stack(
        [np.ones(4), (np.arange(4) - 1.5) / np.sqrt(1.25), np.array([-0.75, -0.75, 0.25, 1.25]) / np.sqrt(0.6875)]
    )
    np.testing.assert_allclose(spline(column_of(0, 1, 2, 3)), wanted, atol=1e-12)


def test_two_columns_keep_their_order() -> None:
    x = np.column_stack([np.arange(5.0), 10 * np.arange(5.0) ** 2])
    spline = fit_spline(x, knots=1)
    assert spline.column.tolist() == [0, 0, 1, 1]
    assert spline.knot.tolist() == [-np.inf, 2, -np.inf, 40]


def test_knots_stand_at_quantiles_that_split_the_examples_evenly() -> None:
    x = np.random.default_rng(0).permutation(np.arange(101.0))[:, None]
    assert fit_spline(x, knots=3).knot.tolist() == [-np.inf, 25, 50, 75]
    assert fit_spline(x, knots=1).knot.tolist() == [-np.inf, 50]


def test_without_knots_columns_are_only_standardised() -> None:
    x = np.random.default_rng(0).normal(3, 7, size=(50, 2))
    spline = fit_spline(x, knots=0)
    assert spline.knot.tolist() == [-np.inf, -np.inf]
    np.testing.assert_allclose(spline(x)[:, 1:], (x - x.mean(axis=0)) / x.std(axis=0))


# --- columns that say little


def test_constant_columns_are_dropped() -> None:
    x = np.column_stack([np.full(6, 7.0), np.arange(6.0), np.zeros(6)])
    spline = fit_spline(x, knots=1)
    assert set(spline.column.tolist()) == {1}
    # whatever stands there later
    other = x.copy()
    other[:, [0, 2]] = 99
    np.testing.assert_array_equal(spline(other), spline(x))


@pytest.mark.parametrize("columns", [0, 1, 3])
def test_nothing_but_constants_is_the_constant(columns: int) -> None:
    spline = fit_spline(np.full((4, columns), 2.0), knots=3)
    assert spline(np.full((5, columns), 3.0)).tolist() == [[1]] * 5


def test_columns_of_two_values_get_no_hinge() -> None:
    x = np.column_stack([np.arange(10) % 2, np.arange(10) == 3]).astype(float)
    spline = fit_spline(x, knots=3)
    assert spline.column.tolist() == [0, 1]
    assert np.isinf(spline.knot).all()


def test_repeated_quantiles_count_once_and_the_ends_never() -> None:
    x = column_of(*[0] * 40, *[1] * 40, *[2] * 20)
    # quantiles at 0.25, 0.5, 0.75 are 0, 1, 1: the lowest value is no place for a hinge, 1 only once
    assert fit_spline(x, knots=3).knot.tolist() == [-np.inf, 1]
    mostly = column_of(*[5] * 97, 6, 7, 8)
    assert fit_spline(mostly, knots=6).knot.tolist() == [-np.inf]


# --- what holds for any data

NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False, width=32)


@given(st.data(), st.integers(0, 6))
@settings(max_examples=100, deadline=None)
def test_the_basis_is_standardised_finite_and_never_wider_than_asked_for(data: st.DataObject, knots: int) -> None:
    n, d = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 4))
    x = data.draw(arrays(np.float64, (n, d), elements=NUMBERS))
    spline = fit_spline(x, knots)
    basis = spline(x)
    assert basis.shape == (n, 1 + len(spline.column))
    assert (np.bincount(spline.column.astype(int), minlength=d) <= 1 + knots).all()
    assert (basis[:, 0] == 1).all()
    assert np.isfinite(basis).all()
    varied = spline.scale != 1
    np.testing.assert_allclose(basis[:, 1:].mean(axis=0)[varied], 0, atol=1e-4)
    np.testing.assert_allclose(basis[:, 1:].std(axis=0)[varied], 1, rtol=1e-4)
    for column, knot in zip(spline.column.astype(int), spline.knot, strict=True):
        assert not np.isfinite(knot) or x[:, column].min() < knot < x[:, column].max()


def test_any_piecewise_linear_function_with_its_bends_at_the_knots_is_in_the_span() -> None:
    x = np.linspace(-3, 5, 81)[:, None]
    spline = fit_spline(x, knots=3)
    rng = np.random.default_rng(0)
    bends = np.concatenate([[-3], spline.knot[1:], [5]])
    for _ in range(5):
        wanted = np.interp(x[:, 0], bends, rng.normal(size=len(bends)))
        found = spline(x) @ np.linalg.lstsq(spline(x), wanted, rcond=None)[0]
        np.testing.assert_allclose(found, wanted, atol=1e-10)


def test_outside_the_range_seen_the_function_goes_on_straight() -> None:
    x = np.random.default_rng(0).normal(size=(200, 2))
    spline = fit_spline(x, knots=4)
    for end in (1, -1):
        far = spline(np.array([[10.0], [20.0], [30.0]]) * end * np.ones(2))
        assert np.isfinite(far).all()
        np.testing.assert_allclose(far[2] - far[1], far[1] - far[0], atol=1e-9)
    # before the first knot every hinge is flat
    hinged = np.isfinite(spline.knot)
    assert (np.diff(spline(np.full((2, 2), -10.0) * [[1], [2]])[:, 1:][:, hinged], axis=0) == 0).all()


def test_copying_the_examples_moves_no_knot() -> None:
    x = np.random.default_rng(0).normal(size=(57, 3))
    one, other = fit_spline(x, knots=4), fit_spline(np.concatenate([x, x, x]), knots=4)
    np.testing.assert_array_equal(one.knot, other.knot)
    np.testing.assert_allclose(one.mean, other.mean, atol=1e-12)
    np.testing.assert_allclose(one.scale, other.scale)


def test_the_order_of_the_examples_does_not_matter() -> None:
    x = np.random.default_rng(0).normal(size=(60, 3))
    one, other = fit_spline(x, knots=4), fit_spline(x[::-1], knots=4)
    np.testing.assert_array_equal(one.knot, other.knot)
    np.testing.assert_allclose(one.scale, other.scale)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_basis_is_of_the_type_of_the_examples(dtype: str) -> None:
    x = np.random.default_rng(0).normal(100, 1, size=(500, 2))
    spline = fit_spline(x.astype(dtype), knots=3)
    basis = spline(x.astype(dtype))
    assert basis.dtype == dtype
    exact = Spline(spline.column, spline.knot, spline.mean, spline.scale)(x)
    np.testing.assert_allclose(basis, exact, atol=2e-4)


def test_the_examples_are_not_changed() -> None:
    x = np.random.default_rng(0).normal(size=(30, 2))
    copy = x.copy()
    x.flags.writeable = False

    fit_spline(x, knots=3)(x)
    np.testing.assert_array_equal(x, copy)
