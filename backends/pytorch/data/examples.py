"""Example batches of the data: in types that model and loss accept, and checked to fit the model."""

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
            are integers, because the model or the loss accepts nothing else.
        objective: Computes the loss of a batch.
    """

    batch: Batch
    floating: frozenset[str]
    objective: Objective

    @classmethod
    def of(cls, request: FitRequest, model: nn.Module, objective: Objective) -> Examples:
        """Read examples of the training data, and check that the model runs on training, validation and test data.

        Args:
            request: Training, validation and test data.
            model: A copy of the model; unchanged, except that lazy parameters get their shapes.
            objective: Computes the loss of a batch, through the user's ``step`` if there is one.

        Raises:
            DataError: If the model can't be run on the data; the message has the shapes.
        """
        integers = _integer_parts(request.train)
        examples = cls(_first_batch(request.train, model, frozenset(), objective), frozenset(), objective)
        error = examples._failure(model)
        if error is not None and "inputs" in integers:
            converted = examples._with(request.train, model, {"inputs"})
            if converted._failure(model) is None:
                examples, error = converted, None
        if error is not None:
            raise DataError(f"the model can't be run on train_data, {examples.shapes()}: {error}") from error
        if "targets" in integers and not examples._loss_works(model):
            converted = examples._with(request.train, model, {"targets"})
            examples = converted if converted._loss_works(model) else examples
        for name, data in (("validation_data", request.validation), ("test_data", request.test)):
            others = None if data is None else examples._with(data, model, set())
            error = None if others is None else others._failure(model)
            if others is not None and error is not None:
                raise DataError(
                    f"the model runs on train_data, {examples.shapes()}, but not on {name}, {others.shapes()}: {error}"
                ) from error
        return examples

    def refusal(self, model: nn.Module, data: Data) -> str:
        """Return shapes and types of the examples if the loss or its gradient can't be computed, or an empty string.

        The rows with the smallest and the largest target are examples, too: a loss may be defined on a range of targets
        only.

        Args:
            model: A copy of the model; unchanged.
            data: The training data.
        """
        if self.objective.step is not None:
            return ""
        extremes = _extreme_rows(data)
        others = None if extremes is None else self._with(extremes, model, set())
        works = self._loss_works(model) and (others is None or others._loss_works(model))
        return "" if works else self.shapes()

    def forward(self, model: nn.Module) -> Any:
        """Return the model's output for the examples, undisturbed; None if the user's ``step`` hides it."""
        with undisturbed(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the training itself raises them again
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
        return Examples(_first_batch(data, model, floating, self.objective), floating, self.objective)

    def _failure(self, model: nn.Module) -> Exception | None:
        if self.objective.step is not None:
            return None  # the user's code: the training itself raises its errors unchanged
        try:
            self.forward(model)
        except Exception as error:  # noqa: BLE001 - whatever the user's model raises; the caller reports it
            return error
        return None

    def _loss_works(self, model: nn.Module) -> bool:
        """Return whether the loss of the examples and its gradient can be computed."""
        trained = [p for p in model.parameters() if p.requires_grad]
        try:
            with undisturbed(model), warnings.catch_warnings(), torch.enable_grad():
                warnings.simplefilter("ignore")
                loss, _, _ = self.objective(model, self.batch)
                torch.autograd.grad(loss, trained, allow_unused=True)
        except Exception:  # noqa: BLE001 - the user's loss: the training itself raises its error
            return False
        return True


def _first_batch(data: Data, model: nn.Module, floating: frozenset[str], objective: Objective) -> Batch:
    """Read the first samples, random states preserved.

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


def _extreme_rows(data: Data) -> ArrayData | None:
    """Return the rows with the smallest and the largest target; None if the data are no arrays of numbers.

    Rows with a target that is not finite are left out.
    """
    if not isinstance(data, ArrayData) or not data.targets.size or data.targets.dtype.kind not in "biuf":
        return None
    targets = data.targets.reshape(len(data.targets), -1)
    least, most = targets.min(axis=1), targets.max(axis=1)
    finite = np.flatnonzero(np.isfinite(least) & np.isfinite(most))
    return data.take(finite[[least[finite].argmin(), most[finite].argmax()]]) if len(finite) else None


def _integer_parts(data: Data) -> frozenset[str]:
    """Return which of inputs and targets hold integers or booleans; none for loaders."""
    if not isinstance(data, ArrayData):
        return frozenset()
    kinds: list[str] = []

    def add_kind(array: Any) -> Any:
        kinds.append(array.dtype.kind)
        return array

    map_arrays(add_kind, data.inputs)
    inputs = {"inputs"} if any(kind in "iub" for kind in kinds) else set()
    return frozenset(inputs | ({"targets"} if data.targets.dtype.kind in "iub" else set()))


def _described(value: Any) -> str:
    """Return shapes and types of tensors for a message."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_described(item)}" for name, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(map(_described, value)) + ")"
    return type(value).__name__
