"""A summary turned into what a person reads in the terminal: three budgets, the speed-ups, the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from offramp.eval.report.metrics import METRICS
from offramp.eval.report.routers import routers

if TYPE_CHECKING:
    from rich.table import Table

    from offramp.oracles.router import Router

STYLES = {"policy_ahead": "bold green", "threshold_as_good": "bold", "behind": "bold yellow", "no_help": "bold yellow"}

Record = Mapping[str, Any]


def show(summary: Record, files: Sequence[Path] = (), stream: TextIO | None = None) -> None:
    """Prints the tables, the verdict and where the files are; at most ``WIDTH`` columns, plain text in a pipe."""
    from rich.text import Text

    from offramp.cascades.command import console

    verdict = summary["verdict"]
    said = Text(verdict["text"], STYLES.get(verdict["code"], ""))
    tables = [budget_table(summary), speed_table(summary), *metric_table(summary)]
    console.show([*tables, said, *(f"  {file}" for file in files)], stream)


def budget_table(summary: Record) -> Table:
    """The policy at each budget: cost, error, and per stage the share of exits and of the cost."""
    part, n = summary["tested_on"]["part"], summary["tested_on"]["examples"]
    table = plain_table(
        f"Learned policy, picked on {summary['chosen_on']['part']}, measured on {part}: {n:,} examples, "
        f"{100 * summary['intervals']['level']:g} % intervals"
    )
    records = [record for record in summary["budgets"] if record["reached"]]
    table.add_column("")
    for record in records:
        table.add_column(f"budget {number(record['budget'])}", justify="right")
    tested = [record["tested"] for record in records]
    table.add_row(f"cost, {summary['unit']}", *(_spread(each["cost"]) for each in tested))
    table.add_row("error, %", *(_spread(each["error"], 100, 2) for each in tested), end_section=True)
    for stage in tested[0]["exit_share"] if tested else ():
        shares = ((each["exit_share"][stage], each["spent_share"][stage]) for each in tested)
        table.add_row(f"{stage}: exits, cost", *(f"{100 * stop:.1f} %, {100 * spent:.1f} %" for stop, spent in shares))
    return table


def speed_table(summary: Record) -> Table:
    """Per router and margin: how many times cheaper than the best single stage, the interval, the error given up."""
    best = summary["best_single"]
    error, cost = 100 * best["tested"]["error"]["value"], number(best["tested"]["cost"]["value"])
    table = plain_table(f"Times cheaper than {best['stage']}: {cost} {summary['unit']}, error {error:.2f} %")
    table.add_column("points of error allowed (used)")
    records = summary["routers"]["policy"]
    for record in records:
        table.add_column(f"{100 * record['margin']:g}", justify="right")
    for name, router in shown_routers(summary["routers"]).items():
        table.add_row(router.told, *map(_speed, summary["routers"][name]))
    if any((record.get("oracle_share") or {}).get("value") is not None for record in records):
        shares = [record.get("oracle_share") or {"value": None} for record in records]
        texts = ["-" if share["value"] is None else f"{100 * share['value']:.0f} %" for share in shares]
        table.add_section()
        table.add_row("share of the oracle's saving", *texts)
    return table


def metric_table(summary: Record) -> list[Table]:
    """Per router the metrics that have no table of their own, on the test part's hull; none if all of them have."""
    told = {name: metric for name, metric in METRICS.items() if metric.told}
    if not told:
        return []
    table = plain_table(f"On the hull of {summary['tested_on']['part']}, in hindsight")
    table.add_column("")
    for metric in told.values():
        table.add_column(f"{metric.told}, {summary['unit']}" if metric.cost else metric.told, justify="right")
    found = summary["hindsight"]["routers"]
    for name, router in shown_routers(found).items():
        values = [found[name]["on_hull"].get(key) for key in told]
        scaled = (v if v is None else m.times * v for v, m in zip(values, told.values(), strict=True))
        table.add_row(router.told, *map(number, scaled))
    return [table]


def shown_routers(there: Record) -> dict[str, Router]:
    """Of the routers that are there, those that tables show, in order."""
    return {name: router for name, router in routers().items() if router.table and name in there}


def number(value: float | None) -> str:
    """Four digits, or all before the point.

    >>> number(162.367), number(0.00123456), number(45678.9), number(None)
    ('162.4', '0.001235', '45,679', '-')
    """
    if value is None:
        return "-"
    decimals = 3 - floor(log10(abs(value))) if value else 0
    return f"{value:,.{min(max(decimals, 0), 12)}f}"


def plain_table(title: str) -> Table:
    """An empty table in the house's style."""
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)


def _spread(estimate: Record, times: float = 1, decimals: int | None = None) -> str:
    """Value and interval of an estimate."""
    scaled = [None if estimate[key] is None else times * estimate[key] for key in ("value", "low", "high")]
    value, low, high = (number(x) if decimals is None or x is None else f"{x:.{decimals}f}" for x in scaled)
    return f"{value} [{low}, {high}]"


def _speed(record: Record) -> str:
    if not record["reached"]:
        return "out of reach"
    speed, used = record["speedup"], f"({100 * record['extra_error']['value']:+.2f})"
    # What costs nothing is cheaper any number of times.
    if speed["value"] is None or speed["low"] is None:
        return f"free {used}"
    return f"{speed['value']:.2f}x {used}\n[{speed['low']:.2f}, {speed['high']:.2f}]"
