"""The contract between a policy, which is fitted, and the rules that come out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from offramp.features.checks import Place
from offramp.features.outputs import Floats, Ints


@dataclass(frozen=True)
class Decision:
    """One decision to be learned, at every price of a sweep.

    ``x`` (n, d) float32 with the ``columns``' names: what may be looked at. ``costs`` (n, a, q): what each of a
    actions costs each example at each of q prices; action 0 is to stop. ``outcome`` (n, t): price-free quantities
    that the costs are made of (how much less every later answer loses than stopping), for policies that estimate
    those once for all prices; ``seed`` for those that need one; ``added``: names of the columns that joined the
    program's own. Columns that no policy ``reads`` are NaN.
    """

    columns: tuple[str, ...]
    x: Floats
    costs: Floats
    outcome: Floats
    seed: int = 0
    added: tuple[str, ...] = ()

    def take(self, rows: Ints | slice) -> Decision:
        """The same decision on the examples ``rows``."""
        return Decision(self.columns, self.x[rows], self.costs[rows], self.outcome[rows], self.seed, self.added)


class Rules(Protocol):
    """A frozen rule for each of q prices: a dataclass of arrays, texts and numbers, which is how it is stored.

    It may also have ``live(fold)``, an action for each example from what ``Fold`` offers, in numpy or torch alike;
    without, live decisions call ``actions`` on the columns that it looks at.
    """

    @property
    def prices(self) -> int:
        """Number q of rules."""

    def actions(self, x: Floats) -> Ints:
        """Chosen action (n, q) int8 for ``x`` (n, d), the columns in the order in which it was fitted."""

    def take(self, prices: Ints) -> Rules:
        """The rules of the prices with these indices."""

    @property
    def looks_at(self) -> Ints:
        """Indices of the columns that it looks at."""

    def check(self, place: Place, columns: int, actions: int, prices: int) -> None:
        """Raises InputError, about ``place``, unless every array has its shape and its bounds for so many columns,
        actions and prices: what was read from a file is run only then."""

    def __str__(self) -> str:
        """One line a person can read (the first price's rule)."""


class Policy(Protocol):
    """A family of rules: holds settings only; fitting changes nothing.

    ``rules``: the type that fitting gives, and ``parts`` the dataclasses inside it: what a file may hold of it. It may
    say ``reads(columns, added)``, the indices of the columns that it may look at: others are not computed for it.
    Without, all are.
    """

    rules: ClassVar[type]
    parts: ClassVar[tuple[type, ...]]

    def fit(self, decision: Decision) -> Rules:
        """Rules, one a price, of least mean cost on ``decision`` within the family."""

    def search_space(self) -> dict[str, tuple[Any, ...]]:
        """Settings a tuner may try: name -> values."""


class Fold(Protocol):
    """What is known of a batch where a rule decides live: columns as functions, each computed when it is asked for."""

    names: Sequence[str]
    classes: int
    ops: Any

    def column(self, index: int) -> Callable[[Any], Any]:
        """How the column of that index is computed from what was seen of a batch: (n,)."""

    def const(self, value: Any, like: Any) -> Any:
        """An array where ``like`` is; sent there once."""


def rules_of(policies: Mapping[str, Policy]) -> dict[str, type]:
    """The types of the policies' rules, by name."""
    return {policy.rules.__name__: policy.rules for policy in policies.values()}


def cross_fit(policy: Policy, decision: Decision, folds: Ints) -> tuple[Rules, Ints]:
    """Rules fitted on all examples, and (n, q) the actions of rules that did not see the example's fold."""
    held_out = np.empty((len(decision.x), decision.costs.shape[2]), np.int8)
    whole: list[Rules] = []

    def fit(fold: int | None) -> None:
        if fold is None:
            whole.append(policy.fit(decision))
            return
        rows, rest = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        held_out[rows] = policy.fit(decision.take(rest)).actions(decision.x[rows])

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the fits live in numpy, which lets go of the interpreter
        list(pool.map(fit, [None, *np.unique(folds).tolist()]))
    return whole[0], held_out


def named(columns: Sequence[str], wanted: Sequence[str]) -> Ints:
    """Indices of the columns whose name ends in one of ``wanted`` (or, if that ends in a dot, begins with it)."""
    return np.array(
        [
            i
            for i, column in enumerate(columns)
            if any(column.startswith(w) if w.endswith(".") else column.endswith(w) for w in wanted)
        ],
        dtype=np.intp,
    )
