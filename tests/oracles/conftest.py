from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from offramp.cascades.graph.costs import Costs, StageCost
from offramp.cascades.graph.routing import Routes
from offramp.cascades.graph.topology import parse_topology, unroll
from offramp.cascades.learning.outcomes import Outcomes

LETTERS = "abcde"


@pytest.fixture(scope="session")
def routes_of() -> Callable[..., Routes]:
    """Routes over stages a, b, c, … that cost 1, 3, 9, … each, with every jump unless a topology is given."""

    def make(k: int, text: str = "") -> Routes:
        names = tuple(LETTERS[:k])
        costs = Costs({name: StageCost(name, 3.0**i, 0.0) for i, name in enumerate(names)}, "ms")
        return unroll(parse_topology(text or "_".join(names), names), costs)

    return make


@pytest.fixture(scope="session")
def outcomes_of() -> Callable[..., Outcomes]:
    """Random outcomes with ties: later stages are more often right, and stages are surer where they are right."""

    def make(n: int, k: int, seed: int, part: str = "fit", values: int = 8) -> Outcomes:
        rng = np.random.default_rng(seed)
        wrong = (rng.random((n, k)) < np.linspace(0.5, 0.15, k)).astype(np.float32)
        surer = (rng.random((n, k)) < 0.6) * (1 - wrong) / 2
        confidence = surer + rng.integers(0, values, (n, k)) / (2 * values)
        return Outcomes(
            tuple(LETTERS[:k]), rng.integers(0, 9, (n, k)), wrong, confidence, part, 2 * (1 - confidence) ** 2
        )

    return make
