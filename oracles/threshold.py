"""One confidence cut between two stages, at its best for every price."""

from __future__ import annotations

import numpy as np

from cascades.chains import Cuts, Path, chain_points
from cascades.outcomes import Outcomes
from cascades.routing import OperatingPoint, Routes
from features.outputs import Floats


def threshold(fit: Outcomes, examples: Outcomes, routes: Routes, prices: Floats) -> list[OperatingPoint]:  # noqa: ARG001
    """For each price the best cut on the best chain of two stages, or the best stage alone, on ``examples`` itself.

    Fitted where it is applied, so this is what the family could reach at most, not what it does reach:
    compare with it, don't deploy it. ``fit`` is not looked at. The family is the chain, "alexnet>resnet".
    """
    least = np.full(len(prices), np.inf)
    plans: list[tuple[Path, Cuts]] = [((), ())] * len(prices)
    for path in sorted((path for path in routes.paths if len(path) <= 2), key=len):
        first = routes.cost[routes.index[path[:1]]]
        if len(path) == 1:
            cuts: list[Cuts] = [()] * len(prices)
            lost: Floats = np.full(len(prices), examples.wrong[:, path[0]].mean(dtype=float))
        else:
            here, there = path
            found, lost = best_cuts(
                examples.confidence[:, here],
                examples.wrong[:, here],
                examples.wrong[:, there],
                routes.cost[routes.index[path]] - first,
                prices,
            )
            cuts = [(float(cut),) for cut in found]
        objective = lost + first * np.asarray(prices)
        for i in np.flatnonzero(objective < least):
            least[i], plans[i] = objective[i], (path, cuts[i])
    return chain_points("threshold", examples, routes, plans, prices)


def best_cuts(
    confidence: Floats, stop_loss: Floats, go_loss: Floats, step: float, prices: Floats
) -> tuple[Floats, Floats]:
    """For each price (p,) the cut that loses and spends least, exactly, and the mean that it reaches, both (p,).

    Examples (n,) of at least that confidence stop and lose ``stop_loss``; the others lose ``go_loss`` and pay
    price * ``step``. Equal confidences stay together; -inf always stops, inf never. Prices are not negative.

    >>> best_cuts(np.array([0.9, 0.6, 0.7]), np.array([0.0, 1.0, 0.0]), np.zeros(3), 1.0, np.array([0.1, 9.0]))[0]
    array([ 0.7, -inf])
    """
    n = len(confidence)
    order = np.argsort(confidence)
    sure = confidence[order]
    # With the m least sure going on, m from none to all: what is lost, and where m may end without parting a tie.
    change = np.cumsum((go_loss - stop_loss)[order], dtype=float)
    loss = (np.concatenate([[0.0], change]) + stop_loss.sum(dtype=float)) / n
    ends = np.flatnonzero(np.concatenate([[True], sure[1:] != sure[:-1], [True]]))
    # Sending more on pays only where it loses less than sending any fewer.
    before = np.concatenate([[np.inf], np.minimum.accumulate(loss[ends])[:-1]])
    ends = ends[loss[ends] < before]
    spent = step * ends / n
    cut_at = np.concatenate([[-np.inf], sure[1:], [np.inf]])
    best = np.array([np.argmin(loss[ends] + price * spent) for price in prices], dtype=int)
    return cut_at[ends[best]], loss[ends[best]] + np.asarray(prices) * spent[best]
