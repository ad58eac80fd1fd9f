"""Managed trainings of Keras models: each from the same pristine start, with the edits of its recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import keras

from autotrainer.adapter.backend import ReplayRun, Run, Trainer
from autotrainer.adapter.spec import FitRequest, PausedTraining, Support, SupportLevel, Trained, TrainingSpec
from autotrainer.backends.keras3.data.feeding import (
    ArrayFeed,
    InputStatistics,
    StreamFeed,
    batches,
    input_statistics,
    stream_length,
    target_summary,
)
from autotrainer.backends.keras3.data.fit_arguments import CompileSettings, FitArguments
from autotrainer.backends.keras3.data.sample_weights import weighted
from autotrainer.backends.keras3.data.target_support import (
    check_own_loss,
    check_target_edit,
    labels_out_of_range,
    loss_refusal,
)
from autotrainer.backends.keras3.data.training_data import TrainingData
from autotrainer.backends.keras3.engines.tensorflow_graph import draws_by_itself
from autotrainer.backends.keras3.layers.converted_loss import ConvertedLoss
from autotrainer.backends.keras3.model.describe import context_of
from autotrainer.backends.keras3.model.losses import make_loss, takes_as_given
from autotrainer.backends.keras3.model.operations import operations_of
from autotrainer.backends.keras3.model.parts import find_parts
from autotrainer.backends.keras3.model.structure import check_stateless
from autotrainer.backends.keras3.runtime.random_state import preserve_random_state, seed_everything
from autotrainer.backends.keras3.surgery.editor import Editor
from autotrainer.backends.keras3.surgery.optimizer_edits import (
    SETTINGS,
    check_optimizer_edit,
    edited_optimizer,
    resolve_optimizer,
)
from autotrainer.backends.keras3.surgery.surgery import Surgeon, in_order
from autotrainer.backends.keras3.training.callback_support import (
    callbacks_of,
    check_course_edit,
    plain_rate,
    with_length,
)
from autotrainer.backends.keras3.training.evaluation import Evaluator
from autotrainer.backends.keras3.training.initial_state import InitialState, built, first_samples
from autotrainer.backends.keras3.training.nonfinite_search import CheckedSteps
from autotrainer.backends.keras3.training.pausing import can_rest, rounds
from autotrainer.backends.keras3.training.progress import EndOfTraining, TrainingProgress
from autotrainer.backends.keras3.training.skip_updates import skip_updates
from autotrainer.backends.keras3.watching.observer import observe
from autotrainer.edits import Edit, ReduceOnPlateau, SetBatchSize, SetLoss, SkipUpdates, StopEarly
from autotrainer.errors import ConfigError, DataError, InputError
from autotrainer.records.data import ArrayData, Data, StreamData, as_array, concatenate_batches
from autotrainer.records.task import TaskContext
from autotrainer.training.data_edits import conversions, last

__all__ = ["KerasTrainer", "make_trainer"]


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
        given = request.model if isinstance(request.model, keras.Model) else built(request.model)
        check_stateless(given)
        self._settings = CompileSettings.of(given, request.loss)
        if request.optimizer is None and not given.compiled:
            raise InputError("the model is not compiled: give an optimizer, or compile it")
        self._optimizer = resolve_optimizer(given.optimizer if request.optimizer is None else request.optimizer)
        self._material = TrainingData(
            self._train_data, request.batch_size, self._arguments.shuffle, self._arguments.steps,
            self._rest["class_weight"],
        )  # fmt: skip
        self._feed = self._material.feed()
        self._targets = target_summary(self._train_data)
        example = first_samples(self._train_data, "train_data")
        self._pristine = InitialState(given, request.model, example)
        model = self._pristine.model
        self._output_shape = self._pristine.output_shape(example, "train_data")
        self._settings.check_loss(model)
        self._check_end(request.validation)
        self._pristine.output_shape(first_samples(request.validation, "validation_data"), "validation_data")
        self._sample = example
        self._shapes = [tuple(v.shape[1:]) for v in keras.tree.flatten(example)]
        self._surgeon = Surgeon(model, request.keep, self._statistics, self._shapes)
        context = self._context(model, self._settings.loss, self._optimizer, self._feed, request.epochs)
        self.context = replace(context, loss_refusal=loss_refusal(self._settings.loss, model, self._train_data))
        self._repeats: bool | None = None
        # What callbacks of the user's remember, and put on a model, is theirs.
        self.resumable = self._feed.goes_on and not callable(self._arguments.callbacks) and can_rest(model)

    # -- preparing ------------------------------------------------------------------------------------------------

    def _check_end(self, validation: Data) -> None:
        endless = isinstance(validation, StreamData) and stream_length(validation.source) is None
        if endless and self._arguments.validation_steps is None:
            raise DataError("validation_data has no end: give fit_args={'validation_steps': …}")

    def _statistics(self, entry: int) -> InputStatistics:
        return input_statistics(self._train_data, entry, self._pristine.input_name(entry))

    def _context(self, model: Any, loss: Any, optimizer: Any, feed: ArrayFeed | StreamFeed, epochs: int) -> TaskContext:
        found = context_of(model, find_parts(model), loss, optimizer)
        units = found.output_units if found.output_units is not None else (self._output_shape[-1:] or (1,))[0]
        return replace(
            found,
            output_units=units,
            output_rank=len(self._output_shape) if takes_as_given(loss) else None,
            planned_epochs=epochs,
            planned_steps=None if feed.steps is None else feed.steps * epochs,
            train_rows=feed.rows,
            batch_size=feed.batch_size,
            managed=True,
        )

    def identity(self) -> Mapping[str, Any]:
        """Return what the training as given is made of."""
        model, settings = self._pristine.model, self._settings
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
            for x, y, _ in batches(data):
                if keras.tree.is_nested(y):
                    return None
                inputs.append(keras.tree.map_structure(as_array, x))
                targets.append(as_array(y))
                if sum(map(len, targets)) >= rows:
                    break
        return concatenate_batches(inputs, targets, rows)

    def set_rate(self, trained: Trained, rate: float) -> bool:
        """Set the learning rate of a training that runs; not where a schedule does, nor within an epoch of JAX's."""
        if keras.backend.backend() == "jax" or not plain_rate(trained.optimizer):
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
            check_target_edit(edit, self._settings.loss, self._pristine.model, self._material)
            check_course_edit(edit, self._optimizer, self._feed.steps, self._request.epochs, self._surgeon)
        except ConfigError as reason:
            return Support(SupportLevel.NONE, str(reason))
        return Support(SupportLevel.REBUILD)

    def _edited_loss(self, edits: Sequence[Edit], output_shape: tuple[int | None, ...]) -> Any:
        edit, converted, loss = last(edits, SetLoss), conversions(edits), self._settings.loss
        if edit is None and not converted:
            return loss
        check_own_loss(self._pristine.model, loss)
        loss = loss if edit is None else make_loss(edit, self._targets, output_shape)
        return ConvertedLoss(loss, converted) if converted else loss

    # -- training -------------------------------------------------------------------------------------------------

    def train(self, spec: TrainingSpec, run: Run) -> Trained:
        """Build the training from the pristine start with the edits of the recipe, and run it."""
        with preserve_random_state():
            trained, evaluator, feed = self._build(spec)
            run.keep(trained)
            run.start(self._context_of(trained, feed, spec), operations_of(trained.model, self._sample))
            observer = observe(trained.model, None, None, run.monitor)
            run.monitor.attach(observer)
            own = () if spec.rehearsal else self._arguments.callbacks_for(self.first)
            self.first &= spec.rehearsal
            training = self._training(trained, evaluator, feed, spec, run, observer.values, own)
            if training.go_on() and self._steps_repeat(trained.model):
                trained.paused = training
        return trained

    def search(self, spec: TrainingSpec, run: ReplayRun) -> None:
        """Replay a training up to the first value that is not finite; not on JAX, whose steps are pure functions."""
        if keras.backend.backend() == "jax":
            return
        with preserve_random_state():
            trained, evaluator, feed = self._build(spec)
            trained.model.steps_per_execution = 1
            run.start(self._context_of(trained, feed, spec), operations_of(trained.model, self._sample))
            checked = CheckedSteps(trained.model, run)
            own = self._arguments.callbacks_for(False)
            try:
                self._training(trained, evaluator, feed, spec, run, _loss_alone, own, last=checked).go_on()
            finally:
                checked.close()

    def _build(self, spec: TrainingSpec) -> tuple[Trained, Evaluator, ArrayFeed | StreamFeed]:
        """Return a training with the edits of a recipe, what evaluates it, and its batches."""
        seed_everything(spec.seed)
        surgeon = Surgeon(self._pristine.copy(), self._request.keep, self._statistics, self._shapes)
        edits = tuple(surgeon.apply(self._material.fitted(edit)) for edit in in_order(spec.edits))
        model = surgeon.model
        feed = self._material.feed(edits, spec.seed)
        edits = tuple(with_length(edit, feed.steps, spec.epochs) for edit in edits)
        optimizer = edited_optimizer(self._optimizer, edits, model)
        loss = self._edited_loss(edits, self._output_shape)
        self._settings.compile(model, optimizer, loss)
        if (skip := last(edits, SkipUpdates)) is not None:
            skip_updates(model, model.optimizer, skip)
        given, weights = self._settings.loss, self._settings.loss_weights
        evaluator = Evaluator(model, given, weights, feed.batch_size, None if loss is given else loss)
        trained = Trained(model, model.optimizer, edits, evaluator.predict, evaluator.evaluate)  # type: ignore[arg-type]
        return trained, evaluator, feed

    def _context_of(self, trained: Trained, feed: ArrayFeed | StreamFeed, spec: TrainingSpec) -> TaskContext:
        return self._context(trained.model, trained.model.loss, trained.optimizer, feed, spec.epochs)

    def _training(
        self,
        trained: Trained,
        evaluator: Evaluator,
        feed: ArrayFeed | StreamFeed,
        spec: TrainingSpec,
        run: Run,
        values: Callable[[Mapping[str, Any]], dict[str, float]],
        own: Sequence[Any],
        last: Any = None,
    ) -> PausedTraining:
        """Return a training that is about to begin."""
        bench = Editor(trained.model, self._request.keep)
        course = TrainingProgress(
            run,
            evaluator,
            feed,
            self._request.validation,
            validation_steps=self._arguments.validation_steps,
            plateau=next((e for e in trained.edits if isinstance(e, ReduceOnPlateau)), None),
            stop=next((e for e in trained.edits if isinstance(e, StopEarly)), None),
            companions=callbacks_of(trained.edits, bench, spec.epochs, lambda: self._inputs(feed, run)),
            with_metrics=bool(own),
            pauses=self.resumable and not own,
            values=values,
        )

        def fit() -> None:
            try:
                trained.model.fit(
                    **feed.arguments(spec.epochs, spec.seed, course.steps),
                    **{**self._rest, **self._material.options(trained.edits)},
                    epochs=spec.epochs,
                    initial_epoch=course.epochs,
                    callbacks=[course, *own, *([] if last is None else [last])],
                )
            except EndOfTraining:
                course.end_early()
            except InputError:
                raise
            except Exception as error:
                reason = self._wrong_data(error)
                if reason:
                    raise DataError(reason) from error
                raise
            course.restore_best()

        return PausedTraining(rounds(fit, lambda: course.paused))

    def _steps_repeat(self, model: Any) -> bool:
        """Say whether steps depend on nothing that another training changes; asked once, edits add no such thing."""
        if self._repeats is None:
            batch = next(batches(self._train_data, size=self._feed.batch_size))
            with preserve_random_state():  # tracing may run code that draws numbers
                self._repeats = not draws_by_itself(model, tuple(v for v in batch if v is not None))
            self.resumable &= self._repeats
        return self._repeats

    def _wrong_data(self, error: Exception) -> str:
        """Say what of the data made a training fail where Keras' own words are hard to read; else return nothing."""
        train, units = self._request.train, self.context.output_units
        if str(error).startswith("Unrecognized data type") and isinstance(train, StreamData):
            return (
                f"Keras can't train on a {type(train.source).__name__}: give arrays, a tf.data.Dataset, a "
                "keras.utils.PyDataset or a torch DataLoader"
            )
        limits = ((train, self._arguments.steps), (self._request.validation, self._arguments.validation_steps))
        with suppress(Exception):  # whatever is wrong with reading the data, the error at hand is the one to tell
            found = (labels_out_of_range(self._settings.loss, units or 1, data, limit) for data, limit in limits)
            return next(filter(None, found), "")
        return ""

    def _inputs(self, feed: ArrayFeed | StreamFeed, run: Run) -> Any:
        """Return the inputs of a training batch for a forward pass, or None where the budget does not allow it."""
        with preserve_random_state():
            found = next(iter(batches(self._train_data, 1, size=feed.batch_size or 1)), None)
        rows = 0 if found is None else len(keras.tree.flatten(found[0])[0])
        return found[0] if found is not None and rows and run.spend(rows, training=False) else None


def _loss_alone(logs: Mapping[str, Any]) -> dict[str, float]:
    return {"loss": float(logs.get("loss", math.nan))}
