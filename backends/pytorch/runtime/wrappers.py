"""Takes off what other libraries wrap around models and optimizers, without importing these libraries."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from autotrainer.backends.pytorch.runtime.torch_private import has_step_hooks

__all__ = ["unwrap_model", "unwrap_optimizer"]

_MOST_WRAPPERS = 8


def unwrap_model(model: Any) -> Any:
    """Return the module that a wrapper such as ``_FabricModule`` calls; any other object as it is.

    `DistributedDataParallel` and `DataParallel` stay: their calls are those of the training.
    """
    for _ in range(_MOST_WRAPPERS):
        inner = _attribute(model, "module")
        if not isinstance(inner, nn.Module) or not isinstance(_attribute(model, "_forward_module"), nn.Module):
            break
        if {id(p) for p in inner.parameters()} != {id(p) for p in model.parameters()}:
            break
        model = inner
    return model


def unwrap_optimizer(optimizer: Any) -> Any:
    """Return the optimizer whose step a wrapper calls, such as accelerate's and Lightning's; any other object as it is.

    A wrapper has the attribute ``optimizer``, an optimizer of the same parameters. One that runs step hooks itself
    stays, as it may do more than the step of the other.
    """
    for _ in range(_MOST_WRAPPERS):
        inner = _attribute(optimizer, "optimizer")
        if not isinstance(inner, Optimizer) or isinstance(optimizer, LRScheduler):
            break
        if _parameters(inner) != _parameters(optimizer) or has_step_hooks(optimizer, inner):
            break
        optimizer = inner
    return optimizer


def _attribute(value: Any, name: str) -> Any:
    try:
        return getattr(value, name, None)
    except Exception:  # noqa: BLE001 - a property of another library
        return None


def _parameters(optimizer: Any) -> set[int] | None:
    groups = _attribute(optimizer, "param_groups")
    if not isinstance(groups, list):
        return None
    return {id(parameter) for group in groups for parameter in group["params"]}
