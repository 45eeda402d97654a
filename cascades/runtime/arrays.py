"""The array operations of columns and live decisions, on torch's tensors."""

from __future__ import annotations

from typing import Any

from offramp.features.arrays import Ops


def Torch() -> Ops:  # noqa: N802 - an ``Ops``, made late because of the import
    """The operations on torch's tensors, without a wait for the device in any of them."""
    import torch

    def const(value: Any, like: Any) -> Any:
        return torch.as_tensor(value, device=like.device)

    return Ops(
        const=const,
        exp=torch.exp,
        expm1=torch.expm1,
        scalar=float,
        log=torch.log,
        at_least=lambda x, low: torch.clamp_min(x, float(low)),
        no_less=torch.maximum,
        highest=lambda x: x.amax(1, keepdim=True),
        total=lambda x: x.sum(1, keepdim=True),
        summed=lambda x: x.sum(1),
        ranked=lambda x, ranks: torch.sort(x, dim=1, descending=True, stable=True).indices[:, :ranks],
        rising=lambda x: torch.sort(x, 1).values,
        pick=lambda x, index: x.gather(1, index[:, None])[:, 0],
        columns=lambda parts: torch.stack([part.float() for part in parts], dim=1),
        take=lambda x, index: x.index_select(1, index),
        dot=lambda a, b: (a * b).sum(1),
        number=lambda x: x.float(),
        joined=lambda parts: torch.cat(list(parts), 1),
        host=lambda x: x.cpu().numpy(),
        back=lambda value, like: torch.as_tensor(value, device=like.device),
    )
