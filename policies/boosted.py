"""Boosted trees that estimate what later answers save over stopping: the paper's "deep" family, one fit a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from threadpoolctl import threadpool_limits

from offramp.features.checks import FARTHEST_NUMBER, LARGEST_WEIGHT, Place, check_columns, check_spline
from offramp.features.numeric.spline import Spline, fit_spline
from offramp.features.outputs import Floats, Ints
from offramp.policies.policy import Decision, named
from offramp.policies.value import COLUMNS, ridge_regression

MOST_DEPTH = 1000
"""Levels of a tree that is read from a file."""

ROWS = 50_000
"""Examples that trees are grown on at most."""

BLOCK = 512
"""Examples that go down all trees at once: more would leave the processor's cache."""


@dataclass(frozen=True)
class Trees:
    """An additive ensemble of t binary trees of depth at most e, nodes in arrays.

    ``feature``, ``left``, ``right`` (t, nodes), leaves point to themselves; ``cut`` and ``value`` (t, nodes):
    left where x[feature] <= cut; ``start``, the constant.
    """

    feature: Ints
    cut: Floats
    left: Ints
    right: Ints
    value: Floats
    start: float
    depth: int

    def check(self, place: Place, columns: int) -> None:
        """Raises InputError unless every array has its shape and its bounds, for trees over so many columns."""
        place.hold(isinstance(self.feature, np.ndarray) and self.feature.ndim == 2, "nodes (t, m)")
        shape = self.feature.shape
        place.hold(shape[1] > 0, "at least one node a tree", shape)
        place.ints(self.feature, shape, 0, columns - 1)
        for way in (self.left, self.right):
            place.ints(way, shape, 0, shape[1] - 1)
        place.hold(isinstance(self.cut, np.ndarray) and self.cut.dtype == np.float64, "cuts")
        place.hold(self.cut.shape == shape and not np.isnan(self.cut).any(), f"cuts of shape {shape}", self.cut.shape)
        place.floats(self.value, shape)
        place.hold(type(self.start) is float and abs(self.start) <= FARTHEST_NUMBER, "a finite start", self.start)
        # a leaf points to itself: going down further than there are nodes leads nowhere
        place.whole(self.depth, 0, min(MOST_DEPTH, shape[1]))

    def __call__(self, x: Floats) -> Floats:
        """Predictions (n,), one level at a time for all trees and a block of examples, added tree by tree."""
        out = np.full(len(x), self.start)
        trees, size = self.feature.shape
        root = (np.arange(trees) * size)[:, None]
        feature, cut, value = self.feature.ravel(), self.cut.ravel(), self.value.ravel()
        child = np.stack([self.right + root, self.left + root], axis=2).ravel()
        for at in range(0, len(x), BLOCK):
            some = np.ascontiguousarray(x[at : at + BLOCK])
            rows, seen = np.arange(len(some)) * some.shape[1], some.ravel()
            node = np.broadcast_to(root, (trees, len(some)))
            for _ in range(self.depth):
                below = seen.take(rows + feature.take(node)) <= cut.take(node)
                node = child.take(2 * node + below)
            total = out[at : at + BLOCK]
            for leaf in value.take(node):  # in this order: a sum of all at once rounds otherwise
                total += leaf
        return out


@dataclass(frozen=True)
class BoostedRules:
    """Value rules whose basis is the trees' estimates, and splines of them.

    ``columns`` (d',) the trees look at; ``trees`` one ensemble an outcome; ``spline`` of the estimates (and the
    columns); ``weights`` (m, a-1, q) as in ``ValueRules``.
    """

    columns: Ints
    trees: tuple[Trees, ...]
    spline: Spline
    weights: Floats

    @property
    def prices(self) -> int:
        """Number q of rules."""
        return int(self.weights.shape[2])

    def actions(self, x: Floats) -> Ints:
        """Chosen action (n, q): stop unless a way on is estimated to be cheaper."""
        m, ways, q = self.weights.shape
        seen = x[:, self.columns].astype(np.float64)
        basis = self.spline(np.column_stack([seen, *(trees(seen) for trees in self.trees)]))
        advantage = (basis @ self.weights.reshape(m, ways * q)).reshape(len(x), ways, q)
        best = advantage.argmin(axis=1)
        gain = np.take_along_axis(advantage, best[:, None], axis=1)[:, 0]
        return np.where(gain < 0, best + 1, 0).astype(np.int8)

    def take(self, prices: Ints) -> BoostedRules:
        """The rules of some of the prices."""
        return BoostedRules(self.columns, self.trees, self.spline, self.weights[:, :, prices])

    @property
    def looks_at(self) -> Ints:
        """Indices of the columns that it looks at."""
        return self.columns

    def check(self, place: Place, columns: int, actions: int, prices: int) -> None:
        """Raises InputError unless every array has its shape and its bounds."""
        d = check_columns(self.columns, columns, place)
        place.kind(self.trees, tuple)
        for trees in self.trees:
            (place / "trees").kind(trees, Trees)
            trees.check(place / "trees", d)
        m = check_spline(self.spline, d + len(self.trees), place / "spline")
        place.floats(self.weights, (1 + m, actions - 1, prices), LARGEST_WEIGHT)

    def __str__(self) -> str:
        return f"stop unless a way on looks cheaper, by {sum(len(t.feature) for t in self.trees)} trees"


@dataclass(frozen=True)
class Boosted:
    """Gradient boosted trees of every price-free outcome, then ridge regression of the costs on their estimates.

    Trees see nothing of prices, so a sweep grows them once. The regression is fitted on estimates of half of the
    examples by trees grown on the other half, both ways, or it would trust them too much.
    """

    rules: ClassVar[type] = BoostedRules
    parts: ClassVar[tuple[type, ...]] = (Trees,)
    columns: tuple[str, ...] = COLUMNS
    trees: int = 60
    leaves: int = 8
    rate: float = 0.06
    ridge: float = 3e-3

    def reads(self, columns: tuple[str, ...], added: tuple[str, ...]) -> Ints:
        """Indices of the columns that it may look at."""
        return named(columns, (*self.columns, *added))

    def fit(self, decision: Decision) -> BoostedRules:
        """Grow trees on two halves for honest estimates, regress, and keep both halves' trees, averaged."""
        columns = self.reads(decision.columns, decision.added)
        x = decision.x[:, columns].astype(np.float64)
        half = np.arange(len(x)) % 2
        ensembles: list[Trees] = []
        honest = np.empty((len(x), decision.outcome.shape[1]))
        for t in range(decision.outcome.shape[1]):
            grown = [self._grow(x[half == h], decision.outcome[half == h, t], decision.seed) for h in (0, 1)]
            for h in (0, 1):
                honest[half != h, t] = grown[h](x[half != h])
            ensembles.append(_average(grown[0], grown[1]))
        seen = np.column_stack([x, honest])
        spline = fit_spline(seen, 3)
        return BoostedRules(
            columns, tuple(ensembles), spline, ridge_regression(spline(seen), decision.costs, self.ridge)
        )

    def search_space(self) -> dict[str, tuple[Any, ...]]:
        """Size and pace of the ensembles."""
        return {"trees": (30, 60, 120), "leaves": (4, 8, 16), "rate": (0.03, 0.06, 0.12)}

    def _grow(self, x: Floats, y: Floats, seed: int) -> Trees:
        from sklearn.ensemble import HistGradientBoostingRegressor

        model = HistGradientBoostingRegressor(
            max_iter=self.trees,
            max_leaf_nodes=self.leaves,
            learning_rate=self.rate,
            min_samples_leaf=20,
            l2_regularization=5.0,
            early_stopping=False,
            random_state=seed,
        )
        with threadpool_limits(1, "openmp"):  # folds are fitted side by side: threads within them only wait
            return _unpack(model.fit(x[:ROWS], y[:ROWS]))


def _unpack(model: Any) -> Trees:
    """Node arrays of scikit-learn's histogram trees (its private ``_predictors``; a test holds them to its own)."""
    grown = [predictor[0].nodes for predictor in model._predictors]
    size = max(map(len, grown))
    feature, left, right = (np.zeros((len(grown), size), np.int64) for _ in range(3))
    cut, value = np.zeros((len(grown), size)), np.zeros((len(grown), size))
    for t, nodes in enumerate(grown):
        k, leaf, own = len(nodes), nodes["is_leaf"].astype(bool), np.arange(len(nodes))
        feature[t, :k] = np.where(leaf, 0, nodes["feature_idx"])
        cut[t, :k] = np.where(leaf, 0, nodes["num_threshold"])
        left[t, :k], right[t, :k] = np.where(leaf, own, nodes["left"]), np.where(leaf, own, nodes["right"])
        value[t, :k] = np.where(leaf, nodes["value"], 0)
    depth = max((int(nodes["depth"].max()) for nodes in grown), default=0)
    return Trees(feature, cut, left, right, value, float(np.ravel(model._baseline_prediction)[0]), depth)


def _average(a: Trees, b: Trees) -> Trees:
    """The mean of two ensembles, as one."""
    size = max(a.feature.shape[1], b.feature.shape[1])

    def joined(name: str) -> Any:
        return np.concatenate([np.pad(getattr(t, name), ((0, 0), (0, size - t.feature.shape[1]))) for t in (a, b)])

    return Trees(
        joined("feature"),
        joined("cut"),
        joined("left"),
        joined("right"),
        joined("value") / 2,
        (a.start + b.start) / 2,
        max(a.depth, b.depth),
    )
