"""Fitted objects turned into JSON and back, bit for bit; reading one runs no code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from cascades.cascade import Sweep, UnionRules
from cascades.routing import Routes
from features.belief import Pool
from features.calibration import AnswerCalibration
from features.company import Company
from features.errors import InputError
from features.evidence import EvidenceSettings, Reader
from features.pooled import PooledDoubt
from features.spline import Spline
from policies.boosted import BoostedRules, Trees
from policies.constant import ConstantRules
from policies.logistic import LogisticRules
from policies.threshold import ThresholdRules
from policies.value import ValueRules

TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        *(Sweep, UnionRules, Routes, Reader, EvidenceSettings, Pool, PooledDoubt, AnswerCalibration, Company, Spline),
        *(ConstantRules, ThresholdRules, LogisticRules, ValueRules, BoostedRules, Trees),
    )
}
"""What a file may hold: nothing else is ever made from one. A new policy's rules join here."""

DTYPES = {"f": "float64", "i": "int64", "u": "int64", "b": "bool"}
UNFINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def to_plain(value: Any) -> Any:
    """JSON's own types for a fitted object: dataclasses with their type's name, arrays with shape and dtype.

    Floats are float64 and keep every bit; NaN and infinity, which JSON lacks, are texts.

    >>> to_plain(np.array([[1.5, np.inf]]))
    {'array': 'float64', 'shape': [1, 2], 'values': [1.5, 'inf']}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__} | {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
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


def from_plain(value: Any, where: str = "") -> Any:
    """The object that ``to_plain`` wrote. Raises InputError, naming ``where``, for what it can't have written.

    >>> from_plain(to_plain(ConstantRules(np.array([0, 1])))).action.tolist()
    [0, 1]
    """
    if isinstance(value, list):
        return tuple(from_plain(item, where) for item in value)
    if not isinstance(value, dict):
        return value
    try:
        if "array" in value:
            if value["array"] not in DTYPES.values():
                raise InputError(f"an array of {', '.join(sorted(set(DTYPES.values())))}", repr(value["array"]), where)
            numbers = [UNFINITE[v] if isinstance(v, str) else v for v in value["values"]]
            return np.array(numbers, dtype=value["array"]).reshape([int(side) for side in value["shape"]])
        if "map" in value:
            return {from_plain(key, where): from_plain(item, where) for key, item in value["map"]}
        kind = TYPES[value["type"]]
        given = {key: from_plain(item, where) for key, item in value.items() if key != "type"}
        return kind(**{f.name: _float(f.type, given.pop(f.name)) for f in fields(kind)}, **given)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("what this program writes", f"{type(error).__name__} {error}", where) from None


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
