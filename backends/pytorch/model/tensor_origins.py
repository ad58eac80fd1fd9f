"""The origin of each tensor of a forward pass: the layers that made it, and the activation it went through."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode

from autotrainer.backends.pytorch.layers.functional_patch import ACTIVATIONS
from autotrainer.backends.pytorch.runtime.observation import is_transformed, observation
from autotrainer.monitoring.tracebacks import passes_on

__all__ = ["DROPOUTS", "PASS_THROUGH", "SUMS", "FunctionalCallMode", "TensorOrigin", "TensorOrigins"]

_CLAMPS = frozenset({"clamp", "clip", "clamp_min"})
DROPOUTS = (
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "alpha_dropout",
    "feature_alpha_dropout",
    "feature_dropout",
)
"""Functions that drop values at random."""
PASS_THROUGH = frozenset(
    (
        *DROPOUTS,
        "batch_norm",
        "layer_norm",
        "group_norm",
        "instance_norm",
        "rms_norm",
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "lp_pool1d",
        "lp_pool2d",
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "adaptive_max_pool1d",
        "adaptive_max_pool2d",
        "adaptive_max_pool3d",
        "interpolate",
        "pad",
        "pixel_shuffle",
        "flatten",
        "unflatten",
        "view",
        "reshape",
        "squeeze",
        "unsqueeze",
        "permute",
        "transpose",
        "movedim",
        "swapaxes",
        "t",
        "contiguous",
        "float",
        "double",
        "half",
        "bfloat16",
        "to",
        "type",
        "clone",
        "__getitem__",
        "select",
        "narrow",
        "chunk",
        "expand",
        "mean",
        "sum",
    )
)
"""Functions whose output has the origin of their input."""
SUMS = frozenset({"add", "sub", "__add__", "__radd__", "__iadd__"})
_LINEAR = frozenset(
    (
        "linear",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "matmul",
        "mm",
        "bmm",
        "addmm",
        "baddbmm",
        "einsum",
        "bilinear",
    )
)
_PRODUCTS = frozenset({"matmul", "bmm", "einsum", "baddbmm", "__matmul__"})
_SCALES = frozenset({"mul", "div", "true_divide", "__truediv__", "neg"})
"""Functions that scale a tensor, or multiply two."""
_KEEPS_SCORES = _SCALES | {"masked_fill", "where", "nan_to_num"}
"""Functions that scale or mask scores of queries and keys."""
_AS_IT_IS = frozenset({"detach", "requires_grad", "type_as", "roll", "flip", "cumsum"})
"""Linear functions that keep the shape, and are not tracked."""
_TRACKED = PASS_THROUGH | SUMS | _LINEAR | _CLAMPS | _KEEPS_SCORES | ACTIVATIONS.keys() | {"log", "exp"}
_LOGARITHMS: dict[str, dict[str, str]] = {
    "log": {"softmax": "log_softmax", "sigmoid": "log_sigmoid"},
    "exp": {"log_softmax": "softmax", "log_sigmoid": "sigmoid"},
}
_AXIS_LAST = frozenset({"linear", "layer_norm", "rms_norm", "permute", "transpose", "movedim", "swapaxes", "t"})


@dataclass(frozen=True, slots=True)
class TensorOrigin:
    """Where a tensor comes from. Layers are rows of the layer table.

    Attributes:
        layers: Layers that made it.
        pending: Those of them whose output has not gone through an activation yet.
        activation: Name of the last activation, ``linear`` for none, None if unknown.
        channel_axis: Axis of the units: 1 after a convolution, else -1.
        last_layer: The last of the layers, or None.
        activation_module: The separate activation module that made it, or None.
        scores: Whether it is a product of two tensors neither of which is a parameter, as scores of queries and keys.
        query_layer: The last layer that made the first factor of that product, or None.
    """

    layers: frozenset[int] = frozenset()
    pending: frozenset[int] = frozenset()
    activation: str | None = None
    channel_axis: int = -1
    last_layer: int | None = None
    activation_module: int | None = None
    scores: bool = False
    query_layer: int | None = None


class TensorOrigins:
    """Origins of the tensors of one forward pass. Keeps no tensor alive."""

    def __init__(self) -> None:
        self._by_id: dict[int, tuple[weakref.ref[Tensor], TensorOrigin]] = {}

    def get(self, tensor: Any) -> TensorOrigin | None:
        """Return the origin of a tensor, or None."""
        entry = self._by_id.get(id(tensor))
        return entry[1] if entry is not None and entry[0]() is tensor else None

    def set(self, tensor: Any, origin: TensorOrigin) -> None:
        """Set the origin of a tensor."""
        if isinstance(tensor, Tensor):
            self._by_id[id(tensor)] = (weakref.ref(tensor), origin)

    def clear(self) -> None:
        """Drop all origins."""
        self._by_id.clear()


class FunctionalCallMode(TorchFunctionMode):
    """Tracks origins through every call of a torch function while entered; never changes a result.

    Args:
        origins: Updated by every function that is known.
        on_activation: Called for each functional activation of a tensor with pending layers, with the origin of the
            input, the name of the activation and its output.
        fail: Called with an exception of our own code.
        on_attention: Called for each `scaled_dot_product_attention` with the origin of the queries, if known, and the
            arguments; or None.
        on_scores: Called for each softmax over scores of queries and keys, with their origin and the scores; or None.
        on_lookup: Called for each `embedding` with its arguments; or None.
        on_unknown: Called with the origin of a tensor with pending layers that goes through another function.
        without_gradients: Report attention that records no gradients, too.
    """

    def __init__(
        self,
        origins: TensorOrigins,
        on_activation: Callable[[TensorOrigin, str, Tensor], None],
        fail: Callable[[Exception], None],
        on_attention: Callable[[TensorOrigin | None, tuple[Any, ...], dict[str, Any]], None] | None = None,
        on_scores: Callable[[TensorOrigin, Tensor], None] | None = None,
        on_lookup: Callable[[tuple[Any, ...], dict[str, Any]], None] | None = None,
        *,
        on_unknown: Callable[[TensorOrigin], None],
        without_gradients: bool = False,
    ) -> None:
        super().__init__()
        self.muted = 0
        """Above 0 while calls come from within an opaque module; they are not tracked."""
        self._origins = origins
        self._on_activation = on_activation
        self._fail = fail
        self._on_attention = on_attention
        self._on_scores = on_scores
        self._on_lookup = on_lookup
        self._on_unknown = on_unknown
        self._without_gradients = without_gradients

    @passes_on
    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the function, and track its output."""
        if self.muted or is_transformed():
            return func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        base = name if name.startswith("__") else name.rstrip("_")
        if base not in _TRACKED:
            result = func(*args, **(kwargs or {}))
            if base == "scaled_dot_product_attention" and self._on_attention is not None:
                self._report_attention(args, kwargs or {})
            elif base == "embedding" and self._on_lookup is not None:
                self._report(self._on_lookup, args, kwargs or {})
            elif base not in _AS_IT_IS:
                self._report_unknown(args, result)
            return result
        argument_origins = self._argument_origins(args, kwargs)  # before an in-place call changes them
        if base == "softmax" and argument_origins and argument_origins[0].scores:
            self._report_scores(argument_origins[0], args, kwargs or {})
        result = func(*args, **(kwargs or {}))
        try:
            with observation():
                self._track(base, args, kwargs or {}, argument_origins, result)
        except Exception as error:  # noqa: BLE001 - watching must never reach the user's forward pass
            self._fail(error)
        return result

    def _report_unknown(self, args: tuple[Any, ...], result: Any) -> None:
        """Report that the activation of the layers that made a tensor is unknown, if a function changes its entries."""
        tensor = args[0] if args else None
        origin = self._origins.get(tensor)
        if origin is None or not origin.pending or not isinstance(result, Tensor) or result is tensor:
            return
        if result.is_floating_point() and isinstance(tensor, Tensor) and result.shape == tensor.shape:
            self._report(self._on_unknown, origin)

    def _report_attention(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        query = args[0] if args else kwargs.get("query")
        self._report(self._on_attention, self._origins.get(query), args, kwargs)

    def _report(self, receiver: Callable[..., None] | None, *values: Any) -> None:
        try:
            with observation() as with_gradients:
                if receiver is not None and (self._without_gradients or with_gradients):
                    receiver(*values)
        except Exception as error:  # noqa: BLE001 - watching must never reach the user's forward pass
            self._fail(error)

    def _report_scores(self, origin: TensorOrigin, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        scores = args[0] if args else kwargs.get("input")
        axis = args[1] if len(args) > 1 else kwargs.get("dim")
        if isinstance(scores, Tensor) and axis in (-1, scores.ndim - 1):
            self._report(self._on_scores, origin, scores)

    def _argument_origins(self, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> list[TensorOrigin]:
        values = args if not kwargs else (*args, *kwargs.values())
        origins = (self._origins.get(value) for value in values if isinstance(value, Tensor))
        return [origin for origin in origins if origin is not None]

    def _track(
        self, base: str, args: tuple[Any, ...], kwargs: dict[str, Any], sources: list[TensorOrigin], result: Any
    ) -> None:
        source = sources[0] if sources else TensorOrigin()
        activation = ACTIVATIONS.get(base) if base not in _CLAMPS else _clamp(args, kwargs)
        if activation is not None and isinstance(result, Tensor):
            self._origins.set(
                result, replace(source, pending=frozenset(), activation=activation, activation_module=None)
            )
            if source.pending:
                self._on_activation(source, activation, result)
        elif base in _LOGARITHMS and sources:
            activation = _LOGARITHMS[base].get(source.activation or "")
            if source.pending:
                self._on_unknown(source)
            self._origins.set(result, replace(source, activation=activation))
        elif base in _LINEAR:
            axis = 1 if base.startswith("conv") else -1
            origin = TensorOrigin(activation="linear", channel_axis=axis)
            self._origins.set(result, self._product_origin(origin, args) if base in _PRODUCTS else origin)
        elif base in SUMS and sources:
            self._origins.set(result, _sum(sources) if len(sources) > 1 else source)
        elif base in _KEEPS_SCORES:
            scores = next((origin for origin in sources if origin.scores), None)
            if scores is not None:
                self._origins.set(result, scores)
            elif base == "mul" and len(sources) == 2:
                self._product(sources, result)
            elif base in _SCALES and len(sources) == 1:
                if not (_is_divisor(base, args, result) or self._has_unknown_factor(args)):
                    self._origins.set(result, source)
            elif base != "masked_fill" and source.pending:
                self._on_unknown(source)
        elif sources and base in PASS_THROUGH | _CLAMPS:
            axis = -1 if base in _AXIS_LAST else source.channel_axis
            for part in result if isinstance(result, tuple | list) else (result,):
                self._origins.set(part, replace(source, channel_axis=axis))

    def _has_unknown_factor(self, args: tuple[Any, ...]) -> bool:
        """Return whether a factor of a product was computed by layers on the way from which its origin was lost."""
        unknown = (value for value in args if isinstance(value, Tensor) and self._origins.get(value) is None)
        return any(value.numel() > 1 and value.grad_fn is not None for value in unknown)

    def _product_origin(self, origin: TensorOrigin, args: tuple[Any, ...]) -> TensorOrigin:
        """Return the origin of a matrix product, which holds scores if neither factor is a parameter."""
        flat = [part for value in args for part in (value if isinstance(value, tuple | list) else (value,))]
        factors = [value for value in flat if isinstance(value, Tensor)][-2:]
        if len(factors) < 2 or any(isinstance(factor, Parameter) for factor in factors):
            return origin
        query = self._origins.get(factors[0])
        return replace(origin, scores=True, query_layer=None if query is None else query.last_layer)

    def _product(self, factors: list[TensorOrigin], result: Any) -> None:
        """Track a product; x · sigmoid(x) of one tensor is a SiLU."""
        gate, value = factors if factors[0].activation == "sigmoid" else reversed(factors)
        if gate.activation == "sigmoid" and value.pending and gate.layers == value.layers:
            self._origins.set(result, replace(value, pending=frozenset(), activation="silu"))
            self._on_activation(value, "silu", result)
            return
        for factor in factors:
            if factor.pending and factors[0].layers & factors[1].layers:
                self._on_unknown(factor)


def _is_divisor(base: str, args: tuple[Any, ...], result: Any) -> bool:
    """Return whether the only tensor that is known may be what others are divided by."""
    return base != "mul" and not (args and isinstance(args[0], Tensor) and args[0].shape == result.shape)


def _clamp(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Return ``relu`` or ``relu6`` if a clamp is one."""
    low = args[1] if len(args) > 1 else kwargs.get("min")
    high = args[2] if len(args) > 2 else kwargs.get("max")
    if isinstance(low, Tensor) or low is None or low != 0 or isinstance(high, Tensor):
        return None
    return "relu" if high is None else ("relu6" if high == 6 else None)


def _sum(terms: list[TensorOrigin]) -> TensorOrigin:
    """Return the origin of a sum: linear only if each term is."""
    linear = all(term.activation == "linear" for term in terms)
    return TensorOrigin(
        layers=frozenset().union(*(term.layers for term in terms)),
        pending=frozenset().union(*(term.pending for term in terms)),
        activation="linear" if linear else None,
        channel_axis=terms[0].channel_axis,
        last_layer=next((term.last_layer for term in terms if term.pending), None),
        scores=any(term.scores for term in terms),
        query_layer=next((term.query_layer for term in terms if term.scores), None),
    )
