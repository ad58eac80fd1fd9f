"""Recognizes, in the autograd graph, an overlap loss (Dice, Jaccard) that is computed from raw outputs.

The loss is 1 − 2 Σpt ÷ (Σp + Σt) or similar, for probabilities p and masks t. Of raw outputs, which may be negative and
of any size, the ratio has no bounds: the sum in the denominator can be made zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from autotrainer.backends.pytorch.losses.loss_graph import has_hooks
from autotrainer.backends.pytorch.losses.returned_tensors import RESHAPING
from autotrainer.backends.pytorch.runtime.torch_private import result_shape

__all__ = ["RawOverlap", "raw_overlap", "share_outside"]

_ON_SUMS = frozenset(
    f"{name}Backward{version}"
    for name in (
        *("Add", "Alias", "Clamp", "ClampMax", "ClampMin", "Div", "Log", "Maximum", "Mean", "Mul", "Neg", "Pow"),
        *("Rsub", "Select", "Slice", "Squeeze", "Stack", "Sub", "Sum", "ToCopy", "Unsqueeze", "View"),
    )
    for version in (0, 1)
)
"""What is done with sums and ratios."""

_MOVING = RESHAPING | {f"{name}Backward0" for name in ("Permute", "Select", "Slice", "Transpose")}
_SUMS = frozenset({"SumBackward0", "SumBackward1", "MeanBackward0", "MeanBackward1"})
_RAW = frozenset(
    f"{name}Backward0"
    for name in (
        *("Addmm", "Bmm", "Convolution", "LeakyRelu", "MkldnnConvolution", "Mm", "NativeBatchNorm"),
        *("UpsampleBilinear2D", "UpsampleNearest2D", "UpsampleNearest3D", "UpsampleTrilinear3D"),
    )
)
"""Operations whose results are no probabilities, unless by chance."""

_MOST_NODES = 256


@dataclass(frozen=True, slots=True)
class RawOverlap:
    """An overlap loss of raw outputs.

    Attributes:
        size: Number of raw outputs.
        alone: Whether the loss has no other term.
    """

    size: int
    alone: bool


def raw_overlap(loss: Tensor) -> RawOverlap | None:
    """Return what is known of an overlap loss if it takes raw outputs and binary masks; None for any other loss.

    Args:
        loss: The loss, before its backward pass.
    """
    ratios, alone = _ratios(loss.grad_fn)
    sizes = [size for size in map(_raw_outputs, ratios) if size]
    return RawOverlap(max(sizes), alone and len(sizes) == len(ratios)) if sizes else None


def _ratios(root: Any) -> tuple[list[Any], bool]:
    """Return the divisions whose operands both depend on weights, and whether a loss consists of them alone."""
    waiting, ratios, alone = [root] if root is not None else [], list[Any](), True
    for _ in range(_MOST_NODES):
        if not waiting:
            return ratios, alone
        node = waiting.pop()
        children = [child for child, _ in node.next_functions if child is not None]
        if node.name() == "DivBackward0" and len(children) == 2:
            ratios.append(node)
        elif node.name() in _ON_SUMS:
            waiting.extend(children)
        else:
            alone = False
    return [], False


def _raw_outputs(ratio: Any) -> int:
    """Return how many raw outputs a ratio sums in its denominator and, times masks, in its numerator; 0 if none."""
    above, below = (child for child, _ in ratio.next_functions)
    summed = {_source(child) for child in _summed(below)}
    for product in _summed(above):
        if product.name() != "MulBackward0" or has_hooks(product):
            continue
        factors = [child for child, _ in product.next_functions if child is not None]
        shape = result_shape(_source(factors[0])) if len(factors) == 1 else None
        if shape is None or _source(factors[0]) not in summed or _source(factors[0]).name() not in _RAW:
            continue
        mask = product._saved_other if product._saved_self is None else product._saved_self
        if isinstance(mask, Tensor) and mask.ndim and bool(((mask == 0) | (mask == 1)).all()):
            return math.prod(shape)
    return 0


def _summed(node: Any) -> Iterator[Any]:
    """Yield what is summed over entries below the arithmetic of a numerator or denominator."""
    waiting = [node]
    for _ in range(_MOST_NODES):
        if not waiting:
            return
        current = waiting.pop()
        children = [child for child, _ in current.next_functions if child is not None]
        if current.name() in _SUMS:
            yield from children
        elif current.name() in _ON_SUMS:
            waiting.extend(children)


def _source(node: Any) -> Any:
    """Return the node whose result is only reshaped, cut or copied by those up to this one."""
    while node.name() in _MOVING and node.next_functions[0][0] is not None:
        node = node.next_functions[0][0]
    return node


def share_outside(outputs: Tensor) -> float:
    """Return the share of outputs that may make the sum in the denominator zero: those below 0."""
    return float((outputs < 0).float().mean()) if outputs.numel() else math.nan
