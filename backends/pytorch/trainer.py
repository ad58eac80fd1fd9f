"""Managed training in PyTorch: checks what `autotrainer.fit` was given, and runs trainings of it with edits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from autotrainer.adapter import Evaluation, FitRequest, Run, Support, SupportLevel, Trained, Trainer, TrainingSpec
from autotrainer.backends.pytorch import describe
from autotrainer.backends.pytorch.data import Batches, open_data
from autotrainer.backends.pytorch.examples import Examples
from autotrainer.backends.pytorch.functional import first_tensor
from autotrainer.backends.pytorch.losses import WeightedLoss, unreduced
from autotrainer.backends.pytorch.observer import observe
from autotrainer.backends.pytorch.operations import count_operations
from autotrainer.backends.pytorch.random_state import preserve_random_state, seed_all
from autotrainer.backends.pytorch.saving import save_model
from autotrainer.backends.pytorch.start import Start, device_of, dtype_of
from autotrainer.backends.pytorch.training import Objective, Training, copied, evaluate, predict
from autotrainer.data import ArrayData, Data, as_array, map_arrays
from autotrainer.edits import ClipGradients, Edit, ReduceOnPlateau, SetBatchSize, SetLearningRate, SetMomentum
from autotrainer.errors import ConfigError
from autotrainer.task import TaskContext

__all__ = ["TorchTrainer", "make_trainer", "save_model"]

_EVALUATION_ROWS = 256
_LIVE = (SetLearningRate, SetMomentum, ClipGradients, ReduceOnPlateau)


def make_trainer(request: FitRequest) -> TorchTrainer:
    """Prepare managed trainings.

    Raises:
        ConfigError: If an option is of no use in PyTorch, or optimizer or loss are missing.
        DataError: If the data do not fit the model.
        InputError: If model, optimizer and loss do not belong together.
    """
    if request.fit_args:
        raise ConfigError(
            f"fit_args={dict(request.fit_args)!r} is for Keras: in PyTorch use step=, scheduler= and the optimizer"
        )
    for name in ("step", "scheduler"):
        value = getattr(request, name)
        if value is not None and not callable(value):
            raise ConfigError(f"{name} must be callable, not {value!r}")
    weighted = isinstance(request.train, ArrayData) and request.train.weights is not None
    if weighted and request.step is None:
        unreduced(request.loss)
    return TorchTrainer(request)


class TorchTrainer(Trainer):
    """Runs trainings of one PyTorch model, each from the same pristine start. See `make_trainer`."""

    def __init__(self, request: FitRequest) -> None:
        self._request = request
        with preserve_random_state():
            self._start = Start.of(request)
            if any(isinstance(p, UninitializedParameter) for p in self._start.reference.parameters()):
                Examples.of(request, self._start.reference, self._objective(None))
            model, optimizer, loss = self._start.fresh()
            self._examples = Examples.of(request, model, self._objective(loss))
            self._device, self._dtype = device_of(model), dtype_of(model)
            optimizer = self._start.make_optimizer(model) if optimizer is None else optimizer
            self.context, _ = self._describe(model, optimizer, loss, request.epochs, self._train_data(None))

    def supports(self, edit: Edit) -> Support:
        """Say whether a training with this edit can be run, and why not."""
        reason = "not yet"
        if reason:
            return Support(SupportLevel.NONE, reason)
        return Support(SupportLevel.LIVE if isinstance(edit, _LIVE) else SupportLevel.REBUILD)

    def train(self, spec: TrainingSpec, run: Run) -> Trained:
        """Build the training from the pristine start with the edits of the recipe, and run it.

        Raises:
            ConfigError: If an edit can't be applied.
            Exception: Whatever the model, the loss, the data or the user's ``step`` raise.
        """
        seed_all(spec.seed)
        training, edits = self._build(spec)
        trained = self._trained(training, edits)
        run.keep(trained)
        model, optimizer, loss = training.model, training.optimizer, training.objective.loss
        steps = None if training.train.steps is None else spec.epochs * training.train.steps
        observer = observe(model, optimizer, loss, run.monitor, epochs=spec.epochs, steps=steps)
        run.monitor.attach(observer)
        try:
            run.start(*self._describe(model, optimizer, loss, spec.epochs, training.train))
            training.run(run)
        finally:
            observer.close()
        return trained

    # -- building a training ---------------------------------------------------------------------------------------

    def _build(self, spec: TrainingSpec) -> tuple[Training, tuple[Edit, ...]]:
        """Return a training with the edits of a recipe, and those edits as they were applied."""
        model, optimizer, loss = self._start.fresh()
        judge = self._objective(copied(loss))
        edits = spec.edits
        if optimizer is None:
            optimizer = self._start.make_optimizer(model)
        found = {type(edit): edit for edit in edits}
        training = Training(
            model=model,
            optimizer=optimizer,
            objective=self._objective(loss),
            judge=judge,
            train=self._train_data(found.get(SetBatchSize)),
            validation=self._open(self._request.validation, max(self._request.batch_size, _EVALUATION_ROWS)),
            epochs=spec.epochs,
            seed=spec.seed,
        )
        if self._request.scheduler is not None:
            training.scheduler = self._request.scheduler(optimizer)
        return training, edits

    def _objective(self, loss: nn.Module | None) -> Objective:
        """Return what computes the loss: the user's ``step``, or a loss module, weighted if samples are."""
        train, validation = self._request.train, self._request.validation
        weighted = any(isinstance(data, ArrayData) and data.weights is not None for data in (train, validation))
        if loss is not None and weighted and self._request.step is None:
            loss = WeightedLoss(unreduced(loss), describe.loss_info(loss))
        return Objective(loss, self._request.step)

    def _train_data(self, edit: Any) -> Batches:
        size = self._request.batch_size if edit is None else edit.size
        return self._open(self._request.train, size, rebatch=edit is not None)

    def _open(self, data: Data, size: int, *, rebatch: bool = False) -> Batches:
        pairs = self._request.step is None
        return open_data(
            data, size, self._device, self._dtype, floating=self._examples.floating, pairs=pairs, rebatch=rebatch
        )

    # -- what comes out of it --------------------------------------------------------------------------------------

    def _describe(
        self, model: nn.Module, optimizer: Optimizer, loss: nn.Module | None, epochs: int, train: Batches
    ) -> tuple[TaskContext, float]:
        """Return the context of a training, and the operations of one forward pass of one sample."""
        info = describe.loss_info(loss)
        seen: list[Any] = []
        operations = count_operations(
            model, lambda: seen.append(self._examples.forward(model)), self._examples.batch.rows
        )
        output = first_tensor(seen[0], floating=True)
        inputs = first_tensor(self._examples.batch.raw if self._request.step else self._examples.batch.inputs)
        context = TaskContext(
            framework="pytorch",
            engine="pytorch",
            loss=info,
            optimizer=describe.optimizer_info(optimizer),
            layers=describe.layers(model),
            output_activation=None,
            output_units=None if output is None else (output.shape[info.class_axis] if output.ndim > 1 else 1),
            input_kind="values" if inputs is None or inputs.is_floating_point() else "index",
            planned_epochs=epochs,
            planned_steps=None if train.steps is None else epochs * train.steps,
            train_rows=train.rows,
            managed=True,
        )
        return context, operations

    def _trained(self, training: Training, edits: tuple[Edit, ...]) -> Trained:
        model, judge = training.model, training.judge

        def predict_inputs(inputs: Any) -> NDArray[np.float64]:
            arrays = map_arrays(as_array, tuple(inputs) if isinstance(inputs, list) else inputs)
            first = next(iter(arrays.values())) if isinstance(arrays, dict) else arrays
            rows = len(first[0] if isinstance(first, tuple) else first)
            batches = self._open(ArrayData(arrays, np.zeros(rows)), _EVALUATION_ROWS)
            return predict(model, batches.read())

        def evaluate_data(data: Data) -> Evaluation:
            found = evaluate(model, judge, self._open(data, max(self._request.batch_size, _EVALUATION_ROWS)))
            assert found is not None
            return found

        return Trained(model, training.optimizer, edits, predict_inputs, evaluate_data)
