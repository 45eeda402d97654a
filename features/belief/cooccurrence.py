"""Ranked answers turned into how usual their company is: a sure stage names the classes it always names together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from offramp.features.outputs import NO_ANSWER, Floats, Ints

PRIOR_NAMED = 8.0
"""Made-up first answers of every class, whose company is as common as its classes are: shrinks the lift to zero."""

PRIOR_PAIR = 4.0
"""Made-up examples of every pair, as often right as first answers of that class are."""


@dataclass(frozen=True)
class Company:
    """Which classes stand behind which first answers, and how often the first answer was right then.

    ``key`` (p,), sorted, is first · c + other for every pair seen; ``times`` and ``right`` (p,) how often, and how
    often the first answer was right; ``first`` (c,) first answers of each class; ``common`` (c,) how common each is
    behind any first answer, summing to one. No label of the classes behind is used: the lift needs none at all.
    """

    key: Ints
    times: Ints
    right: Ints
    first: Ints
    common: Floats

    def columns(self, answers: Ints, share: Floats, own_right: Floats | None) -> Floats:
        """Two columns (n, 2·(r-1)) for every rank from the second of ``answers`` (n, r): log lift of the class
        there given the first answer, and log odds that the first is right beside it.

        ``share`` (n,) is how often a first answer of that class is right. ``own_right`` (n,), for the examples that
        this was fitted on, takes each out of its own counts.
        """
        first = answers[:, 0]
        left_out = 0.0 if own_right is None else 1.0
        hit = 0.0 if own_right is None else own_right
        found = []
        for rank in range(1, answers.shape[1]):
            other = np.maximum(answers[:, rank], 0)
            there = (answers[:, rank] != NO_ANSWER).astype(float)
            times, right = self._seen(first.astype(np.int64) * len(self.first) + other)
            times, right = np.maximum(times - left_out * there, 0), np.maximum(right - hit * there, 0)
            expected = self.common[other]
            lift = np.log((times / expected + PRIOR_NAMED) / (self.first[first] - left_out + PRIOR_NAMED))
            found += [there * lift, logit((right + PRIOR_PAIR * share) / (times + PRIOR_PAIR))]
        return np.column_stack(found)

    def _seen(self, wanted: Ints) -> tuple[Floats, Floats]:
        at = np.minimum(np.searchsorted(self.key, wanted), len(self.key) - 1)
        same = self.key[at] == wanted
        return np.where(same, self.times[at], 0).astype(float), np.where(same, self.right[at], 0).astype(float)


def fit_company(answers: Ints, right: Floats, classes: int) -> Company:
    """Count the company that first answers keep in ``answers`` (n, r), r from 2; ``right`` (n,) of the first.

    >>> seen = fit_company(np.array([[0, 1], [0, 1], [0, 2]]), np.array([1, 1, 0]), 3)
    >>> seen.key.tolist(), seen.times.tolist(), seen.right.tolist()
    ([1, 2], [2, 1], [2, 0])
    """
    first, behind = np.repeat(answers[:, 0], answers.shape[1] - 1).astype(np.int64), answers[:, 1:].ravel()
    was_right = np.repeat(right, answers.shape[1] - 1)[behind != NO_ANSWER]
    first, behind = first[behind != NO_ANSWER], behind[behind != NO_ANSWER]
    key, inverse, times = np.unique(first * classes + behind, return_inverse=True, return_counts=True)
    if not len(key):
        key, inverse, times = np.array([-1]), np.zeros(0, np.intp), np.array([0])
    common = np.bincount(behind, minlength=classes) + 1.0
    return Company(
        key,
        times,
        np.bincount(inverse, was_right, minlength=len(key)).astype(np.int64),
        np.bincount(answers[:, 0], minlength=classes),
        common / common.sum(),
    )
