"""What flags may be chosen from, asked of the registries when a command line is read."""

from __future__ import annotations


def policy_names() -> tuple[str, ...]:
    """Every policy family, plug-ins included."""
    from offramp.policies import POLICIES

    return tuple(POLICIES)


def default_policies() -> tuple[str, ...]:
    """Families fitted unless others are named; "boosted" takes ten times as long and gained nothing where it was
    tried."""
    from offramp.policies import DEFAULT_POLICIES

    return DEFAULT_POLICIES
