"""What the program writes: whole or not there, no mixed set unnoticed, nothing lost, nothing over what is read."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offramp.cascades.files.embedded import EMBEDDED
from offramp.eval.frontier import FILES
from offramp.eval.report.files import Folder, refuse_mixed, writable
from offramp.features.errors import InputError
from offramp.features.store.atomic import OLD, SETTLED, locked, refuse_overwriting, replacing, sweep

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def command(name: str, *flags: object, **more: object) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", f"eval.{name}", *map(str, flags)]
    return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)  # type: ignore[call-overload, no-any-return]


def python(code: str, *args: object) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(run: subprocess.Popen[str], code: int = 0) -> str:
    out, err = run.communicate(timeout=120)
    assert run.returncode == code, err
    assert "Traceback" not in err
    return err if code else out


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tuned")
    flags = ("--max-error-increase", 0.01, "--trials", 0, "--points", 4, "--out", out)
    ended(command("tune", "--topology", "a_g", *flags))
    return out


@pytest.fixture
def policy(tuned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(tuned / "policy.json", tmp_path / "policy.json"))


# --- one file


def test_permissions_are_as_the_umask_has_them_and_a_link_stays_one(tmp_path: Path) -> None:
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    link.symlink_to(real)
    before = os.umask(0o027)
    try:
        with replacing(link) as temporary:
            temporary.write_text("new")
    finally:
        os.umask(before)
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_only_a_file_is_replaced(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x")
    with pytest.raises(InputError, match="x: expected a file that can be written"), replacing(tmp_path / "x") as path:
        path.write_text("")
    assert names(tmp_path) == ["x"]


def test_what_dead_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from offramp.features.store.atomic import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as temporary:\n"
        " temporary.write_text('half'); print('there', flush=True); sys.stdin.read() or os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "a.json"
    living = subprocess.Popen(
        [sys.executable, "-c", code, path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert living.stdout is not None
    assert living.stdout.readline() == "there\n"
    (held,) = names(tmp_path)
    long_ago = time.time() - SETTLED - 60
    os.utime(tmp_path / held, (long_ago, long_ago))
    others = [".a.json.tmp", ".b.json.0123456789abcdef.tmp", "a.json.0123456789abcdef.tmp", ".a.json.7.part"]
    for name in others:
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (long_ago, long_ago))
    sweep(tmp_path, ["a.json"])
    assert names(tmp_path) == sorted([held, *others])  # its writer lives
    living.communicate(timeout=30)
    assert living.returncode == -signal.SIGKILL
    os.utime(tmp_path / others[-1], (long_ago - OLD, long_ago - OLD))  # of an earlier version
    with replacing(path) as temporary:
        temporary.write_text("whole")
    assert names(tmp_path) == sorted([*others[:-1], "a.json"])


WRITER = """
import os, sys; from pathlib import Path
os.getpid = lambda: 1  # as in two containers
from offramp.eval.report.files import writable
folder = writable(Path(sys.argv[1]), "--out")
for _ in range(25):
    one = {"frontier.csv": sys.argv[2].encode() * 300_000, "summary.json": b"{}"}
    folder.write_all(one, tie="summary.json")
    folder.write_all({"alone.json": one["frontier.csv"]})
"""


def test_two_writers_of_one_number_and_a_reader_see_no_half_file(tmp_path: Path) -> None:
    writers = [python(WRITER, tmp_path, letter) for letter in "AB"]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        for name in ("frontier.csv", "alone.json"):
            if (tmp_path / name).exists():
                content = (tmp_path / name).read_bytes()
                assert content in (b"A" * 300_000, b"B" * 300_000)
                seen += 1
    for writer in writers:
        ended(writer)
    assert seen > 10
    refuse_mixed(tmp_path, ["frontier.csv"])
    assert names(tmp_path) == ["alone.json", "frontier.csv", "summary.json"]


# --- one at a time


def test_two_certificates_at_once_both_count(policy: Path) -> None:
    runs = [command("certify", "--policy", policy, "--delta", delta) for delta in (0.05, 0.1, 0.2)]
    for run in runs:
        ended(run)
    found = json.loads(policy.read_text())
    assert sorted(attempt["delta"] for attempt in found["attempts"]) == [0.05, 0.1, 0.2]
    assert found["certificate"] is not None
    assert names(policy.parent) == ["policy.json"]


def test_certificates_through_a_link_and_for_another_file_count_too(policy: Path) -> None:
    link, other = policy.with_name("link.json"), policy.with_name("other.json")
    link.symlink_to(policy)
    flags = ([link, "--delta", 0.05], [policy, "--delta", 0.1, "--out", other], [policy, "--target", -0.9])
    codes = (0, 0, 1)
    for run, code in zip([command("certify", "--policy", *line) for line in flags], codes, strict=True):
        run.communicate(timeout=120)
        assert run.returncode == code
    assert len(json.loads(policy.read_text())["attempts"]) == 3
    assert link.is_symlink()


def test_an_attempt_put_down_while_the_policy_is_tuned_anew_is_kept(tmp_path: Path) -> None:
    flags = ("--topology", "a_g", "--trials", 0, "--points", 4, "--out", tmp_path, "--max-error-increase")
    ended(command("tune", *flags, 0.01))
    path = tmp_path / "policy.json"
    with locked(path):  # both have read the policy when the first may write
        runs = [
            command("tune", *flags, 0.02),
            command("certify", "--policy", path, "--target", -0.9),
        ]
        time.sleep(6)
        assert [run.poll() for run in runs] == [None, None]
    told = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 1]
    assert all("waiting for another run that works on" in one for one in told)
    assert len(json.loads(path.read_text())["attempts"]) == 1


def test_a_certificate_is_not_written_over_another_policy(policy: Path, tmp_path: Path) -> None:
    out = tmp_path / "other"
    flags = ("--max-error-increase", 0.01, "--trials", 0, "--points", 3, "--out", out)
    ended(command("tune", "--topology", "a_g", *flags))
    with locked(policy):
        run = command("certify", "--policy", policy)
        time.sleep(5)
        shutil.copy(out / "policy.json", policy)
    assert "another, written meanwhile" in ended(run, 2)
    found = json.loads(policy.read_text())
    assert found["certificate"] is None
    assert len(found["attempts"]) == 1
    assert found["policies"] == json.loads((out / "policy.json").read_text())["policies"]


def test_waiting_ends_and_a_dead_holder_is_no_hindrance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.json"
    code = (
        "import sys, time, pathlib; from offramp.features.store.atomic import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = python(code, path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    began = time.monotonic()
    with (
        pytest.raises(InputError, match=r"\.p\.json\.lock: expected to have .* alone within 1\.5 s"),
        locked(path, 1.5),
    ):
        pass
    assert time.monotonic() - began < 5
    assert "waiting for another run that works on" in capsys.readouterr().err
    holder.kill()
    holder.communicate()
    with locked(path, 1.5):
        assert names(tmp_path) == [".p.json.lock"]
    assert names(tmp_path) == []


def test_locks_exclude_in_threads_too_though_their_file_comes_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("0")

    def count() -> None:
        for _ in range(15):
            with locked(path), replacing(path) as temporary:
                temporary.write_text(str(int(path.read_text()) + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() == "60"


def test_no_place_for_a_lock_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a folder in which a file can be locked"), locked(tmp_path / "no" / "p.json"):
        pass


def test_a_file_system_without_locks_is_one_line(policy: Path) -> None:
    code = (
        "import errno, fcntl, sys\ndef none(*_): raise OSError(errno.ENOLCK, 'No locks available')\n"
        "fcntl.flock = none\nfrom offramp.eval.certify import main\nsys.exit(main(sys.argv[1:]))"
    )
    before = policy.read_bytes()
    said = ended(python(code, "--policy", policy), 2)
    assert "No locks available" in said
    assert said.count("\n") == 1
    assert policy.read_bytes() == before


# --- sets

KILLED = """
import os, signal, sys
left, real = int(sys.argv[1]), os.replace
def replace(*args, **more):
    global left
    left -= 1
    if left < 0: os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **more)
os.replace = os.rename = replace
from offramp.eval.frontier import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def frontiers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    out, data = tmp_path_factory.mktemp("frontier"), tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    small, large = (skill * np.eye(3)[labels] + rng.normal(size=(400, 3)) for skill in (1, 4))
    np.savez(data / "outputs.npz", labels=labels, a=small, g=large)
    (data / "costs.json").write_text('{"unit": "ms", "stages": {"a": 1, "g": 9}}')
    flags = ["--topology", "a_g", "--data", str(data), "--policies", "threshold"]
    ended(command("frontier", *flags, "--points", 3, "--out", out))
    return out, flags


@pytest.mark.parametrize("renames", [0, 1, 2, 3, 4])
def test_a_kill_between_renames_is_noticed(frontiers: tuple[Path, list[str]], tmp_path: Path, renames: int) -> None:
    out = tmp_path / "out"
    shutil.copytree(frontiers[0], out)
    before = {name: (out / name).read_bytes() for name in FILES}
    run = python(KILLED, renames, *frontiers[1], "--points", 4, "--out", out)
    run.communicate(timeout=120)
    assert run.returncode == (-signal.SIGKILL if renames < 4 else 0)
    assert [(out / name).read_bytes() != before[name] for name in FILES] == [i < renames for i in range(4)]
    if renames in (0, 4):
        refuse_mixed(out, ["frontier.csv", "policies.json"])
    else:
        with pytest.raises(InputError, match="a mixed set: ") as caught:
            refuse_mixed(out, ["frontier.csv", "policies.json"])
        old, new = str(caught.value).split(" of an older run than ")
        assert "frontier.csv" in new
        assert ("policies.json" in old) == (renames < 3)
        assert "summary.json" in old
    time.sleep(SETTLED)
    ended(command("frontier", *frontiers[1], "--points", 4, "--out", out))
    assert names(out) == sorted(FILES)
    refuse_mixed(out, ["frontier.csv", "policies.json"])


def test_a_run_refuses_a_mixed_set_and_reads_one_without_digests(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out, other = tmp_path / "out", tmp_path / "other"
    for points, folder in ((3, out), (4, other)):
        ended(command("frontier", "--topology", "a_g", "--policies", "threshold", "--points", points, "--out", folder))
    first = (out / "frontier.csv").read_bytes()
    shutil.copy2(other / "frontier.csv", out)
    line = ("--topology", "a_g", "--policies", out, "--rows", ":64", "--rounds", 1, "--margins", 0)
    said = ended(command("run", *line), 2)
    assert "a mixed set: policies.json, summary.json of an older run than frontier.csv" in said
    assert said.count("\n") == 1
    (out / "frontier.csv").write_bytes(first)
    summary = json.loads((out / "summary.json").read_text())
    assert summary.pop("files").keys() == {*FILES} - {"summary.json"}
    (out / "summary.json").write_text(json.dumps(summary))
    ended(command("run", *line))


@SETTINGS
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=2, max_size=3), st.integers(1, 3))
def test_a_reader_sees_no_mixed_set_among_writers(tmp_path: Path, plans: list[list[int]], readers: int) -> None:
    out = Path(writable(tmp_path / os.urandom(4).hex(), "--out").path)
    done = threading.Event()
    wrong: list[object] = []

    def write(who: int, pauses: list[int]) -> None:
        for turn, pause in enumerate(pauses):
            text = f"{who} {turn}".encode() * 50
            Folder(out).write_all({"a.csv": text, "b.json": text, "summary.json": b"{}"}, tie="summary.json")
            time.sleep(pause / 1000)

    def read() -> None:
        while not done.is_set():
            try:
                tied = (out / "summary.json").exists()  # the first set may come during the look
                before = refuse_mixed(out, ["a.csv", "b.json"])
                found = [path.read_bytes() if path.exists() else b"" for path in (out / "a.csv", out / "b.json")]
                after = refuse_mixed(out, ["a.csv", "b.json"])
                if before == after and found[0] != found[1] and tied:
                    wrong.append(found)
            except Exception as error:
                wrong.append(error)

    work = [threading.Thread(target=write, args=one) for one in enumerate(plans)]
    look = [threading.Thread(target=read) for _ in range(readers)]
    for thread in (*look, *work):
        thread.start()
    for thread in work:
        thread.join()
    done.set()
    for thread in look:
        thread.join()
    assert wrong == []
    assert names(out) == ["a.csv", "b.json", "summary.json"]


# --- an output that is an input


@pytest.fixture
def log(policy: Path) -> Path:
    path = policy.with_name("log.csv")
    path.write_text("path,confidence\na,0.5\n")
    return path


@pytest.mark.parametrize("how", ["same", "spelled", "link", "hard"])
@pytest.mark.parametrize(
    ("flag", "taken"),
    [
        *(("--json", "policy.json"), ("--prometheus", "log.csv"), ("--state", "log.csv"), ("--state", "policy.json")),
        *(("--json", "x"), ("--prometheus", "x")),
    ],
)
def test_a_watch_writes_over_nothing_that_it_reads(policy: Path, log: Path, flag: str, taken: str, how: str) -> None:
    from offramp.eval.watch import main

    path = policy.parent / taken
    (policy.parent / "x").touch()
    if how == "spelled":
        path = policy.parent / ".." / policy.parent.name / taken
    elif how != "same":
        path = policy.parent / "other"
        (path.symlink_to if how == "link" else path.hardlink_to)(policy.parent / taken)
    before = {name: (policy.parent / name).read_bytes() for name in names(policy.parent)}
    line = ["--policy", str(policy), "--log", str(log), flag, str(path)]
    assert main([*line, *(["--state", str(policy.parent / "x")] if taken == "x" else [])]) == 2
    assert {name: (policy.parent / name).read_bytes() for name in names(policy.parent)} == before


def test_no_command_writes_over_what_it_reads(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from offramp.eval import certify, extract, frontier, run, tune

    data = tmp_path / "data"
    shutil.copytree(EMBEDDED / "cifar10", data)
    policy, groups = tmp_path / "policy.json", tmp_path / "groups.csv"
    shutil.copy(tuned / "policy.json", policy)
    groups.write_text("id,group\n")
    one = sorted(path.name for path in data.iterdir() if path.name.endswith("outputs.npz"))[0]
    for name in ("frontier.csv", "summary.json", "run.csv"):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).symlink_to(data / one)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    common = ["--policy", str(policy), "--data", str(data)]
    lines = [
        (frontier.main, ["--topology", "a_g", "--data", str(data), "--out", str(tmp_path / "out")]),
        (tune.main, ["--topology", "a_g", "--budget", "1ms", "--data", str(data), "--out", str(tmp_path / "out")]),
        (certify.main, [*common, "--out", str(data / one)]),
        (certify.main, [*common, "--out", str(data / "costs.json")]),
        (certify.main, [*common, "--groups", str(groups), "--out", str(groups)]),
        (certify.main, [*common, "--groups", str(policy)]),
        (run.main, [*common, "--out", str(tmp_path / "out")]),
        (run.main, [*common, "--log", str(data / "costs.json")]),
        (
            run.main,
            ["--topology", "a_g", "--models", f"a=file:{groups}@alexnet", "--margins", "0", "--log", str(groups)],
        ),
        (
            extract.main,
            ["--models", "alexnet", "--images", str(data / one), "--part", one.split(".")[0], "--out", str(data)],
        ),
    ]
    for main, line in lines:
        assert main(line) == 2, line
        said = capsys.readouterr().err
        assert said.count("\n") == 1, line
        assert "which this run reads" in said or "a name that ends in" in said, said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_paths_of_their_own_are_fine(tmp_path: Path) -> None:
    (tmp_path / "outputs.npz").touch()
    refuse_overwriting([("--out", tmp_path / "frontier.csv"), ("--log", None)], [("--data", tmp_path), ("--log", "-")])
    refuse_overwriting([("--out", tmp_path / "a")], [("--data", "cifar10"), ("--groups", ""), ("--images", "a\0b")])
    with pytest.raises(InputError, match=r"--b: expected a file of its own, .* which this run writes too"):
        refuse_overwriting([("--a", tmp_path / "x"), ("--b", tmp_path / "." / "x")], [])


def test_one_watch_at_a_time_has_a_state(policy: Path, log: Path) -> None:
    state = policy.with_name("state.json")
    with locked(state):
        said = ended(command("watch", "--policy", policy, "--log", log, "--state", state), 2)
    assert "another run that works on it" in said
