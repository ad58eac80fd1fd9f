"""Reads from the autograd graph which function computed a loss, and from which outputs and targets."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from autotrainer.backends.pytorch.losses.pairwise_loss import pairwise_rows
from autotrainer.backends.pytorch.model.loss_kinds import loss_info, of_positives
from autotrainer.records.signals import MAX_ROWS
from autotrainer.records.task import MASKED

__all__ = [
    "graph_parameters",
    "has_hooks",
    "is_multiple",
    "loss_function",
    "loss_parameters",
    "masked",
    "of_node",
    "outputs_and_targets",
    "outputs_and_targets_by_rows",
    "weights_in_graph",
]

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

_SCALAR_OPERATIONS = frozenset(f"{name}Backward0" for name in ("Add", "Div", "Mean", "Mul", "Sum"))
"""What is done with the values of a loss function: terms are added, weighted, averaged."""

_SCALING = frozenset({"DivBackward0", "MulBackward0"})
_UNCHANGED = frozenset(f"{name}Backward0" for name in ("Alias", "Clone", "Squeeze", "ToCopy", "View"))
"""Operations on a scalar that do not change its value, but for rounding."""

_MOST_FACTORS = 16
"""Constants that a loss is multiplied by, at most."""

_REDUCING = {"MeanBackward0": "mean", "SumBackward0": "sum"}
"""After which a loss function may have been computed row by row. Rows that are multiplied, such as by the advantage of
an action, are no targets to be met."""

_MOST_TERMS = 1000
"""Operations after which a loss is taken for one of another kind: those of 300 time steps."""


def loss_function(loss: Tensor, *, mean: bool = False) -> Callable[..., Tensor] | None:
    """Return the function of `torch.nn.functional` that a loss comes from, with its reduction.

    Args:
        loss: The loss, before its backward pass or after it.
        mean: Whether the loss is known to be a mean: a sum divided by the number of rows, or a multiple of a mean that
            is added up to one.

    Returns:
        The function, marked as weighted if the loss is a sum or a multiple of its values; None if there is none, or if
        the loss has other terms, too.
    """
    nodes = _terms(loss)
    if not nodes:
        return None
    node = nodes[0]
    if _is_single_row(node):
        return None
    function = _function(node)
    reduction, root = _REDUCTIONS[node._saved_reduction], _without_unit_factors(loss.grad_fn)
    alone = node is root
    if mean and is_multiple(loss, node):
        reduction, alone = "mean", True
    if reduction == "none" and root is not None and root.name() in _REDUCING and root.next_functions[0][0] is node:
        reduction, alone = _REDUCING[root.name()], True
    reduced = functools.partial(function, reduction=reduction)
    if _is_weighted(node) or not alone:
        vars(reduced)["loss_info"] = replace(loss_info(reduced), weighted=True)
    return reduced


def is_multiple(loss: Tensor, node: Any) -> bool:
    """Return whether a loss is a multiple, by a constant, of the value that a node of its graph has computed.

    Args:
        loss: The loss, before its backward pass or after it.
        node: The node.
    """
    current = loss.grad_fn
    for _ in range(_MOST_FACTORS):
        if current is node or current is None:
            return current is node
        children = [child for child, _ in current.next_functions]
        if current.name() in _SCALING and sum(child is not None for child in children) == 1:
            current = next(child for child in children if child is not None)
        elif current.name() in _UNCHANGED and len(children) == 1:
            current = children[0]
        else:
            return False
    return False


def _without_unit_factors(node: Any) -> Any:
    """Return the node below multiplications with the number 1, as of libraries that divide by a number of batches."""
    while node is not None and node.name() in ("DivBackward0", "MulBackward0"):
        try:
            factor = getattr(node, "_saved_other", None)
        except RuntimeError:  # freed by the backward pass
            break
        if not isinstance(factor, Tensor) or factor.ndim or factor.device.type != "cpu" or float(factor) != 1:
            break  # reading a number from another device would wait for it
        node = node.next_functions[0][0]
    return node


def outputs_and_targets(loss: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return outputs and targets that a loss of `loss_function` was computed from; None for any other loss.

    For a cross-entropy of logits the outputs are the log-probabilities, which the graph holds, unless the logits come
    directly from an activation. Of several terms, such as those of time steps, they are an equal share of the rows of
    each; but not of terms with one target each, as for real and generated samples: adversaries need not succeed.

    Args:
        loss: The loss, before its backward pass.
    """
    if pairwise_rows(loss) is not None:
        return None, None  # whose shapes are no longer those of rows
    return outputs_and_targets_by_rows(loss)


def outputs_and_targets_by_rows(loss: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return the same of a loss that is known not to be one of `pairwise_rows`."""
    nodes = _terms(loss)
    if any(has_hooks(each) for node in nodes for each in (node, _activated_logits(node)) if each is not None):
        return None, None
    pairs = [(_outputs(node), _targets(node)) for node in nodes]
    if any(not (output.ndim and target.ndim) or target.requires_grad for output, target in pairs):
        return None, None  # of a single row, or of two outputs
    if len(pairs) < 2:
        return pairs[0] if pairs else (None, None)
    if len({(output.shape[1:], target.shape[1:]) for output, target in pairs}) > 1 or not pairs[0][0].ndim:
        return None, None
    if all(bool((target == target.reshape(-1)[:1]).all()) for _, target in pairs):
        return None, None
    share = max(1, MAX_ROWS // len(pairs))
    outputs, targets = (torch.cat([each[:share] for each in part]) for part in zip(*pairs, strict=True))
    return outputs, targets


def weights_in_graph(loss: Tensor) -> Tensor | None:
    """Return the weights of classes that a loss was computed with, as `loss_kinds.class_weights`; None without any.

    Args:
        loss: The loss, before its backward pass.
    """
    nodes = _terms(loss)
    if not nodes or has_hooks(nodes[0]):
        return None
    if nodes[0].name().startswith("NllLoss"):
        weights: Tensor | None = nodes[0]._saved_weight
        return weights
    return of_positives(getattr(nodes[0], "_saved_pos_weight", None))


def _terms(loss: Tensor) -> list[Any]:
    """Return the nodes of the one loss function whose sum, mean or multiple a loss is; empty for any other loss."""
    if loss.grad_fn is None:
        return []
    waiting: list[tuple[Any, bool]] = [(loss.grad_fn, True)]
    nodes: list[Any] = []
    visited = 0
    while waiting:
        node, by_rows = waiting.pop()
        visited += 1
        if node.name() in _FUNCTIONS and (by_rows or node._saved_reduction):
            nodes.append(node)
        elif node.name() in _SCALAR_OPERATIONS and visited < _MOST_TERMS:
            by_rows = node.name() in _REDUCING
            waiting.extend((child, by_rows) for child, _ in reversed(node.next_functions) if child is not None)
        else:
            return []
    same = len({(node.name(), node._saved_reduction) for node in nodes}) == 1
    return nodes if same else []


def of_node(node: Any) -> tuple[functools.partial[Tensor], Tensor, Tensor]:
    """Return the loss function of a node, with its reduction, and outputs and targets, as `outputs_and_targets` does.

    Args:
        node: A node of one of the functions of `loss_function`, before its backward pass, without hooks.
    """
    function = functools.partial(_function(node), reduction=_REDUCTIONS[node._saved_reduction])
    if _is_weighted(node):
        vars(function)["loss_info"] = replace(loss_info(function), weighted=True)
    return function, _outputs(node), _targets(node)


def _function(node: Any) -> Callable[..., Tensor]:
    return F.cross_entropy if _activated_logits(node) is not None else _FUNCTIONS[node.name()]


def _is_weighted(node: Any) -> bool:
    return any(_has_saved_tensor(node, name) for name in ("_saved_weight", "_saved_pos_weight"))


def _outputs(node: Any) -> Tensor:
    activated = _activated_logits(node)
    outputs: Tensor = node._saved_self if activated is None else activated._saved_result
    return outputs


def masked(targets: Tensor, ignored: Any) -> Tensor:
    """Return class indices with those that the loss ignores (its ``ignore_index``) replaced by `MASKED`."""
    if ignored == MASKED or not isinstance(ignored, int) or targets.dtype.is_floating_point:
        return targets
    found = targets == ignored
    signed = targets if targets.dtype.is_signed else targets.long()
    return signed.masked_fill(found, MASKED)


def _targets(node: Any) -> Tensor:
    return masked(node._saved_target, int(getattr(node, "_saved_ignore_index", MASKED)))


def loss_parameters(loss: Tensor | None) -> set[int]:
    """Return the ids of the parameters that a loss depends on; works after its backward pass, too."""
    return {id(parameter) for parameter in graph_parameters(loss)}


def graph_parameters(result: Tensor | None) -> list[Tensor]:
    """Return the leaves that a tensor depends on: parameters, and inputs that require gradients."""
    waiting: list[Any] = [] if result is None or result.grad_fn is None else [result.grad_fn]
    visited, parameters = set(waiting), list[Tensor]()
    while waiting and len(visited) < _MOST_NODES:
        node = waiting.pop()
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            parameters.append(variable)
        unvisited = {child for child, _ in node.next_functions if child is not None} - visited
        visited |= unvisited
        waiting.extend(unvisited)
    return parameters


def _is_single_row(node: Any) -> bool:
    """Return whether a loss has the target of one row without a batch; False once the backward pass has freed it."""
    try:
        return not has_hooks(node) and not node._saved_target.ndim
    except RuntimeError:
        return False


def has_hooks(node: Any) -> bool:
    """Return whether reading what an operation has saved runs other code, such as a checkpointed forward pass."""
    raw = [getattr(node, name) for name in dir(node) if name.startswith("_raw_saved_")]
    return any(getattr(each, "unpack_hook", None) is not None for each in raw)


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
