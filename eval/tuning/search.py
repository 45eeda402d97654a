"""A problem turned into a study and its trials, run by as many processes as were asked for: ``search``."""

# A helper process imports this before it can take an interrupt quietly, so what is heavy waits until it is needed.

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from offramp.cascades.command.progress import bar
from offramp.cascades.command.settings import FAILED, INTERRUPTED
from offramp.eval.tuning.plan import Plan, digest, labelled
from offramp.eval.tuning.problem import Problem, Settings, read_problem
from offramp.eval.tuning.storage import OutOfReachError, shown, storage_named
from offramp.eval.tuning.study import FOUND, KEY, accounts, done, open_study, work

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from optuna.trial import FrozenTrial

    from offramp.eval.tuning.solve import Solved

PRICES, FACTOR = 9, 6.0
"""Prices that a choice is tried at, and how far to either side of the plain policy's price they reach: enough for
multipliers of two, and neighbours so close that the line between two is a hundredth from the curve at most."""

WIDE_PRICES = 14
"""Prices where a whole front is searched rather than one point of it."""


SHOWN = ("bar", "count", "elapsed", "left", "remaining", "text")
"""What the bar shows: trials done, the time they took and the time left, the best so far."""


@dataclass(frozen=True)
class Searched:
    """What a study has: its trials, the prices they were judged at; why it stopped before its end, if it did."""

    trials: Sequence[FrozenTrial] = ()
    prices: Sequence[float] = ()
    seconds: float = 0.0
    stopped: str = ""
    code: int = 0
    where: str = ""


def plan_of(problem: Problem) -> Plan:
    """The study that the flags speak of."""
    from offramp.eval.tuning.evaluation import CV_ROWS, INNER_FOLDS

    settings, space = problem.settings, problem.space
    values = {name: [labelled({"": v})[""] for v in values] for name, values in space.items()}
    how = [settings.folds, settings.seed, settings.loss, CV_ROWS, INNER_FOLDS, asdict(problem.plain)]
    fingerprint = {
        "data": data_digest(problem),
        "costs": digest([problem.routes.spent.tolist(), problem.routes.unit]),
        "topology": next(iter(problem.topologies)),
        "target": json.dumps(asdict(problem.target), sort_keys=True),
        "search space": digest(values),
        "folds, seed, loss or policies": digest(how),
    }
    return Plan(
        storage_named(settings.storage, settings.out),
        settings.study,
        space,
        problem.objectives,
        fingerprint,
        settings.trials,
        settings.sampler,
        settings.seed,
        settings.grace,
        settings.patience,
        problem.key,
    )


def data_digest(problem: Problem) -> str:
    """Of the examples that may be learned from and of what the stages said on up to a few thousand of them."""
    from hashlib import sha256

    import numpy as np

    from offramp.cascades.learning.points import digest_of

    found = sha256(digest_of(problem.learnt).encode())
    rows = np.linspace(0, len(problem.learnt) - 1, min(len(problem.learnt), 4096)).astype(int)
    for stage in problem.learnt.take(rows).stages:
        for array in (stage.answers, stage.logits, stage.pooled, *stage.measured.values()):
            if array is not None:
                found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def prices_of(problem: Problem, plain: Solved) -> list[float]:
    """Prices around the plain policy's; over all of the plain frontier where a whole front is searched."""
    import numpy as np

    if len(problem.objectives) == 1:
        return [float(p) for p in plain.price * np.geomspace(1 / FACTOR, FACTOR, PRICES)]
    prices = plain.fitted.sweep.prices[np.isfinite(plain.fitted.sweep.prices)]
    return [
        float(p)
        for p in np.exp(np.interp(np.linspace(0, 1, WIDE_PRICES), np.linspace(0, 1, len(prices)), np.log(prices)))
    ]


def search(problem: Problem, plain: Solved) -> Searched:
    """Run the study to its end, by as many processes as were asked for; an interrupt or a lost storage ends it too."""
    from offramp.eval.tuning.evaluation import FoldEvaluation

    settings = problem.settings
    opened = open_study(plan_of(problem))
    prices = opened.noted("prices", lambda: prices_of(problem, plain))
    evaluation = FoldEvaluation(problem, prices, settings.folds, settings.seed)
    begin, seen, stopped, code = time.monotonic(), list[Any](), "", 0
    where = f"study {settings.study!r} in {shown(opened.plan.storage)}"
    with _helpers(settings) as helpers, bar(SHOWN, settings.trials, "") as update:

        def told(trials: Sequence[FrozenTrial]) -> None:
            seen[:] = trials
            update(_best_text(problem, trials), completed=len(ended(problem, trials)))

        try:
            work(opened, evaluation.evaluate, told)
        except KeyboardInterrupt:
            stopped, code = "interrupted", INTERRUPTED
            for helper in helpers:
                with suppress(OSError):
                    os.kill(helper.pid or 0, signal.SIGINT)
        except OutOfReachError as error:
            stopped, code = str(error), FAILED
    opened.close()
    if stopped:
        stopped += f"; {len(ended(problem, seen))} of {settings.trials} trials are done and the best of them is written"
        if code == INTERRUPTED:
            stopped += f": give the same command again and {where} goes on"
    return Searched(seen, prices, time.monotonic() - begin, stopped, code, where)


@contextmanager
def _helpers(settings: Settings) -> Iterator[list[BaseProcess]]:
    """The other processes that run trials here; they leave by themselves when nothing is left to begin."""
    from multiprocessing import get_context

    context = get_context("spawn")
    found: list[BaseProcess] = []
    for _ in range(settings.workers - 1):
        helper: BaseProcess = context.Process(target=help_with, args=(settings, os.getpid()), daemon=True)
        helper.start()
        found.append(helper)
    try:
        yield found
    finally:
        for helper in found:
            helper.join(timeout=10)
            if helper.is_alive():
                helper.terminate()
                helper.join()


def help_with(settings: Settings, parent: int) -> None:
    """Run trials of a study that another process has opened, until none is left or that process is gone."""

    class OrphanedError(Exception):
        pass

    def told(_: object) -> None:
        if os.getppid() != parent:
            raise OrphanedError

    with suppress(KeyboardInterrupt, OutOfReachError, OrphanedError):
        from offramp.eval.tuning.evaluation import FoldEvaluation

        problem = read_problem(settings)
        opened = open_study(plan_of(problem))
        prices = opened.noted("prices", lambda: [])
        work(opened, FoldEvaluation(problem, prices, settings.folds, settings.seed).evaluate, told, alone=True)


def _best_text(problem: Problem, trials: Sequence[FrozenTrial]) -> str:
    ranked = ranking(problem, trials)
    if not ranked:
        return "nothing within the target yet"
    found = ranked[0].user_attrs[FOUND]
    return f"best: {found['cost']:.4g} {problem.routes.unit}, {100 * found['error']:.2f} % wrong"


def ended(problem: Problem, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that count: completed, pruned or failed for good, one a slot."""
    return list(accounts(trials, problem.settings.trials).finished.values())


def ranking(problem: Problem, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Completed trials within the target, the best first, one of each key."""
    order = sorted(done(trials), key=lambda t: (t.user_attrs[FOUND][problem.natural], t.number))
    once: dict[str, FrozenTrial] = {}
    for trial in order:
        once.setdefault(trial.user_attrs[KEY], trial)
    return list(once.values())
