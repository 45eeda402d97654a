"""The trees taken out of scikit-learn predict what scikit-learn predicts."""

from __future__ import annotations

import numpy as np
import pytest

from policies.boosted import Boosted, _average, _unpack


@pytest.mark.parametrize("leaves", [2, 8])
def test_unpacked_trees_predict_the_same(leaves: int) -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor

    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5))
    x[:, 2] = x[:, 2] > 0
    y = x[:, 0] * x[:, 1] + x[:, 2] + 0.1 * rng.normal(size=400)
    model = HistGradientBoostingRegressor(max_iter=30, max_leaf_nodes=leaves, early_stopping=False).fit(x, y)
    fresh = rng.normal(size=(300, 5))
    assert np.abs(_unpack(model)(fresh) - model.predict(fresh)).max() < 1e-12


def test_an_average_predicts_the_mean() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(300, 3)), rng.normal(size=300)
    one, other = (Boosted(trees=5, leaves=leaves)._grow(x, y, 0) for leaves in (3, 6))
    both = _average(one, other)
    assert np.abs(both(x) - (one(x) + other(x)) / 2).max() < 1e-12


def test_one_growth_serves_every_price() -> None:
    """The trees do not depend on the prices' costs, only the regression on them does."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 2)).astype(np.float32)
    outcome = (x[:, :1] > 0).astype(np.float32)
    from policies.policy import Decision

    cheap, dear = (
        Boosted(trees=5).fit(
            Decision(("belief.doubt", "a.on_belief"), x, np.stack([0 * outcome, price - outcome], axis=1), outcome)
        )
        for price in (0.2, 0.8)
    )
    assert all(np.array_equal(a.cut, b.cut) for a, b in zip(cheap.trees, dear.trees, strict=True))
    assert cheap.actions(x).mean() > dear.actions(x).mean() - 1e-9
