"""The hard oracle: knows which stages are right, pays for its blind entry, and is what no router can beat."""

from __future__ import annotations

from offramp.cascades.graph.routing import OperatingPoint, Routes
from offramp.cascades.learning.outcomes import Outcomes
from offramp.features.outputs import Floats
from offramp.oracles.foresight import foresee


def hard_oracle(fit: Outcomes, examples: Outcomes, routes: Routes, prices: Floats) -> list[OperatingPoint]:  # noqa: ARG001
    """For each price the least mean of loss + price * cost that any routing can reach (family "priced").

    Every example takes the path that is best for it, from an entry that is the same for all. The first point
    (family "paper", no price) is the limit of a price of 0: the cheapest stage that is right, and where none is,
    the cheapest. ``fit`` is not looked at.

    Source: Bolukbasi et al., Adaptive Neural Networks for Efficient Inference, ICML 2017, their oracle without the
    rule that the last stage's mistakes stay.
    """
    return foresee("hard_oracle", examples, routes, lambda outcomes: outcomes, prices)
