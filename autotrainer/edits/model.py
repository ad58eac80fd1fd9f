"""Edits of the model: activations, weights, layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from autotrainer.edits.base import Activation, Edit, Initializer
from autotrainer.errors import ConfigError

__all__ = [
    "AddDropout",
    "AddResidual",
    "ClipAttention",
    "InsertNormalization",
    "Reinitialize",
    "ResizeLayers",
    "ScaleOutputLayer",
    "SetOutputActivation",
    "SwapActivation",
]


@dataclass(frozen=True, slots=True)
class SetOutputActivation(Edit):
    """Give the output this activation in place of the one it has (``linear`` removes it)."""

    change: ClassVar[int] = 1
    says_first: ClassVar[str | None] = "output"
    to: Activation


@dataclass(frozen=True, slots=True)
class SwapActivation(Edit):
    """Give hidden layers another activation and draw their weights anew with the initializer that suits it.

    ``layers`` are layers as `LayerInfo.name` names them: those whose ``activation`` it is, fused or separate.
    ``reinitialize`` False keeps the weights. ``calls`` are the numbers, in a forward pass, of activations that PyTorch
    code calls as functions, which the plan of a run holds: a model that can't be traced is known by them alone.
    """

    change: ClassVar[int] = 1
    layers: tuple[str, ...]
    to: Activation
    reinitialize: bool = True
    calls: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reinitialize(Edit):
    """Draw the weights of these layers anew; biases become zero."""

    change: ClassVar[int] = 1
    layers: tuple[str, ...]
    scheme: Initializer


@dataclass(frozen=True, slots=True)
class InsertNormalization(Edit):
    """Normalize the pre-activations of these layers: ``batch``, ``layer`` or ``group`` normalization."""

    change: ClassVar[int] = 2
    memory: ClassVar[bool] = True
    says_first: ClassVar[str | None] = "architecture"
    layers: tuple[str, ...]
    kind: Literal["batch", "layer", "group"] = "batch"


@dataclass(frozen=True, slots=True)
class AddDropout(Edit):
    """Drop activations of these hidden layers at this rate in (0, 1) while training."""

    change: ClassVar[int] = 2
    says_first: ClassVar[str | None] = "architecture"
    layers: tuple[str, ...]
    rate: float


@dataclass(frozen=True, slots=True)
class ResizeLayers(Edit):
    """Give hidden layers another number of units (features, channels); new weights are drawn for their activation.

    Attributes:
        layers: The layers.
        units: Their numbers of units, >= 1, one each.
        followers: Layers whose input becomes wider with them, with ``inputs``, their numbers of inputs. Found when the
            training is built where they are left out; the plan of a run holds them for PyTorch, where a layer can't
            tell by itself. Keras builds its layers by what they get, and leaves them empty.
    """

    change: ClassVar[int] = 3
    memory: ClassVar[bool] = True
    says_first: ClassVar[str | None] = "architecture"
    layers: tuple[str, ...]
    units: tuple[int, ...]
    followers: tuple[str, ...] = ()
    inputs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.layers) != len(self.units) or len(self.followers) != len(self.inputs):
            raise ConfigError("ResizeLayers needs one number for each layer")
        for number in (*self.units, *self.inputs):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ConfigError(f"a layer must have at least one unit, not {number!r}")

    def of(self, layers: Sequence[str]) -> ResizeLayers:
        """Return the edit for some of its layers, without what follows them."""
        pairs = [(name, n) for name, n in zip(self.layers, self.units, strict=True) if name in layers]
        return ResizeLayers(tuple(name for name, _ in pairs), tuple(n for _, n in pairs))


@dataclass(frozen=True, slots=True)
class AddResidual(Edit):
    """Lead the input of these hidden layers past them: x + gate · activation(layer(x)).

    The gate is learned and starts at 0. ``layers`` have as many outputs as inputs. A separate
    activation goes inside, before the sum.
    """

    change: ClassVar[int] = 3
    memory: ClassVar[bool] = True
    says_first: ClassVar[str | None] = "architecture"
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScaleOutputLayer(Edit):
    """Multiply the initial weights (and biases) of the layers that make the output by a factor in (0, 1).

    ``layers`` are found when the training is built where they are left out; the plan of a run holds them.
    """

    change: ClassVar[int] = 1
    factor: float
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1:
            raise ConfigError(f"the factor of the output layer must be in (0, 1), not {self.factor!r}")


@dataclass(frozen=True, slots=True)
class ClipAttention(Edit):
    """Bring queries and keys to unit length, head by head, so that no attention logit is beyond ``limit`` > 0.

    A logit is then limit · cos(query, key), whatever the weights; no parameter is added. ``layers`` are attention
    layers, or in PyTorch those that make the queries of a call of ``scaled_dot_product_attention``; ``calls`` are the
    numbers of these calls in a forward pass, which the plan of a run holds.
    """

    change: ClassVar[int] = 2
    memory: ClassVar[bool] = True
    says_first: ClassVar[str | None] = "architecture"
    layers: tuple[str, ...]
    limit: float = 10.0
    calls: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise ConfigError(f"the largest attention logit must be above 0, not {self.limit!r}")
