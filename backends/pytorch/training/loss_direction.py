"""Whether a custom loss draws outputs towards binary targets, or away from them, as that of a distance."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from autotrainer.backends.pytorch.data.loss_use import MOST_PARAMETERS
from autotrainer.backends.pytorch.runtime.random_state import preserve_random_state

__all__ = ["is_of_distance"]


def is_of_distance(loss_fn: Any) -> bool:
    """Return whether a custom loss is lower where outputs are low for targets of 1 and high for those of 0.

    Args:
        loss_fn: Loss module or function; False for what can't be called with outputs and targets of shape (8, 1).
    """
    if hasattr(loss_fn, "__self__") or hasattr(loss_fn, "_torchdynamo_orig_callable"):
        return False  # a method may change its object, and a compiled function would be compiled for these shapes
    if isinstance(loss_fn, nn.Module) and sum(p.numel() for p in loss_fn.parameters()) > MOST_PARAMETERS:
        return False
    targets = torch.tensor([[0.0], [1.0]]).repeat(4, 1)
    try:
        with torch.no_grad(), preserve_random_state():
            if isinstance(loss_fn, nn.Module):
                loss_fn = copy.deepcopy(loss_fn)  # it may count its calls
            least, most = (loss_fn(0.1 + 0.8 * values, targets).mean().item() for values in (1 - targets, targets))
    except Exception:  # noqa: BLE001 - it takes other shapes, or more arguments, or has weights on a device
        return False
    return bool(least < most)
