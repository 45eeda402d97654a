"""Features and the cost of each action, turned into a rule: ``POLICIES`` maps a family's name to its policy."""

from __future__ import annotations

from offramp.features.registry import Registry
from offramp.policies.boosted import Boosted
from offramp.policies.constant import Constant
from offramp.policies.entropy import Entropy
from offramp.policies.gate import Gate
from offramp.policies.logistic import Logistic
from offramp.policies.policy import Policy
from offramp.policies.threshold import Threshold
from offramp.policies.value import Value

POLICIES: Registry[Policy] = Registry(
    "policy",
    "offramp.policies",
    {
        "constant": Constant(),
        "threshold": Threshold(),
        "logistic": Logistic(),
        "value": Value(),
        "boosted": Boosted(),
        "entropy": Entropy(),
        "gate": Gate(),
    },
)
"""Policy families by name. A new one is a file and a line here; the conformance suite runs over this dict."""

DEFAULT_POLICIES = ("constant", "threshold", "logistic", "value")
