"""The report of a measured run turned into what a person reads in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offramp.eval.measured.promises import promised

APART = 0.05
"""Logits that differ by more than this from the stored ones are no matter of rounding: the networks are others."""

WIDE = 124
"""Columns of the table in a pipe: it must not be cut."""


def show(report: Mapping[str, Any]) -> None:
    """Print the side-by-side table and the break-even lines."""
    from rich.text import Text

    from offramp.cascades.command import console
    from offramp.eval.report.table import number, plain_table

    here, rows = report["about"], report["systems"]
    words = "compiled, " if here["compiled"] else ""
    table = plain_table(
        f"{here['images']:,} images, batches of {here['batch']}, {words}{here['dtype']}, {here['device']}, "
        f"{here['threads']} threads; {here['rounds']} rounds, alternating"
    )
    table.add_column("", overflow="fold")
    for name in ("ms/image", "times faster", "predicted", "/ ideal", "error, %", "points over largest"):
        table.add_column(name, justify="right", overflow="fold")
    stages = [key.removeprefix("share_") for key in rows[0] if key.startswith("share_")]
    for row in rows:
        predicted = "-" if row["predicted_speedup"] is None else f"{row['predicted_speedup']:.2f}"
        table.add_row(
            row["system"],
            number(row["ms_per_image"]),
            f"{row['speedup']:.2f} [{row['speedup_low']:.2f}, {row['speedup_high']:.2f}]",
            predicted,
            f"{row['times_ideal']:.3f}",
            f"{100 * row['error']:.2f}",
            f"{100 * row['extra_error']:+.2f} [{100 * row['extra_low']:+.2f}, {100 * row['extra_high']:+.2f}]",
        )
    lines: list[str] = []
    if here["left_out"]:
        lines.append(f"{here['left_out']:,} images were left out: the policies were fitted on them.")
    if here["broken"]:
        lines.append(f"{here['broken']:,} images were left out: they are broken.")
    apart = here["logits_apart"]
    if apart is not None and apart > APART:
        lines.append(
            f"The networks answer otherwise than in the data folder (logits differ by up to {number(apart)}): are they "
            "those that it was made with?"
        )
    if not here["known"]:
        lines.append(
            "The data folder knows none of these images: if they stand in it under other names, the errors are too low."
        )
    for row in rows:
        if "routed_as_stored" in row:
            shares = ", ".join(f"{100 * row[f'share_{stage}']:.0f} % at {stage}" for stage in stages)
            same = f"{row['routed_as_stored']:,} of {here['images']:,} examples"
            lines.append(
                f"{row['system']}: exits {shares}; routed and answered as from outputs in whole batches: {same}."
            )
    lines += promised(report.get("policy"))
    for line in report["break_even"]:
        share = line["pays_above"]
        pays = "can't pay" if share is None else f"pays above {100 * share:.0f} % exits"
        says = f"at batch {line['batch']} the exit at {line['stage']} {pays}; now {100 * line['stops']:.0f} %"
        lines.append(f"{line['system']}: {says} (then comes {line['following']}).")
    for row in report["queue"] or ():
        lines.append(
            f"{row['system']}, requests of {row['request']}: {number(row['ms_per_image'])} ms an image gathered across "
            f"requests, {number(row['ms_per_image_alone'])} one request at a time."
        )
    console.show([table, *map(Text, lines)], width=WIDE)
