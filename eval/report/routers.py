"""The names of routers turned into what they are called and how they are drawn."""

from __future__ import annotations

from offramp.oracles.router import Look, Router

LEARNED = {
    "policy": Router("learned policy", Look("#0072B2", "-", "o", 2.4), 0),
    "gates": Router("gates trained for each price", Look("#AA3377", "--", "P"), 40),
}
"""Routers that are learned; the others are in ``ORACLES``."""


def routers() -> dict[str, Router]:
    """Every router by name, as tables and legends have them in order."""
    from offramp.oracles import ORACLES

    known = LEARNED | {name: oracle.router for name, oracle in ORACLES.items()}
    return dict(sorted(known.items(), key=lambda item: item[1].place))


def rivals() -> tuple[str, ...]:
    """The simple rivals of a learned policy."""
    return tuple(name for name, router in routers().items() if router.rival)
