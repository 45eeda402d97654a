"""Certificates: the sequence by hand, the levels, the promise by simulation, and the command on real policy files."""

from __future__ import annotations

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

from cascades.answers import LOSSES
from cascades.deployment import Deployment, Target, largest, read_deployment, write_deployment
from cascades.folder import EMBEDDED, keep_back, read_folder
from cascades.outcomes import single_outcomes
from cascades.points import digest_of, fit_points
from cascades.routing import Routing
from cascades.targets import expected_of, solve
from cascades.topology import parse_topology, unroll
from eval.bounds import betting_p, binomial_p, hoeffding_bentkus_p, paired_p
from eval.certify import (
    COST_SHARE,
    GROUP_SHARE,
    LEAST_GROUP,
    NONE_CERTIFIED,
    Aim,
    Settings,
    aim_of,
    certify_points,
    cost_bound,
    examples_needed,
    fixed_sequence,
    groups_of,
    main,
    pooled,
    refuse_repeated,
    risk_bound,
    risk_p,
    shared_examples,
)
from eval.frontier import Settings as Frontier
from eval.frontier import fit_settings
from features.errors import InputError
from features.outputs import Outputs, Stage

ROOT = Path(__file__).resolve().parents[2]
ROWS, POINTS, KEPT = 2400, 6, 0.5
SPAN = (1.0, 11.0)
Bools = NDArray[np.bool_]


def bools(n: int, *where: slice) -> Bools:
    found = np.zeros(n, bool)
    for part in where:
        found[part] = True
    return found


# --- the order


def test_the_sequence_by_hand() -> None:
    cost, error = np.array([5.0, 1.0, 3.0, 4.0, 2.0, 6.0]), np.array([0.10, 0.30, 0.15, 0.15, 0.31, 0.05])
    assert fixed_sequence(cost, error).tolist() == [5, 0, 2, 1]  # 3 is as bad as 2 and dearer, 4 is worse than 1
    assert fixed_sequence(cost, error, most=0.15).tolist() == [5, 0, 2]
    assert fixed_sequence(cost, error, below=6.0).tolist() == [0, 2, 1]
    assert fixed_sequence(cost, error, most=0.01).tolist() == [5]  # the safest is always worth a try
    assert fixed_sequence(cost, error, below=1.0).tolist() == []


@pytest.mark.parametrize("seed", range(5))
def test_along_the_sequence_cost_falls_and_error_rises_and_nothing_left_out_is_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cost, error = rng.integers(1, 9, 40) / 4, rng.integers(1, 9, 40) / 10
    order = fixed_sequence(cost, error)
    assert (np.diff(cost[order]) < 0).all()
    assert (np.diff(error[order]) > 0).all()
    for i in range(40):
        assert any(cost[j] <= cost[i] and error[j] <= error[i] for j in order)


# --- which test


def test_each_kind_of_loss_has_its_test() -> None:
    rng = np.random.default_rng(0)
    wrong, base = rng.random(400) < 0.1, rng.random(400) < 0.12
    worse, better = int((wrong & ~base).sum()), int((base & ~wrong).sum())
    assert risk_p(wrong, None, 0.15, 0.05) == binomial_p(int(wrong.sum()), 400, 0.15)
    assert risk_p(wrong, base, 0.05, 0.05) == paired_p(worse, better, 400, 0.05, 0.001)
    soft, other = rng.random(400) * 0.2, rng.random(400) * 0.2
    assert risk_p(soft, None, 0.15, 0.05) == hoeffding_bentkus_p(float(soft.mean()), 400, 0.15)
    assert risk_p(soft, other, 0.05, 0.05) < 0.05 < 1 == risk_p(soft, other, -0.5, 0.05)
    assert soft.mean() < risk_bound(soft, None, 0.05) < 0.2
    assert (soft - other).mean() < risk_bound(soft, other, 0.05) < 0.05


def test_a_file_in_the_order_of_its_costs_does_no_harm() -> None:
    """Betting rests on an order that does not depend on the values."""
    ordered = np.sort(np.where(np.random.default_rng(0).random(2000) < 0.3, 11.0, 1.0))
    bounds = [cost_bound(x, SPAN, 0.05) for x in (ordered, ordered[::-1])]
    assert all(4.0 < bound < 4.5 for bound in bounds)
    x = (ordered - 1) / 10
    assert betting_p(x, 0.4) < 1e-9  # as it stands: cheap ones first, and much is won before the dear ones come


def test_the_cost_of_what_costs_one_thing_is_known() -> None:
    assert cost_bound(np.full(60, 3.0), (3.0, 3.0), 0.001) == 3.0


# --- the walk


def test_it_stops_at_the_first_failure_though_later_points_would_pass() -> None:
    n = 500
    good, bad = bools(n, slice(3)), bools(n, slice(100))
    cost = [np.full(n, c) for c in (9.0, 5.0, 3.0, 2.0)]
    found = certify_points([good, good, bad, good], cost, None, 0.05, 0.05, SPAN)
    assert (found.passed, len(found.p)) == (2, 3)
    assert found.p[2] > 0.045 > found.p[1]
    assert (found.cost, found.value, found.risk_bound) == (5.0, 3 / n, 0.05)
    none = certify_points([bad, good], cost[:2], None, 0.05, 0.05, SPAN)
    assert (none.passed, len(none.p)) == (0, 1)
    assert not np.isfinite([none.risk_bound, none.cost_bound]).any()


def test_levels_are_shared_out_as_documented() -> None:
    rng, n, delta = np.random.default_rng(1), 900, 0.05
    wrong = [rng.random(n) < 0.02 for _ in range(3)]
    base, cost = rng.random(n) < 0.05, [rng.choice([1.0, 11.0], n) for _ in range(3)]
    group = np.array(["a"] * 500 + ["b"] * 380 + ["c"] * 20, dtype=object)
    plain = certify_points(wrong, cost, base, 0.01, delta, SPAN)
    both = certify_points(wrong, cost, base, 0.01, delta, SPAN, group)
    assert plain.passed == both.passed == 3
    assert plain.cost_bound == both.cost_bound == cost_bound(cost[2], SPAN, COST_SHARE * delta / 3)
    assert plain.p[0] == pytest.approx(risk_p(wrong[0], base, 0.01, 0.9 * delta))
    assert both.p[0] == pytest.approx(risk_p(wrong[0], base, 0.01, 0.6 * delta))
    assert sorted(both.groups) == ["a", "b"]  # the third has fewer than enough
    level = GROUP_SHARE * delta / (3 * 2)
    assert both.groups["a"] == pytest.approx(risk_bound(wrong[2][:500], base[:500], level), abs=2e-5)
    assert both.groups["b"] == pytest.approx(risk_bound(wrong[2][500:880], base[500:880], level), abs=2e-5)
    assert LEAST_GROUP > 20


def test_without_a_bound_the_smallest_of_one_point_is_proven() -> None:
    wrong, base, cost = bools(300, slice(10)), bools(300, slice(5, 15)), np.full(300, 2.0)
    found = certify_points([wrong], [cost], base, None, 0.1, SPAN)
    assert found.passed == 1
    assert found.risk_bound == risk_bound(wrong, base, 0.09)
    with pytest.raises(ValueError, match="one point"):
        certify_points([wrong, wrong], [cost, cost], base, None, 0.1, SPAN)


@pytest.mark.parametrize("risks", [(0.05, 0.05, 0.05), (0.02, 0.055, 0.02), (0.03, 0.04, 0.0501)])
def test_a_point_that_breaks_the_bound_is_certified_with_at_most_delta(risks: tuple[float, ...]) -> None:
    """Over draws from a known truth, the error itself and the cost: both hold together."""
    rng, n, runs, delta, bound = np.random.default_rng(2), 300, 1200, 0.2, 0.05
    dear = (0.5, 0.3, 0.02)
    broken = 0
    for _ in range(runs):
        common = rng.random(n)  # points err on the same examples, as cascades do
        wrong = [common < risk for risk in risks]
        cost = [np.where(rng.random(n) < share, 11.0, 1.0) for share in dear]
        found = certify_points(wrong, cost, None, bound, delta, SPAN)
        if found.passed:
            i = found.passed - 1
            broken += risks[i] >= bound or found.cost_bound < 1 + 10 * dear[i]
    assert broken / runs <= delta + 3 * np.sqrt(delta * (1 - delta) / runs)


def test_paired_increases_keep_the_promise_too() -> None:
    rng, n, runs, delta, bound = np.random.default_rng(4), 400, 400, 0.2, 0.01
    broken = 0
    for _ in range(runs):
        draw = rng.random(n)
        base = draw < 0.1  # the point mends 0.03 of these and spoils 0.04 of the others
        wrong = ((draw >= 0.03) & (draw < 0.1)) | ((draw >= 0.5) & (draw < 0.54))
        broken += certify_points([wrong], [np.full(n, 1.0)], base, bound, delta, SPAN).passed > 0
    assert broken / runs <= delta + 3 * np.sqrt(delta * (1 - delta) / runs)
    assert broken > 0.05 * runs  # the test is no constant


# --- how many would be needed


@pytest.mark.parametrize(("worse", "better", "bound"), [(20, 22, 0.005), (10, 30, 0.0), (0, 0, 0.01)])
def test_as_many_examples_as_are_needed_would_do(worse: int, better: int, bound: float) -> None:
    n = 1000
    wrong, base = bools(n, slice(worse)), bools(n, slice(100, 100 + better))
    needed = examples_needed(wrong, base, bound, 0.045)
    assert needed is not None

    def p(examples: float) -> float:
        counts = (round(count * examples / n) for count in (worse, better))
        return paired_p(*counts, round(examples), bound, 0.0009)

    assert p(needed) <= 0.045 < p(0.8 * needed)


def test_no_number_of_examples_helps_what_is_not_so() -> None:
    assert examples_needed(bools(100, slice(5)), None, 0.05, 0.05) is None
    assert examples_needed(bools(100, slice(5)), bools(100), 0.05, 0.05) is None
    needed = examples_needed(bools(100), None, 0.01, 0.05)
    assert needed == 300  # 0.99^299 = 0.0495


# --- what is asked for


@pytest.mark.parametrize(
    ("flags", "target", "aim"),
    [
        ({}, Target(error_increase=0.01), Aim("increase", 0.01, True)),
        ({}, Target(accuracy=0.75), Aim("error", 0.25, True)),
        ({}, Target(error_increase=0.0, accuracy=0.75), Aim("increase", 0.0, False)),
        ({"risk": "error"}, Target(error_increase=0.0, accuracy=0.75), Aim("error", 0.25, False)),
        ({"risk": "error"}, Target(error_increase=0.0), Aim("error", None, False)),
        ({}, Target(budget=5.0), Aim("increase", None, False)),
        ({"target": 0.02}, Target(budget=5.0), Aim("increase", 0.02, False)),
        ({}, Target(budget=5.0, accuracy=0.75), Aim("error", 0.25, False)),
        ({}, Target(error_increase=0.01, shares={"r": 0.1}), Aim("increase", 0.01, False)),
        ({"target": 0.02}, Target(error_increase=0.01), Aim("increase", 0.02, True)),
        ({"target": 0.1, "risk": "error"}, Target(error_increase=0.01), Aim("error", 0.1, True)),
    ],
)
def test_the_policys_own_target_is_the_default(flags: dict[str, Any], target: Target, aim: Aim) -> None:
    assert aim_of(Settings(Path("policy.json"), **flags), target) == aim


@pytest.mark.parametrize("bound", [0.0, -0.1, 1.0])
def test_an_error_that_can_not_be_is_refused(bound: float) -> None:
    with pytest.raises(InputError, match="an error between 0 and 1"):
        aim_of(Settings(Path("policy.json"), risk="error", target=bound), Target(budget=1.0))


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
        (b"id,group\n\xff,a\n", "columns id and group"),
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
    how = fit_settings(Frontier(topology="a_g_r"))
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
    """certify(policy, *flags): exit code and what was printed; the policy is not overwritten."""

    def run(policy: str, *flags: object) -> tuple[int, str, str]:
        code = main(["--policy", str(home / f"{policy}.json"), "--out", str(tmp_path / "out.json"), *map(str, flags)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def routed(home: Path, certified: Deployment) -> tuple[Routing, Bools, Outputs]:
    """The certified point on the examples that were kept back, worked out anew."""
    routes = certified.fitted.sweep.routes
    outputs = keep_back(read_folder(home / "data"), KEPT, 0).parts["certify"].of(routes.stages)
    alone = single_outcomes(outputs, LOSSES["top1"], certified.fitted.sweep.reader.calibration)
    base = alone.wrong[:, largest(routes)] != 0
    return certified.fitted.route(outputs)[certified.point], base, outputs


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
    assert (certificate.risk, certificate.risk_bound, certificate.delta) == ("increase", 0.04, 0.05)
    assert certificate.value == pytest.approx((worse - better) / len(outputs))
    assert certificate.cost == pytest.approx(routing.mean_cost)
    assert paired_p(worse, better, len(outputs), 0.04, 0.0009) <= 0.045
    assert certificate.cost < certificate.cost_bound < 1.4 * certificate.cost
    assert sum(reference.exits.values()) == len(outputs)
    assert "holds together with probability at least 95 %" in out
    assert f"at most {100 * certificate.risk_bound:+.2f}" in out
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
    routings = certified.fitted.route(outputs)
    passes = [risk_p(np.asarray(routings[i].wrong), base, 0.03, 0.045) <= 0.045 for i in order]
    last = order.index(certified.point)
    assert all(passes[: last + 1])
    assert last + 1 == len(order) or not passes[last + 1]


def test_the_file_itself_is_written_without_out_and_says_when_it_is_done_again(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shutil.copy(home / "policy.json", tmp_path / "own.json")
    assert main(["--policy", str(path)]) == 0
    assert "certificate on these very examples already" not in capsys.readouterr().out
    first = read_deployment(path)
    assert main(["--policy", str(path)]) == 0
    assert "certificate on these very examples already" in capsys.readouterr().out
    assert read_deployment(path).certificate == first.certificate
    assert read_deployment(path).point == first.point


def test_where_none_can_be_certified_it_says_how_many_would_do_and_writes_nothing(certify: Run, tmp_path: Path) -> None:
    code, out, err = certify("strict", "--delta", "0.001", "--target", "-0.004")
    assert (code, err) == (NONE_CERTIFIED, "")
    assert "None can be certified" in out
    assert "would be needed" in " ".join(out.split()) or "would not help" in " ".join(out.split())
    assert not (tmp_path / "out.json").exists()
    _, out, _ = certify("policy", "--target=-0.5")
    assert "more of them would not help" in " ".join(out.split())


def test_a_budget_is_judged_at_its_own_point(certify: Run, home: Path, tmp_path: Path) -> None:
    code, out, _ = certify("budget")
    before, after = read_deployment(home / "budget.json"), read_deployment(tmp_path / "out.json")
    assert code == 0
    assert after.point == before.point
    assert after.certificate is not None
    routing, base, _ = routed(home, after)
    assert after.certificate.risk_bound == risk_bound(np.asarray(routing.wrong), base, 0.045)
    met = after.certificate.cost_bound <= 1.0
    assert ("is certified too" in out, "is not certified" in out) == (met, not met)


def test_an_accuracy_is_certified_by_the_binomial_tail(certify: Run, home: Path, tmp_path: Path) -> None:
    code, out, _ = certify("accuracy")
    assert code == 0
    after = read_deployment(tmp_path / "out.json")
    assert after.certificate is not None
    routing, _, outputs = routed(home, after)
    assert (after.certificate.risk, after.certificate.risk_bound) == ("error", pytest.approx(0.17))
    assert after.certificate.value == pytest.approx(routing.error)
    assert binomial_p(int(np.sum(routing.wrong)), len(outputs), after.certificate.risk_bound) <= 0.045
    assert "error, %" in out


def test_new_examples_and_classes(certify: Run, home: Path, tmp_path: Path) -> None:
    code, out, err = certify("policy", "--data", home / "new", "--groups", "class", "--target", "0.05")
    assert (code, err) == (0, "")
    certificate = read_deployment(tmp_path / "out.json").certificate
    assert certificate is not None
    assert certificate.examples == ROWS
    assert list(certificate.groups) == [str(label) for label in range(10)]
    assert all(certificate.value - 0.1 < bound < 0.4 for bound in certificate.groups.values())
    assert "taken on trust" not in out


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
    assert "taken on trust" in capsys.readouterr().out


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
        text=True,
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


def test_a_name_tells_an_example_whose_logits_were_reckoned_elsewhere() -> None:
    named = np.array([f"image {i}" for i in range(60)])
    old = replace(logits(60, 0), ids=named)
    stages = tuple(replace(stage, logits=np.asarray(stage.logits) * (1 + 1e-6)) for stage in old.stages)
    assert shared_examples(replace(old, stages=stages), old) == named.tolist()
    assert shared_examples(replace(old, stages=stages, labels=(old.labels + 1) % old.classes), old) == []
