"""A network turned into what it answers, what it pools before that, and how much it multiplies."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from offramp.cascades.models.weights import described, listed
from offramp.features.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


FREE = {
    *("_to_copy", "clone", "copy", "cat", "stack", "constant_pad_nd", "roll", "index", "index_select", "gather"),
    *("empty", "empty_like", "zeros", "zeros_like", "ones", "full", "arange", "fill", "scalar_tensor", "lift_fresh"),
    *("new_zeros", "new_ones", "new_empty", "new_full", "as_strided", "hardswish"),
    *("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "cudnn_batch_norm"),
    *("native_layer_norm", "native_group_norm", "_batch_norm_no_update", "_fused_rms_norm", "linalg_vector_norm"),
    *("max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "mkldnn_max_pool2d"),
    *("mean", "sum", "amax", "amin", "max", "min", "argmax", "var", "var_mean", "std", "norm", "cumsum", "topk"),
    *("_softmax", "_log_softmax", "native_dropout", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"),
    *("reflection_pad2d", "replication_pad2d", "pixel_shuffle", "channel_shuffle", "native_channel_shuffle"),
    *("_unsafe_view", "_reshape_alias", "_reshape_copy", "_unsafe_index", "unfold", "im2col", "meshgrid", "repeat"),
    *("_assert_async", "_assert_scalar", "_local_scalar_dense", "linspace", "_upsample_bilinear2d_aa"),
}
"""Operations of torch that by convention cost no multiply-adds: moving, pooling, normalising. So do element-wise
ones. The underscore of those that work in place is left out."""


def checked_logits(output: object, classes: int, where: str = "") -> Tensor:
    """``output`` if it is a tensor (n, classes) of finite numbers; ``where`` names the model and the batch.

    On a GPU this waits for the result. Raises InputError that says what came out, or which rows are not finite.
    """
    import torch

    if not isinstance(output, torch.Tensor) or output.ndim != 2 or output.shape[1] != classes:
        raise InputError(f"logits, one tensor of shape (n, {classes})", described(output), where)
    if not output.is_floating_point():
        raise InputError("logits", f"numbers of kind {output.dtype}", where)
    # a sum is finite only if all is; it is one pass, and what overflows is looked at again
    if not torch.isfinite(output.sum()):
        rows = (~torch.isfinite(output)).any(dim=1).nonzero().flatten().tolist()
        if rows:
            raise InputError("finite logits", f"NaN or infinity in rows {listed([str(row) for row in rows])}", where)
    return output


def pooled_of(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (n, c) of a batch, and what went into the linear layer that made them: (n, m) pooled features.

    Raises InputError if the last linear layer that ran did not make the logits, as in a network that ends in a
    convolution.
    """
    from torch import nn

    seen: list[tuple[Tensor, object]] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        seen[:] = [(inputs[0], output)]

    hooks = [layer.register_forward_hook(keep) for layer in module.modules() if isinstance(layer, nn.Linear)]
    try:
        logits = module(x)
    finally:
        for hook in hooks:
            hook.remove()
    where = type(module).__name__
    if not seen or not _same(seen[0][1], logits):
        raise InputError("a network that ends in a linear layer, for pooled features", "one that does not", where)
    pooled = seen[0][0]
    if pooled.ndim != 2:
        raise InputError("pooled features of shape (n, m)", described(pooled), where)
    return logits, pooled


def _same(made: object, logits: object) -> bool:
    """Whether they are one piece of memory, looked at in one shape or another."""
    import torch

    if not isinstance(made, torch.Tensor) or not isinstance(logits, torch.Tensor):
        return False
    return made.data_ptr() == logits.data_ptr() and made.numel() == logits.numel()


@dataclass(frozen=True)
class Work:
    """Multiply-adds of one forward pass, and operations that may multiply but that nobody knows how to count."""

    multiply_adds: int
    uncounted: tuple[str, ...]


def count_work(module: nn.Module, shape: Sequence[int]) -> Work:
    """Count the multiplications with an addition in convolutions, linear layers and attention: one fused each.

    ``shape``: of the input, (channels, h, w) for one image or (n, channels, h, w) for a batch, which is counted whole.
    Moving, pooling, normalising and element-wise operations count nothing, as everywhere in the literature; other
    operations without a formula are named, never silently taken as free.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    strange: set[str] = set()

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            packet = func._overloadpacket
            free = torch.Tag.pointwise in func.tags or func.is_view or packet.__name__.removesuffix("_") in FREE
            known = free and func.namespace in ("aten", "prim", "prims")
            if not known and packet not in counter.flop_registry:
                strange.add(f"{func.namespace}.{packet.__name__}")
            return func(*args, **(kwargs or {}))

    first = next(module.parameters(), torch.zeros(0))
    image = torch.zeros(tuple(shape) if len(shape) == 4 else (1, *shape), device=first.device, dtype=first.dtype)
    fast = torch.backends.mha.get_fastpath_enabled()
    training = module.training
    # attention's fast path is one operation that has no formula
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), Watch(), counter:  # type: ignore[no-untyped-call]
            module.eval()(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        module.train(training)
    return Work(counter.get_total_flops() // 2, tuple(sorted(strange)))


def multiply_adds(module: nn.Module, shape: Sequence[int]) -> int:
    """Multiply-adds of one forward pass, one fused multiply-add counted as one; see ``count_work``.

    Warns of operations that cannot be counted: the true number may then be larger.
    """
    work = count_work(module, shape)
    if work.uncounted:
        which = listed(work.uncounted)
        warnings.warn(f"{type(module).__name__}: nobody knows the multiply-adds of {which}: none counted", stacklevel=2)
    return work.multiply_adds


def pick_device(name: str) -> torch.device:
    """The device that ``name`` means: "cpu", "cuda", "cuda:1", or "auto": cuda if there is one.

    Raises InputError for other names, and where there is no such GPU.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    asked = re.fullmatch(r"cuda(?::(\d+))?", name)
    if not asked:
        raise InputError("auto, cpu, cuda or cuda:N", repr(name), "device")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(asked[1] or 0) >= count:
        there = "no GPU that torch can use" if not count else f"cuda:0 to cuda:{count - 1}"
        raise InputError(f"a GPU {name}", there, "device")
    return torch.device(name)
