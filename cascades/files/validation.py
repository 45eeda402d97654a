"""A sweep that was read from a file turned into the certainty that its parts fit together and can route."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from offramp.cascades.graph.costs import MAX_COST
from offramp.cascades.graph.routing import Routes
from offramp.cascades.graph.topology import MAX_PATHS
from offramp.cascades.learning.answers import ANSWERS, LOSSES
from offramp.cascades.learning.cascade import Sweep, UnionRules
from offramp.cascades.learning.points import Mixture, Plan
from offramp.features.belief.calibration import MANY_CLASSES, AnswerCalibration
from offramp.features.belief.cooccurrence import Company
from offramp.features.belief.pooled import PooledDoubt
from offramp.features.belief.pooling import Pool
from offramp.features.checks import LARGEST_WEIGHT, LEAST_SCALE, LONGEST_NAME, Place, check_spline
from offramp.features.columns import added, layout
from offramp.features.errors import InputError
from offramp.features.evidence import EvidenceSettings, Path, Reader
from offramp.features.outputs import Outputs
from offramp.features.store.reading import MAX_CLASSES
from offramp.policies import POLICIES
from offramp.policies.policy import rules_of

MOST_STAGES = 256
"""Stages of a file at most; the costs of every path are reckoned again, stage by stage."""

MOST_POINTS = 10_000
"""Operating points of a file at most: every one is routed, and a frontier has a thousand at the most."""

MOST_RANKS = 1000
MOST_DEPTH = 1000

TEMPERATURES = (1e-6, 1e6)


def check_sweep(sweep: Any, where: str) -> Sweep:
    """``sweep``, once every array in it is known to have the shape and the numbers that the others ask for.

    Raises InputError, naming ``where`` and the place in it, for anything else: what is let through routes any outputs
    that ``check_outputs`` lets through.
    """
    place = Place(where)
    place.kind(sweep, Sweep)
    assert isinstance(sweep, Sweep)
    routes = sweep.routes
    _check_routes(routes, place / "routes")
    place.hold(isinstance(sweep.loss, str) and sweep.loss in LOSSES, f"a loss among {', '.join(LOSSES)}", sweep.loss)
    _check_reader(sweep.reader, routes, place / "reader")
    place = place / "sweep"
    (place / "modes").keys(sweep.modes, routes.paths, "ways to answer by path")
    for mode in sweep.modes.values():
        place.hold(isinstance(mode, str) and mode in ANSWERS, f"ways to answer among {', '.join(ANSWERS)}", mode)
    place.hold(isinstance(sweep.prices, np.ndarray) and sweep.prices.ndim == 1, "prices (q,)")
    q = len(sweep.prices)
    place.hold(0 < q <= MOST_POINTS, f"1 to {MOST_POINTS} prices", q)
    known = sweep.prices[np.isfinite(sweep.prices)] if sweep.prices.dtype == np.float64 else sweep.prices[:0]
    place.hold(sweep.prices.dtype == np.float64 and not np.isinf(sweep.prices).any() and (known > 0).all(), "prices")
    (place / "entry").ints(sweep.entry, (q,), 0, len(routes.paths) - 1)
    place.hold(np.isin(sweep.entry, routes.entries).all(), "entries that are paths of one stage", "others")
    onward = [path for path, children in zip(routes.paths, routes.children, strict=True) if children]
    (place / "rules").keys(sweep.rules, onward, "rules by path")
    for path in onward:
        actions = 1 + len(routes.children[routes.index[path]])
        here = place / ("rules at " + ">".join(routes.stages[s] for s in path)[:LONGEST_NAME])
        _check_union(sweep.rules[path], width(sweep.reader, path), actions, q, here)
    return sweep


def check_outputs(sweep: Sweep, outputs: Outputs, where: str) -> None:
    """Raises InputError, about ``where``, for outputs that the sweep's policies were not made for.

    Stages in the routes' order, as many classes, logits where they had logits, as many ranked answers, the same
    measured numbers, and as many pooled features.
    """
    reader = sweep.reader
    if outputs.names != reader.stages:
        raise InputError(f"outputs of the stages {', '.join(reader.stages)}", ", ".join(outputs.names), where)
    if outputs.classes != reader.classes:
        raise InputError(f"outputs over the policies' {reader.classes} classes", f"over {outputs.classes}", where)
    for s, stage in enumerate(outputs.stages):
        here = f"{where}, stage {stage.name!r}"
        known = reader.calibration.get(s)
        if (stage.logits is None) != (known is not None):
            kinds = ("logits", "answers alone")
            raise InputError(f"{kinds[known is not None]}, as the policies know", kinds[known is None], here)
        if known is not None and stage.answers is not None:
            if stage.answers.shape[1] != len(known.ranks):
                found = str(stage.answers.shape[1])
                raise InputError(f"{len(known.ranks)} ranked answers, as the policies know", found, here)
            if tuple(stage.measured) != known.names:
                found = ", ".join(stage.measured) or "none"
                raise InputError(f"measured numbers {', '.join(known.names) or '(none)'}", found, here)
        doubt = reader.pooled.get(s)
        if doubt is not None and (stage.pooled is None or stage.pooled.shape[1] != len(doubt.mean)):
            found = "none" if stage.pooled is None else str(stage.pooled.shape[1])
            raise InputError(f"{len(doubt.mean)} pooled features, as the policies know", found, here)
    if reader.settings.measured:  # only the numbers themselves tell how many columns a gate makes
        for path in sweep.rules:
            seen = width(reader, path, outputs)
            most = int(sweep.rules[path].looks_at.max(initial=-1))
            if most >= seen:
                raise InputError(f"measured numbers for {most + 1} columns", f"{seen} columns", where)


def width(reader: Reader, path: Path, outputs: Outputs | None = None) -> int:
    """How many columns the view at the end of ``path`` has; at most, where ``outputs`` are not given and numbers that
    come with logits may be looked at, which not every stage need have.
    """
    return len(layout(reader.shape(path, None if outputs is None else outputs.stages)))


# --- routes


def _check_routes(routes: Any, place: Place) -> None:
    place.kind(routes, Routes)
    (place / "stages").texts(routes.stages)
    k = len(routes.stages)
    place.hold(0 < k <= MOST_STAGES, f"1 to {MOST_STAGES} stages", k)
    place.hold(len(set(routes.stages)) == k and all(routes.stages), "stages that differ, with a name", "others")
    place.kind(routes.paths, tuple)
    place.hold(0 < len(routes.paths) <= MAX_PATHS, f"1 to {MAX_PATHS} paths", len(routes.paths))
    seen: set[tuple[int, ...]] = set()
    for path in routes.paths:
        place.kind(path, tuple)
        fine = path and all(type(s) is int and 0 <= s < k for s in path) and all(a < b for a, b in pairwise(path))
        place.hold(fine, "paths of stages that go forward", path)
        place.hold(path not in seen, "every path once", path)
        place.hold(len(path) == 1 or path[:-1] in seen, "every path behind the one it lengthens", path)
        seen.add(path)
    (place / "spent").floats(routes.spent, (len(routes.paths), k), MAX_COST, 0.0)
    if routes.alone is not None:
        (place / "alone").floats(routes.alone, (k,), MAX_COST * MOST_STAGES, 0.0)
    (place / "unit").text(routes.unit)


# --- the reader


def _check_reader(reader: Any, routes: Routes, place: Place) -> None:
    place.kind(reader, Reader)
    settings = reader.settings
    place.kind(settings, EvidenceSettings)
    for name in ("calibrate", "stack", "agreement", "pooled"):
        (place / name).kind(getattr(settings, name), bool)
    (place / "measured").texts(settings.measured)
    (place / "ranks").whole(settings.ranks, 1, MOST_RANKS)
    (place / "added").texts(settings.added)
    (place / "added").hold(len(set(settings.added)) == len(settings.added), "every column once", "one twice")
    known = added()
    for name in settings.added:
        place.hold(name in known, f"columns that are installed ({', '.join(known) or 'none'})", name[:LONGEST_NAME])
    (place / "stages").hold(reader.stages == routes.stages, "the routes' stages", reader.stages)
    (place / "classes").whole(reader.classes, 1, MAX_CLASSES)
    k, c = len(routes.stages), reader.classes
    answering = _check_temperatures(reader.temperature, k, place / "temperature")
    (place / "calibration").keys(reader.calibration, answering, "calibrations by stage of answers")
    for s in answering:
        _check_answers(reader.calibration[s], c, place / f"calibration of {routes.stages[s]}")
    (place / "log_prior").floats(reader.log_prior, (c if reader.dense else 0,))
    (place / "pools").keys(reader.pools, routes.paths, "pools by path")
    for path in routes.paths:
        _check_pool(reader.pools[path], reader, path, place / f"pool of {path}")
    (place / "pooled").hold(isinstance(reader.pooled, Mapping), "a map", type(reader.pooled).__name__)
    for s, doubt in reader.pooled.items():
        here = place / "pooled"
        here.whole(s, 0, k - 1)
        here.kind(doubt, PooledDoubt)
        here.hold(isinstance(doubt.mean, np.ndarray) and doubt.mean.ndim == 1, "means (m,)")
        here.floats(doubt.mean, doubt.mean.shape)
        here.floats(doubt.weights, doubt.mean.shape, LARGEST_WEIGHT)
        here.hold(type(doubt.bias) is float and abs(doubt.bias) <= LARGEST_WEIGHT, "a finite bias", doubt.bias)


def _check_temperatures(temperature: Any, k: int, place: Place) -> list[int]:
    """Which stages give answers alone."""
    place.hold(isinstance(temperature, np.ndarray), "an array", type(temperature).__name__)
    low, high = TEMPERATURES
    place.hold(temperature.dtype == np.float64 and temperature.shape == (k,), f"float64 of shape ({k},)")
    known = temperature[~np.isnan(temperature)]
    place.hold(((known >= low) & (known <= high)).all(), f"temperatures from {low:g} to {high:g}, or nan", "others")
    return [int(s) for s in np.flatnonzero(np.isnan(temperature))]


def _check_answers(known: Any, c: int, place: Place) -> None:
    place.kind(known, AnswerCalibration)
    place.hold(type(known.classes) is int and known.classes == c, f"{c} classes", known.classes)
    place.texts(known.names)
    place.hold(len(set(known.names)) == len(known.names), "names that differ", "one twice")
    place.kind(known.bounded, tuple)
    fine = len(known.bounded) == len(known.names) and all(type(b) is bool for b in known.bounded)
    place.hold(fine, "whether each number is bounded", known.bounded)
    (place / "reliability").floats(known.reliability, (c,))
    ranked = isinstance(known.ranks, np.ndarray) and known.ranks.ndim == 1 and len(known.ranks)
    place.hold(ranked, "shares by rank (r,)")
    r = len(known.ranks)
    (place / "ranks").floats(known.ranks, (r,), 1 + 1e-9, 0.0)
    few = c <= MANY_CLASSES
    (place / "confusion").floats(known.confusion, (c, c) if few else (0, 0), 1 + 1e-9, 0.0)
    place.hold((known.company is not None) == (r > 1), "the company of ranked answers, or none", "the other")
    columns = 1 + len(known.names)
    if few and c >= 2 and known.company is None:
        columns += c * (2 if known.names else 1)
    if known.company is not None:
        _check_company(known.company, c, place / "company")
        columns += 2 * (r - 1)
    m = check_spline(known.spline, columns, place / "spline")
    (place / "coefficients").floats(known.coefficients, (1 + m,), LARGEST_WEIGHT)


def _check_company(company: Any, c: int, place: Place) -> None:
    place.kind(company, Company)
    place.hold(isinstance(company.key, np.ndarray) and company.key.ndim == 1 and len(company.key), "keys (p,)")
    p = len(company.key)
    place.ints(company.key, (p,), -1, c * c - 1)
    place.hold((np.diff(company.key) > 0).all(), "keys that rise", "others")
    for counts, shape in ((company.times, (p,)), (company.right, (p,)), (company.first, (c,))):
        place.ints(counts, shape, 0, 2**53)
    place.floats(company.common, (c,), 1 + 1e-9, 1e-18)


def _check_pool(pool: Any, reader: Reader, path: Path, place: Place) -> None:
    place.kind(pool, Pool)
    used = len(path) if reader.settings.stack else 1
    place.floats(pool.weights, (used + (used - 1) + 1,), LARGEST_WEIGHT)  # of the prior or, with many classes, silence
    place.hold(isinstance(pool.correction, np.ndarray), "an array", type(pool.correction).__name__)
    if not pool.correction.size:
        for array in (pool.mean, pool.scale, pool.correction):
            place.hold(isinstance(array, np.ndarray) and not array.size, "no correction at all", "a part of one")
        return
    place.hold(reader.dense, "no correction with many classes", "one")
    flat = used * reader.classes
    (place / "mean").floats(pool.mean, (flat,))
    (place / "scale").floats(pool.scale, (flat,), least=LEAST_SCALE)
    (place / "correction").floats(pool.correction, (1 + flat, reader.classes), LARGEST_WEIGHT)


# --- the rules


def _check_union(rules: Any, columns: int, actions: int, q: int, place: Place) -> None:
    families = rules_of(POLICIES).values()
    place.kind(rules, UnionRules)
    place.texts(rules.names)
    place.kind(rules.members, tuple)
    place.hold(0 < len(rules.members) == len(rules.names), "a name for each family", f"{len(rules.names)} names")
    (place / "pick").ints(rules.pick, (q,), 0, len(rules.members) - 1)
    for name, member in zip(rules.names, rules.members, strict=True):
        here = place / name
        here.hold(type(member) in families, "rules of a family", type(member).__name__)
        member.check(here, columns, actions, q)


# --- thresholds and mixtures behind the sweep


def check_plans(plans: Sequence[Plan], sweep: Sweep, where: str) -> None:
    """Raises InputError for thresholds (a path and its cuts each) that are not along paths of the sweep's routes, one
    for each of its prices."""
    place = Place(where, "thresholds")
    finite = int(np.isfinite(sweep.prices).sum())
    place.hold(len(plans) in (0, finite), f"thresholds for each of {finite} prices, or none", len(plans))
    for path, cuts in plans:
        place.hold(path in sweep.routes.index, "paths of the routes", path)
        place.hold(len(cuts) == len(path) - 1, f"{len(path) - 1} thresholds on its paths", len(cuts))


def check_mixtures(mixtures: Sequence[Mixture], points: int, where: str) -> None:
    """Raises InputError for mixtures that are not of two of so many ``points``."""
    place = Place(where, "mixtures")
    place.hold(points + len(mixtures) <= MOST_POINTS, f"at most {MOST_POINTS} points", points + len(mixtures))
    for m in mixtures:
        fine = 0 <= m.one < points and 0 <= m.other < points
        place.hold(fine, f"mixtures of two of {points} cascades", (m.one, m.other))
