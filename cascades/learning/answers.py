"""Stages on a path turned into an answer, and the answer into a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from offramp.features.evidence import Path, Reading, View
from offramp.features.outputs import NO_ANSWER, Floats, Ints


@dataclass(frozen=True)
class Loss:
    """A loss in [0, 1] of ``ranks`` ranked answers.

    ``excess``: what is lost beyond the last stage alone (Bolukbasi et al., 2017): an example that the full network
    also gets wrong costs nothing when it leaves early. ``told``: what people call its mean.
    """

    ranks: int
    excess: bool = False
    told: str = "error"

    def of(self, answers: Ints, labels: Ints, full: Ints) -> Floats:
        """Loss (n,) of ``answers`` (n, r) for ``labels`` (n,); ``full`` (n, r) are the last stage's own."""
        wrong = ~(answers == labels[:, None]).any(axis=1)
        if self.excess:
            wrong &= (full == labels[:, None]).any(axis=1)
        return np.asarray(wrong, dtype=np.float32)

    def expected(self, answers: Ints, belief: View, full: Ints) -> Floats:
        """Loss (n,) expected under ``belief``, that of all stages together."""
        right = belief.probability(answers)
        if not self.excess:
            return np.asarray(1 - right, dtype=np.float32)
        lost = [np.where((answers == full[:, [r]]).any(axis=1), NO_ANSWER, full[:, r]) for r in range(full.shape[1])]
        return np.asarray(belief.probability(np.column_stack(lost)), dtype=np.float32)


LOSSES: dict[str, Loss] = {
    "top1": Loss(1),
    "top5": Loss(5, told="top-5 error"),
    "excess": Loss(1, excess=True, told="excess error"),
}


def _last(reading: Reading, _view: View, path: Path, ranks: int) -> Ints:
    return reading.ranked[:, path[-1], :ranks]


def _any(reading: Reading, view: View, path: Path, ranks: int) -> Ints:
    options = [reading.ranked[:, s, :ranks] for s in path]
    likely = np.stack([view.probability(option) for option in options], axis=1)
    best = likely.argmax(axis=1)
    return np.asarray(np.stack(options, axis=1)[np.arange(len(best)), best])


def _fused(_reading: Reading, view: View, _path: Path, ranks: int) -> Ints:
    return view.ranked(ranks)


ANSWERS: dict[str, Callable[[Reading, View, Path, int], Ints]] = {"last": _last, "any": _any, "fused": _fused}
"""Ways to answer at the end of a path -> ranked classes (n, ranks): the last stage's (the paper), that of the stage
on the path whose answer is likeliest under the belief, or the likeliest classes under the belief itself."""
