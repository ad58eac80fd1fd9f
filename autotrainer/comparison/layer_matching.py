"""Matches the layers of two models: by name where somebody chose it, else by order and shape."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from difflib import SequenceMatcher

from autotrainer.records.signals import LayerInfo

__all__ = ["match_layers", "same_shape"]

_NUMBERED = re.compile(r"(.*[._/])?(\d+|[a-z0-9_]+_\d+)")
"""Names that a framework counted: an index in a `Sequential`, ``dense_3``. They shift where a layer is inserted."""

_Key = Callable[[LayerInfo], Hashable]
_PASSES: tuple[_Key, ...] = (
    lambda layer: (layer.kind, layer.parameters, layer.units),
    lambda layer: (layer.kind, layer.units),
    lambda layer: layer.kind,
)
"""What two layers must have in common, from the strictest: biases are counted differently by frameworks."""


def same_shape(layer: LayerInfo, other: LayerInfo) -> bool:
    """Return whether two layers are of the same kind and size."""
    return _PASSES[0](layer) == _PASSES[0](other)


def match_layers(layers: Sequence[LayerInfo], others: Sequence[LayerInfo]) -> dict[int, int]:
    """Match the layers of one model with those of another.

    Equal models are matched one by one, whatever the names, as Keras numbers them for each process. Else layers of the
    same name and kind belong together, unless the framework counted the name; the others are aligned in forward order
    by kind, number of parameters and units, then by kind and units, then by kind alone.

    Args:
        layers: Layers of one model, in forward order.
        others: Layers of the other one.

    Returns:
        Index in ``others`` by index in ``layers``, for the layers that have a counterpart.
    """
    if len(layers) == len(others) and all(map(same_shape, layers, others)):
        return {i: i for i in range(len(layers))}
    named = {(layer.name, layer.kind): j for j, layer in enumerate(others) if not _NUMBERED.fullmatch(layer.name)}
    matches = {i: named[key] for i, layer in enumerate(layers) if (key := (layer.name, layer.kind)) in named}
    for key_of in _PASSES:
        left = [i for i in range(len(layers)) if i not in matches]
        taken = set(matches.values())
        right = [j for j in range(len(others)) if j not in taken]
        matches |= _aligned([key_of(layers[i]) for i in left], [key_of(others[j]) for j in right], left, right)
    return dict(sorted(matches.items()))


def _aligned(
    keys: Sequence[Hashable], other_keys: Sequence[Hashable], left: Sequence[int], right: Sequence[int]
) -> dict[int, int]:
    matcher = SequenceMatcher(None, keys, other_keys, autojunk=False)
    return {left[b.a + k]: right[b.b + k] for b in matcher.get_matching_blocks() for k in range(b.size)}
