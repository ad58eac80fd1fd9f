"""Which layers a repair can change."""

from __future__ import annotations

from collections.abc import Sequence

from autotrainer.edits import initializer_for
from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import TaskContext

__all__ = ["layers_by_initializer", "layers_with_activation", "normalizable"]

_PLAIN = ("linear", "softmax", "log_softmax", None)


def layers_with_activation(context: TaskContext, named: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the hidden layers that have a replaceable activation, fused or separate.

    Args:
        context: The training.
        named: Only these, if any of them qualifies.

    Returns:
        Layer names in forward order; recurrent layers are left out, since they keep their gates.
    """
    names = [
        layer.name
        for layer in context.layers
        if layer.hidden and not layer.frozen and layer.kind in ("dense", "conv", "activation", "norm")
        if layer.activation not in _PLAIN
    ]
    return tuple(name for name in names if name in named) or tuple(names)


def layers_by_initializer(context: TaskContext, named: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """Return the layers that can be reinitialized, by the initializer that suits their activation.

    Layers inside of a named one, such as the output projection of an attention layer, are included with it.
    """
    layers = [
        layer
        for layer in context.layers
        if layer.parameters and not layer.frozen and layer.kind in ("dense", "conv", "recurrent", "attention")
    ]
    chosen = [layer for layer in layers if any(f"{layer.name}.".startswith(f"{name}.") for name in named)] or layers
    groups: dict[str, tuple[str, ...]] = {}
    for layer in chosen:
        scheme = "orthogonal" if layer.kind == "recurrent" else initializer_for(layer.activation)
        groups[scheme] = (*groups.get(scheme, ()), layer.name)
    return groups


def normalizable(context: TaskContext) -> tuple[LayerInfo, ...]:
    """Return the hidden dense and convolution layers with an activation and no normalization after them."""
    weighted = [layer for layer in context.layers if layer.kind != "activation"]
    following = [*weighted, None][1:]
    return tuple(
        layer
        for layer, after in zip(weighted, following, strict=True)
        if layer.hidden and not layer.frozen and layer.kind in ("dense", "conv")
        if layer.activation not in _PLAIN and (after is None or after.kind != "norm")
    )
