from __future__ import annotations

import numpy as np
import pytest

from offramp.cascades.graph.routing import Routes, Routing
from offramp.cascades.learning.outcomes import Outcomes

ROUTES = Routes(
    ("a", "r"),
    ((0,), (0, 1), (1,)),
    np.array([[1.0, 0.0], [1.0, 4.0], [0.0, 4.0]]),
    "ms",
)
FOUR = Routing(ROUTES, np.array([0, 1, 1, 0]), np.array([7, 8, 9, 7]), np.array([0.0, 1.0, 0.0, 0.0]), "test")


def test_routes_know_what_follows_from_their_paths() -> None:
    assert ROUTES.cost.tolist() == [1, 5, 4]
    assert ROUTES.exits.tolist() == [0, 1, 1]
    assert ROUTES.entries == (0, 2)
    assert ROUTES.children == ((1,), (), ())
    assert ROUTES.index == {(0,): 0, (0, 1): 1, (1,): 2}


def test_four_examples_by_hand() -> None:
    assert len(FOUR) == 4
    assert FOUR.exit.tolist() == [0, 1, 1, 0]
    assert FOUR.cost.tolist() == [1, 5, 5, 1]
    assert FOUR.mean_cost == 3.0
    assert FOUR.error == 0.25
    assert FOUR.exit_share.tolist() == [0.5, 0.5]
    assert FOUR.spent_share.tolist() == [4 / 12, 8 / 12]


def test_a_mean_of_many_float32_losses_is_exact() -> None:
    wrong = np.zeros(50_000, dtype=np.float32)
    wrong[:3569] = 1
    path = np.zeros(50_000, dtype=np.uint8)
    assert Routing(ROUTES, path, path, wrong, "test").error == 3569 / 50_000


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", [np.uint8, np.int64])
def test_following_a_path_answers_as_its_last_stage(order: str, kind: type) -> None:
    answer = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.int16, order=order)  # type: ignore[call-overload]
    wrong = np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.25]], dtype=np.float32, order=order)  # type: ignore[call-overload]
    outcomes = Outcomes(("a", "r"), answer, wrong, np.zeros((3, 2)), "tune")
    routing = outcomes.follow(ROUTES, np.array([0, 1, 2], dtype=kind))
    assert routing.answer.tolist() == [1, 4, 6]
    assert routing.wrong.tolist() == [0, 0, 0.25]
    assert routing.part == "tune"
    assert (routing.answer.dtype, routing.wrong.dtype) == (answer.dtype, wrong.dtype)
    assert routing.routes is ROUTES
