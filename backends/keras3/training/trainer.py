"""Managed trainings of Keras models: each starts from the same initial state, with the edits of its spec."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import keras
from numpy.typing import NDArray

from autotrainer.adapter.probed_model import PROBE_ROWS, ProbedModel
from autotrainer.adapter.spec import FitRequest, PausedTraining, Support, SupportLevel, Trained, TrainingSpec
from autotrainer.adapter.trainer import ReplayRun, Run, Trainer
from autotrainer.backends.keras3.data.batches import (
    ArrayBatches,
    StreamBatches,
    read_batches,
    stream_length,
    target_summary,
)
from autotrainer.backends.keras3.data.constant_outputs import losses_with_constant_outputs
from autotrainer.backends.keras3.data.fit_arguments import CompileSettings, FitArguments
from autotrainer.backends.keras3.data.loss_use import measured
from autotrainer.backends.keras3.data.sample_weights import weighted
from autotrainer.backends.keras3.data.scaling import InputStatistics, input_statistics
from autotrainer.backends.keras3.data.target_support import (
    check_own_loss,
    check_target_edit,
    labels_out_of_range,
    loss_refusal,
)
from autotrainer.backends.keras3.data.training_data import TrainingData
from autotrainer.backends.keras3.engines.tensorflow_graph import has_stateful_random_ops
from autotrainer.backends.keras3.layers.converted_loss import ConvertedLoss
from autotrainer.backends.keras3.model.copying import check_stateless, copy_value, has_graph
from autotrainer.backends.keras3.model.describe import context_of
from autotrainer.backends.keras3.model.loss_kinds import loss_info
from autotrainer.backends.keras3.model.losses import is_custom_loss, make_loss
from autotrainer.backends.keras3.model.operations import count_operations
from autotrainer.backends.keras3.model.watched_layers import watched_layers
from autotrainer.backends.keras3.probing.probed_model import probed_inputs
from autotrainer.backends.keras3.runtime.random_state import preserve_random_state, seed_everything
from autotrainer.backends.keras3.surgery.editor import Editor
from autotrainer.backends.keras3.surgery.optimizer_edits import (
    OPTIMIZER_EDITS,
    check_optimizer_edit,
    edited_optimizer,
    resolve_optimizer,
)
from autotrainer.backends.keras3.surgery.own_step import loss_of_step, loss_text
from autotrainer.backends.keras3.surgery.several_outputs import scaled_losses
from autotrainer.backends.keras3.surgery.surgery import Surgeon, in_order
from autotrainer.backends.keras3.training.callback_support import (
    callbacks_of,
    can_set_rate,
    check_training_edit,
    with_length,
)
from autotrainer.backends.keras3.training.evaluation import Evaluator
from autotrainer.backends.keras3.training.fit_callback import EndOfTraining, FitCallback
from autotrainer.backends.keras3.training.initial_state import InitialState, build_model, check_trainable, first_samples
from autotrainer.backends.keras3.training.loss_direction import is_of_distance
from autotrainer.backends.keras3.training.nonfinite_search import NonfiniteSearchCallback
from autotrainer.backends.keras3.training.pausing import can_pause, resumable_fit
from autotrainer.backends.keras3.training.skip_updates import skip_updates
from autotrainer.backends.keras3.training.variables import make_variables
from autotrainer.backends.keras3.watching.observer import observe
from autotrainer.edits import (
    Edit,
    ReduceOnPlateau,
    ResizeOutputLayer,
    ScaleEachTarget,
    SetBatchSize,
    SetLoss,
    SkipUpdates,
    StandardStep,
    StopEarly,
)
from autotrainer.errors import ConfigError, DataError, InputError
from autotrainer.records.data import ArrayData, Data, StreamData, as_array, concatenate_batches
from autotrainer.records.task import TaskContext
from autotrainer.scoring.loss_use import carried_over
from autotrainer.training.data_edits import conversions, last

__all__ = ["KerasTrainer", "make_trainer"]


def make_trainer(request: FitRequest) -> KerasTrainer:
    """Prepare managed trainings of a Keras model.

    Raises:
        InputError: If model, data, loss, optimizer or an option can't be used together.
    """
    for name in ("step", "scheduler"):
        if getattr(request, name) is not None:
            raise ConfigError(f"{name}= is for PyTorch; in Keras override train_step, or use a learning-rate schedule")
    with preserve_random_state():
        seed_everything(request.seed)
        return KerasTrainer(request)


class KerasTrainer(Trainer):
    """Runs trainings of one model; see `Trainer`. Made by `make_trainer`."""

    def __init__(self, request: FitRequest) -> None:
        self._request = request
        self._arguments = FitArguments.of(request.fit_args)
        self._fit_options = dict(self._arguments.rest)
        by_class = self._fit_options["class_weight"]
        self._train_data = weighted(request.train, self._arguments.sample_weight, by_class)
        if isinstance(self._train_data, ArrayData):
            self._fit_options["class_weight"] = None  # it is part of the weights of the rows
        original = request.model if isinstance(request.model, keras.Model) else build_model(request.model)
        check_stateless(original)
        self._settings = CompileSettings.of(original, request.loss)
        if request.optimizer is None and not original.compiled:
            raise InputError("the model is not compiled: give an optimizer, or compile it")
        self._optimizer = resolve_optimizer(original.optimizer if request.optimizer is None else request.optimizer)
        self._training_data = TrainingData(
            self._train_data,
            request.batch_size,
            self._arguments.shuffle,
            self._arguments.steps,
            by_class,
            self._settings.loss if isinstance(self._settings.loss, Mapping) else {},
        )
        self._batches = self._training_data.feed()
        self._targets = target_summary(self._train_data)
        example, *others = (first_samples(data, name) for name, data in self._all_data().items())
        self._initial_state = InitialState(original, request.model, example)
        model = self._initial_state.model
        self._output_shape = self._initial_state.output_shape(example, "train_data")
        self._settings.check_loss(model)
        for name, samples in zip(list(self._all_data())[1:], others, strict=True):
            self._initial_state.output_shape(samples, name)
        self._sample = example
        self._shapes = [tuple(v.shape[1:]) for v in keras.tree.flatten(example)]
        self._surgeon = Surgeon(model, request.keep, self._statistics, self._shapes)
        context = self._context(model, self._settings.loss, self._optimizer, self._batches, request.epochs)
        refusal = loss_refusal(self._settings.loss, model, self._train_data)
        custom = context.loss.family == "custom" and context.output_units == 1
        loss = replace(
            context.loss,
            weighted=context.loss.weighted or self._training_data.weighs_classes(),
            of_distance=custom and is_of_distance(self._settings.loss),
        )
        context = replace(context, loss=loss, loss_refusal=refusal)
        self.context = measured(context, model, self._settings.loss, self._train_data)
        self.runs_callbacks = not callable(self._arguments.callbacks) and bool(self._arguments.callbacks)
        self._repeatable: bool | None = None
        self._step_loss: Any = None
        # The user's callbacks may keep a state that a pause would not save.
        self.resumable = (
            self._batches.resumable_after_epoch and not callable(self._arguments.callbacks) and can_pause(model)
        )

    # -- preparing ------------------------------------------------------------------------------------------------

    def _all_data(self) -> dict[str, Data]:
        """Return training, validation and test data by the name of the argument.

        Raises:
            DataError: If those to evaluate on are infinite.
        """
        request, data = self._request, {"train_data": self._train_data, "validation_data": self._request.validation}
        if _is_infinite(request.validation) and self._arguments.validation_steps is None:
            raise DataError("validation_data is infinite: give fit_args={'validation_steps': …}")
        if request.test is None:
            return data
        if _is_infinite(request.test):
            raise DataError("test_data is infinite: give a part of it, test_data.take(…)")
        return {**data, "test_data": request.test}

    def _statistics(self, input_index: int) -> InputStatistics:
        return input_statistics(self._train_data, input_index, self._initial_state.input_name(input_index))

    def _context(
        self, model: Any, loss: Any, optimizer: Any, batches: ArrayBatches | StreamBatches, epochs: int
    ) -> TaskContext:
        context = context_of(model, watched_layers(model), loss, optimizer)
        units = context.output_units if context.output_units is not None else (self._output_shape[-1:] or (1,))[0]
        return replace(
            context,
            output_units=units,
            output_rank=len(self._output_shape) if is_custom_loss(loss) or self._widths_differ(units) else None,
            planned_epochs=epochs,
            planned_steps=None if batches.steps is None else batches.steps * epochs,
            train_rows=batches.rows,
            batch_size=batches.batch_size,
            managed=True,
        )

    def _widths_differ(self, units: int | None) -> bool:
        """Return whether a loss compares a single output with each of several columns: it then aligns no shapes."""
        by_columns = self._targets.rank == len(self._output_shape) == 2 and not self._targets.one_hot
        classes = loss_info(self._settings.loss).family == "cross_entropy"
        return by_columns and not classes and units == 1 < self._targets.width

    def identity(self) -> Mapping[str, Any]:
        """Return what determines the original training."""
        model, settings = self._initial_state.model, self._settings
        return {
            "model": [model, [keras.ops.convert_to_numpy(v) for v in model.weights], settings.jit_compile],
            "loss": [settings.loss, settings.loss_weights],
            "optimizer": self._optimizer,
        }

    def sample(self, data: Data, rows: int) -> ArrayData | None:
        """Return the first rows of a data set as arrays, in the order in which it is read."""
        if isinstance(data, ArrayData):
            return super().sample(data, rows)
        inputs: list[Any] = []
        targets: list[Any] = []
        with preserve_random_state():
            for x, y, _ in read_batches(data):
                if keras.tree.is_nested(y):
                    return None
                inputs.append(keras.tree.map_structure(as_array, x))
                targets.append(as_array(y))
                if sum(map(len, targets)) >= rows:
                    break
        return concatenate_batches(inputs, targets, rows)

    def read_targets(self, data: StreamData, add: Callable[[NDArray[Any]], None]) -> None:
        """Read a stream once, and pass the targets of each batch on."""
        with preserve_random_state():
            for _, targets, _ in read_batches(data, self._arguments.steps):
                if not keras.tree.is_nested(targets):
                    add(as_array(targets))

    def probed(self, trained: Trained) -> ProbedModel | None:
        """Return a copy of a trained model with the first rows of the training data."""
        with preserve_random_state():
            batch = next(iter(read_batches(self._train_data, 1, PROBE_ROWS)), None)
            if batch is None:
                return None
            copied = self._initial_state.copy()
            for weight, twin in zip(trained.model.weights, copied.weights, strict=True):
                copy_value(weight, twin)
            return probed_inputs(trained.model, *batch[:2], copied)

    def set_rate(self, trained: Trained, rate: float) -> bool:
        """Set the learning rate of a running training; not if it follows a schedule, nor within an epoch on JAX."""
        if keras.backend.backend() == "jax" or not can_set_rate(trained.optimizer):
            return False
        trained.optimizer.learning_rate = rate
        return True

    # -- edits ----------------------------------------------------------------------------------------------------

    def supports(self, edit: Edit) -> Support:
        """Return whether a training with this edit can be run, and if not, why."""
        return self.supports_together((edit,))

    def supports_together(self, edits: Sequence[Edit]) -> Support:
        """Return whether a training with all of these edits can be run, and if not, why."""
        surgeon, resize, standard = self._surgeon, last(edits, ResizeOutputLayer), last(edits, StandardStep)
        deciding = () if len(edits) == 1 and resize is None else (standard, resize)
        try:
            if any(deciding):
                with preserve_random_state():
                    surgeon = Surgeon(self._initial_state.copy(), self._request.keep, self._statistics, self._shapes)
                    for edit in filter(None, deciding):
                        surgeon.apply(edit)
            for edit in edits:
                if edit not in deciding:
                    self._check(edit, surgeon, standard)
            if resize is not None and last(edits, SetLoss) is None:
                self._check_loss_of(surgeon.model, edits)
        except ConfigError as reason:
            return Support(SupportLevel.NONE, str(reason))
        return Support(SupportLevel.REBUILD)

    def _check(self, edit: Edit, surgeon: Surgeon, standard: StandardStep | None = None) -> None:
        """Raise a `ConfigError` if a training of the surgeon's model, with Keras' step or not, can't take an edit."""
        surgeon.check(edit)
        if type(edit) in OPTIMIZER_EDITS:
            check_optimizer_edit(self._optimizer, edit)
        elif isinstance(edit, SetBatchSize):
            self._batches.resized(edit.size)
        elif isinstance(edit, StandardStep):
            self._loss_of_step()
        elif isinstance(edit, ScaleEachTarget):
            if type(surgeon.model).train_step is not keras.Model.train_step:
                raise ConfigError(f"{type(surgeon.model).__name__} computes its loss in code of its own")
            surgeon.check(self._training_data.fitted(edit))
        elif isinstance(edit, SetLoss):
            self._edited_loss((edit,) if standard is None else (standard, edit), self._shape_of(surgeon.model))
        loss = self._settings.loss if standard is None or edit is standard else self._loss_of_step()
        check_target_edit(edit, loss, surgeon.model, self._training_data)
        check_training_edit(edit, self._optimizer, self._batches.steps, self._request.epochs, surgeon)

    def _check_loss_of(self, model: Any, edits: Sequence[Edit]) -> None:
        """Raise a `ConfigError` if the loss can't be computed on the output of a model with another width."""
        check_own_loss(model, self._settings.loss)
        loss = self._edited_loss(edits, self._shape_of(model))
        refusal = loss_refusal(loss, model, self._train_data)
        if refusal:
            raise ConfigError(f"the loss can't be computed on an output of this width: {refusal}")

    def _shape_of(self, model: Any) -> tuple[int | None, ...]:
        """Return the shape of a model's output, of which `ResizeOutputLayer` changes the last axis alone."""
        resized = has_graph(model) and len(keras.tree.flatten(model.outputs)) == 1
        return (*self._output_shape[:-1], model.outputs[0].shape[-1]) if resized else self._output_shape

    def _edited_loss(self, edits: Sequence[Edit], output_shape: tuple[int | None, ...]) -> Any:
        edit, conversion, loss = last(edits, SetLoss), conversions(edits), self._settings.loss
        loss = loss if last(edits, StandardStep) is None else self._loss_of_step()
        if (scaled := last(edits, ScaleEachTarget)) is not None:
            return scaled_losses(loss, scaled)
        if edit is None and not conversion:
            return loss
        if last(edits, StandardStep) is None:
            check_own_loss(self._initial_state.model, loss)
        loss = loss if edit is None else make_loss(edit, self._targets, output_shape)
        return ConvertedLoss(loss, conversion) if conversion else loss

    def _loss_of_step(self) -> Any:
        """Return the loss that the model's own training step computes.

        Raises:
            ConfigError: If it is not the only thing that the step computes.
        """
        if self._step_loss is None:
            try:
                with preserve_random_state():
                    model = self._initial_state.copy()
                    self._settings.compile(model, edited_optimizer(self._optimizer, (), model), self._settings.loss)
                    self._step_loss = loss_of_step(model, self._train_data)
            except ConfigError as reason:
                self._step_loss = reason
        if isinstance(self._step_loss, ConfigError):
            raise self._step_loss
        return self._step_loss

    # -- training -------------------------------------------------------------------------------------------------

    def train(self, spec: TrainingSpec, run: Run) -> Trained:
        """Build the training from the initial state with the edits of the spec, and run it."""
        with preserve_random_state():
            trained, evaluator, batches = self._build(spec)
            run.keep(trained)
            run.start(self._context_of(trained, batches, spec), count_operations(trained.model, self._sample))
            observer = observe(trained.model, None, None, run.monitor)
            run.monitor.attach(observer)
            user_callbacks = () if spec.rehearsal else self._arguments.callbacks_for(self.first)
            self.first &= spec.rehearsal
            training = self._pausable_training(trained, evaluator, batches, spec, run, observer.values, user_callbacks)
            if training.go_on() and self._steps_are_repeatable(trained.model):
                trained.paused = training
        return trained

    def search(self, spec: TrainingSpec, run: ReplayRun) -> None:
        """Replay a training up to the first value that is not finite; not on JAX, whose steps are pure functions."""
        if keras.backend.backend() == "jax":
            return
        with preserve_random_state():
            trained, evaluator, batches = self._build(spec)
            trained.model.steps_per_execution = 1
            run.start(self._context_of(trained, batches, spec), count_operations(trained.model, self._sample))
            search_callback = NonfiniteSearchCallback(trained.model, run)
            user_callbacks = self._arguments.callbacks_for(False)
            try:
                training = self._pausable_training(
                    trained, evaluator, batches, spec, run, _loss_only, user_callbacks, search_callback
                )
                training.go_on()
            finally:
                search_callback.close()

    def _build(self, spec: TrainingSpec) -> tuple[Trained, Evaluator, ArrayBatches | StreamBatches]:
        """Return a training with the edits of a spec, its evaluator and its batches."""
        seed_everything(spec.seed)
        surgeon = Surgeon(self._initial_state.copy(), self._request.keep, self._statistics, self._shapes)
        edits = tuple(surgeon.apply(self._training_data.fitted(edit)) for edit in in_order(spec.edits))
        model = surgeon.model
        check_trainable(model)
        batches = self._training_data.feed(edits, spec.seed)
        edits = tuple(with_length(edit, batches.steps, spec.epochs) for edit in edits)
        optimizer = edited_optimizer(self._optimizer, edits, model)
        loss = self._edited_loss(edits, self._shape_of(model))
        edits = tuple(StandardStep(loss_text(loss)) if isinstance(e, StandardStep) else e for e in edits)
        self._settings.compile(model, optimizer, loss)
        thaws = bool(self._arguments.callbacks)  # which may thaw layers before the first step
        if isinstance(batches, ArrayBatches) and not thaws and not make_variables(model, batches):
            self._settings.compile(model, optimizer, loss)
        if (skip := last(edits, SkipUpdates)) is not None:
            skip_updates(model, model.optimizer, skip)
        original, weights = self._settings.loss, self._settings.loss_weights
        if last(edits, ResizeOutputLayer) is not None and last(edits, SetLoss) is not None:
            original = None  # it takes another width
        trained_loss = None if loss is original else loss
        # without any value of the original loss, that of the other one is all there is to compare
        comparable = last(edits, SetLoss) is None or bool(self.context.loss_refusal)
        evaluator = Evaluator(model, original, weights, batches.batch_size, trained_loss, comparable=comparable)
        trained = Trained(model, model.optimizer, edits, evaluator.predict, evaluator.evaluate)  # type: ignore[arg-type]
        if original is not None:
            trained.losses_with_constant_outputs = partial(losses_with_constant_outputs, model, original)
        return trained, evaluator, batches

    def _context_of(self, trained: Trained, batches: ArrayBatches | StreamBatches, spec: TrainingSpec) -> TaskContext:
        context = self._context(trained.model, trained.model.loss, trained.optimizer, batches, spec.epochs)
        weighted = context.loss.weighted or self.context.loss.weighted
        weighted = weighted or self._training_data.weighs_rows(trained.edits)
        return carried_over(replace(context, loss=replace(context.loss, weighted=weighted)), self.context)

    def _pausable_training(
        self,
        trained: Trained,
        evaluator: Evaluator,
        batches: ArrayBatches | StreamBatches,
        spec: TrainingSpec,
        run: Run,
        values: Callable[[Mapping[str, Any]], dict[str, float]],
        user_callbacks: Sequence[Any],
        search_callback: NonfiniteSearchCallback | None = None,
    ) -> PausedTraining:
        """Return a training that has not begun."""
        editor = Editor(trained.model, self._request.keep)
        callback = FitCallback(
            run,
            evaluator,
            batches,
            self._request.validation,
            validation_steps=self._arguments.validation_steps,
            plateau=next((e for e in trained.edits if isinstance(e, ReduceOnPlateau)), None),
            stop=next((e for e in trained.edits if isinstance(e, StopEarly)), None),
            callbacks=callbacks_of(trained.edits, editor, spec.epochs, lambda: self._inputs(batches, run)),
            with_metrics=bool(user_callbacks),
            pauses=self.resumable and not user_callbacks,
            values=values,
        )

        def fit() -> None:
            try:
                trained.model.fit(
                    **batches.arguments(spec.epochs, spec.seed, callback.steps),
                    **{**self._fit_options, **self._training_data.options(trained.edits)},
                    epochs=spec.epochs,
                    initial_epoch=callback.epochs,
                    callbacks=[callback, *user_callbacks, *([] if search_callback is None else [search_callback])],
                )
            except EndOfTraining:
                callback.end_early()
            except InputError:
                raise
            except Exception as error:
                reason = self._data_error(error)
                if reason:
                    raise DataError(reason) from error
                raise
            callback.restore_best()

        return PausedTraining(resumable_fit(fit, lambda: callback.paused))

    def _steps_are_repeatable(self, model: Any) -> bool:
        """Return whether steps are independent of other trainings. Computed once: edits do not change it."""
        if self._repeatable is None:
            batch = next(read_batches(self._train_data, size=self._batches.batch_size))
            with preserve_random_state():  # tracing may draw random numbers
                self._repeatable = not has_stateful_random_ops(model, tuple(v for v in batch if v is not None))
            self.resumable &= self._repeatable
        return self._repeatable

    def _data_error(self, error: Exception) -> str:
        """Return what is wrong with the data if Keras' message is hard to read; else an empty text."""
        train, units = self._request.train, self.context.output_units
        if str(error).startswith("Unrecognized data type") and isinstance(train, StreamData):
            return (
                f"Keras can't train on a {type(train.source).__name__}: give arrays, a tf.data.Dataset, a "
                "keras.utils.PyDataset or a torch DataLoader"
            )
        limits = ((train, self._arguments.steps), (self._request.validation, self._arguments.validation_steps))
        with suppress(Exception):  # if the data can't be read, the original error is the one to report
            reasons = (labels_out_of_range(self._settings.loss, units or 1, data, limit) for data, limit in limits)
            return next(filter(None, reasons), "")
        return ""

    def _inputs(self, batches: ArrayBatches | StreamBatches, run: Run) -> Any:
        """Return the inputs of a training batch for a forward pass; None if the budget does not allow it."""
        with preserve_random_state():
            batch = next(iter(read_batches(self._train_data, 1, size=batches.batch_size or 1)), None)
        rows = 0 if batch is None else len(keras.tree.flatten(batch[0])[0])
        return batch[0] if batch is not None and rows and run.spend(rows, training=False) else None


def _is_infinite(data: Data) -> bool:
    return isinstance(data, StreamData) and stream_length(data.source) is None


def _loss_only(logs: Mapping[str, Any]) -> dict[str, float]:
    return {"loss": float(logs.get("loss", math.nan))}
