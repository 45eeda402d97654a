"""A log of where examples stopped turned into alarms, by all monitors of a subject together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from hashlib import sha256
from typing import Any

import numpy as np

from offramp.eval.guarantees.reference import FEWEST, Subject
from offramp.eval.monitoring.monitors import GROUPS, Alarm, Find, Monitor, answers_of, errors_of, monitors_of
from offramp.eval.monitoring.routinglog import NONE, Examples
from offramp.eval.monitoring.sequential import BLOCK, FAR, FIRST, KEPT, PATIENCE, SHIFTS, STAKES, STEP, Urns, counted
from offramp.features.outputs import Floats, Ints


class Watch:
    """All monitors of a subject, fed with the lines of a log as they come.

    The probability that any of them ever raises an alarm while the examples, those of the reference included, are
    exchangeable (and the certificate holds) is at most ``alpha``: each sequence of each monitor has its part of it, and
    is a martingale, which ever exceeds 1 / part with at most that probability (Ville, 1939). Looks are taken after
    every ``BLOCK`` lines, however these come, and where ``look`` is called.
    """

    def __init__(self, subject: Subject, alpha: float, seed: int = 0) -> None:
        self.subject, self.alpha, self.seed = subject, alpha, seed
        cutting, self.rng = (np.random.default_rng([seed, stream]) for stream in (0, 1))
        self.monitors = monitors_of(subject, cutting)
        self.lines = 0
        self.counts: dict[str, Ints] = {
            "paths": np.zeros(len(subject.paths), dtype=np.int64),
            "answers": np.zeros(subject.classes, dtype=np.int64),
            "right or wrong": np.zeros(2, dtype=np.int64),
        }
        self.open: Ints = np.zeros(subject.classes, dtype=np.int64)
        self.excess = 0
        for monitor in self.monitors:
            monitor.restarts.start(0, self._note())

    @property
    def examples(self) -> int:
        """Examples so far; late labels are none."""
        return int(self.counts["paths"].sum())

    @property
    def alarms(self) -> list[Alarm]:
        """All alarms, the first one first."""
        return sorted((m.alarm for m in self.monitors if m.alarm is not None), key=lambda alarm: alarm.at)

    @property
    def needed(self) -> float:
        """The logarithm of the e-value at which a monitor raises an alarm."""
        return float(np.log(len(self.monitors) / self.alpha))

    def feed(self, examples: Examples) -> list[Alarm]:
        """Take up the lines of a log, and return the alarms that they raise."""
        raised = []
        while len(examples):
            size = min(BLOCK - self.lines % BLOCK, len(examples))
            self._count(examples.take(slice(size)))
            examples = examples.take(slice(size, None))
            if self.lines % BLOCK == 0:
                raised += self.look(close=True)
        return raised

    def _count(self, e: Examples) -> None:
        draws = self.rng.random((len(e), 2))
        self.lines += len(e)
        e = self._once(e)
        for name, values in (("paths", e.path), ("answers", answers_of(e)), ("right or wrong", errors_of(e))):
            counts = self.counts[name]
            counts += np.bincount(values[values != NONE], minlength=len(counts))
        for monitor in self.monitors:
            if monitor.alarm is None:
                monitor.restarts.now += monitor.count(e, draws)

    def _once(self, e: Examples) -> Examples:
        """The lines, but that late labels beyond those that are missing of an answer are blotted out.

        A label that came twice would be evidence twice. ``open`` counts, by answer, the examples without one.
        """
        early = e.path != NONE
        answered = e.answer[early & (e.label == NONE) & (e.answer != NONE)]
        self.open += np.bincount(answered, minlength=len(self.open))
        label = e.label.copy()
        for answer in np.unique(e.answer[~early]):
            late = np.flatnonzero(~early & (e.answer == answer))
            label[late[self.open[answer] :]] = NONE
            self.excess += max(len(late) - int(self.open[answer]), 0)
            self.open[answer] -= min(len(late), int(self.open[answer]))
        return replace(e, label=label)

    def look(self, close: bool = False) -> list[Alarm]:
        """Compare the evidence with what an alarm needs; may be done at any time."""
        raised = []
        for monitor in self.monitors:
            restarts = monitor.restarts
            if monitor.alarm is not None or (restarts.now == restarts.then[-1]).all():
                continue  # an alarm stays; without news there is nothing to see
            worth = restarts.worth()
            logs = restarts.look(worth) - np.log(restarts.test.sequences)
            monitor.highest = max(monitor.highest, float(logs.max()))
            if logs.max() >= self.needed:
                monitor.alarm = self._alarm(monitor, worth, int(logs.argmax()), float(logs.max()))
                raised.append(monitor.alarm)
            elif close:
                restarts.close(worth, self._note())
        return raised

    def _note(self) -> Ints:
        return np.concatenate([[self.lines], *self.counts.values()])

    def _alarm(self, monitor: Monitor, worth: Floats, sequence: int, log_e: float) -> Alarm:
        restarts = monitor.restarts
        row = int(worth[:, sequence].argmax())
        note = restarts.notes[row]
        since = self._note() - note
        sizes = np.cumsum([1, *(len(counts) for counts in self.counts.values())])
        tally = dict(zip(self.counts, np.split(since, sizes[:-1])[1:], strict=True))
        cut, up = 0, True
        if isinstance(monitor.test, Urns):
            logs = monitor.test.logs([one[row : row + 1] for one in restarts.active()], restarts.now)[0, sequence]
            cut, shift = (int(i) for i in np.unravel_index(logs.argmax(), logs.shape))
            up = bool(monitor.test.shifts[shift] > 0)
        before = restarts.then[row]
        text = monitor.words(Find(sequence, cut, up, before, restarts.now - before, tally))
        return Alarm(monitor.name, self.lines, int(note[0]), log_e, f"since about example {int(note[0]) + 1:,}: {text}")

    def to_plain(self) -> dict[str, Any]:
        """All that it knows, in JSON's types, so that ``take_up`` can go on as if nothing had happened."""
        return {
            "key": self.key,
            "lines": self.lines,
            "counts": {name: counts.tolist() for name, counts in self.counts.items()},
            "open": self.open.tolist(),
            "excess": self.excess,
            "draws": {key: str(value) for key, value in self._draws.items()},  # 128 bits: no number in JSON
            "monitors": {
                m.name: {"highest": m.highest, "alarm": m.alarm and asdict(m.alarm), **m.restarts.to_plain()}
                for m in self.monitors
            },
        }

    @property
    def _draws(self) -> Mapping[str, int]:
        return dict(self.rng.bit_generator.state["state"])

    @property
    def key(self) -> str:
        """Tells whether a state is that of a watch of the same subject, by the same means."""
        means = [BLOCK, SHIFTS, STEP, FAR, FIRST, PATIENCE, KEPT, STAKES, GROUPS, FEWEST, self.alpha, self.seed]
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self.subject).items()}
        plain |= {"reference": asdict(self.subject.reference)}
        plain |= {"certificate": self.subject.certificate and asdict(self.subject.certificate)}
        return sha256(json.dumps([plain, means], sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()

    def take_up(self, found: Mapping[str, Any]) -> None:
        """Go on from what ``to_plain`` wrote. Raises ValueError, KeyError or TypeError for what it did not write."""
        if found["key"] != self.key:
            raise ValueError("of another policy, --alpha or --seed")
        if (
            type(found["lines"]) is not int
            or found["lines"] < 0
            or set(found["monitors"]) != {m.name for m in self.monitors}
        ):
            raise ValueError("not as this program writes it")
        counts = {name: counted(found["counts"][name], held.shape) for name, held in self.counts.items()}
        draws = {key: int(str(found["draws"][key])[:40]) for key in self._draws}
        state = self.rng.bit_generator.state
        self.rng.bit_generator.state = {**state, "state": draws}
        self.lines, self.counts = found["lines"], counts
        self.open, self.excess = counted(found["open"], self.open.shape), int(counted([found["excess"]], (1,))[0])
        for monitor in self.monitors:
            own = found["monitors"][monitor.name]
            monitor.highest = float(own["highest"])
            monitor.alarm = None if own["alarm"] is None else _alarm(own["alarm"])
            monitor.restarts.take_up(own, self._note())


def _alarm(found: Mapping[str, Any]) -> Alarm:
    alarm = Alarm(**found)
    if [type(value) for value in vars(alarm).values()] != [str, int, int, float, str]:
        raise ValueError("not an alarm as this program writes it")
    return alarm
