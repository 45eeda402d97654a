"""Small worlds whose numbers can be worked out by hand."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from offramp.cascades.graph.routing import OperatingPoint, Routes, Routing
from offramp.features.outputs import Floats

A, B, AB = 0, 1, 2  # where the paths of the two-stage world stand


@pytest.fixture(scope="session")
def routes() -> Routes:
    """Stages a (cost 1) and b (cost 10), each of them an entry, and the way from a to b."""
    return Routes(("a", "b"), ((0,), (1,), (0, 1)), np.array([[1.0, 0.0], [0.0, 10.0], [1.0, 10.0]]), "ms")


@pytest.fixture(scope="session")
def routing(routes: Routes) -> Callable[..., Routing]:
    """routing(path, wrong, part="test"): what the lists say, in the two-stage world."""

    def make(path: Sequence[int], wrong: Sequence[float], part: str = "test") -> Routing:
        return Routing(routes, np.asarray(path, np.uint8), np.zeros(len(path), int), np.asarray(wrong), part)

    return make


Points = tuple[list[OperatingPoint], list[OperatingPoint]]


@pytest.fixture(scope="session")
def world(routes: Routes) -> Callable[..., Points]:
    """world(policy=.., joint=.., n=.., seed=..): frontiers on "fit" and "test" of routers that see so much.

    An example has a difficulty in [0, 1]; a is wrong above 0.7 and b above 0.8, each but for a few slips. A router of
    skill s sends the examples on that are hardest by s * difficulty + (1 - s) * noise. ``skills`` are of such routers.
    """

    def make(n: int = 4000, seed: int = 0, gap: float = 0.1, **skills: float) -> Points:
        parts = []
        for part, stream in (("fit", 0), ("test", 1)):
            rng = np.random.default_rng([seed, stream])
            hard = rng.random(n)
            wrong = np.stack([(hard > 0.8 - gap) ^ (rng.random(n) < 0.01), (hard > 0.8) ^ (rng.random(n) < 0.01)], 1)
            noise = rng.random(n)
            points = []
            for router, skill in skills.items():
                score = np.clip(1 - 4 * abs(hard - (0.8 - gap / 2)), 0, 1) * skill + (1 - skill) * noise
                rank = np.argsort(np.argsort(-score)) / n
                for i, share in enumerate(np.linspace(0, 1, 21)):
                    path = np.where(rank < share, AB, A)
                    points.append(point(router, path, wrong, part, price=1.0 / (1 + i)))
                points.append(point(router, np.full(n, B), wrong, part, price=0.01))
            points += [point("single", np.full(n, at), wrong, part, family="ab"[at]) for at in (A, B)]
            parts.append(points)
        return parts[0], parts[1]

    def point(
        router: str, path: Floats, wrong: Floats, part: str, price: float = float("nan"), family: str = ""
    ) -> OperatingPoint:
        exits = np.array([0, 1, 1])[path]
        answer = np.zeros(len(path), int)
        routing = Routing(routes, path.astype(np.uint8), answer, wrong[np.arange(len(path)), exits], part)
        return OperatingPoint(router, family, price, routing)

    return make
