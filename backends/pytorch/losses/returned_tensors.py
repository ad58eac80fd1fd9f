"""Values of tensors in the autograd graph that a model has returned, possibly reshaped, cut or activated since."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from autotrainer.backends.pytorch.losses.loss_graph import has_hooks
from autotrainer.backends.pytorch.runtime.torch_private import result_shape, signed

__all__ = ["ACTIVATIONS", "RESHAPING", "KnownTensor", "Returned", "known_tensor", "returned_tensors"]

Returned = Mapping[tuple[Any, int], Tensor]
"""Tensors that the model has returned, detached, by the node of the graph that made them and their number there."""

RESHAPING = frozenset(
    f"{name}Backward{version}"
    for name in ("Alias", "Clone", "ReshapeAlias", "Squeeze", "ToCopy", "Unsqueeze", "UnsafeView", "View")
    for version in (0, 1, 2)
)
"""Operations that keep all values and their order."""

ACTIVATIONS = {f"{name}Backward0": name.lower() for name in ("Relu", "Sigmoid", "Softmax", "Tanh")}
"""Operations whose result the graph holds."""

_MOST_STEPS = 16
_MOST_TENSORS = 16


@dataclass(frozen=True, slots=True)
class KnownTensor:
    """A tensor of the graph.

    Attributes:
        values: Its values, detached.
        activation: Activation after it left the model; None if there is none.
        direct: Whether it is what the model has returned, but for its shape.
    """

    values: Tensor
    activation: str | None
    direct: bool


def returned_tensors(output: Any) -> Returned:
    """Return the first tensors with a graph in what a model has returned, but for those spread over processes."""
    parts = list(output.values()) if isinstance(output, Mapping) else output
    parts = list(parts)[:_MOST_TENSORS] if isinstance(parts, tuple | list) else [parts]
    tensors = [part for part in parts if type(part) is Tensor and part.grad_fn is not None]
    return {(tensor.grad_fn, tensor.output_nr): tensor.detach() for tensor in tensors}


def known_tensor(node: Any, number: int, returned: Returned) -> KnownTensor | None:
    """Return a tensor that comes from what the model has returned, or from an activation; None for any other.

    Args:
        node: The node of the graph that made it, before the backward pass.
        number: Its number among the results of the node.
        returned: What the model has returned.
    """
    changes: list[Callable[[Tensor], Tensor]] = []
    for _ in range(_MOST_STEPS):
        if node is None:
            return None
        found, activation = returned.get((node, number)), None
        if found is None and node.name() in ACTIVATIONS and not has_hooks(node):
            found, activation = node._saved_result.detach(), ACTIVATIONS[node.name()]
        if found is not None:
            for apply in reversed(changes):
                found = apply(found)
            return KnownTensor(found, activation, activation is None)
        change = _change(node)
        if change is None:
            return None
        changes.append(change)
        node, number = node.next_functions[0]
    return None


def _change(node: Any) -> Callable[[Tensor], Tensor] | None:
    """Return what a node does if it takes values apart or orders them anew."""
    name, shape = node.name(), result_shape(node)
    if name in RESHAPING and shape is not None:
        return lambda values: values.reshape(shape)
    if name == "SelectBackward0":
        return lambda values: values.select(signed(node._saved_dim), signed(node._saved_index))
    if name == "TransposeBackward0":
        return lambda values: values.transpose(signed(node._saved_dim0), signed(node._saved_dim1))
    if name == "PermuteBackward0":
        return lambda values: values.permute([signed(dim) for dim in node._saved_dims])
    return Tensor.t if name == "TBackward0" else None
