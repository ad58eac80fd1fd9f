"""Copies of models, optimizers and losses in host memory, so that only the present training is on the device."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from autotrainer.backends.pytorch.runtime.torch_private import refresh_lbfgs
from autotrainer.errors import InputError

__all__ = ["Devices", "copied", "copied_to_host", "is_large", "is_remote"]

_LARGEST = 1 << 30
"""Bytes of parameters and buffers up to which a model is copied at the end of an epoch. With Adam three times as much
is transferred to the host; an epoch of a model of this size takes much longer than that."""

Devices = Mapping[Tensor, torch.device]
"""Original device of each tensor of a host copy. The tensors are keys by identity, which also keeps them alive."""


def is_remote(tensor: Tensor) -> bool:
    """Return whether a tensor is in the memory of another device than the host."""
    return tensor.device.type not in ("cpu", "meta")


def is_large(model: nn.Module) -> bool:
    """Return whether a model is too large to be copied at the end of each epoch."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > _LARGEST


def copied_to_host(objects: Sequence[Any]) -> tuple[Any, Devices]:
    """Copy modules and optimizers together into host memory; links between them are preserved.

    Moves parameters, buffers and optimizer states. Custom tensor classes and tensors in plain attributes keep their
    device, as does everything in a model with lazy parameters.

    Args:
        objects: Modules, optimizers, and None.

    Returns:
        The copies, and the original devices of their tensors.

    Raises:
        InputError: If one of them can't be copied.
    """
    tensors = list(_tensors(objects))
    lazy = any(isinstance(tensor, UninitializedParameter) for tensor in tensors)
    remote = [] if lazy else [t for t in tensors if type(t) in (nn.Parameter, Tensor) and is_remote(t)]
    memo: dict[int, Any] = {id(tensor): _moved(tensor, torch.device("cpu")) for tensor in remote}
    devices = {memo[id(tensor)]: tensor.device for tensor in remote}
    return _deepcopied(objects, memo), devices


def copied(objects: Any, devices: Devices) -> Any:
    """Copy what `copied_to_host` returned back to its original devices.

    Raises:
        InputError: If something can't be copied.
    """
    memo: dict[int, Any] = {id(t): _moved(t, devices[t]) for t in _tensors(objects) if t in devices}
    return _deepcopied(objects, memo)


def _tensors(objects: Sequence[Any]) -> Iterator[Tensor]:
    for item in objects:
        if isinstance(item, nn.Module):
            yield from item.parameters()
            yield from item.buffers()
        elif isinstance(item, Optimizer):
            for state in item.state.values():
                yield from (value for value in state.values() if isinstance(value, Tensor))


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    copy_ = tensor.detach().to(device, copy=True)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copy_, requires_grad=tensor.requires_grad)
    return copy_.requires_grad_(tensor.requires_grad)


def _uncopyable_attribute(objects: Any) -> str:
    """Return a clause that names the attribute which can't be copied; empty if each can by itself."""
    for module in (m for item in objects if isinstance(item, nn.Module) for m in item.modules()):
        for name, value in vars(module).items():
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            try:
                copy.deepcopy(value)
            except (RuntimeError, TypeError, NotImplementedError, AttributeError):
                return f", because of `{name}` of {type(module).__name__}"
    return ""


def _deepcopied(objects: Any, memo: dict[int, Any]) -> Any:
    try:
        copies = copy.deepcopy(objects, memo)
    except (RuntimeError, TypeError, NotImplementedError, AttributeError) as error:
        reason = str(error).split("  If you", 1)[0].rstrip(".")  # the rest is about other causes
        raise InputError(
            f"the model (or its optimizer or loss) can't be copied{_uncopyable_attribute(objects)}: {reason}. "
            "Give a callable that builds the model instead, and optimizer=callable(params)"
        ) from error
    for item in copies:
        if isinstance(item, torch.optim.LBFGS):
            refresh_lbfgs(item)
    return copies
