"""The soft oracle: the cheapest routing that knows where all later stages agree, and never corrects the last one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offramp.cascades.graph.routing import OperatingPoint, Routes
from offramp.cascades.learning.outcomes import Outcomes
from offramp.features.outputs import Floats
from offramp.oracles.foresight import foresee


def soft_oracle(fit: Outcomes, examples: Outcomes, routes: Routes, prices: Floats) -> list[OperatingPoint]:  # noqa: ARG001
    """One point as the paper has it (family "paper", no price), then one for each price (family "priced").

    Paper: enter blindly, and stop at the first stage from which on every stage has the same outcome, all right or
    all wrong, by the cheapest way there. "From which on" means every stage that can still be reached, and the last
    of the topology. The error is the last stage's by construction; the entry is the one that keeps it most cheaply.

    Priced: stopping where later outcomes differ is charged 1 on top of the last stage's loss, and the charge
    plus price * cost is least. As the price falls to 0, this becomes the paper's. ``fit`` is not looked at.

    Source: Bolukbasi et al., Adaptive Neural Networks for Efficient Inference, ICML 2017.
    """
    later = _later(routes)

    def penalty(outcomes: Floats) -> Floats:
        charge = np.empty(outcomes.shape)
        for stage, behind in enumerate(later):
            differs = outcomes[:, behind] != outcomes[:, [stage]]
            charge[:, stage] = outcomes[:, -1] + differs.any(axis=1)
        return charge

    return foresee("soft_oracle", examples, routes, penalty, prices)


def _later(routes: Routes) -> NDArray[np.bool_]:
    """(k, k): row s marks the stages that may run after s, and the last."""
    k = len(routes.stages)
    later = np.zeros((k, k), dtype=bool)
    for path in routes.paths:
        later[list(path[:-1]), path[-1]] = True
    later[:, -1] = True
    return later
