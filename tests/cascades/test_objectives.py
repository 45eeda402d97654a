"""Gates' recursion against every way there is, losses by hand, gradients against finite differences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch: install offramp[models]")

import torch

from offramp.cascades.training.objectives import (
    BranchOutputs,
    Objective,
    cross_entropies,
    distilled,
    exit_log_shares,
    expected,
    expected_cost,
    mixture,
    weighted,
)


def said(
    n: int = 5, k: int = 3, c: int = 4, seed: int = 0, dtype: object = torch.float32
) -> tuple[BranchOutputs, object]:
    generator = torch.Generator().manual_seed(seed)
    logits = [torch.randn(n, c, generator=generator, dtype=dtype) for _ in range(k)]
    gates = torch.randn(n, k - 1, generator=generator, dtype=dtype)
    return BranchOutputs(logits, gates), torch.randint(0, c, (n,), generator=generator)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_shares_are_those_of_all_ways_the_gates_can_fall(k: int) -> None:
    gates = torch.randn(7, k - 1, generator=torch.Generator().manual_seed(k))
    g = torch.sigmoid(gates).numpy()
    wanted = np.zeros((7, k))
    for way in itertools.product([True, False], repeat=k - 1):  # who stops first, whatever the later gates say
        chance = np.prod([g[:, b] if stop else 1 - g[:, b] for b, stop in enumerate(way)], axis=0)
        wanted[:, way.index(True) if True in way else k - 1] += chance
    np.testing.assert_allclose(exit_log_shares(gates).exp().numpy(), wanted, atol=1e-6)


def test_the_mixture_is_the_paper_s_recursion() -> None:
    spoken, labels = said()
    g = torch.sigmoid(spoken.gates)
    soft = torch.softmax(spoken.logits[-1], dim=1)
    for b in reversed(range(2)):
        soft = g[:, [b]] * torch.softmax(spoken.logits[b], dim=1) + (1 - g[:, [b]]) * soft
    wanted = -soft.log()[torch.arange(5), labels].mean()
    assert float(mixture(spoken, labels)) == pytest.approx(float(wanted), abs=1e-6)


def test_the_expected_cost_is_the_paper_s_recursion() -> None:
    spoken, _ = said()
    costs = torch.tensor([1.0, 3.0, 10.0])
    g, soft = torch.sigmoid(spoken.gates), costs[2].expand(5)
    for b in reversed(range(2)):
        soft = g[:, b] * costs[b] + (1 - g[:, b]) * soft
    assert float(expected_cost(spoken.gates, costs)) == pytest.approx(float(soft.mean()), abs=1e-5)


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_gates_that_are_sure_leave_one_exit(stop: int) -> None:
    spoken, labels = said()
    gates = torch.full((5, 2), -60.0)
    if stop < 2:
        gates[:, stop] = 60.0
    sure = BranchOutputs(spoken.logits, gates)
    own = float(cross_entropies(spoken, labels)[:, stop].mean())
    assert float(mixture(sure, labels)) == pytest.approx(own, abs=1e-5)
    assert float(expected(sure, labels)) == pytest.approx(own, abs=1e-5)
    assert float(expected_cost(gates, torch.tensor([1.0, 3.0, 10.0]))) == pytest.approx([1, 3, 10][stop])


def test_the_mixture_never_loses_more_than_is_expected() -> None:
    for seed in range(20):  # Jensen's inequality
        spoken, labels = said(seed=seed)
        assert float(mixture(spoken, labels)) <= float(expected(spoken, labels)) + 1e-6


def test_weights_by_hand() -> None:
    spoken, labels = said()
    each = [float(torch.nn.functional.cross_entropy(z, labels)) for z in spoken.logits]
    assert float(weighted(spoken, labels, (1.0, 0.0, 0.3))) == pytest.approx(each[0] + 0.3 * each[2], abs=1e-5)


def test_the_last_exit_learns_nothing_from_itself() -> None:
    spoken, _ = said()
    logits = [z.clone().requires_grad_() for z in spoken.logits]
    distilled(BranchOutputs(logits)).backward()
    assert logits[-1].grad is None
    assert all(float(z.grad.abs().sum()) > 0 for z in logits[:-1])
    assert float(distilled(BranchOutputs([spoken.logits[-1]] * 3))) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("loss", [mixture, expected])
def test_gradients_are_those_of_finite_differences(loss: object) -> None:
    spoken, labels = said(n=3, dtype=torch.float64)
    costs = torch.tensor([1.0, 3.0, 10.0], dtype=torch.float64)

    def total(gates: object, *logits: object) -> object:
        return loss(BranchOutputs(logits, gates), labels) + 0.1 * expected_cost(gates, costs)  # type: ignore[operator]

    inputs = (spoken.gates.requires_grad_(), *(z.requires_grad_() for z in spoken.logits))
    assert torch.autograd.gradcheck(total, inputs)


def test_an_objective_is_the_sum_of_its_parts() -> None:
    spoken, labels = said()
    costs = (1.0, 3.0, 10.0)
    whole = Objective((0.5, 0.0, 1.0), "expected", 0.2, costs, 0.7)
    parts = (
        weighted(spoken, labels, (0.5, 0.0, 1.0))
        + expected(spoken, labels)
        + 0.2 * expected_cost(spoken.gates, torch.tensor(costs))
        + 0.7 * distilled(spoken)
    )
    assert float(whole(spoken, labels)) == pytest.approx(float(parts), abs=1e-5)
    assert float(Objective((0.0, 0.0, 0.0))(spoken, labels)) == 0
