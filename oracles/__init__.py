"""Outcomes turned into the routings that nobody can beat, and the baselines to beat."""

from __future__ import annotations

from collections.abc import Callable

from offramp.cascades.graph.routing import OperatingPoint, Routes
from offramp.cascades.learning.outcomes import Outcomes
from offramp.features.outputs import Floats
from offramp.oracles.entropy import entropy
from offramp.oracles.hard import hard_oracle
from offramp.oracles.joint import joint
from offramp.oracles.myopic import myopic
from offramp.oracles.single import single
from offramp.oracles.soft import soft_oracle
from offramp.oracles.threshold import threshold
from offramp.oracles.uniform import uniform

Oracle = Callable[[Outcomes, Outcomes, Routes, Floats], list[OperatingPoint]]
"""(fit, examples, routes, prices (p,)) → operating points on ``examples``. The columns of both outcomes stand in the
order of ``routes.stages``. A baseline chooses everything on ``fit``; an oracle knows the labels of ``examples``."""

ORACLES: dict[str, Oracle] = {
    "soft_oracle": soft_oracle,
    "hard_oracle": hard_oracle,
    "threshold": threshold,
    "uniform": uniform,
    "myopic": myopic,
    "joint": joint,
    "entropy": entropy,
    "single": single,
}
