"""One operating point and all that is needed to trust, run and watch it: the policy file, ``policy.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cascades.costs import Costs
from cascades.points import Fitted
from features.outputs import Floats


@dataclass(frozen=True)
class Target:
    """What was asked for; whatever is None or empty was not.

    ``budget``: mean cost of an example, in the costs' unit. ``error_increase``: mean loss over that of the largest
    stage, in [0, 1]. ``accuracy``: at least one minus the mean loss. ``shares``: per stage, at most this share of the
    examples may exit there. At least one is given.
    """

    budget: float | None = None
    error_increase: float | None = None
    accuracy: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Expected:
    """What each of the m points of a ``Fitted`` did on the examples that points are picked on, held out.

    ``cost``, ``error`` (m,); ``reference`` the mean loss of the largest stage there; ``examples`` how many.
    """

    cost: Floats
    error: Floats
    reference: float
    examples: int


@dataclass(frozen=True)
class Certificate:
    """With probability at least 1 - ``delta`` over the examples it was made on, both bounds hold.

    ``risk``: "increase" (mean loss over the largest stage's) or "error" (mean loss); ``risk_bound`` what it is at most,
    ``cost_bound`` what the mean cost is at most. ``value`` and ``cost``: their means on the ``examples``, whose
    ``digest`` (``digest_of``) tells which they were. ``method``: of the test, in words. ``groups``: the bound for each
    group that was certified too.
    """

    delta: float
    risk: str
    risk_bound: float
    cost_bound: float
    value: float
    cost: float
    examples: int
    digest: str
    method: str
    groups: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """How the point behaves where the world is as it was: what a watched stream is held against.

    ``exits``: per path ("alexnet>resnet") how many of the ``examples`` stopped at its end. ``edges`` (b - 1,) cut
    confidences (maximum softmax probabilities of the stage that answered last) into b bins, and ``counts`` says for
    each path how many examples fell into which, (b,).
    """

    examples: int
    exits: Mapping[str, int]
    edges: tuple[float, ...]
    counts: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Deployment:
    """A policy file: ``point`` is the number of the chosen cascade among those of ``fitted``, which are all kept, so
    that certification can step back along them.

    ``data``: name of the data folder, with the ``seed`` it was split by and the ``kept`` share of its fit part that
    nothing was learned from (0 if it has a certify part). ``parts``: per part the digest of its examples. ``classes``:
    their number. ``networks``: per network its spec, weights' digest and preprocessing, as ``eval.extract`` noted, or
    empty. ``tuned``: what was chosen by search, in JSON's types. ``versions``: of the libraries.
    """

    fitted: Fitted
    point: int
    topology: str
    costs: Costs
    target: Target
    expected: Expected
    data: str
    seed: int
    kept: float
    parts: Mapping[str, str]
    classes: int
    networks: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    certificate: Certificate | None = None
    reference: Reference | None = None
