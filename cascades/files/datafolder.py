"""A data folder, or the name of an embedded one, turned into its parts and what its stages cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from offramp.cascades.files.embedded import embedded_names, embedded_path
from offramp.cascades.graph.costs import Costs, read_costs
from offramp.features.errors import InputError
from offramp.features.outputs import PARTS, Outputs
from offramp.features.store.reading import read_parts

FILES = ("outputs.npz", "answers.parquet", "answers.csv")
"""Names that a part's file may have, behind its part; one of them alone is a folder of one unnamed part."""


@dataclass(frozen=True)
class DataFolder:
    """What a data folder holds: parts by name ("fit" and "test", perhaps "tune" and "certify"), stages ordered as in
    ``costs``."""

    name: str
    parts: dict[str, Outputs]
    costs: Costs


def read_folder(where: str | Path, seed: int = 0) -> DataFolder:
    """The parts and the costs in ``where``, an embedded name or a directory.

    A single unnamed part is split at random by ``seed``, a half to fit and a half to test; the examples of each keep
    their order. Raises InputError if a part or a stage is missing, stands twice, or is not usable.
    """
    path = embedded_path(str(where)) if where in embedded_names() else Path(where)
    if not path.is_dir():
        found = f"{str(where)!r}, " + ("a file" if path.is_file() else "which is neither")
        raise InputError(f"a data folder or one of {', '.join(embedded_names())}", found, "data")
    files = _files(path)
    costs = read_costs(path / "costs.json")
    stages = tuple(costs.stages)
    name = path.resolve().name
    if "" not in files:
        return DataFolder(name, read_parts(files, stages), costs)
    whole = read_parts({"fit": files[""]}, stages)["fit"]
    if len(whole) < 2:
        raise InputError("at least 2 examples to split into fit and test", str(len(whole)), str(files[""]))
    order = np.random.default_rng(seed).permutation(len(whole))
    half = len(whole) // 2
    parts = {"fit": whole.take(np.sort(order[:half])), "test": whole.take(np.sort(order[half:]), "test")}
    return DataFolder(name, parts, costs)


def _files(folder: Path) -> dict[str, Path]:
    """The file of each part, in the order of ``PARTS``; under the empty name that of an unnamed part."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    there = [name for name in names if f".{name}".endswith(tuple(f".{file}" for file in FILES))]
    known = {f"{part}.{file}": part for part in PARTS for file in FILES} | dict.fromkeys(FILES, "")
    where = str(folder)
    found: dict[str, Path] = {}
    for name in there:
        part = known.get(name)
        if part is None:
            parts = ", ".join(f"{part}." for part in PARTS)
            raise InputError(f"a part's file to begin with {parts} or to be one of {', '.join(FILES)}", name, where)
        if part in found:
            raise InputError("one file a part", f"{found[part].name} and {name}", where)
        found[part] = folder / name
    if "" in found and len(found) > 1:
        raise InputError("named parts or one unnamed part", ", ".join(there), where)
    for part in ("fit", "test") if "" not in found else ():
        if part not in found:
            files = " or ".join(f"{part}.{file}" for file in FILES)
            raise InputError(f"{files} (or one unnamed part)", ", ".join(names)[:200] or "an empty folder", where)
    return {part: found[part] for part in ("", *PARTS) if part in found}


def keep_back(data: DataFolder, share: float, seed: int) -> DataFolder:
    """``data`` with a ``certify`` part: its own if it has one, else a random ``share`` taken out of the fit part.

    Raises InputError where that leaves an empty part.
    """
    if "certify" in data.parts:
        return data
    fit = data.parts["fit"]
    order = np.random.default_rng([seed, KEPT]).permutation(len(fit))
    kept = round(share * len(fit))
    if not 0 < kept < len(fit):
        raise InputError("a share that leaves examples to fit and to certify", f"{kept} of {len(fit)}", data.name)
    parts = {"fit": fit.take(np.sort(order[kept:])), "certify": fit.take(np.sort(order[:kept]), "certify")}
    return DataFolder(
        data.name, {part: (data.parts | parts)[part] for part in PARTS if part in data.parts | parts}, data.costs
    )


KEPT = 20
"""Beside the seed, so that the draw of what is kept back is not that of the split."""
