"""A search space and a way to judge a choice from it turned into a study that many processes share and none loses."""

# Every trial wanted is a *slot*, numbered from 0. A slot is begun by whoever claims it in the storage (one process);
# if that process dies, the slot is given to another with the same choices. What is done, under way and open is reckoned
# from the storage's own list each time (``accounts``): there is nothing else to keep in step, to lock or to repair.

from __future__ import annotations

import math
import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from offramp.features.errors import InputError

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial
from offramp.eval.tuning.liveness import OWNER, _beating, _bury, _here, _Watch
from offramp.eval.tuning.plan import Found, Opened, digest, label, labelled
from offramp.eval.tuning.storage import OutOfReachError, _open_storage, patiently, reason_of, shown

if TYPE_CHECKING:
    from offramp.eval.tuning.plan import Evaluate, Plan, Report, Space


FORMAT = 1
"""Of what trials hold; a study of another format is refused."""

RETRIES = 3
"""Times that a slot is begun again after whoever ran it died; if it dies once more, the trial kills its process."""


OPENING = 10.0
"""Seconds after which a storage that never answered is taken to be a wrong address."""

POLL = 0.5
"""Seconds between looks at trials that others have under way when nothing else is left to do."""

SLOT = "slot"
FOUND = "found"
FAILURE = "failure"
KEY = "key"
ABOUT = "offramp"


class PrunedError(Exception):
    """A trial is not worth finishing."""


# --- choices


def default_of(space: Space) -> dict[str, Any]:
    """The first value of everything: what there is without a search."""
    return {name: values[0] for name, values in space.items()}


def grid_point(space: Space, index: int, seed: int) -> dict[str, Any]:
    """Point ``index`` of the grid over all of the space, counted like a number whose last digit is some choice.

    Which choices come first, and so are tried out fully before the next one moves, is drawn by the seed: no grid over
    twenty choices ends. Point 0 is the default.

    >>> space = {"a": (1, 2), "b": ("x", "y", "z")}
    >>> [tuple(grid_point(space, i, 0).values()) for i in range(4)]
    [(1, 'x'), (2, 'x'), (1, 'y'), (2, 'y')]
    """
    names = list(space)
    random.Random(seed).shuffle(names)
    found = {}
    for name in names:
        index, digit = divmod(index, len(space[name]))
        found[name] = space[name][digit]
    return {name: found[name] for name in space}


# --- what is done and what is not


@dataclass(frozen=True)
class Accounts:
    """Every slot of a study in one of four states, by the trial that counts for it.

    ``finished``: completed, pruned or failed (for good), by slot; ``running``: somebody has begun; ``waiting``: put
    down, not begun; ``missing``: slots that nobody has put down, or whose trials died, with the trial to repeat if any.
    """

    finished: dict[int, FrozenTrial]
    running: dict[int, FrozenTrial]
    waiting: dict[int, FrozenTrial]
    missing: dict[int, FrozenTrial | None]


def accounts(trials: Sequence[FrozenTrial], wanted: int) -> Accounts:
    """How a study of ``wanted`` slots stands, from all of its trials.

    The trial that counts for a slot is its first, by number, that did not die: numbers are given by the storage, so all
    processes agree. Two that put the same slot down at once make a spare, which nobody begins unless the first dies. A
    trial died if it failed and its runner had no time to say why.
    """
    from optuna.trial import TrialState

    by_slot: dict[int, list[FrozenTrial]] = {slot: [] for slot in range(wanted)}
    for trial in sorted(trials, key=lambda t: t.number):
        slot = trial.user_attrs.get(SLOT)
        if slot in by_slot:
            by_slot[slot].append(trial)
    found = Accounts({}, {}, {}, {})
    for slot, mine in by_slot.items():
        dead = [trial for trial in mine if trial.state == TrialState.FAIL and FAILURE not in trial.user_attrs]
        counting = next((trial for trial in mine if trial not in dead), None)
        if counting is None and len(dead) > RETRIES:
            found.finished[slot] = dead[-1]
        elif counting is None:
            found.missing[slot] = dead[0] if dead else None
        elif counting.state == TrialState.RUNNING:
            found.running[slot] = counting
        elif counting.state == TrialState.WAITING:
            found.waiting[slot] = counting
        else:
            found.finished[slot] = counting
    return found


def done(trials: Sequence[FrozenTrial], feasible: bool = True) -> list[FrozenTrial]:
    """The completed trials within the constraints, one a slot, by slot; all completed ones if not ``feasible``."""
    from optuna.trial import TrialState

    wanted = 1 + max((trial.user_attrs.get(SLOT, -1) for trial in trials), default=-1)
    finished = (trial for _, trial in sorted(accounts(trials, wanted).finished.items()))
    complete = [trial for trial in finished if trial.state == TrialState.COMPLETE]
    return [t for t in complete if t.user_attrs[FOUND]["violation"] <= 0] if feasible else complete


# --- the storage


# --- a study


def open_study(plan: Plan) -> Opened:
    """The study of that name, made if it isn't there.

    Raises InputError if the storage can't be had, or if the study there was begun on something else.
    """
    import optuna
    from optuna.exceptions import ExperimentalWarning

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    began = min(OPENING, plan.patience)

    def make() -> Opened:
        try:
            storage = _open_storage(plan.storage, plan.patience)
            study = optuna.create_study(
                storage=storage,
                study_name=plan.name,
                directions=["minimize"] * len(plan.objectives),
                pruner=_pruner(plan),
                load_if_exists=True,
            )
            study.get_trials(deepcopy=False)
        except (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            kind = "journal" if plan.storage.startswith("journal:") else "storage"
            found, where = reason_of(error, plan.storage), f"--storage {shown(plan.storage)}"
            raise InputError(f"a {kind} that Optuna wrote, whole", found, where) from None
        return Opened(plan, study, storage)

    try:
        opened = patiently(make, plan.storage, began)
    except OutOfReachError as error:
        raise InputError(
            "a database or a file that answers", reason_of(error, plan.storage), f"--storage {shown(plan.storage)}"
        ) from error
    fingerprint = {"format": str(FORMAT), "objectives": ",".join(plan.objectives), **plan.fingerprint}
    if ABOUT not in opened.study.user_attrs and opened.trials():
        found = "one that another program made"
    else:
        there = opened.noted(ABOUT, lambda: fingerprint)
        found = ", ".join(name for name in sorted({*fingerprint, *there}) if fingerprint.get(name) != there.get(name))
        found = found and f"one with another {found}"
    if found:
        opened.close()
        raise InputError(
            "a study begun on the same data, target and search space (begin a new one with --study NAME or --out DIR)",
            found,
            f"study {plan.name!r} in {shown(plan.storage)}",
        )
    return opened


def _pruner(plan: Plan) -> BasePruner:
    """Trials worse than the median of the others after as many folds are not worth their other folds.

    Not Wilcoxon's test over folds, which Optuna offers for noisy ones: with the three or four folds here its least
    p-value is 0.125 or 0.06, so that it could prune next to nothing.
    """
    from optuna.pruners import MedianPruner, NopPruner

    return MedianPruner(n_startup_trials=5) if len(plan.objectives) == 1 else NopPruner()


def sampler_of(plan: Plan, slot: int) -> BaseSampler:
    """A sampler for one slot, seeded by it: what is drawn does not depend on who draws, nor on how often they died."""
    from optuna.samplers import RandomSampler, TPESampler

    seed = int(digest([plan.seed, slot]), 16) % 2**31
    if plan.sampler == "tpe":
        return TPESampler(seed=seed, constant_liar=True)
    return RandomSampler(seed=seed)


def work(
    opened: Opened,
    evaluate: Evaluate,
    told: Callable[[Sequence[FrozenTrial]], None] = lambda _: None,
    alone: bool = False,
) -> None:
    """Run trials until every slot of the study is finished, whoever finishes it.

    ``told`` hears the study's trials between two of one's own. ``alone``: leave when nothing is left to begin, rather
    than waiting for what others have under way. Raises OutOfReachError when the storage is gone; on an interrupt the
    trial under way is given back first.
    """
    from optuna.exceptions import UpdateFinishedTrialError

    plan = opened.plan
    watch = _Watch(plan.grace)
    with _beating(opened) as current:
        while True:
            trials = opened.trials()
            told(trials)
            state = accounts(trials, plan.trials)
            if not (state.running or state.waiting or state.missing):
                return
            claimed = _claim(opened, state)
            if claimed is not None:
                current.trial = claimed._trial_id
                with suppress(UpdateFinishedTrialError):  # taken away: this process seemed dead, and another has it now
                    _run(opened, claimed, evaluate, trials)
                current.trial = None
                continue
            for trial in state.running.values():
                if watch.stale(trial):
                    _bury(opened, trial)
            if alone and not (state.waiting or state.missing):
                return
            time.sleep(POLL * random.uniform(0.5, 1.5))


def _claim(opened: Opened, state: Accounts) -> FrozenTrial | None:
    """A trial that is now this process's to run; None if there is nothing to begin at this moment."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    for trial in state.waiting.values():
        with suppress(UpdateFinishedTrialError):
            number = trial._trial_id
            if opened.ask(lambda: opened.storage.set_trial_state_values(number, TrialState.RUNNING)):  # noqa: B023
                return trial
    if state.missing:
        slot, before = next(iter(state.missing.items()))
        _put_down(opened, slot, before)
        again = accounts(opened.trials(), opened.plan.trials)
        return _claim(opened, Accounts({}, {}, {s: t for s, t in again.waiting.items() if s == slot}, {}))
    return None


def _put_down(opened: Opened, slot: int, before: FrozenTrial | None) -> None:
    """Write a slot's choices into the study, for somebody to begin: those of ``before``, which died, or new ones.

    All in one transaction, where a trial that suggests one value after the other makes one each: with twenty choices,
    that took as long as half of a trial's work.
    """
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution
    from optuna.trial import TrialState

    space = opened.plan.space
    kinds: dict[str, BaseDistribution] = {
        name: CategoricalDistribution([label(value) for value in values]) for name, values in space.items()
    }
    params = _drawn(opened, slot, kinds) if before is None else before.params
    key = sha256(opened.plan.key(values_of(space, params)).encode()).hexdigest()
    trial = optuna.create_trial(
        state=TrialState.WAITING, params=params, distributions=kinds, user_attrs={SLOT: slot, KEY: key}
    )
    # Drawing takes a while: somebody else may have put the slot down meanwhile, and two would make a spare.
    if slot in accounts(opened.trials(), opened.plan.trials).missing:
        opened.ask(lambda: opened.study.add_trial(trial))


def _drawn(opened: Opened, slot: int, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """A slot's choices: the default first; then a grid's, counted, or as the sampler draws them from what is known."""
    import optuna
    from optuna.trial import TrialState

    plan = opened.plan
    if slot == 0:
        return labelled(default_of(plan.space))
    if plan.sampler == "grid":
        return labelled(grid_point(plan.space, slot, plan.seed))
    sampler = sampler_of(plan, slot)
    nobody = optuna.create_trial(state=TrialState.RUNNING)
    return {
        name: opened.ask(lambda: sampler.sample_independent(opened.study, nobody, name, kind))  # noqa: B023
        for name, kind in kinds.items()
    }


def values_of(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """Choices as values, from their labels."""
    return {name: next(v for v in values if label(v) == params[name]) for name, values in space.items()}


def _run(opened: Opened, claimed: FrozenTrial, evaluate: Evaluate, others: Sequence[FrozenTrial]) -> None:
    """Run one trial to its end and write down how it ended."""
    import optuna
    from optuna.trial import TrialState

    plan = opened.plan
    trial = opened.ask(lambda: optuna.Trial(opened.study, claimed._trial_id))
    opened.ask(lambda: trial.set_user_attr(OWNER, _here()))
    begin = time.monotonic()
    try:
        choices = values_of(plan.space, claimed.params)

        def report(step: int, value: float) -> None:
            if len(plan.objectives) > 1 or not math.isfinite(value):
                return
            opened.ask(lambda: trial.report(value, step))
            if opened.ask(trial.should_prune):
                raise PrunedError

        found = _same(others, claimed.user_attrs[KEY], report) or evaluate(choices, report)
        if not all(map(math.isfinite, (*found.values, found.violation))):
            raise ValueError(f"the objective is {', '.join(f'{v:g}' for v in found.values)}, not a number")
        about = {**found.about, "violation": found.violation, "seconds": time.monotonic() - begin}
        opened.ask(lambda: trial.set_user_attr(FOUND, about))
        opened.ask(lambda: trial.set_constraint("target", found.violation))
        _end(opened, trial, TrialState.COMPLETE, found.values)
    except PrunedError:
        _end(opened, trial, TrialState.PRUNED)
    except KeyboardInterrupt:
        with suppress(OutOfReachError):
            _end(opened, trial, TrialState.FAIL)
        raise
    except (ValueError, ArithmeticError) as error:  # of these data, with these choices; anything else is a bug
        message = (
            f"{type(error).__name__}: {reason_of(error, plan.storage)}"
            if not isinstance(error, InputError)
            else str(error)
        )
        opened.ask(lambda: trial.set_user_attr(FAILURE, message[:500]))
        _end(opened, trial, TrialState.FAIL)


def _same(others: Sequence[FrozenTrial], key: str, report: Report) -> Found | None:
    """What a completed trial with the same key found, its steps reported; nothing is computed twice."""
    from optuna.trial import TrialState

    for other in others:
        if other.state == TrialState.COMPLETE and other.user_attrs.get(KEY) == key and FOUND in other.user_attrs:
            about = {k: v for k, v in other.user_attrs[FOUND].items() if k not in ("violation", "seconds")}
            for step, value in sorted(other.intermediate_values.items()):
                report(step, value)
            about["same_as"] = other.user_attrs[FOUND].get("same_as", other.number)
            return Found(tuple(other.values), other.user_attrs[FOUND]["violation"], about)
    return None


def _end(opened: Opened, trial: Trial, state: Any, values: Sequence[float] | None = None) -> None:
    """Tell the study; a second time, where the first was heard but not answered, changes nothing."""
    opened.ask(lambda: opened.study.tell(trial, values, state=state, skip_if_finished=True))


# --- who is alive
