"""Studies as several processes share them: nothing is lost, nothing repeated, whoever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

optuna = pytest.importorskip("optuna")

from optuna.trial import FrozenTrial, TrialState  # noqa: E402

from offramp.eval.tuning import liveness, storage, study  # noqa: E402
from offramp.eval.tuning.plan import Found, Plan, label  # noqa: E402
from offramp.eval.tuning.storage import OutOfReachError, patiently, shown, storage_named  # noqa: E402
from offramp.eval.tuning.study import (  # noqa: E402
    FAILURE,
    FOUND,
    RETRIES,
    SLOT,
    PrunedError,
    accounts,
    default_of,
    done,
    grid_point,
    open_study,
    work,
)
from offramp.features.errors import InputError  # noqa: E402

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""

ROOT = Path(__file__).resolve().parents[2]
SPACE: dict[str, tuple[Any, ...]] = {"x": (0, 1, 2, 3), "y": (1.0, 0.5, 2.0), "z": (("a",), ("a", "b"), ())}


def value_of(choices: Mapping[str, Any]) -> float:
    return float((choices["x"] - 2) ** 2 + abs(choices["y"] - 0.5) + len(choices["z"]))


def plan(storage: str, trials: int = 6, **more: Any) -> Plan:
    given = {"name": "toy", "space": SPACE, "objectives": ("cost",), "fingerprint": {"data": "d"}} | more
    return Plan(storage, trials=trials, patience=given.pop("patience", 5.0), **given)


def sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'study.db'}"


def judged(choices: Mapping[str, Any], report: Callable[[int, float], None]) -> Found:
    report(0, value_of(choices))
    return Found((value_of(choices),))


def run_through(one: Plan, evaluate: study.Evaluate = judged) -> list[FrozenTrial]:
    with opened_study(one) as opened:
        work(opened, evaluate)
        return list(opened.trials())


@contextmanager
def opened_study(one: Plan) -> Iterator[study.Opened]:
    opened = open_study(one)
    try:
        yield opened
    finally:
        opened.close()


# --- one process


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_as_many_trials_as_wanted_the_default_first(tmp_path: Path, sampler: str) -> None:
    trials = run_through(plan(sqlite(tmp_path), 9, sampler=sampler))
    assert [trial.user_attrs[SLOT] for trial in trials] == list(range(9))
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
    assert trials[0].params == {"x": 0, "y": 1.0, "z": "a"}
    for trial in done(trials):
        choices = {name: next(v for v in vs if label(v) == trial.params[name]) for name, vs in SPACE.items()}
        assert trial.value == value_of(choices)
    assert len(done(trials)) == sum(trial.state == TrialState.COMPLETE for trial in trials)


@pytest.mark.parametrize("storage", ["sqlite:///{}/s.db", "journal:{}/s.log"])
def test_a_study_in_two_sittings_is_the_one_in_one(tmp_path: Path, storage: str) -> None:
    """Draws belong to slots, so stopping after four and going on changes nothing at all."""
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    whole = run_through(plan(storage.format(tmp_path / "one"), 10))
    run_through(plan(storage.format(tmp_path / "two"), 4))
    parts = run_through(plan(storage.format(tmp_path / "two"), 10))
    assert [(t.params, t.value, t.state) for t in whole] == [(t.params, t.value, t.state) for t in parts]
    again = run_through(plan(storage.format(tmp_path / "two"), 10), lambda *_: pytest.fail("there is nothing to do"))
    assert len(again) == 10


def test_a_trial_that_is_no_number_fails_with_its_reason_and_the_study_goes_on(tmp_path: Path) -> None:
    def evaluate(choices: Mapping[str, Any], report: study.Report) -> Found:
        report(0, float("nan"))
        if choices["x"] == 1:
            raise InputError("a target that can be met", "none", "target")
        return Found((float("nan") if choices["x"] == 0 else 1.0,))

    trials = run_through(plan(sqlite(tmp_path), 12, sampler="grid"), evaluate)
    assert len(trials) == 12
    for trial in trials:
        if trial.params["x"] == 0:
            assert trial.state == TrialState.FAIL
            assert "the objective is nan, not a number" in trial.user_attrs[FAILURE]
        elif trial.params["x"] == 1:
            assert trial.user_attrs[FAILURE] == "target: expected a target that can be met, found none"
        else:
            assert trial.value == 1.0
    assert {t.params["x"] for t in trials} > {0, 1}


def test_a_bug_is_not_taken_for_a_bad_trial(tmp_path: Path) -> None:
    def evaluate(choices: Mapping[str, Any], report: study.Report) -> Found:
        raise TypeError("of the program's own")

    with pytest.raises(TypeError, match="of the program's own"):
        run_through(plan(sqlite(tmp_path)), evaluate)


def test_a_trial_that_is_far_behind_is_pruned(tmp_path: Path) -> None:
    steps: list[int] = []

    def evaluate(choices: Mapping[str, Any], report: study.Report) -> Found:
        value = 100.0 if len(steps) >= 18 else 1.0
        for step in range(3):
            steps.append(step)
            report(step, value)
        return Found((value,))

    trials = run_through(plan(sqlite(tmp_path), 7, sampler="grid", key=lambda c: str(sorted(c.items()))), evaluate)
    assert [t.state for t in trials][-1] == TrialState.PRUNED
    assert steps[18:] == [0]
    assert accounts(trials, 7).finished.keys() == set(range(7))


def test_nothing_is_judged_twice(tmp_path: Path) -> None:
    """Choices that come to the same take what was found."""
    seen: list[int] = []

    def evaluate(choices: Mapping[str, Any], report: study.Report) -> Found:
        seen.append(choices["x"])
        report(0, value_of({**choices, "y": 0.5, "z": ()}))
        return Found((float(choices["x"]),), about={"curve": [choices["x"]]})

    trials = run_through(plan(sqlite(tmp_path), 30, sampler="random", key=lambda c: str(c["x"])), evaluate)
    assert max(Counter(seen)[x] for x in (0, 1, 2, 3)) <= 1 + sum(t.state == TrialState.PRUNED for t in trials)
    assert len(seen) < 30
    for trial in done(trials):
        assert trial.value == trial.params["x"]
        assert trial.user_attrs[FOUND]["curve"] == [trial.params["x"]]


def test_misses_of_the_target_are_constraints(tmp_path: Path) -> None:
    def evaluate(choices: Mapping[str, Any], _: study.Report) -> Found:
        return Found((value_of(choices),), float(choices["x"]))

    trials = run_through(plan(sqlite(tmp_path), 12, sampler="random"), evaluate)
    assert {t.params["x"] for t in done(trials)} == {0}
    assert len(done(trials, feasible=False)) == 12
    assert all(trial.constraints == {"target": trial.params["x"]} for trial in trials)


def test_several_objectives(tmp_path: Path) -> None:
    both = plan(sqlite(tmp_path), 8, objectives=("cost", "error"))
    trials = run_through(both, lambda c, report: (report(0, 1.0), Found((c["x"], 3.0 - c["x"])))[1])
    assert all(t.values == [t.params["x"], 3.0 - t.params["x"]] for t in trials)
    assert len(open_study(both).study.best_trials) == 8  # none betters another


# --- what is what


def trial(number: int, slot: int, state: TrialState, failure: str = "") -> FrozenTrial:
    found = optuna.create_trial(
        state=state,
        value=1.0 if state == TrialState.COMPLETE else None,
        user_attrs={SLOT: slot} | ({FAILURE: failure} if failure else {}),
    )
    found.number = number
    return found


def test_accounts_by_hand() -> None:
    c, r, w, f = TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING, TrialState.FAIL
    trials = [
        *(trial(0, 0, c), trial(1, 1, f), trial(2, 2, f, "NaN"), trial(3, 1, r), trial(4, 1, w), trial(5, 3, w)),
        *(trial(6, 0, w), trial(7, 4, f), trial(8, 9, c)),
    ]
    found = accounts(trials, 6)
    assert {s: t.number for s, t in found.finished.items()} == {0: 0, 2: 2}
    assert {s: t.number for s, t in found.running.items()} == {1: 3}  # its first trial died, 4 is a spare
    assert {s: t.number for s, t in found.waiting.items()} == {3: 5}
    assert {s: None if t is None else t.number for s, t in found.missing.items()} == {4: 7, 5: None}


def test_who_kills_every_process_is_given_up() -> None:
    dead = [trial(i, 0, TrialState.FAIL) for i in range(RETRIES + 1)]
    assert accounts(dead[:-1], 1).missing[0] is dead[0]
    assert accounts(dead, 1).finished[0] is dead[-1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(list(TrialState)), st.booleans()), max_size=20), st.data())
def test_accounts_are_of_every_slot_and_no_order(rows: list[tuple[int, TrialState, bool]], data: st.DataObject) -> None:
    trials = [trial(i, slot, state, "x" if bad else "") for i, (slot, state, bad) in enumerate(rows)]
    found = accounts(trials, 5)
    parts = [found.finished, found.running, found.waiting, found.missing]
    assert sorted(slot for part in parts for slot in part) == [0, 1, 2, 3, 4]
    shuffled = accounts(data.draw(st.permutations(trials)), 5)
    assert shuffled == found


def test_the_grid_counts_through_every_choice_once() -> None:
    size = 4 * 3 * 3
    points = [str(grid_point(SPACE, i, 7)) for i in range(size)]
    assert len(set(points)) == size
    assert points[0] == str(default_of(SPACE))
    assert str(grid_point(SPACE, size, 7)) == points[0]


@pytest.mark.parametrize(
    ("given_as", "meant"),
    [("", "sqlite:////o/study.db"), ("journal:/a/b.log", "journal:/a/b.log"), ("/a/b.db", "sqlite:////a/b.db")],
)
def test_storages(given_as: str, meant: str) -> None:
    assert storage_named(given_as, Path("/o")) == meant


@pytest.mark.parametrize("name", ["we ird%20#1", "que?stion=1", "50%", "\u00e4&b"])
def test_files_may_be_called_anything(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert len(run_through(plan(storage_named("", tmp_path / name), 2))) == 2
    assert (tmp_path / name / "study.db").exists()
    assert str(tmp_path / name) in storage._why(OSError("x"), storage_named("", tmp_path / name), 1.0)


def test_no_password_is_shown() -> None:
    assert shown("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert "secret" not in shown("postgresql://me:secret@host:port/db")


# --- refused


@pytest.mark.parametrize(
    "change",
    [{"fingerprint": {"data": "other"}}, {"objectives": ("cost", "error")}, {"fingerprint": {"data": "d", "more": ""}}],
)
def test_a_study_of_something_else_is_refused_with_the_way_out(tmp_path: Path, change: dict[str, Any]) -> None:
    one = plan(sqlite(tmp_path), 2)
    before = run_through(one)
    with pytest.raises(InputError, match=r"--study NAME or --out DIR.*found one with another (data|objectives|more)"):
        open_study(replace(one, **change))
    assert [t.value for t in open_study(one).trials()] == [t.value for t in before]
    other = replace(one, name="another", **change)  # the way out
    assert len(run_through(other, lambda *_: Found((1.0,) * len(other.objectives)))) == 2


def test_a_study_of_another_program_is_refused(tmp_path: Path) -> None:
    other = optuna.create_study(storage=sqlite(tmp_path), study_name="toy")
    other.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(InputError, match="found one that another program made"):
        open_study(plan(sqlite(tmp_path)))


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("journal:{}/none/s.log", "a file in a folder that is there"),
        ("sqlite:///{}/none/s.db", "a database or a file that answers"),
        ("sqlite:///{}/garbage", "expected an SQLite file, found some other file"),
        ("nonsense://host/db", "a database's URL"),
        ("journal:{}/garbage", "expected a journal that Optuna wrote, whole"),
        ("journal:{}/cut", "expected a journal that Optuna wrote, whole"),
    ],
)
def test_storages_that_are_none(tmp_path: Path, storage: str, message: str) -> None:
    (tmp_path / "garbage").write_bytes(b"no database at all, " * 100 + b"\n")
    run_through(plan(f"journal:{tmp_path}/whole", 2))
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut").write_bytes(b"".join([lines[0], lines[1][:10] + b"\n", *lines[2:]]))
    with pytest.raises(InputError, match=message):
        open_study(plan(storage.format(tmp_path), patience=1.0))


# --- storages that fail


def test_what_comes_back_was_waited_for() -> None:
    calls: list[float] = []

    def work() -> str:
        calls.append(time.monotonic())
        if len(calls) < 3:
            raise OSError("gone")
        return "there"

    assert patiently(work, "journal:x", 10.0) == "there"
    assert calls[2] - calls[1] > calls[1] - calls[0] > 0.1  # ever more slowly


def test_what_does_not_come_back_is_said() -> None:
    def work() -> None:
        raise OSError("no route to host")

    with pytest.raises(OutOfReachError, match=r"x has not answered for 1 s \(no route to host\).*same command"):
        patiently(work, "x", 1.0)


def test_a_locked_file_is_waited_for_and_then_said(tmp_path: Path) -> None:
    one = plan(sqlite(tmp_path), 3, patience=1.5)
    opened = open_study(one)
    with sqlite3.connect(tmp_path / "study.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OutOfReachError, match=r"study\.db has been locked by another program for 2 s"):
            work(opened, judged)
        other.execute("ROLLBACK")
    other.close()
    work(opened, judged)
    assert len(done(opened.trials())) == 3


def test_an_interrupt_gives_the_trial_back(tmp_path: Path) -> None:
    def evaluate(choices: Mapping[str, Any], report: study.Report) -> Found:
        if choices["x"] == 1:
            raise KeyboardInterrupt
        return judged(choices, report)

    one = plan(sqlite(tmp_path), 6, sampler="grid")
    opened = open_study(one)
    with pytest.raises(KeyboardInterrupt):
        work(opened, evaluate)
    state = accounts(opened.trials(), 6)
    assert not state.running
    assert state.finished
    work(opened, judged)
    trials = opened.trials()
    assert len(accounts(trials, 6).finished) == 6
    died = [t for t in trials if t.state == TrialState.FAIL]
    assert [t.params["x"] for t in died] == [1]
    assert [t.params for t in trials if t.user_attrs[SLOT] == died[0].user_attrs[SLOT]] == [died[0].params] * 2


def test_who_was_taken_for_dead_drops_what_it_found(tmp_path: Path) -> None:
    one = plan(sqlite(tmp_path), 1)
    opened = open_study(one)
    calls: list[int] = []

    def evaluate(choices: Mapping[str, Any], report: study.Report) -> Found:
        calls.append(1)
        if len(calls) == 1:  # meanwhile somebody thinks that this process is dead, and does its work
            mine = opened.trials()[0]
            opened.storage.set_trial_state_values(mine._trial_id, TrialState.FAIL)
            work(open_study(one), lambda *_: Found((7.0,)))
        return Found((3.0,))

    work(opened, evaluate)
    assert [t.value for t in done(opened.trials())] == [7.0]
    assert len(opened.trials()) == 2


def test_a_slot_put_down_by_another_while_one_draws_is_put_down_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = plan(sqlite(tmp_path), 3, sampler="grid")
    opened, real, calls = open_study(one), study._drawn, []

    def drawn(mine: study.Opened, slot: int, kinds: Mapping[str, Any]) -> dict[str, Any]:
        calls.append(slot)
        if len(calls) == 1:  # another process begins, and is faster
            study._put_down(open_study(one), slot, None)
        return real(mine, slot, kinds)

    monkeypatch.setattr(study, "_drawn", drawn)
    work(opened, judged)
    assert calls[:2] == [0, 0]
    assert [(t.user_attrs[SLOT], t.state) for t in opened.trials()] == [(i, TrialState.COMPLETE) for i in range(3)]


def test_no_sign_of_life_for_long_enough_is_death(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(liveness.time, "monotonic", lambda: now[0])
    watch = liveness._Watch(10.0)
    running = trial(0, 0, TrialState.RUNNING)
    assert not watch.stale(running)
    now[0] = 9.0
    assert not watch.stale(running)
    running.user_attrs[liveness.BEAT] = 1
    now[0] = 18.0
    assert not watch.stale(running)
    now[0] = 28.5
    assert watch.stale(running)


def test_a_process_of_this_machine_that_is_gone_is_known_to_be_dead() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    here = liveness._here().rpartition("/")[0]
    assert not liveness._surely_dead(f"{here}/{os.getppid()}")
    assert not liveness._surely_dead(f"elsewhere/pid/{gone.pid}")
    assert not liveness._surely_dead("")
    gone.wait()
    assert liveness._surely_dead(f"{here}/{gone.pid}")
    assert liveness._surely_dead(liveness._here())  # asked between two trials, when this process has none


# --- several processes, some of them killed

WORKER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_study as t
from offramp.eval.tuning.plan import Found
from offramp.eval.tuning.study import open_study, work
log = open(sys.argv[2], "a", buffering=1)
begun = []

def evaluate(choices, report):
    log.write("begin\\n")
    begun.append(1)
    time.sleep(60 if sys.argv[4] == "victim" and len(begun) == 2 else 0.08)
    report(0, 1.0)
    time.sleep(0.08)
    log.write("end\\n")
    return Found((t.value_of(choices),))

work(open_study(t.plan(sys.argv[1], int(sys.argv[3]), sampler="random", patience=30.0, grace=20.0,
                       key=lambda c: str(time.monotonic()))), evaluate)
"""


def shared(storage: str, folder: Path, workers: int, kill: int, trials: int) -> list[FrozenTrial]:
    """Several processes run a study; ``kill`` of them are killed with -9 in the middle of their second trial, while the
    others, which begin once they are there, are at work. All its trials."""
    code = WORKER.format(tests=str(Path(__file__).parent))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    logs = [folder / f"log{i}" for i in range(workers)]
    started: list[subprocess.Popen[str]] = []
    try:
        for least, roles in ((2, ["victim"] * kill), (1, ["survivor"] * (workers - kill))):
            there = len(started)
            for role, log in zip(roles, logs[there:], strict=False):
                command = [sys.executable, "-W", "ignore", "-c", code, storage, str(log), str(trials), role]
                started.append(
                    subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, encoding="utf-8")
                )
            for process, log in list(zip(started, logs, strict=False))[there:]:
                _until(lambda log=log, least=least: _begun(log) >= least, process)  # type: ignore[misc]
        for victim in started[:kill]:
            victim.send_signal(signal.SIGKILL)
        for survivor in started[kill:]:
            _, told = survivor.communicate(timeout=90)
            assert survivor.returncode == 0, told
    finally:
        for process in started:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()
    assert [process.returncode for process in started[:kill]] == [-signal.SIGKILL] * kill
    assert sum(_begun(log, "end") for log in logs) in range(trials, trials + kill + 1)
    with opened_study(plan(storage, trials, sampler="random")) as opened:
        return list(opened.trials())


def _begun(log: Path, what: str = "begin") -> int:
    return log.read_text("utf-8").count(what) if log.exists() else 0


def _until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


def every_trial_is_accounted_for(trials: Sequence[FrozenTrial], wanted: int, killed: int) -> None:
    state = accounts(trials, wanted)
    assert state.finished.keys() == set(range(wanted))
    assert (state.running, state.waiting, state.missing) == ({}, {}, {})
    for slot, one in state.finished.items():
        assert one.state == TrialState.COMPLETE
        assert one.user_attrs[SLOT] == slot
        choices = {name: next(v for v in vs if label(v) == one.params[name]) for name, vs in SPACE.items()}
        assert one.value == value_of(choices)
    counted = {one.number for one in state.finished.values()}
    rest = [one for one in trials if one.number not in counted]
    died = [one for one in rest if one.state == TrialState.FAIL]
    assert len(died) <= killed  # one who was killed between two trials left none
    for one in died:  # begun again, with the same choices
        assert state.finished[one.user_attrs[SLOT]].params == one.params
    assert all(one.state == TrialState.WAITING for one in rest if one not in died)  # spares: nobody began them


@pytest.mark.parametrize("storage", ["sqlite:///{}/s.db", "journal:{}/s.log"])
def test_two_processes_one_of_them_killed(tmp_path: Path, storage: str) -> None:
    trials = shared(storage.format(tmp_path), tmp_path, workers=2, kill=1, trials=14)
    every_trial_is_accounted_for(trials, 14, killed=1)


def _postgres() -> str:
    """The folder of the server's programs; skips where there is none, or no driver."""
    if find_spec("psycopg2") is None and find_spec("psycopg") is None:
        pytest.skip("NOT TESTED on PostgreSQL: no driver; pip install 'psycopg[binary]'")
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders or not (folders[-1] / "postgres").exists():
        pytest.skip("NOT TESTED on PostgreSQL: no server; apt-get install postgresql")
    if os.geteuid() == 0 and not (shutil.which("setpriv") or shutil.which("su")):
        pytest.skip("NOT TESTED on PostgreSQL: it refuses to run as root, and there is neither setpriv nor su")
    return str(folders[-1])


class Server:
    """A PostgreSQL server of the test's own, which can be stopped and started again."""

    def __init__(self, folder: Path, programs: str) -> None:
        self.folder, self.programs = folder, programs
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql://tester@127.0.0.1:{self.port}/postgres"
        self._run("initdb", "-D", str(folder / "db"), "-U", "tester", "-A", "trust", "--no-sync", "-E", "UTF8")

    def _run(self, program: str, *flags: str) -> None:
        command = [f"{self.programs}/{program}", *flags]
        if os.geteuid() == 0:
            user = "postgres" if _is_user("postgres") else "nobody"
            shutil.chown(self.folder, user)
            if shutil.which("setpriv"):
                command = ["setpriv", "--reuid", user, "--regid", _group(user), "--clear-groups", *command]
            else:
                command = ["su", user, "-s", "/bin/sh", "-c", " ".join(command)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=False, cwd=self.folder)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self.folder / "db"), "-l", log, "-w", "-t", "50", "-o", options, "start")

    def stop(self) -> None:
        if not (self.folder / "db" / "postmaster.pid").exists():
            return
        self._run("pg_ctl", "-D", str(self.folder / "db"), "-m", "immediate", "-w", "stop")


def _is_user(name: str) -> bool:
    import pwd

    return name in {entry.pw_name for entry in pwd.getpwall()}


def _group(user: str) -> str:
    import pwd

    return str(pwd.getpwnam(user).pw_gid)


@pytest.fixture
def server() -> Iterator[Server]:
    programs = _postgres()
    with tempfile.TemporaryDirectory(prefix="pg") as folder:  # not pytest's own: another user has to get in
        Path(folder).chmod(0o755)
        found = Server(Path(folder), programs)
        found.start()
        try:
            yield found
        finally:
            found.stop()


def test_four_processes_on_postgresql_two_of_them_killed(server: Server, tmp_path: Path) -> None:
    trials = shared(server.url, tmp_path, workers=4, kill=2, trials=24)
    every_trial_is_accounted_for(trials, 24, killed=2)


def test_a_database_gone_in_the_middle_leaves_the_study_whole(server: Server) -> None:
    one = plan(server.url, 8, patience=1.5, sampler="grid")
    opened = open_study(one)
    seen: list[float] = []

    def evaluate(choices: Mapping[str, Any], report: study.Report) -> Found:
        seen.append(value_of(choices))
        if len(seen) == 4:
            server.stop()
        return Found((seen[-1],))

    told: list[int] = []
    with pytest.raises(OutOfReachError, match=r"has not answered for 2 s .*the study is as it was"):
        work(opened, evaluate, lambda trials: told.append(len(done(trials))))
    opened.close()
    assert told[-1] == 3
    server.start()
    trials = run_through(one)
    assert len(accounts(trials, 8).finished) == 8
    assert [t.value for t in done(trials)][:3] == seen[:3]


def test_a_database_that_is_back_in_time_was_only_waited_for(server: Server) -> None:
    def evaluate(choices: Mapping[str, Any], _: study.Report) -> Found:
        if not missed:
            missed.append(1)
            server.stop()
            server.start()
        return Found((value_of(choices),))

    missed: list[int] = []
    trials = run_through(plan(server.url, 3, patience=20.0), evaluate)
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 3


def test_choices_are_labelled_apart() -> None:
    for values in SPACE.values():
        assert len({json.dumps(label(value)) for value in values}) == len(values)


def test_pruning_is_no_error() -> None:
    assert not issubclass(PrunedError, ValueError)
