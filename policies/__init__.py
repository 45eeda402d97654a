"""Features and the cost of each action, turned into a rule: ``POLICIES`` maps a family's name to its policy."""

from __future__ import annotations

from policies.boosted import Boosted
from policies.constant import Constant
from policies.entropy import Entropy
from policies.gate import Gate
from policies.logistic import Logistic
from policies.policy import Policy
from policies.threshold import Threshold
from policies.value import Value

POLICIES: dict[str, Policy] = {
    "constant": Constant(),
    "threshold": Threshold(),
    "logistic": Logistic(),
    "value": Value(),
    "boosted": Boosted(),
    "entropy": Entropy(),
    "gate": Gate(),
}
"""Policy families by name. A new one is a file and a line here; the conformance suite runs over this dict."""

DEFAULT_POLICIES = ("constant", "threshold", "logistic", "value")
