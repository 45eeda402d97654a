"""Arrays and data frames turned into a frontier, a point on it, and a policy file: what ``import offramp`` offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offramp.cascades.graph.costs import Costs, StageCost
from offramp.cascades.learning.recipe import LEAST_EXAMPLES, Recipe
from offramp.cascades.learning.targets import Expected, Target
from offramp.features.errors import InputError
from offramp.features.outputs import NO_ANSWER, PARTS, Floats, Ints, Outputs, Stage

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from offramp.cascades.files.policy import Certificate, Deployment
    from offramp.cascades.graph.routing import OperatingPoint, Routes
    from offramp.cascades.learning.fit import FitSettings
    from offramp.cascades.learning.points import Fitted, Picking
    from offramp.live import Cascade

SUMS_TO_ONE = 1e-3
"""Rows whose sums are as near to one as this, and lie between 0 and 1, look like probabilities."""

KINDS = ("logits", "probabilities")


@dataclass(frozen=True)
class Data:
    """What k stages said of n labelled examples, and what the stages cost.

    ``outputs``: per stage logits or answers, with labels and ids. ``costs``: of every stage, in its ``unit``.
    ``name`` is what messages call the data.
    """

    outputs: Outputs
    costs: Costs
    name: str = "data"
    seed: int = 0

    def __len__(self) -> int:
        return len(self.outputs)

    @property
    def labels(self) -> Ints:
        """(n,) classes, numbered from 0."""
        return self.outputs.labels

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages' names."""
        return self.outputs.names

    def take(self, rows: ArrayLike, part: str | None = None) -> Data:
        """The examples ``rows``: numbers (m,), or a mask (n,)."""
        index = np.asarray(rows)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        return replace(self, outputs=self.outputs.take(index, part))

    def split(
        self,
        share: float = 0.5,
        seed: int = 0,
        *,
        groups: ArrayLike | None = None,
        time: ArrayLike | None = None,
        stratify: bool = False,
    ) -> tuple[Data, Data]:
        """Two parts: a ``share`` of the examples to fit on, and the rest; the examples of each keep their order.

        At random by ``seed``, as the commands split a folder of one part. ``groups`` (n,): whose examples must not
        lie in both parts (patients, sessions): whole groups are drawn. ``time`` (n,): the earliest share comes
        first. ``stratify``: as many of each class in both, as far as they can be halved.
        Raises InputError where a part would be empty, and for more than one of the three.
        """
        if (groups is not None) + (time is not None) + stratify > 1:
            raise InputError("one of groups=, time= and stratify=", "several", "split")
        n, rng = len(self), np.random.default_rng(seed)
        if time is not None:
            order = np.argsort(_column(time, n, "time"), kind="stable")
        elif groups is not None:
            names, member = np.unique(_column(groups, n, "groups"), return_inverse=True)
            rank = rng.permutation(len(names))
            sizes = np.bincount(member)[np.argsort(rank)]
            kept = int(np.abs(np.cumsum(sizes) - share * n).argmin()) + 1
            return self._parted(np.flatnonzero(rank[member] < kept), n)
        elif stratify:
            order = rng.permutation(n)
            order = order[np.argsort(self.labels[order], kind="stable")]
            counts = np.bincount(self.labels, minlength=self.outputs.classes)
            starts = np.cumsum(counts) - counts
            within = np.arange(n) - np.repeat(starts, counts)
            first = within < np.repeat(np.round(share * counts), counts)
            return self._parted(np.sort(order[first]), n)
        else:
            order = rng.permutation(n)
        return self._parted(np.sort(order[: int(share * n)]), n)

    def save(self, folder: str | Path) -> Path:
        """Write a part's file and ``costs.json`` into a data folder, as the commands read it; returns the part's file.

        The part is what ``split`` or ``take`` called it: "fit" and "test" make a folder. Raises InputError.
        """
        from offramp.cascades.graph.costs import write_costs
        from offramp.features.store.writing import write_outputs

        path = write_outputs(self.outputs, Path(folder))
        write_costs(self.costs, path.with_name("costs.json"))
        return path

    def _parted(self, first: Ints, n: int) -> tuple[Data, Data]:
        rest = np.setdiff1d(np.arange(n), first)
        if not len(first) or not len(rest):
            raise InputError("a share that leaves examples in both parts", f"{len(first)} of {n}", "split")
        return self.take(first, "fit"), self.take(rest, "test")

    def __repr__(self) -> str:
        kinds = {stage.name: "answers" if stage.logits is None else "logits" for stage in self.outputs.stages}
        said = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        return f"<Data: {len(self):,} examples, {self.outputs.classes} classes; {said}>"


def outputs(
    scores: Mapping[str, Any],
    labels: ArrayLike,
    costs: Mapping[str, float] | Costs,
    unit: str = "",
    *,
    ids: ArrayLike | None = None,
    classes: Sequence[Any] | None = None,
    kind: str | None = None,
    confidences: Mapping[str, Any] | None = None,
) -> Data:
    """What stages said of labelled examples, as arrays, data frames or torch tensors.

    ``scores``: per stage logits (n, c), or answers (n,), or answers ranked best first (n, r) as texts. ``labels`` (n,):
    class numbers for logits, or what the answers are. ``costs``: per stage what it costs, in ``unit``; or ``Costs``
    for exits that share a trunk. ``ids`` (n,), unique; the rows' numbers unless given. ``classes``: (c,) what the
    columns of the logits stand for, where labels are names. ``kind``: "logits" or "probabilities"; must be said where
    rows sum to one. ``confidences``: per stage of answers (n,) numbers, how sure it was.
    Raises InputError for what does not fit together, or could mean two things.
    """
    if not scores:
        raise InputError("at least one stage", "none", "outputs")
    known = costs if isinstance(costs, Costs) else _costs(costs, unit)
    if missing := [name for name in scores if name not in known.stages]:
        raise InputError("a cost for every stage", f"none for {', '.join(missing)}", "costs")
    if unused := [name for name in known.stages if name not in scores]:
        raise InputError("outputs of every stage that has a cost", f"none of {', '.join(unused)}", "outputs")
    if stray := set(confidences or {}) - set(scores):
        raise InputError(f"confidences of {', '.join(scores)}", ", ".join(sorted(stray)), "confidences")
    truth = _array(labels)
    if truth.ndim != 1:
        raise InputError("labels (n,), one for each example", f"shape {truth.shape}", "labels")
    n = len(truth)
    arrays = {name: _array(value) for name, value in scores.items()}
    for name, array in arrays.items():
        if array.ndim not in (1, 2) or len(array) != n:
            raise InputError(f"({n}, classes) logits or ({n},) answers", f"shape {array.shape}", f"stage {name!r}")
    dense = {name: array for name, array in arrays.items() if _is_logits(array, name)}
    number, c = _numbering(arrays, dense, truth, classes)
    stages = []
    for name, array in arrays.items():
        if name in dense:
            if confidences and name in confidences:
                raise InputError("confidences of stages of answers", "logits, which say themselves", f"stage {name!r}")
            stages.append(Stage(name, logits=_logits(array, kind, name)))
            continue
        answers = _numbered(array.reshape(n, -1), number, f"stage {name!r}")
        sure = {} if name not in (confidences or {}) else {"confidence": _numbers((confidences or {})[name], n, name)}
        stages.append(Stage(name, answers=answers, measured=sure))
    y = _numbered(truth, number, "labels")
    if (y == NO_ANSWER).any():
        raise InputError("a label for every example", f"none for {int((y == NO_ANSWER).sum())}", "labels")
    if n and len(np.unique(y)) == 1:
        raise InputError("labels of at least two classes", f"{truth[0]!r} everywhere", "labels")
    called = np.arange(n) if ids is None else _array(ids)
    called = called if called.dtype.kind in "iu" else called.astype(str)
    if called.shape != (n,) or len(np.unique(called)) != n:
        raise InputError(f"{n} ids, all different", f"shape {called.shape}, {len(np.unique(called))} of them", "ids")
    order = [next(s for s in stages if s.name == name) for name in known.stages]
    return Data(Outputs(tuple(order), y, called, "fit", c), known)


def read(folder: str | Path, seed: int = 0) -> dict[str, Data]:
    """The parts of a data folder, or of an embedded one ("cifar10"), by name: "fit", "test", perhaps others.

    As the commands read it; a folder of one unnamed part is split in halves by ``seed``. Raises InputError.
    """
    from offramp.cascades.files.datafolder import read_folder

    found = read_folder(folder, seed)
    return {part: Data(outputs, found.costs, str(folder), seed) for part, outputs in found.parts.items()}


def embedded() -> tuple[str, ...]:
    """Names of the data that come along, for ``read``."""
    from offramp.cascades.files.embedded import embedded_names

    return embedded_names()


def fit(
    data: Data,
    topology: str,
    *,
    tune: Data | None = None,
    loss: str = "top1",
    policies: Sequence[str] | None = None,
    answer: str = "fused",
    calibrate: bool = True,
    agreement: bool = True,
    pooled: bool = True,
    points: int = 50,
    seed: int = 0,
) -> Frontier:
    """Learn a cascade for each of ``points`` prices on ``data``; as ``offramp frontier``, with its defaults.

    ``topology``: stages in order, each an unambiguous prefix of its name, all forward jumps allowed ("a_g_r"), or the
    jumps themselves ("a>g,r;g>r"). ``tune``: examples to pick points on; held-out folds of ``data`` unless given.
    Raises InputError.
    """
    from offramp.cascades.graph.topology import parse_topology, unroll
    from offramp.cascades.learning.points import fit_points

    routes = unroll(parse_topology(topology, tuple(data.costs.stages)), data.costs)
    for part in (data, tune):
        if part is not None and len(part) < LEAST_EXAMPLES:
            raise InputError(f"at least {LEAST_EXAMPLES} examples", str(len(part)), part.name)
    named = tuple(policies or ())
    recipe = Recipe(topology, data.name, loss, named, answer, calibrate, agreement, pooled, points, seed)
    how = recipe.fit_settings
    recipe.refuse_gateless(data.outputs)
    learnt = replace(data.outputs.of(routes.stages), part="fit")
    picked = None if tune is None else replace(tune.outputs.of(routes.stages), part="tune")
    fitted, picking = fit_points(learnt, picked, routes, points, how)
    return Frontier(data, topology, routes, how, fitted, picking, tune)


@dataclass(frozen=True)
class Frontier:
    """Every cascade that was learned, from the cheapest to the most accurate; made by ``fit``."""

    data: Data
    topology: str
    routes: Routes
    settings: FitSettings
    fitted: Fitted = field(repr=False)
    picking: Picking = field(repr=False)
    tune: Data | None = None

    def __len__(self) -> int:
        return len(self.fitted.names)

    def __repr__(self) -> str:
        stages = " > ".join(self.routes.stages)
        return f"<Frontier: {len(self)} operating points over {stages}, learned from {len(self.data):,} examples>"

    def evaluate(self, test: Data) -> Evaluation:
        """How every point, the baselines and the oracles do on ``test``, which nothing was learned from.

        Raises InputError where ``test`` lacks a stage, or shares examples with what was learned from.
        """
        from offramp.oracles.comparing import compared

        unseen = replace(self._unseen(test, "test"), part="test")
        picked, reported = compared(self.fitted, self.picking, unseen, self.routes)
        return Evaluation(self, picked, reported, self.settings.seed)

    def pick(
        self,
        *,
        budget: float | None = None,
        max_error_increase: float | None = None,
        min_accuracy: float | None = None,
        max_share: Mapping[str, float] | None = None,
    ) -> Point:
        """The best point within what is asked for, or the best mixture of two; without a look at any test part.

        ``budget``: mean cost at most, in the costs' unit: the most accurate is taken. ``max_error_increase``: mean
        loss at most that much above the largest stage's; ``min_accuracy``: at least so much is right: the cheapest is
        taken. ``max_share``: per stage, at most this share of the examples may exit there. As ``offramp tune``
        without trials. Raises InputError where nothing meets it, and says what could be had.
        """
        from offramp.cascades.graph.routing import largest
        from offramp.cascades.learning.targets import check_target, expected_of, solve

        target = Target(budget, max_error_increase, min_accuracy, dict(max_share or {}))
        check_target(target, self.routes.stages)
        reference = float(self.picking.there.wrong[:, largest(self.routes)].mean())
        spending = self.fitted.route(self._learnt)
        fitted, point = solve(target, self.fitted, self.picking.routings, reference, spending)
        expected = expected_of(fitted, self.picking.routings, reference, spending)
        return Point(fitted, point, target, expected, self.data, self.topology, self._learnt)

    @cached_property
    def _learnt(self) -> Outputs:
        """What points are picked on, as the rules themselves route it."""
        part = self.data if self.tune is None else self.tune
        return part.outputs.of(self.routes.stages)

    def _unseen(self, data: Data, where: str) -> Outputs:
        found = _of(data, self.fitted, where)
        _refuse_learnt(found, self.data.outputs.of(self.routes.stages), where)
        if self.tune is not None:
            _refuse_learnt(found, self.tune.outputs.of(self.routes.stages), where)
        return found


@dataclass(frozen=True)
class Evaluation:
    """A frontier on examples that it has not seen, beside baselines and oracles; prints and draws itself."""

    frontier: Frontier
    picked: list[OperatingPoint] = field(repr=False)
    reported: list[OperatingPoint] = field(repr=False)
    seed: int = 0

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What everything is worth, in JSON's types; the content of ``summary.json``."""
        from offramp.eval.report.summary import summarise

        return summarise(self.picked, self.reported, how=self._how)

    @property
    def verdict(self) -> str:
        """One sentence: is the learned policy worth having on these data?"""
        return str(self.summary["verdict"]["text"])

    def to_frame(self) -> pd.DataFrame:
        """A row for each operating point and part, the content of ``frontier.csv``."""
        return self._frame.copy()

    def table(self) -> str:
        """Three budgets, the speed-ups of all routers, and the verdict, as the command prints them."""
        from io import StringIO

        from offramp.eval.report.table import show

        stream = StringIO()
        show(self.summary, (), stream)
        return stream.getvalue()

    def plot(self) -> Figure:
        """The picture: error against cost, with intervals; a Matplotlib figure."""
        from offramp.eval.report.picture import frontier_picture

        routes, examples = self.frontier.routes, len(self.reported[0].routing)
        return frontier_picture(self._frame, routes.unit, examples, self.verdict)

    def save(self, folder: str | Path) -> list[Path]:
        """Write the very files of ``offramp frontier`` into ``folder``: csv, picture, policies, summary."""
        from offramp.cascades.files.policies import policies_to_plain
        from offramp.eval.report.files import csv_bytes, json_bytes, png_bytes, writable

        contents = {
            "frontier.csv": csv_bytes(self._frame),
            "frontier.png": png_bytes(self.plot()),
            "policies.json": json_bytes(policies_to_plain(self.frontier.fitted)),
            "summary.json": json_bytes(self.summary),
        }
        return writable(Path(folder), "folder", tuple(contents)).write_all(contents, tie="summary.json")

    @cached_property
    def _frame(self) -> pd.DataFrame:
        from offramp.eval.report.files import frontier_frame

        return frontier_frame(self.picked, self.reported, self._how)

    @property
    def _how(self) -> Any:
        from offramp.eval.report.intervals import Bootstrap

        return Bootstrap(seed=self.seed)

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        """In a notebook: the verdict, the picture, the table."""
        from base64 import b64encode
        from html import escape

        from offramp.eval.report.files import png_bytes

        picture = b64encode(png_bytes(self.plot())).decode()
        return (
            f"<p>{escape(self.verdict)}</p><img width='800' alt='error against cost' "
            f"src='data:image/png;base64,{picture}'><pre>{escape(self.table())}</pre>"
        )


@dataclass(frozen=True)
class Answers:
    """What became of n examples: ``answers`` (n,) classes, ``exits`` (n,) names of stages, ``costs`` (n,).

    ``paths`` (n,): the stages that ran, "alexnet>resnet".
    """

    answers: Ints
    exits: NDArray[np.str_]
    costs: Floats
    paths: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.answers)

    def __repr__(self) -> str:
        names, counts = np.unique(self.exits, return_counts=True)
        shares = ", ".join(f"{count / len(self):.0%} {name}" for name, count in zip(names, counts, strict=True))
        return f"<Answers: {len(self):,} examples, mean cost {self.costs.mean():.4g}; exits: {shares}>"


@dataclass(frozen=True)
class Point:
    """One cascade of a frontier: what ``Frontier.pick`` finds and ``load`` reads.

    ``target``: what was asked for; ``expected``: what each point did, held out. ``certificate``: None unless one
    was made.
    """

    fitted: Fitted = field(repr=False)
    index: int
    target: Target
    expected: Expected = field(repr=False)
    data: Data | None = field(default=None, repr=False)
    topology: str = ""
    learnt: Outputs | None = field(default=None, repr=False)
    file: Deployment | None = field(default=None, repr=False)

    @property
    def cost(self) -> float:
        """Mean cost of an example that is expected, in the costs' unit."""
        return float(self.expected.cost[self.index])

    @property
    def error(self) -> float:
        """Mean loss that is expected."""
        return float(self.expected.error[self.index])

    @property
    def certificate(self) -> Certificate | None:
        """What is guaranteed; None if nothing is."""
        return None if self.file is None else self.file.certificate

    def route(self, data: Data | Mapping[str, Any]) -> Answers:
        """Where each example stops, what is answered and what that costs.

        ``data``: as ``outputs`` makes it, or per stage logits (n, c); labels are not looked at. Raises InputError.
        """
        outputs = _of(data, self.fitted, "route") if isinstance(data, Data) else _unlabelled(data, self.fitted)
        return answers_of(self.fitted.route(outputs)[self.index])

    def certify(self, data: Data, delta: float = 0.05, *, risk: str | None = None, most: float | None = None) -> Point:
        """The point with a guarantee from ``data``, which nothing was learned from; as ``offramp certify``.

        With probability at least 1 - ``delta`` over the examples, the bounds on error and cost hold together. The
        cheapest point that can be certified for the target is taken. ``risk``: "increase" (loss over the largest
        stage's) or "error", at ``most`` so much; as the target has it unless given.
        Raises InputError where nothing can be certified, and says what would help.
        """
        from offramp.cascades.files.validation import check_outputs
        from offramp.eval.guarantees.certificate import aim_of, attempt_of, certify
        from offramp.eval.guarantees.holdout import refuse_repeated
        from offramp.eval.guarantees.reference import reference_of

        if not 0 < delta < 1:
            raise InputError("a number between 0 and 1", str(delta), "delta")
        unseen = replace(_of(data, self.fitted, data.name), part="certify")
        if len(unseen) < LEAST_EXAMPLES:
            raise InputError(f"at least {LEAST_EXAMPLES} examples to certify on", str(len(unseen)), data.name)
        check_outputs(self.fitted.sweep, unseen, data.name)
        refuse_repeated(unseen, data.name)
        if self.learnt is not None:
            _refuse_learnt(unseen, self.learnt, data.name)
        policy, aim = self._deployment(), aim_of(self.target, risk, most)
        done = certify(policy, unseen, aim, delta)
        attempts = tuple(dict.fromkeys([*policy.attempts, attempt_of(policy, unseen, aim, delta, done)]))
        if done.certificate is None:
            needed = f"; about {done.needed:,} would be needed if they came out like these" if done.needed else ""
            raise InputError(
                "examples enough for what is asked", f"{len(unseen):,} at delta {delta:g}{needed}", data.name
            )
        made = replace(
            policy,
            fitted=done.fitted,
            expected=done.expected,
            point=done.point,
            certificate=done.certificate,
            reference=reference_of(done.routing, unseen),
            attempts=attempts,
        )
        return replace(self, fitted=done.fitted, index=done.point, expected=done.expected, file=made)

    def save(self, path: str | Path) -> Path:
        """Write the policy file: ``offramp run``, ``certify`` and ``watch`` read it, and so does ``load``."""
        from offramp.cascades.files.policy import write_deployment

        write_deployment(self._deployment(), Path(path))
        return Path(path)

    def runtime(self, stages: Mapping[str, Any]) -> Cascade:
        """The cascade over live stages: per name a torch module, or any callable, from a batch to logits (n, c).

        Each stage is called on the examples alone that reach it. Raises InputError where a stage is missing.
        """
        from offramp.live import Cascade

        return Cascade.of(self.fitted, self.index, stages)

    def _deployment(self) -> Deployment:
        from importlib.metadata import version

        from offramp.cascades.files.policy import Deployment
        from offramp.cascades.learning.points import digest_of

        if self.file is not None:
            return self.file
        assert self.data is not None
        assert self.learnt is not None
        return Deployment(
            self.fitted,
            self.index,
            self.topology,
            self.data.costs,
            self.target,
            self.expected,
            self.data.name,
            self.data.seed,
            0.0,
            {"fit": digest_of(self.learnt)},
            self.learnt.classes,
            versions={name: version(name) for name in ("numpy", "scipy", "optuna")},
        )

    def __repr__(self) -> str:
        name, unit = self.fitted.names[self.index][0], self.fitted.sweep.routes.unit
        sure = "certified" if self.certificate is not None else "not certified"
        cost = f"{self.cost:.4g} {unit}".strip()
        return f"<Point {self.index} ({name}): expected cost {cost}, error {self.error:.2%}; {sure}>"


def load(path: str | Path) -> Point:
    """The point of a policy file, as ``Point.save`` or ``offramp tune`` writes it. Raises InputError; runs no code."""
    from offramp.cascades.files.policy import read_deployment

    found = read_deployment(Path(path))
    return Point(found.fitted, found.point, found.target, found.expected, None, found.topology, None, found)


# --- what was learned, and what was not


def answers_of(routing: Any) -> Answers:
    """A routing by the stages' names."""
    routes = routing.routes
    names = np.array(routes.stages)
    paths = np.array([">".join(routes.stages[s] for s in path) for path in routes.paths])
    return Answers(routing.answer.astype(np.int64), names[routing.exit], routing.cost, paths[routing.path])


def _of(data: Data, fitted: Fitted, where: str) -> Outputs:
    """With the stages that the cascades know, in their order."""
    stages = fitted.sweep.routes.stages
    if missing := [stage for stage in stages if stage not in data.stages]:
        raise InputError(f"the stages {', '.join(stages)}", f"no {', '.join(missing)}", where)
    return data.outputs.of(stages)


def _refuse_learnt(unseen: Outputs, learnt: Outputs, where: str) -> None:
    from offramp.eval.guarantees.holdout import REPEATED, shared_examples

    both = shared_examples(unseen, learnt)
    if len(both) > REPEATED * len(unseen):
        found = f"{len(both):,} of {len(unseen):,} that it was, such as id {both[0]}"
        raise InputError("examples that nothing was learned from", found, where)


def _unlabelled(scores: Mapping[str, Any], fitted: Fitted) -> Outputs:
    stages, classes = fitted.sweep.routes.stages, fitted.sweep.reader.classes
    if missing := [stage for stage in stages if stage not in scores]:
        raise InputError(f"logits of the stages {', '.join(stages)}", f"none of {', '.join(missing)}", "route")
    arrays = {name: _array(scores[name]) for name in stages}
    n = len(next(iter(arrays.values())))
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu" or array.shape != (n, classes):
            raise InputError(f"logits ({n}, {classes})", f"{array.dtype} of shape {array.shape}", f"stage {name!r}")
    made = tuple(Stage(name, logits=_finite(array, name)) for name, array in arrays.items())
    return Outputs(made, np.zeros(n, np.int64), np.arange(n), PARTS[-1], classes)


# --- arrays of any kind


def _array(value: Any) -> NDArray[Any]:
    """A numpy array of an array, a data frame, a series, a list, or a tensor on any device."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float().numpy() if value.dtype.is_floating_point else value.numpy()
    elif hasattr(value, "to_numpy"):
        value = value.to_numpy()
    found = np.asarray(value)
    if found.dtype == object:
        if any(each is None or each != each for each in found.ravel()):
            raise InputError("a value in every row", "a missing one", "outputs")
        found = found.astype(str)
    return found


def _column(value: ArrayLike, n: int, what: str) -> NDArray[Any]:
    found = _array(value)
    if found.shape != (n,):
        raise InputError(f"{what} of shape ({n},)", f"shape {found.shape}", "split")
    return found


def _numbers(value: Any, n: int, name: str) -> Floats:
    found = _array(value)
    if found.dtype.kind not in "fiu" or found.shape != (n,):
        raise InputError(f"{n} numbers", f"{found.dtype} of shape {found.shape}", f"confidences of {name!r}")
    return _finite(found.astype(np.float64), name)


def _is_logits(array: NDArray[Any], name: str) -> bool:
    """Whether it is a number for each class, rather than answers."""
    if array.ndim == 1:
        if array.dtype.kind == "f":
            raise InputError("answers (n,) that are classes, or logits (n, classes)", "decimals", f"stage {name!r}")
        return False
    if array.dtype.kind in "iu":
        expected = "logits as decimals (.astype(float)), or ranked answers as texts (.astype(str))"
        raise InputError(expected, f"whole numbers of shape {array.shape}, which could be both", f"stage {name!r}")
    return array.dtype.kind == "f"


def _logits(array: Floats, kind: str | None, name: str) -> Floats:
    if kind not in (None, *KINDS):
        raise InputError(f"one of {', '.join(KINDS)}", repr(kind), "kind")
    z = _finite(array, name)
    alike = z.shape[1] > 1 and len(z) > 0 and bool((z >= 0).all() and (np.abs(z.sum(axis=1) - 1) <= SUMS_TO_ONE).all())
    if kind is None and alike:
        raise InputError(
            'kind="logits" or kind="probabilities"', "rows that sum to one, which look like probabilities", name
        )
    if kind == "probabilities":
        if not alike:
            raise InputError("probabilities: rows of at least 0 that sum to one", "others", f"stage {name!r}")
        return np.asarray(np.log(np.maximum(z, np.finfo(np.float32).tiny)))
    return z


def _finite(array: NDArray[Any], name: str) -> Floats:
    found = array if array.dtype.kind == "f" else array.astype(np.float32)
    if not np.isfinite(found).all():
        raise InputError("finite numbers", "NaN or infinity", f"stage {name!r}")
    return found


def _costs(costs: Mapping[str, float], unit: str) -> Costs:
    made = {}
    for name, cost in costs.items():
        if isinstance(cost, bool) or not isinstance(cost, int | float | np.number) or not 0 <= float(cost) < np.inf:
            raise InputError("a finite cost of at least 0", repr(cost), f"costs, {name!r}")
        made[name] = StageCost(name, float(cost), 0.0)
    if not any(cost.trunk for cost in made.values()):
        raise InputError("a stage that costs more than 0", "zero for all", "costs")
    return Costs(made, unit)


Numbering = Mapping[Any, int]


def _numbering(
    arrays: Mapping[str, NDArray[Any]],
    dense: Mapping[str, NDArray[Any]],
    labels: NDArray[Any],
    classes: Sequence[Any] | None,
) -> tuple[Numbering | None, int]:
    """What number each class has (None: labels and answers are the numbers), and how many there are."""
    widths = {array.shape[1] for array in dense.values()}
    if len(widths) > 1:
        found = ", ".join(f"{name} {array.shape[1]}" for name, array in dense.items())
        raise InputError("logits over the same classes", found, "outputs")
    texts = [array for array in (labels, *arrays.values()) if array.dtype.kind in "US"]
    if classes is not None:
        names = [str(name) for name in classes]
        if len(set(names)) != len(names) or (widths and widths != {len(names)}):
            found = f"{len(names)} classes, {len(set(names))} of them different"
            raise InputError(f"{next(iter(widths), 'some')} classes that differ", found, "classes")
        return {name: i for i, name in enumerate(names)}, len(names)
    if dense:
        if texts:
            raise InputError("classes=, what the columns of the logits stand for", "labels that are names", "labels")
        return None, widths.pop()
    seen = {str(each) for array in (labels, *arrays.values()) for each in np.unique(array) if str(each) != ""}
    whole = not texts and all(array.dtype.kind in "iu" for array in (labels, *arrays.values()))
    if not texts and not whole:
        raise InputError("labels that are classes", "decimals", "labels")
    order = sorted(seen, key=int) if whole else sorted(seen)
    return {name: i for i, name in enumerate(order)}, len(order)


def _numbered(array: NDArray[Any], number: Numbering | None, where: str) -> Ints:
    """Classes as numbers; an empty text is no answer."""
    if number is None:
        if array.dtype.kind not in "iu":
            raise InputError("class numbers", str(array.dtype), where)
        found = array.astype(np.int64)
        if len(found) and found.min() < 0:
            raise InputError("class numbers from 0", str(found.min()), where)
        return found
    values, place = np.unique(array, return_inverse=True)
    table = np.array([NO_ANSWER if str(v) == "" else number.get(str(v), -2) for v in values], np.int64)
    if (table == -2).any():
        strange = str(values[int((table == -2).argmax())])
        raise InputError(f"classes among {', '.join(list(number)[:10])}", repr(strange), where)
    return np.asarray(table[place.reshape(array.shape)])
