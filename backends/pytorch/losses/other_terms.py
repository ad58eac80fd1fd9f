"""Whether the other terms of a loss leave its main term a measure of success."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["are_penalties"]

_BY_ENTRY = frozenset(
    f"{name}Backward{version}"
    for name in (
        *("Abs", "Add", "Alias", "Clamp", "ClampMax", "ClampMin", "Clone", "Div", "Exp", "Expand", "LinalgVectorNorm"),
        *("Log", "MaskedFill", "Mean", "Mul", "Neg", "Pow", "ReshapeAlias", "Rsub", "Sqrt", "Squeeze", "Stack", "Sub"),
        *("Sum", "ToCopy", "Unsqueeze", "UnsafeView", "View"),
        *("NllLoss", "NllLoss2D", "BinaryCrossEntropy", "BinaryCrossEntropyWithLogits", "MseLoss", "Gather", "Index"),
    )
    for version in (0, 1, 2)
)
"""Operations on entries and their sums, and loss functions: what comes before them are outputs or parameters."""

_PARAMETER = "torch::autograd::AccumulateGrad"
_MOST_NODES = 4000


def are_penalties(terms: Iterable[Any], main: Any) -> bool:
    """Return whether terms depend on parameters, or on the outputs of the main term, and on nothing else.

    Penalties on weights and outputs, and smoothed labels, do. The objective of a policy beside a loss of values, or of
    classes beside an auxiliary loss, comes from outputs of its own: the model is there for these.

    Args:
        terms: Nodes of the graph that computed the other terms.
        main: That of the main term.
    """
    allowed = _sources(main)
    others = [_sources(term) for term in terms]
    return allowed is not None and all(other is not None and other <= allowed for other in others)


def _sources(node: Any) -> set[Any] | None:
    """Return the nodes that computed what a term sums, without parameters; None if there are too many to look at."""
    waiting, seen, sources = [node], {node}, set()
    while waiting and len(seen) < _MOST_NODES:
        current = waiting.pop()
        if current.name() == _PARAMETER:
            continue
        if current.name() not in _BY_ENTRY:
            sources.add(current)
            continue
        children = {child for child, _ in current.next_functions if child is not None} - seen
        seen |= children
        waiting.extend(children)
    return None if waiting else sources
