"""A certified point's routing turned into what a stream is held against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.cascades.files.policy import Certificate, Deployment, Reference
from offramp.cascades.graph.routing import Routes, Routing
from offramp.cascades.learning.chains import chain_name
from offramp.features.confidence import read_confidence
from offramp.features.errors import InputError
from offramp.features.outputs import Floats, Outputs

EDGES = tuple((1 / (1 + np.exp(-np.arange(-3, 9.5, 0.25)))).tolist())
"""Confidences between which examples are counted, even in the log odds, from 0.05 to 0.9999. They are given and not
quantiles of the reference: only then are its counts a plain sample, which the tests rest on."""

FEWEST = 31
"""Reference examples on a path below which their confidence is not watched: they say too little."""


def reference_of(routing: Routing, outputs: Outputs) -> Reference:
    """How often each path was taken, with what confidence, and what was answered, on the examples of ``outputs``.

    Raises ValueError when the routing is of other examples. They should be such as nothing was learned from, or they
    look surer than what comes.
    """
    routes = routing.routes
    if len(routing) != len(outputs) or routing.part != outputs.part or set(routes.stages) - set(outputs.names):
        raise ValueError("a reference needs the outputs of every stage on the very examples that were routed")
    names = path_names(routes)
    sure = confidences(routing, outputs)
    counts = {}
    for q, name in enumerate(names):
        here = sure[routing.path == q]
        if len(here) and not np.isnan(here).any():
            counts[name] = tuple(np.bincount(np.searchsorted(EDGES, here, "right"), minlength=len(EDGES) + 1).tolist())
    known = bool(((routing.answer >= 0) & (routing.answer < outputs.classes)).all())
    return Reference(
        len(routing),
        dict(zip(names, routing.visits.tolist(), strict=True)),
        EDGES,
        counts,
        tuple(np.bincount(routing.answer, minlength=outputs.classes).tolist()) if known else (),
        int((routing.answer != outputs.labels).sum()),
    )


def confidences(routing: Routing, outputs: Outputs) -> Floats:
    """Maximum softmax probability (n,) of the last stage on each example's path; NaN where there is none.

    A stage of answers alone has the number that came with them as "confidence", if it is a probability throughout.
    """
    sure = np.full(len(routing), np.nan)
    for s, stage in enumerate(outputs.of(routing.routes.stages).stages):
        rows = np.flatnonzero(routing.exit == s)
        if stage.logits is not None and len(rows):
            sure[rows] = np.exp(read_confidence(np.asarray(stage.logits[rows]), ranks=1).top_logp[:, 0])
        elif "confidence" in stage.measured:
            told = np.asarray(stage.measured["confidence"], dtype=np.float64)
            sure[rows] = told[rows] if ((told >= 0) & (told <= 1)).all() else np.nan
    return np.asarray(np.minimum(sure, 1.0))


def path_names(routes: Routes) -> tuple[str, ...]:
    """Every path as logs have it, "alexnet>resnet"."""
    return tuple(chain_name(routes, path) for path in routes.paths)


@dataclass(frozen=True)
class Subject:
    """What a stream is held against: q paths over k stages, and what is known and promised of them.

    ``paths`` their names; ``cost`` (q,) in ``unit``; ``runs`` (q, k) whether a path runs a stage. ``loss``: what the
    certificate's risk is the mean of.
    """

    paths: tuple[str, ...]
    stages: tuple[str, ...]
    cost: Floats
    runs: NDArray[np.bool_]
    unit: str
    classes: int
    reference: Reference
    certificate: Certificate | None = None
    loss: str = "top1"


def subject_of(deployment: Deployment, where: str = "policy") -> Subject:
    """What to watch of a policy. Raises InputError if it has no reference, or one that can't be of its paths."""
    reference, routes = deployment.reference, deployment.fitted.sweep.routes
    if reference is None:
        raise InputError("a policy with a reference (run eval.certify on it first)", "none", where)
    names = path_names(routes)
    strange = [name for name in (*reference.exits, *reference.counts) if name not in names]
    if strange:
        raise InputError(f"a reference of the paths {', '.join(names)}", strange[0], where)
    n, edges = reference.examples, np.asarray(reference.edges)
    fine = n > 0 and sum(reference.exits.values()) == n and bool((np.diff(edges) > 0).all())
    fine &= all(
        len(counts) == len(edges) + 1 and sum(counts) == reference.exits.get(name, 0)
        for name, counts in reference.counts.items()
    )
    fine &= not reference.answers or (len(reference.answers) == deployment.classes and sum(reference.answers) == n)
    fine &= reference.wrong is None or 0 <= reference.wrong <= n
    if not fine:
        raise InputError("a reference whose counts add up to its examples", "others", where)
    runs = np.array([[s in path for s in range(len(routes.stages))] for path in routes.paths])
    return Subject(
        names,
        routes.stages,
        np.asarray(routes.cost, dtype=np.float64),
        runs,
        routes.unit,
        deployment.classes,
        reference,
        deployment.certificate,
        deployment.fitted.sweep.loss,
    )
