"""The main job on the embedded data, held against what it wrote before the files moved into rooms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

import offramp

KEPT = Path(__file__).resolve().parents[1] / "fixtures" / "frontier-cifar10.csv"
ROUNDING = 1e-3
"""Where another processor's arithmetic turns a tie, some of 10,000 examples go another way."""


def test_the_main_job_writes_what_it_always_wrote(tmp_path: Path) -> None:
    parts = offramp.read("cifar10")
    offramp.fit(parts["fit"], "a_g_r").evaluate(parts["test"]).save(tmp_path)
    if (tmp_path / "frontier.csv").read_bytes() == KEPT.read_bytes():
        return
    mine, kept = pd.read_csv(tmp_path / "frontier.csv"), pd.read_csv(KEPT)
    assert list(mine.columns) == list(kept.columns)
    assert mine["router"].tolist() == kept["router"].tolist()
    numbers = kept.select_dtypes("number").columns.drop("price")
    np.testing.assert_allclose(mine[numbers], kept[numbers], atol=ROUNDING * kept["cost"].max())
