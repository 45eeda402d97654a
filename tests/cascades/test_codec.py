from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from offramp.cascades.files.codec import describe, from_plain, to_plain, types
from offramp.cascades.graph.routing import Routes
from offramp.cascades.learning.cascade import Sweep, UnionRules
from offramp.cascades.learning.fit import FitSettings, fit_sweep
from offramp.features.errors import InputError
from offramp.features.evidence import EvidenceSettings
from offramp.features.numeric.spline import Spline
from offramp.features.outputs import Outputs
from offramp.policies import POLICIES
from offramp.policies.constant import ConstantRules
from offramp.policies.policy import Decision


def through_json(value: Any) -> Any:
    """What comes back from a file as the standard has it: without NaN and infinity."""
    return from_plain(json.loads(json.dumps(to_plain(value), allow_nan=False)), "policies.json")


# --- numbers and arrays


@given(arrays(np.float64, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4), elements=st.floats()))
@settings(max_examples=100, deadline=None)
def test_arrays_of_floats_keep_every_bit(array: np.ndarray) -> None:
    again = through_json(array)
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    # NaN is NaN, whatever its payload
    np.testing.assert_array_equal(np.isnan(again), np.isnan(array))
    kept = ~np.isnan(array)
    assert again[kept].tobytes() == array[kept].tobytes()


@given(arrays(np.float32, array_shapes(max_side=4), elements=st.floats(width=32, allow_nan=False)))
@settings(max_examples=50, deadline=None)
def test_float32_is_written_as_the_float64_that_it_is(array: np.ndarray) -> None:
    again = through_json(array)
    assert again.dtype == np.float64
    assert again.astype(np.float32).tobytes() == array.tobytes()


@given(arrays(st.sampled_from([np.int8, np.uint16, np.int64, np.bool_]), array_shapes(min_side=0, max_side=4)))
@settings(max_examples=50, deadline=None)
def test_integers_and_truth_values_stay_what_they_are(array: np.ndarray) -> None:
    again = through_json(array)
    assert again.dtype == (np.bool_ if array.dtype == np.bool_ else np.int64)
    np.testing.assert_array_equal(again, array)


@pytest.mark.parametrize(
    "value", [0, -1, 2**53 + 1, True, None, "inf", "nan", "", "a > b", (), ((), (1, "x")), 0.1, 5e-324]
)
def test_plain_values_are_themselves_and_texts_are_never_numbers(value: Any) -> None:
    again = through_json(value)
    assert again == value
    assert type(again) is type(value)


def test_numbers_of_numpy_become_pythons() -> None:
    assert [type(to_plain(v)) for v in (np.float32(0.5), np.int8(3), np.bool_(True))] == [float, int, bool]
    assert to_plain(np.float64("nan")) == "nan"


def test_maps_keep_their_order_and_tuples_as_keys() -> None:
    value = {(0, 1): np.array([1.0]), (0,): "x", (2,): {"inner": (1,)}}
    again = through_json(value)
    assert list(again) == [(0, 1), (0,), (2,)]
    assert again[2,] == {"inner": (1,)}


# --- fitted objects


def alike(one: Any, other: Any) -> bool:
    """Whether two fitted objects are written alike, so hold the same numbers to the last bit."""
    return json.dumps(to_plain(one), allow_nan=False) == json.dumps(to_plain(other), allow_nan=False)


@pytest.fixture(scope="module")
def decision() -> Decision:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3)).astype(np.float32)
    costs = rng.random((120, 3, 4), np.float32)
    costs[:, 1] += x[:, [0]]
    columns = ("belief.doubt", "a.entropy", "belief.margin")
    return Decision(columns, x, costs, rng.normal(size=(120, 2)).astype(np.float32), 0)


@pytest.mark.parametrize("name", POLICIES)
def test_rules_of_every_policy_come_back_and_act_the_same(name: str, decision: Decision) -> None:
    rules = POLICIES[name].fit(decision)
    again = through_json(rules)
    assert type(again) is type(rules)
    assert alike(again, rules)
    assert str(again) == str(rules)
    other = np.random.default_rng(1).normal(size=(500, 3)).astype(np.float32)
    np.testing.assert_array_equal(again.actions(other), rules.actions(other))
    np.testing.assert_array_equal(again.take(np.array([2])).actions(other), rules.actions(other)[:, [2]])


KINDS = (
    "logits",
    "logits of many classes",
    "answers alone",
    "ranked answers with confidence",
    "many classes of answers",
)


@pytest.fixture(scope="module", params=KINDS)
def fitted(
    request: pytest.FixtureRequest,
    world: Callable[..., Outputs],
    answering: Callable[..., Outputs],
    routes_of: Callable[..., Routes],
) -> tuple[Sweep, Outputs]:
    """A sweep fitted on one kind of outputs by every policy, and examples of a test part."""
    classes = 90 if "many" in request.param else 4
    parts = [world(250, (1.0, 3.0), classes, seed=seed, part=part) for seed, part in ((0, "fit"), (1, "test"))]
    if "answers" in request.param:
        more = {"ranks": 3, "measured": ["confidence"]} if "ranked" in request.param else {}
        parts = [answering(part, **more) for part in parts]
    how = FitSettings(tuple(POLICIES), loss="top5" if "ranked" in request.param else "top1")
    sweep, _ = fit_sweep(parts[0], routes_of(2), 6, how)
    return sweep, parts[1]


def test_a_sweep_that_was_written_routes_the_same_bit_for_bit(fitted: tuple[Sweep, Outputs]) -> None:
    sweep, outputs = fitted
    again = through_json(sweep)
    assert alike(again, sweep)
    ours, theirs = again.route(outputs), sweep.route(outputs)
    for field in ("path", "answer", "wrong"):
        assert getattr(ours, field).tobytes() == getattr(theirs, field).tobytes(), field
    assert (ours.part, ours.routes.stages, ours.routes.paths) == (
        theirs.part,
        theirs.routes.stages,
        theirs.routes.paths,
    )
    assert ours.routes.cost.tobytes() == theirs.routes.cost.tobytes()
    np.testing.assert_array_equal(again.prices, sweep.prices)


def test_every_price_is_described(fitted: tuple[Sweep, Outputs]) -> None:
    sweep, _ = fitted
    told = json.loads(json.dumps(describe(sweep), allow_nan=False))
    assert [each["price"] for each in told[:6]] == sweep.prices[:6].tolist()
    assert [(each["price"], each["entry"]) for each in told[6:]] == [(None, "a"), (None, "b")]
    for each in told:
        assert each["entry"] in ("a", "b")
        assert list(each["rules"]) == ["a"]
        assert each["rules"]["a"]["family"] in POLICIES
        assert each["rules"]["a"]["rule"]
    assert told[6]["rules"]["a"] == {"family": "constant", "rule": "always stop"}


def test_a_description_names_paths_and_families_by_hand(routes_of: Callable[..., Routes]) -> None:
    go, stop = ConstantRules(np.array([2, 1])), ConstantRules(np.array([0, 0]))
    rules = {
        (0,): UnionRules(("first", "second"), (stop, go), np.array([1, 0])),
        (0, 1): UnionRules(("first", "second"), (stop, go), np.array([0, 1])),
        (1,): UnionRules(("first",), (stop,), np.array([0, 0])),
    }
    routes = routes_of(3)
    entry = np.array([routes.index[0,], routes.index[1,]])
    sweep = Sweep(routes, None, "top1", {}, np.array([0.25, np.nan]), rules, entry)  # type: ignore[arg-type]
    assert describe(sweep) == [
        {
            "price": 0.25,
            "entry": "a",
            "rules": {
                "a": {"family": "second", "rule": "always go 2"},
                "a > b": {"family": "first", "rule": "always stop"},
                "b": {"family": "first", "rule": "always stop"},
            },
        },
        {
            "price": None,
            "entry": "b",
            "rules": {
                "a": {"family": "first", "rule": "always stop"},
                "a > b": {"family": "second", "rule": "always go 1"},
                "b": {"family": "first", "rule": "always stop"},
            },
        },
    ]


# --- what can't have been written

GOOD = {"type": "ConstantRules", "action": {"array": "int64", "shape": [2], "values": [0, 1]}}


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"type": "os.system"},
        {"type": "Path", "path": "x"},
        {"type": ["ConstantRules"]},
        {"type": None},
        {"type": "ConstantRules"},
        {"action": GOOD["action"]},
        {**GOOD, "command": "rm"},
        {**GOOD, "action": {"array": "object", "shape": [1], "values": [0]}},
        {**GOOD, "action": {"array": "float16", "shape": [1], "values": [0]}},
        {**GOOD, "action": {"array": ["int64"], "shape": [1], "values": [0]}},
        {**GOOD, "action": {"array": "int64", "shape": [3], "values": [0, 1]}},
        {**GOOD, "action": {"array": "int64", "shape": ["x"], "values": [0]}},
        {**GOOD, "action": {"array": "int64", "values": [0]}},
        {**GOOD, "action": {"array": "int64", "shape": [1], "values": ["nan"]}},
        {**GOOD, "action": {"array": "int64", "shape": [1], "values": [2**64]}},
        {**GOOD, "action": {"array": "float64", "shape": [1], "values": ["import os"]}},
        {**GOOD, "action": {"array": "float64", "shape": [1], "values": [{"a": 1}]}},
        {**GOOD, "action": {"array": "float64", "shape": [1], "values": 7}},
        {"map": [[{"map": []}, 1]]},
        {"map": [1, 2]},
        {"map": [[1, 2, 3]]},
        [GOOD, {"map": [["x", {"type": "Unknown"}]]}],
    ],
)
def test_anything_else_is_refused_with_its_place(value: Any) -> None:
    with pytest.raises(InputError) as caught:
        from_plain(value, "policies.json")
    assert str(caught.value).startswith("policies.json: expected ")
    assert "\n" not in str(caught.value)


def test_only_types_of_this_program_are_ever_made() -> None:
    homes = {kind.__module__.split(".")[1] for kind in types().values()}
    assert homes <= {"features", "policies", "cascades"}
    assert all(name == kind.__name__ for name, kind in types().items())
    assert {Sweep, UnionRules, Routes, EvidenceSettings, Spline} <= set(types().values())


def test_rules_of_a_plug_in_do_not_take_the_place_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    class ThresholdRules:
        pass

    class Other:
        rules, parts = ThresholdRules, ()

    monkeypatch.setitem(POLICIES, "other", Other())
    with pytest.raises(InputError, match="ThresholdRules of"):
        types()
