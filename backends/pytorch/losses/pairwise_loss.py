"""Recognizes, by its graph, a loss that compares all outputs of a batch with all targets, or with each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from autotrainer.backends.pytorch.runtime.torch_private import result_shape

__all__ = ["multiplies_outputs", "pairwise_rows"]

_ON_SCALARS = frozenset(
    f"{name}Backward0" for name in ("Add", "Div", "Mean", "Mul", "Neg", "Sqrt", "Sub", "Sum", "ToCopy")
)
"""Operations after which the loss still rises, or still falls, with the mean over all pairs."""

_BY_ENTRY = frozenset(
    f"{name}Backward{version}"
    for name in (
        *("Abs", "Add", "Clamp", "ClampMax", "ClampMin", "Cosh", "Div", "Exp", "Log", "Log1P", "LogSigmoid"),
        *("Maximum", "Minimum", "Mul", "Neg", "Pow", "Relu", "Rsub", "Sigmoid", "Softplus", "Sqrt", "Sub", "Tanh"),
        *("ToCopy", "Where"),
    )
    for version in (0, 1)
)
"""Operations on each entry by itself."""

_LOSSES = frozenset(f"{name}LossBackward0" for name in ("Huber", "Mse", "SmoothL1"))
"""Loss functions that compare entry by entry."""

_EXPAND = "ExpandBackward0"
_VIEW_NAMES = ("Permute", "Squeeze", "T", "Transpose", "Unsqueeze", "View")
_VIEWS = frozenset(f"{name}Backward{v}" for name in _VIEW_NAMES for v in (0, 1))
_PRODUCTS = frozenset(f"{name}Backward0" for name in ("Addmm", "Bmm", "Cdist", "EuclideanDist", "Linear", "Mm"))
"""Products of matrices, and distances between all of their rows."""

_FEWEST_ROWS = 3
_MOST_NODES = 64


def pairwise_rows(loss: Tensor) -> int | None:
    """Return the number of rows n if a loss is a mean over all n × n pairs of an output and a constant.

    That is what comes of outputs (n, 1) and targets (n,), which broadcast to (n, n). Each pair enters by itself, so the
    mean over the targets is the same function of every output, whose best value does not depend on the inputs. A loss
    that also compares outputs with each other, or has another term, is none of these.

    Args:
        loss: The loss, before its backward pass or after it.
    """
    waiting: list[Any] = [] if loss.grad_fn is None else [loss.grad_fn]
    rows = 0
    broadcast = set[tuple[int, ...]]()
    for _ in range(_MOST_NODES):
        if not waiting:
            one_way = bool(broadcast) and ((rows, 1) not in broadcast or len(broadcast) == 1)
            return rows if one_way and rows >= _FEWEST_ROWS else None
        node = waiting.pop()
        name, shape = node.name(), result_shape(node)
        if shape == ():
            known = name in _ON_SCALARS or name in _LOSSES
        else:
            known = shape is not None and len(shape) == 2 and shape[0] == shape[1] and rows in (0, shape[0])
            known = known and (name in _BY_ENTRY or name in _LOSSES or name == _EXPAND)
            rows = shape[0] if known and shape else rows
        if not known:
            return None
        for child in (child for child, _ in node.next_functions if child is not None):
            inner = result_shape(child)
            if shape == () or inner == shape:
                waiting.append(child)
            elif inner in ((rows,), (rows, 1), (1, rows)) and not _is_leaf(child) and not _has_matrix(node):
                broadcast.add(inner)
            else:
                return None
    return None


def multiplies_outputs(loss: Tensor, arguments: Iterable[Tensor]) -> bool:
    """Return whether a loss multiplies its outputs by themselves or by weights: they are then embeddings.

    Losses of pairs, triplets and margins between classes compare embeddings by products or distances of all rows, of
    the batch or of weights of the loss's own; outputs that estimate the targets are compared with these by entries.

    Args:
        loss: The loss, before its backward pass or after it.
        arguments: What the loss received; the graph is not followed beyond.
    """
    waiting: list[Any] = [] if loss.grad_fn is None else [loss.grad_fn]
    seen = set[Any](argument.grad_fn for argument in arguments)
    for _ in range(_MOST_NODES):
        while waiting and waiting[-1] in seen:
            waiting.pop()
        if not waiting:
            return False
        node = waiting.pop()
        seen.add(node)
        children = [child for child, _ in node.next_functions if child is not None]
        if node.name() in _PRODUCTS and len(children) > 1:
            return True
        waiting += children
    return False


def _has_matrix(node: Any) -> bool:
    """Return whether the other operand of a product or a loss is a matrix: weights of pairs, or a target for each."""
    try:
        others = [getattr(node, f"_saved_{name}", None) for name in ("other", "target")]
    except RuntimeError:  # freed by the backward pass
        return True
    return any(
        isinstance(each, Tensor) and each.ndim > 1 and 0 not in each.stride() and 1 not in each.shape for each in others
    )


def _is_leaf(node: Any) -> bool:
    """Return whether a node stands for a parameter, or a view of it, rather than for what a model computes."""
    while node.name() in _VIEWS:
        node = node.next_functions[0][0]
    return not node.next_functions
