"""Copies models, optimizers and losses together to the host and back, so that only what trains is on the device."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from autotrainer.errors import InputError

__all__ = ["Devices", "copied", "copied_to_host", "is_large", "is_remote"]

_LARGEST = 1 << 30
"""Bytes of parameters and buffers up to which a model is copied at the ends of epochs: with Adam three times as much
goes to the host, for which an epoch of such a model leaves time."""

Devices = Mapping[Tensor, torch.device]
"""Where copies of the tensors of a host copy belong. Tensors are keys by identity, and stay alive as such."""


def is_remote(tensor: Tensor) -> bool:
    """Say whether a tensor's memory is not the host's."""
    return tensor.device.type not in ("cpu", "meta")


def is_large(model: nn.Module) -> bool:
    """Say whether a model takes too much memory to be copied at the ends of epochs."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > _LARGEST


def copied_to_host(objects: Sequence[Any]) -> tuple[Any, Devices]:
    """Copy modules and optimizers together, links between them kept, with their tensors in host memory.

    Parameters, buffers and states of optimizers count; tensors of the user's own classes and plain attributes stay
    where they are, and so does all of a model that has lazy parameters.

    Args:
        objects: Modules, optimizers, and None.

    Returns:
        The copies, and where their tensors came from.

    Raises:
        InputError: If one can't be copied.
    """
    tensors = list(_tensors(objects))
    lazy = any(isinstance(tensor, UninitializedParameter) for tensor in tensors)
    remote = [] if lazy else [t for t in tensors if type(t) in (nn.Parameter, Tensor) and is_remote(t)]
    memo: dict[int, Any] = {id(tensor): _moved(tensor, torch.device("cpu")) for tensor in remote}
    devices = {memo[id(tensor)]: tensor.device for tensor in remote}
    return _deepcopied(objects, memo), devices


def copied(objects: Any, devices: Devices) -> Any:
    """Copy what `copied_to_host` returned, to where it came from.

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


def _culprit(objects: Any) -> str:
    """Say which attribute of which module can't be copied, if one can't by itself."""
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
        made = copy.deepcopy(objects, memo)
    except (RuntimeError, TypeError, NotImplementedError, AttributeError) as error:
        reason = str(error).split("  If you", 1)[0].rstrip(".")  # torch goes on about other causes
        raise InputError(
            f"the model (or its optimizer or loss) can't be copied{_culprit(objects)}: {reason}. Give a callable that "
            "builds the model instead, and optimizer=callable(params)"
        ) from error
    for one in made:
        if isinstance(one, torch.optim.LBFGS):  # its copies lack what its constructor derives from the groups
            one._params, one._numel_cache = one.param_groups[0]["params"], None
    return made
