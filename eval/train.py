"""Labelled images turned into a trained network: ``python -m eval.train backbone`` (or ``exits``)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from offramp.cascades.command.settings import guard
from offramp.features.errors import InputError

USAGE = """usage: train backbone ...   a network of its own (python -m cascades.train)
       train exits ...      a network with exits: frozen, joint or gated (python -m cascades.training)

train backbone --help and train exits --help say all flags."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, whose first word says what to train; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guard(lambda: _run(words))


def _run(words: Sequence[str]) -> int:
    if words and words[0] in ("-h", "--help"):
        sys.stdout.write(USAGE + "\n")
        return 0
    if words and words[0] == "backbone":
        from offramp.cascades.training import backbone

        return backbone.main(words[1:])
    if words and words[0] == "exits":
        from offramp.cascades.training import exits

        return exits.main(words[1:])
    raise InputError("backbone or exits", repr(words[0][:60]) if words else "nothing", "train")


if __name__ == "__main__":
    sys.exit(main())
