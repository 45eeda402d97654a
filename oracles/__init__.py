"""Outcomes turned into the routings that nobody can beat, and the baselines to beat."""

from __future__ import annotations

from offramp.features.registry import Registry
from offramp.oracles.entropy import entropy
from offramp.oracles.hard import hard_oracle
from offramp.oracles.joint import joint
from offramp.oracles.myopic import myopic
from offramp.oracles.router import Look, Oracle, Router
from offramp.oracles.single import single
from offramp.oracles.soft import soft_oracle
from offramp.oracles.threshold import threshold
from offramp.oracles.uniform import uniform

# Colours of Okabe and Ito, which the colour-blind can tell apart.
ORACLES: Registry[Oracle] = Registry(
    "oracle",
    "offramp.oracles",
    {
        "soft_oracle": Oracle(soft_oracle, Router("soft oracle", Look("#009E73", "-", "D"), 80)),
        # It knows too much to be an aim: its saving stands in the csv and the picture.
        "hard_oracle": Oracle(hard_oracle, Router("hard oracle", Look("#CC79A7", "--", "x"), 90, table=False)),
        # Fitted where it is applied: what it reaches is no rival's figure, so it stands in the csv alone.
        "threshold": Oracle(threshold, Router("best threshold, in hindsight", table=False, picture=False)),
        "uniform": Oracle(uniform, Router("random mix", Look("#777777", ":", ""), 50)),
        "myopic": Oracle(myopic, Router("thresholds set one by one", Look("#E69F00", "-.", "^"), 30, rival=True)),
        "joint": Oracle(joint, Router("jointly tuned thresholds", Look("#D55E00", "--", "s"), 10, rival=True)),
        "entropy": Oracle(
            entropy, Router("entropy thresholds at every exit", Look("#56B4E9", "-.", "v"), 20, rival=True)
        ),
        "single": Oracle(single, Router("single stage", Look("#000000", "", "*"), 70)),
    },
)
"""Oracles and baselines by name, in the order of the csv. A new one is a file and a line here: csv, table, picture and
the conformance suite take it from this registry."""
