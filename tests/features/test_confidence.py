from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from offramp.features import confidence as module
from offramp.features.columns import COLUMNS, Column, Shape
from offramp.features.confidence import FARTHEST, TOP, Confidence, read_confidence
from offramp.features.evidence import SeenStored
from offramp.features.outputs import Floats

ONE = Shape(("a",), (True,), ((),), (False,), 0, TOP)


def column_of(column: Column) -> Callable[[Confidence], Floats]:
    """A column of one stage, of what was seen of its logits alone."""

    def of(seen: Confidence) -> Floats:
        said = SimpleNamespace(confidences={0: seen}, ranked=seen.top[:, None], alternatives=lambda _: None)
        return np.asarray(column.of(SeenStored(said, (0,), np.zeros(0), ONE), 0))  # type: ignore[arg-type]

    return of


FEATURES = {
    name.removeprefix("stage."): column_of(column)
    for name, column in COLUMNS.items()
    if column.owner == "stage" and column.live and name != "stage.on_belief"
}


def noise(n: int, c: int, dtype: str = "float32", seed: int = 0, spread: float = 2.0) -> Floats:
    return (spread * np.random.default_rng(seed).normal(size=(n, c))).astype(dtype)


def agree(seen: Confidence, logits: Floats, temperature: float = 1.0, rounding: float = 2e-5) -> None:
    """The read_confidence is what scipy and a stable sort say of the logits, in float64."""
    z = logits.astype(np.float64) / temperature
    r = seen.top.shape[1]
    order = np.argsort(-logits.astype(np.float64), axis=1, kind="stable")[:, :r]
    np.testing.assert_array_equal(seen.top, order)
    logp = special.log_softmax(z, axis=1)
    np.testing.assert_allclose(seen.top_logp, np.take_along_axis(logp, order, axis=1), atol=rounding, rtol=1e-5)
    np.testing.assert_allclose(seen.entropy, stats.entropy(special.softmax(z, axis=1), axis=1), atol=rounding)
    np.testing.assert_allclose(seen.log_sum_exp, special.logsumexp(z, axis=1), atol=rounding, rtol=1e-6)


# --- one pass over the logits


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("c", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("n", [1, 2, 37])
def test_as_scipy_says(n: int, c: int, dtype: str) -> None:
    logits = noise(n, c, dtype, seed=n * c)
    seen = read_confidence(logits)
    agree(seen, logits)
    assert seen.top.shape == seen.top_logp.shape == (n, min(TOP, c))
    assert seen.top.dtype.kind == "i"
    assert {part.dtype for part in (seen.top_logp, seen.entropy, seen.log_sum_exp)} == {np.dtype("float32")}


def test_twenty_thousand_classes() -> None:
    logits = noise(40, 20_000)
    agree(read_confidence(logits, ranks=5), logits, rounding=1e-4)


@pytest.mark.parametrize("temperature", [0.25, 0.7, 1.0, 1.9, 20.0])
def test_temperature_divides_the_logits(temperature: float) -> None:
    logits = noise(30, 7)
    agree(read_confidence(logits, temperature), logits, temperature)


def test_as_many_ranks_as_are_asked_for_and_there_are() -> None:
    logits = noise(20, 6)
    for ranks in (1, 2, 5, 6, 9):
        seen = read_confidence(logits, ranks=ranks)
        assert seen.top.shape == (20, min(ranks, 6))
        agree(seen, logits)
    # all classes ranked: every class once, and the probabilities are all there is
    np.testing.assert_array_equal(np.sort(read_confidence(logits, ranks=6).top, axis=1), np.tile(np.arange(6), (20, 1)))
    np.testing.assert_allclose(np.exp(read_confidence(logits, ranks=6).top_logp).sum(axis=1), 1, rtol=1e-5)


def test_three_examples_by_hand() -> None:
    seen = read_confidence(np.log(np.array([[0.25, 0.5, 0.25], [0.2, 0.2, 0.6], [1 / 3, 1 / 3, 1 / 3]])))
    assert seen.top.tolist() == [[1, 0, 2], [2, 0, 1], [0, 1, 2]]
    np.testing.assert_allclose(np.exp(seen.top_logp), [[0.5, 0.25, 0.25], [0.6, 0.2, 0.2], [1 / 3] * 3], rtol=1e-6)
    np.testing.assert_allclose(seen.entropy, [1.5 * np.log(2), 0.950271, np.log(3)], rtol=1e-6)
    np.testing.assert_allclose(seen.log_sum_exp, 0, atol=1e-6)


def test_of_equal_logits_the_lower_class_comes_first() -> None:
    logits = np.zeros((2, 6), np.float32)
    logits[1, [2, 4, 5]] = 1
    assert read_confidence(logits, ranks=6).top.tolist() == [[0, 1, 2, 3, 4, 5], [2, 4, 5, 0, 1, 3]]


@given(st.lists(st.lists(st.integers(-2, 2), min_size=4, max_size=4), min_size=1, max_size=6), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_ties_are_as_a_stable_sort_has_them(values: list[list[int]], ranks: int) -> None:
    logits = np.array(values, np.float32)
    agree(read_confidence(logits, ranks=ranks), logits)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_huge_logits_neither_overflow_nor_lose_their_order(dtype: str) -> None:
    logits = np.array([[1e4, -1e4, 0], [1e4, 1e4, -1e4], [-1e4, -1e4, -1e4], [9992, 10000, 0]], dtype)
    with np.errstate(all="raise", under="ignore"):
        seen = read_confidence(logits)
    assert seen.top.tolist() == [[0, 2, 1], [0, 1, 2], [0, 1, 2], [1, 0, 2]]
    assert seen.top_logp[0].tolist() == [0, -1e4, -2e4]
    np.testing.assert_allclose(seen.top_logp[1], [-np.log(2), -np.log(2), -2e4 - np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(seen.entropy, [0, np.log(2), np.log(3), np.exp(-8) * 9], atol=1e-6)
    np.testing.assert_allclose(seen.log_sum_exp, [1e4, 1e4 + np.log(2), -1e4 + np.log(3), 1e4], rtol=1e-6)
    for name, feature in FEATURES.items():
        assert np.isfinite(feature(seen)).all(), name


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_classes_masked_with_the_lowest_float_are_never_likely(dtype: str, temperature: float) -> None:
    lowest = np.finfo(dtype).min
    with np.errstate(over="raise", invalid="raise"):
        seen = read_confidence(np.array([[1, 2, lowest], [lowest, 3, lowest]], dtype), temperature)
    assert seen.top.tolist() == [[1, 0, 2], [1, 0, 2]]  # each class once, the masked ones last
    p = special.softmax([1 / temperature, 2 / temperature])
    np.testing.assert_allclose(seen.entropy, [stats.entropy(p), 0], rtol=1e-6)
    np.testing.assert_allclose(np.exp(seen.top_logp), [[p[1], p[0], 0], [1, 0, 0]], rtol=1e-6)
    for name, feature in FEATURES.items():
        assert np.isfinite(feature(seen)).all(), name


def test_one_class_is_certain() -> None:
    seen = read_confidence(np.array([[3.0], [-7.0]]))
    assert seen.top.tolist() == [[0], [0]]
    assert seen.top_logp.tolist() == [[0], [0]]
    assert seen.entropy.tolist() == [0, 0]
    assert seen.log_sum_exp.tolist() == [3, -7]


def test_no_examples_are_no_trouble() -> None:
    seen = read_confidence(np.empty((0, 5), np.float32))
    assert (seen.top.shape, seen.entropy.shape) == ((0, 3), (0,))


@pytest.mark.parametrize("chunk_bytes", [1, 4 * 5, 4 * 5 * 2, 4 * 5 * 7 + 3])
@pytest.mark.parametrize("workers", [1, 2, 3, 50])
def test_edges_of_chunks_and_of_workers_shares_leave_no_mark(
    chunk_bytes: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = noise(41, 5)
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(module.os, "cpu_count", lambda: workers)
    agree(read_confidence(logits), logits)


def test_the_logits_are_not_touched_and_may_be_mapped_or_strided(tmp_path: Path) -> None:
    logits = noise(25, 8)
    np.save(tmp_path / "z.npy", logits)
    mapped = np.load(tmp_path / "z.npy", mmap_mode="r")
    agree(read_confidence(mapped), logits)
    agree(read_confidence(logits[::-2, 1:6]), logits[::-2, 1:6])
    np.testing.assert_array_equal(mapped, np.load(tmp_path / "z.npy"))
    frozen = logits.copy()
    frozen.flags.writeable = False
    agree(read_confidence(frozen, 2.0), logits, 2.0)


def test_a_worker_that_fails_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Iterator[None]:
        raise MemoryError("not enough")

    monkeypatch.setattr(module, "_read", broken)
    with pytest.raises(MemoryError, match="not enough"):
        read_confidence(noise(10, 3))


# --- confidence features, each alone and all of them


def of(name: str, logits: object) -> Floats:
    return FEATURES[name](read_confidence(np.asarray(logits, np.float64)))


def test_features_by_hand() -> None:
    logits = np.log([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]]) + np.array([[0], [3]])
    worked = {
        "max_probability": [0.7, 0.5],
        "margin": np.log([3.5, 2]),
        "second_margin": np.log([2, 1]),
        "entropy": [0.801819, 1.5 * np.log(2)],
        "doubt": np.log([0.3, 0.5]),
        "log_sum_exp": [0, 3],
        "second_probability": [0.2, 0.25],
        "third_probability": [0.1, 0.25],
    }
    for name, values in worked.items():
        np.testing.assert_allclose(of(name, logits), values, atol=1e-6, err_msg=name)


def test_features_that_need_more_classes_than_there_are_read_the_missing_ones_as_hopeless() -> None:
    far = float(FARTHEST)
    gone = np.exp(-far)
    two = np.log([[0.8, 0.2]])
    np.testing.assert_allclose(of("third_probability", two), gone, rtol=1e-5)
    np.testing.assert_allclose(of("second_margin", two), np.log(0.2) + far, rtol=1e-5)
    np.testing.assert_allclose(of("second_probability", [[5.0]]), gone, rtol=1e-5)
    assert of("margin", [[5.0]]).tolist() == [far]
    assert of("max_probability", [[5.0]]).tolist() == [1]


def test_nobody_is_surer_than_the_farthest() -> None:
    far = float(FARTHEST)
    sure = [[0.0, -40.0, -90.0]]
    assert of("margin", sure).tolist() == [far]
    assert of("second_margin", sure).tolist() == [0]
    np.testing.assert_allclose(of("doubt", sure), -far, rtol=1e-6)


def test_doubt_tells_the_almost_sure_apart() -> None:
    wrong = np.array([0.5, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
    doubt = of("doubt", np.log(np.column_stack([1 - wrong, wrong])))
    np.testing.assert_allclose(doubt, np.log(wrong), atol=0.02)
    assert (np.diff(doubt) < -1).all()


CASES = [(1, 1), (40, 1), (40, 2), (40, 3), (40, 12), (1, 300)]


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize(("n", "c"), CASES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_feature_is_one_finite_number_an_example(name: str, n: int, c: int, dtype: str) -> None:
    for spread in (0.0, 1.0, 30.0, 1000.0):
        column = FEATURES[name](read_confidence(noise(n, c, dtype, spread=spread)))
        assert column.shape == (n,)
        assert column.dtype.kind == "f"
        assert np.isfinite(column).all()


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_sees_each_example_alone(name: str) -> None:
    logits = noise(60, 5)
    shuffled = np.random.default_rng(1).permutation(60)
    whole = FEATURES[name](read_confidence(logits))
    np.testing.assert_allclose(FEATURES[name](read_confidence(logits[shuffled])), whole[shuffled], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(FEATURES[name](read_confidence(logits[7:8])), whole[7:8], rtol=1e-5, atol=1e-6)


SEES_THE_LEVEL = {"log_sum_exp"}
"""Features of the logits' level, which softmax takes away."""


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("constant", [-3.0, 0.5, 8.0])
def test_only_the_log_sum_exp_sees_a_constant_added_to_all_logits(name: str, constant: float) -> None:
    logits = noise(60, 6, "float64", spread=1.0)
    before, after = (FEATURES[name](read_confidence(z)) for z in (logits, logits + constant))
    np.testing.assert_allclose(after, before + (constant if name in SEES_THE_LEVEL else 0), atol=2e-5)


@pytest.mark.parametrize("name", sorted(set(FEATURES) - SEES_THE_LEVEL))
def test_a_feature_does_not_care_which_class_is_which(name: str) -> None:
    logits = noise(60, 6)
    of_columns: Callable[[Floats], Floats] = lambda z: FEATURES[name](read_confidence(z))  # noqa: E731
    np.testing.assert_allclose(of_columns(logits[:, ::-1]), of_columns(logits), rtol=1e-5, atol=2e-6)


UNSURE = {"entropy", "doubt", "second_probability", "third_probability"}
SURE = {"max_probability", "margin"}


@pytest.mark.parametrize("name", sorted(UNSURE | SURE))
def test_features_run_from_sure_to_unsure(name: str) -> None:
    column = of(name, [[8.0, 0, 0], [4.0, 0, 0], [2.0, 0, 0], [0.5, 0, 0], [0.0, 0, 0]])
    steps = np.diff(column)
    assert (steps > 0).all() if name in UNSURE else (steps < 0).all()
