"""Reads from the autograd graph what a loss without a module computes, and from which outputs and targets."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from autotrainer.backends.pytorch.model.loss_kinds import loss_info

__all__ = ["leaves", "loss_function", "outputs_and_targets"]

_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "NllLossBackward0": F.nll_loss,
    "NllLoss2DBackward0": F.nll_loss,
    "BinaryCrossEntropyBackward0": F.binary_cross_entropy,
    "BinaryCrossEntropyWithLogitsBackward0": F.binary_cross_entropy_with_logits,
    "MseLossBackward0": F.mse_loss,
    "SmoothL1LossBackward0": F.smooth_l1_loss,
    "HuberLossBackward0": F.huber_loss,
}
"""What torch computes by the last operation; `torch.nn.functional.cross_entropy` ends with the first one too."""

_REDUCTIONS = ("none", "mean", "sum")
_ACTIVATIONS = ("SoftmaxBackward0", "SigmoidBackward0", "ReluBackward0", "TanhBackward0")
"""Those which leave their result in the graph, and which a cross-entropy of logits may be given by mistake."""

_MOST_NODES = 200_000


def loss_function(loss: Tensor) -> Callable[..., Tensor] | None:
    """Return the function of `torch.nn.functional` that a loss comes from, with its reduction.

    Args:
        loss: The loss, before its backward pass or after it.

    Returns:
        The function; None where the last operation is none of a loss.
    """
    node: Any = loss.grad_fn
    kind = None if node is None else _FUNCTIONS.get(node.name())
    if kind is None:
        return None
    kind = F.cross_entropy if _activated_logits(node) is not None else kind
    function = functools.partial(kind, reduction=_REDUCTIONS[node._saved_reduction])
    if any(_is_saved(node, name) for name in ("_saved_weight", "_saved_pos_weight")):
        vars(function)["loss_info"] = replace(loss_info(function), weighted=True)
    return function


def outputs_and_targets(loss: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return what a loss of `loss_function` was computed from; None for both where it is no such loss.

    For a cross-entropy of logits the outputs are the logarithms of the probabilities, which the graph holds, unless the
    logits come from an activation.

    Args:
        loss: The loss, before its backward pass.
    """
    node: Any = loss.grad_fn
    if node is None or node.name() not in _FUNCTIONS:
        return None, None
    activated = _activated_logits(node)
    return node._saved_self if activated is None else activated._saved_result, node._saved_target


def leaves(loss: Tensor | None) -> set[int]:
    """Return the ids of the parameters that a loss depends on; also after its backward pass."""
    waiting: list[Any] = [] if loss is None or loss.grad_fn is None else [loss.grad_fn]
    seen, found = set(waiting), set[int]()
    while waiting and len(seen) < _MOST_NODES:
        node = waiting.pop()
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            found.add(id(variable))
        fresh = {child for child, _ in node.next_functions if child is not None} - seen
        seen |= fresh
        waiting.extend(fresh)
    return found


def _activated_logits(node: Any) -> Any:
    """Return the activation that a cross-entropy takes for logits, if they come straight from one."""
    before = node.next_functions[0][0] if node.name().startswith("NllLoss") else None
    if before is None or before.name() != "LogSoftmaxBackward0":
        return None
    last = before.next_functions[0][0]
    return last if last is not None and last.name() in _ACTIVATIONS else None


def _is_saved(node: Any, name: str) -> bool:
    """Say whether an operation was given a tensor; after the backward pass that can't be read any more."""
    try:
        return getattr(node, name, None) is not None
    except RuntimeError:
        return True
