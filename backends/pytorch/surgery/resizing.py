"""Changes the width of layers in place, and finds the layers that must follow by running the model.

Parameters stay the same objects with other shapes, so an optimizer that has not taken a step stays valid, with its
groups. Their values have to be reinitialized afterwards.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autotrainer.backends.pytorch.runtime.tensors import first_tensor
from autotrainer.backends.pytorch.runtime.torch_private import Conv, InstanceNorm, RunningNorm, map_tree
from autotrainer.errors import ConfigError

__all__ = ["followers_of", "resize_output", "set_inputs", "set_outputs", "shapes_of", "width_refusal"]

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_GATES = {"LSTM": 4, "LSTMCell": 4, "GRU": 3, "GRUCell": 3}


def width_refusal(module: nn.Module) -> str:
    """Return why the number of units of a layer can't be changed; or an empty string."""
    if parametrize.is_parametrized(module):
        return "its weights are parametrized"
    if isinstance(module, Conv):
        return "its channels are in groups" if module.groups != 1 else ""
    if isinstance(module, nn.RNNBase):
        return "it projects its states" if getattr(module, "proj_size", 0) else ""
    return "" if isinstance(module, nn.Linear | nn.RNNCellBase) else f"it is a {type(module).__name__}"


def set_outputs(module: nn.Module, units: int) -> None:
    """Set the number of units of a layer that `width_refusal` accepts."""
    if isinstance(module, nn.Linear):
        module.out_features = units
    elif isinstance(module, Conv):
        module.out_channels = units
    else:
        directions = 2 if getattr(module, "bidirectional", False) else 1
        if units % directions:
            raise ConfigError(f"a bidirectional layer can't have {units} units: the number must be even")
        module.hidden_size = units // directions  # type: ignore[assignment]
    _resize_tensors(module)


def set_inputs(module: nn.Module, width: int) -> None:
    """Set the number of inputs (features or channels) of a layer.

    Raises:
        ConfigError: If that number is fixed.
    """
    name = next((name for classes, name in _INPUT_ATTRIBUTES if isinstance(module, classes)), None)
    if name is None or parametrize.is_parametrized(module) or getattr(module, "groups", 1) != 1:
        raise ConfigError(f"the width of a {type(module).__name__} is fixed")
    if isinstance(module, nn.GroupNorm) and width % module.num_groups:
        raise ConfigError(f"{width} channels can't be normalized in {module.num_groups} groups")
    setattr(module, name, (width,) if name == "normalized_shape" else width)
    _resize_tensors(module)


_INPUT_ATTRIBUTES: tuple[tuple[Any, str], ...] = (
    (nn.Linear, "in_features"),
    (Conv, "in_channels"),
    (_RECURRENT, "input_size"),
    (RunningNorm, "num_features"),
    (nn.LayerNorm, "normalized_shape"),
    (nn.GroupNorm, "num_channels"),
)


def _resize_tensors(module: nn.Module) -> None:
    """Give parameters and buffers of a layer the shapes that its attributes ask for."""
    for name, parameter in module.named_parameters(recurse=False):
        shape = _shape(module, name, parameter)
        if shape != tuple(parameter.shape):
            parameter.data = parameter.new_empty(shape)
            parameter.grad = None
    for name, buffer in module.named_buffers(recurse=False):
        setattr(module, name, buffer.new_empty(_shape(module, name, buffer)))
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()  # for normalization layers; other weights are reinitialized by the caller
    if isinstance(module, nn.RNNBase):
        module.flatten_parameters()


def _shape(module: Any, name: str, tensor: Tensor) -> tuple[int, ...]:
    if isinstance(module, nn.Linear):
        return (module.out_features, module.in_features) if name == "weight" else (module.out_features,)
    if isinstance(module, Conv):
        channels = (module.out_channels, module.in_channels)
        channels = channels[::-1] if module.transposed else channels
        return (*channels, *module.kernel_size) if name == "weight" else (module.out_channels,)
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


@torch.no_grad()
def resize_output(module: nn.Module, units: int) -> None:
    """Set the number of units of the layer that makes the output, and initialize the new ones as the layer does.

    If there are several before and after, those that remain keep their weights.
    """
    axis = 1 if getattr(module, "transposed", False) else 0
    before = {name: p.detach().clone() for name, p in module.named_parameters(recurse=False)}
    set_outputs(module, units)
    for name, parameter in module.named_parameters(recurse=False):
        along = axis if parameter.ndim > 1 else 0
        kept = min(units, before[name].shape[along])
        if kept > 1:
            parameter.narrow(along, 0, kept).copy_(before[name].narrow(along, 0, kept))


def followers_of(
    model: nn.Module,
    units: Mapping[str, int],
    run: Callable[[nn.Module], Any],
    protection: Callable[[str], str],
    fits: Callable[[Any, Any], bool] = operator.eq,
) -> dict[str, int]:
    """Return the modules whose number of inputs changes with the units of others, by path, with that number.

    Args:
        model: The model; a copy of it is changed and run.
        units: New numbers of units, by the paths of the layers.
        run: Runs a model on a few samples.
        protection: Says why the module at a path must stay as it is, or returns an empty string.
        fits: Returns whether the output may change from one shape to another; see `shapes_of`.

    Raises:
        ConfigError: If a layer that would have to follow can't, or the output would have a shape that does not fit.
    """
    expected_shapes = shapes_of(run(copy.deepcopy(model)))
    changed = copy.deepcopy(model)
    for path, number in units.items():
        set_outputs(changed.get_submodule(path), number)
    followers: dict[str, int] = {}
    visited: set[int] = set()

    def follow(path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs, width = _inputs(module), _given_width(module, first_tensor((args, kwargs), floating=True))
        if inputs is None or width is None:
            return
        if inputs != width:
            reason = protection(path) or ("it is used with several widths" if id(module) in visited else "")
            if reason:
                raise ConfigError(f"`{path}` would have to follow: {reason}")
            set_inputs(module, width)
            followers[path] = width
        visited.add(id(module))

    for path, module in changed.named_modules():
        module.register_forward_pre_hook(
            lambda module, args, kwargs, path=path: follow(path, module, args, kwargs), with_kwargs=True
        )
    try:
        shapes = shapes_of(run(changed))
    except ConfigError:
        raise
    except Exception as error:  # whatever the user's model raises for shapes that do not fit
        raise ConfigError(
            f"other widths do not fit: {str(error).strip().splitlines()[0] or type(error).__name__}"
        ) from error
    if not fits(expected_shapes, shapes):
        raise ConfigError("the output would have another shape")
    return followers


def shapes_of(value: Any) -> Any:
    """Return a model's output with shapes in place of tensors."""
    return map_tree(lambda leaf: tuple(leaf.shape) if isinstance(leaf, Tensor) else None, value)


def _inputs(module: Any) -> int | None:
    """Return the number of inputs that a layer takes, or None if it takes any."""
    if isinstance(module, nn.MultiheadAttention):
        return int(module.embed_dim)
    for classes, name in _INPUT_ATTRIBUTES:
        if isinstance(module, classes):
            value = getattr(module, name)
            return int(value[-1] if isinstance(value, tuple) else value)
    return None


def _given_width(module: nn.Module, tensor: Tensor | None) -> int | None:
    """Return how many inputs a layer receives."""
    if tensor is None:
        return None
    if isinstance(module, Conv):
        return int(tensor.shape[-1 - len(module.kernel_size)])
    if isinstance(module, InstanceNorm):
        return int(tensor.shape[-module._get_no_batch_dim()])  # type: ignore[no-untyped-call]
    if isinstance(module, (RunningNorm, nn.GroupNorm)):
        return int(tensor.shape[1])
    return int(tensor.shape[-1])
