"""What a cascade is to be learned from and how: what flags and arguments turn into, and what commands share."""

# Commands read their flags with this before all else, so what is heavy waits until it is needed.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from offramp.cascades.command.choices import default_policies, policy_names
from offramp.features.errors import InputError

if TYPE_CHECKING:
    from offramp.cascades.files.datafolder import DataFolder
    from offramp.cascades.graph.routing import Routes
    from offramp.cascades.learning.fit import FitSettings
    from offramp.features.outputs import Outputs

LEAST_EXAMPLES = 50
"""Fewer than ten examples a fold can't tell one rule from another."""


@dataclass(frozen=True)
class Recipe:
    """Data, topology and how cascades are fitted; a command whose flags these are adds its own."""

    topology: str = field(
        metadata={
            "help": "stages in order, each an unambiguous prefix of its name, all forward jumps allowed (a_g_r), "
            "or the jumps themselves (a>g,r;g>r)"
        }
    )
    data: str = field(
        default="cifar10", metadata={"help": "name of embedded data (cifar10, imagenet), or a data folder"}
    )
    loss: str = field(
        default="top1",
        metadata={
            "help": "what a mistake is: the answer is not the label; not among the five best; or the answer is "
            "wrong where the last stage is right",
            "choices": ("top1", "top5", "excess"),
        },
    )
    policies: tuple[str, ...] = field(
        default_factory=default_policies,
        metadata={
            "help": "policy families to choose from, on held-out folds",
            "choices": policy_names,
        },
    )
    answer: str = field(
        default="fused",
        metadata={
            "help": "what is answered at an exit: the last stage's answer, the most trusted of those paid for, "
            "or all of them fused",
            "choices": ("last", "any", "fused"),
        },
    )
    calibrate: bool = field(default=True, metadata={"help": "fit a temperature for each stage's logits"})
    agreement: bool = field(default=True, metadata={"help": "let policies see how far the stages on a path agree"})
    pooled: bool = field(
        default=True, metadata={"help": "let policies look at the stages' pooled features, where the data has them"}
    )
    points: int = field(
        default=50, metadata={"help": "operating points on the frontier", "minimum": 1, "maximum": 1000}
    )
    seed: int = field(
        default=0, metadata={"help": "seed of splits, folds and bootstrap", "minimum": 0, "maximum": 2**31}
    )

    def load(self) -> tuple[DataFolder, Routes]:
        """The data and the routes of the topology. Raises InputError for data that this can't be learned from."""
        from offramp.cascades.files.datafolder import read_folder
        from offramp.cascades.graph.topology import parse_topology, unroll

        data = read_folder(self.data, self.seed)
        topology = parse_topology(self.topology, tuple(data.costs.stages))
        self.refuse_unfit(data.parts, data.name)
        return data, unroll(topology, data.costs)

    def refuse_unfit(self, parts: Mapping[str, Outputs], where: str, least: int = LEAST_EXAMPLES) -> None:
        """Raises InputError where a part has too few examples, or a policy needs what no stage has."""
        for part, outputs in parts.items():
            if len(outputs) < least:
                found = f"{len(outputs)} in part {part!r}"
                raise InputError(f"at least {least} examples, to fit and to judge anything", found, where)
        gates = any("gate" in stage.measured for outputs in parts.values() for stage in outputs.stages)
        if "gate" in self.policies and not gates:
            raise InputError("stages with gates (cascades.training --objective gated)", "none", "--policies gate")

    def fit_settings(self) -> FitSettings:
        """How the cascades are fitted. Raises InputError for a name that there is not."""
        from offramp.cascades.learning.answers import ANSWERS, LOSSES
        from offramp.cascades.learning.fit import FitSettings
        from offramp.features.confidence import TOP
        from offramp.features.evidence import EvidenceSettings

        given = {"loss": (self.loss,), "policies": self.policies, "answer": (self.answer,)}
        there = {"loss": tuple(LOSSES), "policies": policy_names(), "answer": tuple(ANSWERS)}
        for what, names in given.items():
            if unknown := [name for name in names if name not in there[what]]:
                raise InputError(f"one of {', '.join(there[what])}", repr(unknown[0]), what)
        evidence = EvidenceSettings(
            self.calibrate,
            agreement=self.agreement,
            pooled=self.pooled,
            measured=("gate",) if "gate" in self.policies else (),
            ranks=max(TOP, LOSSES[self.loss].ranks),
        )
        return FitSettings(self.policies, self.answer, self.loss, evidence, self.seed)
