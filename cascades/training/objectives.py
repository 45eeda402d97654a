"""What several exits say, and what their gates say, turned into one number to be made small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


def wide(x: Tensor) -> Tensor:
    """In single precision at least."""
    return x if x.dtype == torch.float64 else x.float()


TEMPERATURE = 3.0
"""At which exits learn from the last one's answers (Hinton et al., 2015)."""


@dataclass(frozen=True)
class BranchOutputs:
    """What k exits say on n examples: ``logits`` k of (n, c); ``gates`` (n, k - 1) log odds of stopping, or None."""

    logits: Sequence[Tensor]
    gates: Tensor | None = None


def exit_log_shares(gates: Tensor) -> Tensor:
    """(n, k) log of the chance to stop at each exit, for gates (n, k - 1): pi_b = g_b * prod_{j<b} (1 - g_j).

    >>> exit_log_shares(torch.zeros(1, 2)).exp().tolist()
    [[0.5, 0.25, 0.25]]
    """
    going = functional.logsigmoid(-gates).cumsum(dim=1)
    before = functional.pad(going, (1, 0))
    stop = functional.pad(functional.logsigmoid(gates), (0, 1))  # at the last exit everybody stops
    return stop + before


def cross_entropies(said: BranchOutputs, labels: Tensor) -> Tensor:
    """(n, k) cross-entropy of every exit's answer."""
    return torch.stack([functional.cross_entropy(wide(z), labels, reduction="none") for z in said.logits], dim=1)


def weighted(said: BranchOutputs, labels: Tensor, weights: Sequence[float]) -> Tensor:
    """Sum over exits of weight times mean cross-entropy (BranchyNet; as a term, deep supervision)."""
    means = cross_entropies(said, labels).mean(dim=0)
    return means @ labels.new_tensor(weights, dtype=means.dtype)


def mixture(said: BranchOutputs, labels: Tensor) -> Tensor:
    """Cross-entropy of the soft answer s_1, where s_b = g_b f_b + (1 - g_b) s_{b+1} (Scardapane et al., 2020).

    With f_b probabilities, s_1 is the mixture of all exits' by the chances to stop there; here in logarithms.
    """
    assert said.gates is not None
    likelihood = exit_log_shares(wide(said.gates)) - cross_entropies(said, labels)
    return -likelihood.logsumexp(dim=1).mean()


def expected(said: BranchOutputs, labels: Tensor) -> Tensor:
    """Mean over examples and over where they stop of the cross-entropy there: sum_b pi_b * crossentropy_b."""
    assert said.gates is not None
    shares = exit_log_shares(wide(said.gates)).exp()
    return (shares * cross_entropies(said, labels)).sum(dim=1).mean()


def expected_cost(gates: Tensor, costs: Tensor) -> Tensor:
    """Mean of what it costs to stop where the gates (n, k - 1) say, for ``costs`` (k,) of stopping at each exit."""
    shares = exit_log_shares(wide(gates)).exp()
    return (shares @ costs.to(shares.dtype)).mean()


def distilled(said: BranchOutputs) -> Tensor:
    """Mean over the earlier exits of the divergence from the last one's softened answers, which learns nothing here."""
    teacher = functional.log_softmax(wide(said.logits[-1].detach()) / TEMPERATURE, dim=1)
    parts = [
        functional.kl_div(
            functional.log_softmax(wide(z) / TEMPERATURE, dim=1), teacher, reduction="batchmean", log_target=True
        )
        for z in said.logits[:-1]
    ]
    return torch.stack(parts).mean() * TEMPERATURE**2


GATED: dict[str, Callable[[BranchOutputs, Tensor], Tensor]] = {"mixture": mixture, "expected": expected}
"""Losses of gates by name."""


@dataclass(frozen=True)
class Objective:
    """What training makes small: the sum of what is switched on.

    ``weights`` (k,) of the exits' own losses (all zero: none); ``gated`` a name of GATED, or empty; ``price`` times
    the gates' expected cost, by ``costs`` (k,) of stopping at each exit; ``distill`` times ``distilled``.
    """

    weights: tuple[float, ...]
    gated: str = ""
    price: float = 0.0
    costs: tuple[float, ...] = ()
    distill: float = 0.0

    def __call__(self, said: BranchOutputs, labels: Tensor) -> Tensor:
        """The mean over n examples."""
        total = wide(said.logits[-1].new_zeros(()))
        if any(self.weights):
            total = total + weighted(said, labels, self.weights)
        if self.gated:
            total = total + GATED[self.gated](said, labels)
        if self.gated and self.price:
            assert said.gates is not None
            total = total + self.price * expected_cost(said.gates, labels.new_tensor(self.costs, dtype=torch.float32))
        if self.distill:
            total = total + self.distill * distilled(said)
        return total
