"""The trees taken out of scikit-learn predict what scikit-learn predicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from offramp.features.outputs import Floats
from offramp.policies import boosted
from offramp.policies.boosted import Boosted, Trees, _average, _unpack
from offramp.policies.policy import Decision


def table(n: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Columns of many values, of few and of one, and a target that bends over them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6))
    x[:, 2] = x[:, 2] > 0
    x[:, 3] = np.round(x[:, 3])
    x[:, 4] = 7.0
    return x, x[:, 0] * x[:, 1] + x[:, 2] + np.abs(x[:, 3]) + 0.1 * rng.normal(size=n)


# --- trees


@pytest.mark.parametrize("n", [30, 400, 3000])
@pytest.mark.parametrize("leaves", [2, 8, 31])
def test_unpacked_trees_predict_the_same(n: int, leaves: int) -> None:
    x, y = table(n)
    model = HistGradientBoostingRegressor(max_iter=30, max_leaf_nodes=leaves, early_stopping=False).fit(x, y)
    trees = _unpack(model)
    for seen in (x, table(500, seed=1)[0], 1e9 * table(50, seed=2)[0], np.zeros((3, 6))):
        np.testing.assert_allclose(trees(seen), model.predict(seen), rtol=0, atol=1e-12)


def test_values_at_a_cut_go_the_way_they_went() -> None:
    # few values: cuts lie between them, and these are the values and the middles
    rng = np.random.default_rng(0)
    x = rng.integers(0, 4, (300, 2)).astype(float)
    model = HistGradientBoostingRegressor(max_iter=10, early_stopping=False).fit(x, x[:, 0] + (x[:, 1] > 1))
    trees = _unpack(model)
    at = np.unique(np.concatenate([trees.cut.ravel(), np.arange(0, 4, 0.5)]))
    grid = np.array([[a, b] for a in at for b in at])
    np.testing.assert_allclose(trees(grid), model.predict(grid), rtol=0, atol=1e-12)


def test_nothing_to_part_is_the_mean() -> None:
    x, y = np.full((50, 2), 3.0), np.arange(50.0)
    model = HistGradientBoostingRegressor(max_iter=5, early_stopping=False).fit(x, y)
    trees = _unpack(model)
    assert trees.depth == 0
    np.testing.assert_allclose(trees(x), 24.5)


def test_a_tree_by_hand() -> None:
    # x[1] <= 5 ? 1 : (x[0] <= 0 ? 10 : 100), and a stump that adds 1000 where x[0] > 2
    trees = Trees(
        feature=np.array([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]),
        cut=np.array([[5.0, 0, 0, 0, 0], [2.0, 0, 0, 0, 0]]),
        left=np.array([[1, 1, 3, 3, 4], [1, 1, 2, 0, 0]]),
        right=np.array([[2, 1, 4, 3, 4], [2, 1, 2, 0, 0]]),
        value=np.array([[0.0, 1, 0, 10, 100], [0.0, 0, 1000, 0, 0]]),
        start=0.5,
        depth=2,
    )
    x = np.array([[9.0, 5.0], [0.0, 6.0], [1.0, 6.0], [3.0, 6.0]])
    assert trees(x).tolist() == [1001.5, 10.5, 100.5, 1100.5]
    assert trees(x[:0]).shape == (0,)


@pytest.mark.parametrize("n", [1, 7, boosted.BLOCK, 2 * boosted.BLOCK + 3])
def test_blocks_change_no_bit(n: int) -> None:
    """Against each tree walked alone, added in the trees' order."""
    x, y = table(600)
    trees = Boosted(trees=9)._grow(x, y, 0)
    some = np.resize(x, (n, x.shape[1]))
    wanted = np.full(n, trees.start)
    for t in range(len(trees.feature)):
        node = np.zeros(n, np.intp)
        for _ in range(trees.depth):
            below = some[np.arange(n), trees.feature[t, node]] <= trees.cut[t, node]
            node = np.where(below, trees.left[t, node], trees.right[t, node])
        wanted += trees.value[t, node]
    assert trees(some).tobytes() == wanted.tobytes()


def test_an_average_predicts_the_mean() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(300, 3)), rng.normal(size=300)
    one, other = (Boosted(trees=t, leaves=e)._grow(x, y + 10 * t, 0) for t, e in ((5, 3), (8, 6)))
    for both in (_average(one, other), _average(other, one)):
        np.testing.assert_allclose(both(x), (one(x) + other(x)) / 2, rtol=0, atol=1e-12)
        assert len(both.feature) == 13
        assert both.depth == max(one.depth, other.depth)


def test_growing_obeys_the_settings() -> None:
    x, y = table(600)
    trees = Boosted(trees=7, leaves=4)._grow(x, y, 0)
    assert len(trees.feature) == 7
    assert trees.feature.shape[1] <= 7  # four leaves and three forks
    slow, fast = (np.var(Boosted(trees=7, rate=rate)._grow(x, y, 0)(x)) for rate in (0.01, 0.2))
    assert slow < fast < np.var(y)


def test_so_many_examples_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boosted, "ROWS", 100)
    x, y = table(300)
    ours, theirs = (Boosted(trees=5)._grow(x[:k], y[:k], 0) for k in (300, 100))
    np.testing.assert_array_equal(ours(x), theirs(x))


# --- rules


def decision(n: int = 300, seed: int = 0) -> Decision:
    """Going on helps where both columns have the same sign: no sum of functions of each shows it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    outcome = -(x[:, :1] * x[:, 1:2] > 0).astype(np.float32)
    prices = np.array([0.3, 0.7], np.float32)
    costs = np.stack([np.zeros((n, 2), np.float32), outcome + prices], axis=1)
    return Decision(("belief.doubt", "a.on_belief", "elsewhere"), x, costs, outcome)


def test_it_finds_what_only_two_columns_together_tell() -> None:
    seen, other = decision(3000), decision(1000, seed=1)
    right = (other.x[:, :1] * other.x[:, 1:2] > 0).astype(int)
    assert (Boosted().fit(seen).actions(other.x) == right).mean() > 0.9


def test_noise_is_not_taken_for_knowledge() -> None:
    """Regressed on the estimates of trees that saw the same examples, the rules would follow the noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2)).astype(np.float32)
    outcome = rng.choice([-1.0, 0.0], size=(400, 1)).astype(np.float32)
    costs = np.stack([np.zeros((400, 1), np.float32), outcome + np.float32(0.7)], axis=1)
    rules = Boosted().fit(Decision(("belief.doubt", "a.on_belief"), x, costs, outcome))
    assert rules.actions(rng.normal(size=(500, 2)).astype(np.float32)).mean() < 0.15


def test_one_growth_serves_every_price() -> None:
    """The trees do not depend on the prices' costs, only the regression on them does."""
    seen = decision()
    other = replace(seen, costs=seen.costs * np.array([[[1.0], [3.0]]], np.float32))
    one, two = (Boosted(trees=5).fit(each) for each in (seen, other))
    for ours, theirs in zip(one.trees, two.trees, strict=True):
        np.testing.assert_array_equal(ours.cut, theirs.cut)
        np.testing.assert_array_equal(ours.value, theirs.value)
    assert (one.weights != two.weights).any()


def test_one_ensemble_an_outcome_over_its_own_columns() -> None:
    seen = decision()
    more = replace(seen, outcome=np.column_stack([seen.outcome, -seen.outcome, seen.x[:, 0]]))
    rules = Boosted(trees=4).fit(more)
    assert rules.columns.tolist() == [0, 1]
    assert len(rules.trees) == 3
    assert rules.prices == 2
    assert str(rules) == "stop unless a way on looks cheaper, by 24 trees"  # two halves each
    assert (Boosted(trees=4).fit(seen).actions(seen.x).shape) == (300, 2)


def test_the_cheapest_way_on_if_it_is_cheaper_than_stopping() -> None:
    rules = Boosted(trees=2).fit(decision())
    m = len(rules.weights)
    for advantage, action in (([0.0, 0.0], 0), ([0.2, -0.1], 2), ([-0.1, -0.1], 1), ([-0.1, -0.3], 2), ([0.1, 0.2], 0)):
        weights = np.zeros((m, 2, 1))
        weights[0, :, 0] = advantage
        assert (replace(rules, weights=weights).actions(decision().x) == action).all()
