"""Recognizes, in the autograd graph, outputs whose axes a reshape exchanges before a cross-entropy over classes.

Reshaping (rows, steps, classes) to (rows, classes, steps) keeps the order of the values: what is then taken for the
classes of a step are values of several steps. Exchanging axes takes ``permute`` or ``transpose``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from autotrainer.backends.pytorch.runtime.torch_private import result_shape

__all__ = ["Reordering", "reordering"]

_ABOVE = frozenset({"DivBackward0", "MulBackward0", "NllLossBackward0", "NllLoss2DBackward0", "MeanBackward0"})
_VIEWS = frozenset({"ReshapeAliasBackward0", "UnsafeViewBackward0", "ViewBackward0"})
_SAME_VALUES = _VIEWS | {"CloneBackward0", "PermuteBackward0", "TransposeBackward0", "ToCopyBackward0"}
_MOST_NODES = 16


@dataclass(frozen=True, slots=True)
class Reordering:
    """A reshape that exchanges axes: the shapes before and after it."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def reordering(loss: Tensor) -> Reordering | None:
    """Return the reshape of the outputs of a cross-entropy that exchanges axes; None without one.

    Args:
        loss: The loss, before its backward pass.
    """
    node: Any = loss.grad_fn
    below = False  # whether the softmax has been passed
    for _ in range(_MOST_NODES):
        if node is None:
            return None
        name = node.name()
        if below and name in _VIEWS:
            before, after = getattr(node, "_saved_self_sym_sizes", None), result_shape(node)
            if before is not None and after is not None and _exchanges(tuple(before), after):
                return Reordering(tuple(int(size) for size in before), after)
        if name == "LogSoftmaxBackward0":
            below = True
        elif name not in (_SAME_VALUES if below else _ABOVE | _SAME_VALUES):
            return None
        node = node.next_functions[0][0]
    return None


def _exchanges(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Return whether the axes longer than 1 have the same lengths in another order."""
    long = [tuple(int(size) for size in shape if size > 1) for shape in (before, after)]
    return long[0] != long[1] and sorted(long[0]) == sorted(long[1])
