"""Learn, from validation outputs, where each input should stop in a cascade of classifiers.

>>> import numpy as np, offramp
>>> rng = np.random.default_rng(0)
>>> y = rng.integers(0, 5, 2000)
>>> small, large = (rng.normal(size=(2000, 5)) + skill * np.eye(5)[y] for skill in (2, 4))
>>> data = offramp.outputs({"small": small, "large": large}, labels=y, costs={"small": 1.0, "large": 12.0}, unit="ms")
>>> fit, test = data.split(0.5, seed=0)
>>> frontier = offramp.fit(fit, topology="small_large", points=5)
>>> point = frontier.pick(max_error_increase=0.02)
>>> sorted(set(point.route(test).exits.tolist()))
['large', 'small']
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offramp.api import Answers, Data, Evaluation, Frontier, Point, embedded, fit, load, outputs, read
    from offramp.features.errors import InputError
    from offramp.live import Cascade

__version__ = "0.1.0"
__all__ = [
    "Answers",
    "Cascade",
    "Data",
    "Evaluation",
    "Frontier",
    "InputError",
    "Point",
    "embedded",
    "fit",
    "load",
    "outputs",
    "read",
]

_HOMES = {"InputError": "offramp.features.errors", "Cascade": "offramp.live"}

# A checkout where links are plain files (Windows without the right to make links): the folders lie one level up.
if not (_Path(__file__).parent / "features").is_dir():
    __path__.append(str(_Path(__file__).resolve().parents[1]))


def __getattr__(name: str) -> Any:
    """What is exported, imported when it is first asked for: ``import offramp`` itself brings in next to nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'offramp' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES.get(name, "offramp.api")), name)


def __dir__() -> list[str]:
    """The names that are exported."""
    return sorted([*__all__, "__version__"])
