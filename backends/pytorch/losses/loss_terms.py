"""The terms of a loss and the constant factor on all of them, from the autograd graph."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from autotrainer.backends.pytorch.losses.loss_graph import has_hooks
from autotrainer.backends.pytorch.runtime.torch_private import signed
from autotrainer.records.signals import REMAINDER

__all__ = [
    "LossTerms",
    "constant_factor",
    "entries_of_term",
    "loss_parts",
    "loss_terms",
    "terms_of_calls",
    "value_of_term",
]

_MOST_NODES = 100
"""Operations on scalars after which a loss is taken for one of another kind, such as a sum over time steps."""

_FEWEST_EQUAL = 8
"""Terms of one function from which they are parts of one term, such as those of time steps."""

_SQUARE = 2
_REDUCTIONS = ("none", "mean", "sum")
_STACKING = ("StackBackward0",)

_VALUES: dict[str, tuple[str, Callable[[Any], Tensor]]] = {
    "NllLossBackward0": (
        "cross_entropy",
        lambda node: F.nll_loss(
            node._saved_self,
            node._saved_target,
            node._saved_weight,
            ignore_index=signed(node._saved_ignore_index),
            reduction=_REDUCTIONS[node._saved_reduction],
        ),
    ),
    "BinaryCrossEntropyBackward0": (
        "binary_cross_entropy",
        lambda node: F.binary_cross_entropy(
            node._saved_self, node._saved_target, node._saved_weight, reduction=_REDUCTIONS[node._saved_reduction]
        ),
    ),
    "BinaryCrossEntropyWithLogitsBackward0": (
        "binary_cross_entropy",
        lambda node: F.binary_cross_entropy_with_logits(
            node._saved_self,
            node._saved_target,
            node._saved_weight,
            pos_weight=node._saved_pos_weight,
            reduction=_REDUCTIONS[node._saved_reduction],
        ),
    ),
    "MseLossBackward0": (
        "mse_loss",
        lambda node: F.mse_loss(node._saved_self, node._saved_target, reduction=_REDUCTIONS[node._saved_reduction]),
    ),
}
"""Loss functions whose value follows from what their node has saved."""


@dataclass(frozen=True, slots=True)
class LossTerms:
    """A loss, taken apart.

    Attributes:
        factor: Product of the constants that all of it is multiplied by, such as 1 ÷ the number of accumulated batches
            and the scale of a `torch.amp.GradScaler`: a number or a scalar tensor. NaN for a sum over rows, whose
            factor may make it a mean.
        terms: Terms by name, without that factor: scalar tensors. Empty unless there are several, and known.
    """

    factor: Tensor | float
    terms: Mapping[str, Tensor]


def loss_terms(loss: Tensor) -> LossTerms:
    """Take a scalar loss apart, before its backward pass.

    Terms are what sums, differences and multiples by constants are made of. The value of a term is known if it comes
    from a common loss function, whose inputs the graph holds; terms of unknown value are reported as their sum.
    """
    common, leaves = loss_parts(loss)
    factor = math.nan if leaves and all(_is_sum(leaf) for leaf, _ in leaves) else common
    counts = Counter(leaf.name() for leaf, _ in leaves)
    if not 2 <= len(leaves) < _MOST_NODES or max(counts.values()) >= _FEWEST_EQUAL:
        return LossTerms(factor, {})
    terms: dict[str, Tensor] = {}
    unknown = 0
    for leaf, weight in leaves:
        name, value = _value(leaf) if leaf.name() in _VALUES else _reduced(leaf)
        if value is None:
            unknown += 1
        else:
            terms[_unused(name, terms)] = value.detach() * weight
    if not terms:
        return LossTerms(factor, {})
    if unknown:
        total = loss.detach().float() / common
        terms[REMAINDER] = total - torch.stack([value.float().to(total.device) for value in terms.values()]).sum()
    return LossTerms(factor, terms)


def terms_of_calls(calls: Sequence[tuple[str, Tensor, Tensor | None]]) -> Mapping[str, Tensor]:
    """Return the values of calls of losses that entered one backward pass, weighted as they entered it.

    Args:
        calls: For each call its name, its value, and the gradient that arrived there.

    Returns:
        The terms, the largest weight being 1; empty for fewer than two calls, as the rest of the loss is not seen.
    """
    arrived = [(name, value, gradient) for name, value, gradient in calls if gradient is not None]
    if len(arrived) < 2:
        return {}
    device = arrived[0][2].device
    largest = torch.stack([gradient.detach().abs().float().to(device) for _, _, gradient in arrived]).max()
    terms: dict[str, Tensor] = {}
    for name, value, gradient in arrived:
        weight = gradient.detach().float() / largest.to(gradient.device)
        terms[_unused(name, terms)] = value.detach().float() * weight.to(value.device)
    return terms


def loss_parts(loss: Tensor) -> tuple[Tensor | float, list[tuple[Any, Tensor | float]]]:
    """Return the factor on all terms of a loss, and the nodes of the terms with their weights.

    Args:
        loss: The loss, a scalar, before its backward pass.
    """
    factor, node = _common_factor(loss.grad_fn)
    return factor, list(_leaves(node, 1.0, [_MOST_NODES]))


def value_of_term(node: Any) -> Tensor | None:
    """Return the value of a loss function, detached; None if it is another one, or has no reduction."""
    value = _value(node)[1]
    return None if value is None else value.detach()


def entries_of_term(node: Any) -> Tensor | None:
    """Return the values of a loss function of single entries that has no reduction and no weights; None for others."""
    entrywise = node.name() in _VALUES and not node.name().startswith("NllLoss")
    if not entrywise or node._saved_reduction or has_hooks(node):
        return None
    weighted = any(getattr(node, name, None) is not None for name in ("_saved_weight", "_saved_pos_weight"))
    targets = node._saved_target
    return None if weighted or targets.requires_grad else _VALUES[node.name()][1](node)


def _common_factor(node: Any) -> tuple[Tensor | float, Any]:
    """Return the constants that a whole loss is multiplied by, and the node before them."""
    factor: Tensor | float = 1.0
    for _ in range(_MOST_NODES):
        constant = constant_factor(node)
        if constant is None:
            break
        value, node = constant
        factor = factor * value
    return factor, node


def _leaves(node: Any, weight: Tensor | float, left: list[int]) -> Iterator[tuple[Any, Tensor | float]]:
    """Yield the nodes of the terms of a sum, with their weights; ``left`` bounds the work."""
    left[0] -= 1
    if left[0] < 0 or node is None:
        return
    name, children = node.name(), [child for child, _ in node.next_functions]
    constant = constant_factor(node)
    if constant is not None:
        yield from _leaves(constant[1], weight * constant[0], left)
    elif name in ("AddBackward0", "SubBackward0") and len(children) == 2:
        sign = (1.0 if name.startswith("Add") else -1.0) * float(getattr(node, "_saved_alpha", 1))
        yield from _leaves(children[0], weight, left)
        yield from _leaves(children[1], weight * sign, left)
    elif name in ("SumBackward0", "MeanBackward0") and children[0] is not None and children[0].name() in _STACKING:
        parts = [child for child, _ in children[0].next_functions]
        share = weight / len(parts) if name.startswith("Mean") else weight
        for part in parts[: left[0] + 1]:
            yield from _leaves(part, share, left)
    else:
        yield node, weight


def constant_factor(node: Any) -> tuple[Tensor | float, Any] | None:
    """Return constant and input of an operation that multiplies a tensor by one number; None for any other."""
    if node is None:
        return None
    name = node.name()
    children = [child for child, _ in node.next_functions]
    if name == "NegBackward0":
        return -1.0, children[0]
    if name in ("MeanBackward0", "SumBackward0") and len(getattr(node, "_saved_self_sym_sizes", (0,))) == 0:
        return 1.0, children[0]
    if name in ("MulBackward1", "DivBackward1") and isinstance(node._saved_other, int | float):
        return (node._saved_other if name == "MulBackward1" else 1 / node._saved_other), children[0]
    if (
        name not in ("MulBackward0", "DivBackward0")
        or len(children) != 2
        or (children[0] is None) == (children[1] is None)
    ):
        return None
    if (name == "DivBackward0" and children[0] is None) or has_hooks(node):
        return None
    other = node._saved_other if children[0] is not None else node._saved_self
    if not isinstance(other, Tensor) or other.numel() != 1:
        return None
    value = float(other) if other.device.type == "cpu" else other.detach().reshape(())
    return (value if name == "MulBackward0" else 1 / value), next(child for child in children if child is not None)


def _is_sum(node: Any) -> bool:
    """Return whether a term is a sum over rows."""
    return node.name() == "SumBackward0" or getattr(node, "_saved_reduction", None) == _REDUCTIONS.index("sum")


def _value(node: Any) -> tuple[str, Tensor | None]:
    """Return name and value of a loss function; the value is None if it is unknown, or one of single rows."""
    name, compute = _VALUES.get(node.name(), ("", None))
    if compute is None or not node._saved_reduction or has_hooks(node):
        return name, None
    return name, compute(node)


def _reduced(node: Any) -> tuple[str, Tensor | None]:
    """Return the same of a mean or sum of entries, or of their sums or means over axes."""
    mean, axes = node.name() == "MeanBackward0", set[str]()
    below = node.next_functions[0][0] if mean or node.name() == "SumBackward0" else None
    while below is not None and below.name() in ("SumBackward1", "MeanBackward1") and not has_hooks(below):
        axes.add(below.name())
        below = below.next_functions[0][0]
    name, entries = ("", None) if below is None else _entries(below)
    if entries is None or not (axes <= {"SumBackward1"} or (mean and axes == {"MeanBackward1"})):
        return name, None
    if axes == {"MeanBackward1"}:
        return name, entries.mean()
    return name, entries.sum() / node._saved_self_sym_numel if mean else entries.sum()


def _entries(node: Any) -> tuple[str, Tensor | None]:
    """Return name and values of a loss function without a reduction, or of squared differences."""
    if (entries := entries_of_term(node)) is not None:
        return _VALUES[node.name()][0], entries
    below = node.next_functions[0][0] if node.name() == "PowBackward0" and node._saved_exponent == _SQUARE else None
    if below is None or below.name() != "SubBackward0" or has_hooks(node):
        return "", None
    return "mse_loss", node._saved_self.detach() ** 2


def _unused(name: str, names: Mapping[str, Any]) -> str:
    """Return a name that no other term has."""
    candidates = (name if number == 1 else f"{name} {number}" for number in range(1, len(names) + 2))
    return next(each for each in candidates if each not in names)
