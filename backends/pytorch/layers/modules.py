"""Modules that edits put into a model. They can be pickled, copied and moved between devices like any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autotrainer.edits import ScaleTargets
from autotrainer.edits.data import LARGEST_LOGARITHM
from autotrainer.errors import ConfigError, nearest

__all__ = [
    "ColumnScaling",
    "Followed",
    "InputNoise",
    "InputScaling",
    "LabelColumns",
    "LogarithmicTargetScaling",
    "OutputActivation",
    "Residual",
    "TargetScaling",
    "Wrapped",
    "Wrapper",
    "make_activation",
    "on_first_floating",
    "target_scaling",
]

_ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "selu": nn.SELU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "thresholded_relu": lambda: nn.Threshold(1.0, 0.0),
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def make_activation(name: str, *, axis: int = -1) -> nn.Module:
    """Return an activation module by its name in edits; ``axis`` is the class axis, for ``softmax``.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name == "softmax":
        return nn.Softmax(dim=axis)
    if name not in _ACTIVATIONS:
        raise ConfigError(f"unknown activation {name!r}: {nearest(name, (*_ACTIVATIONS, 'softmax'))}")
    return _ACTIVATIONS[name]()


def on_first_floating(function: Callable[[Tensor], Tensor], value: Any) -> tuple[Any, bool]:
    """Apply a function to the first floating-point tensor in nested tuples, lists and dicts.

    Returns:
        The value with that tensor changed, and whether there was one.
    """
    if isinstance(value, Tensor):
        return (function(value), True) if value.is_floating_point() else (value, False)
    if isinstance(value, Mapping):
        items, done = on_first_floating(function, list(value.values()))
        return (dict(zip(value, items, strict=True)), True) if done else (value, False)
    if not isinstance(value, tuple | list):
        return value, False
    for position, item in enumerate(value):
        changed, done = on_first_floating(function, item)
        if done:
            items = [*value[:position], changed, *value[position + 1 :]]
            return (items if isinstance(value, list) else tuple(items)), True
    return value, False


class Wrapper(nn.Module):
    """A whole model inside another module; its layers keep their names, with the prefix ``module.``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    @property
    def model(self) -> nn.Module:
        """The wrapped model."""
        return self.module


class _InputChange(Wrapper):
    """A model whose first floating-point input is transformed."""

    def change(self, values: Tensor) -> Tensor:
        """Return the inputs for the wrapped model."""
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the wrapped model on the changed inputs."""
        args, done = on_first_floating(self.change, args)
        if not done:
            kwargs, _ = on_first_floating(self.change, kwargs)
        return self.module(*args, **kwargs)


class InputScaling(_InputChange):
    """A model that standardizes its inputs: (x - mean) / std.

    Args:
        module: The model.
        mean: Means, one for each feature (last axis), or a single one.
        std: Standard deviations, of the same length, > 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(module)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float64))

    def change(self, values: Tensor) -> Tensor:
        """Return the standardized inputs, in their original type."""
        wide = _at_least_single(values)
        return ((wide - self.mean.to(wide.dtype)) / self.std.to(wide.dtype)).to(values.dtype)


class ColumnScaling(InputScaling):
    """A model whose inputs are scaled column by column: (t(x) - mean) / std, where t is a logarithm or nothing.

    Args:
        module: The model.
        mean: Means, one for each feature (last axis).
        std: Standard deviations, of the same length, > 0.
        log_center: Centers of the logarithms asinh((x - center) / scale); or empty.
        log_scale: Their scales, 0 for features without; or empty.
        dropped: Features that are always 0.
        missing: Column, number that stands for missing values in it, and what takes its place in the scaled inputs.
    """

    missing: Sequence[tuple[int, float, float]] = ()
    log_center: Tensor
    log_scale: Tensor
    kept: Tensor

    def __init__(
        self,
        module: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        log_center: Sequence[float] = (),
        log_scale: Sequence[float] = (),
        dropped: Sequence[int] = (),
        missing: Sequence[tuple[int, float, float]] = (),
    ) -> None:
        super().__init__(module, mean, std)
        if missing:
            self.missing = tuple(missing)
        none = [0.0] * len(mean)
        self.register_buffer("log_center", torch.tensor(list(log_center) or none, dtype=torch.float64))
        self.register_buffer("log_scale", torch.tensor(list(log_scale) or none, dtype=torch.float64))
        self.register_buffer("kept", torch.tensor([column not in dropped for column in range(len(mean))]))

    def change(self, values: Tensor) -> Tensor:
        """Return the scaled inputs, in their original type."""
        logarithmic = self.log_scale > 0
        scale = torch.where(logarithmic, self.log_scale, 1.0)
        wide = _at_least_single(values)
        coded, fills = torch.zeros_like(wide, dtype=torch.bool), torch.zeros_like(wide)
        for column, code, fill in self.missing:
            found = values[..., column] == values.new_tensor(code)
            coded[..., column] |= found
            fills[..., column] = torch.where(found, fill, fills[..., column])
        wide = torch.where(coded, torch.zeros_like(wide), wide)
        logarithms = torch.asinh((wide - self.log_center.to(wide.dtype)) / scale.to(wide.dtype))
        scaled = super().change(torch.where(logarithmic, logarithms, wide))
        scaled = torch.where(coded, fills, scaled)
        return torch.where(self.kept, scaled, torch.zeros_like(scaled)).to(values.dtype)


def _at_least_single(values: Tensor) -> Tensor:
    """Return values in single or double precision: half precision has too small a range for scaling."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class InputNoise(_InputChange):
    """A model that adds Gaussian noise to its inputs in training mode.

    Args:
        module: The model.
        std: Standard deviation of the noise, in units of that of the batch: per feature for inputs of rank 2,
            over all values otherwise.
    """

    def __init__(self, module: nn.Module, std: float) -> None:
        super().__init__(module)
        self.std = std

    def change(self, values: Tensor) -> Tensor:
        """Return the inputs with noise; unchanged in evaluation mode."""
        if not self.training:
            return values
        scale = values.std(0, correction=0) if values.ndim == 2 else values.std(correction=0)
        return values + self.std * scale * torch.randn_like(values)

    def extra_repr(self) -> str:
        """Return the options that ``print`` shows."""
        return f"std={self.std}"


class OutputActivation(Wrapper):
    """A model with an activation behind its output.

    Args:
        module: The model; must return a tensor.
        activation: The activation.
    """

    def __init__(self, module: nn.Module, activation: nn.Module) -> None:
        super().__init__(module)
        self.activation = activation

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the wrapped model, then the activation."""
        output: Tensor = self.activation(self.module(*args, **kwargs))
        return output


class TargetScaling(Wrapper):
    """A model that is trained on standardized targets and predicts in their original units: output * std + mean.

    Args:
        module: The model; must return a tensor.
        mean: Means of the targets, one for each column (last axis), or a single one.
        std: Standard deviations, of the same length, > 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(module)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float64))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the wrapped model, and convert its output to the units of the targets."""
        output: Tensor = self.module(*args, **kwargs)
        output = _at_least_single(output)
        return output * self.std.to(output.dtype) + self.mean.to(output.dtype)


class LogarithmicTargetScaling(TargetScaling):
    """A `TargetScaling` of targets on a logarithmic scale: center + scale · sinh(output * std + mean).

    In evaluation mode the outputs are limited: errors of extrapolation would grow exponentially.

    Args:
        module: The model; must return a tensor.
        edit: The edit, with fitted numbers.
    """

    log_center: Tensor
    log_scale: Tensor
    log_reach: Tensor

    def __init__(self, module: nn.Module, edit: ScaleTargets) -> None:
        super().__init__(module, edit.mean, edit.std)
        for name in ("log_center", "log_scale", "log_reach"):
            self.register_buffer(name, torch.tensor(getattr(edit, name), dtype=torch.float64))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the wrapped model, and convert its output to the units of the targets."""
        output: Tensor = self.module(*args, **kwargs)
        output = _at_least_single(output)
        mean, std, center, scale, reach = (
            numbers.to(output.dtype)
            for numbers in (self.mean, self.std, self.log_center, self.log_scale, self.log_reach)
        )
        limited = output if self.training else torch.maximum(torch.minimum(output, reach), -reach)
        logarithms = (limited * std + mean).clamp(-LARGEST_LOGARITHM, LARGEST_LOGARITHM)
        return torch.where(scale > 0, center + scale * torch.sinh(logarithms), output * std + mean)


def target_scaling(module: nn.Module, edit: ScaleTargets) -> TargetScaling:
    """Return a model that predicts in the units of the targets; the edit has fitted numbers."""
    if edit.logarithm:
        return LogarithmicTargetScaling(module, edit)
    return TargetScaling(module, edit.mean, edit.std)


class LabelColumns(Wrapper):
    """A model whose outputs are moved to the columns of their labels.

    Args:
        module: The model; must return a tensor.
        labels: Output k of the model belongs to the k-th label; further outputs are dropped.
        axis: Axis of the classes.
        fill: Value of columns without a label.
    """

    labels: Tensor

    def __init__(self, module: nn.Module, labels: Sequence[int], axis: int, fill: float) -> None:
        super().__init__(module)
        self.register_buffer("labels", torch.tensor(labels))
        self.axis, self.fill = axis, fill

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the wrapped model, and move its outputs to their columns."""
        output: Tensor = self.module(*args, **kwargs)
        axis = self.axis if output.ndim > 2 else -1
        scores = output.movedim(axis, -1)[..., : len(self.labels)]
        columns = scores.new_full((*scores.shape[:-1], int(self.labels[-1]) + 1), self.fill)
        return columns.index_copy(-1, self.labels, scores).movedim(-1, axis)


class Wrapped(nn.Module):
    """A layer inside another module, which takes the layer's place in the model.

    Attributes of the layer (``weight``, ``in_features``, …) remain accessible.

    Args:
        layer: The layer; returns a tensor.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.wrapped_layer = layer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "wrapped_layer":  # while copying or unpickling
                raise
            return getattr(self.wrapped_layer, name)


class Followed(Wrapped):
    """A layer followed directly by another one.

    Args:
        layer: The layer; returns a tensor.
        then: The following module.
    """

    def __init__(self, layer: nn.Module, then: nn.Module) -> None:
        super().__init__(layer)
        self.then = then

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer, then the following module."""
        return self.then(self.wrapped_layer(*args, **kwargs))


class Residual(Wrapped):
    """A residual block of a layer and its activation: x + gate · activation(layer(x)). The gate starts at 0.

    Args:
        layer: A layer with as many outputs as inputs.
        activation: The activation of its output.
    """

    def __init__(self, layer: nn.Module, activation: nn.Module) -> None:
        super().__init__(layer)
        self.activation = activation
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, values: Tensor) -> Tensor:
        """Add the gated output of layer and activation to the input."""
        changed: Tensor = values + self.gate * self.activation(self.wrapped_layer(values))
        return changed
