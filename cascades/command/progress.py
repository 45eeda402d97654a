"""A long step of a command turned into a bar on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


class watching:  # noqa: N801 - used as a context manager
    """A progress bar on a terminal; nothing in a pipe."""

    def __enter__(self) -> watching:
        """Begin."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self.progress = Progress(
            *(BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}")),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.progress.start()
        self.task = self.progress.add_task("starting", total=None)
        return self

    def __call__(self, text: str, total: int | None = None) -> None:
        """Say what is being done."""
        self.progress.update(self.task, description=text, advance=1, total=total or self.progress.tasks[0].total)

    def __exit__(self, *_: object) -> None:
        """End."""
        self.progress.stop()
