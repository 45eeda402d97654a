"""What fits together is let through, whatever was fitted; what does not is refused with its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from offramp.cascades.files.codec import from_plain, to_plain, types
from offramp.cascades.files.validation import (
    check_mixtures,
    check_outputs,
    check_plans,
    check_sweep,
    width,
)
from offramp.cascades.graph.routing import Routes
from offramp.cascades.learning.cascade import Sweep, UnionRules
from offramp.cascades.learning.fit import FitSettings, fit_sweep
from offramp.cascades.learning.points import Mixture
from offramp.features.checks import is_text
from offramp.features.errors import InputError
from offramp.features.evidence import EvidenceSettings
from offramp.features.outputs import Outputs
from offramp.policies import POLICIES
from offramp.policies.boosted import BoostedRules
from offramp.policies.constant import ConstantRules
from offramp.policies.logistic import LogisticRules
from offramp.policies.policy import rules_of
from offramp.policies.threshold import ThresholdRules
from offramp.policies.value import ValueRules

FAMILIES = ("constant", "threshold", "logistic", "value")
KINDS = ("logits", "many classes", "few ranks", "last alone", "gates", "pooled", "answers", "ranked", "mixed")


def with_extras(outputs: Outputs, **extras: Callable[[int, Any], Any]) -> Outputs:
    """Stages with pooled features or measured numbers, by their number and their logits."""
    stages = [
        replace(stage, **{name: make(i, stage.logits) for name, make in extras.items()})
        for i, stage in enumerate(outputs.stages)
    ]
    return replace(outputs, stages=tuple(stages))


def gates(i: int, logits: Any) -> Mapping[str, Any]:
    return {"gate": logits.max(axis=1).astype(float), "other": logits[:, 0].astype(float)} if i < 2 else {}


@pytest.fixture(scope="module")
def fitted(
    world: Callable[..., Outputs], answering: Callable[..., Outputs], routes_of: Callable[..., Routes]
) -> Callable[[str], tuple[Sweep, Outputs]]:
    """fitted(kind): a sweep on that kind of outputs, and a test part of them."""
    made: dict[str, tuple[Sweep, Outputs]] = {}

    def fit(kind: str) -> tuple[Sweep, Outputs]:
        parts = [world(160, classes=90 if kind == "many classes" else 4, part=part) for part in ("fit", "test")]
        evidence = EvidenceSettings()
        if kind == "few ranks":
            evidence = EvidenceSettings(ranks=1)
        if kind == "last alone":
            evidence = EvidenceSettings(stack=False, agreement=False)
        if kind == "gates":
            parts = [with_extras(part, measured=gates) for part in parts]
            evidence = EvidenceSettings(measured=("gate",))
        if kind == "pooled":
            parts = [with_extras(part, pooled=lambda i, z: z[:, : 2 + i]) for part in parts]
        if kind == "answers":
            parts = [answering(part) for part in parts]
        if kind == "ranked":
            parts = [answering(part, ranks=3, measured=["confidence"]) for part in parts]
        if kind == "mixed":
            other = [answering(part, measured=["confidence"]) for part in parts]
            parts = [
                replace(part, stages=(part.stages[0], said.stages[1], part.stages[2]))
                for part, said in zip(parts, other, strict=True)
            ]
        how = FitSettings(FAMILIES, evidence=evidence)
        return fit_sweep(parts[0], routes_of(3), 2, how)[0], parts[1]

    def cached(kind: str) -> tuple[Sweep, Outputs]:
        if kind not in made:
            made[kind] = fit(kind)
        return made[kind]

    return cached


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_fitted_is_let_through_and_its_columns_are_counted(kind: str, fitted: Any) -> None:
    sweep, outputs = fitted(kind)
    back = from_plain(to_plain(sweep))
    assert check_sweep(back, "file") is back
    check_outputs(back, outputs, "test")
    reading = sweep.reader.read(outputs)
    for path in sweep.routes.paths:
        columns = reading.view(path).x.shape[1]
        assert width(sweep.reader, path, outputs) == columns
        assert width(sweep.reader, path) >= columns
        if kind != "gates":
            assert width(sweep.reader, path) == columns


def test_every_type_of_rules_that_can_be_read_is_looked_at() -> None:
    rules = {kind for kind in types().values() if kind.__name__.endswith("Rules")} - {UnionRules}
    assert set(rules_of(POLICIES).values()) == rules


# --- other outputs than the policies know


def test_other_outputs_are_refused(fitted: Any, world: Any, answering: Any) -> None:
    sweep, outputs = fitted("logits")
    for other, said in (
        (outputs.of(("b", "a", "c")), "outputs of the stages a, b, c, found b, a, c"),
        (world(20, classes=5, part="test"), "the policies' 4 classes, found over 5"),
        (answering(outputs), "logits, as the policies know, found answers alone"),
    ):
        with pytest.raises(InputError, match=said):
            check_outputs(sweep, other, "test")
    answers, said = fitted("ranked")
    for other, message in (
        (outputs, "answers alone, as the policies know, found logits"),
        (answering(outputs, ranks=2, measured=["confidence"]), "3 ranked answers, as the policies know, found 2"),
        (answering(outputs, ranks=3), "measured numbers confidence, found none"),
        (answering(outputs, ranks=3, measured=["x"]), "measured numbers confidence, found x"),
    ):
        with pytest.raises(InputError, match=message):
            check_outputs(answers, other, "test")
    check_outputs(answers, said, "test")


def test_features_that_a_policy_needs_have_to_be_there(fitted: Any, world: Any) -> None:
    pooled, there = fitted("pooled")
    with pytest.raises(InputError, match="2 pooled features, as the policies know, found none"):
        check_outputs(pooled, world(20, part="test"), "test")
    with pytest.raises(InputError, match="3 pooled features, as the policies know, found 2"):
        check_outputs(pooled, with_extras(there, pooled=lambda _i, z: z[:, :2]), "test")
    gated, there = fitted("gates")
    rules = gated.rules[0,]
    columns = np.array([width(gated.reader, (0,)) - 1])
    last = rules.members[1].__class__(
        np.repeat(columns, rules.prices), rules.members[1].cuts, rules.members[1].order, rules.members[1].name
    )
    looking = replace(rules, members=(rules.members[0], last, *rules.members[2:]))
    sweep = check_sweep(replace(gated, rules={**gated.rules, (0,): looking}), "file")
    check_outputs(sweep, there, "test")
    with pytest.raises(InputError, match="measured numbers for"):
        check_outputs(sweep, with_extras(there, measured=lambda _i, _z: {}), "test")


# --- rules, one thing wrong at a time

SPOILT: dict[str, dict[str, Any]] = {
    "constant": {
        "action": [lambda r: r.action[:-1], lambda r: r.action + 3, lambda r: r.action - 1, lambda r: r.action * 1.0]
    },
    "threshold": {
        "column": [lambda r: r.column + 1000, lambda r: r.column - 1000, lambda r: r.column[1:]],
        "cuts": [lambda r: r.cuts[:, ::-1] + [[1, 0]], lambda r: r.cuts * np.nan, lambda r: r.cuts[1:]],
        "order": [lambda r: r.order + 1, lambda r: r.order[:, 1:], lambda _r: None],
        "name": [lambda r: r.name[1:], lambda r: [*r.name], lambda r: tuple(1 for _ in r.name)],
    },
    "logistic": {
        "columns": [lambda r: r.columns + 1000, lambda r: r.columns[1:], lambda r: r.columns[:, None]],
        "mean": [lambda r: r.mean * np.inf, lambda r: r.mean[1:], lambda _r: "mean"],
        "scale": [lambda r: r.scale * 0, lambda r: -r.scale, lambda r: r.scale * np.nan],
        "weights": [lambda r: r.weights[1:], lambda r: r.weights[:, :, 1:], lambda r: r.weights * 1e300],
    },
    "value": {
        "columns": [lambda r: r.columns - 1000, lambda r: r.columns[:1], lambda _r: 3],
        "spline": [
            *(lambda r: replace(r.spline, column=r.spline.column + 0.5), lambda r: replace(r.spline, knot=None)),
            *(lambda r: replace(r.spline, knot=r.spline.knot * np.nan), lambda r: replace(r.spline, mean=np.ones(1))),
            *(lambda r: replace(r.spline, scale=r.spline.scale * 0), lambda _r: None),
            *(lambda r: replace(r.spline, knot=-r.spline.knot), lambda r: replace(r.spline, column=-r.spline.column)),
        ],
        "weights": [lambda r: r.weights[1:], lambda r: r.weights[..., 1:], lambda r: r.weights.astype(np.float32)],
    },
}
KIND_OF = {"constant": ConstantRules, "threshold": ThresholdRules, "logistic": LogisticRules, "value": ValueRules}


@pytest.mark.parametrize(("family", "name"), [(f, n) for f, spoilt in SPOILT.items() for n in spoilt])
def test_rules_that_do_not_fit_are_refused(family: str, name: str, fitted: Any) -> None:
    sweep, _ = fitted("logits")
    path = (0,)
    union = sweep.rules[path]
    for spoil in SPOILT[family][name]:
        i, member = next((i, m) for i, m in enumerate(union.members) if type(m) is KIND_OF[family])
        members = (*union.members[:i], replace(member, **{name: spoil(member)}), *union.members[i + 1 :])
        with pytest.raises(InputError, match="file, sweep, rules at a, "):
            check_sweep(replace(sweep, rules={**sweep.rules, path: replace(union, members=members)}), "file")


def test_trees_that_lead_nowhere_are_refused(world: Any, routes_of: Any) -> None:
    sweep, _ = fit_sweep(world(160, (1.0, 3.0)), routes_of(2), 2, FitSettings(("boosted",)))
    check_sweep(sweep, "file")
    union = sweep.rules[0,]
    rules = union.members[0]
    assert isinstance(rules, BoostedRules)
    trees = rules.trees[0]
    nodes = trees.feature.shape[1]
    for changes in (
        {"left": trees.left + nodes},
        {"right": trees.right - nodes},
        {"feature": trees.feature + 1000},
        {"feature": trees.feature[:, :0]},
        {"cut": trees.cut * np.nan},
        {"value": trees.value * np.nan},
        {"value": trees.value[:1]},
        {"start": float("nan")},
        {"start": 1},
        {"depth": 10**9},
        {"depth": -1},
        {"depth": 2.0},
    ):
        other = replace(rules, trees=(replace(trees, **changes), *rules.trees[1:]))  # type: ignore[arg-type]
        spoilt = replace(union, members=(other, *union.members[1:]))
        with pytest.raises(InputError, match="trees"):
            check_sweep(replace(sweep, rules={(0,): spoilt}), "file")
    for fewer in ((), rules.trees[1:], (None,)):
        spoilt = replace(union, members=(replace(rules, trees=fewer), *union.members[1:]))
        with pytest.raises(InputError, match="rules at a"):
            check_sweep(replace(sweep, rules={(0,): spoilt}), "file")


def test_unions_that_do_not_fit_are_refused(fitted: Any) -> None:
    sweep, _ = fitted("logits")
    union = sweep.rules[0,]
    inner = replace(union, members=(union, *union.members[1:]))  # no union within a union, or it could go on for ever
    for spoilt in (
        None,
        inner,
        replace(union, names=union.names[1:]),
        replace(union, names=(), members=()),
        replace(union, pick=union.pick + 100),
        replace(union, pick=union.pick[1:]),
        union.take(np.array([0])),
        replace(union, members=list(union.members)),
    ):
        with pytest.raises(InputError, match="rules at a"):
            check_sweep(replace(sweep, rules={**sweep.rules, (0,): spoilt}), "file")
    for rules in ({}, {**sweep.rules, (2,): union}, {k: v for k, v in sweep.rules.items() if k != (0, 1)}, None):
        with pytest.raises(InputError, match="rules by path"):
            check_sweep(replace(sweep, rules=rules), "file")


# --- the sweep, its routes and its reader


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": "top9"}, "a loss among"),
        ({"loss": ["top1"]}, "a loss among"),
        ({"modes": {}}, "ways to answer by path"),
        ({"prices": np.array([1.0, np.inf])}, "prices"),
        ({"prices": np.array([-1.0, 1.0])}, "prices"),
        ({"prices": np.zeros((2, 2))}, "prices"),
        ({"prices": np.array([], float)}, "1 to 10000 prices"),
        ({"prices": np.ones(20_000)}, "1 to 10000 prices"),
        ({"entry": np.array([1] * 5)}, "paths of one stage"),
        ({"entry": np.array([0] * 4)}, "shape"),
        ({"reader": None}, "Reader"),
        ({"routes": None}, "Routes"),
    ],
)
def test_sweeps_that_do_not_fit_are_refused(changes: dict[str, Any], said: str, fitted: Any) -> None:
    sweep, _ = fitted("logits")
    assert len(sweep.prices) == 5
    with pytest.raises(InputError, match=said):
        check_sweep(replace(sweep, **changes), "file")


def test_a_mode_has_to_be_one_there_is(fitted: Any) -> None:
    sweep, _ = fitted("logits")
    for mode in ("best", 1, None):
        with pytest.raises(InputError, match="ways to answer among"):
            check_sweep(replace(sweep, modes={**sweep.modes, (0,): mode}), "file")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stages": ()}, "1 to 256 stages"),
        ({"stages": ("a",) * 300}, "1 to 256 stages"),
        ({"stages": ("a", "b", "b")}, "stages that differ"),
        ({"stages": ("a", "b", "")}, "stages that differ"),
        ({"stages": ("a", "b", "c\n")}, "a line of text"),
        ({"stages": ["a", "b", "c"]}, "tuple"),
        ({"paths": ()}, "1 to 4096 paths"),
        ({"paths": ((0,), (0,))}, "every path once"),
        ({"paths": ((0, 1), (0,))}, "behind the one it lengthens"),
        ({"paths": ((1,), (1, 0))}, "go forward"),
        ({"paths": ((0,), (7,))}, "go forward"),
        ({"paths": ((True,),)}, "go forward"),
        ({"paths": ((),)}, "go forward"),
        ({"paths": (3,)}, "tuple"),
        ({"spent": np.ones((2, 2))}, "shape"),
        ({"spent": np.full((7, 3), -1.0)}, "numbers from 0"),
        ({"spent": np.full((7, 3), 1e200)}, "numbers from 0"),
        ({"alone": np.ones(2)}, "shape"),
        ({"unit": 3}, "a line of text"),
    ],
)
def test_routes_that_do_not_fit_are_refused(changes: dict[str, Any], said: str, fitted: Any) -> None:
    sweep, _ = fitted("logits")
    with pytest.raises(InputError, match=said):
        check_sweep(replace(sweep, routes=replace(sweep.routes, **changes)), "file")


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("logits", {"classes": 0}, "a whole number from 1"),
        ("logits", {"classes": True}, "a whole number from 1"),
        ("logits", {"classes": 5}, "shape"),
        ("logits", {"log_prior": np.full(4, np.nan)}, "numbers from"),
        ("logits", {"temperature": np.array([1.0, 0.0, 1.0])}, "temperatures from"),
        ("logits", {"temperature": np.array([1.0, np.inf, 1.0])}, "temperatures from"),
        ("logits", {"temperature": np.array([1.0, np.nan, 1.0])}, "calibrations by stage"),
        ("logits", {"calibration": {0: None}}, "calibrations by stage"),
        ("logits", {"pools": {}}, "pools by path"),
        ("logits", {"pooled": {9: None}}, "a whole number from 0 to 2"),
        ("logits", {"pooled": {0: 1}}, "PooledDoubt"),
        ("logits", {"settings": EvidenceSettings(stack=1)}, "bool"),  # type: ignore[arg-type]
        ("logits", {"settings": EvidenceSettings(measured=True)}, "tuple"),  # type: ignore[arg-type]
        ("logits", {"settings": EvidenceSettings(stack=False)}, "shape"),
        ("answers", {"calibration": {0: 1, 1: 2, 2: 3}}, "AnswerCalibration"),
        ("answers", {"calibration": {0.0: 1, 1.0: 2, 2.0: 3}}, "calibrations by stage"),
        ("many classes", {"log_prior": np.zeros(90)}, "shape"),
    ],
)
def test_readers_that_do_not_fit_are_refused(kind: str, changes: dict[str, Any], said: str, fitted: Any) -> None:
    sweep, _ = fitted(kind)
    with pytest.raises(InputError, match=said):
        check_sweep(replace(sweep, reader=replace(sweep.reader, **changes)), "file")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("answers", {"classes": 5}),
        ("answers", {"names": ("x",)}),
        ("answers", {"bounded": (True,)}),
        ("answers", {"reliability": np.zeros(3)}),
        ("answers", {"ranks": np.zeros(0)}),
        ("answers", {"ranks": np.array([0.0, 0.5])}),
        ("answers", {"ranks": np.array([7.0])}),
        ("answers", {"confusion": np.zeros((4, 3))}),
        ("answers", {"confusion": -np.ones((4, 4))}),
        ("answers", {"coefficients": np.zeros(1)}),
        ("answers", {"spline": None}),
        ("ranked", {"company": None}),
        ("ranked", {"names": ("confidence", "confidence"), "bounded": (True, True)}),
    ],
)
def test_calibrations_that_do_not_fit_are_refused(kind: str, changes: dict[str, Any], fitted: Any) -> None:
    sweep, _ = fitted(kind)
    spoilt = {**sweep.reader.calibration, 1: replace(sweep.reader.calibration[1], **changes)}
    with pytest.raises(InputError, match="reader, calibration of b"):
        check_sweep(replace(sweep, reader=replace(sweep.reader, calibration=spoilt)), "file")


@pytest.mark.parametrize(
    "changes",
    [
        {"key": np.array([], np.int64)},
        {"key": np.array([3, 2])},
        {"key": np.array([-2])},
        {"times": np.array([-1])},
        {"first": np.zeros(3, np.int64)},
        {"common": np.zeros(4)},
    ],
)
def test_companies_that_do_not_fit_are_refused(changes: dict[str, Any], fitted: Any) -> None:
    sweep, _ = fitted("ranked")
    known = sweep.reader.calibration[0]
    other = replace(known, company=replace(known.company, **changes))
    with pytest.raises(InputError, match="company"):
        check_sweep(
            replace(sweep, reader=replace(sweep.reader, calibration={**sweep.reader.calibration, 0: other})), "file"
        )


def test_pools_that_do_not_fit_are_refused(fitted: Any) -> None:
    sweep, _ = fitted("logits")
    pool = sweep.reader.pools[0, 1]
    size = 2 * 4
    for changes in (
        {"weights": pool.weights[1:]},
        {"weights": pool.weights * np.nan},
        {"mean": np.zeros(size), "scale": np.zeros(size), "correction": np.zeros((1 + size, 4))},
        {"mean": np.zeros(size), "scale": np.ones(size), "correction": np.zeros((size, 4))},
        {"mean": np.zeros(3), "scale": np.ones(size), "correction": np.zeros((1 + size, 4))},
        {"mean": np.zeros(3), "scale": np.zeros(0), "correction": np.zeros(0)},
        {"correction": None},
    ):
        spoilt = {**sweep.reader.pools, (0, 1): replace(pool, **changes)}
        with pytest.raises(InputError, match=r"pool of \(0, 1\)"):
            check_sweep(replace(sweep, reader=replace(sweep.reader, pools=spoilt)), "file")


# --- thresholds and mixtures


def test_thresholds_and_mixtures(fitted: Any) -> None:
    sweep, _ = fitted("logits")
    check_plans([((0, 1), (0.5,)), ((2,), ())], sweep, "file")
    check_plans([], sweep, "file")
    for plans in ([((0, 1), (0.5,))], [((0, 9), (0.5,))] * 2, [((0, 1), ())] * 2):
        with pytest.raises(InputError, match="thresholds"):
            check_plans(plans, sweep, "file")
    check_mixtures([Mixture(0, 3, 0.5), Mixture(1, 1, 0)], 4, "file")
    for mixture in (Mixture(0, 4, 0.5), Mixture(-1, 0, 0.5)):
        with pytest.raises(InputError, match="mixtures"):
            check_mixtures([mixture], 4, "file")


def test_every_policy_has_rules_that_are_looked_at(world: Any, routes_of: Any) -> None:
    """A new family whose rules nobody checks would come back from no file."""
    for name in POLICIES:
        sweep, _ = fit_sweep(world(120, (1.0, 3.0)), routes_of(2), 2, FitSettings((name,)))
        assert all(
            type(member) is POLICIES[member_name].rules
            for union in sweep.rules.values()
            for member_name, member in zip(union.names, union.members, strict=True)
        ), name


def test_text() -> None:
    assert is_text("caf\u00e9 \u00a0 \U0001f600")
    assert not any(map(is_text, ("a\n", "\ud800", "\x00", "\x7f", "x" * 2000, None, b"x")))
