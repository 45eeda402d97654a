"""A way to route turned into what tables, pictures and sentences need: its name for people, and how it is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from offramp.cascades.graph.routing import OperatingPoint, Routes
from offramp.cascades.learning.outcomes import Outcomes
from offramp.features.outputs import Floats


@dataclass(frozen=True)
class Look:
    """How a router is drawn: told apart by colour, and without colour by line and marker (Matplotlib's words)."""

    colour: str = "#882255"
    line: str = ":"
    marker: str = "h"
    width: float = 1.4


@dataclass(frozen=True)
class Router:
    """What is known of a router besides its points.

    ``told``: its name for people. ``place``: where it stands in tables and legends, the least first. ``rival``: a
    simple rival of the learned policy, which the verdict compares it with. ``table`` and ``picture``: whether it is
    shown there.
    """

    told: str
    look: Look = field(default_factory=Look)
    place: int = 60
    rival: bool = False
    table: bool = True
    picture: bool = True


Points = Callable[[Outcomes, Outcomes, Routes, Floats], list[OperatingPoint]]
"""(fit, examples, routes, prices (p,)) → operating points on ``examples``. The columns of both outcomes stand in the
order of ``routes.stages``. A baseline chooses everything on ``fit``; an oracle knows the labels of ``examples``."""


@dataclass(frozen=True)
class Oracle:
    """An oracle or a baseline: the function that makes its points, and what is known of it as a router."""

    points: Points
    router: Router

    def __call__(self, fit: Outcomes, examples: Outcomes, routes: Routes, prices: Floats) -> list[OperatingPoint]:
        """See ``Points``."""
        return self.points(fit, examples, routes, prices)
