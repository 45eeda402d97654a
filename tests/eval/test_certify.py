"""Certificates: what is asked for, which examples will do, and the command on real policy files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from offramp.cascades.files.datafolder import keep_back, read_folder
from offramp.cascades.files.embedded import EMBEDDED
from offramp.cascades.files.policy import Attempt, Deployment, policies_digest, read_deployment, write_deployment
from offramp.cascades.graph.routing import Routing, largest
from offramp.cascades.graph.topology import parse_topology, unroll
from offramp.cascades.learning.answers import LOSSES
from offramp.cascades.learning.outcomes import single_outcomes
from offramp.cascades.learning.points import Mixture, digest_of, fit_points
from offramp.cascades.learning.recipe import Recipe
from offramp.cascades.learning.targets import Target, expected_of, solve
from offramp.eval.certify import NONE_CERTIFIED, main
from offramp.eval.guarantees.bounds import binomial_p, paired_p
from offramp.eval.guarantees.certificate import (
    BELOW,
    Aim,
    Done,
    Points,
    _refuse_too_few,
    _what_would_do,
    _with_point,
    aim_of,
    attempt_of,
    sequence_of,
    tried,
    within_budget,
)
from offramp.eval.guarantees.certificate import certify as certify_policy
from offramp.eval.guarantees.claims import Claim, cost_p, fixed_sequence, risk_bound, risk_p
from offramp.eval.guarantees.holdout import certification_examples, groups_of, pooled, refuse_repeated, shared_examples
from offramp.eval.guarantees.shown import none_text
from offramp.features.errors import InputError
from offramp.features.outputs import Outputs, Stage

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""

ROOT = Path(__file__).resolve().parents[2]
ROWS, POINTS, KEPT = 2400, 6, 0.5
Bools = NDArray[np.bool_]


# --- what is asked for


def aim(increase: float | None = None, error: float | None = None, walk: str = "") -> Aim:
    asked = {"increase": increase, "error": error}
    return Aim(tuple(Claim(risk, most) for risk, most in asked.items() if most is not None), walk)


@pytest.mark.parametrize(
    ("flags", "target", "wanted"),
    [
        ({}, Target(error_increase=0.01), aim(0.01, walk="risk")),
        ({}, Target(accuracy=0.75), aim(error=0.25, walk="risk")),
        ({}, Target(error_increase=0.0, accuracy=0.75), aim(0.0, 0.25, walk="risk")),
        ({"risk": "error"}, Target(error_increase=0.0, accuracy=0.75), aim(error=0.25, walk="risk")),
        ({"risk": "error"}, Target(error_increase=0.0), Aim((Claim("error", None),))),
        ({}, Target(budget=5.0), Aim((Claim("increase", None),), "cost", 5.0)),
        ({"risk": "error"}, Target(budget=5.0), Aim((Claim("error", None),), "cost", 5.0)),
        ({"target": 0.02}, Target(budget=5.0), aim(0.02)),
        ({}, Target(budget=5.0, accuracy=0.75), aim(error=0.25)),
        ({}, Target(budget=5.0, accuracy=0.75, error_increase=0.01), aim(0.01, 0.25)),
        ({"risk": "increase"}, Target(budget=5.0, accuracy=0.75), Aim((Claim("increase", None),))),
        ({}, Target(budget=5.0, shares={"r": 0.1}), Aim((Claim("increase", None),))),
        ({}, Target(error_increase=0.01, shares={"r": 0.1}), aim(0.01)),
        ({"target": 0.02}, Target(error_increase=0.01), aim(0.02, walk="risk")),
        ({"target": 0.1, "risk": "error"}, Target(error_increase=0.01), aim(error=0.1, walk="risk")),
    ],
)
def test_the_policys_own_target_is_the_default(flags: dict[str, Any], target: Target, wanted: Aim) -> None:
    assert aim_of(target, flags.get("risk"), flags.get("target")) == wanted


@pytest.mark.parametrize("bound", [0.0, -0.1, 1.0])
def test_an_error_that_can_not_be_is_refused(bound: float) -> None:
    with pytest.raises(InputError, match="an error between 0 and 1"):
        aim_of(Target(budget=1.0), "error", bound)


def test_a_risk_that_there_is_not_is_refused_by_its_name() -> None:
    with pytest.raises(InputError, match="risk: expected a risk among increase, error, found 'luck'"):
        aim_of(Target(budget=1.0), "luck", 0.1)


def test_too_few_to_certify_even_what_is_never_wrong_are_refused_by_hand() -> None:
    """0.99^309 = 0.0448 and 0.99^308 = 0.0453 about 0.9 delta; with groups 0.99^349 = 0.02997 is below 0.6 delta."""
    for least, grouped in ((309, False), (349, True)):
        _refuse_too_few(least, aim(0.0, 0.01), 0.05, grouped)
        with pytest.raises(InputError, match=f"to certify an error of 0.01 at delta 0.05, found {least - 1}") as caught:
            _refuse_too_few(least - 1, aim(0.0, 0.01), 0.05, grouped)
        needed = int(str(caught.value).split("at least ")[1].split()[0])
        assert least <= needed <= 1.04 * least
    with pytest.raises(InputError, match="more than a million examples, to certify"):
        _refuse_too_few(5000, aim(error=1e-6), 0.05, False)
    _refuse_too_few(50, aim(increase=0.001), 0.05, False)  # an increase may be below 0: none is hopeless


def test_what_was_seen_and_how_many_would_do_is_by_hand() -> None:
    n = 100
    wrong = [np.arange(n) < k for k in (1, 9, 4)]
    base, cost = np.arange(n) < 6, [np.full(n, c) for c in (3.0, 1.0, 2.0)]
    # an error of at most 0.1: 0.01 at the first point, and examples that come out alike, till the tail is below
    found = _what_would_do(wrong, cost, base, aim(error=0.1), 0.045)
    assert found["best"] == (0.01,)
    needed = found["needed"]
    assert (
        binomial_p(round(needed / n), needed, 0.1)
        <= 0.045
        < binomial_p(round(0.8 * needed / n), int(0.8 * needed), 0.1)
    )
    # over the base: -0.05, 0.03 and -0.02
    found = _what_would_do(wrong, cost, base, aim(increase=0.0, error=0.1), 0.045)
    assert found["best"] == pytest.approx((-0.05, 0.01))
    both = [_what_would_do(wrong, cost, base, one, 0.045)["needed"] for one in (aim(0.0), aim(error=0.1))]
    assert found["needed"] == max(both)
    assert _what_would_do(wrong, cost, base, aim(increase=-0.06), 0.045)["needed"] is None
    # one limit that none keeps to is enough
    assert _what_would_do(wrong, cost, base, aim(increase=-0.06, error=0.1), 0.045)["needed"] is None
    # the first point is meant, at which the walk stopped, whatever the others would need
    apart = [(np.arange(n) >= 50) & (np.arange(n) < 54), wrong[2]]
    first, other = (_what_would_do(some, cost, base, aim(increase=0.0), 0.045) for some in (apart, apart[1:]))
    assert first == _what_would_do(apart[:1], cost, base, aim(increase=0.0), 0.045)
    assert other["needed"] < first["needed"]
    assert _what_would_do(wrong, cost, base, Aim((Claim("increase", None),), "cost", 2.0), 0.025) == {"best": (3.0,)}
    assert _what_would_do([], [], base, aim(error=0.1), 0.045) == {}


def test_attempts_on_the_same_examples_add_up_to_certainty_at_most() -> None:
    one = Attempt("aa", 100, 0.3, "p", "error at most 0.1", None)
    assert tried([one], one) == tried([replace(one, digest="bb"), one], one) == []
    (said,) = tried([one, replace(one, digest="bb"), replace(one, delta=0.05)], one)
    assert "2 attempts" in said
    assert "at most 35 %." in said
    (said,) = tried([one, replace(one, delta=0.05), replace(one, digest="bb")], one)  # others came after
    assert "2 attempts" in said
    (said,) = tried([one] * 4, one)
    assert "at most 100 %." in said


# --- whose examples they are


def logits(n: int, seed: int, first: int = 0) -> Outputs:
    rng = np.random.default_rng(seed)
    stages = tuple(Stage(name, logits=rng.normal(size=(n, 3)).astype(np.float32)) for name in "ab")
    return Outputs(stages, rng.integers(0, 3, n), np.arange(first, first + n), "fit", 3)


def answers(n: int, seed: int, ids: NDArray[Any]) -> Outputs:
    rng = np.random.default_rng(seed)
    stages = (Stage("a", answers=rng.integers(0, 2, (n, 1)), measured={"confidence": np.full(n, 0.5)}),)
    return Outputs(stages, rng.integers(0, 2, n), ids, "fit", 2)


def test_logits_tell_an_example_whatever_it_is_called() -> None:
    old, new = logits(50, 0), logits(50, 1)
    assert shared_examples(new, old) == []
    renamed = replace(old.take(np.array([4, 7])), ids=np.array(["x", "y"]))
    assert shared_examples(pooled([replace(new, ids=new.ids.astype(str)), renamed]), old) == ["x", "y"]


def test_answers_need_the_id_too_and_row_numbers_are_no_ids() -> None:
    named = np.array([f"image {i}" for i in range(60)])
    old, new = answers(60, 0, named), answers(60, 1, named)
    alike = (old.labels == new.labels) & (old.stages[0].answers == new.stages[0].answers)[:, 0]
    assert shared_examples(new, old) == named[alike].tolist()
    others = replace(old, ids=np.array([f"other {i}" for i in range(60)]))
    assert shared_examples(others, old) == []
    rows = np.arange(60)
    assert 0 < alike.mean() < 0.5
    assert shared_examples(replace(new, ids=rows), replace(old, ids=rows)) == []
    assert len(shared_examples(replace(old, ids=rows), replace(old, ids=rows))) == 60


@pytest.mark.parametrize(("alike", "told"), [(29, 0), (30, 30), (60, 60)])
def test_of_row_numbers_half_the_answers_have_to_be_the_same(alike: int, told: int) -> None:
    old = answers(60, 0, np.arange(60))
    (stage,) = old.stages
    other = np.where(np.arange(60)[:, None] < alike, stage.answers, 1 - np.asarray(stage.answers))
    assert len(shared_examples(replace(old, stages=(replace(stage, answers=other),)), old)) == told


def test_pooled_parts_hold_all_examples_once() -> None:
    one, other = logits(4, 0), logits(3, 1, first=4)
    both = pooled([one, other])
    assert (both.part, len(both), both.ids.tolist()) == ("certify", 7, list(range(7)))
    np.testing.assert_array_equal(both.stages[1].logits[4:], other.stages[1].logits)  # type: ignore[index]
    assert pooled([one]).part == "certify"


def test_groups_are_labels_or_stand_in_a_file(tmp_path: Path) -> None:
    outputs = logits(5, 0, first=10)
    assert groups_of("class", outputs).tolist() == outputs.labels.astype(str).tolist()
    path = tmp_path / "groups.csv"
    path.write_text('group,more,id\nnight,1,10\nday,1,11\nday,1,12\n"a, b",1,13\nday,1,14\nday,1,99\n')
    assert groups_of(str(path), outputs).tolist() == ["night", "day", "day", "a, b", "day"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"id,group\n10,a\n", "a group for every example, found none for 4, such as id 11"),
        (b"id,group\n10,a\n10,b\n", "one group for '10', found 'a' and 'b'"),
        (b"id,grp\n10,a\n", "columns id and group, found id, grp"),
        (b"", "columns id and group, found nothing"),
        (b"id,group\n10\n", "an id and a group of one line"),
        (b'id,group\n10,"a\nb"\n', "an id and a group of one line"),
        (b"id,group\n\xff,a\n", "text in UTF-8"),
    ],
)
def test_a_file_of_groups_that_is_not_usable_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "groups.csv"
    path.write_bytes(text)
    with pytest.raises(InputError, match=message):
        groups_of(str(path), logits(5, 0, first=10))
    with pytest.raises(InputError, match="No such file"):
        groups_of(str(tmp_path / "none.csv"), logits(5, 0))


# --- the command


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of some real examples, another of new ones, and policies fitted on the first."""
    folder = tmp_path_factory.mktemp("certify")
    for name, part, start in (("data", "fit", 0), ("new", "test", 5000)):
        (folder / name).mkdir()
        shutil.copy(EMBEDDED / "cifar10" / "costs.json", folder / name)
        with np.load(EMBEDDED / "cifar10" / f"{part}.outputs.npz") as arrays:
            rows = {key: arrays[key][start : start + ROWS] for key in arrays.files}
            np.savez(folder / name / ("outputs.npz" if name == "new" else "fit.outputs.npz"), **rows)
    with np.load(EMBEDDED / "cifar10" / "test.outputs.npz") as arrays:
        np.savez(folder / "data" / "test.outputs.npz", **{key: arrays[key][:300] for key in arrays.files})
    data = keep_back(read_folder(folder / "data"), KEPT, 0)
    routes = unroll(parse_topology("a_g_r", tuple(data.costs.stages)), data.costs)
    fit = data.parts["fit"].of(routes.stages)
    how = Recipe(topology="a_g_r").fit_settings
    fitted, picking = fit_points(fit, None, routes, POINTS, how)
    reference = float(picking.there.wrong[:, largest(routes)].mean())
    targets = {
        "policy": Target(error_increase=0.04),
        "strict": Target(error_increase=0.0),
        "budget": Target(budget=1.0),
        "accuracy": Target(accuracy=0.83),
    }
    for name, target in targets.items():
        solved, point = solve(target, fitted, picking.routings, reference)
        deployment = Deployment(
            solved,
            point,
            "a_g_r",
            data.costs,
            target,
            expected_of(solved, picking.routings, reference),
            str(folder / "data"),
            0,
            KEPT,
            {part: digest_of(outputs) for part, outputs in data.parts.items()},
            fit.classes,
        )
        write_deployment(deployment, folder / f"{name}.json")
    return folder


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def certify(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """certify(policy, *flags), on a copy: exit code and what was printed."""

    def run(policy: str, *flags: object) -> tuple[int, str, str]:
        own = tmp_path / f"{policy}.json"
        if not own.exists():
            shutil.copy(home / own.name, own)
        code = main(["--policy", str(own), "--out", str(tmp_path / "out.json"), *map(str, flags)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def routed(home: Path, certified: Deployment) -> tuple[Routing, Bools, Outputs]:
    """The certified point on the examples that were kept back, worked out anew."""
    routes = certified.fitted.sweep.routes
    outputs = keep_back(read_folder(home / "data"), KEPT, 0).parts["certify"].of(routes.stages)
    alone = single_outcomes(outputs, LOSSES["top1"], certified.fitted.sweep.reader.calibration)
    base = alone.wrong[:, largest(routes)] != 0
    points = Points(certified.fitted, outputs)
    return points.routing(points.mixture(certified.point)), base, outputs


def test_a_policy_is_certified_on_what_was_kept_back(certify: Run, home: Path, tmp_path: Path) -> None:
    code, out, err = certify("policy")
    assert (code, err) == (0, "")
    certified = read_deployment(tmp_path / "out.json")
    certificate, reference = certified.certificate, certified.reference
    assert certificate is not None
    assert reference is not None
    routing, base, outputs = routed(home, certified)
    worse, better = int((routing.wrong & ~base).sum()), int((base & ~routing.wrong).sum())  # type: ignore[operator]
    assert certificate.examples == len(outputs) == reference.examples == ROWS * KEPT
    assert certificate.digest == digest_of(outputs) == certified.parts["certify"]
    (bound,) = certificate.bounds
    assert (bound.risk, bound.most, certificate.delta) == ("increase", 0.04, 0.05)
    assert bound.value == pytest.approx((worse - better) / len(outputs))
    assert (certificate.point, certificate.policies) == (certified.point, policies_digest(certified.fitted))
    points = Points(certified.fitted, outputs)
    assert certificate.cost == pytest.approx(points.cost(points.mixture(certified.point)).mean())
    assert paired_p(worse, better, len(outputs), 0.04, 0.0009) <= 0.045
    assert certificate.cost < certificate.cost_bound < 1.4 * certificate.cost
    assert sum(reference.exits.values()) == len(outputs)
    assert "holds together with probability at least 95 %" in out
    assert f"at most {100 * bound.most:+.2f}" in out
    assert str(tmp_path / "out.json") in out
    assert max(map(len, out.splitlines()[:-1])) <= 100


def test_the_points_before_the_certified_one_pass_and_the_next_does_not(
    certify: Run, home: Path, tmp_path: Path
) -> None:
    assert certify("policy", "--target", "0.03")[0] == 0
    certified = read_deployment(tmp_path / "out.json")
    expected, sweep = certified.expected, certified.fitted.sweep
    assert sweep.routes.alone is not None
    alone = float(sweep.routes.alone.max())
    order = fixed_sequence(expected.cost, expected.error, expected.reference + 0.03, alone).tolist()
    _, base, outputs = routed(home, certified)
    points = Points(certified.fitted, outputs)
    passes = [risk_p(points.wrong(points.mixture(i)), base, 0.03, 0.045) <= 0.045 for i in order]
    last = order.index(certified.point)
    assert all(passes[: last + 1])
    assert last + 1 == len(order) or not passes[last + 1]


def test_the_file_itself_is_written_without_out_and_says_when_it_is_done_again(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shutil.copy(home / "policy.json", tmp_path / "own.json")
    assert main(["--policy", str(path)]) == 0
    assert "these very examples" not in capsys.readouterr().out
    first = read_deployment(path)
    assert main(["--policy", str(path)]) == 0
    assert "these very examples" not in capsys.readouterr().out  # the same again is no other attempt
    assert read_deployment(path).certificate == first.certificate
    assert read_deployment(path).point == first.point
    assert main(["--policy", str(path), "--delta", "0.1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 attempts were made on these very examples, counting this one." in said
    assert "wrong with a probability of at most 15 %" in said


def test_where_none_can_be_certified_it_says_how_many_would_do_and_notes_the_attempt(
    certify: Run, home: Path, tmp_path: Path
) -> None:
    code, out, err = certify("strict", "--delta", "0.001", "--target", "-0.003")
    assert (code, err) == (NONE_CERTIFIED, "")
    assert "None can be certified" in out
    assert "would be needed" in " ".join(out.split()) or "would not help" in " ".join(out.split())
    assert not (tmp_path / "out.json").exists()
    before, after = read_deployment(home / "strict.json"), read_deployment(tmp_path / "strict.json")
    assert replace(after, attempts=()).certificate is None
    assert (before.attempts, after.point) == ((), before.point)
    (attempt,) = after.attempts
    assert (attempt.delta, attempt.point, attempt.asked) == (0.001, None, "increase at most -0.003")
    assert (attempt.digest, attempt.examples) == (after.parts["certify"], ROWS * KEPT)
    _, out, _ = certify("policy", "--target=-0.5")
    assert "more of them would not help" in " ".join(out.split())


def test_all_attempts_are_kept_and_their_deltas_add_up(certify: Run, home: Path, tmp_path: Path) -> None:
    """Those that failed, those on a copy, and those on other examples, which do not add to these."""
    assert certify("policy", "--target=-0.5")[0] == NONE_CERTIFIED
    assert certify("policy", "--data", home / "new", "--target", "0.06")[0] == 0
    assert "these very examples" not in (text := certify("policy", "--data", home / "new", "--target", "0.06")[1]), text
    code, out, _ = certify("policy", "--target", "0.04", "--delta", "0.1")
    assert code == 0
    assert "at most 15 %" in " ".join(out.split())
    for name in ("out.json", "policy.json"):
        attempts = read_deployment(tmp_path / name).attempts
        assert [(a.delta, a.asked) for a in attempts] == [
            (0.05, "increase at most -0.5"),
            (0.05, "increase at most 0.06"),
            (0.1, "increase at most 0.04"),
        ]
        assert attempts[0].digest == attempts[2].digest != attempts[1].digest
        assert [a.point is None for a in attempts] == [True, False, False]
    assert read_deployment(tmp_path / "policy.json").certificate is None  # what was certified is in the other file


def test_an_attempt_that_can_not_be_put_down_is_said(home: Path, tmp_path: Path, capsys: Any) -> None:
    own = tmp_path / f"{250 * 'x'}.json"  # there is no room for a longer name, which a file has while it is written
    shutil.copy(home / "policy.json", own)
    assert main(["--policy", str(own), "--out", str(tmp_path / "out.json")]) == 0
    assert "could not be put down in" in capsys.readouterr().out
    assert len(read_deployment(tmp_path / "out.json").attempts) == 1
    assert main(["--policy", str(own), "--out", str(tmp_path / "out.json"), "--target=-0.5"]) == NONE_CERTIFIED
    assert "could not be put down in" in capsys.readouterr().out
    assert read_deployment(own).attempts == ()


def test_a_certificate_goes_with_its_point_and_its_policies_alone(certify: Run, tmp_path: Path) -> None:
    assert certify("policy")[0] == 0
    content = json.loads((tmp_path / "out.json").read_text())
    for key, value, message in (
        ("point", 0, "point: expected the certificate's point"),
        ("policies", content["policies"] | {"coin": 6}, "policies: expected the policies that the certificate"),
    ):
        (tmp_path / "edited.json").write_text(json.dumps(content | {key: value}))
        with pytest.raises(InputError, match=message):
            read_deployment(tmp_path / "edited.json")
    (tmp_path / "edited.json").write_text(json.dumps(content | {"point": 0, "certificate": None}))
    assert read_deployment(tmp_path / "edited.json").certificate is None


def test_a_budget_is_certified_by_walking_up_to_it(certify: Run, home: Path, tmp_path: Path) -> None:
    code, out, _ = certify("budget")
    before, after = read_deployment(home / "budget.json"), read_deployment(tmp_path / "out.json")
    assert code == 0
    certificate = after.certificate
    assert certificate is not None
    assert certificate.cost < certificate.cost_bound == 1.0
    assert "What was picked for the budget without certainty costs" in out
    routing, base, outputs = routed(home, after)
    points = Points(after.fitted, outputs)
    steps, own = sequence_of(before, aim_of(before.target), points, np.inf)
    assert own == points.mixture(before.point)
    chosen = points.mixture(after.point)
    last = steps.index(chosen)
    costs = [points.cost(m) for m in steps]
    span = float(routing.routes.cost.min()), float(routing.routes.cost.max())
    p = [cost_p(x, span, 1.0, 0.025) for x in costs]
    assert max(p[: last + 1]) <= 0.025 < p[last + 1]
    assert certificate.cost == costs[last].mean()
    wrong = np.asarray(np.asarray(routing.wrong) != 0)
    assert certificate.bounds[0].most == risk_bound(wrong, base, 0.025 / len(steps))
    expected = [(1 - m.share) * before.expected.cost[m.one] + m.share * before.expected.cost[m.other] for m in steps]
    np.testing.assert_allclose(expected, [before.expected.cost.min(), *(1 - share for share in BELOW)], rtol=1e-9)
    assert (np.diff(expected) > 0).all()
    assert after.expected.cost[after.point] == pytest.approx(expected[last])
    assert len(after.expected.cost) == len(after.fitted.names)
    assert main(["--policy", str(tmp_path / "out.json")]) == 0  # again: the same, and no other attempt
    again = read_deployment(tmp_path / "out.json")
    assert (again.certificate, again.attempts) == (certificate, after.attempts)


def test_a_budget_and_an_error_are_judged_at_their_own_point(certify: Run, home: Path, tmp_path: Path) -> None:
    code, out, _ = certify("budget", "--target", "0.06")
    before, after = read_deployment(home / "budget.json"), read_deployment(tmp_path / "out.json")
    assert code == 0
    assert after.point == before.point
    assert after.certificate is not None
    met = after.certificate.cost_bound <= 1.0
    assert ("is certified too" in out, "is not certified" in out) == (met, not met)


def test_a_budget_that_is_too_low_for_certainty_is_told(certify: Run, home: Path, tmp_path: Path) -> None:
    low = read_deployment(home / "budget.json")
    tight = float(low.expected.cost.min()) * 1.01
    write_deployment(replace(low, target=Target(budget=tight)), tmp_path / "budget.json")
    code, out, _ = certify("budget", "--delta", "0.001")
    if code == 0:  # nothing but the cheapest stage: its cost is known
        certificate = read_deployment(tmp_path / "out.json").certificate
        assert certificate is not None
        assert certificate.cost_bound == tight
    else:
        assert "None can be certified to cost at most" in out
    write_deployment(replace(low, target=Target(budget=tight / 2)), tmp_path / "budget.json")
    code, out, _ = certify("budget")
    assert code == NONE_CERTIFIED
    assert "every point is expected to cost more" in " ".join(out.split())


def test_two_limits_on_the_error_are_certified_together(certify: Run, home: Path, tmp_path: Path) -> None:
    both = Target(error_increase=0.04, accuracy=0.83)
    write_deployment(replace(read_deployment(home / "policy.json"), target=both), tmp_path / "policy.json")
    code, out, _ = certify("policy")
    assert code == 0
    after = read_deployment(tmp_path / "out.json")
    assert after.certificate is not None
    assert [(b.risk, b.most) for b in after.certificate.bounds] == [("increase", 0.04), ("error", pytest.approx(0.17))]
    routing, base, outputs = routed(home, after)
    wrong = np.asarray(np.asarray(routing.wrong) != 0)
    assert risk_p(wrong, base, 0.04, 0.045) <= 0.045
    assert risk_p(wrong, None, 0.17, 0.045) <= 0.045
    assert [b.value for b in after.certificate.bounds] == pytest.approx([wrong.mean() - base.mean(), wrong.mean()])
    assert "error over resnet's, points" in out
    assert "error, %" in out
    code, out, _ = certify("policy", "--groups", "class")
    assert code == 0
    bounds = read_deployment(tmp_path / "out.json").certificate.bounds  # type: ignore[union-attr]
    assert [list(b.groups) for b in bounds] == [[str(label) for label in range(10)]] * 2
    assert len(outputs) == ROWS * KEPT


def test_a_loss_is_called_by_its_name(certify: Run, home: Path, tmp_path: Path) -> None:
    found = read_deployment(home / "policy.json")
    fitted = replace(found.fitted, sweep=replace(found.fitted.sweep, loss="excess"))
    write_deployment(replace(found, fitted=fitted), tmp_path / "policy.json")
    code, out, _ = certify("policy")
    assert code == 0
    assert "excess error over resnet's, points" in out
    _, out, _ = certify("policy", "--target=-0.5")
    assert "an excess error at most -50 points over resnet's" in " ".join(out.split())


def test_a_mixtures_coins_are_tossed_anew_for_other_examples(home: Path) -> None:
    """So that what is certified is about the share that was asked for, and not about a row's own luck."""
    deployment = read_deployment(home / "policy.json")
    fitted, mixture = deployment.fitted, Mixture(0, 2, 0.5)
    data = keep_back(read_folder(home / "data"), KEPT, 0)
    here, there = (data.parts[part].of(fitted.sweep.routes.stages).take(slice(300)) for part in ("certify", "test"))
    one, other = Points(fitted, here), Points(fitted, there)
    assert (one.coin != other.coin).mean() > 0.99
    assert Points(fitted, here).coin.tolist() == one.coin.tolist()
    mean = (one.plain[0].cost + one.plain[2].cost) / 2
    np.testing.assert_allclose(one.cost(mixture), mean)
    went = one.coin < 0.5
    np.testing.assert_array_equal(one.routing(mixture).path, np.where(went, one.plain[2].path, one.plain[0].path))


def test_a_mixture_is_put_behind_the_points_once_and_none_of_one_point(home: Path) -> None:
    deployment = read_deployment(home / "policy.json")
    fitted, expected, number = deployment.fitted, deployment.expected, len(deployment.fitted.names)
    assert _with_point(fitted, expected, Mixture(2, 2, 0.0)) == (fitted, expected, 2)
    there = number - len(fitted.mixtures)
    assert _with_point(fitted, expected, fitted.mixtures[1]) == (fitted, expected, there + 1)
    more, told, point = _with_point(fitted, expected, Mixture(0, 2, 0.3125))
    assert (more.mixtures, point) == ((*fitted.mixtures, Mixture(0, 2, 0.3125)), number)
    for before, after in ((expected.cost, told.cost), (expected.error, told.error)):
        assert after[:-1].tolist() == before.tolist()
        assert after[-1] == pytest.approx((11 * before[0] + 5 * before[2]) / 16)
    assert _with_point(more, told, Mixture(0, 2, 0.3125)) == (more, told, number)


def test_within_a_budget_the_most_accurate_of_plain_points_is_mixed(home: Path) -> None:
    deployment = read_deployment(home / "budget.json")
    fitted, expected = deployment.fitted, deployment.expected
    plain = len(fitted.names) - len(fitted.mixtures)
    cost, error = expected.cost[:plain], expected.error[:plain]
    assert within_budget(fitted, expected, float(cost.min()) * 0.99) is None
    for budget in (float(cost.min()), 0.5, 1.0):
        found = within_budget(fitted, expected, budget)
        assert found is not None
        assert max(found.one, found.other) < plain
        spent, erring = ((1 - found.share) * x[found.one] + found.share * x[found.other] for x in (cost, error))
        assert spent <= budget * (1 + 1e-9)
        for i in np.flatnonzero(cost <= budget):
            for j in np.flatnonzero(cost > budget):
                share = (budget - cost[i]) / (cost[j] - cost[i])
                assert erring <= (1 - share) * error[i] + share * error[j] + 1e-9
            assert erring <= error[i] + 1e-9


def test_why_there_is_none_is_told_for_each_reason(home: Path) -> None:
    deployment = read_deployment(home / "policy.json")
    fitted, expected = deployment.fitted, deployment.expected
    base, one = np.zeros(1200, bool), fitted.route(keep_back(read_folder(home / "data"), KEPT, 0).parts["test"])[0]
    none = Done(0, None, fitted, expected, one, base, 3, 1.0)
    along = Aim((Claim("increase", None),), "cost", 1.5)

    def told(asked: Aim, **seen: Any) -> str:
        return none_text(replace(none, **seen), deployment, asked, 0.05)

    both = aim(0.01, 0.1, "risk")
    promise = "an error at most 1 points over resnet's and an error of at most 10 %"
    assert told(both) == f"No point can be certified for {promise}: none is cheaper than resnet alone."
    start = f"None can be certified for {promise} with 1,200 examples (delta 0.05)"
    assert told(both, best=(0.0, 0.0), needed=3400) == (
        f"{start}; about 3,400 would be needed if they came out like these."
    )
    tail = "on these, and more of them would not help."
    assert told(both, best=(0.0, 0.0), needed=1190) == (  # by a hair, and rounded
        f"{start}; a few more would be needed if they came out like these."
    )
    assert told(both, best=(0.01, 0.0)) == f"{start}: the safest point has 1.00 points over resnet's {tail}"
    assert told(both, best=(0.0, 0.125)) == f"{start}: the safest point has 12.50 % {tail}"
    assert told(both, best=(0.0, 0.0)) == f"{start}, nor with a million if they came out like these."
    start = "None can be certified for an error at most 0 points over resnet's with 1,200 examples (delta 0.05)"
    assert told(aim(0.0), best=(0.05,)) == f"{start}: the policy's point has 5.00 points over resnet's {tail}"
    start = f"None can be certified to cost at most 1.500 {deployment.costs.unit} on average (delta 0.05)"
    assert told(along) == f"{start}: every point is expected to cost more."
    assert told(along, best=(1.25,)) == f"{start}: on these 1,200 examples the cheapest that was tried costs 1.250."


def test_what_was_asked_is_put_down_in_words(home: Path) -> None:
    deployment = read_deployment(home / "policy.json")
    outputs = keep_back(read_folder(home / "data"), KEPT, 0).parts["test"].of(deployment.fitted.sweep.routes.stages)
    routing = deployment.fitted.route(outputs)[0]
    none = Done(3, None, deployment.fitted, deployment.expected, routing, np.zeros(len(outputs), bool), 1, 1.0)

    def asked(wanted: Aim, group: Any = None, **flags: Any) -> str:
        return attempt_of(deployment, outputs, wanted, 0.05, none, group, flags.get("groups")).asked

    assert asked(aim(0.01, 0.1, "risk")) == "increase at most 0.01; error at most 0.1"
    assert asked(Aim((Claim("error", None),), "cost", 2.5)) == "the least error; cost at most 2.5"
    assert asked(aim(0.01)) == f"increase at most 0.01; of point {deployment.point} alone"
    assert asked(aim(0.01, walk="risk"), outputs.labels, groups="class") == "increase at most 0.01; groups by class"
    some = np.array(["a", "b"] * (len(outputs) // 2), dtype=object)
    by_file = [asked(aim(0.01, walk="risk"), group, groups="g.csv") for group in (some, some[::-1], some)]
    assert by_file[0] == by_file[2] != by_file[1]  # who is where counts, and not the name of a file
    assert re.fullmatch(r"increase at most 0\.01; groups by a file, [0-9a-f]{16}", by_file[0])
    attempt = attempt_of(deployment, outputs, aim(0.01), 0.125, none)
    assert (attempt.digest, attempt.examples, attempt.delta) == (digest_of(outputs), len(outputs), 0.125)
    assert attempt.point is None  # none was certified, whatever stands there
    more = replace(deployment, fitted=replace(deployment.fitted, mixtures=()))
    assert attempt.policies == policies_digest(more.fitted)


def test_an_accuracy_is_certified_by_the_binomial_tail(certify: Run, home: Path, tmp_path: Path) -> None:
    code, out, _ = certify("accuracy")
    assert code == 0
    after = read_deployment(tmp_path / "out.json")
    assert after.certificate is not None
    routing, _, outputs = routed(home, after)
    (bound,) = after.certificate.bounds
    assert (bound.risk, bound.most) == ("error", pytest.approx(0.17))
    assert bound.value == pytest.approx(routing.error)
    assert binomial_p(int(np.sum(routing.wrong)), len(outputs), bound.most) <= 0.045
    assert "error, %" in out


def test_new_examples_and_classes(certify: Run, home: Path, tmp_path: Path) -> None:
    code, out, err = certify("policy", "--data", home / "new", "--groups", "class", "--target", "0.05")
    assert (code, err) == (0, "")
    certificate = read_deployment(tmp_path / "out.json").certificate
    assert certificate is not None
    assert certificate.examples == ROWS
    (increase,) = certificate.bounds
    assert list(increase.groups) == [str(label) for label in range(10)]
    assert all(increase.value - 0.1 < bound < 0.4 for bound in increase.groups.values())
    assert "these are the outputs of the policy's own networks is taken on trust" in " ".join(out.split())
    assert "nothing was learned from" not in out


def test_what_is_measured_in_the_groups_is_the_certified_points(home: Path) -> None:
    deployment = read_deployment(home / "policy.json")
    outputs = keep_back(read_folder(home / "data"), KEPT, 0).parts["certify"].of(deployment.fitted.sweep.routes.stages)
    group = np.array(["a"] * 500 + ["b"] * 680 + ["rare"] * 20, dtype=object)
    done = certify_policy(deployment, outputs, aim(0.06, 0.2, "risk"), 0.1, group)
    assert done.certificate is not None
    points = Points(done.fitted, outputs)
    order, _ = sequence_of(deployment, aim(0.06, 0.2, "risk"), points, np.inf)
    chosen = points.mixture(done.point)
    wrong, before = points.wrong(chosen), points.wrong(order[order.index(chosen) - 1])
    assert (wrong != before).any()  # or else it would not show whose they are
    assert done.sizes == {"a": 500, "b": 680, "rare": 20}
    over, alone = done.within
    for name in ("a", "b"):
        assert alone[name] == pytest.approx(wrong[group == name].mean())
        assert over[name] == pytest.approx(wrong[group == name].mean() - done.base[group == name].mean())
    assert set(alone) == set(over) == {"a", "b"}


def test_outputs_of_other_networks_are_refused(
    certify: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as eval.extract noted whose they are."""
    from offramp.cascades.files import provenance

    known = {name: {"spec": name, "weights": f"{name} 1", "preprocessing": "p"} for name in ("alexnet", "googlenet")}
    write_deployment(replace(read_deployment(home / "policy.json"), networks=known), tmp_path / "policy.json")
    noted: dict[str, Any] = {name: dict(each) for name, each in known.items()}
    monkeypatch.setattr(provenance, "networks_noted", lambda *_: noted)
    code, out, _ = certify("policy", "--data", home / "new", "--target", "0.06")
    assert code == 0
    assert "that nothing was learned from" in out
    assert "taken on trust" not in out
    noted["googlenet"]["weights"] = "others"
    code, _, err = certify("policy", "--data", home / "new", "--target", "0.06")
    assert code == 2
    assert "expected outputs of the policy's own networks, found other weights of googlenet" in err


@pytest.mark.parametrize(("copied", "found"), [(0, 0), (15, 0), (120, 122), (600, 600)])
def test_rows_of_answers_that_stand_among_the_learned_ones_tell_without_ids(copied: int, found: int) -> None:
    """Confidences tell most examples apart; some are alike by chance, and more than that is no chance."""
    rng = np.random.default_rng(0)

    def some(n: int) -> Outputs:
        sure = np.round(rng.beta(8, 1, n), 4)
        stages = (Stage("a", answers=rng.integers(0, 3, (n, 1)), measured={"confidence": sure}),)
        return Outputs(stages, rng.integers(0, 3, n), np.arange(n), "fit", 3)

    old, new = some(2000), some(600)
    rows = np.arange(copied)
    mixed = pooled([old.take(rows + 700), new.take(np.arange(copied, 600))]) if copied else new
    mixed = replace(mixed, ids=np.arange(600))
    (stage,) = old.stages
    short = {name: column.astype(np.float32) for name, column in stage.measured.items()}  # as another file holds them
    told = len(shared_examples(mixed, replace(old, stages=(replace(stage, measured=short),))))
    assert (told > 0) == (found > 0)
    assert told >= copied * (found > 0)


def test_groups_too_small_for_a_bound_are_named(certify: Run, home: Path, tmp_path: Path) -> None:
    outputs = keep_back(read_folder(home / "data"), KEPT, 0).parts["certify"]
    path = tmp_path / "groups.csv"
    names = ["rare" if i < 7 else "day" for i in range(len(outputs))]
    lines = [f"{one},{name}" for one, name in zip(outputs.ids.tolist(), names, strict=True)]
    path.write_text("\n".join(["id,group", *lines]))
    code, out, _ = certify("policy", "--groups", path, "--target", "0.06")
    assert code == 0
    assert "fewer than 30 examples: rare (7)" in out
    path.write_text("\n".join(["id,group", *(f"{one},{one}" for one in outputs.ids.tolist())]))
    code, _, err = certify("policy", "--groups", path)
    assert code == 2
    assert "a group of at least 30 examples" in err


def test_data_that_is_gone_is_said(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = tmp_path / "moved.json"
    write_deployment(replace(read_deployment(home / "policy.json"), data=str(tmp_path / "gone")), moved)
    assert main(["--policy", str(moved)]) == 2
    assert "or new examples: --data FOLDER" in capsys.readouterr().err
    assert main(["--policy", str(moved), "--data", str(home / "new")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "taken on trust" in said
    assert "nothing was learned from" not in said


def spoil(home: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The policy's data, its fit part changed."""
    shutil.copytree(home / "data", folder)
    with np.load(home / "data" / "fit.outputs.npz") as arrays:
        rows = {key: arrays[key].copy() for key in arrays.files}
    change(rows)
    np.savez(folder / "fit.outputs.npz", **rows)
    return folder


def test_examples_that_were_learned_from_are_refused(certify: Run, home: Path, tmp_path: Path) -> None:
    code, _, err = certify("policy", "--data", home / "data")
    assert code == 2
    assert "expected examples that nothing was learned from, found 1,200 of 2,700" in err
    fit = keep_back(read_folder(home / "data"), KEPT, 0).parts["fit"]
    some = tmp_path / "some"
    some.mkdir()
    shutil.copy(home / "data" / "costs.json", some)
    arrays = {stage.name: stage.logits[:1] for stage in fit.stages if stage.logits is not None}
    with np.load(home / "new" / "outputs.npz") as new:
        mixed = {name: np.concatenate([new[name][:100], arrays[name]]) for name in arrays}
        labels = np.append(new["labels"][:100], fit.labels[:1])
    np.savez(some / "outputs.npz", labels=labels, ids=np.array([f"n{i}" for i in range(101)]), **mixed)
    code, _, err = certify("policy", "--data", some)
    assert code == 2
    assert "found 1 of 101 that it was, such as id n100" in err


def test_the_very_fit_part_is_refused_by_its_digest_alone(home: Path, tmp_path: Path, capsys: Any) -> None:
    deployment = replace(read_deployment(home / "policy.json"), data=str(tmp_path / "gone"))
    write_deployment(deployment, tmp_path / "moved.json")
    fit = keep_back(read_folder(home / "data"), KEPT, 0).parts["fit"]
    (tmp_path / "again").mkdir()
    shutil.copy(home / "data" / "costs.json", tmp_path / "again")
    arrays = {stage.name: stage.logits for stage in fit.stages if stage.logits is not None}
    np.savez(tmp_path / "again" / "outputs.npz", labels=fit.labels, ids=fit.ids, **arrays)
    assert main(["--policy", str(tmp_path / "moved.json"), "--data", str(tmp_path / "again")]) == 2
    assert "nothing was learned from" in capsys.readouterr().err


def test_a_policys_data_that_changed_is_refused(home: Path, tmp_path: Path, capsys: Any) -> None:
    def relabel(rows: dict[str, Any]) -> None:
        rows["labels"][0] = (rows["labels"][0] + 1) % 10

    folder = spoil(home, tmp_path / "changed", relabel)
    write_deployment(replace(read_deployment(home / "policy.json"), data=str(folder)), tmp_path / "moved.json")
    assert main(["--policy", str(tmp_path / "moved.json")]) == 2
    assert "the very examples that the policy was made with" in capsys.readouterr().err


@pytest.mark.parametrize(("shared", "fine"), [(12, True), (13, False)])
def test_a_kept_part_may_repeat_one_in_a_hundred_of_what_was_learned_from(
    home: Path, tmp_path: Path, shared: int, fine: bool
) -> None:
    kept = keep_back(read_folder(home / "data"), KEPT, 0).parts
    assert len(kept["certify"]) == 1200

    def repeat(rows: dict[str, Any]) -> None:
        here, there = (np.flatnonzero(np.isin(rows["ids"], kept[part].ids))[:shared] for part in ("fit", "certify"))
        for key in rows.keys() - {"ids"}:
            rows[key][here] = rows[key][there]

    folder = spoil(home, tmp_path / "repeated", repeat)
    parts = keep_back(read_folder(folder), KEPT, 0).parts
    deployment = read_deployment(home / "policy.json")
    fitted = replace(deployment.fitted, examples=digest_of(parts["fit"]))
    digests = {part: digest_of(outputs) for part, outputs in parts.items()}
    deployment = replace(deployment, fitted=fitted, data=str(folder), parts=digests)
    if fine:
        outputs, note = certification_examples(deployment, None)
        assert (len(outputs), note, outputs.part) == (1200, [], "certify")
        return
    with pytest.raises(InputError, match="found 13 of 1,200 that it was, such as id") as caught:
        certification_examples(deployment, None)
    assert "a certify part that nothing was learned from" in str(caught.value)


def test_data_without_a_part_of_which_nothing_was_learned_is_refused(home: Path) -> None:
    deployment = replace(read_deployment(home / "policy.json"), kept=0.0)
    with pytest.raises(InputError, match="nothing was learned from: --data FOLDER, found no certify part"):
        certification_examples(deployment, None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--delta", "0"), "--delta: expected a number between 0 and 1"),
        (("--delta", "1"), "--delta: expected a number between 0 and 1"),
        (("--delta", "-0.05"), "--delta: expected a number between 0 and 1"),
        (("--delta", "nan"), "--delta: expected a finite number"),
        (("--delta", "1e-9"), "--delta: expected a number between 0 and 1, 1e-06 at least"),
        (("--target", "2"), "--target: expected a finite number, at least -1 and at most 1"),
        (("--risk", "loss"), "--risk: expected one of increase, error"),
        (("--risk", "error", "--target", "0"), "--target: expected an error between 0 and 1"),
        (("--risk", "error", "--target", "0.001"), "examples, to certify an error of 0.001 at delta 0.05, found 1,200"),
        (("--data", "nowhere"), "expected a data folder"),
        (("--data", "b_alexnet"), "expected the policy's stages, alexnet, googlenet, resnet"),
        (("--groups", "nowhere.csv"), "No such file"),
    ],
)
def test_bad_input_is_one_line(certify: Run, tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    code, out, err = certify("policy", *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not (tmp_path / "out.json").exists()


def test_where_nothing_can_be_written_is_told_before_the_examples_are_looked_at(
    home: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for out, found in ((tmp_path / "file" / "out.json", "a file on the way"), (tmp_path / "folder", "a folder called")):
        assert main(["--policy", str(home / "policy.json"), "--data", "nowhere", "--out", str(out)]) == 2
        assert (said := capsys.readouterr().err).startswith("error: --out")
        assert found in said


@pytest.mark.parametrize("content", [None, b"", b"[1, 2", b'{"format": "offramp policy", "version": 99}', b"\xff\xfe"])
def test_a_policy_file_that_is_none_is_refused(tmp_path: Path, content: bytes | None, capsys: Any) -> None:
    path = tmp_path / "policy.json"
    if content is not None:
        path.write_bytes(content)
    assert main(["--policy", str(path)]) == 2
    assert str(path) in capsys.readouterr().err
    assert main([]) == 2


def test_too_few_examples_are_refused(home: Path, tmp_path: Path, certify: Run) -> None:
    (tmp_path / "few").mkdir()
    shutil.copy(home / "data" / "costs.json", tmp_path / "few")
    with np.load(home / "new" / "outputs.npz") as new:
        np.savez(tmp_path / "few" / "outputs.npz", **{key: new[key][:40] for key in new.files})
    code, _, err = certify("policy", "--data", tmp_path / "few")
    assert code == 2
    assert "at least 50 examples to certify on, found 40" in err


def test_other_classes_are_refused(home: Path, tmp_path: Path, certify: Run) -> None:
    (tmp_path / "nine").mkdir()
    shutil.copy(home / "data" / "costs.json", tmp_path / "nine")
    with np.load(home / "new" / "outputs.npz") as new:
        nine = {key: new[key] % 9 if key == "labels" else new[key][:, :9] for key in new.files if key != "ids"}
        np.savez(tmp_path / "nine" / "outputs.npz", **nine)
    code, _, err = certify("policy", "--data", tmp_path / "nine")
    assert code == 2
    assert "expected outputs over the policies' 10 classes, found over 9" in err


def test_as_a_user_runs_it(home: Path, tmp_path: Path) -> None:
    argv = ["--policy", str(home / "policy.json"), "--out", str(tmp_path / "out.json")]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "eval.certify", *argv],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "certified on 1,200 examples that nothing was learned from" in done.stdout
    assert read_deployment(tmp_path / "out.json").certificate is not None


def test_examples_that_stand_there_twice_are_refused() -> None:
    one = logits(60, 0)
    twice = replace(pooled([one, one]), ids=np.arange(120))
    refuse_repeated(one, "here")
    with pytest.raises(InputError, match="60 of 120"):
        refuse_repeated(twice, "here")
    half = replace(twice, stages=(twice.stages[0], Stage("b", answers=np.zeros((120, 1), int))))
    with pytest.raises(InputError, match="60 of 120"):
        refuse_repeated(half, "here")
    refuse_repeated(replace(half, stages=half.stages[1:]), "here")  # answers of different examples are often the same
    hundred = logits(100, 0)
    refuse_repeated(hundred.take(np.array([0, *range(99)])), "here")  # one in a hundred: data sets have some
    with pytest.raises(InputError, match="2 of 100"):
        refuse_repeated(hundred.take(np.array([0, 0, *range(98)])), "here")


def test_a_name_tells_an_example_whose_logits_were_reckoned_elsewhere() -> None:
    named = np.array([f"image {i}" for i in range(60)])
    old = replace(logits(60, 0), ids=named)
    stages = tuple(replace(stage, logits=np.asarray(stage.logits) * (1 + 1e-6)) for stage in old.stages)
    assert shared_examples(replace(old, stages=stages), old) == named.tolist()
    assert shared_examples(replace(old, stages=stages, labels=(old.labels + 1) % old.classes), old) == []
