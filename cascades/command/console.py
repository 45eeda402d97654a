"""Tables and lines turned into what stands on the terminal, or as plain text in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

WIDTH = 100


def show(
    things: Iterable[Table | Text | str],
    stream: TextIO | None = None,
    width: int = WIDTH,
    wrap: bool = False,
    close: bool = False,
) -> None:
    """Prints them on ``stream`` (stdout), at most ``width`` columns wide.

    A text is broken at the width. A plain string is not, since it may be a path, unless ``wrap``: then only one that
    is indented stays whole. ``close``: no empty line behind a table.
    """
    from rich.console import Console
    from rich.table import Table

    stream = sys.stdout if stream is None else stream
    if stream is None:  # closed before the program began
        return
    console = Console(file=stream, markup=False, emoji=False, highlight=False)
    # A pipe has no width of its own; rich would take 80.
    console.width = min(console.width, width) if console.is_terminal else width
    with console.capture() as capture:
        for thing in things:
            whole = isinstance(thing, str) and not (wrap and not thing.startswith("  "))
            console.print(thing, soft_wrap=whole, end="" if close and isinstance(thing, Table) else "\n")
    # A terminal that can't show a unit's letters is no reason to stop.
    encoding = stream.encoding or "utf-8"
    stream.write(capture.get().encode(encoding, "replace").decode(encoding))
