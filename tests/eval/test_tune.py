"""Tuning as a user runs it: what it may choose, how it judges, what it writes, and what it refuses."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest

from offramp.cascades.files.codec import to_plain
from offramp.cascades.files.datafolder import read_folder
from offramp.cascades.files.embedded import EMBEDDED
from offramp.cascades.files.policy import (
    Attempt,
    Bound,
    Certificate,
    policies_digest,
    read_deployment,
    write_deployment,
)
from offramp.cascades.graph.costs import Costs, StageCost
from offramp.cascades.graph.routing import Routes, Routing
from offramp.cascades.graph.topology import parse_topology, unroll
from offramp.cascades.learning.answers import ANSWERS
from offramp.cascades.learning.fit import FitSettings, fit_sweep, multiplied
from offramp.eval.tune import main
from offramp.eval.tuning import choose as choose_module
from offramp.eval.tuning.choose import choose, conclude
from offramp.eval.tuning.evaluation import Evaluated, FoldEvaluation, percentile
from offramp.eval.tuning.files import FILES
from offramp.eval.tuning.plan import digest, label
from offramp.eval.tuning.problem import Problem, Settings, read_problem
from offramp.eval.tuning.search import Searched, plan_of
from offramp.eval.tuning.solve import Solved, solved
from offramp.eval.tuning.study import SLOT, accounts, default_of, open_study
from offramp.eval.tuning.subtopologies import named_paths, sub_topologies

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--folds", "2", "--points", "6")
Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first rows of the embedded data as a user's own folder."""
    folder = tmp_path_factory.mktemp("small")
    shutil.copy(EMBEDDED / "cifar10" / "costs.json", folder)
    for part in ("fit", "test"):
        with np.load(EMBEDDED / "cifar10" / f"{part}.outputs.npz") as arrays:
            np.savez(folder / f"{part}.outputs.npz", **{key: arrays[key][:300] for key in arrays.files})
    return folder


def flags(data: Path, out: Path, *more: str) -> list[str]:
    target = () if any(flag in more for flag in TARGETS) else ("--min-accuracy", "0.8")
    return ["--topology", "a_g_r", "--data", str(data), "--out", str(out), *SMALL, *target, *more]


TARGETS = ("--budget", "--max-error-increase", "--min-accuracy", "--max-share")


def task_of(small: Path, **more: Any) -> Problem:
    given: dict[str, Any] = {"topology": "a_g_r", "data": str(small), "min_accuracy": 0.8, "folds": 2, "points": 6}
    return read_problem(Settings(**(given | more)))


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def command(*argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "eval.tune", *argv],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


# --- what may be chosen


def test_the_space_begins_with_the_plain_frontier_and_its_choices_come_to_that(small: Path) -> None:
    problem = task_of(small)
    defaults = default_of(problem.space)
    assert problem.chosen(defaults) == (problem.plain, problem.topology)
    assert problem.key(defaults) == problem.key({})


def test_every_value_of_the_space_makes_cascades(small: Path) -> None:
    """One choice changed at a time, all of them: it fits, routes, and is a choice of its own."""
    problem = task_of(small)
    data = problem.learnt.take(np.arange(60))
    defaults = default_of(problem.space)
    keys = {problem.key(defaults)}
    for name, values in problem.space.items():
        assert len({label(value) for value in values}) == len(values) > 1
        for value in values[1:]:
            how, topology = problem.chosen(defaults | {name: value})
            routes = unroll(topology, problem.data.costs)
            sweep, _ = fit_sweep(data.of(routes.stages), routes, 2, replace(how, folds=2), prices=np.array([0.01, 0.1]))
            assert sweep.route(data.of(routes.stages)).path.shape == (60, 2 + len(routes.entries))
            assert sweep.routes.spent.tolist() == routes.spent.tolist()  # true costs, whatever multiplied them
            keys.add(problem.key(defaults | {name: value}))
    assert len(keys) == 1 + sum(len(values) - 1 for values in problem.space.values())


def test_what_is_searched_is_what_policies_and_features_state(small: Path) -> None:
    space = task_of(small).space
    heads = {name.partition(".")[0] for name in space}
    assert heads == {
        "topology",
        "answer",
        "softness",
        "evidence",
        "multiplier",
        "family",
        *("threshold", "logistic", "value"),
    }
    assert "boosted.trees" in task_of(small, policies=("value", "boosted")).space
    assert not any("pooled" in name or "measured" in name for name in space)  # the data have none


def test_choices_that_change_nothing_have_one_key(small: Path) -> None:
    problem = task_of(small)
    off = default_of(problem.space) | {"family.1.logistic": False, "family.2.logistic": False}
    assert problem.key(off) == problem.key(off | {"logistic.ridge": 1e-4})
    assert problem.key(off) != problem.key(off | {"value.ridge": 3e-2})
    without = {"topology": "alexnet_resnet"}
    assert problem.key(without) == problem.key(without | {"multiplier.googlenet": 2.0})
    assert problem.key(without) != problem.key(without | {"multiplier.resnet": 2.0})


def test_settings_by_depth_reach_their_paths(small: Path) -> None:
    problem = task_of(small)
    plain = FitSettings(("constant", "threshold", "value"))
    how = plain.chosen(
        {"family.1.threshold": False, "family.1.value": True, "family.2.threshold": True, "family.2.value": False}
    )
    assert how.by_depth == (("constant", "value"), ("constant", "threshold"))
    assert list(how.families(1)) == ["constant", "value"]
    assert list(how.families(2)) == list(how.families(5)) == ["constant", "threshold"]
    sweep, _ = fit_sweep(problem.learnt, problem.routes, 3, how)
    assert sweep.rules[0,].names[:-1] == ("constant", "value")
    assert sweep.rules[0, 1].names[:-1] == ("constant", "threshold")
    assert plain.chosen({"family.2.value": False}).by_depth == (plain.policies, ("constant", "threshold"))
    nobody = plain.chosen({f"family.{d}.{name}": False for d in (1, 2) for name in ("threshold", "value")})
    assert nobody.policies == ("constant",)


def test_the_plain_settings_fit_as_they_did_and_ones_change_nothing(small: Path) -> None:
    problem = task_of(small)
    data, how = problem.learnt, FitSettings(("constant", "threshold", "value"))
    plain = to_plain(fit_sweep(data, problem.routes, 4, how)[0])
    ones = replace(how, multipliers=dict.fromkeys(problem.routes.stages, 1.0), options={"value": {"knots": 3}})
    assert to_plain(fit_sweep(data, problem.routes, 4, ones)[0]) == plain
    assert multiplied(problem.routes, {}) is problem.routes


def test_multiplied_costs_are_those_that_rules_are_fitted_by(small: Path) -> None:
    """To multiply every cost is to multiply the price; a stage made dear is called less."""
    problem = task_of(small)
    data, prices = problem.learnt, np.array([0.01, 0.03, 0.1])
    how = FitSettings(("value",))
    doubled = replace(how, multipliers=dict.fromkeys(problem.routes.stages, 2.0))
    one, other = (
        fit_sweep(data, problem.routes, 3, each, prices=at)[0].route(data)
        for each, at in ((doubled, prices), (how, 2 * prices))
    )
    np.testing.assert_array_equal(one.path, other.path)
    dear = fit_sweep(data, problem.routes, 3, replace(how, multipliers={"resnet": 8.0}), prices=prices)[0].route(data)
    base = fit_sweep(data, problem.routes, 3, how, prices=prices)[0].route(data)
    resnet = problem.routes.stages.index("resnet")
    calls = [np.mean([resnet in problem.routes.paths[q] for q in routed.path[:, 0]]) for routed in (dear, base)]
    assert calls[0] < calls[1]


COSTS = Costs({name: StageCost(name, 2.0**i, 0.0) for i, name in enumerate("abcde")}, "ms")


def test_sub_topologies_by_hand() -> None:
    three = parse_topology("a_b_c", "abcde")
    found = sub_topologies(three, COSTS, set())
    assert list(found) == ["a_b_c", "a>b;b>c;a;b;c", "b_c", "a_c", "a_b"]
    assert list(sub_topologies(three, COSTS, {"c"})) == ["a_b_c", "a>b;b>c;a;b;c", "b_c", "a_c"]
    graph = parse_topology("a>b,c;b>c", "abcde")  # a is the only entry: without it nothing begins
    assert list(sub_topologies(graph, COSTS, set())) == ["a>b,c;b>c;a", "a>b;b>c;a", "a>c;a", "a>b;a"]
    assert list(sub_topologies(parse_topology("a_b", "abcde"), COSTS, set())) == ["a_b"]
    five = sub_topologies(parse_topology("a_b_c_d_e", "abcde"), COSTS, set())
    assert len(five) == 2 * (1 + 5)


@pytest.mark.parametrize("text", ["a_b_c_d", "a>b,c;b>c", "a>b>c;b", "b>c,d;a>c"])
def test_every_sub_topology_reads_back_as_itself_and_is_inside(text: str) -> None:
    whole = set(named_paths(parse_topology(text, "abcde"), COSTS))
    for name, topology in sub_topologies(parse_topology(text, "abcde"), COSTS, set()).items():
        paths = named_paths(topology, COSTS)
        assert named_paths(parse_topology(name, "abcde"), COSTS) == paths
        assert set(paths) <= whole


def test_what_the_target_speaks_of_is_never_left_out(small: Path) -> None:
    def kept(**more: Any) -> set[str]:
        found = task_of(small, **{"min_accuracy": None, **more}).topologies.values()
        return set.intersection(*(set(topology.stages) for topology in found))

    assert kept(min_accuracy=0.8) == set()
    assert kept(max_error_increase=0.01) == {"resnet"}
    assert kept(max_share=("alexnet=0.5",)) == {"alexnet"}
    assert kept(budget="1ms", loss="excess") == {"resnet"}


# --- how a choice is judged


def two_ways(visits: tuple[list[int], list[int]]) -> tuple[Routing, Routing]:
    routes = Routes(("a", "b"), ((0,), (1,), (0, 1)), np.array([[1.0, 0.0], [0.0, 10.0], [1.0, 10.0]]), "ms")
    one, other = (Routing(routes, np.array(v), np.zeros(len(v), int), np.zeros(len(v)), "fit") for v in visits)
    return one, other


def test_the_95th_percentile_of_a_mixture_by_hand() -> None:
    one, other = two_ways(([0] * 100, [0] * 80 + [2] * 20))
    assert percentile(one, one, 0) == 1.0
    assert percentile(one, other, 1.0) == 11.0
    assert percentile(one, other, 0.25) == 1.0  # 5 in 100 pay 11: 95 pay 1
    assert percentile(one, other, 0.3) == 11.0
    for share in (0.0, 1.0):
        which = other if share else one
        assert percentile(one, other, share) == np.quantile(which.cost, 0.95, method="inverted_cdf")


def test_judging_is_fitting_on_the_other_folds(small: Path) -> None:
    """By hand: each fold routed by what was fitted on the rest, one point forced by a single price."""
    problem = task_of(small, min_accuracy=0.0, policies=("value",))
    evaluation = FoldEvaluation(problem, [0.02], 3, seed=4)
    assert sorted(np.concatenate(evaluation.folds).tolist()) == list(range(len(problem.learnt)))
    judged = evaluation.held_out({})
    points = []
    for rows in evaluation.folds:
        rest = problem.learnt.take(np.setdiff1d(np.arange(len(problem.learnt)), rows))
        how = replace(problem.plain, folds=3)
        sweep, _ = fit_sweep(rest, problem.routes, 1, how, prices=np.array([0.02]))
        points.append([sweep.route(problem.learnt.take(rows)).at(i) for i in range(4)])
    cost = [np.concatenate([fold[i].cost for fold in points]).mean() for i in range(4)]
    error = [np.concatenate([fold[i].wrong for fold in points]).mean() for i in range(4)]
    assert judged.cost == pytest.approx(min(cost))  # any accuracy will do
    assert judged.error == pytest.approx(error[int(np.argmin(cost))])
    assert judged.cost == pytest.approx(judged.cost_rows.mean())
    assert judged.error == pytest.approx(judged.loss_rows.mean())
    for c, e, _ in judged.curve:
        assert any(abs(c - x) < 1e-5 and abs(e - y) < 1e-5 for x, y in zip(cost, error, strict=True))


def test_kept_readers_change_nothing(small: Path) -> None:
    problem = task_of(small)
    evaluation = FoldEvaluation(problem, [0.01, 0.03, 0.1], 2, seed=0)
    choices: list[dict[str, Any]] = [
        *({}, {"softness": 0.0}, {"evidence.agreement": False}, {"evidence.stack": False}, {"evidence.ranks": 1}),
        *({"evidence.calibrate": False}, {"topology": "alexnet_resnet"}, {"topology": "googlenet_resnet"}, {}),
    ]
    again = [evaluation.held_out(c) for c in choices]
    fresh = [FoldEvaluation(problem, [0.01, 0.03, 0.1], 2, seed=0).held_out(c) for c in choices]
    assert [(j.cost, j.error, j.curve) for j in again] == [(j.cost, j.error, j.curve) for j in fresh]
    assert (again[0].cost, again[0].curve) == (again[-1].cost, again[-1].curve)
    assert len({str(j.curve) for j in again}) > 2


def test_the_value_is_told_after_each_fold_and_a_miss_is_worse_than_any_hit(small: Path) -> None:
    prices = [0.005, 0.02, 0.1]
    problem = task_of(small)
    told: dict[int, float] = {}
    judged = FoldEvaluation(problem, prices, 3, seed=0).held_out({}, told.__setitem__)
    assert list(told) == [0, 1, 2]
    assert told[2] == judged.cost
    assert judged.violation == 0
    assert judged.error <= 0.2 + 1e-9
    out_of_reach = task_of(small, min_accuracy=0.999)
    told = {}
    judged = FoldEvaluation(out_of_reach, prices, 3, seed=0).held_out({}, told.__setitem__)
    assert judged.violation > 0
    assert min(told.values()) > problem.routes.cost.max()


def test_examples_of_certify_and_test_are_never_looked_at(small: Path) -> None:
    problem = task_of(small)
    seen = set(problem.learnt.ids.tolist())
    assert len(seen) == 210
    for part in ("certify", "test"):
        assert not seen & set(problem.data.parts[part].ids.tolist())


def test_a_tune_part_is_learned_from_too(small: Path, tmp_path: Path) -> None:
    data = shutil.copytree(small, tmp_path / "data")
    with np.load(small / "fit.outputs.npz") as arrays:
        for part, rows in (("fit", slice(100)), ("tune", slice(100, 250))):
            np.savez(data / f"{part}.outputs.npz", **{key: arrays[key][rows] for key in arrays.files})
    both = task_of(data, keep_back=0.0).learnt
    whole = read_folder(small).parts["fit"].take(np.arange(250))
    assert both.part == "fit"
    np.testing.assert_array_equal(both.labels, whole.labels)
    np.testing.assert_array_equal(both.ids, whole.ids)
    for one, other in zip(both.stages, whole.stages, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)  # type: ignore[arg-type]


# --- the whole command


@pytest.fixture(scope="session")
def ran(small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run to its end by two processes, and what it printed."""
    out = tmp_path_factory.mktemp("ran") / "made" / "if need be"
    process = command(*flags(small, out, "--trials", "8", "--workers", "2"))
    told, complaints = process.communicate(timeout=120)
    assert process.returncode == 0, complaints
    assert not complaints
    return out, told


def test_all_files_are_there_and_agree(ran: tuple[Path, str], small: Path) -> None:
    out, told = ran
    assert {path.name for path in out.iterdir()} >= set(FILES)
    frame = pd.read_csv(out / "trials.csv")
    found = summary(out)
    assert found["trials"]["wanted"] == 8
    assert sum(found["trials"][state] for state in ("complete", "pruned", "fail")) == 8
    counted = frame[frame["state"].isin(["complete", "pruned", "fail"])]
    assert sorted(counted["slot"]) == list(range(8))
    first = frame[frame["slot"] == 0].iloc[0]
    assert {name: str(first[name]) for name in task_of(small).space} == {
        name: str(label(values[0])) for name, values in task_of(small).space.items()
    }
    for name in ("importance.png", "pareto.png"):
        assert (out / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert found["verdict"]["text"] in " ".join(told.split())
    assert "Wanted: the cheapest with an error of at most 20 %." in told
    front = [(point["cost"], point["error"]) for point in found["pareto"]]
    assert front == sorted(front)
    assert [e for _, e in front] == sorted((e for _, e in front), reverse=True)


def test_the_policy_file_holds_what_was_chosen(ran: tuple[Path, str], small: Path) -> None:
    out, _ = ran
    policy, found = read_deployment(out / "policy.json"), summary(out)
    which = found[found["kept"]]
    assert policy.expected.error[policy.point] <= 0.2 + 1e-9
    assert policy.expected.cost[policy.point] == pytest.approx(which["held_out"]["cost"])
    assert policy.topology == which["topology"]
    assert policy.target.accuracy == 0.8
    assert (policy.kept, policy.seed, policy.data) == (0.3, 0, str(small))
    assert set(policy.parts) == {"fit", "certify", "test"}
    # the figures of the test part are those of the policy in the file
    test = read_folder(small).parts["test"].of(policy.fitted.sweep.routes.stages)
    routing = policy.fitted.route(test)[policy.point]
    assert routing.mean_cost == pytest.approx(found["test"][found["kept"]]["cost"]["value"])
    assert routing.error == pytest.approx(found["test"][found["kept"]]["error"]["value"])


def test_no_search_is_the_plain_frontier_solved(small: Path, tmp_path: Path) -> None:
    assert main(flags(small, tmp_path / "out", "--trials", "0", "--budget", "0.5ms")) == 0
    policy, found = read_deployment(tmp_path / "out" / "policy.json"), summary(tmp_path / "out")
    assert policy.expected.cost[policy.point] == pytest.approx(0.5)
    assert found["verdict"]["code"] == "no_search"
    assert not (tmp_path / "out" / "study.db").exists()
    problem = task_of(small, budget="0.5ms", min_accuracy=None, trials=0)
    plain = solved(problem, problem.plain, problem.topology)
    assert policy.point == plain.point
    assert to_plain(policy.fitted.sweep) == to_plain(plain.fitted.sweep)


def test_a_new_policy_in_the_same_folder_remembers_the_attempts_at_certificates(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    assert main(flags(small, tmp_path, "--trials", "0")) == 0
    first = read_deployment(path)
    assert first.attempts == ()
    attempts = (Attempt("ab", 100, 0.05, "cd", "error at most 0.2", None),)
    write_deployment(replace(first, attempts=attempts), path)
    assert main(flags(small, tmp_path, "--trials", "0", "--min-accuracy", "0.7")) == 0
    second = read_deployment(path)
    assert second.attempts == attempts
    assert second.target != first.target
    path.write_text("{")
    assert main(flags(small, tmp_path, "--trials", "0")) == 0
    assert read_deployment(path).attempts == ()


def test_going_on_repeats_nothing_and_says_the_same(ran: tuple[Path, str], small: Path) -> None:
    out, _ = ran
    before = pd.read_csv(out / "trials.csv")
    policy = read_deployment(out / "policy.json")
    assert main(flags(small, out, "--trials", "8")) == 0
    after = pd.read_csv(out / "trials.csv")
    pd.testing.assert_frame_equal(before, after, check_dtype=False)
    assert read_deployment(out / "policy.json").point == policy.point
    assert main(flags(small, out, "--trials", "10")) == 0
    assert summary(out)["trials"]["wanted"] == 10
    longer = pd.read_csv(out / "trials.csv")
    pd.testing.assert_frame_equal(longer.iloc[: len(before)], before, check_dtype=False)
    assert summary(out)["trials"]["complete"] + summary(out)["trials"]["pruned"] + summary(out)["trials"]["fail"] == 10


def test_several_objectives_keep_their_front(small: Path, tmp_path: Path) -> None:
    more = ("--trials", "5", "--objectives", "cost,error,p95", "--sampler", "random")
    assert main(flags(small, tmp_path, *more)) == 0
    frame, found = pd.read_csv(tmp_path / "trials.csv"), summary(tmp_path)
    assert (frame["state"] == "complete").all()  # several objectives prune nothing
    assert len(set(frame["aim"])) > 1
    points = np.array([[p[name] for name in ("cost", "error", "p95")] for p in found["pareto"]])
    assert len(points) > 1
    for i, point in enumerate(points):
        others = np.delete(points, i, axis=0)
        assert not ((others <= point).all(axis=1) & (others < point).any(axis=1)).any()


def test_the_plain_policy_is_kept_unless_another_is_surely_ahead(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the fresh folds alone: neither the study's values nor the test part have a say."""
    problem = task_of(small)
    plain = solved(problem, problem.plain, problem.topology)

    class Trial:
        user_attrs: Mapping[str, Any] = {"found": {"cost": 0.0, "violation": 0.0}, SLOT: 1, "key": "k"}
        number = 1
        params = {name: label(v[0]) for name, v in problem.space.items()} | {"softness": 0.0}

    monkeypatch.setattr("offramp.eval.tuning.choose.ranking", lambda *_: [Trial()])
    n = 100

    def kept(saving: float, noise: float) -> bool:
        def held_out(self: FoldEvaluation, choices: Mapping[str, Any], report: object = None) -> Evaluated:
            tuned = choices["softness"] == 0.0
            spent = np.full(n, 1.0) - tuned * (saving + noise * np.tile([-1.0, 1.0], n // 2))
            return Evaluated(spent.mean(), 0.1, 1.0, 0.0, [], np.full(n, 0.1), spent)

        monkeypatch.setattr(FoldEvaluation, "held_out", held_out)
        return choose(problem, plain, Searched(prices=[0.1]))[0] is not None

    assert kept(saving=0.3, noise=1.0)  # three standard errors
    assert not kept(saving=0.15, noise=1.0)
    assert not kept(saving=-0.3, noise=1.0)
    assert not kept(saving=0.0, noise=0.0)


def test_a_trial_that_fails_does_not_end_the_study(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FoldEvaluation.held_out

    def held_out(self: FoldEvaluation, choices: Mapping[str, Any], report: Any = lambda *_: None) -> Evaluated:
        found = real(self, choices, report)
        return replace(found, cost=float("nan")) if choices.get("answer") == "last" else found

    monkeypatch.setattr(FoldEvaluation, "held_out", held_out)
    assert main(flags(small, tmp_path, "--trials", "8", "--sampler", "random")) == 0
    frame = pd.read_csv(tmp_path / "trials.csv")
    bad = frame["answer"] == "last"
    assert bad.any()
    assert set(frame.loc[bad, "state"]) <= {"fail", "pruned"}
    assert frame.loc[bad & (frame["state"] == "fail"), "failure"].str.contains("not a number").all()
    assert (frame.loc[~bad, "state"] != "fail").all()
    assert summary(tmp_path)["trials"]["failures"] == ["ValueError: the objective is nan, not a number"]


def test_the_same_command_again_keeps_a_certificate_of_the_same_policy(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "policy.json"
    assert main(flags(small, tmp_path, "--trials", "0")) == 0
    first = read_deployment(path)
    bounds = (Bound("error", 0.2, 0.18, {}),)
    point = 1 - int(first.point == 1)  # certification may have moved on to another
    made = Certificate(0.05, bounds, 2.0, 1.0, 100, "ab", "by hand", point, policies_digest(first.fitted))
    write_deployment(replace(first, certificate=made, point=point), path)
    content = path.read_bytes()
    assert main(flags(small, tmp_path, "--trials", "0")) == 0
    assert path.read_bytes() == content
    assert "is kept: the policy is the same" in " ".join(capsys.readouterr().out.split())
    assert main(flags(small, tmp_path, "--trials", "0", "--min-accuracy", "0.7")) == 0  # another policy
    assert "is gone with its policy" in " ".join(capsys.readouterr().out.split())
    assert read_deployment(path).certificate is None


def test_an_interrupted_search_keeps_what_is_ahead(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which trial was ahead on the folds says little; there is no time for more than its policy's own figures."""
    for target, field in (({}, "cost"), ({"budget": "0.5ms", "min_accuracy": None}, "error")):
        problem = task_of(small, trials=0, **target)
        plain = solved(problem, problem.plain, problem.topology)
        trial = optuna.create_trial(value=1.0)
        monkeypatch.setattr(choose_module, "choose", lambda *_, trial=trial: (trial, None))
        monkeypatch.setattr(choose_module, "choices_of", lambda *_, problem=problem: default_of(problem.space))
        for times, kept in ((0.9, trial), (1.0, None), (1.1, None)):
            other = replace(plain, **{field: times * getattr(plain, field)})
            monkeypatch.setattr(choose_module, "solved", lambda *_, other=other: other)
            found = conclude(problem, plain, Searched(stopped="interrupted"))
            assert found.trial is kept
            assert found.best is (plain if kept is None else other)
            assert found.tested is None


# --- killed, interrupted, locked


def finished(out: Path) -> int:
    if not (out / "study.db").exists():
        return 0
    try:
        with sqlite3.connect(f"file:{out / 'study.db'}?mode=ro", uri=True) as connection:
            rows = connection.execute("select count(*) from trials where state in ('COMPLETE', 'PRUNED')").fetchone()
        connection.close()
        return int(rows[0])
    except sqlite3.Error:
        return 0


def until(out: Path, trials: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 90
    while finished(out) < trials:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_killed_twice_and_begun_again_it_ends_as_if_nothing_had_been(small: Path, tmp_path: Path) -> None:
    """One process, so that the trials themselves must be the same, number by number but for those that died."""
    more = ("--trials", "10", "--sampler", "tpe")
    for before in (2, 5):
        process = command(*flags(small, tmp_path / "killed", *more))
        until(tmp_path / "killed", before, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "killed" / "policy.json").exists()
    assert main(flags(small, tmp_path / "killed", *more)) == 0
    assert main(flags(small, tmp_path / "whole", *more)) == 0
    frames = [pd.read_csv(tmp_path / name / "trials.csv") for name in ("killed", "whole")]
    died = frames[0]["state"] == "died"
    assert died.sum() <= 2
    kept = frames[0][~died].sort_values("slot").reset_index(drop=True)
    assert kept["slot"].tolist() == list(range(10))
    chosen = list(task_of(small).space)
    pd.testing.assert_frame_equal(
        kept[["state", "cost", *chosen]], frames[1][["state", "cost", *chosen]], check_dtype=False
    )
    one, other = (summary(tmp_path / name) for name in ("killed", "whole"))
    assert (one["kept"], one["test"], one["pareto"][0]["cost"]) == (
        other["kept"],
        other["test"],
        other["pareto"][0]["cost"],
    )


def test_an_interrupt_writes_the_best_so_far_and_leaves_the_test_part_alone(small: Path, tmp_path: Path) -> None:
    process = command(*flags(small, tmp_path, "--trials", "500", "--workers", "2"))
    until(tmp_path, 4, process)
    process.send_signal(signal.SIGINT)
    told, complaints = process.communicate(timeout=60)
    assert process.returncode == 130, complaints
    assert "Traceback" not in complaints
    found = summary(tmp_path)
    assert found["test"] is None
    assert "interrupted" in told
    assert "give the same command again" in told
    assert read_deployment(tmp_path / "policy.json").target.accuracy == 0.8
    problem = task_of(small, trials=500, out=tmp_path)
    opened = open_study(plan_of(problem))
    state = accounts(opened.trials(), 500)
    opened.close()
    assert not state.running  # what was under way was given back
    assert len(state.finished) >= 4


def test_an_interrupt_while_the_best_are_judged_again_loses_nothing(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(problem: Problem, plain: Solved, searched: Searched) -> Any:
        if not searched.stopped:
            raise KeyboardInterrupt
        return choose(problem, plain, searched)

    monkeypatch.setattr("offramp.eval.tuning.choose.choose", stopped)
    assert main(flags(small, tmp_path, "--trials", "2")) == 130
    assert summary(tmp_path)["test"] is None
    assert summary(tmp_path)["stopped"].startswith("interrupted; all trials are done")
    assert read_deployment(tmp_path / "policy.json").target.accuracy == 0.8


def test_a_file_that_stays_locked_ends_the_search_with_the_best_so_far(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(small, tmp_path, "--trials", "3")) == 0
    capsys.readouterr()
    real, calls = FoldEvaluation.evaluate, []
    lock = sqlite3.connect(tmp_path / "study.db", isolation_level=None)

    def evaluate(self: FoldEvaluation, choices: Mapping[str, Any], report: Any) -> Any:
        if not calls:
            calls.append(lock.execute("BEGIN EXCLUSIVE"))
        return real(self, choices, report)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FoldEvaluation, "evaluate", evaluate)
        assert main(flags(small, tmp_path, "--trials", "6", "--patience", "1")) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "study.db has been locked by another program for 1 s" in told
    assert "3 of 6 trials are done and the best of them is written" in told
    assert summary(tmp_path)["test"] is None
    lock.execute("ROLLBACK")
    lock.close()
    assert main(flags(small, tmp_path, "--trials", "6")) == 0
    assert summary(tmp_path)["test"]["examples"] == 300


# --- refused


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--budget", "0.00001ms"), "below the cheapest"),
        (("--budget", "1e9ms"), "above the dearest"),
        (("--budget", "5 GMACs"), "a number of ms per image"),
        (("--min-accuracy", "1"), "a target that can be met"),
        (("--min-accuracy", "0.87", "--budget", "0.01ms"), "--budget"),
        (("--max-share", "resnet=2"), "a share from 0 to 1"),
        (("--budget", "1ms", "--objectives", "cost"), "error, which the target leaves to be made small"),
        (("--policies", "gate"), "stages with gates"),
        (("--storage", "nowhere://x"), "--storage nowhere://x"),
        (("--sampler", "best"), "one of tpe, random, grid"),
        (("--keep-back", "0.9"), "at least 90 examples to learn from, found 30"),
    ],
)
def test_bad_input(
    small: Path, tmp_path: Path, more: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(small, tmp_path, "--trials", "2", "--patience", "1", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "policy.json").exists()


def test_no_target_and_one_stage(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--topology", "a_g", "--data", str(small), "--out", str(tmp_path)]) == 2
    assert "at least one of --budget, --max-error-increase" in capsys.readouterr().err
    assert main(["--topology", "a", "--data", str(small), "--out", str(tmp_path), "--min-accuracy", "0.5"]) == 2
    assert "at least two stages to choose between (or --trials 0)" in capsys.readouterr().err


def test_a_study_whose_data_or_space_changed_is_refused(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shutil.copytree(small, tmp_path / "data")
    out = tmp_path / "out"
    assert main(flags(data, out, "--trials", "2")) == 0
    before = (out / "policy.json").read_bytes()

    def refused(*more: str) -> str:
        capsys.readouterr()
        assert main(flags(data, out, "--trials", "2", *more)) == 2
        assert (out / "policy.json").read_bytes() == before
        return capsys.readouterr().err

    way_out = "(begin a new one with --study NAME or --out DIR)"
    assert f"{way_out}, found one with another target" in refused("--min-accuracy", "0.7")
    assert "another folds, seed, loss or policies" in refused("--folds", "3")
    assert "search space" in refused("--policies", "constant,value")
    monkeypatch.setattr("offramp.cascades.learning.fit.MULTIPLIERS", (1.0, 3.0))
    assert "another search space" in refused()
    monkeypatch.undo()
    with np.load(small / "fit.outputs.npz") as arrays:
        changed = {name: arrays[name].copy() for name in arrays.files}
    changed["alexnet"][:, 0] += 1  # same ids and labels, other logits
    np.savez(data / "fit.outputs.npz", **changed)
    assert "another data" in refused()
    assert main(flags(data, out, "--trials", "2", "--study", "another")) == 0


def test_the_digest_of_a_space_knows_its_order_and_values() -> None:
    assert digest({"a": [1, 2]}) == digest({"a": [1, 2]})
    assert len({digest({"a": [1, 2]}), digest({"a": [2, 1]}), digest({"a": [1, 3]}), digest({"b": [1, 2]})}) == 4


def test_nothing_heavy_is_imported_for_help() -> None:
    code = (
        "import sys; from offramp.eval.tune import main\ntry:\n main(['--help'])\n"
        "except SystemExit: pass\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    modules = set(done.stdout.rpartition("\n")[2].split() or done.stdout.split())
    assert not modules & {"optuna", "sqlalchemy", "numpy", "pandas", "matplotlib", "torch", "sklearn"}


def test_the_flags_name_every_setting() -> None:
    assert {field.name for field in fields(Settings)} >= {"budget", "trials", "storage", "workers", "grace", "patience"}
    assert set(ANSWERS) == {"last", "any", "fused"}
