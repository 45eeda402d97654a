"""Labelled images turned into a network with exits: ``python -m cascades.training``."""

from __future__ import annotations

import sys

from offramp.cascades.training.exits import main

if __name__ == "__main__":
    sys.exit(main())
