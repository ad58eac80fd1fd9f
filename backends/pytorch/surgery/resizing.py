"""Gives layers another width in place, and finds out which others must follow by running the model.

Parameters stay the same objects with other shapes, so that an optimizer that has not taken a step stays valid, with
its groups. Their values are to be drawn anew.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autotrainer.backends.pytorch.model.functional import first_tensor
from autotrainer.errors import ConfigError

__all__ = ["followers_of", "set_inputs", "set_outputs", "shapes_of", "width_refusal"]

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_CONV = nn.modules.conv._ConvNd
_BATCH_NORMS = nn.modules.batchnorm._NormBase
_GATES = {"LSTM": 4, "LSTMCell": 4, "GRU": 3, "GRUCell": 3}


def width_refusal(module: nn.Module) -> str:
    """Say why the number of units of a layer can't be changed, or return an empty text."""
    if parametrize.is_parametrized(module):
        return "its weights are parametrized"
    if isinstance(module, _CONV):
        return "its channels are in groups" if module.groups != 1 else ""
    if isinstance(module, nn.RNNBase):
        return "it projects its states" if getattr(module, "proj_size", 0) else ""
    return "" if isinstance(module, nn.Linear | nn.RNNCellBase) else f"it is a {type(module).__name__}"


def set_outputs(module: nn.Module, units: int) -> None:
    """Give a layer that `width_refusal` allows another number of units."""
    if isinstance(module, nn.Linear):
        module.out_features = units
    elif isinstance(module, _CONV):
        module.out_channels = units
    else:
        directions = 2 if getattr(module, "bidirectional", False) else 1
        if units % directions:
            raise ConfigError(f"a layer of two directions can't have {units} units")
        module.hidden_size = units // directions  # type: ignore[assignment]
    _fit(module)


def set_inputs(module: nn.Module, width: int) -> None:
    """Give a layer another number of inputs: features, channels.

    Raises:
        ConfigError: If it can't have another one.
    """
    name = next((name for kinds, name in _INPUTS if isinstance(module, kinds)), None)
    if name is None or parametrize.is_parametrized(module) or getattr(module, "groups", 1) != 1:
        raise ConfigError(f"the width of a {type(module).__name__} is tied")
    if isinstance(module, nn.GroupNorm) and width % module.num_groups:
        raise ConfigError(f"{width} channels can't be normalized in {module.num_groups} groups")
    setattr(module, name, (width,) if name == "normalized_shape" else width)
    _fit(module)


_INPUTS: tuple[tuple[Any, str], ...] = (
    (nn.Linear, "in_features"),
    (_CONV, "in_channels"),
    (_RECURRENT, "input_size"),
    (_BATCH_NORMS, "num_features"),
    (nn.LayerNorm, "normalized_shape"),
    (nn.GroupNorm, "num_channels"),
)


def _fit(module: nn.Module) -> None:
    """Give parameters and buffers of a layer the shapes that go with its attributes."""
    for name, parameter in module.named_parameters(recurse=False):
        shape = _shape(module, name, parameter)
        if shape != tuple(parameter.shape):
            parameter.data = parameter.new_empty(shape)
            parameter.grad = None
    for name, buffer in module.named_buffers(recurse=False):
        setattr(module, name, buffer.new_empty(_shape(module, name, buffer)))
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()  # of normalizations: weights are drawn anew by whoever resizes
    if isinstance(module, nn.RNNBase):
        module.flatten_parameters()


def _shape(module: Any, name: str, tensor: Tensor) -> tuple[int, ...]:
    if isinstance(module, nn.Linear):
        return (module.out_features, module.in_features) if name == "weight" else (module.out_features,)
    if isinstance(module, _CONV):
        ends = (module.out_channels, module.in_channels)
        ends = ends[::-1] if module.transposed else ends
        return (*ends, *module.kernel_size) if name == "weight" else (module.out_channels,)
    if isinstance(module, _RECURRENT):
        return _recurrent_shape(module, name)
    width = getattr(module, "num_features", None) or getattr(module, "num_channels", None)
    width = width or module.normalized_shape[-1]
    return tuple(tensor.shape) if tensor.ndim == 0 else (width,)


def _recurrent_shape(module: Any, name: str) -> tuple[int, ...]:
    rows = _GATES.get(getattr(module, "mode", type(module).__name__), 1) * module.hidden_size
    if name.startswith("bias"):
        return (rows,)
    below = module.hidden_size * (2 if getattr(module, "bidirectional", False) else 1)
    first = not isinstance(module, nn.RNNBase) or name.startswith("weight_ih_l0")
    return rows, module.hidden_size if name.startswith("weight_hh") else module.input_size if first else below


def followers_of(
    model: nn.Module, units: Mapping[str, int], run: Callable[[nn.Module], Any], protection: Callable[[str], str]
) -> dict[str, int]:
    """Return the modules whose number of inputs changes with the units of others, by path, with that number.

    Args:
        model: The model; a copy of it is changed and run.
        units: Paths of the layers with other widths, and their numbers of units.
        run: Runs a model on a few samples.
        protection: Says why the module at a path must stay as it is, or returns an empty text.

    Raises:
        ConfigError: If widths are tied to something that can't follow, or the output would have another shape.
    """
    wanted = shapes_of(run(copy.deepcopy(model)))
    changed = copy.deepcopy(model)
    for path, number in units.items():
        set_outputs(changed.get_submodule(path), number)
    found: dict[str, int] = {}
    settled: set[int] = set()

    def follow(path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        known, width = _inputs(module), _width(module, first_tensor((args, kwargs), floating=True))
        if known is None or width is None:
            return
        if known != width:
            reason = protection(path) or ("it is used with several widths" if id(module) in settled else "")
            if reason:
                raise ConfigError(f"`{path}` would have to follow: {reason}")
            set_inputs(module, width)
            found[path] = width
        settled.add(id(module))

    for path, module in changed.named_modules():
        module.register_forward_pre_hook(
            lambda module, args, kwargs, path=path: follow(path, module, args, kwargs), with_kwargs=True
        )
    try:
        got = shapes_of(run(changed))
    except ConfigError:
        raise
    except Exception as error:  # whatever the user's model raises where shapes do not go together
        raise ConfigError(f"widths are tied: {str(error).strip().splitlines()[0] or type(error).__name__}") from error
    if got != wanted:
        raise ConfigError("the output would have another shape")
    return found


def shapes_of(value: Any) -> Any:
    """Return what a model returns with shapes in place of tensors."""
    return torch.utils._pytree.tree_map(lambda leaf: tuple(leaf.shape) if isinstance(leaf, Tensor) else None, value)


def _inputs(module: Any) -> int | None:
    """Return the number of inputs of a layer, or None where it takes any."""
    if isinstance(module, nn.MultiheadAttention):
        return int(module.embed_dim)
    for kinds, name in _INPUTS:
        if isinstance(module, kinds):
            value = getattr(module, name)
            return int(value[-1] if isinstance(value, tuple) else value)
    return None


def _width(module: nn.Module, given: Tensor | None) -> int | None:
    """Return how many inputs a layer is given."""
    if given is None:
        return None
    if isinstance(module, _CONV):
        return int(given.shape[-1 - len(module.kernel_size)])
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return int(given.shape[-module._get_no_batch_dim()])  # type: ignore[no-untyped-call]
    if isinstance(module, (_BATCH_NORMS, nn.GroupNorm)):
        return int(given.shape[1])
    return int(given.shape[-1])
