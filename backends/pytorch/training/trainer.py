"""Managed trainings: checks the arguments of `autotrainer.fit`, and runs trainings with edits."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from autotrainer.adapter.callables import check_callable
from autotrainer.adapter.probed_model import PROBE_ROWS, ProbedModel
from autotrainer.adapter.spec import (
    ConstantLosses,
    Evaluation,
    FitRequest,
    PausedTraining,
    Support,
    SupportLevel,
    Trained,
    TrainingSpec,
)
from autotrainer.adapter.trainer import ReplayRun, Run, Trainer
from autotrainer.backends.pytorch.data.batches import Batches, first_rows
from autotrainer.backends.pytorch.data.constant_outputs import losses_with_constant_outputs
from autotrainer.backends.pytorch.data.examples import Examples
from autotrainer.backends.pytorch.data.loaders import is_repeatable
from autotrainer.backends.pytorch.data.loss_use import measured
from autotrainer.backends.pytorch.data.objective import Objective
from autotrainer.backends.pytorch.data.targets import observed_loss
from autotrainer.backends.pytorch.data.training_data import TrainingData, make_objective, trains_on_another_loss
from autotrainer.backends.pytorch.model.loss_kinds import loss_info
from autotrainer.backends.pytorch.model.losses import EditedLoss, UndefinedLoss, bridge
from autotrainer.backends.pytorch.optim.optimizers import (
    adopt_parameters,
    edit_optimizer,
    owns,
    parameter_shapes,
    set_rate,
)
from autotrainer.backends.pytorch.optim.parameter_ownership import ParameterOwnership
from autotrainer.backends.pytorch.optim.schedulers import make_scheduler
from autotrainer.backends.pytorch.probing.probed_model import has_rows_first, probed_call, probed_inputs
from autotrainer.backends.pytorch.probing.recorded_call import recorded_call
from autotrainer.backends.pytorch.runtime.devices import device_of, dtype_of
from autotrainer.backends.pytorch.runtime.host_offload import is_large, is_remote
from autotrainer.backends.pytorch.runtime.random_state import preserve_random_state, seed_all
from autotrainer.backends.pytorch.runtime.saving import save_model
from autotrainer.backends.pytorch.runtime.tensors import first_tensor
from autotrainer.backends.pytorch.surgery.activation_graph import ActivationGraph
from autotrainer.backends.pytorch.surgery.model_editor import ModelEditor, in_order
from autotrainer.backends.pytorch.training.callback_factory import make_callbacks
from autotrainer.backends.pytorch.training.edit_support import EditSupport, plan_edit
from autotrainer.backends.pytorch.training.evaluation import evaluate, losses_with_mean_outputs, predict
from autotrainer.backends.pytorch.training.initial_state import InitialState, check_owned, check_trainable
from autotrainer.backends.pytorch.training.model_profile import ModelProfile, profile_model
from autotrainer.backends.pytorch.training.nonfinite_search import SearchedTraining
from autotrainer.backends.pytorch.training.training_loop import Training, unobserved_copy
from autotrainer.backends.pytorch.watching.attach import observe
from autotrainer.edits import (
    ClipGradients,
    DecayRate,
    Edit,
    ReduceOnPlateau,
    ResizeOutputLayer,
    Rollback,
    SetLearningRate,
    SetLoss,
    SetMomentum,
    SkipUpdates,
    StopEarly,
)
from autotrainer.edits.base import shorten
from autotrainer.errors import ConfigError
from autotrainer.records.data import ArrayData, Data, StreamData, as_array, map_arrays
from autotrainer.scoring.loss_use import carried_over
from autotrainer.training.data_edits import last

__all__ = ["TorchTrainer", "make_trainer", "save_model"]

_EVALUATION_ROWS = 256
_LIVE_EDITS = (SetLearningRate, SetMomentum, ClipGradients, ReduceOnPlateau, SkipUpdates, Rollback)


def make_trainer(request: FitRequest) -> TorchTrainer:
    """Prepare managed trainings.

    Raises:
        ConfigError: If an option is for Keras, the optimizer or the loss is missing, or samples have weights and the
            loss can't be weighted.
        DataError: If the data do not fit the model.
        InputError: If model, optimizer and loss do not belong together.
    """
    if request.fit_args:
        raise ConfigError(
            f"fit_args={shorten(dict(request.fit_args))} is for Keras: in PyTorch use step=, scheduler= and the "
            "optimizer"
        )
    if request.step is not None:
        check_callable("step", request.step, "model", "batch")
    if request.scheduler is not None:
        check_callable("scheduler", request.scheduler, "optimizer")
    if request.loss is not None and loss_info(request.loss).targets in ("index", "either"):
        request = replace(request, train=_with_indices(request.train), validation=_with_indices(request.validation))
    return TorchTrainer(request)


def _with_indices(data: Data) -> Data:
    """Return data with boolean targets converted to class indices."""
    if not isinstance(data, ArrayData) or data.targets.dtype.kind != "b":
        return data
    return replace(data, targets=data.targets.astype(np.int64))


class TorchTrainer(Trainer):
    """Runs trainings of one PyTorch model, each from the same initial state. Made by `make_trainer`."""

    def __init__(self, request: FitRequest, initial_state: InitialState | None = None) -> None:
        self._request = request
        with preserve_random_state():
            self._initial_state = InitialState.of(request) if initial_state is None else initial_state
            reference = self._initial_state.reference
            if any(isinstance(p, UninitializedParameter) for p in reference.parameters()):
                Examples.of(request, reference, self._objective(None))
            model, _, loss = self._initial_state.fresh()
            self._device, self._dtype = device_of(model), dtype_of(model)
            self._examples = Examples.of(request, model, self._objective(loss))
            self._training_data = TrainingData(request, self._examples, self._device, self._dtype)
            optimizer = self._initial_state.reference_optimizer()
            profile = self._profile(model)
            context = profile.context(optimizer, loss, request.epochs, self._training_data.train(), self._targets)
            if not owns(optimizer, reference):
                context = replace(context, layers=ParameterOwnership(reference, [optimizer]).annotate(context.layers))
            trains = any(parameter.requires_grad for parameter in model.parameters())  # else there is no gradient
            refusal = self._examples.refusal(model, self._training_data.request.train) if trains else ""
            context = replace(context, loss_refusal=refusal)
            self.context = measured(context, model, self._examples, self._training_data)
        self.resumable = self._is_resumable(model)
        self._activation_graph = profile.activation_graph
        has_class_axis = profile.output is not None and profile.output.ndim > 2
        self._class_axis = self.context.loss.class_axis if has_class_axis else -1
        self._edit_support = EditSupport(
            request,
            self._editor(reference),
            optimizer,
            self._examples,
            profile.output,
            single_output=profile.single_output or request.step is not None,
            training_data=self._training_data,
        )
        self._resized_support: dict[ResizeOutputLayer, EditSupport] = {}

    @property
    def _targets(self) -> Tensor | None:
        """Targets of the examples."""
        return first_tensor(self._examples.batch.targets)

    def _is_resumable(self, model: nn.Module) -> bool:
        """Return whether a paused training can be kept: in host memory, and with data that can be read again."""
        train, on_host = self._request.train, not any(is_remote(tensor) for tensor in model.parameters())
        return on_host and not is_large(model) and (isinstance(train, ArrayData) or is_repeatable(train.source))

    def supports(self, edit: Edit) -> Support:
        """Return whether a training with this edit can be run, and why not."""
        return self.supports_together((edit,))

    def supports_together(self, edits: Sequence[Edit]) -> Support:
        """Return whether a training with all of these edits can be run, and why not."""
        try:
            reason = self._support_for(edits).refusal_together(edits)
        except ConfigError as error:
            reason = str(error)
        if reason:
            return Support(SupportLevel.NONE, reason)
        return Support(SupportLevel.LIVE if all(isinstance(e, _LIVE_EDITS) for e in edits) else SupportLevel.REBUILD)

    def _support_for(self, edits: Sequence[Edit]) -> EditSupport:
        """Return what decides about edits of the model whose output has the width that they give it.

        Raises:
            ConfigError: If it can't have this width.
        """
        resize = last(edits, ResizeOutputLayer)
        if resize is None:
            return self._edit_support
        if resize not in self._resized_support:
            with preserve_random_state():
                editor = self._editor(self._initial_state.fresh()[0])
                planned, reason = editor.plan(resize)
                if reason:
                    raise ConfigError(reason)
                editor.apply(planned[0])
                profile = self._profile(editor.model)
            resized = self._editor(editor.model, profile.activation_graph)
            self._resized_support[resize] = self._edit_support.of(resized, profile.output)
        return self._resized_support[resize]

    def identity(self) -> Mapping[str, Any]:
        """Return what the original training is made of."""
        model, optimizer = self._initial_state.reference, self._initial_state.reference_optimizer()
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = [
            {**group, "params": [names.get(id(parameter)) for parameter in group["params"]]}
            for group in optimizer.param_groups
        ]
        return {
            "model": [model, str(self._device)],
            "loss": self._request.loss,
            "optimizer": [type(optimizer), groups, list(optimizer.state.values())],
        }

    def sample(self, data: Data, rows: int) -> ArrayData | None:
        """Return the first rows of a data set as arrays; a loader is read in the same order each time."""
        if isinstance(data, ArrayData):
            return super().sample(data, rows)
        return first_rows(self._training_data.open(data, rows), rows)

    def read_targets(self, data: StreamData, add: Callable[[NDArray[Any]], None]) -> None:
        """Read a stream once, and pass the targets of each batch on."""
        if self._request.step is None:
            self._training_data.read_targets(data, add)

    def probed(self, trained: Trained) -> ProbedModel | None:
        """Return a copy of a trained model with the inputs of its first call on the training data."""
        request, model = self._request, trained.model
        with preserve_random_state(), closing(self._training_data.open(request.train, PROBE_ROWS).read()) as batches:
            batch = next(batches, None)
        if batch is None:
            return None
        if request.step is None:
            rows_first = isinstance(request.train, ArrayData) or has_rows_first(request.train.source, batch.inputs)
            return probed_inputs(model, batch.inputs, batch.targets, rows_first=rows_first)
        call, targets = recorded_call(model, lambda: self._objective(None)(model, batch)[2])
        return None if call is None else probed_call(model, *call, targets, rows_first=None)

    def set_rate(self, trained: Trained, rate: float) -> bool:
        """Set the learning rate of a training that runs; parameter groups keep their ratios."""
        return set_rate(trained.optimizer, rate)

    def train(self, spec: TrainingSpec, run: Run) -> Trained:
        """Build the training from the initial state with the edits of the specification, and run it.

        Raises:
            ConfigError: If an edit can't be applied.
            Exception: Whatever the model, the loss, the data or the user's ``step`` raise.
        """
        seed_all(spec.seed)
        training, edits = self._build(spec)
        trained = self._trained(training, edits)
        run.keep(trained)
        model, optimizer, loss = training.model, training.optimizer, training.objective.loss
        profile = self._profile(model)
        context = profile.context(optimizer, loss, spec.epochs, training.train, self._targets)
        context = carried_over(context, self.context)
        observed = None if self._request.step is not None else observed_loss(loss)

        def run_training() -> Generator[None]:
            observer = observe(
                model, optimizer, observed, run.monitor, epochs=context.planned_epochs, steps=context.planned_steps
            )
            run.monitor.attach(observer)
            try:
                run.start(context, profile.operations)
                yield from training.run(run)
            finally:
                observer.close()

        paused = PausedTraining(run_training())
        trained.paused = paused if paused.go_on() else None
        return trained

    def search(self, spec: TrainingSpec, run: ReplayRun) -> None:
        """Replay a training up to the first value that is not finite."""
        seed_all(spec.seed)
        training, _ = self._build(spec)
        profile = self._profile(training.model)
        run.start(self.context, profile.operations)
        searched = SearchedTraining.of(training, run, [layer.name for layer in profile.activation_graph.layers])
        PausedTraining(searched.run(run)).go_on()

    # -- building a training ---------------------------------------------------------------------------------------

    def _build(self, spec: TrainingSpec) -> tuple[Training, tuple[Edit, ...]]:
        """Return a training with the edits of a specification, and the edits as applied."""
        model, optimizer, loss = self._initial_state.fresh()
        before = parameter_shapes(model)
        evaluation_objective = self._objective(unobserved_copy(loss))
        model, edits = self._edited(model, spec.edits)
        settings: dict[type[Edit], Any] = {type(edit): edit for edit in edits}
        check_trainable(model)
        if optimizer is None:
            optimizer = self._initial_state.make_optimizer(model)
        adopt_parameters(optimizer, model, before)
        optimizer = edit_optimizer(optimizer, model, edits)
        check_owned(optimizer, model)
        if SetLoss in settings:
            loss = EditedLoss(settings[SetLoss])
        objective = self._objective(loss, edits)
        if objective.loss is not None and trains_on_another_loss(edits):
            original = loss_info(evaluation_objective.loss)
            convert = bridge(loss_info(objective.loss), original) if SetLoss in settings else None
            otherwise = unobserved_copy(objective.loss)
            # without any value of the original loss, that of the other one is all there is to compare
            comparable = SetLoss not in settings or bool(self.context.loss_refusal)
            evaluation_objective = replace(
                evaluation_objective, convert=convert, otherwise=otherwise, comparable=comparable
            )
            if SetLoss in settings and ResizeOutputLayer in settings:  # the original loss takes another width
                evaluation_objective = replace(evaluation_objective, loss=UndefinedLoss(), convert=None)
        stop, training_data = settings.get(StopEarly), self._training_data_for(model)
        train = training_data.train(edits, spec.seed)
        edits = tuple(_with_length(edit, train, spec.epochs) for edit in edits)
        training = Training(
            model=model,
            optimizer=optimizer,
            objective=objective,
            evaluation_objective=evaluation_objective,
            train=train,
            validation=training_data.open(self._request.validation, max(self._request.batch_size, _EVALUATION_ROWS)),
            epochs=spec.epochs,
            seed=spec.seed,
            scheduler=None if DecayRate in settings else self._scheduler(optimizer, settings.get(ReduceOnPlateau)),
            clip=settings.get(ClipGradients),
            patience=None if stop is None else stop.patience,
            callbacks=make_callbacks(
                edits, model, optimizer, lambda: self._profile(model).activation_graph, spec.epochs
            ),
        )
        return training, edits

    def _edited(self, model: nn.Module, edits: Sequence[Edit]) -> tuple[nn.Module, tuple[Edit, ...]]:
        """Return an edited model, and the edits as applied.

        Raises:
            ConfigError: If an edit can't be applied.
        """
        editor = self._editor(model)
        applied: list[Edit] = []
        support = self._support_for(edits)
        for edit in in_order(edits):
            reason = support.value_refusal(edit)
            planned: tuple[Edit, ...] = ()
            if not reason:
                planned, reason = plan_edit(editor, edit)
            if reason:
                raise ConfigError(f"{type(edit).__name__} can't be applied: {reason}")
            for planned_edit in map(self._training_data.fitted, planned):
                editor.apply(planned_edit)
                applied.append(planned_edit)
        return editor.model, tuple(applied)

    def _editor(self, model: nn.Module, graph: ActivationGraph | None = None) -> ModelEditor:
        def run(copy: nn.Module) -> Any:
            return self._examples.forward(copy.to(self._device))

        return ModelEditor(model, graph or self._activation_graph, self._request.keep, self._class_axis, run)

    def _scheduler(self, optimizer: Optimizer, edit: Any) -> Any:
        if self._request.scheduler is not None:
            return make_scheduler(self._request.scheduler, optimizer)
        if edit is None:
            return None
        floors = [edit.floor * float(group["lr"]) for group in optimizer.param_groups]
        return ReduceLROnPlateau(optimizer, factor=edit.factor, patience=edit.patience, min_lr=floors)

    def _objective(self, loss: nn.Module | None, edits: Sequence[Edit] = ()) -> Objective:
        return make_objective(self._request, loss, edits)

    def _training_data_for(self, model: nn.Module) -> TrainingData:
        """Return the data in the floating-point type of a model."""
        if dtype_of(model) == self._dtype:
            return self._training_data
        loss = self._initial_state.fresh()[2]
        examples = Examples.of(self._request, model, self._objective(loss))
        return TrainingData(self._request, examples, self._device, dtype_of(model))

    # -- profile and result ----------------------------------------------------------------------------------------

    def _profile(self, model: nn.Module) -> ModelProfile:
        return profile_model(model, self._training_data_for(model).examples)

    def _trained(self, training: Training, edits: tuple[Edit, ...]) -> Trained:
        model, objective = training.model, training.evaluation_objective
        training_data = self._training_data_for(model)
        size = max(self._request.batch_size, _EVALUATION_ROWS)

        def predict_inputs(inputs: Any) -> NDArray[np.float64]:
            arrays = map_arrays(as_array, tuple(inputs) if isinstance(inputs, list) else inputs)
            first = next(iter(arrays.values())) if isinstance(arrays, dict) else arrays
            rows = len(first[0] if isinstance(first, tuple) else first)
            return predict(model, training_data.open(ArrayData(arrays, np.zeros(rows)), size).read())

        def evaluate_data(data: Data) -> Evaluation:
            evaluation = evaluate(model, objective, training_data.open(data, size))
            assert evaluation is not None
            return evaluation

        def mean_losses(data: Data) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            return losses_with_mean_outputs(model, objective, training_data.open(data, size))

        trained = Trained(model, training.optimizer, edits, predict_inputs, evaluate_data)

        def constant_losses(fitted: Data, held_out: Data) -> ConstantLosses:
            batches = (training_data.open(data, size) for data in (fitted, held_out))
            with preserve_random_state():
                return losses_with_constant_outputs(model, objective, *batches)

        trained.losses_with_mean_outputs = mean_losses
        trained.losses_with_constant_outputs = constant_losses
        return trained


def _with_length(edit: Edit, train: Batches, epochs: int) -> Edit:
    """Return a decay of the learning rate with the number of steps of its training.

    Raises:
        ConfigError: If that number is unknown beforehand.
    """
    if not isinstance(edit, DecayRate) or edit.steps:
        return edit
    if train.steps is None:
        raise ConfigError("DecayRate can't be applied: the number of steps is unknown beforehand")
    return replace(edit, steps=epochs * train.steps)
