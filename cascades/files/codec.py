"""Fitted objects turned into JSON and back, bit for bit; reading one runs no code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from offramp.cascades.graph.routing import Routes
from offramp.cascades.learning.cascade import Sweep, UnionRules
from offramp.features.belief.calibration import AnswerCalibration
from offramp.features.belief.cooccurrence import Company
from offramp.features.belief.pooled import PooledDoubt
from offramp.features.belief.pooling import Pool
from offramp.features.errors import InputError
from offramp.features.evidence import EvidenceSettings, Reader
from offramp.features.numeric.spline import Spline
from offramp.features.store.limits import SHOWN
from offramp.features.store.strictjson import brief
from offramp.policies import POLICIES

OWN = (Sweep, UnionRules, Routes, Reader, EvidenceSettings, Pool, PooledDoubt, AnswerCalibration, Company, Spline)


def types() -> dict[str, type]:
    """What a file may hold, by name: nothing else is ever made from one. A new policy's rules and their parts join."""
    kinds = [kind for policy in POLICIES.values() for kind in (policy.rules, *policy.parts)]
    found: dict[str, type] = {}
    for kind in (*OWN, *kinds):
        if found.setdefault(kind.__name__, kind) is not kind:
            other = f"{kind.__module__} and {found[kind.__name__].__module__}"
            raise InputError(
                "rules and parts of policies whose names differ", f"{kind.__name__} of {other}", "policies"
            )
    return found


DTYPES = {"f": "float64", "i": "int64", "u": "int64", "b": "bool"}
NUMBERS: dict[str, set[type]] = {"float64": {float, int}, "int64": {int}, "bool": {bool}}
UNFINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}

LONGEST_SIDE = 10_000_000
"""An array without a number in it could still claim any shape."""

MOST_KEYS = 10_000
"""Keys of a map at most; a topology has no more paths."""


def to_plain(value: Any) -> Any:
    """JSON's own types for a fitted object: dataclasses with their type's name, arrays with shape and dtype.

    Floats are float64 and keep every bit; NaN and infinity, which JSON lacks, are texts.

    >>> to_plain(np.array([[1.5, np.inf]]))
    {'array': 'float64', 'shape': [1, 2], 'values': [1.5, 'inf']}
    """
    if is_dataclass(value) and not isinstance(value, type):
        given = {f.name: getattr(value, f.name) for f in fields(value)}
        absent = [f.name for f in fields(value) if "absent" in f.metadata and f.metadata["absent"] == given[f.name]]
        return {"type": type(value).__name__} | {k: to_plain(v) for k, v in given.items() if k not in absent}
    if isinstance(value, np.ndarray):
        array = value.astype(DTYPES[value.dtype.kind])
        return {"array": str(array.dtype), "shape": list(array.shape), "values": to_plain(array.ravel().tolist())}
    if isinstance(value, Mapping):
        return {"map": [[to_plain(key), to_plain(item)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, np.generic):
        return to_plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def from_plain(value: Any, where: str = "", known: Mapping[str, type] | None = None) -> Any:
    """The object that ``to_plain`` wrote. Raises InputError, naming ``where``, for what it can't have written.

    What is made has the right types' names and whole arrays; whether they fit together is for
    ``cascades.files.validation``.

    >>> from offramp.policies.constant import ConstantRules
    >>> from_plain(to_plain(ConstantRules(np.array([0, 1])))).action.tolist()
    [0, 1]
    """
    known = types() if known is None else known
    if isinstance(value, list):
        return tuple(from_plain(item, where, known) for item in value)
    if not isinstance(value, dict):
        return value
    try:
        if "array" in value:
            return _array(value, where)
        if "map" in value:
            if len(value["map"]) > MOST_KEYS or len(value) != 1:
                raise InputError(f"a map of at most {MOST_KEYS} keys", f"{len(value['map'])}", where)
            found = {from_plain(key, where, known): from_plain(item, where, known) for key, item in value["map"]}
            if len(found) != len(value["map"]):
                raise InputError("every key of a map once", "one that stands twice", where)
            return found
        kind = known[value["type"]]
        given = {key: from_plain(item, where, known) for key, item in value.items() if key != "type"}
        given = {f.name: f.metadata["absent"] for f in fields(kind) if "absent" in f.metadata} | given
        return kind(**{f.name: _float(f.type, given.pop(f.name)) for f in fields(kind)}, **given)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("what this program writes", brief(error), where) from None


def _array(value: dict[str, Any], where: str) -> Any:
    kind, shape, values = value["array"], value["shape"], value["values"]
    if kind not in NUMBERS:
        raise InputError(f"an array of {', '.join(sorted(NUMBERS))}", repr(kind)[:SHOWN], where)
    if any(type(side) is not int or not 0 <= side <= LONGEST_SIDE for side in shape) or len(shape) > 4:
        raise InputError("the shape of an array", repr(shape)[:SHOWN], where)
    if not isinstance(values, list) or math.prod(shape) != len(values):
        raise InputError(f"{math.prod(shape)} values in an array of shape {shape}", "others", where)
    numbers = [UNFINITE[v] if isinstance(v, str) else v for v in values] if kind == "float64" else values
    if strange := {type(v) for v in numbers} - NUMBERS[kind]:
        found = ", ".join(sorted(each.__name__ for each in strange))
        raise InputError(f"numbers in an array of {kind}", found, where)
    return np.array(numbers, dtype=kind).reshape(shape)


def _float(kind: Any, value: Any) -> Any:
    """A number field that held NaN or infinity."""
    return UNFINITE[value] if kind == "float" and isinstance(value, str) else value


def describe(sweep: Sweep) -> list[dict[str, Any]]:
    """For people: each price's entry, and for every path the family picked and its rule in words."""
    named = {path: " > ".join(sweep.routes.stages[s] for s in path) for path in sweep.routes.paths}
    return [
        {
            "price": float(price) if price > 0 else None,  # None: one stage and nothing else
            "entry": named[sweep.routes.paths[int(entry)]],
            "rules": {
                named[path]: {"family": rule.family(i), "rule": str(rule.take(np.array([i])))}
                for path, rule in sweep.rules.items()
            },
        }
        for i, (price, entry) in enumerate(zip(sweep.prices, sweep.entry, strict=True))
    ]
