"""Counts and replaces the activations and attention that a model calls as functions inside ``forward``.

Calls are identified by their number in a forward pass: 0 for the first activation function that the model's own code
calls. Calls inside PyTorch's modules do not count. Calls of `scaled_dot_product_attention` have separate numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autotrainer.backends.pytorch.layers.cosine_attention import bounded
from autotrainer.backends.pytorch.layers.modules import Wrapper

__all__ = ["ACTIVATIONS", "CallCounter", "Rerouted", "called_activation"]

ACTIVATIONS = {
    "relu": "relu",
    "relu6": "relu6",
    "threshold": "thresholded_relu",
    "leaky_relu": "leaky_relu",
    "rrelu": "rrelu",
    "prelu": "prelu",
    "elu": "elu",
    "selu": "selu",
    "celu": "celu",
    "gelu": "gelu",
    "silu": "silu",
    "mish": "mish",
    "hardsigmoid": "hard_sigmoid",
    "hardswish": "hard_silu",
    "hardtanh": "hard_tanh",
    "sigmoid": "sigmoid",
    "special_expit": "sigmoid",
    "logsigmoid": "log_sigmoid",
    "tanh": "tanh",
    "tanhshrink": "tanh_shrink",
    "softplus": "softplus",
    "softsign": "softsign",
    "softshrink": "soft_shrink",
    "hardshrink": "hard_shrink",
    "softmax": "softmax",
    "softmin": "softmin",
    "log_softmax": "log_softmax",
    "glu": "glu",
}
"""Activations by the names of torch functions and methods, without a trailing underscore."""

_PASSED_THROUGH = (
    "torch.overrides",
    "torch.nn.functional",
    "torch._tensor",
    "autotrainer.backends.pytorch.model.tensor_origins",
    __name__,
)


def called_activation(function: Any) -> str | None:
    """Return the lower-case name of the activation that a torch function or method computes, or None."""
    name = function if isinstance(function, str) else getattr(function, "__name__", "")
    return ACTIVATIONS.get(name if name.startswith("__") else name.rstrip("_"))


class CallCounter(TorchFunctionMode):
    """Counts calls of activation functions while it is entered.

    Attributes:
        count: Number of calls so far.
        attentions: Number of calls of `scaled_dot_product_attention` so far.
        output: Result of the latest activation function.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.attentions = 0
        self.output: Any = None

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the function, and count it if it is an activation or attention."""
        activation = called_activation(func)
        is_attention = getattr(func, "__name__", "") == "scaled_dot_product_attention"
        if not (is_attention or activation is not None) or _inside_torch():
            return func(*args, **(kwargs or {}))
        if activation is None:
            self.attentions += 1
            return self.attended(func, args, kwargs or {})
        self.count += 1
        self.output = self.activated(activation, func, args, kwargs or {})
        return self.output

    def activated(self, activation: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the result of an activation; overridden to replace it."""
        return func(*args, **kwargs)

    def attended(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the result of a call of `scaled_dot_product_attention`; overridden to replace it."""
        return func(*args, **kwargs)


class Rerouted(Wrapper):
    """A model in which some activations that its ``forward`` calls as functions are replaced.

    Args:
        module: The model.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.activations = nn.ModuleDict()
        self.replaced: dict[str, str | None] = {}
        self.limits: dict[int, float] = {}

    def reroute(self, number: int, activation: str | None, instead: nn.Module) -> None:
        """Replace a call.

        Args:
            number: Number of the call in a forward pass.
            activation: The expected activation; any other call with this number is not replaced. None for any.
            instead: The replacement.
        """
        self.activations[str(number)] = instead
        self.replaced[str(number)] = activation

    def activation_at(self, number: int) -> nn.Module | None:
        """Return the replacement of a call, or None."""
        return dict(self.activations.items()).get(str(number))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model inside with its activations replaced."""
        with _Rerouting(self):
            return self.module(*args, **kwargs)


class _Rerouting(CallCounter):
    def __init__(self, owner: Rerouted) -> None:
        super().__init__()
        self._owner = owner

    def activated(self, activation: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        number = str(self.count - 1)
        values = args[0] if args else kwargs.get("input")
        if self._owner.replaced.get(number, "") in (activation, None) and isinstance(values, Tensor):
            return self._owner.activations[number](values)
        return func(*args, **kwargs)

    def attended(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        limit = self._owner.limits.get(self.attentions - 1)
        if limit is None:
            return func(*args, **kwargs)
        named = dict(zip(("query", "key"), args, strict=False)) | kwargs
        query, key = named.pop("query"), named.pop("key")
        scale = args[6] if len(args) > 6 else kwargs.get("scale")
        query, key = bounded(query, key, limit, query.shape[-1] ** -0.5 if scale is None else scale)
        return func(query, key, *args[2:], **named)


def _inside_torch() -> bool:
    """Return whether the current torch function was called by code of PyTorch."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") in _PASSED_THROUGH:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", "")).startswith("torch.")
