"""Outcomes turned into the routings that nobody can beat, and the baselines to beat."""

from __future__ import annotations

from collections.abc import Callable

from cascades.outcomes import Outcomes
from cascades.routing import OperatingPoint, Routes
from features.outputs import Floats
from oracles.entropy import entropy
from oracles.hard import hard_oracle
from oracles.joint import joint
from oracles.myopic import myopic
from oracles.single import single
from oracles.soft import soft_oracle
from oracles.threshold import threshold
from oracles.uniform import uniform

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
