"""A target and a search over everything that can be chosen turned into a policy file: ``python -m eval.tune``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from offramp.cascades.command.console import show as printed
from offramp.cascades.command.settings import INTERRUPTED, guard, parse
from offramp.eval.tuning.problem import Problem, Settings, read_problem

if TYPE_CHECKING:
    from rich.table import Table

    from offramp.eval.tuning.choose import Result

ENDS = ("value", "low", "high")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit code."""
    return guard(lambda: run(parse(Settings, argv, "python -m eval.tune", __doc__ or "")))


def run(settings: Settings) -> int:
    """Solve for the plain frontier's policy, search, choose, measure once on the test part, write, print."""
    from offramp.cascades.files.policy import read_deployment
    from offramp.eval.report.files import writable
    from offramp.eval.tuning.choose import conclude
    from offramp.eval.tuning.files import FILES, files_of, standing
    from offramp.eval.tuning.search import Searched, search
    from offramp.eval.tuning.solve import solved
    from offramp.features.store.atomic import locked, refuse_overwriting

    outputs = [("--out", settings.out / name) for name in FILES]
    refuse_overwriting(outputs, [("--data", settings.data), ("--storage", _file(settings.storage))])
    folder = writable(settings.out, "--out", FILES)
    problem = read_problem(settings)
    plain = solved(problem, problem.plain, problem.topology)
    searched = search(problem, plain) if settings.trials else Searched()
    try:
        result = conclude(problem, plain, searched)
    except KeyboardInterrupt:  # while the best trials were judged again: what is known is written none the less
        stopped = "interrupted; all trials are done, and the best by their own folds is written"
        searched = replace(searched, stopped=stopped, code=INTERRUPTED)
        result = conclude(problem, plain, searched)
    policy = settings.out / "policy.json"
    with locked(policy):  # what is put down there meanwhile, of attempts to certify, is not lost
        there = standing(policy)
        written = folder.write_all(files_of(problem, result, there), tie="summary.json")
    show(problem, result, written)
    if there is not None and there.certificate is not None:
        same = read_deployment(policy).certificate == there.certificate
        became = "is kept: the policy is the same" if same else "is gone with its policy"
        printed([f"The certificate that stood in {policy} {became}."])
    if searched.stopped:
        printed([searched.stopped])
    return searched.code


def _file(storage: str) -> str:
    """The file that a study is kept in, if it is one."""
    return storage.removeprefix("journal:").removeprefix("sqlite:///")


def show(problem: Problem, result: Result, written: Sequence[Path]) -> None:
    """Prints the table, the verdict and where the files are."""
    from offramp.cascades.files.policy import in_words

    printed([f"Wanted: {in_words(problem.target, problem.routes.unit, problem.plain.loss)}."])
    told = f"Expected: held out, of {len(problem.learnt):,} examples to learn from"
    told += f"; test part: {result.tested['examples']:,}, with 95 % intervals" if result.tested else ""
    printed([f"{told}."])
    printed([table_of(problem, result)])
    if result.searched.trials:
        from offramp.eval.tuning.search import ended

        states = [trial.state.name.lower() for trial in ended(problem, result.searched.trials)]
        names = {"complete": "complete", "pruned": "pruned", "fail": "failed"}
        counts = ", ".join(f"{states.count(state)} {name}" for state, name in names.items())
        printed([f"{len(states)} of {problem.settings.trials} trials: {counts}; {result.searched.seconds:.0f} s."])
    printed([result.verdict["text"]])
    for path in written:
        printed([f"  {path}"])


def table_of(problem: Problem, result: Result) -> Table:
    """Plain and tuned: what they cost and how often they err, held out and on the test part."""
    from offramp.eval.report.table import number, plain_table

    table = plain_table("")
    table.add_column("")
    policies = {"plain": result.plain} | ({} if result.trial is None else {"tuned": result.best})
    for name in policies:
        table.add_column(f"{name} policy", justify="right")
    unit = problem.routes.unit
    table.add_row(f"cost expected, {unit}", *(number(one.cost) for one in policies.values()))
    table.add_row("error expected, %", *(f"{100 * one.error:.2f}" for one in policies.values()))
    if result.tested:
        tested = [result.tested[name] for name in policies]
        costs = [[number(one["cost"][key]) for key in ENDS] for one in tested]
        errors = [[f"{100 * one['error'][key]:.2f}" for key in ENDS] for one in tested]
        for what, cells in ((f"cost on the test part, {unit}", costs), ("error on the test part, %", errors)):
            table.add_row(what, *(f"{value} [{low}, {high}]" for value, low, high in cells))
    return table


if __name__ == "__main__":
    sys.exit(main())
