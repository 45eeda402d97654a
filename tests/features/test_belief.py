from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax

from offramp.features.belief.pooling import (
    OUT,
    POOL_PRIOR,
    PRIOR_EXAMPLES,
    STACK_ROWS,
    Pool,
    columns_of,
    correct,
    fit_weights,
)
from offramp.features.outputs import Floats, Ints

NONE = np.zeros(0)


def spoken(n: int, j: int, m: int, seed: int = 0, skill: float = 1.5) -> tuple[Floats, Ints]:
    """Log probabilities (n, j, m) by j stages that lean to the label, the later the more, and the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, m, n)
    lean = skill * (1 + np.arange(j))[:, None] * (labels[:, None, None] == np.arange(m))
    return log_softmax(rng.normal(size=(n, j, m)) + lean, axis=2), labels


def loss(w: Floats, columns: Floats, ruled_out: Floats | None, label: Ints, stages: int) -> float:
    """Mean log loss of a conditional logit and its prior, written out example by example."""
    total = 0.0
    for i in range(len(label)):
        score = columns[i] @ w
        allowed = np.ones(len(score), bool) if ruled_out is None else ~ruled_out[i].astype(bool)
        total += np.log(np.exp(score[allowed]).sum()) - score[label[i]]
    # as if POOL_PRIOR examples said that stages count alike and nothing else counts
    alike = np.array([1 / stages if column < stages else 0.0 for column in range(len(w))])
    return (total + 0.5 * POOL_PRIOR * float((w - alike) @ (w - alike))) / len(label)


# --- the weights


def brute(columns: Floats, ruled_out: Floats | None, label: Ints, stages: int) -> Floats:
    start = np.zeros(columns.shape[2])
    found = minimize(loss, start, (columns, ruled_out, label, stages), method="BFGS", options={"gtol": 1e-7})
    return np.asarray(found.x)


@pytest.mark.parametrize("stages_known", [True, False])
@pytest.mark.parametrize(("j", "m", "silent"), [(1, 2, False), (1, 5, False), (2, 4, False), (3, 4, True)])
def test_weights_are_those_of_brute_force(j: int, m: int, silent: bool, stages_known: bool) -> None:
    said, label = spoken(120, j, m, seed=j, skill=0.5)
    columns = columns_of(said, said.argmax(axis=2), None if silent else np.log(np.full(m, 1 / m)), silent)
    stages = j if stages_known else 0
    found = fit_weights(columns, None, label, stages).weights
    best = brute(columns, None, label, stages)
    assert loss(found, columns, None, label, stages) <= loss(best, columns, None, label, stages) + 1e-6
    np.testing.assert_allclose(found, best, atol=5e-3)


def test_alternatives_ruled_out_play_no_part() -> None:
    said, label = spoken(150, 2, 5, skill=0.5)
    columns = columns_of(said, said.argmax(axis=2), None, True)
    rng = np.random.default_rng(1)
    ruled_out = rng.random((150, 5)) < 0.4
    ruled_out[np.arange(150), label] = False
    found = fit_weights(columns, ruled_out, label, 2).weights
    np.testing.assert_allclose(found, brute(columns, ruled_out, label, 2), atol=5e-3)
    # whatever stands there
    wild = columns.copy()
    wild[ruled_out] = rng.normal(0, 5, size=(int(ruled_out.sum()), columns.shape[2]))
    np.testing.assert_allclose(fit_weights(wild, ruled_out, label, 2).weights, found, atol=1e-6)


def test_one_stage_and_many_examples_are_a_temperature() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(5000, 4)) * 2
    label = (true + rng.gumbel(size=true.shape)).argmax(axis=1)
    columns = log_softmax(3 * true, axis=1)[:, :, None]
    assert fit_weights(columns, None, label, 1).weights[0] == pytest.approx(1 / 3, rel=0.05)


def test_next_to_nothing_seen_is_what_was_thought_before() -> None:
    said, label = spoken(1, 4, 3, skill=0.1)
    columns = columns_of(said * 0.01, said.argmax(axis=2), np.zeros(3), False)
    found = fit_weights(columns, None, label, 4).weights
    np.testing.assert_allclose(found[:4], 0.25, atol=0.01)
    np.testing.assert_allclose(found[4:], 0, atol=0.15)


@pytest.mark.parametrize("factor", [1e-2, 1.0, 30.0])
def test_steep_and_flat_columns_are_found_alike(factor: float) -> None:
    # a full Newton step may overshoot, and is halved until it helps
    said, label = spoken(300, 2, 6, skill=3)
    columns = columns_of(said * factor, said.argmax(axis=2), None, False)
    found, best = fit_weights(columns, None, label, 2).weights, brute(columns, None, label, 2)
    assert loss(found, columns, None, label, 2) <= loss(best, columns, None, label, 2) + 1e-5


@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_weights_are_finite_and_better_than_the_prior(seed: int, n: int, j: int, m: int) -> None:
    said, label = spoken(n, j, m, seed)
    columns = columns_of(said, said.argmax(axis=2), np.zeros(m), False)
    found = fit_weights(columns, None, label, j).weights
    assert np.isfinite(found).all()
    alike = np.where(np.arange(len(found)) < j, 1 / j, 0)
    assert loss(found, columns, None, label, j) <= loss(alike, columns, None, label, j) + 1e-9


def test_only_the_first_rows_are_fitted_on() -> None:
    said, label = spoken(STACK_ROWS + 500, 1, 3)
    columns = columns_of(said, said.argmax(axis=2), None, False)
    first = fit_weights(columns, None, label).weights
    label[STACK_ROWS:] = 0
    np.testing.assert_array_equal(fit_weights(columns, None, label).weights, first)


# --- the columns


def test_columns_by_hand() -> None:
    said = np.log(np.array([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.6, 0.2]]]))
    prior = np.log([0.5, 0.3, 0.2])
    found = columns_of(said, np.array([[0, 1, 1]]), prior, False)
    # three stages, the prior, two say it, three say it
    wanted = np.column_stack([*said[0], prior, [0, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(found[0], wanted)
    unanimous = columns_of(said, np.array([[2, 2, 2]]), prior, False)
    np.testing.assert_array_equal(unanimous[0, :, 4:], [[0, 0], [0, 0], [0, 1]])
    silent = columns_of(said[:, :1], np.array([[0]]), None, True)
    np.testing.assert_allclose(silent[0], np.column_stack([said[0, 0], [0, 0, 1]]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_columns_are_of_the_type_of_what_was_said(dtype: str) -> None:
    said, _ = spoken(5, 3, 4)
    found = columns_of(said.astype(dtype), said.argmax(axis=2), np.zeros(4), True)
    assert found.dtype == dtype
    assert found.shape == (5, 4, 3 + 1 + 2 + 1)


# --- the belief


def test_belief_by_hand() -> None:
    columns = np.array([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    pool = Pool(np.log([4.0, 3.0]), NONE, NONE, NONE)
    np.testing.assert_allclose(np.exp(pool(columns, NONE, None)), [[4 / 8, 3 / 8, 1 / 8]])
    out = np.array([[True, False, False]])
    logp = pool(columns, NONE, out)
    np.testing.assert_allclose(np.exp(logp), [[0, 3 / 4, 1 / 4]])
    assert logp[0, 0] < OUT / 2


def test_a_corrected_belief_by_hand() -> None:
    said = np.array([[[-1.0, -2.0]], [[-3.0, -4.0]]])
    # columns standardised: (said - mean) / scale, a constant first
    pool = Pool(np.array([1.0]), np.array([-1.0, -2.0]), np.array([2.0, 4.0]), np.array([[0.5, 0], [1.0, 0], [0, 3.0]]))
    np.testing.assert_allclose(pool.basis(said), [[1, 0, 0], [1, -1, -0.5]])
    score = np.array([[-1 + 0.5, -2], [-3 + 0.5 - 1, -4 - 1.5]])
    np.testing.assert_allclose(pool(np.swapaxes(said, 1, 2), said, None), log_softmax(score, axis=1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_beliefs_sum_to_one_and_survive_huge_scores(dtype: str) -> None:
    rng = np.random.default_rng(0)
    columns = (rng.normal(size=(50, 7, 3)) * [1, 100, 3000]).astype(dtype)
    ruled_out = rng.random((50, 7)) < 0.3
    ruled_out[:, 0] = False
    for out in (None, ruled_out):
        logp = Pool(np.array([1.0, -2, 0.5]), NONE, NONE, NONE)(columns, NONE, out)
        assert logp.dtype == dtype
        np.testing.assert_allclose(np.exp(logp.astype(float)).sum(axis=1), 1, rtol=1e-5)


def test_of_the_arguments_nothing_is_changed() -> None:
    said, label = spoken(60, 2, 4)
    columns = columns_of(said, said.argmax(axis=2), np.zeros(4), False)
    copies = columns.copy(), said.copy()
    pool = correct(fit_weights(columns, None, label), columns, said, label)
    pool(columns, said, np.zeros((60, 4), bool))
    np.testing.assert_array_equal(columns, copies[0])
    np.testing.assert_array_equal(said, copies[1])


# --- the correction


def confused(n: int, seed: int = 0) -> tuple[Floats, Ints]:
    """Two stages over three classes, of which the second calls most of class 2 class 1, and knows it in a way."""
    said, labels = spoken(n, 2, 3, seed, skill=1.0)
    said = said.copy()
    mixed = labels == 2
    said[mixed, 1] = np.log([0.05, 0.6, 0.35])
    return said, labels


def corrected_loss(flat: Floats, basis: Floats, score: Floats, label: Ints) -> float:
    """Log loss with a correction, and the prior that it is zero, in examples; intercepts are all but free."""
    w = flat.reshape(basis.shape[1], score.shape[1])
    logp = log_softmax(score + basis @ w, axis=1)
    strength = np.full(len(w), PRIOR_EXAMPLES / len(label))
    strength[0] = 1e-6
    return float(-logp[np.arange(len(label)), label].mean() + (strength[:, None] * w**2).sum())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_correction_is_nearly_that_of_brute_force(dtype: str) -> None:
    said, label = confused(600)
    said = said.astype(dtype)
    columns = columns_of(said, said.argmax(axis=2), np.zeros(3), False)
    pool = fit_weights(columns, None, label)
    found = correct(pool, columns, said, label)
    np.testing.assert_array_equal(found.weights, pool.weights)
    basis, score = found.basis(said).astype(float), columns @ pool.weights
    np.testing.assert_allclose(basis[:, 1:].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(basis[:, 1:].std(axis=0), 1, rtol=1e-4)
    start = corrected_loss(np.zeros(found.correction.size), basis, score, label)
    best = minimize(corrected_loss, np.zeros(found.correction.size), (basis, score, label), method="L-BFGS-B").fun
    reached = corrected_loss(found.correction.ravel(), basis, score, label)
    assert start - best > 0.05
    assert best - 1e-6 <= reached <= best + 0.02 * (start - best)


def test_the_correction_helps_on_examples_that_were_not_seen() -> None:
    said, label = confused(2000)
    other, truth = confused(2000, seed=1)

    def of(said: Floats) -> Floats:
        return columns_of(said, said.argmax(axis=2), np.zeros(3), False)

    pool = fit_weights(of(said), None, label)
    better = correct(pool, of(said), said, label)
    index = np.arange(2000)
    before, after = (-p(of(other), other, None)[index, truth].mean() for p in (pool, better))
    assert after < before - 0.05


def test_with_few_examples_there_is_next_to_no_correction() -> None:
    largest = []
    for n in (3, 2000):
        said, label = confused(n)
        pool = correct(Pool(np.ones(2), NONE, NONE, NONE), np.swapaxes(said, 1, 2), said, label)
        largest.append(np.abs(pool.correction[1:]).max())
    assert largest[0] < 0.1 < largest[1]


def test_columns_that_never_change_do_no_harm() -> None:
    said, label = confused(200)
    said[:, 0] = np.log(1 / 3)
    columns = columns_of(said, said.argmax(axis=2), np.zeros(3), False)
    pool = correct(fit_weights(columns, None, label), columns, said, label)
    assert np.isfinite(pool.correction).all()
    np.testing.assert_allclose(np.exp(pool(columns, said, None)).sum(axis=1), 1)
