"""Random routing: a straight line between two single stages, and the same share sent on at every stage."""

from __future__ import annotations

import numpy as np

from offramp.cascades.graph.hull import lower_hull
from offramp.cascades.graph.routing import OperatingPoint, Routes
from offramp.cascades.learning.chains import ends_along, full_chain
from offramp.cascades.learning.outcomes import Outcomes
from offramp.features.outputs import Floats
from offramp.oracles.single import entered_directly

SEED = 20170806
"""Fixed, so that the line is the same in every run and no seed of the user's can improve it (ICML 2017 began then)."""


def uniform(fit: Outcomes, examples: Outcomes, routes: Routes, prices: Floats) -> list[OperatingPoint]:
    """As many points of each of two families as there are prices, their shares evenly spread from 0 to 1; no price.

    "line": a random mix of the two single stages that are neighbours on the lower hull of cost and error on
    ``fit``: what anybody gets without looking at an input. "chain": along the longest chain, every stage sends the
    same share on at random, and everything run is paid for.
    """
    points = max(len(prices), 2)
    return [*_line(fit, examples, entered_directly(routes), points), *_chain(examples, routes, points)]


def _line(fit: Outcomes, examples: Outcomes, direct: Routes, points: int) -> list[OperatingPoint]:
    hull = lower_hull(direct.cost, np.array([fit.wrong[:, stage].mean(dtype=float) for stage in direct.exits])).tolist()
    # Ranks instead of draws: exactly the share wanted, and whoever is sent to the dearer stage stays there.
    rank = (np.random.default_rng(SEED).permutation(len(examples)) + 0.5) / len(examples)
    small = np.min_scalar_type(len(direct.paths))
    found = []
    for at in np.linspace(0, len(hull) - 1, points):
        cheaper = min(int(at), max(len(hull) - 2, 0))
        pair = np.array([hull[cheaper], hull[min(cheaper + 1, len(hull) - 1)]], dtype=small)
        path = pair[(rank < at - cheaper).astype(np.uint8)]
        found.append(OperatingPoint("uniform", "line", float("nan"), examples.follow(direct, path)))
    return found


def _chain(examples: Outcomes, routes: Routes, points: int) -> list[OperatingPoint]:
    path = full_chain(routes)
    ends = ends_along(routes, path)
    draw = np.random.default_rng(SEED + 1).random((len(path) - 1, len(examples)))
    # An example is past stage j when each draw so far was below the share: when the largest was.
    largest = np.maximum.accumulate(draw, axis=0)
    found = []
    for share in np.linspace(0, 1, points):
        passed = np.sum(largest < share, axis=0, dtype=np.min_scalar_type(len(path)))
        found.append(OperatingPoint("uniform", "chain", float("nan"), examples.follow(routes, ends[passed])))
    return found
