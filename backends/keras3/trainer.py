"""Managed trainings of Keras models: each from the same pristine start, with the edits of its recipe."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras

from autotrainer.adapter import FitRequest, Run, Search, Support, SupportLevel, Trained, Trainer, TrainingSpec
from autotrainer.backends.keras3.bad_search import CheckedSteps
from autotrainer.backends.keras3.describe import context_of
from autotrainer.backends.keras3.evaluation import Evaluator
from autotrainer.backends.keras3.feeding import (
    ArrayFeed,
    InputStatistics,
    StreamFeed,
    batches,
    input_statistics,
    make_feed,
    reason_of,
    stream_length,
    target_summary,
)
from autotrainer.backends.keras3.fitargs import CompileSettings, FitArguments
from autotrainer.backends.keras3.losses import make_loss
from autotrainer.backends.keras3.observer import observe
from autotrainer.backends.keras3.operations import operations_of
from autotrainer.backends.keras3.parts import find_parts
from autotrainer.backends.keras3.progress import Course, EndOfTraining
from autotrainer.backends.keras3.random_state import preserve_random_state, seed_everything
from autotrainer.backends.keras3.sample_weights import weighted
from autotrainer.backends.keras3.settings import SETTINGS, check_optimizer_edit, edited_optimizer, resolve_optimizer
from autotrainer.backends.keras3.structure import check_copy, check_stateless, copy_model, copy_value, has_graph
from autotrainer.backends.keras3.surgery import Surgeon, in_order
from autotrainer.data import ArrayData, Data, StreamData, as_array, stacked
from autotrainer.edits import Edit, ReduceOnPlateau, SetBatchSize, SetLoss, StopEarly
from autotrainer.errors import ConfigError, DataError, InputError
from autotrainer.task import TaskContext

__all__ = ["KerasTrainer", "make_trainer", "save_model"]


def make_trainer(request: FitRequest) -> KerasTrainer:
    """Prepare managed trainings of a Keras model.

    Raises:
        InputError: If model, data, loss, optimizer or an option can't be used together.
    """
    for name in ("step", "scheduler"):
        if getattr(request, name) is not None:
            raise ConfigError(f"{name}= is for PyTorch; in Keras override train_step, or give a learning-rate schedule")
    with preserve_random_state():
        seed_everything(request.seed)
        return KerasTrainer(request)


class KerasTrainer(Trainer):
    """Runs trainings of one given model; see `Trainer`. Made by `make_trainer`."""

    def __init__(self, request: FitRequest) -> None:
        self._request = request
        self._arguments = FitArguments.of(request.fit_args)
        self._rest = dict(self._arguments.rest)
        by_class = self._rest["class_weight"]
        self._train_data = weighted(request.train, self._arguments.sample_weight, by_class)
        if isinstance(self._train_data, ArrayData):
            self._rest["class_weight"] = None  # their rows have these weights now
        given = request.model if isinstance(request.model, keras.Model) else _built(request.model)
        check_stateless(given)
        self._settings = CompileSettings.of(given, request.loss)
        if request.optimizer is None and not given.compiled:
            raise InputError("the model is not compiled: give an optimizer, or compile it")
        self._optimizer = resolve_optimizer(given.optimizer if request.optimizer is None else request.optimizer)
        self._feed = make_feed(self._train_data, request.batch_size, self._arguments.shuffle, self._arguments.steps)
        self._targets = target_summary(self._train_data)
        example = self._example(self._train_data, "train_data")
        self._pristine = self._start(given, example)
        if not self._pristine.trainable_variables:
            raise InputError("the model has no weight to train: set trainable = True where it is to be trained")
        self._output_shape = self._check_fit(example, "train_data")
        self._settings.check_loss(self._pristine)
        self._check_end(request.validation)
        self._check_fit(self._example(request.validation, "validation_data"), "validation_data")
        self._operations = operations_of(self._pristine, example)
        self._shapes = [tuple(v.shape[1:]) for v in keras.tree.flatten(example)]
        self._surgeon = Surgeon(self._pristine, request.keep, self._statistics, self._shapes)
        self._first = True
        self.context = self._context(self._pristine, self._settings.loss, self._optimizer, self._feed, request.epochs)

    # -- preparing ------------------------------------------------------------------------------------------------

    def _example(self, data: Data, what: str) -> Any:
        """Return the inputs of two samples."""
        first = next(iter(batches(data, 1, size=2)), None)
        if first is None:
            raise DataError(f"{what} holds no batch")
        return keras.tree.map_structure(lambda v: v[:2], first[0])

    def _start(self, given: Any, example: Any) -> Any:
        """Return a built copy of the given model, from which all trainings start; the given one stays as it is."""
        if not given.built:
            own = given is not self._request.model
            given = given if own else copy_model(given)
            self._forward(given, example, "train_data")
            if not own:
                return given
        return self._fresh(given, example)

    def _fresh(self, source: Any, example: Any = None) -> Any:
        """Return a copy of a built model: by its graph, else by the user's callable, else by its configuration."""
        builder = self._request.model
        if has_graph(source) or isinstance(builder, keras.Model):
            copy = copy_model(source)
        else:
            copy = _built(builder)
            copy = copy_model(source) if copy is source else copy
        if len(copy.weights) != len(source.weights):
            example = example if example is not None else self._example(self._train_data, "train_data")
            self._forward(copy, example, "train_data")
        if not has_graph(source):
            check_copy(source, copy)
        for old, new in zip(source.weights, copy.weights, strict=True):
            copy_value(old, new)
        return copy

    def _forward(self, model: Any, inputs: Any, what: str) -> Any:
        training = {"training": False} if model._call_has_training_arg else {}
        try:
            return model(inputs, **training)
        except Exception as error:
            shapes = keras.tree.map_structure(lambda v: tuple(v.shape), inputs)
            raise DataError(
                f"{what} does not fit the model: inputs of shape {shapes} (first samples): {reason_of(error)}"
            ) from error

    def _check_fit(self, example: Any, what: str) -> tuple[int | None, ...]:
        output = keras.tree.flatten(self._forward(self._pristine, example, what))[0]
        return (None, *output.shape[1:])

    def _check_end(self, validation: Data) -> None:
        endless = isinstance(validation, StreamData) and stream_length(validation.source) is None
        if endless and self._arguments.validation_steps is None:
            raise DataError("validation_data has no end: give fit_args={'validation_steps': …}")

    def _statistics(self, entry: int) -> InputStatistics:
        inputs = self._pristine.inputs if has_graph(self._pristine) else None
        name = None if inputs is None else keras.tree.flatten(inputs)[entry]._keras_history.operation.name
        return input_statistics(self._train_data, entry, name)

    def _context(self, model: Any, loss: Any, optimizer: Any, feed: ArrayFeed | StreamFeed, epochs: int) -> TaskContext:
        found = context_of(model, find_parts(model), loss, optimizer)
        units = found.output_units if found.output_units is not None else (self._output_shape[-1:] or (1,))[0]
        return replace(
            found,
            output_units=units,
            planned_epochs=epochs,
            planned_steps=None if feed.steps is None else feed.steps * epochs,
            train_rows=feed.rows,
            batch_size=feed.batch_size,
            managed=True,
        )

    def sample(self, data: Data, rows: int) -> ArrayData | None:
        """Return the first rows of a data set as arrays, in the order in which it is read."""
        if isinstance(data, ArrayData):
            return super().sample(data, rows)
        inputs: list[Any] = []
        targets: list[Any] = []
        with preserve_random_state():
            for x, y, _ in batches(data):
                if keras.tree.is_nested(y):
                    return None
                inputs.append(keras.tree.map_structure(as_array, x))
                targets.append(as_array(y))
                if sum(map(len, targets)) >= rows:
                    break
        return stacked(inputs, targets, rows)

    def set_rate(self, trained: Trained, rate: float) -> bool:
        """Set the learning rate of a training that runs; not where a schedule does, nor within an epoch of JAX's."""
        if keras.backend.backend() == "jax" or not _plain_rate(trained.optimizer):
            return False
        trained.optimizer.learning_rate = rate
        return True

    # -- edits ----------------------------------------------------------------------------------------------------

    def supports(self, edit: Edit) -> Support:
        """Say whether a training with this edit can be run, and why not."""
        try:
            self._surgeon.check(edit)
            if type(edit) in SETTINGS:
                check_optimizer_edit(self._optimizer, edit)
            elif isinstance(edit, SetBatchSize):
                self._feed.resized(edit.size)
            elif isinstance(edit, SetLoss):
                self._edited_loss((edit,), self._output_shape)
            elif isinstance(edit, ReduceOnPlateau) and not _plain_rate(self._optimizer):
                raise ConfigError("the optimizer follows a learning-rate schedule, which can't be reduced as well")
        except ConfigError as reason:
            return Support(SupportLevel.NONE, str(reason))
        return Support(SupportLevel.REBUILD)

    def _edited_loss(self, edits: Sequence[Edit], output_shape: tuple[int | None, ...]) -> Any:
        edit = next((e for e in reversed(edits) if isinstance(e, SetLoss)), None)
        if edit is None:
            return self._settings.loss
        kind = type(self._pristine)
        if kind.train_step is not keras.Model.train_step or kind.compute_loss is not keras.Model.compute_loss:
            raise ConfigError(f"{kind.__name__} computes its loss in code of its own")
        if keras.tree.is_nested(self._settings.loss):
            raise ConfigError("the model has several losses")
        return make_loss(edit, self._targets, output_shape)

    # -- training -------------------------------------------------------------------------------------------------

    def train(self, spec: TrainingSpec, run: Run) -> Trained:
        """Build the training from the pristine start with the edits of the recipe, and run it."""
        with preserve_random_state(), _without_retracing_warnings():
            trained, evaluator, feed = self._build(spec)
            run.keep(trained)
            run.start(self._context_of(trained, feed, spec), self._operations)
            observer = observe(trained.model, None, None, run.monitor)
            run.monitor.attach(observer)
            own = () if spec.rehearsal else self._arguments.callbacks_for(self._first)
            self._first &= spec.rehearsal
            self._fit(trained, evaluator, feed, spec, run, observer.values, own)
        return trained

    def search(self, spec: TrainingSpec, run: Search) -> None:
        """Replay a training up to the first value that is not finite; not on JAX, whose steps are pure functions."""
        if keras.backend.backend() == "jax":
            return
        with preserve_random_state(), _without_retracing_warnings():
            trained, evaluator, feed = self._build(spec)
            trained.model.steps_per_execution = 1
            run.start(self._context_of(trained, feed, spec), self._operations)
            checked = CheckedSteps(trained.model, run)
            own = self._arguments.callbacks_for(False)
            try:
                self._fit(trained, evaluator, feed, spec, run, _loss_alone, own, last=checked)
            finally:
                checked.close()

    def _build(self, spec: TrainingSpec) -> tuple[Trained, Evaluator, ArrayFeed | StreamFeed]:
        """Return a training with the edits of a recipe, what evaluates it, and its batches."""
        seed_everything(spec.seed)
        surgeon = Surgeon(self._fresh(self._pristine), self._request.keep, self._statistics, self._shapes)
        edits = tuple(surgeon.apply(edit) for edit in in_order(spec.edits))
        model = surgeon.model
        feed = self._feed
        for edit in edits:
            feed = feed.resized(edit.size) if isinstance(edit, SetBatchSize) else feed
        optimizer = edited_optimizer(self._optimizer, edits, model)
        loss = self._edited_loss(edits, self._output_shape)
        self._settings.compile(model, optimizer, loss)
        given, weights = self._settings.loss, self._settings.loss_weights
        evaluator = Evaluator(model, given, weights, feed.batch_size, None if loss is given else loss)
        trained = Trained(model, model.optimizer, edits, evaluator.predict, evaluator.evaluate)  # type: ignore[arg-type]
        return trained, evaluator, feed

    def _context_of(self, trained: Trained, feed: ArrayFeed | StreamFeed, spec: TrainingSpec) -> TaskContext:
        return self._context(trained.model, trained.model.loss, trained.optimizer, feed, spec.epochs)

    def _fit(
        self,
        trained: Trained,
        evaluator: Evaluator,
        feed: ArrayFeed | StreamFeed,
        spec: TrainingSpec,
        run: Run,
        values: Callable[[Mapping[str, Any]], dict[str, float]],
        own: Sequence[Any],
        last: Any = None,
    ) -> None:
        course = Course(
            run,
            evaluator,
            feed,
            self._request.validation,
            validation_steps=self._arguments.validation_steps,
            plateau=next((e for e in trained.edits if isinstance(e, ReduceOnPlateau)), None),
            stop=next((e for e in trained.edits if isinstance(e, StopEarly)), None),
            with_metrics=bool(own),
            values=values,
        )
        try:
            trained.model.fit(
                **feed.arguments(spec.epochs, spec.seed),
                **self._rest,
                epochs=spec.epochs,
                callbacks=[course, *own, *([] if last is None else [last])],
            )
        except EndOfTraining:
            course.end_early()
        course.restore_best()


def _loss_alone(logs: Mapping[str, Any]) -> dict[str, float]:
    return {"loss": float(logs.get("loss", math.nan))}


@contextmanager
def _without_retracing_warnings() -> Iterator[None]:
    """Keep TensorFlow from warning that a function is traced again: each training traces its own, on purpose."""
    logger = logging.getLogger("tensorflow")

    def other(record: logging.LogRecord) -> bool:
        return "triggered tf.function retracing" not in str(record.msg)

    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


def _built(builder: Any) -> Any:
    if not callable(builder):
        raise InputError(f"model must be a keras.Model or a callable that builds one, not {type(builder).__name__}")
    model = builder()
    if not isinstance(model, keras.Model):
        raise InputError(f"the callable given as model returned no keras.Model but {type(model).__name__}")
    return model


def _plain_rate(optimizer: Any) -> bool:
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return not isinstance(inner._learning_rate, keras.optimizers.schedules.LearningRateSchedule)


def save_model(model: Any, folder: Path) -> Path:
    """Write a trained model as ``model.keras``; an older file is replaced only by a complete new one.

    Raises:
        InputError: If the model can't be saved; says why.
    """
    target = folder / "model.keras"
    with TemporaryDirectory(dir=folder) as scratch:
        file = Path(scratch) / "model.keras"
        try:
            model.save(file)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise InputError(f"{type(model).__name__} can't be saved as .keras: {error}") from error
        os.replace(file, target)
    return target
