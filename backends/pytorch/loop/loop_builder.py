"""Makes the objects of trainings that the user's own loop runs, with edits."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from autotrainer.adapter.backend import LoopRun
from autotrainer.adapter.spec import FitRequest, LoopObjects, Trained, TrainingSpec
from autotrainer.backends.pytorch.data.batches import Batch, LoaderBatches, map_tensors, rows_of
from autotrainer.backends.pytorch.loop.loop_training import LoopTraining
from autotrainer.backends.pytorch.model.describe import layers
from autotrainer.backends.pytorch.optim.clipping import clip_before_steps
from autotrainer.backends.pytorch.runtime.random_state import preserve_random_state
from autotrainer.backends.pytorch.training.best_weights import BestWeights
from autotrainer.backends.pytorch.training.callback_hooks import CallbackHooks, Emptying
from autotrainer.backends.pytorch.training.callbacks import ModeCallback, TrainingCallback
from autotrainer.backends.pytorch.training.initial_state import InitialState
from autotrainer.backends.pytorch.training.trainer import Look, TorchTrainer
from autotrainer.edits import Edit, RestoreZeroGrad, SetMode
from autotrainer.records.task import TaskContext

__all__ = ["OF_LOOPS", "UNIT", "LoopBuilder", "SeenCall"]

OF_LOOPS = (RestoreZeroGrad, SetMode)
"""Edits of what `fit` does by itself."""
_SAME = 1e-3
"""Relative difference up to which two losses are one, computed in another order."""
UNIT = 1000.0
"""Operations of one sample of the training as given: only the ratio to those of other models counts."""


class LoopBuilder(TorchTrainer):
    """Builds the objects of trainings instead of running them.

    Args:
        request: The training as given, as `fit` takes it.
        start: What makes model, optimizer and loss.
    """

    def __init__(self, request: FitRequest, start: InitialState) -> None:
        super().__init__(request, start)
        with preserve_random_state():
            model, _, _ = start.fresh()
            self._operations = self._look(model).operations

    def _look(self, model: nn.Module) -> Look:
        stance = getattr(torch.compiler, "set_stance", None)  # a compiled model is looked at as it was written
        with nullcontext() if stance is None else stance("force_eager"):
            return super()._look(model)

    def describe(self, objects: LoopObjects, spec: TrainingSpec) -> tuple[TaskContext, float]:
        """Return the context of a training, and operations of one sample."""
        look = self._look(objects.model)
        context = self._context(look, objects.optimizer, objects.loss_fn, spec.epochs, self._train_data(None))
        if not look.anatomy.layers:
            context = replace(context, layers=layers(objects.model))
        return context, UNIT * look.operations / self._operations

    def agrees(self, batch: Any, loss: float) -> bool:
        """Say whether a batch, as the loader gives it, has this loss at the start of the training."""
        if self._request.step is not None or not (isinstance(batch, tuple | list) and len(batch) == 2):
            return False
        inputs, targets = map_tensors(lambda tensor: tensor.to(self._device), batch)
        with preserve_random_state(), torch.no_grad():
            model, _, given = self._start.fresh()
            model.train()
            found = float(self._objective(given)(model, Batch(inputs, targets, None, rows_of(targets), batch))[0])
        return math.isclose(found, loss, rel_tol=_SAME) if math.isfinite(found) else math.isinf(loss)

    def copy_of(self, model: nn.Module) -> Trained:
        """Return a copy of a trained model that can be evaluated."""
        training, edits = self._build(TrainingSpec(self._request.epochs, self._request.seed))
        training.model.load_state_dict(model.state_dict())
        return self._trained(training, edits)

    def make(self, spec: TrainingSpec, loader: Any, run: LoopRun) -> LoopTraining:
        """Build a training.

        Raises:
            ConfigError: If an edit can't be applied.
        """
        mine = tuple(edit for edit in spec.edits if isinstance(edit, OF_LOOPS))
        training, edits = self._build(replace(spec, edits=tuple(edit for edit in spec.edits if edit not in mine)))
        own = self._request.scheduler is not None
        objects = LoopObjects(
            training.model,
            training.optimizer,
            training.objective.loss,
            training.train.source if isinstance(training.train, LoaderBatches) else loader,
            training.scheduler if own else None,
            edits=edits + mine,
        )
        made = LoopTraining(objects, run, None if own else training.scheduler, BestWeights(training.patience))
        more: dict[type[Edit], Callable[[], TrainingCallback]] = {
            RestoreZeroGrad: lambda: Emptying(training.optimizer),
            SetMode: lambda: ModeCallback(training.model),
        }
        companions = (*training.companions, *(more[type(edit)]() for edit in mine))
        if companions:
            assert training.objective.loss is not None
            made.accompanied = CallbackHooks(training.optimizer, training.objective.loss, companions)
            made.handles.append(made.accompanied)
        if training.clip is not None:  # after the companions, which see gradients as they are
            made.handles.append(clip_before_steps(training.optimizer, training.clip))
        return made


class SeenCall:
    """Calls a model as the user's loop did; stands where `fit` has the user's own step."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._args, self._kwargs = args, kwargs

    def __call__(self, model: nn.Module, batch: Any) -> tuple[torch.Tensor, Any, None]:
        """Return no loss, and the outputs for what the model was first called with."""
        outputs = model(*self._args, **self._kwargs)
        return torch.zeros(()), outputs, None
