"""Fitted cascades turned into a policies.json and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from offramp.cascades.files.codec import UNFINITE, describe, from_plain, to_plain
from offramp.cascades.files.typed import MixtureFields, PlanFields, PoliciesFields, plain_of, read_as
from offramp.cascades.files.validation import check_mixtures, check_plans, check_sweep
from offramp.cascades.learning.chains import chain_name
from offramp.cascades.learning.points import Fitted, Mixture
from offramp.features.errors import InputError
from offramp.features.store.strictjson import brief, read_json

FORMAT: Final = "offramp cascades"
VERSION: Final = 1


def policies_to_plain(fitted: Fitted) -> dict[str, Any]:
    """The content of a policies.json: every cascade in words, and all that is needed to read it back."""
    routes = fitted.sweep.routes
    plans = [
        PlanFields(path=chain_name(routes, path), stages=list(path), cuts=to_plain(cuts)) for path, cuts in fitted.plans
    ]
    fields = PoliciesFields(
        format=FORMAT,
        version=VERSION,
        cascades=describe(fitted.sweep),
        thresholds=plans,
        mixtures=[MixtureFields(m.one, m.other, m.share) for m in fitted.mixtures],
        coin=fitted.coin,
        examples=fitted.examples,
        sweep=to_plain(fitted.sweep),
    )
    return plain_of(fields)


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
    fields = read_as(found, PoliciesFields, where)
    try:
        sweep = check_sweep(from_plain(fields.sweep, where), where)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("what this program writes", brief(error), where) from error
    plans = tuple((tuple(p.stages), tuple(map(_cut, p.cuts))) for p in fields.thresholds)
    check_plans(plans, sweep, where)
    mixtures = tuple(Mixture(m.one, m.other, m.share) for m in fields.mixtures)
    check_mixtures(mixtures, len(sweep.prices) + len(plans), where)
    return Fitted(sweep, plans, mixtures, fields.coin, fields.examples)


def refuse_version(found: int, known: int, where: str) -> None:
    """Raises InputError for a file of another version than the ``known`` one."""
    if found != known:
        age = "written by a later version of this program: update it" if found > known else "which never was"
        raise InputError(f"version {known}", f"version {found}, {age}", where)


def _cut(value: float | str) -> float:
    return UNFINITE[value] if isinstance(value, str) else value
