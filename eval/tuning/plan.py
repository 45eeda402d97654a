"""What a study consists of: its plan, choices, and what was found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial
from offramp.eval.tuning.storage import patiently

if TYPE_CHECKING:
    from offramp.eval.tuning.storage import Result

Choices = Mapping[str, Any]


Space = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Found:
    """What a trial found: ``values`` in the order of the objectives, by how much it misses the constraints
    (``violation``, 0 if it doesn't), and ``about``: more, in JSON's types."""

    values: tuple[float, ...]
    violation: float = 0.0
    about: Mapping[str, Any] = field(default_factory=dict)


Report = Callable[[int, float], None]
"""Told of a value after each step; raises ``PrunedError`` where the others were so much better that more is no use."""


Evaluate = Callable[[Choices, Report], Found]


@dataclass(frozen=True)
class Plan:
    """What a study is. ``space``: name -> values, the first being the default. ``fingerprint``: what must not have
    changed when a study is taken up again, name -> text. ``key`` of choices: those of one key are one trial."""

    storage: str
    name: str
    space: Space
    objectives: tuple[str, ...]
    fingerprint: Mapping[str, str]
    trials: int
    sampler: str = "tpe"
    seed: int = 0
    grace: float = 60.0
    patience: float = 60.0
    key: Callable[[Choices], str] = lambda choices: json.dumps(sorted(labelled(choices).items()))


def label(value: Any) -> str | int | float | bool | None:
    """A value as a storage can hold it: numbers and texts as they are, tuples as text.

    >>> label(0.5), label((".entropy", ".margin")), label(())
    (0.5, '.entropy, .margin', 'none')
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return ", ".join(map(str, value)) or "none"


def labelled(choices: Choices) -> dict[str, Any]:
    """Every choice by its label."""
    return {name: label(value) for name, value in choices.items()}


def digest(value: Any) -> str:
    """A short name for anything in JSON's types; a changed space, target or data has another."""
    return sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Opened:
    """A study in its storage."""

    plan: Plan
    study: Study
    storage: BaseStorage

    def ask(self, work: Callable[[], Result]) -> Result:
        """``work`` with the storage, patiently."""
        return patiently(work, self.plan.storage, self.plan.patience)

    def trials(self) -> list[FrozenTrial]:
        """All trials, as they are now."""
        return self.ask(lambda: self.study.get_trials(deepcopy=False))

    def close(self) -> None:
        """Let go of the storage."""
        from optuna.storages import RDBStorage

        inner = getattr(self.storage, "_backend", self.storage)
        if isinstance(inner, RDBStorage):
            with suppress(Exception):
                inner.remove_session()
            inner.engine.dispose()

    def noted(self, key: str, make: Callable[[], Any]) -> Any:
        """What stands in the study under ``key``: made by whoever comes first, the same for all that come later."""
        if key not in (there := self.ask(lambda: self.study.user_attrs)):
            made = make()
            if key not in (there := self.ask(lambda: self.study.user_attrs)):
                self.ask(lambda: self.study.set_user_attr(key, made))
                there = self.ask(lambda: self.study.user_attrs)
        return there[key]
