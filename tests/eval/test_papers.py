"""``python -m eval.papers``: accuracies and exits are those of the stored outputs, and every flaw is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from offramp.cascades.files.datafolder import embedded_names, read_folder

pytest.importorskip("torch", reason="running networks needs torch: install offramp[models]")

from offramp.eval.papers.__main__ import main
from offramp.eval.papers.branchynet import FLAWS, NETWORKS, PAPER_ROW, PUBLISHED, entropy_cascade

pytestmark = pytest.mark.slow
"""Real processes, networks or whole fits: not for every day."""

SHIPPED = [name for name in NETWORKS if name in embedded_names()]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("papers")
    assert main(["branchynet", "--networks", *SHIPPED, "--rows", "20", "--rounds", "1", "--out", str(out)]) == 0
    return out


def test_every_network_has_its_rows(table: Path) -> None:
    frame = pd.read_csv(table / "branchynet.csv")
    assert len(SHIPPED) >= 1
    assert set(frame["network"]) == set(SHIPPED)
    assert frame.groupby("network").size().eq(4).all()
    np.testing.assert_allclose(frame["gain"], frame["ms_base"] / frame["ms"])
    for shares in frame["shares"]:
        assert sum(map(float, shares.split(" / "))) == pytest.approx(100, abs=0.2)


def test_accuracies_are_those_of_the_stored_outputs(table: Path) -> None:
    frame = pd.read_csv(table / "branchynet.csv", dtype={"thresholds": str})
    for name in SHIPPED:
        test = read_folder(name).parts["test"]
        exits = [stage for stage in test.names if stage != "base"]
        logits = {stage.name: np.asarray(stage.logits, np.float64) for stage in test.stages}
        base = 100 * np.mean(logits["base"].argmax(1) == test.labels)
        rows = frame[(frame["network"] == name) & (frame["router"] == "entropy")]
        for row in rows.to_dict("records"):
            assert row["base"] == pytest.approx(base)
            cuts = [float(cut) for cut in row["thresholds"].split(", ")]
            answer, going = logits[exits[-1]].argmax(1), np.ones(len(test), bool)
            for stage, cut in zip(exits, cuts, strict=False):
                z = logits[stage] - logits[stage].max(1, keepdims=True)
                p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
                stops = going & (-(p * np.log(np.maximum(p, 1e-300))).sum(1) <= cut * 1.01)
                answer[stops] = logits[stage].argmax(1)[stops]
                going &= ~stops
            # thresholds are printed with three digits
            assert row["accuracy"] == pytest.approx(100 * np.mean(answer == test.labels), abs=0.3)


def test_the_paper_and_its_flaws_stand_in_the_table(table: Path) -> None:
    text = (table / "branchynet.md").read_text("utf-8")
    for flaw in FLAWS:
        assert flaw in text
    for name in SHIPPED:
        assert f"{PUBLISHED[PAPER_ROW.get(name, name)]['accuracy']:.2f}" in text


def test_live_entropy_stops_where_it_is_low() -> None:
    from offramp.cascades.graph.routing import Routes

    routes = Routes(("a", "b"), ((0,), (0, 1)), np.array([[1.0, 0.0], [1.0, 2.0]]), "ms")
    live = entropy_cascade(routes, (0, 1), (-0.5,))
    logits = np.array([[9.0, 0.0], [0.1, 0.0], [0.0, 5.0]], np.float32)
    action, answer = live.plans[0].decide[0]([logits])
    assert np.asarray(action).tolist() == [0, 1, 0]
    assert answer.tolist() == [0, 0, 1]


def test_savings_are_those_of_the_stored_outputs(tmp_path: Path) -> None:
    from offramp.eval.papers.adaptive import ADAPTIVE, ALLOWED, ROUTERS, ladder

    assert main(["adaptive", "--points", "8", "--networks", "exits_resnet", "--out", str(tmp_path)]) == 0
    frame = pd.read_csv(tmp_path / "adaptive.csv")
    assert set(ADAPTIVE) <= set(embedded_names())
    assert len(frame) == len(ROUTERS) * len(ALLOWED)
    oracle = frame[frame["router"] == "soft_oracle"].iloc[0]
    assert oracle["extra"] == pytest.approx(0, abs=1e-9)  # it errs as the whole network does
    mix = frame[frame["router"] == "uniform"]
    policy = frame[frame["router"] == "policy"]
    assert (policy["saved"].to_numpy() > mix["saved"].to_numpy()).all()
    data = read_folder("exits_resnet")
    cost, right = ladder(data)
    assert (np.diff(cost) > 0).all()
    test = data.parts["test"]
    assert right[-1] == pytest.approx(100 * np.mean(np.asarray(test.stages[-1].logits).argmax(1) == test.labels))
    text = (tmp_path / "adaptive.md").read_text("utf-8")
    assert "the paper, top-5" in text


@pytest.mark.parametrize(
    "flags", [[], ["branchy"], ["branchynet", "--networks", "b_none"], ["branchynet", "--rounds", "0"]]
)
def test_bad_flags_are_told(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags) == 2
    assert "expected" in capsys.readouterr().err
