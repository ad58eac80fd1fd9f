"""Device and floating-point type of a model."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["device_of", "dtype_of"]


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model: that of its first parameter or buffer, else the CPU."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the floating-point type of a model: that of its first floating-point parameter, else the default."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    return torch.get_default_dtype()
