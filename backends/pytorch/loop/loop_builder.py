"""Builds the objects of trainings that the user's own loop runs, with edits."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from autotrainer.adapter.loop import LoopRun
from autotrainer.adapter.spec import FitRequest, LoopObjects, Trained, TrainingSpec
from autotrainer.backends.pytorch.data.batches import Batch, LoaderBatches
from autotrainer.backends.pytorch.data.loaders import rows_of
from autotrainer.backends.pytorch.loop.loop_training import LoopTraining
from autotrainer.backends.pytorch.model.describe import layers
from autotrainer.backends.pytorch.optim.clipping import clip_before_steps
from autotrainer.backends.pytorch.runtime.random_state import preserve_random_state
from autotrainer.backends.pytorch.runtime.tensors import map_tensors
from autotrainer.backends.pytorch.training.best_weights import BestWeights
from autotrainer.backends.pytorch.training.callback_hooks import CallbackHooks
from autotrainer.backends.pytorch.training.callbacks import ModeCallback, TrainingCallback, ZeroGradCallback
from autotrainer.backends.pytorch.training.initial_state import InitialState
from autotrainer.backends.pytorch.training.model_profile import ModelProfile
from autotrainer.backends.pytorch.training.trainer import TorchTrainer
from autotrainer.edits import Edit, RestoreZeroGrad, SetMode
from autotrainer.records.task import TaskContext

__all__ = ["LOOP_EDITS", "REFERENCE_OPERATIONS", "LoopBuilder", "RecordedCall"]

LOOP_EDITS = (RestoreZeroGrad, SetMode)
"""Edits of what `autotrainer.fit` does by itself."""
_LOSS_TOLERANCE = 1e-3
"""Relative difference up to which two losses count as equal: sums may be computed in another order."""
REFERENCE_OPERATIONS = 1000.0
"""Operations of one sample of the original model: only the ratio to those of other models counts."""


class LoopBuilder(TorchTrainer):
    """Builds the objects of trainings instead of running them.

    Args:
        request: The training, as `autotrainer.fit` takes it.
        initial_state: Makes model, optimizer and loss.
    """

    def __init__(self, request: FitRequest, initial_state: InitialState) -> None:
        super().__init__(request, initial_state)
        with preserve_random_state():
            model, _, _ = initial_state.fresh()
            self._operations = self._profile(model).operations

    def _profile(self, model: nn.Module) -> ModelProfile:
        stance = getattr(torch.compiler, "set_stance", None)  # a compiled model is profiled without compilation
        with nullcontext() if stance is None else stance("force_eager"):
            return super()._profile(model)

    def describe(self, objects: LoopObjects, spec: TrainingSpec) -> tuple[TaskContext, float]:
        """Return the context of a training, and the operations of one sample."""
        profile = self._profile(objects.model)
        train = self._training_data.train()
        context = profile.context(objects.optimizer, objects.loss_fn, spec.epochs, train, self._targets)
        if not profile.activation_graph.layers:
            context = replace(context, layers=layers(objects.model))
        return context, REFERENCE_OPERATIONS * profile.operations / self._operations

    def reproduces(self, batch: Any, loss: float) -> bool:
        """Return whether a batch of the loader has this loss in the initial state of the training."""
        if self._request.step is not None or not (isinstance(batch, tuple | list) and len(batch) == 2):
            return False
        inputs, targets = map_tensors(lambda tensor: tensor.to(self._device), batch)
        with preserve_random_state(), torch.no_grad():
            model, _, loss_module = self._initial_state.fresh()
            model.train()
            first_loss = float(
                self._objective(loss_module)(model, Batch(inputs, targets, None, rows_of(targets), batch))[0]
            )
        return (
            math.isclose(first_loss, loss, rel_tol=_LOSS_TOLERANCE) if math.isfinite(first_loss) else math.isinf(loss)
        )

    def copy_of(self, model: nn.Module) -> Trained:
        """Return a copy of a trained model that can be evaluated."""
        training, edits = self._build(TrainingSpec(self._request.epochs, self._request.seed))
        training.model.load_state_dict(model.state_dict())
        return self._trained(training, edits)

    def build(self, spec: TrainingSpec, loader: Any, run: LoopRun) -> LoopTraining:
        """Build a training.

        Raises:
            ConfigError: If an edit can't be applied.
        """
        loop_edits = tuple(edit for edit in spec.edits if isinstance(edit, LOOP_EDITS))
        training, edits = self._build(replace(spec, edits=tuple(edit for edit in spec.edits if edit not in loop_edits)))
        user_scheduler = self._request.scheduler is not None
        objects = LoopObjects(
            training.model,
            training.optimizer,
            training.objective.loss,
            training.train.source if isinstance(training.train, LoaderBatches) else loader,
            training.scheduler if user_scheduler else None,
            edits=edits + loop_edits,
        )
        loop_training = LoopTraining(
            objects, run, None if user_scheduler else training.scheduler, BestWeights(training.patience)
        )
        loop_callbacks: dict[type[Edit], Callable[[], TrainingCallback]] = {
            RestoreZeroGrad: lambda: ZeroGradCallback(training.optimizer),
            SetMode: lambda: ModeCallback(training.model),
        }
        callbacks = (*training.callbacks, *(loop_callbacks[type(edit)]() for edit in loop_edits))
        if callbacks:
            assert training.objective.loss is not None
            loop_training.callback_hooks = CallbackHooks(training.optimizer, training.objective.loss, callbacks)
            loop_training.handles.append(loop_training.callback_hooks)
        if training.clip is not None:  # after the callbacks, which see unclipped gradients
            loop_training.handles.append(clip_before_steps(training.optimizer, training.clip))
        return loop_training


class RecordedCall:
    """Calls a model with the arguments of the user's first call; takes the place of the user's ``step`` in `fit`."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._args, self._kwargs = args, kwargs

    def __call__(self, model: nn.Module, batch: Any) -> tuple[torch.Tensor, Any, None]:
        """Return a loss of zero, and the outputs for the recorded arguments."""
        outputs = model(*self._args, **self._kwargs)
        return torch.zeros(()), outputs, None
