"""Policy files: written and read back alike, told in words, and refused in bounded time whatever is wrong with them."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from offramp.cascades.files.codec import types
from offramp.cascades.files.policy import (
    DEEPEST,
    Attempt,
    Bound,
    Certificate,
    Deployment,
    Reference,
    deployment_from_plain,
    deployment_to_plain,
    described,
    policies_digest,
    read_deployment,
    write_deployment,
)
from offramp.cascades.files.schema import main, policy_schema
from offramp.cascades.files.typed import LONGEST_TEXT, MOST_EXAMPLES
from offramp.cascades.files.validation import LONGEST_NAME, MOST_STAGES, check_outputs
from offramp.cascades.graph.costs import MAX_COST, Costs, StageCost
from offramp.cascades.graph.routing import Routes, largest
from offramp.cascades.learning.fit import FitSettings
from offramp.cascades.learning.points import digest_of, fit_points
from offramp.cascades.learning.targets import Target, expected_of, solve
from offramp.cascades.runtime.decide import live_cascade
from offramp.features.errors import InputError
from offramp.features.outputs import Outputs
from offramp.features.store.limits import JSON_BYTES, JSON_CONTAINERS
from offramp.policies import POLICIES

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""

FAMILIES = ("constant", "threshold", "logistic", "value")
BOUNDS = (Bound("increase", 0.01, 0.004, {"class 1": 0.02}), Bound("error", 0.2, 0.18, {}))
CERTIFICATE = Certificate(0.05, BOUNDS, 3.5, 3.2, 2000, "ab" * 32, "betting", -1, "")
ATTEMPTS = (
    Attempt("ab" * 32, 2000, 0.05, "cd" * 32, "an error of at most 0.1", None),
    Attempt("ab" * 32, 2000, 0.05, "cd" * 32, "an error of at most 0.2", 3),
)
REFERENCE = Reference(100, {"a": 60, "a>b": 40}, (0.5, 0.9), {"a": (10, 20, 30), "a>b": (40, 0, 0)}, (50, 25, 25, 0), 9)


@pytest.fixture(scope="module")
def deployment(routes_of: Callable[..., Routes], world: Callable[..., Outputs]) -> Deployment:
    return deployed(world(700), routes_of(3), Target(budget=4.0), FAMILIES)


def deployed(outputs: Outputs, routes: Routes, target: Target, policies: tuple[str, ...]) -> Deployment:
    fitted, picking = fit_points(outputs, None, routes, 4, FitSettings(policies))
    reference = float(picking.there.wrong[:, -1].mean())
    fitted, point = solve(target, fitted, picking.routings, reference)
    assert routes.alone is not None
    alone = dict(zip(routes.stages, routes.alone.tolist(), strict=True))
    costs = Costs({stage: StageCost(stage, cost, 0.0) for stage, cost in alone.items()}, "ms", "a CPU")
    return Deployment(
        fitted,
        point,
        "_".join(routes.stages),
        costs,
        target,
        expected_of(fitted, picking.routings, reference),
        "cifar10",
        3,
        0.2,
        {"fit": digest_of(outputs)},
        outputs.classes,
        {"a": {"spec": "x", "weights": "12ab", "preprocessing": "Preprocessing()"}},
        {"trial": 7, "choices": {"softness": 0.5}},
        {"numpy": "2"},
        replace(CERTIFICATE, point=point, policies=policies_digest(fitted)),
        REFERENCE,
        ATTEMPTS,
    )


@pytest.fixture(scope="module")
def content(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What stands in its file, to be spoilt in copies."""
    path = tmp_path_factory.mktemp("policy") / "policy.json"
    write_deployment(deployment, path)
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


# --- there and back


def same(one: Deployment, other: Deployment) -> bool:
    return json.dumps(deployment_to_plain(one)) == json.dumps(deployment_to_plain(other))


def test_what_was_written_is_read_back_and_routes_alike(
    deployment: Deployment, world: Callable[..., Outputs], tmp_path: Path
) -> None:
    path = tmp_path / "policy.json"
    write_deployment(deployment, path)
    back = read_deployment(path)
    assert same(back, deployment)
    assert back.certificate == deployment.certificate
    assert back.certificate == replace(CERTIFICATE, point=back.point, policies=policies_digest(back.fitted))
    assert back.attempts == ATTEMPTS
    assert back.reference == REFERENCE
    assert back.target == deployment.target
    assert back.costs == deployment.costs
    test = world(200, part="test")
    ours, theirs = (one.fitted.route(test)[one.point] for one in (back, deployment))
    for field in ("path", "answer", "wrong"):
        assert getattr(ours, field).tobytes() == getattr(theirs, field).tobytes()
    assert (back.expected.cost == deployment.expected.cost).all()


@pytest.mark.parametrize("kind", ["logits", "answers", "ranked answers", "many classes"])
def test_every_kind_of_outputs_and_policy_comes_back(
    kind: str, routes_of: Callable[..., Routes], world: Any, answering: Any, tmp_path: Path
) -> None:
    outputs, test = (world(300, (1.0, 3.0), 90 if kind == "many classes" else 4, part=part) for part in ("fit", "test"))
    if "answers" in kind or "many" in kind:
        more = {"ranks": 3} if "ranked" in kind else {"measured": ["confidence"]} if kind == "answers" else {}
        outputs, test = (answering(part, **more) for part in (outputs, test))
    there = deployed(outputs, routes_of(2), Target(error_increase=0.3), FAMILIES)
    path = tmp_path / "policy.json"
    write_deployment(there, path)
    back = read_deployment(path)
    assert same(back, there)
    check_outputs(back.fitted.sweep, test, "test")
    for one, other in zip(back.fitted.route(test), there.fitted.route(test), strict=True):
        np.testing.assert_array_equal(one.path, other.path)


def test_what_may_be_missing_comes_back_as_missing(deployment: Deployment, tmp_path: Path) -> None:
    bare = replace(deployment, certificate=None, reference=None, networks={}, tuned={}, versions={}, parts={})
    write_deployment(bare, tmp_path / "policy.json")
    back = read_deployment(tmp_path / "policy.json")
    assert same(back, bare)
    assert (back.certificate, back.reference) == (None, None)


def test_numbers_of_numpy_are_written_as_any_other(deployment: Deployment, tmp_path: Path) -> None:
    assert deployment.certificate is not None
    odd = replace(
        deployment,
        point=np.int64(deployment.point),
        certificate=replace(deployment.certificate, cost=np.float64(3.2), examples=np.int64(2000)),
    )
    write_deployment(odd, tmp_path / "policy.json")
    assert same(read_deployment(tmp_path / "policy.json"), deployment)


def test_writing_is_whole_or_not_at_all(deployment: Deployment, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    write_deployment(deployment, path)
    before = path.read_bytes()
    for spoilt in (replace(deployment, kept=2.0), replace(deployment, data="two\nlines")):
        with pytest.raises(InputError):
            write_deployment(spoilt, path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["policy.json"]
    with pytest.raises(InputError, match="can be written"):
        write_deployment(deployment, tmp_path / "nowhere" / "policy.json")


def test_the_largest_stage_is_the_dearest_alone(routes_of: Callable[..., Routes]) -> None:
    assert largest(routes_of(3)) == 2
    assert largest(routes_of(3, costs=[5.0, 9.0, 1.0])) == 1
    assert largest(routes_of(3, "a>b;b>c", [1.0, 9.0, 5.0])) == 1
    assert largest(replace(routes_of(3, costs=[5.0, 9.0, 1.0]), alone=None)) == 1
    assert largest(replace(routes_of(3, "a>b;b>c", [1.0, 9.0, 5.0]), alone=None)) == 1


def test_what_no_one_could_read_back_is_not_written(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offramp.features.store.strictjson.JSON_BYTES", 2**20)
    wide = replace(deployment, tuned={f"{i}": "x" * 9000 for i in range(200)})
    with pytest.raises(InputError, match="fewer points, or a smaller topology"):
        write_deployment(wide, tmp_path / "policy.json")
    assert not list(tmp_path.iterdir())


# --- in words


def test_the_head_says_what_a_person_wants_to_know(deployment: Deployment) -> None:
    told = described(deployment)
    assert "stages a, b, c" in told["topology"]
    assert told["target"] == "the most accurate of at most 4 ms on average"
    assert "4 ms, on a CPU" in told["expected"]
    assert told["certificate"].startswith(
        "with probability at least 0.95 it has an error at most 1 points above the largest"
    )
    assert "stage's, an error of at most 20 % and costs" in told["certificate"]
    assert "at most 3.5 ms on average (betting; 2,000 examples)" in told["certificate"]
    assert "a coin, of seed 5" in told["point"]
    bare = described(replace(deployment, certificate=None, point=0, target=Target()))
    assert bare["certificate"].startswith("none")
    assert bare["target"] == "none"
    assert " of loss per ms" in bare["point"]
    fitted = replace(deployment.fitted, sweep=replace(deployment.fitted.sweep, loss="top5"))
    other = described(replace(deployment, fitted=fitted, target=Target(error_increase=0.01)))
    assert other["target"] == "the cheapest with a top-5 error at most 1 points above the largest stage's"
    assert "a top-5 error of at most 20 %" in other["certificate"]
    assert " ms, on a CPU, a top-5 error of " in other["expected"]


def test_the_head_stands_first(content: dict[str, Any]) -> None:
    assert list(content)[:3] == ["format", "version", "description"]
    assert list(content)[-1] == "policies"


# --- the schema


@pytest.fixture(scope="module")
def schema() -> Any:
    """A validator of the schema, which is itself a valid one."""
    found = policy_schema()
    Draft202012Validator.check_schema(found)
    return Draft202012Validator(json.loads(json.dumps(found)))


def test_written_files_satisfy_the_schema(content: dict[str, Any], deployment: Deployment, schema: Any) -> None:
    assert list(schema.iter_errors(content)) == []
    bare = replace(deployment, certificate=None, reference=None, target=Target(accuracy=0.5, shares={"a": 0.5}))
    assert list(schema.iter_errors(json.loads(json.dumps(deployment_to_plain(bare))))) == []


def test_the_schema_names_every_key_there_is(content: dict[str, Any], schema: Any) -> None:
    known = schema.schema["$defs"]
    assert set(known["PolicyFields"]["properties"]) == set(content)
    assert set(known["Certificate"]["properties"]) == set(content["certificate"])
    assert set(known["Reference"]["properties"]) == set(content["reference"])
    assert set(known["PoliciesFields"]["properties"]) == set(content["policies"])
    for name, kind in types().items():
        assert list(known[name]["properties"]) == ["type", *(field.name for field in fields(kind))]


@pytest.mark.parametrize("place", ["target", "expected", "costs", "policies"])
def test_a_key_that_nobody_reads_is_named(content: dict[str, Any], schema: Any, place: str) -> None:
    odd = {**content, place: {**content[place], "hello": 1}}
    with pytest.raises(InputError, match=f"{place}: expected keys among .*found hello"):
        deployment_from_plain(odd, "file")
    assert not schema.is_valid(odd)


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(policy_schema()))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 2),
        ("point", "one"),
        ("parts", {"other": "x"}),
        ("certificate", {}),
        ("costs", {"unit": "ms", "device": "", "stages": {}}),
        ("strange", 1),
        ("topology", "two\nlines"),
        ("kept", 1.5),
        ("policies", {"format": "offramp cascades", "version": 1}),
    ],
)
def test_the_schema_refuses_too(content: dict[str, Any], schema: Any, key: str, value: object) -> None:
    assert not schema.is_valid({**content, key: value})


# --- what is refused


def refused(path: Path, text: str | bytes) -> str:
    """The message, within a second and in one line of bounded length."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    start = time.perf_counter()
    with pytest.raises(InputError) as caught:
        read_deployment(path)
    assert time.perf_counter() - start < 5
    said = str(caught.value)
    assert said.startswith(f"{path}")
    assert "\n" not in said
    assert len(said) < 1500 + len(str(path))
    return said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "no JSON"),
        (b"[]", "a policy file"),
        (b"null", "a policy file"),
        (b"{}", "a policy file"),
        (b"{", "no JSON"),
        (b"\xff\xfe{}", "no text in UTF-8"),
        (b'{"a": 1, "a": 2}', "'a' twice"),
        (b'{"a": NaN}', "NaN, which is no number"),
        (b'{"a": -Infinity}', "-Infinity, which is no number"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a whole number of 5000 digits"),
        (b'{"a": 9223372036854775808}', "a whole number of 19 digits"),
        (b'{"a": 0.' + b"1" * 5000 + b"}", "a number of 5002 characters"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"format": "offramp policy", "version": 2}', "written by a later version"),
        (b'{"format": "offramp policy", "version": 0}', "version 1"),
        (b'{"format": "offramp policy", "version": true}', "a policy file"),
        (b'{"format": "offramp policy", "version": 1.0}', "a policy file"),
        (b'{"format": "offramp cascades", "version": 1}', "a policy file"),
        (b'{"format": "offramp policy", "version": 1}', "a policy file with topology"),
    ],
    ids=range(21),
)
def test_what_is_no_policy_file_is_told(tmp_path: Path, text: bytes, said: str) -> None:
    assert said in refused(tmp_path / "policy.json", text)


def test_files_that_are_too_large_or_no_files_are_refused_before_they_are_read(tmp_path: Path) -> None:
    huge = tmp_path / "huge.json"
    with huge.open("wb") as file:
        file.truncate(2**30)  # a hole: no disk is used
    start = time.perf_counter()
    with pytest.raises(InputError, match=f"of at most {JSON_BYTES:,} bytes"):
        read_deployment(huge)
    assert time.perf_counter() - start < 5
    with pytest.raises(InputError, match="a folder"):
        read_deployment(tmp_path)
    with pytest.raises(InputError, match="No such file"):
        read_deployment(tmp_path / "none.json")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InputError, match="a pipe, not a file"):  # reading it would wait for ever
            read_deployment(tmp_path / "pipe")


def test_many_empty_lists_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    text = b"[" + b"[]," * (JSON_CONTAINERS + 1) + b"[]]"
    assert "or 2,000,000 lists, which none has" in refused(tmp_path / "policy.json", text)


def at(content: Any, place: str) -> tuple[Any, Any]:
    """The container and the key of a place such as "costs.stages.a"."""
    *way, last = place.split(".")
    for key in way:
        content = content[int(key) if isinstance(content, list) else key]
    return content, int(last) if isinstance(content, list) else last


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("point", 10_000, "point: expected a whole number from 0 to"),
        ("point", -1, "point: expected"),
        ("point", 1.0, "point: expected"),
        ("point", True, "point: expected"),
        ("point", None, "point: expected"),
        ("topology", "a\nb", "a line of text"),
        ("topology", "\ud800", "a line of text"),
        ("topology", "x" * 100_000, "a line of text"),
        ("kept", 1.5, "kept: expected a number from 0 to 1"),
        ("seed", -1, "seed: expected"),
        ("classes", 5, "the policies' 4 classes, found 5"),
        ("classes", 10**9, "classes: expected"),
        ("parts", {"other": "x"}, "parts: expected one of certify, fit, test, tune, found 'other'"),
        ("parts", {"fit": 1}, "parts, fit: expected a line of text"),
        ("target", None, "target: expected an object"),
        ("target.shares", {"z": 0.5}, "stages among a, b, c"),
        ("target.accuracy", 1.5, "accuracy: expected a number from 0 to 1"),
        ("target.budget", "5ms", "budget: expected a number"),
        ("expected.cost", [1.0], "expected, cost: expected"),
        ("expected.error", "x", "expected, error: expected a list, found 'x'"),
        ("expected.cost.0", None, "expected, cost, 0: expected a number from 0 to"),
        ("expected.error.0", 2.0, "expected, error, 0: expected a number from 0 to 1, found 2.0"),
        ("expected.examples", 0, "examples: expected"),
        ("certificate.delta", 0, "delta: expected a number between 0 and 1"),
        ("certificate.delta", 1, "delta: expected a number between 0 and 1"),
        ("certificate.bounds.0.risk", "luck", "bounds, 0, risk: expected one of error, increase"),
        ("certificate.bounds.0.most", 2, "most: expected"),
        ("certificate.bounds.0.groups", {"a": "b"}, "groups, a: expected"),
        ("certificate.bounds.1.risk", "increase", "a bound for each risk, found two for increase"),
        ("certificate.bounds", [], "bounds: expected a list of 1 to 2"),
        ("certificate.bounds", 7, "bounds: expected a list of 1 to 2"),
        ("certificate.bounds.0", 7, "bounds, 0: expected an object"),
        ("certificate.point", 0, "point: expected the certificate's point, 0 (or no certificate"),
        ("certificate.policies", "ef" * 32, "policies: expected the policies that the certificate was made for"),
        ("policies.coin", 6, "policies: expected the policies that the certificate was made for"),
        ("policies.examples", "x", "policies: expected the policies that the certificate was made for"),
        ("point", 0, "point: expected the certificate's point"),
        ("attempts", {}, "attempts: expected a list"),
        ("attempts", [{}] * 10_001, "attempts: expected a list of at most 10,000"),
        ("attempts.0", 1, "attempts, 0: expected an object"),
        ("attempts.0.delta", 1, "delta: expected a number between 0 and 1"),
        ("attempts.0.point", "x", "point: expected a whole number"),
        ("attempts.0.asked", None, "asked: expected a line of text"),
        ("certificate", [], "certificate: expected an object"),
        ("reference.edges", [0.9, 0.5], "edges that rise"),
        ("reference.counts", {"a": [1, 2]}, "3 whole numbers from 0 on"),
        ("reference.exits", {"a": -1}, "exits, a: expected"),
        ("reference.answers", [0.5], "answers, 0: expected a whole number from 0"),
        ("networks", {"a": [[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]}, "deep at most"),
        ("versions", {"numpy": None}, "versions, numpy"),
        ("costs.stages", {}, "stages: expected an object of 1 to 256"),
        ("costs.stages.c.trunk", -1, "trunk: expected a number from 0"),
        ("costs.stages.c", {"network": "c", "trunk": 9.0, "head": 0.0, "tail": 1.0}, "keys among network, trunk, head"),
        ("costs.stages.c.trunk", 9.0 * (1 + 1e-6), "costs by which the policies' paths cost what they do"),
        ("costs.stages.c.trunk", 10.0, "costs by which the policies' paths cost what they do"),
        ("costs.stages.c.trunk", 1e-200, "a cost of 0 or from"),
        ("policies.sweep.routes.spent.values.0", 1.0 + 1e-6, "costs by which the policies' paths cost what they do"),
        ("costs.unit", "s", "costs in ms, as the policies have them"),
        ("costs.batch", 0, "batch: expected"),
        ("policies.version", 2, "written by a later version"),
        ("policies.format", "other", "format 'offramp cascades'"),
        ("policies.mixtures", [{"one": 0, "other": 10_000, "share": 0.5}], "mixtures of two"),
        (
            "policies.mixtures",
            [{"one": 0, "other": 1, "share": 1.5}],
            "mixtures, 0, share: expected a number from 0 to 1",
        ),
        ("policies.coin", -1, "coin: expected a whole number from 0"),
        ("policies.sweep", {"type": "os.system"}, "what this program writes"),
        ("policies.sweep.prices.values.0", "-inf", "prices"),
        ("policies.sweep.prices.shape", [10**9], "the shape of an array"),
        ("policies.sweep.prices.shape", [10**6], "1000000 values in an array"),
        ("policies.sweep.prices.shape", [0, 10**18], "the shape of an array"),
        ("policies.sweep.prices.array", "object", "an array of bool, float64, int64"),
        ("policies.sweep.entry.values.0", 0.5, "numbers in an array of int64, found float"),
        ("policies.sweep.loss", "none", "a loss among"),
        ("policies.sweep.reader.classes", 10_000_000, "shape (0,)"),
        ("policies.sweep.reader.temperature.values.0", 0, "temperatures from"),
        ("policies.sweep.reader.temperature.values.0", "nan", "calibrations by stage"),
        ("policies.sweep.reader.settings.ranks", 10**6, "ranks: expected"),
        ("policies.sweep.reader.stages", ["a", "b", "b"], "the routes' stages"),
        ("policies.sweep.routes.spent.values.0", "nan", "numbers from"),
        ("policies.sweep.routes.stages", ["a", "b"], "paths of stages that go forward"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(
    content: dict[str, Any], tmp_path: Path, place: str, value: object, said: str
) -> None:
    spoilt = copy.deepcopy(content)
    container, key = at(spoilt, place)
    assert key in container or isinstance(container, list)
    container[key] = value
    assert said in refused(tmp_path / "policy.json", json.dumps(spoilt))


def nested(depth: int) -> Any:
    """Lists within lists: [[1]] is two deep."""
    return 1 if depth == 0 else [nested(depth - 1)]


@pytest.mark.parametrize(
    ("place", "taken", "beyond"),
    [
        ("kept", (0, 1), (-0.001, 1.001)),
        ("seed", (0, 2**63 - 1), (-1,)),
        (
            "topology",
            ("a_b_c",),
            ("x" * (LONGEST_TEXT + 1), "x" * LONGEST_TEXT, "a_b", "a>b,c;b>c", "a>b;b>c", "b_c_a"),
        ),
        ("target.budget", (0, MAX_COST * MOST_STAGES, None), (-0.001, MAX_COST * MOST_STAGES * 1.001)),
        ("target.accuracy", (0, 1, None), (-0.001, 1.001)),
        ("target.error_increase", (0, 1, None), (-0.001, 1.001)),
        ("target.shares", ({}, {"a": 0}, {"a": 1}), ({"a": -0.001}, {"a": 1.001})),
        ("expected.cost.0", (0, MAX_COST * MOST_STAGES), (-0.001, MAX_COST * MOST_STAGES * 1.001)),
        ("expected.error.0", (0, 1), (-0.001, 1.001)),
        ("expected.reference", (0, 1), (-0.001, 1.001)),
        ("expected.examples", (1, MOST_EXAMPLES), (0, MOST_EXAMPLES + 1)),
        ("certificate.delta", (1e-9, 0.999), (0, 1)),
        ("certificate.cost", (0, MAX_COST * MOST_STAGES), (-0.001, MAX_COST * MOST_STAGES * 1.001)),
        ("certificate.cost_bound", (0, MAX_COST * MOST_STAGES), (-0.001, MAX_COST * MOST_STAGES * 1.001)),
        ("certificate.examples", (1, MOST_EXAMPLES), (0, MOST_EXAMPLES + 1)),
        ("certificate.method", ("x" * LONGEST_TEXT,), ("x" * (LONGEST_TEXT + 1),)),
        ("certificate.digest", ("x" * LONGEST_NAME,), ("x" * (LONGEST_NAME + 1),)),
        ("certificate.bounds.0.most", (-1, 1), (-1.001, 1.001)),
        ("certificate.bounds.0.value", (-1, 1), (-1.001, 1.001)),
        ("certificate.bounds.0.groups", ({}, {"a": -1}, {"a": 1}), ({"a": -1.001}, {"a": 1.001})),
        ("attempts.0.delta", (1e-9, 0.999), (0, 1)),
        ("attempts.0.examples", (1, MOST_EXAMPLES), (0, MOST_EXAMPLES + 1)),
        ("attempts.0.point", (0, MOST_EXAMPLES, None), (-1, MOST_EXAMPLES + 1)),
        ("attempts.0.asked", ("x" * LONGEST_TEXT,), ("x" * (LONGEST_TEXT + 1),)),
        ("reference.examples", (1, MOST_EXAMPLES), (0, MOST_EXAMPLES + 1)),
        ("reference.exits", ({}, {"a": 0}, {"a": MOST_EXAMPLES}), ({"a": -1}, {"a": MOST_EXAMPLES + 1})),
        ("reference.edges", ([-1e18, 1e18],), ([-1.001e18, 0], [0, 1.001e18], [0.5, 0.5])),
        ("reference.counts", ({}, {"a": [0, 0, MOST_EXAMPLES]}), ({"a": [0, 0, -1]}, {"a": [0, 0, MOST_EXAMPLES + 1]})),
        ("reference.wrong", (0, MOST_EXAMPLES, None), (-1, MOST_EXAMPLES + 1)),
        ("tuned", ({"a": nested(DEEPEST)},), ({"a": nested(DEEPEST + 1)},)),
        ("networks", ({"a": "x" * LONGEST_TEXT},), ({"a": "x" * (LONGEST_TEXT + 1)},)),
        ("costs.batch", (1, 2**63 - 1, None), (0,)),
        ("costs.device", ("", "x" * LONGEST_TEXT), ("x" * (LONGEST_TEXT + 1),)),
        ("costs.stages.c.trunk", (9.0 * (1 + 1e-11),), (9.0 * (1 + 1e-8),)),
    ],
)
def test_numbers_and_texts_are_taken_up_to_their_ends_and_not_beyond(
    content: dict[str, Any], place: str, taken: tuple[Any, ...], beyond: tuple[Any, ...]
) -> None:
    for values, fine in ((taken, True), (beyond, False)):
        for value in values:
            changed = copy.deepcopy({key: each for key, each in content.items() if key != "policies"})
            changed["policies"] = content["policies"]
            container, key = at(changed, place)
            container[key] = value
            if place == "reference.edges":
                changed["reference"]["counts"] = {}
            if fine:
                assert deployment_from_plain(changed, "here")
            else:
                with pytest.raises(InputError, match=r"^here"):
                    deployment_from_plain(changed, "here")


@pytest.mark.parametrize("key", ["topology", "point", "costs", "policies", "certificate", "reference", "tuned"])
def test_nothing_may_be_missing_and_nothing_strange_be_there(content: dict[str, Any], tmp_path: Path, key: str) -> None:
    spoilt = {name: value for name, value in content.items() if name != key}
    assert key in refused(tmp_path / "policy.json", json.dumps(spoilt))
    assert "a policy file's keys" in refused(tmp_path / "policy.json", json.dumps({**content, f"{key}s": 1}))


def test_the_description_is_nobodys_business(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    for told in (None, [1, 2], {"x": {"y": "z"}}):
        path.write_text(json.dumps({**content, "description": told}), "utf-8")
        assert read_deployment(path).point == content["point"]


# --- whatever is changed, it routes or is refused

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 0.5, -0.5, 1e18, -1e18, 1e100, 2**62, -(2**62), "", "x", "inf", "-inf", "nan"),
    *([], {}, [[]], [1, 2, 3], [0], {"map": []}, {"array": "float64", "shape": [0], "values": []}),
    {"type": "ConstantRules", "action": {"array": "int64", "shape": [1], "values": [9]}},
)


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*way, key)
        yield from places(item, (*way, key))


def spoil(content: Any, where: list[tuple[Any, ...]], rng: random.Random) -> Any:
    """A copy in which one to three things are otherwise; of a long array mostly the head is touched."""
    found = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        way = rng.choice(where)
        container: Any = found
        try:
            for key in way[:-1]:
                container = container[key]
            old = container[way[-1]]
        except (KeyError, IndexError, TypeError):
            continue
        act = rng.randrange(6)
        if act == 0:
            del container[way[-1]]
        elif act == 1 and isinstance(old, int | float) and not isinstance(old, bool):
            container[way[-1]] = rng.choice((old + 1, old - 1, -old, old * 1e9, old * 10, float(old)))
        elif act == 2 and isinstance(container, list):
            container.insert(way[-1], copy.deepcopy(rng.choice((old, *ODD))))
        elif act == 3 and isinstance(old, list) and old:
            rng.choice((old.reverse, old.clear, old.pop, lambda o=old: o.extend(o), lambda o=old: rng.shuffle(o)))()
        elif act == 4:
            other: Any = found
            for key in rng.choice(where):
                try:
                    other = other[key]
                except (KeyError, IndexError, TypeError):
                    break
            container[way[-1]] = copy.deepcopy(other) if len(json.dumps(other)) < 10_000 else None
        else:
            container[way[-1]] = copy.deepcopy(rng.choice(ODD))
    return found


def use(path: Path, outputs: Outputs) -> bool:
    """Whether the file was taken; if so it has to do whatever a policy file is for."""
    try:
        found: Deployment | None = read_deployment(path)
    except InputError as error:
        said = str(error)
        found = None
    if found is None:
        assert "\n" not in said
        assert len(said) < 2000 + len(str(path))
        return False
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # numbers may overflow
        assert described(found)
        try:
            check_outputs(found.fitted.sweep, outputs, "test")
        except InputError:
            return True
        routings = found.fitted.route(outputs)
        assert len(routings) == len(found.fitted.names) == len(found.expected.cost)
        for routing in routings:
            assert routing.mean_cost >= 0
            assert 0 <= routing.error <= 1
        if all(stage.logits is not None for stage in outputs.stages):
            live = live_cascade(found.fitted, found.point)
            for plan in live.plans:
                logits = [outputs.stages[s].logits for s in live.routes.paths[plan.entry]]
                action, answer = plan.decide[plan.entry](logits)  # type: ignore[arg-type]
                assert len(action) == len(answer) == len(outputs)
    return True


@pytest.fixture(scope="module", params=["logits", "answers"])
def subject(request: Any, routes_of: Any, world: Any, answering: Any) -> tuple[dict[str, Any], Outputs]:
    outputs, test = world(300, (1.0, 3.0)), world(20, (1.0, 3.0), part="test")
    if request.param == "answers":
        outputs, test = (answering(part, ranks=2, measured=["confidence"]) for part in (outputs, test))
    policies = tuple(POLICIES) if request.param == "logits" else FAMILIES
    there = deployed(outputs, routes_of(2), Target(error_increase=0.3), policies)
    plain: dict[str, Any] = json.loads(json.dumps(deployment_to_plain(there)))
    return plain, test


SPOILT = int(os.environ.get("OFFRAMP_SPOILT_FILES", "60"))
"""Files tried of each kind; many thousands were, once."""


def test_a_file_changed_anywhere_routes_or_is_refused(subject: tuple[dict[str, Any], Outputs], tmp_path: Path) -> None:
    content, outputs = subject
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(content), "utf-8")
    assert use(path, outputs)
    every = list(places(content))
    # half of the changes where the structure is, not in the middle of a long array
    upper = [way for way in every if not (isinstance(way[-1], int) and way[-1] > 2)]
    taken = 0
    for seed in range(SPOILT):
        rng = random.Random(seed)
        path.write_text(json.dumps(spoil(content, rng.choice((every, upper)), rng)), "utf-8")
        taken += use(path, outputs)
    assert 0 < taken < SPOILT


def test_a_file_cut_or_changed_by_bytes_routes_or_is_refused(
    subject: tuple[dict[str, Any], Outputs], tmp_path: Path
) -> None:
    content, outputs = subject
    whole = json.dumps(content).encode()
    path = tmp_path / "policy.json"
    rng = random.Random(0)
    for _ in range(SPOILT // 3):
        cut = rng.randrange(len(whole))
        path.write_bytes(whole[:cut])
        assert not use(path, outputs)
        changed = bytearray(whole)
        for _ in range(rng.choice((1, 3, 30))):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        path.write_bytes(bytes(changed))
        use(path, outputs)


def test_digits_of_every_array_are_looked_at(subject: tuple[dict[str, Any], Outputs], tmp_path: Path) -> None:
    """A NaN put into any array of numbers, and an index far beyond into any of whole numbers, is refused, but where
    NaN means something."""
    content, outputs = subject
    path = tmp_path / "policy.json"
    arrays = [way for way in places(content) if way[-1] == "values"]
    assert len(arrays) > 20
    let_through = set()
    for way in arrays:
        spoilt = copy.deepcopy(content)
        array: Any = spoilt
        for key in way[:-1]:
            array = array[key]
        if not array["values"]:
            continue
        array["values"][0] = "nan" if array["array"] == "float64" else 2**60
        path.write_text(json.dumps(spoilt), "utf-8")
        if use(path, outputs):
            let_through.add(re.sub(r"\.\d+", "", ".".join(map(str, way))))
    # stages that give answers have no temperature
    assert let_through <= {"policies.sweep.reader.temperature.values"}
