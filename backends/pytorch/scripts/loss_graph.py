"""Reads from the autograd graph which function computed a loss, and from which outputs and targets."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from autotrainer.backends.pytorch.model.loss_kinds import loss_info

__all__ = ["loss_function", "loss_parameters", "outputs_and_targets"]

_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "NllLossBackward0": F.nll_loss,
    "NllLoss2DBackward0": F.nll_loss,
    "BinaryCrossEntropyBackward0": F.binary_cross_entropy,
    "BinaryCrossEntropyWithLogitsBackward0": F.binary_cross_entropy_with_logits,
    "MseLossBackward0": F.mse_loss,
    "SmoothL1LossBackward0": F.smooth_l1_loss,
    "HuberLossBackward0": F.huber_loss,
}
"""Loss functions by the last node of the graph; `torch.nn.functional.cross_entropy` ends with the first one, too."""

_REDUCTIONS = ("none", "mean", "sum")
_ACTIVATIONS = ("SoftmaxBackward0", "SigmoidBackward0", "ReluBackward0", "TanhBackward0")
"""Activations whose result is in the graph, and whose output may be passed as logits by mistake."""

_MOST_NODES = 200_000


def loss_function(loss: Tensor) -> Callable[..., Tensor] | None:
    """Return the function of `torch.nn.functional` that a loss comes from, with its reduction.

    Args:
        loss: The loss, before its backward pass or after it.

    Returns:
        The function; None if the last operation is not that of a loss.
    """
    node: Any = loss.grad_fn
    function = None if node is None else _FUNCTIONS.get(node.name())
    if function is None:
        return None
    function = F.cross_entropy if _activated_logits(node) is not None else function
    reduced = functools.partial(function, reduction=_REDUCTIONS[node._saved_reduction])
    if any(_has_saved_tensor(node, name) for name in ("_saved_weight", "_saved_pos_weight")):
        vars(reduced)["loss_info"] = replace(loss_info(reduced), weighted=True)
    return reduced


def outputs_and_targets(loss: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return outputs and targets that a loss of `loss_function` was computed from; None for any other loss.

    For a cross-entropy of logits the outputs are the log-probabilities, which the graph holds, unless the logits come
    directly from an activation.

    Args:
        loss: The loss, before its backward pass.
    """
    node: Any = loss.grad_fn
    if node is None or node.name() not in _FUNCTIONS:
        return None, None
    activated = _activated_logits(node)
    return node._saved_self if activated is None else activated._saved_result, node._saved_target


def loss_parameters(loss: Tensor | None) -> set[int]:
    """Return the ids of the parameters that a loss depends on; works after its backward pass, too."""
    waiting: list[Any] = [] if loss is None or loss.grad_fn is None else [loss.grad_fn]
    visited, parameters = set(waiting), set[int]()
    while waiting and len(visited) < _MOST_NODES:
        node = waiting.pop()
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            parameters.add(id(variable))
        unvisited = {child for child, _ in node.next_functions if child is not None} - visited
        visited |= unvisited
        waiting.extend(unvisited)
    return parameters


def _activated_logits(node: Any) -> Any:
    """Return the activation node whose output a cross-entropy takes as logits, or None."""
    before = node.next_functions[0][0] if node.name().startswith("NllLoss") else None
    if before is None or before.name() != "LogSoftmaxBackward0":
        return None
    last = before.next_functions[0][0]
    return last if last is not None and last.name() in _ACTIVATIONS else None


def _has_saved_tensor(node: Any, name: str) -> bool:
    """Return whether an operation has saved a tensor; assumed after the backward pass, which frees it."""
    try:
        return getattr(node, name, None) is not None
    except RuntimeError:
        return True
