"""Every column that a live batch can have, as stored outputs have it: in numpy and in torch."""

from __future__ import annotations

import numpy as np
import pytest

from offramp.cascades.graph.costs import Costs, StageCost
from offramp.cascades.graph.routing import Routes
from offramp.cascades.graph.topology import parse_topology, unroll
from offramp.cascades.learning.fit import FitSettings, fit_sweep
from offramp.cascades.runtime.folded import FoldedPolicy, Seen
from offramp.features.arrays import NUMPY, Ops
from offramp.features.columns import COLUMNS, layout
from offramp.features.outputs import Outputs, Stage


def routes_of() -> Routes:
    names = ("a", "b", "c")
    return unroll(
        parse_topology("a>b>c", names), Costs({n: StageCost(n, 2.0**i, 0.0) for i, n in enumerate(names)}, "")
    )


def outputs_of(classes: int, n: int = 300) -> Outputs:
    rng = np.random.default_rng(classes)
    y = rng.integers(0, classes, n)
    hit = y[:, None] == np.arange(classes)
    z = [(rng.normal(size=(n, classes)) * 1.5 + (i + 1) * hit).astype(np.float32) for i in range(3)]
    return Outputs(
        tuple(Stage(name, logits=each) for name, each in zip("abc", z, strict=True)), y, np.arange(n), "fit", classes
    )


def ops_of(kind: str) -> Ops:
    if kind == "numpy":
        return NUMPY
    pytest.importorskip("torch")
    from offramp.cascades.runtime.arrays import Torch

    return Torch()


@pytest.mark.parametrize("classes", [2, 3, 10, 40])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_every_live_column_is_as_stored(kind: str, classes: int) -> None:
    outputs, path = outputs_of(classes), (0, 1, 2)
    sweep, _ = fit_sweep(outputs, routes_of(), 3, FitSettings(("value",)))
    ops = ops_of(kind)
    folded = FoldedPolicy(sweep.reader, path, "last", None, ops)
    stored = sweep.reader.read(outputs).view(path)
    logits = [np.asarray(stage.logits) for stage in outputs.stages]
    if kind == "torch":
        import torch

        seen = Seen(folded, [torch.as_tensor(z) for z in logits])
    else:
        seen = Seen(folded, logits)
    columns = layout(sweep.reader.shape(path))
    assert tuple(each.name for each in columns) == stored.columns == folded.names
    assert {name for name, column in COLUMNS.items() if not column.live} == {
        "stage.",
        "stage.reliability",
        "stage.pooled_doubt",
    }
    for at, placed in enumerate(columns):
        found = ops.host(folded.column(at)(seen))
        assert found.shape == (len(outputs),), placed.name
        np.testing.assert_allclose(found, stored.x[:, at], rtol=2e-3, atol=2e-3, err_msg=placed.name)
