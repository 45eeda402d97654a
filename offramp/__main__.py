"""The console command ``offramp NAME ...``, which hands over to the command of that name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from offramp.eval.commands import COMMANDS


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit code. Nothing but the command that is named is imported."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())  # noqa: T201 - it is what was asked for
        return 0 if argv else 2
    if argv[0] == "--version":
        from offramp import __version__

        print(f"offramp {__version__}")  # noqa: T201 - it is what was asked for
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        sys.stderr.write(f"error: expected one of {', '.join(COMMANDS)}{hint}, found {name[:60]!r}\n")
        return 2
    return int(import_module(COMMANDS[name][0]).main(rest))


def usage() -> str:
    """All commands with a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {told}" for name, (_, told) in COMMANDS.items()]
    return "\n".join(["usage: offramp COMMAND ...   (offramp COMMAND --help says all of its flags)", "", *lines])


if __name__ == "__main__":
    sys.exit(main())
