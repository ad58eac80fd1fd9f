"""Parts of the weights of an attention layer: queries, keys, values, output projection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autotrainer.backends.keras3.model.watched_layers import WatchedLayer
from autotrainer.records.measurement import fused_axis

__all__ = ["AttentionPart", "attention_parts"]

_SUBLAYERS = {"query": 0, "key": 1, "value": 2, "attention_output": 3}
"""Layers inside of an attention layer of Keras, by index in `PARTS`."""


@dataclass(frozen=True, slots=True)
class AttentionPart:
    """A part of an attention layer's weights.

    Attributes:
        part: Its index in `PARTS`.
        axis: Axis along which the weight joins three of them; None if it is this part alone.
    """

    part: int
    axis: int | None = None

    def of(self, xp: Any, values: Any) -> Any:
        """Return its entries of the weight or of a gradient; ``xp`` is their module."""
        return values if self.axis is None else xp.split(values, 3, self.axis)[self.part]

    def size(self, shape: Sequence[int]) -> int:
        """Return the number of its entries in a weight of this shape."""
        return max(1, math.prod(shape) // (1 if self.axis is None else 3))


def attention_parts(watched: WatchedLayer) -> dict[int, tuple[AttentionPart, ...]]:
    """Return the parts that the weights of a layer hold, by index of the weight."""
    parts: dict[int, tuple[AttentionPart, ...]] = {}
    for index, weight in enumerate(watched.weights):
        path = str(getattr(weight, "path", "")).split("/")
        if watched.info.kind == "attention":
            part = _SUBLAYERS.get(path[-2]) if len(path) > 1 and path[-1] == "kernel" else None
            if part is not None:
                parts[index] = (AttentionPart(part),)
        elif len(weight.shape) == 2 and (axis := fused_axis(watched.info.name, weight.shape)) is not None:
            parts[index] = tuple(AttentionPart(each, axis) for each in range(3))
    return parts
