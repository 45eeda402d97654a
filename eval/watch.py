"""A log or a stream of routings turned into alarms: has the world changed since the policy was certified?"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from offramp.cascades.command.settings import guard, parse
from offramp.features.errors import InputError
from offramp.features.store.opening import opened, refuse_unopenable

if TYPE_CHECKING:
    from offramp.eval.guarantees.reference import Subject
    from offramp.eval.monitoring.drift import Watch
    from offramp.eval.monitoring.monitors import Alarm
    from offramp.eval.monitoring.routinglog import Examples, Log

ALARM = 3
"""Exit code where there was an alarm; 0 where there was none, 2 for bad input, 1 and 130 as everywhere."""

SAVE = 2_500
"""Lines after which the state is saved, at most."""

PAUSE = 0.2
"""Seconds between two looks for new lines at the end of a growing log."""

STATE_WAIT = 5.0
"""Seconds that another watch may take to end, whose state is to be gone on from."""

HEAD = 4096
"""Bytes by which a log is known again."""

FORMAT, VERSION = "offramp watch", 1
STDIN = "-"


@dataclass(frozen=True)
class Settings:
    """The flags of the command."""

    policy: Path = field(metadata={"help": "policy.json with a reference, as eval.certify leaves it"})
    log: str = field(
        metadata={
            "help": "routing log (CSV, JSON lines, parquet; columns path, confidence, answer, label, largest) or -"
        }
    )
    alpha: float = field(
        default=0.05,
        metadata={
            "help": "probability of any false alarm, over the whole stream however long",
            "minimum": 1e-9,
            "maximum": 0.5,
        },
    )
    every: int = field(default=10_000, metadata={"help": "examples between status lines", "minimum": 1})
    json: Path | None = field(default=None, metadata={"help": "file for the report"})
    prometheus: Path | None = field(
        default=None, metadata={"help": "file for metrics, in Prometheus' text format; renewed as the log is read"}
    )
    state: Path | None = field(
        default=None,
        metadata={"help": "file to go on from, and to save what was seen to, so that a restart loses nothing"},
    )
    follow: bool = field(default=False, metadata={"help": "wait for new lines at the log's end, as tail -F does"})
    broken: str = field(
        default="stop", metadata={"help": "what to do with lines that can't be used", "choices": ("stop", "skip")}
    )
    seed: int = field(default=0, metadata={"help": "of the draws that break ties", "minimum": 0, "maximum": 2**63 - 1})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 3 where something has changed, 0 where nothing is known to have."""
    return guard(lambda: watch(parse(Settings, argv, "python -m eval.watch", __doc__ or "")))


def watch(settings: Settings) -> int:
    """Read the log to its end, or for ever, and return the exit code."""
    from offramp.eval.report.files import writable
    from offramp.features.store.atomic import locked, refuse_overwriting

    outputs = [(f"--{flag}", getattr(settings, flag)) for flag in ("json", "prometheus", "state")]
    refuse_overwriting(outputs, [("--policy", settings.policy), ("--log", settings.log)])
    for flag, path in outputs:
        if path is not None:
            writable(path.parent, flag, (path.name,))
    with ExitStack() as alone:
        if settings.state is not None:  # or what one of two watches saw would be lost
            alone.enter_context(locked(settings.state, STATE_WAIT))
        return _watch(settings)


def _watch(settings: Settings) -> int:
    from offramp.cascades.files.policy import read_deployment
    from offramp.eval.guarantees.reference import subject_of
    from offramp.eval.monitoring.drift import Watch
    from offramp.eval.monitoring.routinglog import Log, read_log

    subject = subject_of(read_deployment(settings.policy), str(settings.policy))
    log = Log(subject, "stdin" if settings.log == STDIN else settings.log, settings.broken == "skip")
    session = Session(settings, Watch(subject, settings.alpha, settings.seed), log)
    with session.interruptible():
        for examples in read_log(session.source.begin(), log, log.number):
            session.take(examples)
            session.source.end_if_told()
        session.end()
    return ALARM if session.watch.alarms else 0


class Source:
    """The bytes of a log as they come: a file from some place on, one that grows, or what is piped in.

    ``offset``: bytes of the file that its lines so far make up.
    """

    def __init__(self, settings: Settings, log: Log) -> None:
        self.log, self.follow, self.piped = log, settings.follow, settings.log == STDIN
        self.path = Path(settings.log)
        self.started, self.waiting, self.stop, self.within = 0, False, False, False
        self.lines: Any = None
        if not self.piped:
            refuse_unopenable(self.path, "a log")
        elif sys.stdin is None:
            raise InputError("a log from standard input", "none, as it is closed", "--log -")
        if self.parquet and self.follow:
            raise InputError("lines of text to follow", "parquet, which is written at once", settings.log)

    @property
    def parquet(self) -> bool:
        """Whether the log is a parquet file, which is read by rows."""
        return not self.piped and self.path.suffix.lower() == ".parquet"

    @property
    def offset(self) -> int:
        """Bytes of the file that have been taken up."""
        return self.started + (self.lines.taken if self.lines else 0)

    def begin(self) -> Any:
        """What ``read_log`` reads: the path of a parquet file, else the lines from here on."""
        from offramp.eval.monitoring.routinglog import Lines

        if self.parquet:
            return self.path
        self.lines = Lines(self._piped() if self.piped else self._read(), self.within)
        return self.lines

    def to_plain(self) -> dict[str, Any]:
        """The place that was reached, and how to know the log again; empty for what is piped in."""
        if self.piped:
            return {}
        offset = self.path.stat().st_size if self.parquet else self.offset
        place = {"offset": offset, "line": self.log.number, "columns": self.log.columns, "form": self.log.form}
        return {**place, "mark": self._mark(offset)}

    def take_up(self, found: dict[str, Any]) -> bool:
        """Go on at a place that ``to_plain`` told, if the log is still the same; returns whether it is."""
        if not found or self.piped:
            return False
        offset, number, form = found["offset"], found["line"], found["form"]
        columns = [str(name) for name in found["columns"]]
        if type(offset) is not int or type(number) is not int or form not in ("csv", "jsonl", "parquet", None):
            raise ValueError("not a place as this program writes it")
        if not 0 <= offset <= self.path.stat().st_size or found["mark"] != self._mark(offset):
            return False
        self.log.begin(number, columns, form)
        self.started = 0 if self.parquet else offset
        return True

    def _mark(self, offset: int) -> str:
        """The beginning of the log and what stands before the place reached: of another log they are others."""
        with opened(self.path, "a log") as file:
            head = file.read(min(HEAD, offset))
            file.seek(max(0, offset - HEAD))
            return sha256(head + file.read(min(HEAD, offset))).hexdigest()

    def _read(self) -> Iterator[bytes | None]:
        from offramp.eval.monitoring.routinglog import CHUNK

        while True:
            with opened(self.path, "a log") as file:
                if self.started:
                    file.seek(self.started - 1)
                    # A line that had no end when it was taken up has had its turn.
                    self.lines.within = file.read(1) != b"\n"
                fresh = True
                while not self._over(file):
                    self.end_if_told()
                    chunk = file.read(CHUNK)
                    if chunk:
                        fresh = True
                        yield chunk
                    elif not self.follow:
                        return
                    elif fresh:
                        fresh = False
                        yield None
                    else:
                        self._wait(PAUSE)
            yield b"\n"  # the end of its last line never came
            yield None
            self.started, self.lines.taken = 0, 0
            self.log.begin()

    def _over(self, file: BinaryIO) -> bool:
        """Whether all of a log is read that has been moved away or cut, as logs are that grow for long."""
        if not self.follow:
            return False
        here, at = os.fstat(file.fileno()), file.tell()
        if here.st_size > at:
            return False
        try:
            there = self.path.stat()
        except OSError:  # moved away, and the next one has not begun
            return False
        return (here.st_ino, here.st_dev) != (there.st_ino, there.st_dev) or there.st_size < at

    def _piped(self) -> Iterator[bytes | None]:
        from offramp.eval.monitoring.routinglog import CHUNK

        last = time.monotonic()
        while True:
            self.end_if_told()
            self.waiting = True
            chunk = os.read(sys.stdin.fileno(), CHUNK)
            self.waiting = False
            if not chunk:
                return
            yield chunk
            if time.monotonic() - last > 1:
                last = time.monotonic()
                yield None

    def _wait(self, seconds: float) -> None:
        self.waiting = True
        time.sleep(seconds)
        self.waiting = False

    def end_if_told(self) -> None:
        """Raises KeyboardInterrupt where a signal has come since."""
        if self.stop:
            raise KeyboardInterrupt


class Session:
    """One run of the command: the watch, where it is in the log, and what it has told."""

    def __init__(self, settings: Settings, seen: Watch, log: Log) -> None:
        self.settings, self.watch, self.log = settings, seen, log
        self.source = Source(settings, log)
        self.told = seen.examples // settings.every
        self.complained = 0
        self.saved = 0
        if settings.state is not None and settings.state.exists():
            self._take_up(settings.state)

    def _take_up(self, path: Path) -> None:
        from offramp.features.store.strictjson import read_json

        found = read_json(path, "a state that --state wrote")
        try:
            if (found["format"], found["version"]) != (FORMAT, VERSION):
                raise ValueError("of another program or version")
            self.watch.take_up(found["watch"])
            same = self.source.take_up(found["log"])
            self.log.broken = int(found["broken"])
        except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            expected = "a state of this watch (a policy that was certified anew needs a new one: remove this file)"
            raise InputError(expected, f"one {error}"[:100], str(path)) from error
        self.told, self.saved = self.watch.examples // self.settings.every, self.watch.lines
        goes = f"line {self.log.number + 1:,} of {self.log.where}" if same else f"the first line of {self.log.where}"
        say(f"Going on after {self.watch.examples:,} examples, with {goes}.")
        for alarm in self.watch.alarms:
            say(f"ALARM that was raised before, {alarm_line(alarm)}")

    def take(self, examples: Examples) -> None:
        """Watch some lines, and tell and save what is due; where there are none the log pauses."""
        alarms = self.watch.feed(examples)
        if not len(examples):
            alarms += self.watch.look()
        self._tell(alarms)
        if self.watch.examples // self.settings.every > self.told:
            self.told = self.watch.examples // self.settings.every
            say(status_line(self.watch))
            self._report()
        if alarms or self.watch.lines - self.saved >= SAVE or (not len(examples) and self.watch.lines > self.saved):
            self.save()

    def _tell(self, alarms: Sequence[Alarm]) -> None:
        for complaint in self.log.complaints[self.complained :]:
            say(f"passed over: {complaint}", sys.stderr)
        self.complained = len(self.log.complaints)
        for alarm in alarms:
            say(f"ALARM {alarm_line(alarm)}")
        if alarms:
            self._report()

    def save(self) -> None:
        """Save what a restart needs, and the metrics."""
        from offramp.features.store.atomic import replacing

        self.saved = self.watch.lines
        if self.settings.state is not None:
            state = {"format": FORMAT, "version": VERSION, "broken": self.log.broken, "log": self.source.to_plain()}
            with replacing(self.settings.state) as temporary:
                temporary.write_text(json.dumps({**state, "watch": self.watch.to_plain()}, allow_nan=False), "utf-8")
        if self.settings.prometheus is not None:
            with replacing(self.settings.prometheus) as temporary:
                temporary.write_text(metrics(self.watch, self.log.broken), "utf-8")

    def end(self) -> None:
        """The last look, and the last word. Raises InputError if there was nothing to see."""
        self._tell(self.watch.look())
        if not self.watch.lines:
            broken = f", {self.log.broken:,} lines that can't be used" if self.log.broken else ""
            raise InputError("a log of at least one example", f"none{broken}", self.log.where)
        self.save()
        self._report()
        if self.watch.examples % self.settings.every:
            say(status_line(self.watch))
        if self.log.broken:
            say(f"{self.log.broken:,} lines were passed over.")
        if self.watch.excess:
            say(f"{self.watch.excess:,} late labels were passed over: no example with that answer lacked one.")
        if not self.watch.alarms:
            say(f"No alarm. (False alarms, however long it is watched: {100 * self.watch.alpha:g} % at most.)")

    def _report(self) -> None:
        from offramp.features.store.atomic import replacing

        if self.settings.json is not None:
            with replacing(self.settings.json) as temporary:
                text = json.dumps(report_of(self.watch, self.log), indent=1, ensure_ascii=False, allow_nan=False)
                temporary.write_text(text + "\n", "utf-8")

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the watch between two lines, and what was seen is saved."""

        def told(*_: object) -> None:
            self.source.stop = True
            if self.source.waiting:  # else what is being counted is counted to its end
                raise KeyboardInterrupt

        before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError):  # not in the main thread
                before[number] = signal.signal(number, told)
        try:
            yield
        except KeyboardInterrupt:
            self.take(self.log.take())
            self.save()
            self._report()
            raise KeyboardInterrupt(f"interrupted after {self.watch.lines:,} lines; what they said is saved") from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


# --- what is told


def say(line: str, stream: Any = None) -> None:
    """One line, at once."""
    stream = stream or sys.stdout
    if stream is not None:
        encoding = stream.encoding or "utf-8"
        stream.write(line.encode(encoding, "replace").decode(encoding) + "\n")
        stream.flush()


def alarm_line(alarm: Alarm) -> str:
    """What was found, when, and how sure that is."""
    return f"({alarm.monitor}, at line {alarm.at:,}): {alarm.text}; e-value {e_value(alarm.log_e):.3g}"


def e_value(log: float) -> float:
    """The e-value whose logarithm this is, so far as a float holds it."""
    from math import exp

    return exp(min(log, 700.0))


def status_line(seen: Watch) -> str:
    """How many examples took which path and what they cost, beside the reference, and how far the evidence is."""
    subject, paths = seen.subject, seen.counts["paths"]
    total = max(int(paths.sum()), 1)
    then = [subject.reference.exits.get(name, 0) / subject.reference.examples for name in subject.paths]
    order = sorted(range(len(then)), key=lambda q: -max(then[q], float(paths[q]) / total))[:4]
    exits = ", ".join(
        f"{subject.paths[q]} {100 * paths[q] / total:.1f} % ({100 * then[q]:.1f})"
        for q in sorted(order)
        if paths[q] or then[q]
    )
    cost = f"{float(paths @ subject.cost) / total:.4g} ({reference_cost(subject):.4g}) {subject.unit}"
    quiet = [m for m in seen.monitors if m.alarm is None]
    next_up = max(quiet, key=lambda m: m.highest, default=None)
    nearest = ""
    if next_up is not None:
        reached, needed = e_value(next_up.highest), e_value(seen.needed)
        nearest = f"; most evidence: {next_up.name}, {reached:.3g} of {needed:.4g}"
    wrong = seen.counts["right or wrong"]
    labels = f"; {int(wrong.sum()):,} labelled, {100 * wrong[1] / wrong.sum():.2f} % wrong" if wrong.any() else ""
    return f"{seen.examples:,} examples (reference): {exits}; mean cost {cost}{labels}{nearest}"


def reference_cost(subject: Subject) -> float:
    """Mean cost of a reference example."""
    exits = subject.reference.exits
    spent = sum(exits.get(name, 0) * cost for name, cost in zip(subject.paths, subject.cost.tolist(), strict=True))
    return float(spent / subject.reference.examples)


def report_of(seen: Watch, log: Log) -> dict[str, Any]:
    """All of it, in JSON's types."""
    subject, paths = seen.subject, seen.counts["paths"]
    right, wrong = seen.counts["right or wrong"].tolist()
    total = int(paths.sum())
    return {
        "log": log.where,
        "alpha": seen.alpha,
        "examples": total,
        "lines": seen.lines,
        "broken": log.broken,
        "labelled": right + wrong,
        "error": wrong / (right + wrong) if right + wrong else None,
        "mean_cost": float(paths @ subject.cost) / total if total else None,
        "reference_mean_cost": reference_cost(subject),
        "unit": subject.unit,
        "exits": {
            name: {
                "examples": int(count),
                "reference_share": subject.reference.exits.get(name, 0) / subject.reference.examples,
            }
            for name, count in zip(subject.paths, paths.tolist(), strict=True)
        },
        "monitors": [
            {
                "monitor": m.name,
                "highest_e_value": e_value(m.highest),
                "alarm_at_e_value": e_value(seen.needed),
                "alarm": m.alarm is not None,
            }
            for m in seen.monitors
        ],
        "alarms": [{**asdict(alarm), "e_value": e_value(alarm.log_e)} for alarm in seen.alarms],
    }


def metrics(seen: Watch, broken: int) -> str:
    """All of it in Prometheus' text exposition format."""
    subject, paths = seen.subject, seen.counts["paths"]
    right, wrong = seen.counts["right or wrong"].tolist()
    total = int(paths.sum())
    named = list(zip(subject.paths, paths.tolist(), strict=True))
    exits = subject.reference.exits
    found: list[tuple[str, str, str, list[tuple[str, str, float]]]] = [
        ("lines_total", "counter", "Lines of the log that were used.", [("", "", seen.lines)]),
        ("broken_lines_total", "counter", "Lines that could not be used.", [("", "", broken)]),
        ("examples_total", "counter", "Examples by path.", [("path", name, count) for name, count in named]),
        (
            "reference_share",
            "gauge",
            "Share of the reference examples by path.",
            [("path", name, exits.get(name, 0) / subject.reference.examples) for name in subject.paths],
        ),
        ("labelled_total", "counter", "Examples with an answer and a label.", [("", "", right + wrong)]),
        ("wrong_total", "counter", "Labelled examples whose answer was wrong.", [("", "", wrong)]),
        (
            "mean_cost",
            "gauge",
            f"Mean cost of an example in {subject.unit}.",
            [("", "", float(paths @ subject.cost) / total)] if total else [],
        ),
        ("reference_mean_cost", "gauge", "Mean cost of a reference example.", [("", "", reference_cost(subject))]),
        (
            "highest_e_value",
            "gauge",
            "Most evidence against an unchanged world so far.",
            [("monitor", m.name, e_value(m.highest)) for m in seen.monitors],
        ),
        ("alarm_e_value", "gauge", "Evidence at which there is an alarm.", [("", "", e_value(seen.needed))]),
        (
            "alarm",
            "gauge",
            "1 once there was an alarm.",
            [("monitor", m.name, m.alarm is not None) for m in seen.monitors],
        ),
    ]
    lines = []
    for name, kind, about, values in found:
        lines += [f"# HELP offramp_watch_{name} {_escaped(about, False)}", f"# TYPE offramp_watch_{name} {kind}"]
        for label, value, number in values:
            labels = f'{{{label}="{_escaped(value)}"}}' if label else ""
            lines.append(f"offramp_watch_{name}{labels} {float(number)!r}")
    return "\n".join(lines) + "\n"


def _escaped(text: str, quotes: bool = True) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


if __name__ == "__main__":
    sys.exit(main())
