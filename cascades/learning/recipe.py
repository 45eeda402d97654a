"""What a frontier is made from and how, turned into its data, its routes and how its cascades are fitted."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from offramp.features.errors import InputError

if TYPE_CHECKING:
    from offramp.cascades.files.datafolder import DataFolder
    from offramp.cascades.graph.routing import Routes
    from offramp.cascades.learning.fit import FitSettings
    from offramp.features.outputs import Outputs

LEAST_EXAMPLES = 50
"""Of a part: fewer than ten examples a fold can't tell one rule from another."""


@dataclass(frozen=True)
class Recipe:
    """What commands turn their flags into; the flags of ``eval.frontier`` say what each field means.

    ``policies``: names of families, those of ``DEFAULT_POLICIES`` if empty.
    """

    topology: str = ""
    data: str = "cifar10"
    loss: str = "top1"
    policies: tuple[str, ...] = ()
    answer: str = "fused"
    calibrate: bool = True
    agreement: bool = True
    pooled: bool = True
    points: int = 50
    seed: int = 0

    @classmethod
    def of(cls, flags: Any) -> Recipe:
        """The recipe in a command's flags, which have fields of the same names."""
        return cls(**{field.name: getattr(flags, field.name) for field in fields(cls)})

    @property
    def families(self) -> tuple[str, ...]:
        """Names of the policies to choose from."""
        from offramp.policies import DEFAULT_POLICIES

        return self.policies or DEFAULT_POLICIES

    def load(self) -> tuple[DataFolder, Routes]:
        """The data and the routes through its stages. Raises InputError where they are too few, or lack gates."""
        from offramp.cascades.files.datafolder import read_folder
        from offramp.cascades.graph.topology import parse_topology, unroll

        data = read_folder(self.data, self.seed)
        topology = parse_topology(self.topology, tuple(data.costs.stages))
        for part, outputs in data.parts.items():
            if len(outputs) < LEAST_EXAMPLES:
                found = f"{len(outputs)} in part {part!r}"
                raise InputError(f"at least {LEAST_EXAMPLES} examples, to fit and to judge anything", found, data.name)
        self.refuse_gateless(*data.parts.values())
        return data, unroll(topology, data.costs)

    def refuse_gateless(self, *parts: Outputs) -> None:
        """Raises InputError for policies of gates where no stage has one."""
        gates = any("gate" in stage.measured for outputs in parts for stage in outputs.stages)
        if "gate" in self.families and not gates:
            raise InputError("stages with gates (cascades.training --objective gated)", "none", "--policies gate")

    @property
    def fit_settings(self) -> FitSettings:
        """How the cascades are fitted. Raises InputError for names that are not there."""
        from offramp.cascades.learning.answers import ANSWERS, LOSSES
        from offramp.cascades.learning.fit import FitSettings
        from offramp.features.confidence import TOP
        from offramp.features.evidence import EvidenceSettings
        from offramp.policies import POLICIES

        for what, given, there in (
            ("loss", (self.loss,), LOSSES),
            ("policies", self.families, POLICIES),
            ("answer", (self.answer,), ANSWERS),
        ):
            if unknown := [name for name in given if name not in there]:
                raise InputError(f"one of {', '.join(there)}", repr(unknown[0]), what)
        evidence = EvidenceSettings(
            self.calibrate,
            agreement=self.agreement,
            pooled=self.pooled,
            measured=("gate",) if "gate" in self.families else (),
            ranks=max(TOP, LOSSES[self.loss].ranks),
        )
        return FitSettings(self.families, self.answer, self.loss, evidence, self.seed)
