"""Signs of life of workers turned into whose trials are free again."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial
if TYPE_CHECKING:
    from offramp.eval.tuning.plan import Opened

OWNER = "owner"


BEAT = "beat"


def _here() -> str:
    """This process, told apart from those of other machines and containers."""
    try:
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - no path: the name of a namespace
    except OSError:
        space = ""
    return f"{platform.node()}/{space}/{os.getpid()}"


class _Watch:
    """Which of the running trials have shown no sign of life for so long that their process must be dead.

    By this process's own clock, from when it first saw the last sign: machines' clocks need not agree.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.seen: dict[int, tuple[Any, float]] = {}

    def stale(self, trial: FrozenTrial) -> bool:
        """Whether ``trial``, running, is dead."""
        if _surely_dead(trial.user_attrs.get(OWNER, "")):
            return True
        sign = (trial.user_attrs.get(BEAT), len(trial.user_attrs), len(trial.params), len(trial.intermediate_values))
        now = time.monotonic()
        before, since = self.seen.get(trial.number, (None, now))
        if sign != before:
            self.seen[trial.number] = (sign, now)
            return False
        return now - since > self.grace


def _surely_dead(owner: str) -> bool:
    """Whether the process was one of this machine, and is no more; no need to wait then."""
    home, _, number = owner.rpartition("/")
    if home != _here().rpartition("/")[0] or not number.isdigit():
        return False
    if int(number) == os.getpid():  # asked between two trials: this process has none under way
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return _is_zombie(int(number))


def _is_zombie(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False


def _bury(opened: Opened, trial: FrozenTrial) -> None:
    """Write down that nobody runs this trial any more; its slot is open again."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    with suppress(UpdateFinishedTrialError):
        opened.ask(lambda: opened.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL))


class _Current:
    """The trial that this process has under way."""

    trial: int | None = None


@contextmanager
def _beating(opened: Opened) -> Iterator[_Current]:
    """Meanwhile a thread writes a sign of life to the trial under way, four times in the time after which it counts as
    dead. Optuna's own heartbeat would do for databases, but not for a journal."""
    current, over = _Current(), threading.Event()

    def beat() -> None:
        count = 0
        while not over.wait(opened.plan.grace / 4):
            count += 1
            if (trial := current.trial) is not None:
                # a storage that is gone, or a trial that has just ended, is the main thread's to notice
                with suppress(Exception):
                    opened.storage.set_trial_user_attr(trial, BEAT, count)
        with suppress(Exception):
            opened.storage.remove_session()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield current
    finally:
        over.set()
        thread.join(timeout=5)
