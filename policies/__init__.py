"""Features and the cost of each action, turned into a rule: ``POLICIES`` maps a family's name to its policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offramp.features.registry import Registry

if TYPE_CHECKING:
    from offramp.policies.policy import Policy

POLICIES: Registry[Policy] = Registry(
    "policy",
    "offramp.policies",
    {
        "constant": "offramp.policies.constant:Constant",
        "threshold": "offramp.policies.threshold:Threshold",
        "logistic": "offramp.policies.logistic:Logistic",
        "value": "offramp.policies.value:Value",
        "boosted": "offramp.policies.boosted:Boosted",
        "entropy": "offramp.policies.entropy:Entropy",
        "gate": "offramp.policies.gate:Gate",
    },
)
"""Policy families by name, each imported when it is first used, so that ``--help`` needs none. A new one is a file and
a line here; the conformance suite runs over this registry."""

DEFAULT_POLICIES = ("constant", "threshold", "logistic", "value")
"""Families fitted unless others are named; "boosted" takes ten times as long and gained nothing where it was tried."""
