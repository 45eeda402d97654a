"""The examples that a policy may be certified on: those that nothing was learned from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp.features.errors import InputError
from offramp.features.outputs import LEARNT
from offramp.features.store.limits import CSV_BYTES
from offramp.features.store.opening import opened
from offramp.features.store.reading import text_lines

if TYPE_CHECKING:
    from offramp.cascades.files.policy import Deployment
    from offramp.cascades.graph.costs import Costs
    from offramp.features.outputs import Outputs

LEAST_EXAMPLES = 50
"""As eval.frontier asks of a part."""

REPEATED = 0.01
"""Share of examples that may be exact repetitions: data sets have some."""

CHANCE = 0.05
"""Share of new examples of answers alone that may be exactly like learned ones, above what is usual among these."""

TELLING = 0.5
"""Where more of the learned examples than these have another one exactly like them, being alike tells nothing."""


def certification_examples(deployment: Deployment, where: str | None) -> tuple[Outputs, list[str]]:
    """The examples to certify on, with the policy's stages in order, and what has to be taken on trust about them.

    Those that were put aside in the policy's data folder, or those of the folder ``where``. Raises InputError where
    there are none, where any was learned from, and where the stages, the classes or the networks are others.
    """
    from offramp.cascades.files.validation import check_outputs

    outputs, notes = _kept_aside(deployment) if where is None else _new(deployment, where)
    name = where or deployment.data
    if len(outputs) < LEAST_EXAMPLES:
        raise InputError(f"at least {LEAST_EXAMPLES} examples to certify on", str(len(outputs)), name)
    check_outputs(deployment.fitted.sweep, outputs, name)
    refuse_repeated(outputs, name)
    return outputs, notes


def _kept_aside(deployment: Deployment) -> tuple[Outputs, list[str]]:
    from offramp.cascades.files.datafolder import keep_back, read_folder
    from offramp.cascades.learning.points import digest_of

    name = deployment.data
    try:
        data = read_folder(name, deployment.seed)
    except InputError as error:
        raise InputError(
            f"{error.expected}, the policy's data; or new examples: --data FOLDER", error.found, name
        ) from None
    if "certify" not in data.parts and not deployment.kept:
        raise InputError("examples that nothing was learned from: --data FOLDER", "no certify part", name)
    data = keep_back(data, deployment.kept, deployment.seed)
    changed = [
        part
        for part, outputs in data.parts.items()
        if part in (*LEARNT, "certify") and digest_of(outputs) != deployment.parts.get(part, digest_of(outputs))
    ]
    learnt = [part for part in LEARNT if part in data.parts]
    if changed or digest_of([data.parts[part] for part in learnt]) != deployment.fitted.examples:
        found = f"others in {', '.join(changed or learnt)}"
        raise InputError("the very examples that the policy was made with; or new ones: --data FOLDER", found, name)
    outputs = _of(data.parts["certify"], deployment, name)
    both = shared_examples(outputs, pooled([_of(data.parts[part], deployment, name) for part in learnt]))
    if len(both) > REPEATED * len(outputs):
        found = f"{len(both):,} of {len(outputs):,} that it was, such as id {both[0]}"
        raise InputError("a certify part that nothing was learned from", found, name)
    return outputs, []


def _new(deployment: Deployment, where: str) -> tuple[Outputs, list[str]]:
    from offramp.cascades.files.datafolder import read_folder
    from offramp.cascades.learning.points import digest_of

    data = read_folder(where, deployment.seed)
    parts = [data.parts["certify"]] if "certify" in data.parts else list(data.parts.values())
    outputs = _of(pooled(parts), deployment, where)
    digests = {digest_of(part) for part in (*parts, outputs)}
    if learnt := digests.intersection([deployment.fitted.examples, *map(deployment.parts.get, LEARNT)]):
        raise InputError(
            "examples that nothing was learned from", f"the policy's own ({min(map(str, learnt))[:12]})", where
        )
    notes = _other_networks(deployment, where, data.costs)
    try:
        own = read_folder(deployment.data, deployment.seed)
        if deployment.kept or "certify" in own.parts:
            from offramp.cascades.files.datafolder import keep_back

            own = keep_back(own, deployment.kept, deployment.seed)
        learnt_parts = [own.parts[part] for part in LEARNT if part in own.parts]
        # a policy is fitted on the fit part, or on it and the tune part
        if deployment.fitted.examples not in (digest_of(learnt_parts), digest_of(learnt_parts[0])):
            raise InputError("the examples that the policy was fitted on", "others", own.name)
        learned = pooled([_of(part, deployment, own.name) for part in learnt_parts])
    except InputError:
        said = f"The policy's data, {deployment.data}, can't be read here"
        return outputs, [f"{said}: that none of these examples was learned from is taken on trust.", *notes]
    if both := shared_examples(outputs, learned):
        found = f"{len(both):,} of {len(outputs):,} that it was, such as id {both[0]}"
        raise InputError("examples that nothing was learned from", found, where)
    if not _told_apart(outputs) and _alike(learned) > TELLING:
        said = "What was said of different examples is mostly the same"
        notes.insert(0, f"{said}: that none of these was learned from is taken on trust.")
    return outputs, notes


def _other_networks(deployment: Deployment, where: str, costs: Costs) -> list[str]:
    """A note where nothing tells whose outputs they are. Raises InputError where they are of other networks."""
    from offramp.cascades.files.provenance import networks_noted

    known, here = deployment.networks, networks_noted(where, costs)
    used = {deployment.costs.stages[stage].network for stage in deployment.fitted.sweep.routes.stages}
    if not (known and here):
        return ["That these are the outputs of the policy's own networks is taken on trust."]
    for name in sorted(used & known.keys()):
        for what in ("weights", "preprocessing"):
            if here.get(name, {}).get(what) != known[name].get(what):
                raise InputError("outputs of the policy's own networks", f"other {what} of {name}", where)
    return []


def _of(outputs: Outputs, deployment: Deployment, where: str) -> Outputs:
    """With the policy's stages, in its order."""
    stages = deployment.fitted.sweep.routes.stages
    if missing := [stage for stage in stages if stage not in outputs.names]:
        raise InputError(f"the policy's stages, {', '.join(stages)}", f"no {', '.join(missing)}", where)
    return outputs.of(stages)


def pooled(parts: Sequence[Outputs]) -> Outputs:
    """Several parts' examples as one certify part; the parts of one folder have the same stages."""
    if len(parts) == 1:
        return replace(parts[0], part="certify")
    stages = []
    for some in zip(*(part.stages for part in parts), strict=True):
        arrays: dict[str, Any] = {
            name: np.concatenate([getattr(stage, name) for stage in some])
            for name in ("answers", "logits", "pooled")
            if all(getattr(stage, name) is not None for stage in some)
        }
        names = [name for name in some[0].measured if all(name in stage.measured for stage in some)]
        measured = {name: np.concatenate([stage.measured[name] for stage in some]) for name in names}
        stages.append(replace(some[0], **{"answers": None, "logits": None, "pooled": None} | arrays, measured=measured))
    ids = np.concatenate([part.ids for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    return replace(parts[0], stages=tuple(stages), labels=labels, ids=ids, part="certify")


def shared_examples(outputs: Outputs, learned: Outputs) -> list[Any]:
    """Ids of the ``outputs`` that are among the ``learned`` examples, known by what the stages said of them.

    Logits tell examples apart whatever they are called, and so does a name, other than a row's number, with its label,
    whatever the digits of the logits. Answers alone, even with confidences, may be the same for different examples:
    there the id has to be the same too (of row numbers, which are no ids, in half of the examples), or many more be
    alike than are among the learned examples themselves.
    """
    told = _told_apart(outputs)
    texts = outputs.ids.dtype.kind == learned.ids.dtype.kind == "U"
    if told and texts and not all(map(str.isdecimal, outputs.ids.tolist())):
        known = set(zip(learned.ids.tolist(), learned.labels.tolist(), strict=True))
        named = [one for one in zip(outputs.ids.tolist(), outputs.labels.tolist(), strict=True) if one in known]
        if named:
            return [one for one, _ in named]
    numbered = sorted(map(str, outputs.ids.tolist())) == sorted(map(str, range(len(outputs))))
    if not told and (same := _both(outputs, learned, named=True)) and (not numbered or 2 * len(same) >= len(outputs)):
        return same
    both = _both(outputs, learned, named=False)
    return both if told or len(both) > (_alike(learned) + CHANCE) * len(outputs) else []


def _told_apart(outputs: Outputs) -> bool:
    """Whether what is stored of different examples is never the same."""
    return any(stage.logits is not None for stage in outputs.stages)


def _both(outputs: Outputs, learned: Outputs, named: bool) -> list[Any]:
    there = set(_rows(learned, named))
    return [one for one, row in zip(outputs.ids.tolist(), _rows(outputs, named), strict=True) if row in there]


def _alike(outputs: Outputs) -> float:
    """The share of the examples that another one is exactly like."""
    often = Counter(_rows(outputs, named=False))
    return sum(count for count in often.values() if count > 1) / len(outputs)


def refuse_repeated(outputs: Outputs, where: str) -> None:
    """Raises InputError where more than ``REPEATED`` of the examples stand there already: they tell nothing twice."""
    if not _told_apart(outputs):
        return  # answers of different examples are often the same
    n = len(outputs)
    again = n - len(set(_rows(outputs, named=False)))
    if again > REPEATED * n:
        raise InputError("examples that are all different", f"{again:,} of {n:,} that stand there twice", where)


def _rows(outputs: Outputs, named: bool) -> list[bytes]:
    """A digest of each example: its label, what every stage said, and its id if ``named``."""
    from hashlib import blake2b

    ids = outputs.ids.tolist() if named else [""] * len(outputs)
    heads = (f"{label} {one}" for label, one in zip(outputs.labels.tolist(), ids, strict=True))
    found = [blake2b(head.encode("utf-8", "surrogatepass"), digest_size=16) for head in heads]
    for stage in outputs.stages:
        columns = [stage.logits] if stage.logits is not None else [stage.answers, *stage.measured.values()]
        for column in columns:
            assert column is not None
            with np.errstate(over="ignore"):
                for row, digest in zip(column, found, strict=True):  # large ones are mapped, not in memory
                    digest.update(np.asarray(row, dtype=np.float32).tobytes())  # files hold floats by their own digits
    return [digest.digest() for digest in found]


def groups_of(where: str, outputs: Outputs) -> Any:
    """(n,) the name of each example's group: its label, or what the CSV file ``where`` says (columns id, group).

    Raises InputError for a file that can't be read, lacks an example or names it twice.
    """
    if where == "class":
        return outputs.labels.astype(str).astype(object)
    import csv

    from offramp.features.checks import is_text

    expected = "class, or a CSV file with the columns id and group"
    found: dict[str, str] = {}
    try:
        with opened(where, expected, CSV_BYTES) as file:
            reader = csv.DictReader(text_lines(file, where))
            if not {"id", "group"} <= set(reader.fieldnames or ()):
                header = ", ".join(reader.fieldnames or ()) or "nothing"
                raise InputError(expected, header, f"--groups {where}")
            for row in reader:
                one, name = row["id"], row["group"]
                if not is_text(one) or not is_text(name):
                    raise InputError(
                        "an id and a group of one line", repr(name)[:80], f"{where}, line {reader.line_num}"
                    )
                if found.setdefault(one, name) != name:
                    raise InputError(f"one group for {one!r}", f"{found[one]!r} and {name!r}", where)
    except csv.Error as error:
        raise InputError(
            "class, or a CSV file with the columns id and group", str(error), f"--groups {where}"
        ) from None
    if missing := [one for one in map(str, outputs.ids.tolist()) if one not in found]:
        raise InputError("a group for every example", f"none for {len(missing):,}, such as id {missing[0]}", where)
    return np.array([found[str(one)] for one in outputs.ids.tolist()], dtype=object)
