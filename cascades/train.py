"""Labelled images turned into trained networks: ``python -m cascades.train``."""

from __future__ import annotations

import sys

from offramp.cascades.training.backbone import main

if __name__ == "__main__":
    sys.exit(main())
