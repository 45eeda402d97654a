"""BranchyNet's exits: a threshold on the entropy at every exit, the whole vector tuned at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from offramp.cascades.graph.routing import OperatingPoint, Routes
from offramp.cascades.learning.chains import Cuts, Path, chain_points, ends_along, full_chain, joint_thresholds
from offramp.cascades.learning.outcomes import Outcomes
from offramp.features.outputs import Floats
from offramp.policies.cuts import best_cuts, best_pair

PAIR_ROWS = 20_000
"""Examples that a pair of thresholds is tuned on at most, drawn at random."""


def entropy(fit: Outcomes, examples: Outcomes, routes: Routes, prices: Floats) -> list[OperatingPoint]:
    """For each price the entropy thresholds on the whole chain that lose and spend least on ``fit`` together.

    Exact for one and two thresholds; with more, the best of a grid, or one found by descent (``joint_thresholds``).
    After Teerapittayanon et al. (2016), who screen a grid. Nothing where some stage has no probabilities.
    """
    if fit.entropy is None or examples.entropy is None:
        return []
    path = full_chain(routes)
    seen, judged = by_entropy(fit), by_entropy(examples)
    return chain_points("entropy", judged, routes, entropy_cuts(seen, routes, path, prices), prices)


def by_entropy(outcomes: Outcomes) -> Outcomes:
    """The same with the entropy, its sign turned, in the place of the confidence."""
    assert outcomes.entropy is not None
    return replace(outcomes, confidence=-outcomes.entropy)


def entropy_cuts(fit: Outcomes, routes: Routes, path: Path, prices: Floats) -> list[tuple[Path, Cuts]]:
    """For each price the path and its cuts on minus the entropy (``fit`` as ``by_entropy`` gives it)."""
    if len(path) == 1:
        return [(path, ())] * len(prices)
    ends = ends_along(routes, path)
    if len(path) == 2:
        step = float(routes.cost[ends[1]] - routes.cost[ends[0]])
        cut, _ = best_cuts(fit.confidence[:, path[0]], fit.wrong[:, path[0]], fit.wrong[:, path[1]], step, prices)
        return [(path, (float(each),)) for each in cut]
    if len(path) > 3:
        only = replace(routes, paths=tuple(path[: j + 1] for j in range(len(path))), spent=routes.spent[ends])
        return [(path, _whole(path, plan)) for plan in joint_thresholds(fit, only, prices)]
    rows = np.random.default_rng(0).permutation(len(fit))[:PAIR_ROWS]
    spent = np.diff(routes.cost[ends])
    losses = (fit.wrong[rows, path[0]], fit.wrong[rows, path[1]], fit.wrong[rows, path[2]])
    cuts, _ = best_pair(
        fit.confidence[rows, path[0]],
        fit.confidence[rows, path[1]],
        losses,
        (float(spent[0]), float(spent[1])),
        np.asarray(prices, float),
    )
    return [(path, (float(first), float(second))) for first, second in cuts]


def _whole(path: Path, plan: tuple[Path, Cuts]) -> Cuts:
    """A plan on a beginning of the path as one on the path: where the plan's path ends, everybody stops."""
    found, cuts = plan
    return (*cuts, *(-np.inf,) * (len(path) - len(found)))
