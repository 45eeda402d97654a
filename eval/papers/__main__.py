"""The name of a paper turned into its tables with our numbers: ``python -m eval.papers PAPER``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from offramp.cascades.command.settings import guard, parse
from offramp.eval.papers.adaptive import AdaptiveSettings, adaptive
from offramp.eval.papers.branchynet import Settings, branchynet
from offramp.features.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, the paper's name first; returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)

    def work() -> None:
        if not given or given[0] not in (*PAPERS, "--help", "-h"):
            raise InputError(f"one of the papers {', '.join(PAPERS)}", repr(given[0]) if given else "none", "papers")
        paper = given[0] if given[0] in PAPERS else "branchynet"
        flags = given[1:] if given[0] in PAPERS else given
        PAPERS[paper](flags)

    return guard(work)


def differentiable(flags: Sequence[str]) -> None:
    """Gates trained with every loss, on one network."""
    from offramp.eval.papers.gates import Settings as GateSettings
    from offramp.eval.papers.gates import run

    run(parse(GateSettings, flags, "python -m eval.papers differentiable", __doc__ or ""))


PAPERS: Mapping[str, Callable[[Sequence[str]], None]] = {
    "branchynet": lambda flags: branchynet(parse(Settings, flags, "python -m eval.papers branchynet", __doc__ or "")),
    "adaptive": lambda flags: adaptive(parse(AdaptiveSettings, flags, "python -m eval.papers adaptive", __doc__ or "")),
    "differentiable": differentiable,
}
"""What stands behind each paper's name."""


if __name__ == "__main__":
    sys.exit(main())
