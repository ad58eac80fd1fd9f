"""Decides which edits a training supports, and why not."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from autotrainer.adapter.spec import FitRequest
from autotrainer.backends.pytorch.data.examples import Examples
from autotrainer.backends.pytorch.data.loaders import rebatch_refusal
from autotrainer.backends.pytorch.data.target_support import target_refusal
from autotrainer.backends.pytorch.data.training_data import TrainingData, make_objective
from autotrainer.backends.pytorch.model.describe import watched_modules
from autotrainer.backends.pytorch.model.losses import EditedLoss
from autotrainer.backends.pytorch.optim.optimizers import missing_parameters, optimizer_refusal
from autotrainer.backends.pytorch.runtime.devices import dtype_of
from autotrainer.backends.pytorch.runtime.tensors import first_tensor
from autotrainer.backends.pytorch.surgery.activation_graph import ActivationGraph
from autotrainer.backends.pytorch.surgery.edit_planner import EditPlanner
from autotrainer.backends.pytorch.surgery.model_editor import ModelEditor
from autotrainer.backends.pytorch.training.redo import redo_layers
from autotrainer.edits import (
    EDITS,
    AddInputNoise,
    CompleteOptimizer,
    DecayRate,
    Edit,
    ExtendTraining,
    LeadPadding,
    RaisePrecision,
    ReduceOnPlateau,
    Reinitialize,
    ResizeOutputLayer,
    RestoreAxes,
    RestoreZeroGrad,
    ReviveUnits,
    Rollback,
    ScaleEachTarget,
    ScaleInputs,
    SetBatchSize,
    SetLoss,
    SetMode,
    SetOutputActivation,
    StandardStep,
)
from autotrainer.errors import ConfigError, DataError
from autotrainer.records.data import StreamData

__all__ = ["EditSupport", "plan_edit"]

_HALF = (torch.float16, torch.bfloat16)


def callback_refusal(
    edit: Edit, request: FitRequest, model: nn.Module, optimizer: Optimizer, activation_graph: ActivationGraph
) -> str:
    """Return why the training can't take an edit of its schedule or callbacks, or an empty string.

    Args:
        edit: Any edit; one of another kind is not refused.
        request: The training.
        model: Its initial model.
        optimizer: Optimizer of that model.
        activation_graph: That of the model.
    """
    match edit:
        case DecayRate(instead=False) | ExtendTraining() if request.scheduler is not None:
            return "the training has its own scheduler"
        case DecayRate(instead=True) if request.scheduler is None:
            return "the training has no scheduler to replace"
        case ExtendTraining() if edit.epochs <= request.epochs:
            return f"the training has {request.epochs} epochs already"
        case RestoreZeroGrad():
            return "fit resets the gradients before each step itself"
        case ScaleEachTarget():
            return "a loss of several outputs is one function of the user's own"
        case StandardStep():
            return "models of PyTorch have no step of their own, and the loss of a `step` is known to it alone"
        case SetMode() if request.step is None:
            return "fit sets the mode itself"
        case Rollback() if isinstance(optimizer, LBFGS):
            return "a step of LBFGS computes losses by itself"
        case RaisePrecision() if dtype_of(model) not in _HALF:
            return "the weights have single precision already: half precision comes from your own code"
        case ReviveUnits() if not redo_layers(activation_graph, watched_modules(model), edit.layers):
            return "none of the layers has units that can be observed and reinitialized one by one"
        case CompleteOptimizer() if not missing_parameters(optimizer, model, edit.layers):
            return "the optimizer has all of these parameters"
    return ""


def plan_edit(editor: EditPlanner, edit: Edit) -> tuple[tuple[Edit, ...], str]:
    """Return an edit as it can be applied, or why it can't be; see `EditPlanner.plan`.

    Edits that change how layers are trained apply to the layers that may be reinitialized: neither kept nor frozen.
    """
    if not isinstance(edit, ReviveUnits | CompleteOptimizer) or not edit.layers:
        return editor.plan(edit)
    planned, reason = editor.plan(Reinitialize(edit.layers, "he_uniform"))
    return tuple(replace(edit, layers=each.layers) for each in planned if isinstance(each, Reinitialize)), reason


class EditSupport:
    """Decides which edits a training supports.

    Args:
        request: The training.
        editor: Editor of the initial model.
        optimizer: Optimizer of the initial model.
        examples: A few samples.
        output: The model's output for them (its primary tensor), or None if ``step`` hides it.
        single_output: Whether that is all that the model returns.
        training_data: Its data, and the numbers fitted on them.
    """

    def __init__(
        self,
        request: FitRequest,
        editor: ModelEditor,
        optimizer: Optimizer,
        examples: Examples,
        output: Tensor | None,
        *,
        single_output: bool,
        training_data: TrainingData,
    ) -> None:
        self._request = request
        self._training_data = training_data
        self._editor = editor
        self._optimizer = optimizer
        self._examples = examples
        self._output = output
        self._single_output = single_output

    def of(self, editor: ModelEditor, output: Tensor | None) -> EditSupport:
        """Return the same for an edited model that has another output."""
        support = copy.copy(self)
        support._editor, support._output = editor, output
        return support

    def refusal_together(self, edits: Sequence[Edit]) -> str:
        """Return why a training with these edits can't be run; or an empty string.

        Args:
            edits: The edits; a `ResizeOutputLayer` is applied to the model already.
        """
        others = [edit for edit in edits if not isinstance(edit, ResizeOutputLayer)]
        reason = next(filter(None, map(self.refusal, others)), "")
        return reason if reason or len(others) == len(edits) else self._resize_refusal(others)

    def _resize_refusal(self, others: Sequence[Edit]) -> str:
        """Return why the loss can't be computed on an output of another width, or an empty string."""
        if self._request.step is not None or self._output is None:
            return "the user's own step computes the loss"
        if not self._single_output:
            return "the model returns more than one tensor"
        if any(isinstance(edit, SetLoss) for edit in others):
            return ""
        objective = make_objective(self._request, self._examples.objective.loss, others)
        assert objective.loss is not None, "only a step has no loss module"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # shapes that broadcast
                objective.loss(self._output, self._examples.batch.targets)
        except Exception as error:  # noqa: BLE001 - whatever the user's loss raises
            shapes = f"outputs {tuple(self._output.shape)} and {self._examples.shapes()}"
            return f"the loss can't be computed on {shapes}: {str(error).strip().splitlines()[0]}"
        return ""

    def refusal(self, edit: Edit) -> str:
        """Return why a training with this edit can't be run; or an empty string."""
        if type(edit).__name__ not in EDITS:
            return f"the PyTorch backend has no edit {type(edit).__name__}"
        try:
            return (
                self.value_refusal(edit)
                or optimizer_refusal(edit, self._optimizer)
                or self._callback_refusal(edit)
                or self._model_refusal(edit)
            )
        except ConfigError as error:
            return str(error)

    def value_refusal(self, edit: Edit) -> str:
        """Return why an edit's values or the data forbid it, whatever else is edited; or an empty string."""
        return self._setting_refusal(edit) or self._data_refusal(edit) or self._target_refusal(edit)

    def _callback_refusal(self, edit: Edit) -> str:
        if isinstance(edit, DecayRate) and self._training_data.train().steps is None:
            return "the number of steps is unknown beforehand"
        return callback_refusal(edit, self._request, self._editor.model, self._optimizer, self._editor.activation_graph)

    def _setting_refusal(self, edit: Edit) -> str:
        if isinstance(edit, ReduceOnPlateau):
            if self._request.scheduler is not None:
                return "the training has its own scheduler"
            return "" if "lr" in self._optimizer.defaults else "the optimizer has no learning rate"
        return ""

    def _data_refusal(self, edit: Edit) -> str:
        if isinstance(edit, SetBatchSize):
            train = self._request.train
            return rebatch_refusal(train.source) if isinstance(train, StreamData) else ""
        if isinstance(edit, SetLoss):
            return self._loss_refusal(edit)
        if isinstance(edit, LeadPadding):
            return self._padding_refusal(edit)
        if isinstance(edit, ScaleInputs | AddInputNoise):
            inputs: Any = self._examples.batch.inputs if self._request.step is None else self._examples.batch.raw
            if self._examples.batch.inputs is None:
                return "the user's own step takes batches that are not (x, y)"
            return "" if first_tensor(inputs, floating=True) is not None else "there are no floating-point inputs"
        return ""

    def _padding_refusal(self, edit: LeadPadding) -> str:
        tokens, output = self._examples.batch.inputs, self._output
        if self._request.step is not None or output is None:
            return "the user's own step calls the model"
        if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.is_floating_point():
            return "the input is not a single array of tokens"
        if output.ndim > 1 and tokens.shape[1] in output.shape[1:]:
            return "there is an output for each token"
        self._training_data.fitted(edit)
        return ""

    def _axes_refusal(self, edit: RestoreAxes) -> str:
        if self._output is None or not self._single_output:
            return "the outputs of the model are not a single known tensor"
        if tuple(self._output.shape[1:3]) != (edit.classes, edit.positions):
            return "the reshape is not inside the model"
        return ""

    def _target_refusal(self, edit: Edit) -> str:
        return target_refusal(
            edit,
            self._request,
            self._examples,
            self._output,
            single_output=self._single_output,
            training_data=self._training_data,
        )

    def _loss_refusal(self, edit: SetLoss) -> str:
        if self._request.step is not None or self._output is None:
            return "the user's own step computes the loss"
        try:
            EditedLoss(edit)(self._output, self._examples.batch.targets)
        except (DataError, RuntimeError, ValueError, IndexError) as error:
            return f"{edit.name} on {edit.expects} can't be computed here: {error}"
        return ""

    def _model_refusal(self, edit: Edit) -> str:
        if isinstance(edit, RestoreAxes) and (refused := self._axes_refusal(edit)):
            return refused
        if isinstance(edit, SetOutputActivation) and not self._single_output:
            return "the model returns more than one tensor"
        if isinstance(edit, SetOutputActivation) and edit.to == "softmax" and self._output_units() == 1:
            return "a softmax over one unit is always 1"
        _, reason = plan_edit(self._editor, edit)
        return reason

    def _output_units(self) -> int:
        if self._output is None or self._output.ndim < 2:
            return 1
        return int(self._output.shape[1:].numel())
