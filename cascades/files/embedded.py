"""The name of data or weights that come along turned into where they are: here, or in ``offramp-demo``."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

EMBEDDED = Path(__file__).parents[1] / "embedded"
"""What is in this package; a checkout has all of it, an installed package only ``cifar10`` and ``imagenet``."""

DEMO = "offramp_demo"
"""The distribution that has the rest: weights, and the outputs that the tables of the papers are made from."""


def homes() -> tuple[Path, ...]:
    """The folders that hold embedded data."""
    demo = find_spec(DEMO)
    there = [] if demo is None else [Path(place) / "embedded" for place in demo.submodule_search_locations or ()]
    return (EMBEDDED, *there)


def embedded_path(name: str) -> Path:
    """The folder of embedded data ``name``, or where it would be."""
    return next((home / name for home in homes() if (home / name).is_dir()), EMBEDDED / name)


def embedded_names() -> tuple[str, ...]:
    """Names of the data folders that come along.

    >>> {"cifar10", "imagenet"} <= set(embedded_names())
    True
    """
    return tuple(sorted({path.parent.name for home in homes() for path in home.glob("*/costs.json")}))


def missing(name: str) -> str:
    """How to get what an installed package does not bring; empty where it is there."""
    return "" if (embedded_path(name)).is_dir() else " (pip install offramp-demo brings it)"
