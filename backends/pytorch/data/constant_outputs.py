"""The loss of the best constant outputs, whatever the loss: found by minimizing it over them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autotrainer.adapter.spec import ConstantLosses
from autotrainer.backends.pytorch.data.batches import Batch, Batches
from autotrainer.backends.pytorch.data.objective import Objective
from autotrainer.backends.pytorch.runtime.tensors import map_tensors
from autotrainer.output import logger

__all__ = ["losses_with_constant_outputs"]

_FITTED_ROWS = 512
"""Rows, about, that the constants are fitted to."""
_STARTS, _STEPS = 5, 60
"""Runs of L-BFGS, one after the other, and their steps, at most: what it knows of the curvature where a spread is small
misleads it where it is large."""
_SETTLED = 1e-6
"""Share of the loss by which a run must lower it for another one to follow."""
_PASSES = 3
"""Operations of a loss and its gradient for each value of the outputs, by the count of a training step."""


class _UnknownError(Exception):
    """The outputs are not replaced by constants: their shapes differ, or the loss does not depend on them."""


def losses_with_constant_outputs(
    model: nn.Module, objective: Objective, fitted: Batches, held_out: Batches
) -> ConstantLosses:
    """Return the loss of each batch, its loss if each unit of the outputs is the same for all rows, and the operations.

    See `Trained`; the operations are those of the search for the constants, which runs no layer of the model.

    Args:
        model: The model. Stays in evaluation mode.
        objective: The loss.
        fitted: Training data, on whose first rows the constants minimize the loss.
        held_out: The batches.
    """
    model.eval()
    work = 0
    try:
        constants, work = _fit(model, objective, _first(fitted))
        losses = [_compare(model, objective, batch, constants) for batch in held_out.read()]
    except _UnknownError:
        losses = []
    pairs = np.array(losses, np.float64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1], work


def _first(batches: Batches) -> list[Batch]:
    first: list[Batch] = []
    for batch in batches.read():
        first.append(batch)
        if sum(part.rows for part in first) >= _FITTED_ROWS:
            break
    return first


def _fit(model: nn.Module, objective: Objective, batches: list[Batch]) -> tuple[list[Tensor], int]:
    """Return the constants that minimize the loss, one tensor for each of the model's outputs, and the operations."""
    recorded = [_record(model, objective, batch)[1] for batch in batches]
    calls = [call for batch in recorded for call in batch]
    if not calls:
        raise _UnknownError
    constants = [tensor.mean(0).clone().requires_grad_() for tensor in _leaves(calls[0])]
    values = sum(tensor.numel() for call in calls for tensor in _leaves(call))
    work = 0
    best: list[Any] = [np.inf, [constant.detach().clone() for constant in constants]]

    def closure() -> Tensor:
        nonlocal work
        work += _PASSES * values
        total = torch.zeros(())
        for batch, outputs in zip(batches, recorded, strict=True):
            with _replaced(model, outputs, constants):
                total = total.to(constants[0].device) + objective(model, batch)[0] / len(batches)
        if not total.requires_grad:
            raise _UnknownError
        gradients = torch.autograd.grad(total, constants, allow_unused=True)  # not those of the model's parameters
        for constant, gradient in zip(constants, gradients, strict=True):
            constant.grad = torch.zeros_like(constant) if gradient is None else gradient
        if total.item() < best[0]:
            best[:] = total.item(), [constant.detach().clone() for constant in constants]
        return total

    with torch.enable_grad():
        for _ in range(_STARTS):
            before = best[0]
            search = torch.optim.LBFGS(
                constants, max_iter=_STEPS, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
            )
            try:
                search.step(closure)  # type: ignore[no-untyped-call]
            except (OverflowError, RuntimeError) as error:  # a step beyond the largest number
                if not np.isfinite(best[0]):
                    raise
                logger.debug("the search for constant outputs ends: %r", error)
                break
            if before - best[0] <= _SETTLED * abs(best[0]):
                break
    return list(best[1]), work


def _compare(model: nn.Module, objective: Objective, batch: Batch, constants: list[Tensor]) -> tuple[float, float]:
    own, outputs = _record(model, objective, batch)
    with torch.no_grad(), _replaced(model, outputs, constants):
        return own, float(objective(model, batch)[0])


def _record(model: nn.Module, objective: Objective, batch: Batch) -> tuple[float, list[Any]]:
    """Return the loss of a batch, and the outputs of each call of the model."""
    calls: list[Any] = []
    hook = model.register_forward_hook(lambda _, __, outputs: calls.append(outputs))
    try:
        with torch.no_grad():
            loss = float(objective(model, batch)[0])
    finally:
        hook.remove()
    return loss, [map_tensors(Tensor.detach, outputs) for outputs in calls]


@contextmanager
def _replaced(model: nn.Module, calls: list[Any], constants: list[Tensor]) -> Iterator[None]:
    """Let each call of a model return constants in the form of its recorded outputs."""
    order = iter(calls)

    def forward(*_: Any, **__: Any) -> Any:
        places = itertools.count()
        outputs = next(order, None)
        if outputs is None or len(_leaves(outputs)) != len(constants):
            raise _UnknownError

        def constant(tensor: Tensor) -> Tensor:
            if not _is_replaced(tensor):
                return tensor
            value = constants[next(places)]
            if value.shape != tensor.shape[1:]:
                raise _UnknownError
            return value.expand_as(tensor)

        return map_tensors(constant, outputs)

    own = vars(model).get("forward")
    model.forward = forward
    try:
        yield
    finally:
        del model.forward
        if own is not None:
            model.forward = own


def _leaves(outputs: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        if _is_replaced(tensor):
            found.append(tensor)
        return tensor

    map_tensors(note, outputs)
    return found


def _is_replaced(tensor: Tensor) -> bool:
    return bool(tensor.ndim) and tensor.is_floating_point()
