"""Edits of the model: activations, weights, layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from autotrainer.edits.base import (
    Activation,
    Count,
    Edit,
    Fraction,
    Initializer,
    Layers,
    Positive,
    Range,
    Whole,
    initializer_for,
    join_names,
    quoted,
)
from autotrainer.errors import ConfigError

__all__ = [
    "AddActivation",
    "AddDropout",
    "AddResidual",
    "ClipAttention",
    "DropPenalties",
    "InsertNormalization",
    "LimitDropout",
    "Reinitialize",
    "ResizeLayers",
    "ResizeOutputLayer",
    "RestoreAxes",
    "ScaleOutputLayer",
    "SetOutputActivation",
    "SwapActivation",
    "ThawLayers",
]

_Width = Annotated[int, Range(least=1, most=1_000_000)]

_INITIALIZERS: Mapping[Initializer, str] = {
    "he_uniform": "He uniform",
    "he_normal": "He normal",
    "lecun_normal": "LeCun normal",
    "glorot_uniform": "Glorot uniform",
    "glorot_normal": "Glorot normal",
    "orthogonal": "orthogonal",
}


@dataclass(frozen=True, slots=True)
class SetOutputActivation(Edit):
    """Give the output this activation in place of the present one (``linear`` removes it)."""

    change: ClassVar[int] = 1
    affects: ClassVar[str | None] = "output"
    example_values: ClassVar[Mapping[str, Any]] = {"to": "sigmoid"}
    to: Activation

    def __str__(self) -> str:
        return "no activation on the output" if self.to == "linear" else f"output activation {self.to}"


@dataclass(frozen=True, slots=True)
class SwapActivation(Edit):
    """Give hidden layers another activation and reinitialize their weights with the initializer that suits it.

    Attributes:
        layers: Layers as `LayerInfo.name` names them: those whose ``activation`` it is, fused or separate.
        to: The new activation.
        reinitialize: False keeps the weights.
        calls: Numbers, in a forward pass, of the activations that PyTorch code calls as functions. The plan of a run
            holds them: in a model that can't be traced, nothing else identifies them.
    """

    change: ClassVar[int] = 1
    example_values: ClassVar[Mapping[str, Any]] = {"to": "relu"}
    layers: Layers
    to: Activation
    reinitialize: bool = True
    calls: tuple[Whole, ...] = ()

    def __str__(self) -> str:
        scheme = _INITIALIZERS[initializer_for(self.to)]
        weights = f", weights reinitialized ({scheme})" if self.reinitialize else ""
        return f"{join_names(self.layers)}: activation {self.to}{weights}"


@dataclass(frozen=True, slots=True)
class AddActivation(Edit):
    """Apply this activation to the outputs of hidden layers that have none."""

    change: ClassVar[int] = 1
    affects: ClassVar[str | None] = "architecture"
    example_values: ClassVar[Mapping[str, Any]] = {"to": "relu"}
    layers: Layers
    to: Activation

    def __str__(self) -> str:
        return f"{join_names(self.layers)}: activation {self.to} in place of none"


@dataclass(frozen=True, slots=True)
class Reinitialize(Edit):
    """Draw new weights for these layers; biases become zero."""

    change: ClassVar[int] = 1
    example_values: ClassVar[Mapping[str, Any]] = {"scheme": "he_uniform"}
    layers: Layers
    scheme: Initializer

    def __str__(self) -> str:
        return f"{join_names(self.layers)}: weights reinitialized ({_INITIALIZERS[self.scheme]}), biases zero"


@dataclass(frozen=True, slots=True)
class ThawLayers(Edit):
    """Train all parameters of a model in which none is trained, but those that ``keep`` names.

    Attributes:
        layers: Only these layers; empty for all. The plan of a run holds those that were thawed.
    """

    change: ClassVar[int] = 1
    affects: ClassVar[str | None] = "frozen layers"
    layers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{join_names(self.layers) or 'all layers'}: frozen parameters trained"


@dataclass(frozen=True, slots=True)
class InsertNormalization(Edit):
    """Normalize the pre-activations of these layers: ``batch``, ``layer`` or ``group`` normalization."""

    change: ClassVar[int] = 2
    memory: ClassVar[bool] = True
    affects: ClassVar[str | None] = "architecture"
    layers: Layers
    kind: Literal["batch", "layer", "group"] = "batch"

    def __str__(self) -> str:
        return f"{join_names(self.layers)}: {self.kind} normalization between layer and activation"


@dataclass(frozen=True, slots=True)
class AddDropout(Edit):
    """Drop activations of these hidden layers at this rate in (0, 1) while training."""

    change: ClassVar[int] = 2
    affects: ClassVar[str | None] = "architecture"
    example_values: ClassVar[Mapping[str, Any]] = {"rate": 0.2}
    layers: Layers
    rate: Annotated[float, Range(above=0, below=1)]

    def __str__(self) -> str:
        return f"{join_names(self.layers)}: dropout {self.rate:g} after the activation"


@dataclass(frozen=True, slots=True)
class LimitDropout(Edit):
    """Lower the dropout rates of a model that are above this rate in [0, 1) to it.

    Attributes:
        rate: The highest rate.
        layers: Only these layers; empty for all. The plan of a run holds those that were changed.
    """

    change: ClassVar[int] = 1
    example_values: ClassVar[Mapping[str, Any]] = {"rate": 0.2}
    rate: Fraction
    layers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{join_names(self.layers) or 'all layers'}: dropout rate at most {self.rate:g}"


@dataclass(frozen=True, slots=True)
class DropPenalties(Edit):
    """Leave out the penalties of weights that a model adds to the loss.

    Attributes:
        layers: Only those of these layers; empty for all. The plan of a run holds those that were changed.
    """

    change: ClassVar[int] = 1
    affects: ClassVar[str | None] = "loss"
    layers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{join_names(self.layers) or 'all layers'}: no penalties of the weights"


@dataclass(frozen=True, slots=True)
class ResizeLayers(Edit):
    """Give hidden layers another number of units (features, channels); new weights are drawn for their activation.

    Attributes:
        layers: The layers, each once.
        units: Their numbers of units, from 1 to 1,000,000, one each.
        followers: Layers whose number of inputs changes with them, and ``inputs``, these numbers. Determined when the
            training is built if they are left out; the plan of a run holds them for PyTorch, whose layers can't adapt
            by themselves. Keras builds its layers for the inputs that they get, and leaves them empty.
        inputs: Numbers of inputs of the followers, from 1 to 1,000,000, one each.
    """

    change: ClassVar[int] = 3
    memory: ClassVar[bool] = True
    affects: ClassVar[str | None] = "architecture"
    layers: Layers
    units: tuple[_Width, ...]
    followers: tuple[str, ...] = ()
    inputs: tuple[_Width, ...] = ()

    def __post_init__(self) -> None:
        Edit.__post_init__(self)
        if len(self.layers) != len(self.units) or len(self.followers) != len(self.inputs):
            raise ConfigError(
                "ResizeLayers needs one number for each layer: as many units as layers, as many inputs as followers"
            )
        if len(set(self.layers)) < len(self.layers):
            raise ConfigError("ResizeLayers takes each layer once: one of its layers is named twice")

    @classmethod
    def example(cls, layers: tuple[str, ...]) -> ResizeLayers:
        """Return an edit that gives each layer 24 units."""
        return cls(layers, (24,) * len(layers))

    def of(self, layers: Sequence[str]) -> ResizeLayers:
        """Return the edit for some of its layers, without followers."""
        pairs = [(name, n) for name, n in zip(self.layers, self.units, strict=True) if name in layers]
        return ResizeLayers(tuple(name for name, _ in pairs), tuple(n for _, n in pairs))

    def __str__(self) -> str:
        return ", ".join(f"{quoted(name)}: {units} units" for name, units in zip(self.layers, self.units, strict=True))


@dataclass(frozen=True, slots=True)
class ResizeOutputLayer(Edit):
    """Give the layer that makes the output another number of units (classes, columns).

    If there are several units before and after, those that remain keep their weights: unit k stays that of class or
    column k. All others get the default initialization of the layer.

    Attributes:
        units: The new number of units, from 1 to 1,000,000.
        layers: The layer that makes the output. Determined when the training is built if it is left out; the plan of a
            run holds it.
        followers: Layers whose number of inputs changes with it, and ``inputs``, these numbers, as in `ResizeLayers`.
        inputs: Numbers of inputs of the followers, from 1 to 1,000,000, one each.
    """

    change: ClassVar[int] = 3
    affects: ClassVar[str | None] = "output"
    example_values: ClassVar[Mapping[str, Any]] = {"units": 2}
    units: _Width
    layers: tuple[str, ...] = ()
    followers: tuple[str, ...] = ()
    inputs: tuple[_Width, ...] = ()

    def __post_init__(self) -> None:
        Edit.__post_init__(self)
        if len(self.layers) > 1:
            raise ConfigError(f"ResizeOutputLayer takes one layer, not {len(self.layers)}")
        if len(self.followers) != len(self.inputs):
            raise ConfigError("ResizeOutputLayer needs as many numbers of inputs as followers")

    @classmethod
    def example(cls, layers: tuple[str, ...]) -> ResizeOutputLayer:
        """Return an edit that gives the output two units, whichever layer makes it."""
        return cls(2)

    def __str__(self) -> str:
        name = f" {quoted(self.layers[0])}" if self.layers else ""
        return f"output layer{name}: {self.units} {'unit' if self.units == 1 else 'units'}"


@dataclass(frozen=True, slots=True)
class RestoreAxes(Edit):
    """Exchange the axes of outputs that the model only reshaped.

    The model reshapes outputs of shape (n, positions, …, classes) to (n, classes, positions, …), which keeps the order
    of the values; they are read in their first shape again, and the axis of the classes is moved.

    Attributes:
        classes: Length of the axis of the classes.
        positions: Length of the first axis of positions.
    """

    change: ClassVar[int] = 2
    affects: ClassVar[str | None] = "output"
    example_values: ClassVar[Mapping[str, Any]] = {"classes": 3, "positions": 5}
    classes: Count
    positions: Count

    def __str__(self) -> str:
        return (
            f"outputs (n, {self.classes}, {self.positions}, …) made by exchanging axes in place of a reshape, inside "
            "the model"
        )


@dataclass(frozen=True, slots=True)
class AddResidual(Edit):
    """Add a residual connection around these hidden layers: x + gate · activation(layer(x)).

    The gate is learned and starts at 0. ``layers`` have as many outputs as inputs. A separate activation goes inside,
    before the sum.
    """

    change: ClassVar[int] = 3
    memory: ClassVar[bool] = True
    affects: ClassVar[str | None] = "architecture"
    layers: Layers

    def __str__(self) -> str:
        return (
            f"{join_names(self.layers)}: residual connection around layer and activation, with a gate that starts at 0"
        )


@dataclass(frozen=True, slots=True)
class ScaleOutputLayer(Edit):
    """Multiply the initial weights (and biases) of the layers that make the output by a factor in (0, 1).

    ``layers`` are determined when the training is built if they are left out; the plan of a run holds them.
    """

    change: ClassVar[int] = 1
    example_values: ClassVar[Mapping[str, Any]] = {"factor": 0.5}
    factor: Annotated[float, Range(above=0, below=1)]
    layers: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = f" {join_names(self.layers)}" if self.layers else ""
        return f"initial weights of the output layer{names} multiplied by {self.factor:g}"


@dataclass(frozen=True, slots=True)
class ClipAttention(Edit):
    """Normalize queries and keys to unit length, head by head, so that no attention logit exceeds ``limit`` > 0.

    A logit is then limit · cos(query, key), whatever the weights; no parameter is added. ``layers`` are attention
    layers, or in PyTorch those that make the queries of a call of ``scaled_dot_product_attention``; ``calls`` are the
    numbers of these calls in a forward pass, which the plan of a run holds.
    """

    change: ClassVar[int] = 2
    memory: ClassVar[bool] = True
    affects: ClassVar[str | None] = "architecture"
    layers: Layers
    limit: Positive = 10.0
    calls: tuple[Whole, ...] = ()

    def __str__(self) -> str:
        names = join_names(self.layers)
        return f"{names}: queries and keys of unit length, attention logits {self.limit:g} · cos(query, key)"
