"""The command: what it says, writes and returns, and that neither a restart nor a kill loses what was seen."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp.cascades.files.datafolder import keep_back, read_folder
from offramp.cascades.files.policy import Bound, Certificate, Deployment, policies_digest, write_deployment
from offramp.cascades.graph.topology import parse_topology, unroll
from offramp.cascades.learning.fit import FitSettings
from offramp.cascades.learning.points import digest_of, fit_points
from offramp.cascades.learning.targets import Expected, Target
from offramp.eval.guarantees.reference import confidences, path_names, reference_of
from offramp.eval.monitoring.routinglog import NONE, write_log
from offramp.eval.watch import ALARM, HEAD, main
from offramp.features.outputs import Floats

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def deployment() -> tuple[Deployment, Callable[..., None]]:
    """A policy on the embedded data with a reference and a certificate, and a writer of logs of its test part."""
    data = keep_back(read_folder("cifar10"), 0.4, 0)
    routes = unroll(parse_topology("a_g", tuple(data.costs.stages)), data.costs)
    parts = {name: part.of(routes.stages) for name, part in data.parts.items()}
    fit = parts["fit"].take(slice(1500))
    fitted, picking = fit_points(fit, None, routes, 5, FitSettings(("threshold",)))
    cost = np.array([routing.mean_cost for routing in picking.routings])
    error = np.array([routing.error for routing in picking.routings])
    routings = fitted.route(parts["certify"])
    visits = [int(np.sort(routing.visits)[-2]) for routing in routings]
    point = int(np.argmax(visits))  # examples take different paths there
    routing = routings[point]
    bounds, spent = (Bound("increase", 0.1, 0.05, {}),), routing.mean_cost
    policies = policies_digest(fitted)
    made = Certificate(0.05, bounds, spent * 1.05, spent, len(routing), "", "by hand", point, policies)
    target = Target(error_increase=0.1)
    expected = Expected(cost, error, float(picking.there.wrong[:, 1].mean()), len(picking.there))
    digests = {name: digest_of(part) for name, part in parts.items()}
    reference = reference_of(routing, parts["certify"])
    found = Deployment(
        *(fitted, point, "a_g", data.costs, target, expected, data.name, 0, 0.4, digests, 10),
        certificate=made,
        reference=reference,
    )
    test = parts["test"]
    tested = fitted.route(test)[point]
    sure, names = confidences(tested, test), path_names(routes)
    largest = np.asarray(test.stages[1].logits).argmax(axis=1)

    def log(path: Path, count: int, seed: int, cats: float = 1.0, labelled: float = 0.1) -> None:
        rng = np.random.default_rng(seed)
        chance: Floats = np.where(test.labels == 3, cats, 1.0)
        rows = rng.choice(len(test), size=count, p=chance / chance.sum())
        label = np.where(rng.random(count) < labelled, test.labels[rows], NONE)
        taken = [names[q] for q in tested.path[rows]]
        write_log(path, taken, sure[rows], tested.answer[rows], label, rows, largest[rows])

    return found, log


Log = Callable[..., None]


@pytest.fixture
def policy(deployment: tuple[Deployment, Log], tmp_path: Path) -> Path:
    path = tmp_path / "policy.json"
    write_deployment(deployment[0], path)
    return path


@pytest.fixture
def write(deployment: tuple[Deployment, Log]) -> Log:
    return deployment[1]


def run(policy: Path, log: Path | str, *more: str) -> int:
    return main(["--policy", str(policy), "--log", str(log), *more])


def test_no_alarm_where_nothing_has_changed(
    policy: Path, write: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "log.csv", 6000, 0)
    assert run(policy, tmp_path / "log.csv", "--every", "2500", "--json", str(tmp_path / "new" / "r.json")) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["2,500", "5,000", "6,000", "No"]
    assert "mean cost" in lines[0]
    assert told.err == ""
    report = json.loads((tmp_path / "new" / "r.json").read_text())
    assert (report["examples"], report["alarms"], report["broken"]) == (6000, [], 0)
    assert 400 < report["labelled"] < 800
    assert sum(path["examples"] for path in report["exits"].values()) == 6000
    assert sum(path["reference_share"] for path in report["exits"].values()) == pytest.approx(1)
    assert len(report["monitors"]) == 7
    assert all(one["highest_e_value"] < one["alarm_at_e_value"] == pytest.approx(140) for one in report["monitors"])


def test_an_alarm_in_words_and_numbers(
    policy: Path, write: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "log.jsonl", 4000, 1, cats=4.0)
    flags = ["--json", str(tmp_path / "r.json"), "--prometheus", str(tmp_path / "m.prom")]
    assert run(policy, tmp_path / "log.jsonl", *flags) == ALARM == 3
    told = capsys.readouterr().out
    assert re.search(r"ALARM \(answers, at line [\d,]+\): since about example 1: class 3 is answered more often", told)
    assert "No alarm" not in told
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["alarms"][0]["monitor"] == "answers"
    assert report["alarms"][0]["e_value"] >= 140
    metrics = (tmp_path / "m.prom").read_text()
    assert 'offramp_watch_alarm{monitor="answers"} 1.0' in metrics.splitlines()
    assert "offramp_watch_lines_total 4000.0" in metrics.splitlines()


def test_metrics_are_what_prometheus_reads(policy: Path, write: Log, tmp_path: Path) -> None:
    write(tmp_path / "log.csv", 500, 2)
    assert run(policy, tmp_path / "log.csv", "--prometheus", str(tmp_path / "m.prom")) == 0
    text = (tmp_path / "m.prom").read_text()
    assert text.endswith("\n")
    sample = re.compile(r'([a-z_]+)(\{[a-z]+="(?:[^"\\\n]|\\[\\"n])*"\})? (-?[0-9.e+-]+)')
    kinds: dict[str, str] = {}
    seen = set()
    for line in text.splitlines():
        if line.startswith("#"):
            _, word, name, rest = line.split(" ", 3)
            assert word in ("HELP", "TYPE")
            if word == "TYPE":
                assert name not in kinds
                kinds[name] = rest
            continue
        match = sample.fullmatch(line)
        assert match, line
        float(match[3])
        assert match[1] in kinds
        assert (match[1], match[2]) not in seen
        seen.add((match[1], match[2]))
    assert {"counter", "gauge"} == set(kinds.values())
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in kinds.items())
    assert all(name.startswith("offramp_watch_") for name in kinds)


# --- bad input


def test_a_policy_without_a_reference_says_what_to_do(
    deployment: tuple[Deployment, Log], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_deployment(replace(deployment[0], reference=None), tmp_path / "p.json")
    deployment[1](tmp_path / "log.csv", 10, 0)
    assert run(tmp_path / "p.json", tmp_path / "log.csv") == 2
    assert "run eval.certify" in capsys.readouterr().err


def test_a_reference_that_does_not_add_up_is_refused(
    deployment: tuple[Deployment, Log], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, write = deployment
    assert found.reference is not None
    write(tmp_path / "log.csv", 10, 0)
    for other in (
        replace(found.reference, examples=17),
        replace(found.reference, exits={"resnet": found.reference.examples}),
        replace(found.reference, answers=(found.reference.examples,)),
        replace(found.reference, wrong=2**52),
    ):
        try:
            write_deployment(replace(found, reference=other), tmp_path / "p.json")
        except ValueError:
            continue  # not even written
        assert run(tmp_path / "p.json", tmp_path / "log.csv") == 2
        assert "expected a reference" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "a log of at least one example, found none"),
        ("path,confidence\n", "a log of at least one example, found none"),
        ("path,confidence\nalexnet>resnet,0.5\n", "line 2: expected a path of the policy, alexnet, alexnet>googlenet"),
        ("path,confidence\nalexnet,NaN\n", "line 2: expected a confidence from 0 to 1"),
        ("path,label\nalexnet,1\n", "expected a column 'confidence'"),
    ],
)
def test_a_log_that_is_none(
    content: str, says: str, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.csv").write_text(content)
    assert run(policy, tmp_path / "log.csv") == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


def test_broken_lines_are_counted_and_named(
    policy: Path, write: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "log.csv", 50, 10)
    with (tmp_path / "log.csv").open("a") as file:
        file.write("alexnet,0.5\n1,alexnet,2,,,\n1,other,0.5,,,")
    assert run(policy, tmp_path / "log.csv", "--broken", "skip", "--json", str(tmp_path / "r.json")) == 0
    told = capsys.readouterr()
    assert "line 52: expected 6 fields, found 2" in told.err
    assert "line 54: expected a path" in told.err
    assert "3 lines were passed over" in told.out
    assert json.loads((tmp_path / "r.json").read_text())["broken"] == 3
    (tmp_path / "log.csv").write_text("path,confidence\nx,1\ny,1\n")
    assert run(policy, tmp_path / "log.csv", "--broken", "skip") == 2
    assert "2 lines that can't be used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--alpha", "0"], "--alpha"),
        (["--alpha", "1"], "--alpha"),
        (["--every", "0"], "--every"),
        (["--broken", "mend"], "stop, skip"),
        (["--log", "nowhere.csv"], "expected a log, found No such file"),
        (["--log", "."], "a folder"),
        (["--policy", "nowhere.json"], "nowhere.json"),
        (["--json", "log.csv/x/r.json"], "--json"),
        (["--state", "."], "--state"),
    ],
)
def test_flags_that_make_no_sense(
    flags: list[str],
    says: str,
    policy: Path,
    write: Log,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "log.csv", 10, 0)
    assert run(policy, "log.csv", *flags) == 2
    assert says in capsys.readouterr().err


# --- going on


def states(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def test_a_log_in_three_sittings_is_one_log(policy: Path, write: Log, tmp_path: Path) -> None:
    write(tmp_path / "whole.csv", 5000, 3, cats=1.5)
    text = (tmp_path / "whole.csv").read_bytes()
    whole, state = tmp_path / "whole.state", tmp_path / "parts.state"
    code = run(policy, tmp_path / "whole.csv", "--state", str(whole))
    grown = tmp_path / "grown.csv"
    ends = [text.index(b"\n", at) + 1 for at in (len(text) // 5, len(text) // 2)]
    for end in (*ends, len(text)):
        grown.write_bytes(text[:end])
        again = run(policy, grown, "--state", str(state))
    assert again == code
    assert states(state)["watch"] == states(whole)["watch"]
    assert states(state)["log"]["line"] == 5001
    # nothing new: nothing happens, and the alarm, if any, still stands
    assert run(policy, grown, "--state", str(state)) == code
    assert states(state)["watch"] == states(whole)["watch"]


def test_another_log_goes_on_with_the_same_evidence(policy: Path, write: Log, tmp_path: Path) -> None:
    """The log of the next day, in another format, or of rows."""
    state = tmp_path / "state"
    for day, suffix in enumerate(("csv", "jsonl", "parquet", "csv")):
        write(tmp_path / f"{day}.{suffix}", 700, 4 + day)
        run(policy, tmp_path / f"{day}.{suffix}", "--state", str(state))
        run(policy, tmp_path / f"{day}.{suffix}", "--state", str(state))  # known again
        assert states(state)["watch"]["lines"] == 700 * (day + 1)
    (tmp_path / "3.csv").write_bytes((tmp_path / "0.csv").read_bytes()[: HEAD + 1000])
    run(policy, tmp_path / "3.csv", "--state", str(state), "--broken", "skip")
    assert states(state)["watch"]["lines"] > 2800


def test_a_line_without_its_end_is_not_taken_twice(policy: Path, tmp_path: Path) -> None:
    log, state = tmp_path / "log.csv", tmp_path / "state"
    log.write_text("path,confidence\n" + "alexnet,0.99\n" * 3 + "alexnet,0.9")
    assert run(policy, log, "--state", str(state)) == 0
    assert states(state)["watch"]["lines"] == 4
    with log.open("a") as file:
        file.write("99\nalexnet,0.8\n")
    assert run(policy, log, "--state", str(state)) == 0
    assert states(state)["watch"]["lines"] == 5
    assert states(state)["watch"]["counts"]["paths"][0] == 5


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-20],
        lambda _: "[" * 100_000,
        lambda text: text.replace('"version": 1', '"version": 9'),
        lambda text: text.replace('"lines": ', '"lines": -'),
        lambda text: text.replace('"offset": ', '"offset": "x", "off": '),
        lambda text: text.replace('"now": [[', '"now": [["x", '),
        lambda text: text.replace('"saved": [', '"saved": [NaN, '),
        lambda text: text.replace('"key": "', '"key": "0'),
        lambda _: "{}",
        lambda _: "",
    ],
)
def test_a_spoilt_state_is_refused(
    spoil: Callable[[str], str], policy: Path, write: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    write(tmp_path / "log.csv", 300, 5)
    assert run(policy, tmp_path / "log.csv", "--state", str(state)) == 0
    before = spoil(state.read_text())
    assert before != state.read_text()
    state.write_text(before)
    capsys.readouterr()
    assert run(policy, tmp_path / "log.csv", "--state", str(state)) == 2
    told = capsys.readouterr().err
    assert str(state) in told
    assert told.count("\n") == 1
    assert state.read_text() == before


def test_a_state_of_another_promise_is_refused(
    policy: Path, write: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "log.csv", 300, 5)
    flags = ["--state", str(tmp_path / "state")]
    assert run(policy, tmp_path / "log.csv", *flags) == 0
    assert run(policy, tmp_path / "log.csv", *flags, "--alpha", "0.01") == 2
    assert "remove this file" in capsys.readouterr().err


# --- real processes


@pytest.fixture
def start(policy: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """start(log, *flags, stdin=..): the command in a process of its own, which does not outlive the test."""
    begun: list[subprocess.Popen[bytes]] = []

    def make(log: Path | str, *flags: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "eval.watch", "--policy", str(policy), "--log", str(log), *flags]
        found = subprocess.Popen(
            command, cwd=ROOT, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}
        )
        begun.append(found)
        return found

    yield make
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def lines_in(state: Path) -> int:
    return int(states(state)["watch"]["lines"]) if state.exists() else 0


def test_killed_in_the_middle_it_goes_on_where_it_was(
    start: Callable[..., subprocess.Popen[bytes]], policy: Path, write: Log, tmp_path: Path
) -> None:
    """A growing log, a watch that is killed with -9 between saves and started again: as if it had never been."""
    write(tmp_path / "whole.csv", 12_000, 6, cats=1.6)
    text = (tmp_path / "whole.csv").read_bytes()
    code = run(policy, tmp_path / "whole.csv", "--state", str(tmp_path / "whole.state"))
    log, state = tmp_path / "log.csv", tmp_path / "state"
    flags = ("--follow", "--state", str(state), "--prometheus", str(tmp_path / "m.prom"))
    third, half = len(text) // 3, len(text) // 2  # within lines
    log.write_bytes(text[:third])
    first = start(log, *flags)
    wait_for(lambda: lines_in(state) > 2500)
    with log.open("ab") as file:
        file.write(text[third:half])
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert json.loads(state.read_text())["watch"]["lines"] < 12_000
    assert not [one for one in tmp_path.iterdir() if one.name.endswith(".part")]

    second = start(log, *flags)
    with log.open("ab") as file:
        file.write(text[half:])
    wait_for(lambda: lines_in(state) == 12_000)
    second.send_signal(signal.SIGTERM)
    out, err = second.communicate(timeout=60)
    assert second.returncode == 130
    assert "offramp_watch_lines_total 12000.0\n" in (tmp_path / "m.prom").read_text()
    assert b"interrupted after 12,000 lines; what they said is saved" in err
    assert b"Going on after" in out
    for monitor, found in states(tmp_path / "whole.state")["watch"]["monitors"].items():
        again = states(state)["watch"]["monitors"][monitor]
        assert (again["now"], again["starts"], again["alarm"]) == (found["now"], found["starts"], found["alarm"])
        assert again["highest"] >= found["highest"] - 1e-9  # pauses are looks too
    assert run(policy, log, "--state", str(state)) == code


def test_a_log_that_is_moved_away_is_followed(
    start: Callable[..., subprocess.Popen[bytes]], write: Log, tmp_path: Path
) -> None:
    log, state = tmp_path / "log.csv", tmp_path / "state"
    write(log, 300, 7)
    write(tmp_path / "next.csv", 400, 8)
    process = start(log, "--follow", "--state", str(state))
    wait_for(lambda: lines_in(state) == 300)
    log.rename(tmp_path / "log.csv.1")
    (tmp_path / "next.csv").rename(log)
    wait_for(lambda: lines_in(state) == 700)
    text = log.read_bytes()
    log.write_bytes(text[: text.index(b"\n", 2000) + 1])  # cut and begun anew, at less than before
    begun = text[: text.index(b"\n", 2000) + 1].count(b"\n") - 1
    wait_for(lambda: lines_in(state) == 700 + begun)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130


def test_a_stream_is_watched_as_it_comes(
    start: Callable[..., subprocess.Popen[bytes]], write: Log, tmp_path: Path
) -> None:
    write(tmp_path / "log.jsonl", 3000, 9, cats=4.0)
    text = (tmp_path / "log.jsonl").read_bytes()
    process = start("-", "--every", "1000", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(text[: len(text) // 2])
    process.stdin.flush()
    assert process.stdout.readline().startswith((b"1,000", b"ALARM"))  # before the stream ends
    out, err = process.communicate(text[len(text) // 2 :], timeout=60)
    assert process.returncode == ALARM
    assert b"ALARM" in out
    assert err == b""


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from offramp.eval.watch import main\ntry: main(['--help'])\n"
        "except SystemExit: print({'torch', 'pandas', 'scipy', 'pyarrow', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.rstrip().endswith("set()")
