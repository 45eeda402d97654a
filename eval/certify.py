"""A policy file turned into a certified one: ``python -m eval.certify --policy X/policy.json --delta 0.05``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from offramp.cascades.command.console import show as printed
from offramp.cascades.command.settings import guard, parse
from offramp.eval.guarantees.certificate import Record, aim_of, attempt_of, certify, tried
from offramp.eval.guarantees.shown import none_text, show
from offramp.features.errors import InputError

RISKS = ("increase", "error")

LEAST_DELTA = 1e-6
"""Smaller ones take minutes."""

NONE_CERTIFIED = 1
"""Exit code where nothing can be certified; the policy file then holds the attempt, and is otherwise as it was."""


@dataclass(frozen=True)
class Settings:
    """The flags of the command."""

    policy: Path = field(metadata={"help": "the policy file, policy.json, that eval.tune wrote"})
    delta: float = field(
        default=0.05, metadata={"help": "probability, between 0 and 1, with which the certificate may be wrong"}
    )
    risk: str | None = field(
        default=None,
        metadata={
            "help": "what is bounded: the mean loss over the largest stage's (increase) or the mean loss itself "
            "(error); as the policy's own target has it unless given",
            "choices": RISKS,
        },
    )
    target: float | None = field(
        default=None,
        metadata={
            "help": "what the risk is to be at most, if not as the policy's own target",
            "minimum": -1,
            "maximum": 1,
        },
    )
    data: str | None = field(
        default=None,
        metadata={
            "help": "a folder of new examples to certify on (its certify part, or all if it has none), in place of "
            "those that were put aside in the policy's data"
        },
    )
    groups: str | None = field(
        default=None,
        metadata={
            "help": "bound the risk in every group too: class (the true label), or a CSV file with the columns id and "
            "group"
        },
    )
    out: Path | None = field(default=None, metadata={"help": "file to write in place of the policy file itself"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit code."""
    return guard(lambda: run(parse(Settings, argv, "python -m eval.certify", __doc__ or "")))


def run(settings: Settings) -> int:
    """Read the policy and the examples, test, print, write; the exit code says whether anything was certified."""
    if not LEAST_DELTA <= settings.delta < 1:
        raise InputError(f"a number between 0 and 1, {LEAST_DELTA:g} at least", str(settings.delta), "--delta")
    from offramp.cascades.files.policy import read_deployment, write_deployment
    from offramp.eval.guarantees.holdout import certification_examples, groups_of
    from offramp.eval.report.files import writable
    from offramp.features.store.atomic import refuse_overwriting

    where = settings.out or settings.policy
    refuse_overwriting([("--out", settings.out)], [("--data", settings.data), ("--groups", settings.groups)])
    refuse_overwriting([("--policy", settings.policy)], [("--groups", settings.groups)])
    deployment = read_deployment(settings.policy)
    writable(where.parent, "--out" if settings.out else "--policy", (where.name,))  # before the examples are looked at
    aim = aim_of(deployment.target, settings.risk, settings.target)
    outputs, on_trust = certification_examples(deployment, settings.data)
    group = None if settings.groups is None else groups_of(settings.groups, outputs)
    done = certify(deployment, outputs, aim, settings.delta, group)
    attempt = attempt_of(deployment, outputs, aim, settings.delta, done, group, settings.groups)
    with Record(settings.policy, deployment, attempt) as record:
        notes = [*on_trust, *tried(record.attempts, attempt)]
        if done.certificate is None:
            notes += record.put_down()
            printed([none_text(done, deployment, aim, settings.delta), *notes], wrap=True, close=True)
            return NONE_CERTIFIED
        from offramp.eval.guarantees.reference import reference_of

        certified = replace(
            deployment,
            fitted=done.fitted,
            expected=done.expected,
            point=done.point,
            certificate=done.certificate,
            reference=reference_of(done.routing, outputs),
            attempts=record.attempts,
        )
        in_place = where.resolve() == settings.policy.resolve()
        if in_place:
            record.refuse_another_policy()
        write_deployment(certified, where)
        if not in_place:
            notes += record.put_down()
    show(certified, done, aim, "" if on_trust else " that nothing was learned from", [*notes, f"  {where}"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
