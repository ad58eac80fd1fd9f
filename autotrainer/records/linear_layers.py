"""Whether the hidden layers of a model compute no more than a single linear layer would."""

from __future__ import annotations

from collections.abc import Iterable

from autotrainer.records.signals import LayerInfo

__all__ = ["linear_layers"]

_LINEAR_KINDS = ("dense", "reshape", "norm", "dropout")


def linear_layers(layers: Iterable[LayerInfo]) -> tuple[LayerInfo, ...]:
    """Return the hidden dense layers if only layers without an activation lead to the output, else an empty tuple.

    A model of a single layer has none: it is linear on purpose.
    """
    hidden = [layer for layer in layers if layer.hidden]
    if any(layer.kind not in _LINEAR_KINDS or layer.activation != "linear" for layer in hidden):
        return ()
    return tuple(layer for layer in hidden if layer.kind == "dense")
