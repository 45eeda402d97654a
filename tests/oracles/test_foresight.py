from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.cascades.graph.routing import Routes
from offramp.cascades.learning.outcomes import Outcomes
from offramp.features.outputs import Floats
from offramp.oracles import ORACLES
from offramp.oracles.foresight import BITS, patterns

# Stages a, b, c cost 1, 3, 9. Right is 0.
BY_HAND = np.array(
    [
        [0, 0, 0],  # all agree at once: a, cost 1
        [1, 1, 1],  # all agree on being wrong: a, cost 1
        [1, 0, 0],  # b settles it: a>b, cost 4
        [1, 0, 1],  # b is right, but c is not: soft goes a>c, cost 10; hard takes a>b, cost 4
        [0, 0, 1],  # soft a>c, cost 10; hard a, cost 1
    ],
    dtype=float,
)


def outcomes(wrong: Floats) -> Outcomes:
    n, k = wrong.shape
    return Outcomes(tuple("abcdefghijklmnopqrstuvwxyz"[:k]), np.zeros((n, k), int), wrong, np.zeros((n, k)), "test")


def paths(name: str, wrong: Floats, routes: Routes, price: float | None = None) -> list[tuple[int, ...]]:
    examples = outcomes(wrong)
    points = ORACLES[name](examples, examples, routes, np.array([1.0 if price is None else price]))
    return [routes.paths[i] for i in points[price is not None].routing.path]


def test_five_examples_by_hand(routes_of: Callable[..., Routes]) -> None:
    assert paths("soft_oracle", BY_HAND, routes_of(3)) == [(0,), (0,), (0, 1), (0, 2), (0, 2)]
    assert paths("hard_oracle", BY_HAND, routes_of(3)) == [(0,), (0,), (0, 1), (0, 1), (0,)]


def test_without_a_jump_the_way_there_is_paid_for(routes_of: Callable[..., Routes]) -> None:
    assert paths("soft_oracle", BY_HAND, routes_of(3, "a>b>c")) == [(0,), (0,), (0, 1), (0, 1, 2), (0, 1, 2)]


def test_a_price_weighs_a_step_against_a_mistake(routes_of: Callable[..., Routes]) -> None:
    # b's step costs 3 * price, c's 9 * price: worth it below 1/3 and 1/9.
    routes = routes_of(3)
    assert paths("soft_oracle", BY_HAND, routes, 0.2) == [(0,), (0,), (0, 1), (0,), (0,)]
    assert paths("soft_oracle", BY_HAND, routes, 0.4) == [(0,)] * 5
    assert paths("hard_oracle", BY_HAND, routes, 0.2) == [(0,), (0,), (0, 1), (0, 1), (0,)]


def test_the_entry_is_one_for_all_and_the_best_on_average(routes_of: Callable[..., Routes]) -> None:
    # a is useless: everybody would pay for it and go on, so the blind entry is b, even for the one that a gets right.
    useless = np.array([[1, 0, 0]] * 9 + [[0, 0, 0]], dtype=float)
    for name in ("soft_oracle", "hard_oracle"):
        assert paths(name, useless, routes_of(3)) == [(1,)] * 10


def test_where_the_graph_has_two_ends_the_last_stage_is_the_reference(routes_of: Callable[..., Routes]) -> None:
    # From a to b or to c, but not from b to c: stopping at b is settled only where c would say the same.
    wrong = np.array([[1, 0, 0], [1, 0, 1], [1, 1, 0]], dtype=float)
    assert paths("soft_oracle", wrong, routes_of(3, "a>b,c")) == [(0, 1), (0, 2), (0, 2)]
    # From b no way leads to c, so entering there would not keep c's error.
    assert {path[0] for path in paths("soft_oracle", wrong, routes_of(3, "a>c;b"))} == {0}


def soft_by_definition(wrong: Floats, routes: Routes) -> tuple[float, float]:
    """Cost and error of the best blind entry, when every example stops at its first settled stage from there on."""
    costs = []
    for entry in routes.entries:
        first = routes.paths[entry][0]
        total = 0.0
        for row in wrong:
            stop = next(s for s in range(first, len(row)) if len(set(row[s:])) == 1)
            total += routes.cost[routes.index[(first, stop) if stop > first else (first,)]]
        costs.append(total / len(wrong))
    return min(costs), wrong[:, -1].mean()


def hard_by_definition(wrong: Floats, routes: Routes, price: float) -> float:
    return min(
        float(
            np.mean(
                [
                    min(
                        row[path[-1]] + price * c
                        for path, c in zip(routes.paths, routes.cost, strict=True)
                        if path[0] == e
                    )
                    for row in wrong
                ]
            )
        )
        for e in range(wrong.shape[1])
    )


@given(st.integers(1, 4), st.lists(st.integers(0, 15), min_size=1, max_size=25), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_both_are_what_a_loop_over_their_definition_gives(
    routes_of: Callable[..., Routes], k: int, codes: list[int], price: float
) -> None:
    wrong = np.array([[code >> s & 1 for s in range(k)] for code in codes], dtype=float)
    routes, examples = routes_of(k), outcomes(wrong)
    soft = ORACLES["soft_oracle"](examples, examples, routes, np.array([price]))[0].routing
    assert (soft.mean_cost, soft.error) == pytest.approx(soft_by_definition(wrong, routes))
    hard = ORACLES["hard_oracle"](examples, examples, routes, np.array([price]))[1].routing
    assert hard.error + price * hard.mean_cost == pytest.approx(hard_by_definition(wrong, routes, price))


@pytest.mark.parametrize("k", [1, 3, BITS, BITS + 1, 20])
@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32, float])
def test_patterns_put_together_again_are_the_rows(k: int, kind: type) -> None:
    wrong = (np.random.default_rng(k).random((200, k)) < 0.3).astype(kind)
    rows, which, count = patterns(wrong)
    np.testing.assert_array_equal(rows[which], wrong)
    assert count.tolist() == np.bincount(which).tolist()
    assert len(np.unique(rows, axis=0)) == len(rows) == len(np.unique(wrong, axis=0))


def test_patterns_of_losses_that_are_not_0_or_1() -> None:
    wrong = np.array(list(itertools.product([0.0, 0.25, 1.0], repeat=2)) * 3)
    rows, which, count = patterns(wrong)
    np.testing.assert_array_equal(rows[which], wrong)
    assert count.tolist() == [3] * 9
