"""Normalizations of the blocks of a transformer, and what comes of them: the size of the inputs of matrices."""

from __future__ import annotations

import math
import re
from itertools import takewhile

from autotrainer.records.history import RunHistory
from autotrainer.rules._shared.siblings.blocks import Stack
from autotrainer.rules._shared.trends import finite, last_median

__all__ = ["READERS", "input_sizes", "normalizations"]

READERS = frozenset({"query", "key", "value", "expand", "gate"})
"""Matrices whose inputs are normalized in a block."""

_ATTENTION = frozenset({"query", "key", "value"})


def normalizations(history: RunHistory, stack: Stack) -> list[int]:
    """Return the number of normalizations in each block; empty unless all blocks have attention.

    Args:
        history: The history.
        stack: The blocks.
    """
    layers = history.layers
    members = [[c for c in stack.components if c.block == block] for block in stack.blocks]
    attends = all(any(layers[c.row].kind == "attention" or c.kind in _ATTENTION for c in m) for m in members)
    prefixes = _prefixes([[layers[c.row].name for c in m] for m in members])
    if not attends or not all(prefixes) or len(set(prefixes)) < len(prefixes):
        return []
    return [sum(layer.kind == "norm" and layer.name.startswith(prefix) for layer in layers) for prefix in prefixes]


def input_sizes(history: RunHistory, stack: Stack) -> list[float]:
    """Return the sizes of the inputs of matrices that read what a normalization gives, as their outputs show.

    Outputs of independent weights vary by the size of the weights times that of the inputs times the root of their
    number.

    Args:
        history: The history, with ``activation_spread`` and ``weight_rms``.
        stack: The blocks.
    """
    spread, weights = (last_median(finite(history.layer(name))) for name in ("activation_spread", "weight_rms"))
    sizes = []
    for component in stack.components:
        inputs, row = history.layers[component.row].inputs, component.row
        if component.kind in READERS and not component.part and inputs and weights[row] > 0:
            sizes.append(float(spread[row] / (weights[row] * math.sqrt(inputs))))
    return [size for size in sizes if size > 0]


def _prefixes(blocks: list[list[str]]) -> list[str]:
    """Return for each block what its names begin with (``blocks.3.``, ``block_1/``), in as many segments as any other.

    A block of which only the attention has siblings is not that attention alone.
    """
    equal = []
    for names in blocks:
        segments = zip(*(re.split(r"(?<=[./])", name)[:-1] for name in names), strict=False)
        equal.append([each[0] for each in takewhile(lambda each: len(set(each)) == 1, segments)])
    depth = min(map(len, equal))
    return ["".join(segments[:depth]) for segments in equal]
