"""Operations of one forward pass, counted from the shapes of layers' inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from autotrainer.backends.pytorch.runtime.random_state import preserve_random_state
from autotrainer.backends.pytorch.runtime.tensors import first_tensor
from autotrainer.backends.pytorch.runtime.torch_private import Conv, ConvTranspose

__all__ = ["count_operations", "undisturbed"]


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode without gradients; restore modes, buffers and random states at the end."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers() if not _lazy(buffer)]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)  # it bypasses the layers inside
        with preserve_random_state(), torch.no_grad():
            model.eval()
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, values in buffers:
                buffer.copy_(values)


def count_operations(model: nn.Module, forward: Callable[[], Any], rows: int) -> float:
    """Return the multiply-adds of one forward pass of one sample.

    Dense, convolutional, recurrent and attention layers count their multiply-adds; any other module counts one
    operation for each of its direct parameters. Depends on shapes alone, so it is the same on every machine.

    Args:
        model: The model; run once, and left as it was.
        forward: Runs it on a few samples.
        rows: Number of those samples.

    Returns:
        Operations, >= 1.
    """
    total = 0.0

    def add(module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        nonlocal total
        total += _operations(module, inputs or tuple(kwargs.values()), output, rows)

    in_attention = {
        part for m in model.modules() if isinstance(m, nn.MultiheadAttention) for part in m.modules() if part is not m
    }
    handles = [
        module.register_forward_hook(add, with_kwargs=True) for module in model.modules() if module not in in_attention
    ]
    try:
        with undisturbed(model):
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return max(1.0, total / max(rows, 1))


def _operations(module: nn.Module, inputs: tuple[Any, ...], output: Any, rows: int) -> float:
    parameters = sum(p.numel() for p in module.parameters(recurse=False) if not _lazy(p))
    result = first_tensor(output, floating=True)
    argument = first_tensor(inputs)
    if result is None:
        return float(parameters * rows)
    if isinstance(module, nn.Linear):
        return float(result.numel() * module.in_features)
    if isinstance(module, ConvTranspose):
        return float((argument.numel() if argument is not None else rows) * module.weight[0].numel())
    if isinstance(module, Conv):
        return float(result.numel() * module.weight[0].numel())
    if isinstance(module, nn.RNNBase):
        steps = argument.shape[:-1].numel() if argument is not None else rows
        return float(steps * parameters)
    if isinstance(module, nn.MultiheadAttention):
        tokens = result.shape[:-1].numel()
        width = module.embed_dim
        return float(tokens * width * (4 * width + 2 * tokens / max(rows, 1)))
    return float(parameters * rows)


def _lazy(tensor: Tensor) -> bool:
    return isinstance(tensor, UninitializedParameter | UninitializedBuffer)
