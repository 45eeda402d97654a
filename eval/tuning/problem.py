"""The flags of tuning and a data folder turned into a problem: the target, the examples, what may be chosen."""

# The command reads its flags with this before all else, so what is heavy waits until it is needed.

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offramp.cascades.command.choices import default_policies, policy_names
from offramp.features.errors import InputError

if TYPE_CHECKING:
    from offramp.cascades.files.datafolder import DataFolder
    from offramp.cascades.graph.routing import Routes
    from offramp.cascades.graph.topology import Topology
    from offramp.cascades.learning.fit import FitSettings
    from offramp.cascades.learning.targets import Target
    from offramp.features.outputs import Outputs


OBJECTIVES = ("cost", "error", "p95")

LEAST_EXAMPLES = 90
"""Fewer leave a fold's rules fewer than ten examples a fold of their own."""

AIMS = (0.5, 0.0, 0.125, 0.25, 0.375, 0.625, 0.75, 0.875, 1.0)
"""Where on its own frontier, from the cheapest to the most accurate point, a trial with several objectives stands."""


@dataclass(frozen=True)
class Settings:
    """The flags of the command."""

    topology: str = field(metadata={"help": "as in eval.frontier: a_g_r, or a>g,r;g>r"})
    data: str = field(default="cifar10", metadata={"help": "name of embedded data, or a data folder"})
    budget: str | None = field(
        default=None, metadata={"help": "the most accurate policy of at most this mean cost, such as 5ms"}
    )
    max_error_increase: float | None = field(
        default=None,
        metadata={"help": "the cheapest that errs at most so much more than the largest stage", "minimum": 0},
    )
    min_accuracy: float | None = field(
        default=None, metadata={"help": "the cheapest that is right in at least this share", "minimum": 0, "maximum": 1}
    )
    max_share: tuple[str, ...] = field(
        default=(), metadata={"help": "STAGE=SHARE: at most this share of the examples may exit there"}
    )
    loss: str = field(default="top1", metadata={"help": "as in eval.frontier", "choices": ("top1", "top5", "excess")})
    policies: tuple[str, ...] = field(
        default_factory=default_policies,
        metadata={
            "help": "policy families to choose from",
            "choices": policy_names,
        },
    )
    trials: int = field(
        default=100,
        metadata={
            "help": "trials of the study, whoever runs them; 0: no search, the plain frontier's policy",
            "minimum": 0,
            "maximum": 100_000,
        },
    )
    objectives: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "what is made small: the target's own (cost, or error within a budget), or several for their "
            "Pareto set",
            "choices": OBJECTIVES,
        },
    )
    sampler: str = field(
        default="tpe", metadata={"help": "how choices are drawn", "choices": ("tpe", "random", "grid")}
    )
    folds: int = field(default=3, metadata={"help": "folds that a trial is judged on", "minimum": 2, "maximum": 20})
    storage: str = field(
        default="",
        metadata={
            "help": "where the study is kept: an SQLite file, journal:FILE, or a URL as Optuna takes it "
            "(postgresql://..., mysql://...); study.db in --out unless named"
        },
    )
    study: str = field(default="offramp", metadata={"help": "name of the study: those that share one share its trials"})
    workers: int = field(default=1, metadata={"help": "processes that run trials here", "minimum": 1, "maximum": 256})
    keep_back: float = field(
        default=0.3,
        metadata={
            "help": "share of the fit part kept for eval.certify, unless the data have a certify part",
            "minimum": 0,
            "maximum": 0.9,
        },
    )
    points: int = field(
        default=50, metadata={"help": "prices of the policies that are kept", "minimum": 1, "maximum": 1000}
    )
    grace: float = field(
        default=60.0,
        metadata={
            "help": "seconds without a sign of life after which a worker's trial is given to another",
            "minimum": 1,
            "maximum": 86_400,
        },
    )
    patience: float = field(
        default=60.0,
        metadata={"help": "seconds that a storage may take to answer", "minimum": 1, "maximum": 86_400},
    )
    seed: int = field(
        default=0, metadata={"help": "seed of splits, folds, draws and bootstrap", "minimum": 0, "maximum": 2**31}
    )
    out: Path = field(default=Path("tuned"), metadata={"help": "folder to write into; made if need be"})


@dataclass(frozen=True)
class Problem:
    """The problem: ``learnt`` are the examples that anything may be learned or chosen on, ``target`` what is wanted.

    ``topologies``: name -> topology, the one given first. ``plain``: how the plain frontier is fitted.
    """

    settings: Settings
    data: DataFolder
    kept: float
    learnt: Outputs
    topology: Topology
    topologies: Mapping[str, Topology]
    routes: Routes
    target: Target
    plain: FitSettings
    objectives: tuple[str, ...]

    @property
    def accurate(self) -> bool:
        """Whether the most accurate policy is wanted, as within a budget, rather than the cheapest."""
        return self.target.budget is not None or (self.target.error_increase is None and self.target.accuracy is None)

    @property
    def natural(self) -> str:
        """What the target leaves to be made small."""
        return "error" if self.accurate else "cost"

    @property
    def largest(self) -> int:
        """The stage, of the whole topology, that errors are held against."""
        from offramp.cascades.graph.routing import largest

        return largest(self.routes)

    @property
    def space(self) -> dict[str, tuple[Any, ...]]:
        """Everything that a trial chooses: name -> values, the plain frontier's first."""
        found: dict[str, tuple[Any, ...]] = {}
        if len(self.topologies) > 1:
            found["topology"] = tuple(self.topologies)
        found |= self.plain.search_space(self.learnt, self.routes)
        if len(self.objectives) > 1:
            found["aim"] = AIMS
        return found

    def chosen(self, choices: Mapping[str, Any]) -> tuple[FitSettings, Topology]:
        """How a trial's cascades are fitted, and on which topology."""
        topology = self.topologies[choices.get("topology", next(iter(self.topologies)))]
        rest = {name: value for name, value in choices.items() if name not in ("topology", "aim")}
        # what a topology without a stage would do with that stage's multiplier changes nothing
        rest = {k: v for k, v in rest.items() if k.partition(".")[0] != "multiplier" or k[11:] in topology.stages}
        return self.plain.chosen(rest), topology

    def key(self, choices: Mapping[str, Any]) -> str:
        """The same for choices that come to the same."""
        from offramp.eval.tuning.subtopologies import written_out

        how, topology = self.chosen(choices)
        return json.dumps([asdict(how), written_out(topology, self.data.costs), choices.get("aim")], sort_keys=True)


def read_problem(settings: Settings) -> Problem:
    """The data and the flags, checked against each other. Raises InputError."""
    from offramp.cascades.files.datafolder import keep_back, read_folder
    from offramp.cascades.graph.routing import largest
    from offramp.cascades.graph.topology import parse_topology, unroll
    from offramp.cascades.learning.answers import LOSSES
    from offramp.cascades.learning.recipe import Recipe
    from offramp.cascades.learning.targets import Target, check_target, parse_budget, parse_shares
    from offramp.eval.guarantees.holdout import pooled
    from offramp.eval.tuning.subtopologies import sub_topologies
    from offramp.features.outputs import LEARNT

    whole = read_folder(settings.data, settings.seed)
    kept = settings.keep_back if "certify" not in whole.parts else 0.0
    data = keep_back(whole, kept, settings.seed) if kept else whole
    topology = parse_topology(settings.topology, tuple(data.costs.stages))
    routes = unroll(topology, data.costs)
    if settings.trials and len(topology.stages) < 2:
        raise InputError("at least two stages to choose between (or --trials 0)", topology.stages[0], "--topology")
    shares = parse_shares(settings.max_share, routes)
    budget = None if settings.budget is None else parse_budget(settings.budget, data.costs.unit)
    target = Target(budget, settings.max_error_increase, settings.min_accuracy, shares)
    check_target(target, routes.stages)
    learnt = pooled([data.parts[part].of(routes.stages) for part in LEARNT if part in data.parts])
    learnt = replace(learnt, part=LEARNT[0])
    if len(learnt) < LEAST_EXAMPLES:
        raise InputError(f"at least {LEAST_EXAMPLES} examples to learn from", str(len(learnt)), data.name)
    policies = tuple(dict.fromkeys(settings.policies))
    recipe = Recipe(settings.topology, loss=settings.loss, policies=policies, seed=settings.seed)
    recipe.refuse_gateless(learnt)
    plain = recipe.fit_settings
    # what the promise is held against, or speaks of, can't be left out
    bound = {routes.stages[largest(routes)]} if target.error_increase is not None else set()
    bound |= set(shares) | ({routes.stages[-1]} if LOSSES[settings.loss].excess else set())
    topologies = sub_topologies(topology, data.costs, bound)
    objectives = tuple(dict.fromkeys(settings.objectives))
    problem = Problem(settings, data, kept, learnt, topology, topologies, routes, target, plain, objectives)
    if not objectives:
        return replace(problem, objectives=(problem.natural,))
    if len(objectives) == 1 and objectives != (problem.natural,):
        raise InputError(
            f"{problem.natural}, which the target leaves to be made small, or several objectives",
            objectives[0],
            "--objectives",
        )
    return problem
