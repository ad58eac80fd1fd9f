"""Follows tensors through a forward pass: which layer made them, and which activation they went through."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from autotrainer.backends.pytorch.layers.functional_patch import ACTIVATIONS

__all__ = ["FunctionalCalls", "Trace", "Traces", "first_tensor"]

_CLAMPS = frozenset({"clamp", "clip", "clamp_min"})
_PASSES = frozenset(
    (
        "dropout",
        "dropout1d",
        "dropout2d",
        "dropout3d",
        "alpha_dropout",
        "feature_alpha_dropout",
        "feature_dropout",
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
_SUMS = frozenset({"add", "sub", "__add__", "__radd__", "__iadd__"})
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
_KNOWN = _PASSES | _SUMS | _LINEAR | _CLAMPS | ACTIVATIONS.keys() | {"mul", "log", "exp"}
_LOGARITHMS: dict[str, dict[str, str]] = {
    "log": {"softmax": "log_softmax", "sigmoid": "log_sigmoid"},
    "exp": {"log_softmax": "softmax", "log_sigmoid": "sigmoid"},
}
_AXIS_LAST = frozenset({"linear", "layer_norm", "rms_norm", "permute", "transpose", "movedim", "swapaxes", "t"})


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a tensor comes from.

    Attributes:
        layers: Rows of the layers that made it.
        pending: Those of them whose output has not gone through an activation yet.
        activation: Name of the activation that it went through last, ``linear`` for none, None if unknown.
        channel_axis: Axis of the units: 1 after a convolution, else -1.
        maker: Row of the last layer that made it, or None.
        made_by: Row of the separate activation module that made it, or None.
    """

    layers: frozenset[int] = frozenset()
    pending: frozenset[int] = frozenset()
    activation: str | None = None
    channel_axis: int = -1
    maker: int | None = None
    made_by: int | None = None


class Traces:
    """The traces of the tensors of one forward pass. Keeps no tensor alive."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], Trace]] = {}

    def get(self, tensor: Any) -> Trace | None:
        """Return the trace of a tensor, or None."""
        found = self._known.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def set(self, tensor: Any, trace: Trace) -> None:
        """Remember the trace of a tensor."""
        if isinstance(tensor, Tensor):
            self._known[id(tensor)] = (weakref.ref(tensor), trace)

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()


class FunctionalCalls(TorchFunctionMode):
    """Sees every call of a torch function while entered; never changes what it returns.

    Args:
        traces: Updated by every call that is understood.
        activated: Called with the trace of the input, the name of the activation and its output, for each
            functional activation of a traced tensor.
        fail: Called with what went wrong, if anything did.
        attended: Called with the trace of the queries, if any, and the arguments of each call of
            `scaled_dot_product_attention`; None if nobody wants to know.
    """

    def __init__(
        self,
        traces: Traces,
        activated: Callable[[Trace, str, Tensor], None],
        fail: Callable[[Exception], None],
        attended: Callable[[Trace | None, tuple[Any, ...], dict[str, Any]], None] | None = None,
    ) -> None:
        super().__init__()
        self.muted = 0
        """Above 0 while calls belong to a module whose inside is of no interest."""
        self._traces = traces
        self._activated = activated
        self._fail = fail
        self._attended = attended

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the function, and follow its output."""
        if torch.compiler.is_compiling() or self.muted:
            return func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        base = name if name.startswith("__") else name.rstrip("_")
        if base not in _KNOWN:
            result = func(*args, **(kwargs or {}))
            if base == "scaled_dot_product_attention" and self._attended is not None:
                self._tell_attention(args, kwargs or {})
            return result
        before = self._before(args, kwargs)
        result = func(*args, **(kwargs or {}))
        try:
            with torch._C.DisableTorchFunction():
                self._follow(base, args, kwargs or {}, before, result)
        except Exception as error:  # noqa: BLE001 - watching must never reach the user's forward pass
            self._fail(error)
        return result

    def _tell_attention(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            with torch._C.DisableTorchFunction():
                query = args[0] if args else kwargs.get("query")
                self._attended(self._traces.get(query), args, kwargs)  # type: ignore[misc]
        except Exception as error:  # noqa: BLE001 - watching must never reach the user's forward pass
            self._fail(error)

    def _before(self, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> list[Trace]:
        """Return the traces of the tensor arguments as they are before an in-place call."""
        values = args if not kwargs else (*args, *kwargs.values())
        found = (self._traces.get(value) for value in values if isinstance(value, Tensor))
        return [trace for trace in found if trace is not None]

    def _follow(
        self, base: str, args: tuple[Any, ...], kwargs: dict[str, Any], before: list[Trace], result: Any
    ) -> None:
        source = before[0] if before else Trace()
        activation = ACTIVATIONS.get(base) if base not in _CLAMPS else _clamp(args, kwargs)
        if activation is not None and isinstance(result, Tensor):
            self._traces.set(result, replace(source, pending=frozenset(), activation=activation, made_by=None))
            if source.pending:
                self._activated(source, activation, result)
        elif base in _LOGARITHMS and before:
            known = _LOGARITHMS[base].get(source.activation or "")
            self._traces.set(result, replace(source, activation=known))
        elif base in _LINEAR:
            axis = 1 if base.startswith("conv") else -1
            self._traces.set(result, Trace(activation="linear", channel_axis=axis))
        elif base in _SUMS and before:
            self._traces.set(result, _sum(before) if len(before) > 1 else source)
        elif base == "mul" and len(before) == 2:
            self._product(before, result)
        elif before and base in _PASSES | _CLAMPS:
            axis = -1 if base in _AXIS_LAST else source.channel_axis
            for part in result if isinstance(result, tuple | list) else (result,):
                self._traces.set(part, replace(source, channel_axis=axis))

    def _product(self, factors: list[Trace], result: Any) -> None:
        """Follow a product; x · sigmoid(x) of one tensor is a SiLU."""
        gate, value = factors if factors[0].activation == "sigmoid" else reversed(factors)
        if gate.activation == "sigmoid" and value.pending and gate.layers == value.layers:
            self._traces.set(result, replace(value, pending=frozenset(), activation="silu"))
            self._activated(value, "silu", result)


def _clamp(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Return ``relu`` or ``relu6`` where a clamp is one."""
    low = args[1] if len(args) > 1 else kwargs.get("min")
    high = args[2] if len(args) > 2 else kwargs.get("max")
    if isinstance(low, Tensor) or low is None or low != 0 or isinstance(high, Tensor):
        return None
    return "relu" if high is None else ("relu6" if high == 6 else None)


def _sum(terms: list[Trace]) -> Trace:
    """Return the trace of a sum: linear only if each term is."""
    linear = all(term.activation == "linear" for term in terms)
    return Trace(
        layers=frozenset().union(*(term.layers for term in terms)),
        pending=frozenset().union(*(term.pending for term in terms)),
        activation="linear" if linear else None,
        channel_axis=terms[0].channel_axis,
        maker=next((term.maker for term in terms if term.pending), None),
    )


def first_tensor(value: Any, *, floating: bool = False) -> Tensor | None:
    """Return the first tensor in what a module takes or returns, or None.

    Args:
        value: A tensor, or nested tuples, lists, mappings or objects with an attribute ``logits``.
        floating: Only a floating-point tensor will do.
    """
    if isinstance(value, Tensor):
        return value if not floating or value.is_floating_point() else None
    logits = getattr(value, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(value, dict):
        parts: Iterable[Any] = value.values() if "logits" not in value else (value["logits"], *value.values())
    elif isinstance(value, tuple | list):
        parts = value
    elif hasattr(value, "values") and callable(value.values) and hasattr(value, "keys"):
        parts = value.values()
    else:
        return None
    for part in parts:
        found = first_tensor(part, floating=floating)
        if found is not None:
            return found
    return None
