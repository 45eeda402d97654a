"""What a stream is held against, from a routing worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offramp.cascades.graph.routing import Routes, Routing
from offramp.eval.guarantees.reference import confidences, reference_of
from offramp.features.outputs import Outputs, Stage


def test_the_reference_by_hand(routes: Routes) -> None:
    sure = np.array([[0.5, 0.3, 0.2], [0.9, 0.05, 0.05], [0.1, 0.1, 0.8], [0.34, 0.33, 0.33]])
    stages = (Stage("b", logits=np.log(sure[::-1])), Stage("a", logits=np.log(sure)))
    outputs = Outputs(stages, np.array([0, 0, 2, 1]), np.arange(4), "certify", 3)
    routing = Routing(
        routes, np.array([0, 0, 2, 2]), np.array([0, 0, 0, 0]), np.array([0, 0, 1, 1]), "certify"
    )  # a, a, a>b, a>b
    np.testing.assert_allclose(confidences(routing, outputs), [0.5, 0.9, 0.9, 0.5], rtol=1e-6)
    found = reference_of(routing, outputs)
    assert (found.examples, dict(found.exits)) == (4, {"a": 2, "b": 0, "a>b": 2})
    assert found.answers == (4, 0, 0)
    assert found.wrong == 2
    assert set(found.counts) == {"a", "a>b"}
    cells = [np.searchsorted(found.edges, x) for x in (0.5 + 1e-6, 0.9)]
    assert [at for at, count in enumerate(found.counts["a"]) if count] == cells
    assert len(found.counts["a"]) == len(found.edges) + 1
    with pytest.raises(ValueError, match="very examples"):
        reference_of(routing, replace(outputs, part="test"))
    with pytest.raises(ValueError, match="every stage"):
        reference_of(routing, outputs.of(("a",)))


def test_answers_alone_have_the_confidence_that_came_with_them(routes: Routes) -> None:
    def outputs(told: list[float]) -> Outputs:
        bare = Stage("a", answers=np.zeros((3, 1), int))
        with_it = Stage("b", answers=np.zeros((3, 1), int), measured={"confidence": np.array(told)})
        return Outputs((bare, with_it), np.zeros(3, int), np.arange(3), "test", 2)

    routing = Routing(routes, np.array([0, 1, 2]), np.zeros(3, int), np.zeros(3), "test")
    np.testing.assert_array_equal(confidences(routing, outputs([0.2, 0.3, 1.0])), [np.nan, 0.3, 1.0])
    assert set(reference_of(routing, outputs([0.2, 0.3, 1.0])).counts) == {"b", "a>b"}
    assert reference_of(routing, outputs([0.2, 0.3, 17.0])).counts == {}
