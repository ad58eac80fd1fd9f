"""Watching the trainings that a user runs with `keras.Model.fit` or ``train_on_batch``.

Two attributes of the model instance are wrapped while it is watched: ``fit``, to add a callback for the epochs, and
``make_train_function``, to add one comparison to each call of the train function. A sampled step runs an instrumented
train function (see `instrumented_step`); all others run the one that Keras made, unchanged, unless the run is so short
that tracing a second function would cost more than it saves (see `train_functions`).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import keras

from autotrainer.adapter.observer import Recorder
from autotrainer.backends.keras3.engines.jax_state import readable_variables
from autotrainer.backends.keras3.engines.modes import EvaluationMode
from autotrainer.backends.keras3.engines.train_functions import TrainFunctions
from autotrainer.backends.keras3.model.optimizers import inner_optimizer
from autotrainer.backends.keras3.model.watched_layers import has_weights
from autotrainer.backends.keras3.watching.custom_loop import CustomLoop
from autotrainer.backends.keras3.watching.epochs import (
    EpochCallback,
    EpochValues,
    data_size,
    has_schedule,
    with_callback,
)
from autotrainer.backends.keras3.watching.loss_tracker import LossTracker
from autotrainer.backends.keras3.watching.source_lines import source_line
from autotrainer.backends.keras3.watching.step_counter import StepCounter
from autotrainer.backends.keras3.watching.step_measurement import StepMeasurement
from autotrainer.backends.keras3.watching.validation_arrays import validation_arrays
from autotrainer.errors import InputError
from autotrainer.monitoring.source_lines import calling_file
from autotrainer.monitoring.tracebacks import hide_frames, passes_on
from autotrainer.monitoring.train_val_mismatch import validation_mismatch
from autotrainer.output import logger
from autotrainer.records.data import arrays_of
from autotrainer.rule import Place

__all__ = ["KerasObserver", "check_objects", "observe"]

_WATCHING = "watching Keras"
_NEVER = sys.maxsize


def observe(
    model: Any, optimizer: Any, loss_fn: Any, monitor: Recorder, *, epochs: int | None = None, steps: int | None = None
) -> KerasObserver:
    """Attach to the trainings of a Keras model.

    Args:
        model: A `keras.Model`, compiled now or later.
        optimizer: None, or the optimizer that the model is compiled with, or that of the user's own loop.
        loss_fn: The same for the loss.
        monitor: Receives what is observed.
        epochs: Planned epochs; None: those of ``fit``.
        steps: Planned steps; None: those of ``fit``.

    Returns:
        The observer, attached.

    Raises:
        InputError: If it is not a Keras model, or optimizer or loss are not the compiled ones.
    """
    check_objects(model, optimizer, loss_fn)
    return KerasObserver(model, optimizer, loss_fn, monitor, epochs, steps)


def check_objects(model: Any, optimizer: Any, loss_fn: Any) -> None:
    """Check that model, optimizer and loss belong together.

    Raises:
        InputError: If it is not a Keras model, or optimizer or loss are not the compiled ones.
    """
    if not isinstance(model, keras.Model):
        raise InputError(f"a keras.Model is needed to watch a Keras training, not {type(model).__name__}")
    compiled = getattr(model, "optimizer", None)
    if compiled is None:  # the user's own loop calls them
        return
    if optimizer is not None and optimizer is not compiled and optimizer is not inner_optimizer(compiled):
        raise InputError("this optimizer is not the one that the model is compiled with; leave it out: Keras knows it")
    if loss_fn is not None and loss_fn is not getattr(model, "loss", None):
        raise InputError("this loss is not the one that the model is compiled with; leave it out: Keras knows it")


class KerasObserver:
    """The observer attached to a watched Keras model, which owns it; made by `observe`."""

    owned_by_training = True

    def __init__(
        self, model: Any, optimizer: Any, loss: Any, monitor: Recorder, epochs: int | None, steps: int | None
    ) -> None:
        self._model = model
        self._monitor = monitor
        self._file = calling_file()
        self._counter = StepCounter(epochs, steps)
        self._has_schedule_callback = False  # whether a callback of the present fit changes the learning rate
        self._next = 0  # the first step that may be sampled
        self._epoch_values = EpochValues(model)
        self._evaluation = EvaluationMode(model, self._fail)
        self._losses = LossTracker()
        self._measurement: StepMeasurement | None = None
        self._keras_function: Callable[..., Any] | None = None
        self._counting_function: Callable[..., Any] | None = None
        self._fits = 0  # calls of ``fit`` that are going on
        self._compared: tuple[Any, ...] = ()  # places of the arrays whose training and validation rows were compared
        self._evaluated: dict[str, float] | None = None  # values of an evaluation outside of ``fit``
        self._epochs = monitor.history.epoch  # that have been ended here
        self._epoch_end = 0  # steps done at the end of the latest of them
        self.tentative = False
        """Whether it may turn out that the model is not trained."""
        self._loop: CustomLoop | None = None
        if keras.backend.backend() != "jax" and not monitor.context.managed:  # it patches the methods that follow
            self._loop = CustomLoop(
                model, monitor, self._counter, self._losses, optimizer, loss, self._guard, self._report_context
            )
        self._original = {name: getattr(model, name) for name in ("fit", "evaluate", "make_train_function")}
        self._train_functions = TrainFunctions(
            model, self._original["make_train_function"], self._fail, self._on_unrecordable
        )
        self._wrapped = {
            "fit": functools.wraps(self._original["fit"])(functools.partial(self._fit)),
            "evaluate": functools.wraps(self._original["evaluate"])(functools.partial(self._evaluate)),
            "make_train_function": functools.wraps(self._original["make_train_function"])(
                functools.partial(self._make_train_function)
            ),
        }
        vars(model).update(self._wrapped)

    # -- called by the core ---------------------------------------------------------------------------------------

    @property
    def loop(self) -> CustomLoop | None:
        """What watches the steps of a loop of the user's own; None if nothing does."""
        return self._loop

    def log(self, *, loss: Any, outputs: Any, targets: Any) -> None:
        """Do nothing: all of it is observed."""

    def place(self, what: Place, layer: str | None) -> str:
        """Return file and line where a layer is made or the loss is named; see `Locator`."""
        loop = self._loop if self._loop is not None and self._loop.steps else None
        optimizer = getattr(self._model, "optimizer", None) if loop is None else loop.last
        activation = self._monitor.context.output_activation
        line = source_line(self._model, what, layer, self._file, optimizer=optimizer, activation=activation)
        return loop.step_line if not line and loop is not None and what in ("step", "optimizer", "loss") else line

    def close(self) -> None:
        """Detach everything from the model."""
        attributes = vars(self._model)
        for name, wrapped in self._wrapped.items():
            if attributes.get(name) is wrapped:
                del attributes[name]
        if self._counting_function is not None and attributes.get("train_function") is self._counting_function:
            attributes["train_function"] = self._keras_function
        with self._guard():
            self._end_evaluated_epoch()
            if self._loop is not None:
                self._loop.close()
        self._measurement = None
        self._stop()
        self._train_functions.reset(traced=True)
        self._losses.collect(self._counter.counts, sampled=False)
        self._losses.start_epoch()
        self._monitor.advance(self._counter.total - 1)
        self._monitor.record_losses(self._losses.take())
        steps = self._counting_function is not None or (self._loop is not None and self._loop.steps)
        if not (steps or self.tentative or self._monitor.context.managed):
            logger.warning("no training step of this model was observed")

    # -- called by the callback -----------------------------------------------------------------------------------

    def start_fit(self, epochs: int | None, steps: int | None) -> None:
        """Register the planned length of a ``fit``: where it ends, and its steps per epoch."""
        with self._guard():
            self._counter.start_fit(epochs, steps)

    def start_epoch(self, epoch: int) -> None:
        """Register the start of an epoch; epochs of several ``fit`` calls are counted together."""
        with self._guard():
            number = self._counter.start_epoch(epoch, self._monitor.history.epoch)
            resumed = self._monitor.context.managed and self._counter.total  # the context is known
            if number is not None and not resumed:
                self._monitor.history.epoch = number
                self._report_context()
                self._train_functions.choose(self._counter.planned[1], self._counter.total)
            if number is not None and self._next != _NEVER:  # this fit may end before the next step to consider
                ends = self._counter.ends(self._monitor.history.epoch)
                self._next = min(
                    each for each in (self._next, *ends) if each == self._next or each >= self._counter.total
                )
            self._losses.start_epoch()

    def start_test(self) -> None:
        """Register the start of an evaluation."""
        with self._guard():
            self._evaluation.begin()

    def end_test(self) -> None:
        """Register the end of an evaluation."""
        with self._guard():
            self._evaluation.end()
            self._epoch_values.after_test()

    def end_epoch(self, logs: Mapping[str, Any]) -> None:
        """Report the end of an epoch to the monitor."""
        sampler = self._monitor.sampler
        with self._guard():
            with sampler.stopwatch, sampler.evaluations:
                counts = self._counter.counts
                values = self.values(logs)
                self._losses.collect(counts, sampled=False)
            self._monitor.advance(counts.total - 1)
            if not self._monitor.context.managed:  # else the trainer reports it, with its own evaluation
                self._end_epoch({**values, **self._evaluation.take()})

    def values(self, logs: Mapping[str, Any]) -> dict[str, float]:
        """Return the numbers in the logs of an epoch, by their usual names."""
        return self._epoch_values.of(logs, self._losses.last)

    # -- wrapped attributes of the model --------------------------------------------------------------------------

    @passes_on
    def _fit(self, *args: Any, **kwargs: Any) -> Any:
        original = self._original["fit"]
        with self._monitor.guard("the comparison of training and validation data"):
            if not self._monitor.context.managed:  # else the core compares the data
                self._compare_data(original, args, kwargs)
        with self._guard():
            self._counter.enter_fit(data_size(original, args, kwargs))
            self._has_schedule_callback = has_schedule(original, args, kwargs)
            args, kwargs = with_callback(original, EpochCallback(self), args, kwargs)
        self._fits += 1
        try:
            return original(*args, **kwargs)
        except BaseException as error:
            hide_frames(error)
            raise
        finally:
            self._fits -= 1
            self._evaluation.end()
            self._monitor.advance(self._counter.total - 1)

    def _compare_data(self, fit: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Compare training and validation rows, once for the same arrays."""
        if "feature_shift" not in self._monitor.needs:
            return
        sampler = self._monitor.sampler
        with sampler.stopwatch, sampler.evaluations:
            arrays = validation_arrays(fit, args, kwargs)
            if arrays is None:
                return
            places = tuple((a.ctypes.data, a.shape) for part in arrays for a in (*arrays_of(part.inputs), part.targets))
            if places != self._compared:
                self._compared = places
                self._monitor.learn(validation_mismatch(*arrays))

    @passes_on
    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate; outside of ``fit``, an evaluation between steps shows the end of an epoch."""
        result = self._original["evaluate"](*args, **kwargs)
        with self._guard():
            if not (self._fits or self._monitor.closed or self._monitor.context.managed or self._next == _NEVER):
                self._next = min(self._next, self._counter.total)
                self._evaluated = self._epoch_values.of_evaluation(result)
        return result

    def _end_evaluated_epoch(self) -> None:
        """End the epoch before an evaluation outside of ``fit``, unless the user's loop ends epochs itself."""
        values, self._evaluated = self._evaluated, None
        if values is None or self._counter.total == self._epoch_end:
            return
        self._losses.collect(self._counter.counts, sampled=False)
        self._losses.start_epoch()  # an evaluation resets the metrics
        self._counter.restart_epoch()
        self._monitor.advance(self._counter.total - 1)
        if self._monitor.history.epoch == self._epochs:
            self._end_epoch(values)

    def _end_epoch(self, values: Mapping[str, float]) -> None:
        self._monitor.end_epoch(**values)
        self._epochs, self._epoch_end = self._monitor.history.epoch, self._counter.total

    def _make_train_function(self, force: bool = False) -> Any:
        """Let Keras make its train function, and wrap it with a step counter."""
        attributes = vars(self._model)
        if self._counting_function is not None and attributes.get("train_function") is self._counting_function:
            attributes["train_function"] = self._keras_function
        traced = attributes.get("train_function") if not force else None
        result = self._original["make_train_function"](force=force)
        with self._guard():
            base = attributes.get("train_function")
            if base is not None and not self._monitor.closed:
                if base is not self._keras_function:
                    self._keras_function, self._counting_function = base, self._with_counter(base)
                    self._train_functions.reset(traced=base is traced)
                    self._counter.steps_per_call = max(1, int(self._model.steps_per_execution or 1))
                attributes["train_function"] = self._counting_function
        return result

    def _with_counter(self, base: Callable[..., Any]) -> Callable[..., Any]:
        losses, logs_of, counter, functions = self._losses, _logs_of, self._counter, self._train_functions

        @passes_on
        def train_function(*data: Any) -> Any:
            if counter.total < self._next:
                result = base(*data) if functions.uses_original else functions.run(base, data)[0]
                counter.total += counter.steps_per_call
                losses.logs.append(logs_of(result))
                return result
            return self._take(base, data)

        return train_function

    # -- steps ----------------------------------------------------------------------------------------------------

    @passes_on
    def _take(self, base: Callable[..., Any], data: tuple[Any, ...]) -> Any:
        sample = False
        with self._guard():
            self._end_evaluated_epoch()
        with self._guard(), readable_variables(self._model, data) as readable:
            sample = self._prepare(readable) and self._is_due()
        if sample:
            return self._take_sampled(base, data)
        functions = self._train_functions
        functions.choose(self._counter.planned[1], self._counter.total)
        result = base(*data) if functions.uses_original else functions.run(base, data)[0]
        self._register(result)
        return result

    def _register(self, result: Any) -> None:
        """Count a call of the train function, and store its logs."""
        self._counter.total += self._counter.steps_per_call
        logs = _logs_of(result)
        self._losses.logs.append(logs)
        with self._guard():
            self._losses.unmeasured = self._epoch_values.after_call(logs)

    def _prepare(self, readable: bool) -> bool:
        """Return whether steps can be sampled, after preparing for it: the model must have its weights.

        Some models with a custom training step are never called themselves, so they never count as built.

        Args:
            readable: Whether the variables can be read now.
        """
        if self._monitor.closed or not (self._counter.total or has_weights(self._model)):
            return False
        if self._measurement is None:
            self._measurement = StepMeasurement(self._model, self._losses, needs=self._monitor.needs, readable=readable)
            self._monitor.sampler.stopwatch.waits = _is_on_accelerator(self._model)
        self._train_functions.prepare(self._measurement.layers, self._monitor.needs)
        return True

    def _is_due(self) -> bool:
        """Return whether to sample this step, and set the next step to consider."""
        sampler, step = self._monitor.sampler, self._counter.total
        due = sampler.due(step) or (self._counter.is_last(step) and not sampler.stopped)
        ends = self._counter.ends(self._monitor.history.epoch)
        if not due and step in ends:
            due = sampler.allows_extra()
        self._next = min(each for each in (sampler.next_step, *ends) if each > step)
        return due

    @passes_on
    def _take_sampled(self, base: Callable[..., Any], data: tuple[Any, ...]) -> Any:
        measurement, sampler = self._measurement, self._monitor.sampler
        assert measurement is not None
        sampler.begin_sample()
        with self._guard(), sampler.stopwatch, readable_variables(self._model, data) as readable:
            if readable:
                measurement.before_step()
        # The time of the step itself and of its first tracing is not charged; see the sampler's share.
        result, recorded = self._train_functions.run(base, data)
        sampler.stopwatch.add(*self._train_functions.cost)
        self._register(result)
        with self._guard(), sampler.stopwatch, readable_variables(self._model, result):
            recorder = self._train_functions.recorder if recorded else None
            if not measurement.begun:
                measurement.begin(recorder, recorded)
                if recorder is not None or not self._monitor.history.layers:
                    self._report_context()
                if recorder is not None and recorder.misses_gradients:
                    logger.warning("gradients can't be watched: the training step gives none to an optimizer's apply()")
            self._monitor.record(measurement.observation(recorder, recorded, self._counter.counts))
        sampler.end_sample()
        return result

    # -- helpers --------------------------------------------------------------------------------------------------

    def _report_context(self, measurement: StepMeasurement | None = None) -> None:
        model = self._model
        measurement = measurement if measurement is not None else self._measurement
        measurement = (
            measurement
            if measurement is not None
            else StepMeasurement(model, self._losses, readable=keras.backend.backend() != "jax")
        )
        (epochs, steps), (rows, batch_size) = self._counter.planned, self._counter.data_size
        context = measurement.context()
        optimizer = context.optimizer
        context = replace(
            context,
            optimizer=replace(optimizer, scheduled=optimizer.scheduled or self._has_schedule_callback),
            planned_epochs=epochs,
            planned_steps=steps,
            train_rows=rows,
            batch_size=batch_size,
        )
        self._monitor.begin(context)

    def _on_unrecordable(self) -> None:
        if type(self._model).train_step is keras.Model.train_step:
            self._losses.trust_means()

    def _stop(self) -> None:
        """Let Keras' own train function take all steps from now on."""
        self._next, self._train_functions.uses_original = _NEVER, True

    def _fail(self, error: Exception) -> None:
        self._stop()
        self._monitor.fail(_WATCHING, error)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Keep exceptions of our own code from the training: report the first one, and stop watching."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - nothing of ours may stop a training
            self._fail(error)


def _is_on_accelerator(model: Any) -> bool:
    device = next((str(getattr(weight.value, "device", "cpu")) for weight in model.weights), "cpu")
    return "cpu" not in device.lower()


def _logs_of(result: Any) -> Any:
    """Return the logs of a train function: JAX returns them with the new state."""
    return result[0] if isinstance(result, tuple) else result
