"""The exact pair of cuts against every pair there is; the knee and the grid of the paper; gates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.eval.papers.branchynet import knee, paper_grid
from offramp.features.outputs import Floats
from offramp.policies.cuts import best_pair
from offramp.policies.entropy import Entropy, own_column
from offramp.policies.gate import Gate
from offramp.policies.policy import Decision

PRICES = np.array([0.0, 0.1, 0.5, 2.0])


def lost(
    first: Floats, second: Floats, losses: tuple[Floats, ...], spent: tuple[float, float], price: float, cuts: Floats
) -> float:
    stops = first >= cuts[0]
    then = ~stops & (second >= cuts[1])
    there, last = losses[1] + price * spent[0], losses[2] + price * sum(spent)
    return float(np.where(stops, losses[0], np.where(then, there, last)).mean())


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 14), st.integers(1, 6), st.integers(0, 10**6))
def test_no_pair_of_cuts_is_better(n: int, values: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, values, n) / values, rng.integers(0, values, n) / values
    losses = (rng.integers(0, 2, n) * 1.0, rng.integers(0, 2, n) * 1.0, rng.integers(0, 2, n) * 1.0)
    spent = (float(rng.random()), float(rng.random()))
    cuts, value = best_pair(first, second, losses, spent, PRICES)
    for j, price in enumerate(PRICES):
        least = min(
            lost(first, second, losses, spent, price, np.array([one, two]))
            for one in (-np.inf, np.inf, *first)
            for two in (-np.inf, np.inf, *second)
        )
        assert value[j] == pytest.approx(least, abs=1e-9)
        assert lost(first, second, losses, spent, price, cuts[j]) == pytest.approx(least, abs=1e-9)


def test_free_exits_that_are_always_right_stop_everybody() -> None:
    score = np.linspace(0, 1, 50)
    right = np.zeros(50)
    cuts, value = best_pair(score, score, (right, right, right + 1), (1.0, 1.0), PRICES)
    assert (value == 0).all()
    assert (cuts[:, 0] <= score.min()).all()


def test_the_own_entropy_is_the_last_stage_s() -> None:
    assert own_column(("belief.entropy", "a.entropy", "g.entropy", "g.margin"), ".entropy") == 2
    assert own_column(("belief.entropy", "a.margin"), ".entropy") == 0


def decision(columns: tuple[str, ...], x: Floats, actions: int = 2) -> Decision:
    costs = np.zeros((len(x), actions, 1), np.float32)
    costs[:, 0, 0] = x[:, -1] > 0.5
    costs[:, 1:, 0] = 0.3
    return Decision(columns, x.astype(np.float32), costs, np.zeros((len(x), actions - 1), np.float32))


def test_an_entropy_policy_cuts_the_entropy() -> None:
    x = np.random.default_rng(0).random((40, 3))
    seen = decision(("belief.entropy", "a.margin", "b.entropy"), x)
    rules = Entropy().fit(seen)
    assert rules.name == ("b.entropy",)
    np.testing.assert_array_equal(rules.actions(seen.x)[:, 0], x[:, 2] > 0.5)


def test_a_gate_left_alone_stops_above_one_half() -> None:
    x = np.array([[0.0, -2.0], [0.0, -0.1], [0.0, 0.0], [9.0, 3.0]])
    for actions in (2, 3, 4):
        chosen = Gate(tuned=False).fit(decision(("belief.doubt", "a.gate"), x, actions)).actions(x)
        assert chosen[:, 0].tolist() == [1, 1, 0, 0]


def test_a_tuned_gate_moves_its_cut() -> None:
    gate = np.linspace(-3, 3, 60)
    seen = decision(("belief.doubt", "a.gate"), np.column_stack([np.zeros(60), gate]))
    seen.costs[:, 0, 0] = gate < 1.0  # stopping is right from 1 on
    np.testing.assert_array_equal(Gate().fit(seen).actions(seen.x)[:, 0], gate < 1.0)


def test_the_knee_lies_farthest_above_the_chord() -> None:
    cost, accuracy = np.array([5.0, 1.0, 2.0, 3.0, 4.0]), np.array([0.9, 0.5, 0.6, 0.85, 0.8])
    assert knee(cost, accuracy) == 3
    assert knee(np.array([2.0]), np.array([0.5])) == 0
    assert knee(np.array([2.0, 2.0]), np.array([0.4, 0.5])) == 1


def test_the_grid_has_every_combination() -> None:
    grid = paper_grid(2)
    assert len(grid) == len(np.unique(grid, axis=0)) == len(paper_grid(1)) ** 2
    assert {0.025, 1e-4, 0.05, 0.3, 0.2} <= set(grid[:, 0].tolist())  # those that the paper's knees lie at
