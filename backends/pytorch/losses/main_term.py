"""The term of a loss that compares outputs with targets: a loss function or an expression, alone or beside others."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from autotrainer.backends.pytorch.losses.loss_graph import has_hooks, of_node
from autotrainer.backends.pytorch.losses.loss_terms import loss_parts, value_of_term
from autotrainer.backends.pytorch.losses.other_terms import are_penalties
from autotrainer.backends.pytorch.losses.returned_tensors import Returned
from autotrainer.backends.pytorch.losses.written_loss import written_loss
from autotrainer.backends.pytorch.model.loss_kinds import loss_info
from autotrainer.records.task import MASKED, LossInfo

__all__ = ["MainTerm", "MainTerms", "main_term"]

_ROUNDING = 1e-5
"""Difference of targets ÷ their size and that of the outputs up to which they are equal."""

_EQUAL = 1e-6
"""Relative difference of two numbers that are equal but for rounding."""


@dataclass(frozen=True, slots=True)
class MainTerm:
    """The term of a loss that has targets.

    Attributes:
        function: The function of `torch.nn.functional` that it comes from or equals, with its reduction; marked as
            composite beside other terms, and as weighted if it is not just the reduced values of the function.
        outputs: What it compares with the targets, of the first rows at least; of a cross-entropy of logits, the
            log-probabilities.
        targets: The targets.
        rows: Number of all rows.
        count: Number of all values of the function; 0 if unknown.
        mean: Mean of the values of the function, without weights; None if there are no other terms.
        rest: What the other terms add to the loss: not negative for penalties and divergences, of either sign for the
            objective of a policy, beside which a loss of values is no measure of success; None if there are none.
        activation: Activation of the outputs after they left the model, if it is known.
        direct: Whether the outputs are what the model has returned; None if unknown.
    """

    function: functools.partial[Tensor]
    outputs: Tensor
    targets: Tensor
    rows: int
    count: int
    mean: Tensor | None
    rest: Tensor | None
    activation: str | None = None
    direct: bool | None = None


class MainTerms:
    """Reads the main terms of the losses of a training, until the rest of one was negative."""

    def __init__(self) -> None:
        self._rest: Tensor | None = None
        self._other_aims = False

    def read(self, loss: Tensor, returned: Returned, are_inputs: Callable[[Tensor], bool]) -> MainTerm | None:
        """Return the main term of a loss as `main_term` does, unless the training has other aims.

        What counts is the sign in the step before.
        """
        if self._rest is not None and float(self._rest) < 0:
            self._other_aims = True
        term = None if self._other_aims else main_term(loss, returned, are_inputs)
        self._rest = None if term is None else term.rest
        return term


def main_term(
    loss: Tensor, returned: Returned, are_inputs: Callable[[Tensor], bool] = lambda _: False
) -> MainTerm | None:
    """Return the only term that has targets; None if there is none, or several.

    Terms whose targets are all equal, as those for real and generated samples, need not be met. And where other terms
    are more than penalties, as the objective of a policy beside a loss of values, the model is there for these: only a
    reconstruction of the inputs is then known to be what is wanted.

    Args:
        loss: The loss, a scalar, before its backward pass.
        returned: What the model has returned.
        are_inputs: Whether targets are the inputs of the model.
    """
    factor, leaves = loss_parts(loss)
    found = [(leaf, each, weight) for leaf, weight in leaves if (each := _term(leaf, returned)) is not None]
    if len(found) != 1:
        return None
    main, (term, share, value), weight = found[0]
    total = factor * weight * share
    number = total if isinstance(total, int | float) else math.nan  # on another device
    if number <= 0:
        return None
    targets = term.targets
    if any(type(each) is not Tensor for each in (term.outputs, targets)):  # spread over processes
        return None
    if targets.requires_grad or not targets.numel() or _are_equal(targets, term.outputs):
        return None
    info = loss_info(term.function)
    if len(leaves) > 1:
        others = [leaf for leaf, _ in leaves if leaf is not main]
        if value is None or not (are_penalties(others, main) or are_inputs(targets)):
            return None
        rest = loss.detach().float() - value.float() * total
        described = _described(term.function.func, replace(info, reduction="mean", composite=True))
        return replace(term, function=described, rest=rest)
    if info.reduction == "sum" and abs(number * term.count - 1) < _EQUAL:  # divided by their number
        return replace(term, function=_described(term.function.func, replace(info, reduction="mean")), mean=None)
    if number != 1:
        vars(term.function)["loss_info"] = replace(info, weighted=True)
    return replace(term, mean=None)


def _are_equal(targets: Tensor, outputs: Tensor) -> bool:
    """Return whether the targets of all rows are equal but for rounding, as a center that outputs are pulled to."""
    first = targets[:1] if len(targets) > 1 else targets.reshape(-1)[:1]
    if not targets.is_floating_point():
        return bool((targets == first).all())
    size = targets.abs().max() + (outputs.abs().max() if outputs.is_floating_point() else 0)
    return bool(((targets - first).abs() <= _ROUNDING * size).all())


def _described(function: Callable[..., Tensor], info: LossInfo) -> functools.partial[Tensor]:
    described = functools.partial(function, reduction=info.reduction)
    vars(described)["loss_info"] = info
    return described


def _term(node: Any, returned: Returned) -> tuple[MainTerm, float, Tensor | None] | None:
    """Return a term, what it is a multiple of its reduced values by, and these; None without targets."""
    value = value_of_term(node)
    if value is not None:
        function, outputs, targets = of_node(node)
        if has_hooks(node) or not (outputs.ndim and targets.ndim):
            return None
        mean = value if function.keywords["reduction"] == "mean" else value / (targets != MASKED).sum()
        return MainTerm(function, outputs, targets, len(outputs), 0, mean, None), 1.0, value
    written = written_loss(node, returned)
    if written is None:
        return None
    info = replace(loss_info(written.function), reduction=written.reduction or "mean")
    info = replace(info, weighted=written.reduction is None)
    if written.activation == "log_softmax":
        info = replace(info, expects="log_probabilities")
    function = _described(written.function, info)
    term = MainTerm(
        function,
        written.outputs,
        written.targets,
        written.rows,
        written.count,
        written.mean,
        None,
        written.activation,
        written.direct or None,
    )
    unknown = math.isnan(written.factor)
    share = math.copysign(1.0, written.factor) if unknown else written.factor
    return term, share, None if unknown else written.value
