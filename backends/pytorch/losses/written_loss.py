"""Recognizes, in the autograd graph, common losses that a program writes out, or reduces itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from autotrainer.backends.pytorch.losses.loss_graph import has_hooks, of_node
from autotrainer.backends.pytorch.losses.loss_terms import constant_factor, entries_of_term
from autotrainer.backends.pytorch.losses.returned_tensors import ACTIVATIONS, RESHAPING, Returned, known_tensor
from autotrainer.backends.pytorch.runtime.torch_private import signed
from autotrainer.records.signals import MAX_VALUES

__all__ = ["WrittenLoss", "written_loss"]

_KEEPING = RESHAPING | {"AddBackward0", "ClampBackward1", "ClampMaxBackward0", "ClampMinBackward0"}
"""Operations that keep a logarithm finite, among others."""

_REDUCTIONS = frozenset({"MeanBackward0", "MeanBackward1", "SumBackward0", "SumBackward1", "SqrtBackward0"})
_BOTH = 2
_MOST_STEPS = 16
_ROUNDING = 4.0
"""Largest distance of a restored target from a whole number that is rounding, in units of its precision."""
_MOST_ROUNDING = 0.01
_COMPLEMENT = 1e-3
"""Largest difference of two values from a sum of 1: constants that keep a logarithm finite are smaller."""


@dataclass(frozen=True, slots=True)
class WrittenLoss:
    """A loss that is written out, or a loss function of single entries that the program reduces itself.

    Attributes:
        function: The function of `torch.nn.functional` whose values it reduces.
        reduction: ``mean`` or ``sum``; None if it is another function of these values, such as a multiple.
        outputs: Outputs of the first rows.
        targets: Their targets.
        rows: Number of all rows.
        count: Number of all values, which is that of the rows for classes.
        mean: Mean of all values.
        value: Their mean or sum, as it is reduced.
        factor: What the loss is a multiple of the reduced values by; NaN, with its sign, without a ``reduction``.
        activation: Activation of the outputs after they left the model; None if there is none.
        direct: Whether the outputs are what the model has returned.
    """

    function: Callable[..., Tensor]
    reduction: str | None
    outputs: Tensor
    targets: Tensor
    rows: int
    count: int
    mean: Tensor
    value: Tensor
    factor: float
    activation: str | None
    direct: bool


@dataclass(frozen=True, slots=True)
class _Values:
    """The values of a loss before they are reduced, up to their sign: their function, outputs and targets."""

    function: Callable[..., Tensor]
    outputs: Tensor
    targets: Tensor
    values: Tensor
    sign: int = 1
    activation: str | None = None
    direct: bool = False


def written_loss(node: Any, returned: Returned) -> WrittenLoss | None:
    """Return what a node of the graph computes if that is a reduced squared or absolute error, or a cross-entropy.

    Errors are differences of outputs and constants; their square may be a power or a product, and it may be reduced
    over any axes, or by a norm. They may also come from a loss function without a reduction. Cross-entropies are
    logarithms of probabilities that are picked by class indices, or multiplied by constants.

    Args:
        node: A node whose result is a scalar, before its backward pass.
        returned: What the model has returned.
    """
    reductions: list[str] = []
    factor, summands = 1.0, 0
    for _ in range(_MOST_STEPS):
        if node is None or has_hooks(node):
            return None
        values = _values(node, returned, summed=reductions[-1:] in (["SumBackward0"], ["SumBackward1"]))
        if values is not None:
            if node.name() == "LinalgVectorNormBackward0":
                reductions.append("SqrtBackward0")
            return _reduced(values, reductions, factor * values.sign, summands)
        constant = constant_factor(node)
        if constant is not None:
            number, node = constant
            factor *= float(number)
            continue
        if node.name() in _REDUCTIONS:
            if not reductions:
                summands = int(getattr(node, "_saved_self_sym_numel", 0))
            reductions.append(node.name())
        elif node.name() not in RESHAPING:
            return None
        node = node.next_functions[0][0]
    return None


def _reduced(found: _Values, reductions: list[str], factor: float, summands: int) -> WrittenLoss | None:
    """Return the loss that reductions make of values, the last one first, which has this number of summands."""
    values, outputs, targets = found.values, found.outputs, found.targets
    if not (reductions and values.numel() and outputs.ndim and targets.ndim):
        return None
    by_class = outputs.ndim > values.ndim and reductions[-1] == "SumBackward1"  # part of the function itself
    left = reductions[:-1] if by_class else reductions
    mean, rows = values.mean(), outputs.shape[0]
    last, axes = left[0] if left else "", set(left[1:])
    reduction = None
    if last == "SumBackward0" and axes <= {"SumBackward1"}:
        reduction = "sum"
    elif last == "MeanBackward0" and axes <= {"MeanBackward1"}:
        reduction = "mean"
    elif last == "MeanBackward0" and axes == {"SumBackward1"} and summands:  # a mean over rows of their sums
        reduction, factor = "mean", factor * values.numel() / summands
    value = values.sum() if reduction == "sum" else mean
    first = max(1, MAX_VALUES // max(1, outputs[0].numel()))
    return WrittenLoss(
        found.function,
        reduction if abs(factor) == 1 else None,
        outputs[:first],
        targets[:first],
        rows,
        values.numel(),
        mean,
        value,
        factor if reduction is not None else math.copysign(math.nan, factor),
        found.activation,
        found.direct,
    )


def _values(node: Any, returned: Returned, *, summed: bool) -> _Values | None:
    """Return the values that a node computes if they are those of a loss function."""
    name = node.name()
    if (entries := entries_of_term(node)) is not None:
        function, outputs, targets = of_node(node)
        return _Values(function.func, outputs.detach(), targets.detach(), entries.detach())
    if name in ("PowBackward0", "AbsBackward0", "LinalgVectorNormBackward0"):
        exponent = getattr(node, "_saved_exponent", getattr(node, "_saved_ord", 2))
        return _errors(node, returned) if exponent == _BOTH else None
    if name == "MulBackward0":
        children = [child for child, _ in node.next_functions]
        if None not in children and torch.equal(node._saved_self, node._saved_other):
            return _errors(node, returned)
        return _weighted_logarithms(node) if summed else None
    if name in ("IndexBackward0", "GatherBackward0"):
        return _picked(node)
    return _binary(node) if name in ("AddBackward0", "SubBackward0") else None


def _errors(node: Any, returned: Returned) -> _Values | None:
    """Return the squared or absolute values of a difference of an output and a constant."""
    below = node.next_functions[0][0]
    if below is None or below.name() != "SubBackward0" or len(below.next_functions) != _BOTH:
        return None
    (minuend, at), (subtrahend, also_at) = below.next_functions
    if (minuend is None) == (subtrahend is None) or below._saved_alpha != 1:
        return None
    difference: Tensor = node._saved_self.detach()
    if difference.dtype not in (torch.float32, torch.float64):  # rounding would be part of the targets
        return None
    output = known_tensor(*((minuend, at) if subtrahend is None else (subtrahend, also_at)), returned)
    if output is None or output.values.numel() != difference.numel():
        return None
    outputs = output.values.reshape(difference.shape)
    targets = _restored(outputs, -difference if subtrahend is None else difference)
    if node.name() == "AbsBackward0":
        return _Values(F.l1_loss, outputs, targets, difference.abs(), 1, output.activation, output.direct)
    return _Values(F.mse_loss, outputs, targets, difference.square(), 1, output.activation, output.direct)


def _restored(outputs: Tensor, difference: Tensor) -> Tensor:
    """Return targets from outputs and what they differ by, whole numbers without the rounding of the difference."""
    targets = outputs.float() + difference.float()
    size = outputs.abs().float() + difference.abs().float()
    rounding = (_ROUNDING * torch.finfo(difference.dtype).eps * size).clamp_max(_MOST_ROUNDING)
    whole = targets.round()
    return whole if bool(((targets - whole).abs() <= rounding).all()) else targets


def _picked(node: Any) -> _Values | None:
    """Return the negative logarithms of probabilities that class indices pick, one in each row."""
    logs = _logarithms(node.next_functions[0][0])
    if logs is None or logs.ndim != _BOTH:
        return None
    if node.name() == "GatherBackward0":
        indices = node._saved_index
        if signed(node._saved_dim) not in (1, -1) or indices.shape != (len(logs), 1):
            return None
        labels = indices[:, 0]
    else:
        indices = list(node._saved_indices)
        if len(indices) != _BOTH or any(index is None or index.shape != (len(logs),) for index in indices):
            return None
        rows, labels = (index.to(logs.device) for index in indices)
        if not torch.equal(rows, torch.arange(len(logs), device=logs.device)):
            return None
    values = -logs.gather(1, labels[:, None])[:, 0]
    return _of_classes(node.next_functions[0][0], F.nll_loss, logs, labels, values)


def _weighted_logarithms(node: Any) -> _Values | None:
    """Return the cross-entropies of rows of probabilities that are constants, such as one-hot rows."""
    factors = _factors(node)
    logs = None if factors is None else _logarithms(factors[0])
    if factors is None or logs is None or logs.ndim < _BOTH or factors[1].shape != logs.shape:
        return None
    targets = factors[1].detach()
    if bool((targets < 0).any()) or not torch.allclose(targets.sum(-1), torch.ones_like(targets.sum(-1)), atol=1e-3):
        return None
    return _of_classes(factors[0], F.cross_entropy, logs, targets, -(logs * targets).sum(-1))


def _of_classes(node: Any, function: Callable[..., Tensor], logs: Tensor, targets: Tensor, values: Tensor) -> _Values:
    """Return values whose outputs are log-probabilities, or the activations that these take for logits."""
    before = node.next_functions[0][0] if node.name() == "LogSoftmaxBackward0" else None
    if before is not None and before.name() in ACTIVATIONS and not has_hooks(before):
        outputs, activation = before._saved_result.detach(), ACTIVATIONS[before.name()]
        return _Values(F.cross_entropy, outputs, targets, values, -1, activation)
    return _Values(function, logs, targets, values, -1, "log_softmax")


def _binary(node: Any) -> _Values | None:
    """Return binary cross-entropies: the logarithms of p and 1 − p, multiplied by constants that add up to 1."""
    products = [_factors(child) for child, _ in node.next_functions if child is not None]
    parts = [product for product in products if product is not None and product[0].name() == "LogBackward0"]
    if len(parts) != _BOTH or node.name() != "AddBackward0" or any(has_hooks(part[0]) for part in parts):
        return None
    (log, labels), (other, rest) = parts
    p, q = log._saved_self.detach(), other._saved_self.detach()
    if not (p.shape == q.shape == labels.shape == rest.shape):
        return None
    if not all(bool(((a + b - 1).abs() <= _COMPLEMENT).all()) for a, b in ((p, q), (labels, rest))):
        return None
    if _is_complement(log) and not _is_complement(other):
        p, q, labels, rest, log = q, p, rest, labels, other
    values = -(labels * p.log() + rest * q.log()).detach()
    source = _below_constants(log)
    activation = None if source is None else ACTIVATIONS.get(source.name())
    return _Values(F.binary_cross_entropy, p, labels.detach(), values, -1, activation)


def _is_complement(node: Any) -> bool:
    """Return whether a logarithm is that of a difference from 1."""
    below = _below_constants(node)
    return below is not None and below.name() in ("RsubBackward0", "RsubBackward1", "SubBackward0")


def _below_constants(node: Any) -> Any:
    """Return the node below a logarithm, and below what keeps it finite."""
    below = node.next_functions[0][0]
    while below is not None and below.name() in _KEEPING:
        below = below.next_functions[0][0]
    return below


def _factors(node: Any) -> tuple[Any, Tensor] | None:
    """Return node and constant of the product of a tensor of the graph and a constant tensor."""
    if node is None or node.name() != "MulBackward0" or has_hooks(node):
        return None
    first, second = (child for child, _ in node.next_functions)
    if (first is None) == (second is None):
        return None
    constant = node._saved_other if second is None else node._saved_self
    child = first if second is None else second
    return (child, constant) if isinstance(constant, Tensor) and constant.numel() > 1 else None


def _logarithms(node: Any) -> Tensor | None:
    """Return the logarithms of probabilities that a node computes."""
    if node is None or has_hooks(node):
        return None
    if node.name() == "LogSoftmaxBackward0":
        result: Tensor = node._saved_result
        return result.detach() if signed(node._saved_dim) in (-1, result.ndim - 1) else None
    below = _below_constants(node) if node.name() == "LogBackward0" else None
    if below is None or below.name() != "SoftmaxBackward0" or has_hooks(below):
        return None
    if signed(below._saved_dim) not in (-1, below._saved_result.ndim - 1):
        return None
    logs: Tensor = node._saved_self.detach().log()
    return logs
