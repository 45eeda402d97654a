"""A long step of a command turned into a bar on the terminal, and into nothing in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    from offramp.cascades.learning.points import Step

STEPS = ("bar", "elapsed", "text")
"""What a bar over named steps shows."""


class Bar(Protocol):
    """Says how far the work is, and what is being done now."""

    def __call__(
        self,
        text: str | None = None,
        advance: int | None = None,
        completed: int | None = None,
        total: int | None = None,
    ) -> None:
        """So many further, or so many in all, of ``total``, once that is known; None leaves things as they are."""


@contextmanager
def bar(
    shown: Sequence[str] = STEPS, total: int | None = None, text: str = "starting", drawn_by_itself: bool = True
) -> Iterator[Bar]:
    """A bar with the columns ``shown``: names of ``_columns``, or words to stand there.

    ``drawn_by_itself``: by a thread, which would take time from what is measured; else whenever it is called.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(
        *_columns(shown),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        auto_refresh=drawn_by_itself,
    ) as progress:
        task = progress.add_task(text, total=total)

        def update(
            text: str | None = None,
            advance: int | None = None,
            completed: int | None = None,
            total: int | None = None,
        ) -> None:
            if total is not None and completed is not None and progress.tasks[0].total is None:
                # What an earlier run did says nothing about the speed of this one.
                progress.reset(task, total=total, completed=completed, description=text)
            progress.update(task, total=total, completed=completed, advance=advance, description=text)
            if not drawn_by_itself:
                progress.refresh()

        yield update


@contextmanager
def steps() -> Iterator[Step]:
    """A bar over steps that are named one by one."""
    with bar() as update:
        yield lambda text, total=None: update(text, advance=1, total=total)


def _columns(shown: Sequence[str]) -> list[ProgressColumn]:
    from rich import progress
    from rich.text import Text

    class Speed(progress.ProgressColumn):
        """Images per second, of late."""

        def render(self, task: Task) -> Text:
            """The speed in words."""
            return Text(f"{task.speed:,.0f} images/s" if task.speed else "")

    known: dict[str, Callable[[], progress.ProgressColumn]] = {
        "text": lambda: progress.TextColumn("{task.description}"),
        "bar": progress.BarColumn,
        "count": progress.MofNCompleteColumn,
        "percent": progress.TaskProgressColumn,
        "speed": Speed,
        "elapsed": progress.TimeElapsedColumn,
        "remaining": progress.TimeRemainingColumn,
    }
    return [known[name]() if name in known else progress.TextColumn(name) for name in shown]
