"""Example batches of the given data: in types that model and loss take, and the proof that they fit together."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autotrainer.adapter.spec import FitRequest
from autotrainer.backends.pytorch.data.batches import Batch, open_data
from autotrainer.backends.pytorch.data.objective import Objective
from autotrainer.backends.pytorch.model.model_calls import call_model
from autotrainer.backends.pytorch.model.operations import undisturbed
from autotrainer.backends.pytorch.runtime.devices import device_of, dtype_of
from autotrainer.backends.pytorch.runtime.random_state import preserve_random_state
from autotrainer.errors import DataError
from autotrainer.records.data import ArrayData, Data, map_arrays

__all__ = ["Examples"]

_ROWS = 2


@dataclass(frozen=True, slots=True)
class Examples:
    """A few samples of the training data.

    Attributes:
        batch: The first samples (arrays) or the first batch (loader).
        floating: Which of ``inputs`` and ``targets`` are converted to the model's floating-point type although they
            are whole numbers, because the model or the loss takes nothing else.
        objective: Computes the loss of a batch.
    """

    batch: Batch
    floating: frozenset[str]
    objective: Objective

    @classmethod
    def of(cls, request: FitRequest, model: nn.Module, objective: Objective) -> Examples:
        """Read examples of the training data, and check that training and validation data go through the model.

        Args:
            request: Training and validation data.
            model: A copy of the model; left as it was, except that lazy parameters get their shapes.
            objective: Computes the loss of a batch, by the user's ``step`` if there is one.

        Raises:
            DataError: If the model can't be run on the data; says which shapes were tried.
        """
        whole = _whole_numbers(request.train)
        found = cls(_first(request.train, model, frozenset(), objective), frozenset(), objective)
        error = found._failure(model)
        if error is not None and "inputs" in whole:
            changed = found._with(request.train, model, {"inputs"})
            again = changed._failure(model)
            found, error = (changed, None) if again is None else (found, error)
        if error is not None:
            raise DataError(f"the model can't be run on train_data, {found.shapes()}: {error}") from error
        if "targets" in whole and not found._loss_works(model):
            changed = found._with(request.train, model, {"targets"})
            found = changed if changed._loss_works(model) else found
        other = found._with(request.validation, model, set())
        error = other._failure(model)
        if error is not None:
            raise DataError(
                f"the model runs on train_data, {found.shapes()}, but not on validation_data, {other.shapes()}: {error}"
            ) from error
        return found

    def refusal(self, model: nn.Module) -> str:
        """Return shapes and types of the examples where the loss and its gradient can't be computed; else nothing."""
        return "" if self.objective.step is not None or self._loss_works(model) else self.shapes()

    def forward(self, model: nn.Module) -> Any:
        """Return what the model returns for the examples, undisturbed; None where the user's ``step`` hides it."""
        with undisturbed(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the training itself says what there is to say
            if self.objective.step is not None:
                return self.objective(model, self.batch)[1]
            return call_model(model, self.batch.inputs)

    def shapes(self) -> str:
        """Describe the examples for messages."""
        if self.objective.step is not None:
            return f"a batch of {_described(self.batch.raw)}"
        return f"inputs {_described(self.batch.inputs)} and targets {_described(self.batch.targets)}"

    def _with(self, data: Data, model: nn.Module, more: set[str]) -> Examples:
        floating = self.floating | more
        return Examples(_first(data, model, floating, self.objective), floating, self.objective)

    def _failure(self, model: nn.Module) -> Exception | None:
        if self.objective.step is not None:
            return None  # the user's own code: what it raises comes out of the training as given, unchanged
        try:
            self.forward(model)
        except Exception as error:  # noqa: BLE001 - whatever the user's model raises; the caller tells it
            return error
        return None

    def _loss_works(self, model: nn.Module) -> bool:
        """Say whether the loss of the examples and its gradient can be computed."""
        trained = [p for p in model.parameters() if p.requires_grad]
        try:
            with undisturbed(model), warnings.catch_warnings(), torch.enable_grad():
                warnings.simplefilter("ignore")
                loss, _, _ = self.objective(model, self.batch)
                torch.autograd.grad(loss, trained, allow_unused=True)
        except Exception:  # noqa: BLE001 - the user's loss: its error comes out of the training as given
            return False
        return True


def _first(data: Data, model: nn.Module, floating: frozenset[str], objective: Objective) -> Batch:
    """Read the first samples, leaving every random state as it was.

    Raises:
        DataError: If there are none.
    """
    if isinstance(data, ArrayData):
        data = data.take(np.arange(min(_ROWS, data.rows)))
    pairs = objective.step is None
    batches = open_data(data, _ROWS, device_of(model), dtype_of(model), floating=floating, pairs=pairs)
    with preserve_random_state():
        batch = next(iter(batches.read()), None)
    if batch is None:
        raise DataError("the loader yields no batch: it must be readable more than once and hold at least one batch")
    return batch


def _whole_numbers(data: Data) -> frozenset[str]:
    """Return which of inputs and targets hold whole numbers or booleans; nothing for loaders."""
    if not isinstance(data, ArrayData):
        return frozenset()
    kinds: list[str] = []

    def note(array: Any) -> Any:
        kinds.append(array.dtype.kind)
        return array

    map_arrays(note, data.inputs)
    found = {"inputs"} if any(kind in "iub" for kind in kinds) else set()
    return frozenset(found | ({"targets"} if data.targets.dtype.kind in "iub" else set()))


def _described(value: Any) -> str:
    """Return shapes and types of tensors for a message."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_described(item)}" for name, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(map(_described, value)) + ")"
    return type(value).__name__
