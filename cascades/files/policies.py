"""Fitted cascades turned into a policies.json and back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from offramp.cascades.files.codec import UNFINITE, describe, from_plain, to_plain
from offramp.cascades.files.validation import check_mixtures, check_plans, check_sweep
from offramp.cascades.learning.chains import chain_name
from offramp.cascades.learning.points import Fitted, Mixture
from offramp.features.errors import InputError
from offramp.features.store.strictjson import brief, read_json

FORMAT, VERSION = "offramp cascades", 1


def policies_to_plain(fitted: Fitted) -> dict[str, Any]:
    """The content of a policies.json: every cascade in words, and all that is needed to read it back."""
    routes = fitted.sweep.routes
    plans = [
        {"path": chain_name(routes, path), "stages": list(path), "cuts": to_plain(cuts)} for path, cuts in fitted.plans
    ]
    return {
        "format": FORMAT,
        "version": VERSION,
        "cascades": describe(fitted.sweep),
        "thresholds": plans,
        "mixtures": [asdict(mixture) for mixture in fitted.mixtures],
        "coin": fitted.coin,
        "examples": fitted.examples,
        "sweep": to_plain(fitted.sweep),
    }


def read_policies(path: Path) -> Fitted:
    """The cascades in ``path``, a policies.json. Raises InputError for what this program did not write."""
    return policies_from_plain(read_json(path, "a policies.json"), str(path))


def policies_from_plain(found: Any, where: str) -> Fitted:
    """The cascades that ``policies_to_plain`` wrote. Raises InputError, naming ``where``, for anything else: what comes
    back can route. In bounded time and memory, and without running anything."""
    if not isinstance(found, dict) or found.get("format") != FORMAT or type(found.get("version")) is not int:
        about = [found.get("format"), found.get("version")] if isinstance(found, dict) else type(found).__name__
        raise InputError(f"format {FORMAT!r}, version {VERSION}", brief(about), where)
    refuse_version(found["version"], VERSION, where)
    try:
        sweep = check_sweep(from_plain(found["sweep"], where), where)
        plans = tuple((tuple(p["stages"]), tuple(from_plain([*p["cuts"]], where))) for p in found["thresholds"])
        check_plans(plans := tuple((path, tuple(map(_cut, cuts))) for path, cuts in plans), sweep, where)
        mixtures = tuple((m["one"], m["other"], m["share"]) for m in found["mixtures"])
        check_mixtures(mixtures, len(sweep.prices) + len(plans), where)
        coin, examples = found["coin"], found["examples"]
        if type(coin) is not int or coin < 0 or not isinstance(examples, str) or len(examples) > 64:
            raise InputError("the coin's seed and a digest of the examples", brief([coin, examples]), where)
        return Fitted(sweep, plans, tuple(Mixture(i, j, float(share)) for i, j, share in mixtures), coin, examples)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("what this program writes", brief(error), where) from error


def refuse_version(found: int, known: int, where: str) -> None:
    """Raises InputError for a file of another version than the ``known`` one."""
    if found != known:
        age = "written by a later version of this program: update it" if found > known else "which never was"
        raise InputError(f"version {known}", f"version {found}, {age}", where)


def _cut(value: Any) -> Any:
    return UNFINITE.get(value, value) if isinstance(value, str) else value
