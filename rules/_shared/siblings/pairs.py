"""Gradients of layers of one role in the first and the last block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotrainer.records.signals import Floats, LayerInfo
from autotrainer.rules._shared.siblings.blocks import stacks_of
from autotrainer.rules._shared.siblings.roles import role_of

__all__ = ["AttentionGradients", "attention_gradients"]

_BEFORE_SOFTMAX = ("query", "key")
"""Roles whose gradients pass the softmax of the attention weights, which shrinks them, most at equal weights."""


@dataclass(frozen=True, slots=True)
class AttentionGradients:
    """Which gradients of a network with attention are comparable.

    Attributes:
        rows: Rows of weight layers to compare, in forward order: of one role, from the first to the last block, or all
            but projections to queries and keys.
        ratio: Median over roles of the gradient norm in the first ÷ that in the last block; NaN without blocks.
    """

    rows: list[int]
    ratio: float


def attention_gradients(layers: Sequence[LayerInfo], norms: Floats, rows: Sequence[int]) -> AttentionGradients | None:
    """Return which gradients to compare; None for a network without attention, or with nothing else.

    Args:
        layers: The layers.
        norms: Gradient norm of each layer, shape (layers,).
        rows: Rows of the weight layers.
    """
    roles = {row: role_of(layers[row]) for row in rows}
    attention = any(layers[row].kind == "attention" for row in rows)
    if not attention and not set(_BEFORE_SOFTMAX) <= set(roles.values()):
        return None
    rest = [row for row in rows if roles[row] not in _BEFORE_SOFTMAX]
    pairs: list[tuple[float, list[int]]] = []
    for stack in stacks_of(tuple(layers)):
        for line in stack.table:
            alike = [c.row for c in line if c is not None and c.row in rest]
            if len(alike) > 1 and np.isfinite(norms[alike]).all():
                first, last = float(norms[alike[0]]), float(norms[alike[-1]])
                pairs.append((first / last if last > 0 else 0.0 if first == 0 else math.inf, alike))
    if not pairs:
        return AttentionGradients(rest, math.nan) if len(rest) > 1 else None
    pairs.sort(key=lambda pair: pair[0])
    ratio, chosen = pairs[(len(pairs) - 1) // 2]
    return AttentionGradients(chosen, ratio)
