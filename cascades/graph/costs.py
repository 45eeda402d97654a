"""``costs.json`` turned into what each step through a topology costs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offramp.features.errors import InputError
from offramp.features.store.atomic import replacing
from offramp.features.store.limits import NOTE_BYTES
from offramp.features.store.strictjson import read_json

MAX_COST, MIN_COST = 1e100, 1e-100
"""Sums, squares and inverses of costs have to stay finite."""


@dataclass(frozen=True)
class StageCost:
    """What running one stage costs, in the unit of its ``Costs``.

    ``trunk`` is the segment of ``network`` from the previous exit of that network (in the file's order) to
    this one; ``head`` is what answering here adds. A stand-alone model is a network of one stage.
    """

    network: str
    trunk: float
    head: float


@dataclass(frozen=True)
class Costs:
    """Cost of every stage, in the order of the file, with the unit and where it was measured.

    ``about``: more to be said in the file, such as threads and versions; nobody reads it back.
    """

    stages: dict[str, StageCost]
    unit: str
    device: str = ""
    batch: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def step(self, path: tuple[str, ...], stage: str) -> float:
        """Cost of running ``stage`` after the stages of ``path`` have been run.

        Trunk segments of ``stage``'s network that a stage of the path has paid for are not paid again.

        >>> costs = Costs({"a": StageCost("a", 1.0, 0.0), "r.e1": StageCost("r", 2.0, 0.1),
        ...                "r.e2": StageCost("r", 3.0, 0.1)}, "ms")
        >>> costs.step(("a",), "r.e2"), costs.step(("a", "r.e1"), "r.e2")
        (5.1, 3.1)
        """
        names = list(self.stages)
        here = self.stages[stage]
        last = names.index(stage)
        paid = max((names.index(s) for s in path if self.stages[s].network == here.network), default=-1)
        segments = (
            self.stages[name].trunk for name in names[paid + 1 : last + 1] if self.stages[name].network == here.network
        )
        return sum(segments) + here.head


def read_costs(path: Path) -> Costs:
    """Costs as they stand in ``path``, a costs.json; a bare number is a stand-alone model.

    Keys that are not known are left alone, except inside a stage. Raises InputError for anything that is no cost:
    negative, not finite, not a number, or nothing but zeros.
    """
    where = str(path)
    found = read_json(path, "costs in JSON", NOTE_BYTES, by_hand=True)
    stages = found.get("stages") if isinstance(found, dict) else None
    if not isinstance(stages, dict) or not stages:
        raise InputError('{"unit": "...", "stages": {"NAME": cost, ...}} with at least one stage', _short(found), where)
    unit, device, batch = found.get("unit"), found.get("device", ""), found.get("batch")
    if not isinstance(unit, str) or not unit.strip():
        raise InputError('a "unit" in words, such as "ms per image"', _short(unit), where)
    if not isinstance(device, str):
        raise InputError('a "device" in words', _short(device), where)
    if batch is not None and (type(batch) is not int or not 1 <= batch < 2**63):
        raise InputError('a whole number from 1 on as "batch"', _short(batch), where)
    costs = {name: _stage_cost(name, given, where) for name, given in stages.items()}
    networks = Counter(cost.network for cost in costs.values())
    for name, given in stages.items():
        if not isinstance(given, dict) and networks[name] > 1:
            expected = f"network, trunk and head, since {name!r} is also the network of another stage"
            raise InputError(expected, _short(given), f"{where}, stage {name!r}")
    if not any(cost.trunk or cost.head for cost in costs.values()):
        raise InputError("a stage that costs more than 0", "zero for all", where)
    # A lone half of a letter, or a control character, can't be printed, drawn or written.
    unit = "".join(c if c.isprintable() else "?" for c in unit)
    return Costs(costs, unit, device, batch)


def write_costs(costs: Costs, path: Path) -> None:
    """Write ``path``, a costs.json from which ``read_costs`` makes equal costs.

    What costs are ``about`` stands there too, except under names that the file gives a meaning.
    """
    networks = Counter(cost.network for cost in costs.stages.values())
    stages = {
        name: float(cost.trunk)
        if cost.network == name and networks[name] == 1 and cost.head == 0
        else {"network": cost.network, "trunk": float(cost.trunk), "head": float(cost.head)}
        for name, cost in costs.stages.items()
    }
    known = {"unit": costs.unit, "device": costs.device, "batch": costs.batch, "stages": None}
    content = {key: value for key, value in known.items() if value not in ("", None)}
    content |= {key: value for key, value in costs.about.items() if key not in known} | {"stages": stages}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def _stage_cost(name: str, given: Any, where: str) -> StageCost:
    where = f"{where}, stage {name!r}"
    if not name.strip():
        raise InputError("a stage's name", "an empty one", where)
    if not isinstance(given, dict):
        return StageCost(name, _cost(given, where), 0.0)
    if given.keys() != {"network", "trunk", "head"}:
        raise InputError("a number, or network, trunk and head", f"the keys {', '.join(given) or '(none)'}", where)
    network = given["network"]
    if not isinstance(network, str) or not network.strip():
        raise InputError("a network's name", _short(network), f"{where}, network")
    return StageCost(network, _cost(given["trunk"], f"{where}, trunk"), _cost(given["head"], f"{where}, head"))


def _cost(given: Any, where: str) -> float:
    # A bool is an int to Python; NaN fails the comparison.
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < float("inf"):
        raise InputError("a finite cost of at least 0", _short(given), where)
    if given > MAX_COST or 0 < given < MIN_COST:
        raise InputError(f"a cost of 0 or from {MIN_COST:g} to {MAX_COST:g}", _short(given), where)
    return float(given)


def _short(found: Any) -> str:
    """What was found, as JSON, cut to what fits a line."""
    return "nothing" if found is None else json.dumps(found, ensure_ascii=False)[:80]
