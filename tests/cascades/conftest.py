"""Small worlds of logits or answers whose stages get better as they get dearer."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from offramp.cascades.graph.costs import Costs, StageCost
from offramp.cascades.graph.routing import Routes
from offramp.cascades.graph.topology import parse_topology, unroll
from offramp.features.outputs import Outputs, Stage

LETTERS = "abcde"
SKILLS = (1.0, 2.0, 4.0)


@pytest.fixture(scope="session")
def routes_of() -> Callable[..., Routes]:
    """routes_of(k, text="", costs=None): stages a, b, c, … that cost 1, 3, 9, …, every jump unless told otherwise."""

    def make(k: int, text: str = "", costs: Sequence[float] | None = None) -> Routes:
        names = tuple(LETTERS[:k])
        each = [3.0**i for i in range(k)] if costs is None else costs
        made = Costs({name: StageCost(name, cost, 0.0) for name, cost in zip(names, each, strict=True)}, "ms")
        return unroll(parse_topology(text or "_".join(names), names), made)

    return make


@pytest.fixture(scope="session")
def world() -> Callable[..., Outputs]:
    """world(n, skills=…, classes=…, seed=…): logits that are noise, plus the stage's skill at the label."""

    def make(
        n: int,
        skills: Sequence[float] = SKILLS,
        classes: int = 4,
        seed: int = 0,
        part: str = "fit",
        dtype: str = "float32",
    ) -> Outputs:
        rng = np.random.default_rng([seed, classes, len(part)])
        labels = rng.integers(0, classes, n)
        is_label = labels[:, None] == np.arange(classes)
        stages = tuple(
            Stage(name, logits=(rng.normal(size=(n, classes)) + skill * is_label).astype(dtype))
            for name, skill in zip(LETTERS, skills, strict=False)
        )
        return Outputs(stages, labels, np.arange(n), part, classes)

    return make


@pytest.fixture(scope="session")
def answering() -> Callable[..., Outputs]:
    """answering(outputs, ranks=1, measured=()): the same stages, as an API would have it: answers, perhaps numbers."""

    def make(outputs: Outputs, ranks: int = 1, measured: Sequence[str] = ()) -> Outputs:
        stages = []
        for stage in outputs.stages:
            assert stage.logits is not None
            best = np.argsort(-stage.logits, axis=1, kind="stable")[:, :ranks].astype(np.int32)
            sure = np.exp(stage.logits.max(axis=1) - np.log(np.exp(stage.logits).sum(axis=1))).astype(np.float64)
            numbers: Mapping[str, np.ndarray] = dict.fromkeys(measured, sure)
            stages.append(Stage(stage.name, answers=best, measured=numbers))
        return Outputs(tuple(stages), outputs.labels, outputs.ids, outputs.part, outputs.classes)

    return make
