"""Live decisions are those of the stored outputs' routing: every family, answer mode, batch size; numpy and torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from offramp.cascades.graph.routing import Routes, Routing, coins
from offramp.cascades.learning.fit import FitSettings
from offramp.cascades.learning.points import Fitted, fit_points
from offramp.cascades.runtime.decide import LiveCascade, live_cascade
from offramp.cascades.runtime.folded import FoldedPolicy
from offramp.features.arrays import lazy
from offramp.features.errors import InputError
from offramp.features.evidence import EvidenceSettings
from offramp.features.outputs import Outputs
from offramp.policies import POLICIES

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""

BATCHES = (1, 7, 64)


def follow(live: LiveCascade, logits: Sequence[Any], plan: Any, batch: int, tensors: bool = False) -> tuple[Any, Any]:
    """Where everybody stops and what is answered, batch by batch, as a person would write it down."""
    n = len(plan)
    answer, path = np.full(n, -5), np.full(n, -5)
    for start in range(0, n, batch):
        some = np.arange(start, min(start + batch, n))
        waiting = [(p, each.entry, some[plan[some] == p]) for p, each in enumerate(live.plans)]
        while waiting:
            p, q, rows = waiting.pop()
            if not len(rows):
                continue
            seen = [logits[s][rows] for s in live.routes.paths[q]]
            if tensors:
                torch = pytest.importorskip("torch")
                seen = [torch.from_numpy(z) for z in seen]
            action, said = (np.asarray(x) for x in live.plans[p].decide[q](seen))
            assert action.shape == said.shape == rows.shape
            stop = action == 0
            answer[rows[stop]], path[rows[stop]] = said[stop], q
            waiting += [(p, child, rows[action == way]) for way, child in enumerate(live.routes.children[q], 1)]
    return path, answer


def plan_of(fitted: Fitted, live: LiveCascade, n: int) -> Any:
    plan = live.drawn(coins(range(n), fitted.coin))
    return np.zeros(n, int) if plan is None else plan


def check(fitted: Fitted, test: Outputs, points: Sequence[int], tensors: bool = False) -> list[LiveCascade]:
    """All points' live decisions against the stored outputs' routing."""
    logits = [np.asarray(stage.logits) for stage in test.stages]
    wanted: list[Routing] = fitted.route(test)
    lives = []
    for point in points:
        live = live_cascade(fitted, point, on_device=tensors)
        lives.append(live)
        for batch in BATCHES:
            path, answer = follow(live, logits, plan_of(fitted, live, len(test)), batch, tensors)
            np.testing.assert_array_equal(path, wanted[point].path)
            np.testing.assert_array_equal(answer, wanted[point].answer)
    return lives


def fit(
    routes: Routes, outputs: Outputs, families: Sequence[str], points: int = 6, answer: str = "fused", **settings: Any
) -> Fitted:
    how = FitSettings(tuple(families), answer, settings.pop("loss", "top1"), EvidenceSettings(**settings))
    return fit_points(outputs, None, routes, points, how)[0]


@pytest.mark.parametrize("family", sorted(POLICIES))
@pytest.mark.parametrize("answer", ["last", "any", "fused"])
def test_every_family_decides_live_as_from_stored_outputs(
    routes_of: Callable[..., Routes], world: Callable[..., Outputs], family: str, answer: str
) -> None:
    fitted = fit(routes_of(3), world(500), ["constant", family], answer=answer)
    check(fitted, world(150, part="test"), range(len(fitted.names)))


@pytest.mark.parametrize("family", ["threshold", "logistic", "value"])
def test_on_tensors_too(routes_of: Callable[..., Routes], world: Callable[..., Outputs], family: str) -> None:
    pytest.importorskip("torch")
    fitted = fit(routes_of(3), world(500), ["constant", family])
    check(fitted, world(150, part="test"), range(0, len(fitted.names), 2), tensors=True)


@pytest.mark.parametrize(
    "settings",
    [{"calibrate": False}, {"stack": False}, {"agreement": False}, {"ranks": 2}, {"loss": "excess"}],
    ids=str,
)
def test_every_kind_of_evidence(
    routes_of: Callable[..., Routes], world: Callable[..., Outputs], settings: dict[str, Any]
) -> None:
    fitted = fit(routes_of(3), world(500), POLICIES, **settings)
    check(fitted, world(150, part="test"), range(len(fitted.names)))


@pytest.mark.parametrize("classes", [2, 10, 40, 100])
def test_any_number_of_classes(routes_of: Callable[..., Routes], world: Callable[..., Outputs], classes: int) -> None:
    """40 have no correction and no indicators, 100 are read sparsely, by the general way."""
    fitted = fit(routes_of(2), world(600, classes=classes), ["constant", "threshold", "value"])
    check(fitted, world(150, classes=classes, part="test"), range(len(fitted.names)))


def test_more_stages_and_jumps(routes_of: Callable[..., Routes], world: Callable[..., Outputs]) -> None:
    fitted = fit(routes_of(4, "a>b,d;b>c;c>d;b"), world(500, (1.0, 2.0, 3.0, 4.0)), ["constant", "value", "logistic"])
    check(fitted, world(150, (1.0, 2.0, 3.0, 4.0), part="test"), range(len(fitted.names)))


@pytest.mark.parametrize("family", sorted(POLICIES))
def test_learned_rules_are_computed_quickly(
    routes_of: Callable[..., Routes], world: Callable[..., Outputs], family: str
) -> None:
    """Never by the general way, which is as right and thirty times as slow: columns of two stages are folded too."""
    fitted = fit(routes_of(3), world(500), [family])
    made = [d for i in range(6) for d in live_cascade(fitted, i).plans[0].decide.values()]
    assert not [d for d in made if getattr(d, "__qualname__", "").startswith("_general")]
    if family != "constant":
        assert [type(d) for d in made].count(FoldedPolicy) >= 6


def test_extreme_logits_are_no_trouble(routes_of: Callable[..., Routes], world: Callable[..., Outputs]) -> None:
    fitted = fit(routes_of(2), world(500), ["constant", "value", "threshold"])
    for scale in (0.0, 1e4, 1e9):
        test = world(40, part="test")
        logits = [np.asarray(stage.logits) * np.float32(scale) for stage in test.stages]
        for point in range(len(fitted.names)):
            live = live_cascade(fitted, point)
            path, answer = follow(live, logits, plan_of(fitted, live, 40), 8)
            assert (path >= 0).all()
            assert ((answer >= 0) & (answer < 4)).all()


def test_a_lazy_property_is_reckoned_once() -> None:
    calls = []

    class Some:
        @lazy
        def number(self) -> int:
            calls.append(1)
            return 7

    some = Some()
    assert (some.number, some.number, calls) == (7, 7, [1])


def gated(outputs: Outputs) -> Outputs:
    """The same, where the first two stages say how likely they are right, better than their logits do."""
    stages = list(outputs.stages)
    for i in range(2):
        z = np.asarray(stages[i].logits)
        noise = np.random.default_rng([i, len(z)]).normal(size=len(z))
        gate = (2.0 * (z.argmax(1) == outputs.labels) - 1 + noise).astype(np.float32)
        stages[i] = replace(stages[i], measured={"gate": gate, "speed": gate * 0})
    return replace(outputs, stages=tuple(stages))


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("families", [("constant", "gate"), ("constant", "threshold", "value", "gate")])
@pytest.mark.parametrize("answer", ["last", "fused"])
def test_gates_come_behind_the_logits(
    routes_of: Callable[..., Routes],
    world: Callable[..., Outputs],
    families: Sequence[str],
    answer: str,
    tensors: bool,
) -> None:
    if tensors:
        pytest.importorskip("torch")
    fit_part, test = gated(world(500)), gated(world(150, part="test"))
    fitted = fit(routes_of(3), fit_part, families, answer=answer, measured=("gate",))
    wide = [
        stage if i == 2 else replace(stage, logits=np.column_stack([stage.logits, stage.measured["gate"]]))
        for i, stage in enumerate(test.stages)
    ]
    logits = [np.asarray(stage.logits) for stage in wide]
    wanted = fitted.route(test)
    gates = 0
    for point in range(0, len(fitted.names), 2 if tensors else 1):
        live = live_cascade(fitted, point, on_device=tensors)
        for batch in (1, 64):
            path, answers = follow(live, logits, plan_of(fitted, live, len(test)), batch, tensors)
            np.testing.assert_array_equal(path, wanted[point].path)
            np.testing.assert_array_equal(answers, wanted[point].answer)
        gates += "gate" in fitted.names[point][0]
    assert gates


def test_numbers_other_than_gates_are_refused_live(
    routes_of: Callable[..., Routes], world: Callable[..., Outputs]
) -> None:
    fitted = fit(routes_of(3), gated(world(300)), ["constant", "value"], measured=("gate", "speed"))
    with pytest.raises(InputError, match="speed"):
        live_cascade(fitted, 0)
