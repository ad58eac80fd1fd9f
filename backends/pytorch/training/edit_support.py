"""Says which edits a training can be run with, and why not."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from autotrainer.adapter.spec import FitRequest
from autotrainer.backends.pytorch.data.batches import rebatch_refusal
from autotrainer.backends.pytorch.data.examples import Examples
from autotrainer.backends.pytorch.data.target_support import target_refusal
from autotrainer.backends.pytorch.data.training_data import TrainingData
from autotrainer.backends.pytorch.model.functional import first_tensor
from autotrainer.backends.pytorch.model.losses import EditedLoss
from autotrainer.backends.pytorch.optim.optimizers import optimizer_refusal
from autotrainer.backends.pytorch.surgery.surgery import Surgeon
from autotrainer.backends.pytorch.training.callback_support import course_refusal, plan_edit
from autotrainer.edits import (
    EDITS,
    AddInputNoise,
    ClipGradients,
    DecayRate,
    Edit,
    ReduceOnPlateau,
    ScaleInputs,
    SetBatchSize,
    SetLoss,
    SetOutputActivation,
    StopEarly,
)
from autotrainer.errors import ConfigError, DataError
from autotrainer.records.data import StreamData

__all__ = ["EditSupport"]


class EditSupport:
    """Knows the training as given, and what can be changed in it.

    Args:
        request: The training as given.
        surgeon: Over the pristine model.
        optimizer: Over the pristine model.
        examples: A few samples.
        output: The model's output for them (its primary tensor), or None where ``step`` hides it.
        single: Whether that is all that the model returns.
        material: Data and numbers of the training as given.
    """

    def __init__(
        self,
        request: FitRequest,
        surgeon: Surgeon,
        optimizer: Optimizer,
        examples: Examples,
        output: Tensor | None,
        *,
        single: bool,
        material: TrainingData,
    ) -> None:
        self._request = request
        self._material = material
        self._surgeon = surgeon
        self._optimizer = optimizer
        self._examples = examples
        self._output = output
        self._single = single

    def refusal(self, edit: Edit) -> str:
        """Say why a training with this edit can't be run, or return an empty text."""
        if type(edit).__name__ not in EDITS:
            return f"PyTorch knows no edit {type(edit).__name__}"
        try:
            return (
                self.value_refusal(edit)
                or optimizer_refusal(edit, self._optimizer)
                or self._course(edit)
                or self._model(edit)
            )
        except ConfigError as error:
            return str(error)

    def value_refusal(self, edit: Edit) -> str:
        """Say why the values or the data forbid an edit, whatever else is edited; or return an empty text."""
        return self._setting(edit) or self._data(edit) or self._target(edit)

    def _course(self, edit: Edit) -> str:
        if isinstance(edit, DecayRate) and self._material.train().steps is None:
            return "the number of steps is not known beforehand"
        return course_refusal(edit, self._request, self._surgeon.model, self._optimizer, self._surgeon.anatomy)

    def _setting(self, edit: Edit) -> str:
        if isinstance(edit, ReduceOnPlateau):
            if self._request.scheduler is not None:
                return "the training has a scheduler of its own"
            if not (0 < edit.factor < 1 and edit.patience >= 0 and 0 <= edit.floor < 1):
                return "factor must be in (0, 1), patience >= 0 and floor in [0, 1)"
            return "" if "lr" in self._optimizer.defaults else "the optimizer has no learning rate"
        if isinstance(edit, StopEarly):
            return "" if edit.patience >= 1 else f"patience must be >= 1, not {edit.patience!r}"
        if isinstance(edit, ClipGradients):
            fine = edit.kind in ("value", "norm") and math.isfinite(edit.limit) and edit.limit > 0
            return "" if fine else f"gradients can't be clipped by {edit.kind!r} to {edit.limit!r}"
        return ""

    def _data(self, edit: Edit) -> str:
        if isinstance(edit, SetBatchSize):
            if edit.size < 1:
                return f"a batch size must be >= 1, not {edit.size!r}"
            train = self._request.train
            return rebatch_refusal(train.source) if isinstance(train, StreamData) else ""
        if isinstance(edit, SetLoss):
            return self._loss(edit)
        if isinstance(edit, ScaleInputs | AddInputNoise):
            if isinstance(edit, AddInputNoise) and not (math.isfinite(edit.std) and edit.std > 0):
                return f"a noise must have a standard deviation above 0, not {edit.std!r}"
            given: Any = self._examples.batch.inputs if self._request.step is None else self._examples.batch.raw
            if self._examples.batch.inputs is None:
                return "the user's own step takes batches that are no (x, y)"
            return "" if first_tensor(given, floating=True) is not None else "there are no floating-point inputs"
        return ""

    def _target(self, edit: Edit) -> str:
        return target_refusal(
            edit, self._request, self._examples, self._output, single=self._single, training_data=self._material
        )

    def _loss(self, edit: SetLoss) -> str:
        if self._request.step is not None or self._output is None:
            return "the user's own step computes the loss"
        try:
            EditedLoss(edit)(self._output, self._examples.batch.targets)
        except (DataError, RuntimeError, ValueError, IndexError) as error:
            return f"{edit.name} on {edit.expects} can't be computed here: {error}"
        return ""

    def _model(self, edit: Edit) -> str:
        if isinstance(edit, SetOutputActivation) and not self._single:
            return "the model returns more than one tensor"
        if isinstance(edit, SetOutputActivation) and edit.to == "softmax" and self._units() == 1:
            return "a softmax over one unit is always 1"
        _, reason = plan_edit(self._surgeon, edit)
        return reason

    def _units(self) -> int:
        if self._output is None or self._output.ndim < 2:
            return 1
        return int(self._output.shape[1:].numel())
