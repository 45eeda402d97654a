"""The types of what the stages said about one part of the data, before anything is computed from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]

PARTS = ("fit", "tune", "certify", "test")
LEARNT = ("fit", "tune")
"""Parts that rules are fitted on and points are picked on; a certificate is made on ``certify``, which sees neither."""

NO_ANSWER = -1
"""Filler in ``Stage.answers`` behind a stage's last ranked answer; equals no label."""


@dataclass(frozen=True)
class Stage:
    """What one stage said on n examples: logits over c classes, or ranked answers.

    ``answers`` is (n, r) classes, best first, ``NO_ANSWER`` where the ranking is shorter; None when there
    are logits. ``logits`` is (n, c), float, perhaps memory-mapped; None for answers alone. ``measured``
    maps a name ("confidence") to (n,) numbers that came with the answers. ``pooled`` is (n, m), the
    network's pooled features, or None.
    """

    name: str
    answers: Ints | None = None
    logits: Floats | None = None
    measured: Mapping[str, Floats] = field(default_factory=dict)
    pooled: Floats | None = None

    @property
    def answer(self) -> Ints:
        """(n,) the class that it answers."""
        if self.logits is not None:
            return np.asarray(self.logits.argmax(axis=1))
        assert self.answers is not None
        return self.answers[:, 0]

    def take(self, rows: Ints | slice) -> Stage:
        """The same stage on the examples ``rows`` (m,)."""
        return replace(
            self,
            answers=None if self.answers is None else self.answers[rows],
            logits=None if self.logits is None else self.logits[rows],
            measured={name: column[rows] for name, column in self.measured.items()},
            pooled=None if self.pooled is None else self.pooled[rows],
        )


@dataclass(frozen=True)
class Outputs:
    """What k stages said about the n examples of one part, with the labels.

    ``labels`` (n,) int64 in [0, classes); ``ids`` (n,) int64 or text, unique; ``part`` one of ``PARTS``.
    """

    stages: tuple[Stage, ...]
    labels: Ints
    ids: NDArray[Any]
    part: str
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        """The stages' names, in order."""
        return tuple(stage.name for stage in self.stages)

    def take(self, rows: Ints | slice, part: str | None = None) -> Outputs:
        """The examples ``rows`` (m,), as ``part`` if given."""
        return Outputs(
            tuple(stage.take(rows) for stage in self.stages),
            self.labels[rows],
            self.ids[rows],
            part or self.part,
            self.classes,
        )

    def of(self, names: tuple[str, ...]) -> Outputs:
        """The stages ``names``, in that order."""
        by_name = {stage.name: stage for stage in self.stages}
        return replace(self, stages=tuple(by_name[name] for name in names))
