"""Watching the trainings that a user runs with `keras.Model.fit` or ``train_on_batch``.

Three attributes of the model instance are wrapped while it is watched: ``fit``, to add a callback for the epochs;
``evaluate``, which ends an epoch outside of ``fit``; and ``make_train_function``, to observe steps: see `StepObserver`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import keras

from autotrainer.adapter.observer import Recorder
from autotrainer.adapter.probed_model import PROBE_ROWS
from autotrainer.backends.keras3.data.carried_state import carries_state_of_shuffled_rows
from autotrainer.backends.keras3.data.validation_arrays import first_arrays, fit_arguments, validation_arrays
from autotrainer.backends.keras3.engines.loop_signals import enter_keras, leave_keras
from autotrainer.backends.keras3.engines.modes import EvaluationMode
from autotrainer.backends.keras3.model.optimizers import inner_optimizer
from autotrainer.backends.keras3.probing.probed_model import probed_inputs
from autotrainer.backends.keras3.runtime.tensorflow_functions import batches_before_take
from autotrainer.backends.keras3.watching.custom_loop import CustomLoop
from autotrainer.backends.keras3.watching.epochs import (
    EpochCallback,
    EpochValues,
    data_size,
    running_fit,
    schedule_callback,
    with_callback,
)
from autotrainer.backends.keras3.watching.loss_tracker import LossTracker
from autotrainer.backends.keras3.watching.source_lines import source_line
from autotrainer.backends.keras3.watching.step_counter import StepCounter
from autotrainer.backends.keras3.watching.step_measurement import StepMeasurement
from autotrainer.backends.keras3.watching.step_observer import StepObserver
from autotrainer.errors import InputError
from autotrainer.monitoring.source_lines import calling_file
from autotrainer.monitoring.tracebacks import hide_frames, passes_on
from autotrainer.monitoring.train_val_mismatch import validation_mismatch
from autotrainer.output import logger
from autotrainer.records.data import arrays_of
from autotrainer.rule import Place

__all__ = ["KerasObserver", "check_objects", "observe"]


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
        self._counter = StepCounter(epochs, steps, done=monitor.history.step + 1)
        self._epoch_values = EpochValues(model)
        self._losses = LossTracker()
        self._fits = 0  # calls of ``fit`` that are going on
        self._joined = False  # whether the present one had begun before
        self._compared: tuple[Any, ...] = ()  # places of the arrays whose training and validation rows were compared
        self._evaluated: dict[str, float] | None = None  # values of an evaluation outside of ``fit``
        self._epochs = monitor.history.epoch  # that have been ended here
        self._epoch_end = self._counter.total  # steps done at the end of the latest of them
        self.tentative = False
        """Whether it may turn out that the model is not trained."""
        self._loop: CustomLoop | None = None
        if keras.backend.backend() != "jax" and not monitor.context.managed:  # it patches the methods that follow
            self._loop = CustomLoop(
                model, monitor, self._counter, self._losses, optimizer, loss, self._guard, self._report_context
            )
        self._original = {name: getattr(model, name) for name in ("fit", "evaluate", "make_train_function")}
        make = self._original["make_train_function"]
        self._steps = StepObserver(
            model,
            monitor,
            self._counter,
            self._losses,
            self._epoch_values,
            make,
            self._end_evaluated_epoch,
            functools.partial(_is_adversarial, self._loop),
        )
        self._evaluation = EvaluationMode(model, functools.partial(self._steps.statistics.fail, "modes"))
        self._wrapped = {
            "fit": functools.wraps(self._original["fit"])(functools.partial(self._fit)),
            "evaluate": functools.wraps(self._original["evaluate"])(functools.partial(self._evaluate)),
            "make_train_function": functools.wraps(make)(functools.partial(self._steps.make_train_function)),
        }
        vars(model).update(self._wrapped)

    # -- called by the core ---------------------------------------------------------------------------------------

    @property
    def loop(self) -> CustomLoop | None:
        """What watches the steps of a loop of the user's own; None if nothing does."""
        return self._loop

    def log(self, *, loss: Any, outputs: Any, targets: Any, losses: Mapping[str, Any] | None = None) -> None:
        """Keep the terms of the loss until the step ends; all else is observed."""
        if losses:
            self._losses.report({name: _eager(value) for name, value in losses.items()})

    def report_progress(self) -> None:
        """Report the latest step; see `ProgressObserver`."""
        self._monitor.advance(self._counter.total - 1)

    def place(self, what: Place, layer: str | None) -> str:
        """Return file and line where a layer is made or the loss is named; see `Locator`."""
        loop = self._loop if self._loop is not None and self._loop.steps else None
        optimizer = getattr(self._model, "optimizer", None) if loop is None else loop.last
        activation = self._monitor.context.output_activation
        line = source_line(self._model, what, layer, self._file, optimizer=optimizer, activation=activation)
        return loop.step_line if not line and loop is not None and what in ("step", "optimizer", "loss") else line

    def close(self) -> None:
        """Detach everything from the model."""
        if self._joined:  # an exception has ended that ``fit``
            self.leave_fit()
        attributes = vars(self._model)
        for name, wrapped in self._wrapped.items():
            if attributes.get(name) is wrapped:
                del attributes[name]
        with self._steps.guard():
            self._end_evaluated_epoch()
            if self._loop is not None:
                self._loop.close()
        self._steps.close()
        self._losses.collect(self._counter.counts, sampled=False)
        self._losses.start_epoch()
        self._monitor.advance(self._counter.total - 1)
        self._monitor.record_losses(self._losses.take())
        steps = self._steps.observed_any or (self._loop is not None and self._loop.steps)
        if not (steps or self.tentative or self._monitor.context.managed):
            logger.warning("no training step of this model was observed")

    def join_fit(self, traced: Any) -> None:
        """Observe a ``fit`` that is going on and has not taken a step: it runs the callbacks' ``on_train_begin``.

        Its events are reported by the caller: `start_fit`, `start_epoch`, … and `leave_fit`.

        Args:
            traced: The train function that the model had before this ``fit``; None if there was none.
        """
        self._enter_fit(keras.Model.fit.__get__(self._model), (), running_fit(self._model))
        with self._steps.guard():
            self._steps.wrap_train_function(traced)
        enter_keras()
        self._joined = True
        self._fits += 1

    def leave_fit(self) -> None:
        """Register the end of a ``fit``."""
        if self._joined:
            self._joined = False
            leave_keras()
        self._fits -= 1
        self._evaluation.end()
        self._monitor.advance(self._counter.total - 1)

    # -- called by the callback -----------------------------------------------------------------------------------

    def start_fit(self, epochs: int | None, steps: int | None) -> None:
        """Register the planned length of a ``fit``: where it ends, and its steps per epoch."""
        with self._steps.guard():
            self._counter.start_fit(epochs, steps)

    def start_epoch(self, epoch: int) -> None:
        """Register the start of an epoch; epochs of several ``fit`` calls are counted together."""
        with self._steps.guard():
            number = self._counter.start_epoch(epoch, self._monitor.history.epoch)
            resumed = self._monitor.context.managed and self._counter.total  # the context is known
            if number is not None and not resumed:
                self._monitor.history.epoch = number
                self._steps.begin_fit()
            if number is not None:  # this fit may end before the next step to consider
                self._steps.consider(*self._counter.ends(self._monitor.history.epoch))
            self._losses.start_epoch()

    def start_test(self) -> None:
        """Register the start of an evaluation."""
        with self._steps.guard():
            self._evaluation.begin()

    def end_test(self) -> None:
        """Register the end of an evaluation."""
        with self._steps.guard():
            self._evaluation.end()
            self._epoch_values.after_test()

    def end_epoch(self, logs: Mapping[str, Any]) -> None:
        """Report the end of an epoch to the monitor."""
        sampler = self._monitor.sampler
        with self._steps.guard():
            with sampler.stopwatch, sampler.evaluations:
                counts = self._counter.counts
                values = self.values(logs)
                if "val_loss" in values and math.isfinite(self._steps.penalty):
                    values["val_data_loss"] = values["val_loss"] - self._steps.penalty
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
        self._enter_fit(original, args, kwargs)
        with self._steps.guard():
            args, kwargs = with_callback(original, EpochCallback(self), args, kwargs)
        self._fits += 1
        try:
            return original(*args, **kwargs)
        except BaseException as error:
            hide_frames(error)
            raise
        finally:
            self.leave_fit()

    def _enter_fit(self, fit: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Learn from the arguments of a ``fit`` that begins."""
        with self._monitor.guard("the comparison of training and validation data"):
            if not self._monitor.context.managed:  # else the core compares the data
                self._compare_data(fit, args, kwargs)
        with self._steps.guard():
            if self._monitor.wants_probe:
                self._probe(fit, args, kwargs)
            arguments = fit_arguments(fit, args, kwargs)
            batches = batches_before_take(arguments.get("x"))
            if batches is not None:
                self._monitor.learn({"dataset_batches": float(batches)})
            if carries_state_of_shuffled_rows(self._model, arguments):
                self._monitor.learn({"state_of_shuffled_rows": 1.0})
            self._counter.enter_fit(data_size(fit, args, kwargs))
            self._steps.schedule_callback = schedule_callback(fit, args, kwargs)

    def _probe(self, fit: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Probe a copy of the model with the first rows of a ``fit``, if they are arrays."""
        batch = first_arrays(fit, args, kwargs, PROBE_ROWS)
        if batch is not None:
            self._monitor.probe(lambda: probed_inputs(self._model, *batch))

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
        with self._steps.guard():
            if not (self._fits or self._monitor.closed or self._monitor.context.managed or self._steps.stopped):
                self._steps.consider(self._counter.total)
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

    def _guard(self) -> AbstractContextManager[None]:
        return self._steps.guard()

    def _report_context(self, measurement: StepMeasurement) -> None:
        self._steps.report_context(measurement)


def _is_adversarial(loop: CustomLoop | None) -> bool:
    """Return whether the model of this loop is trained against another one."""
    return loop is not None and loop.adversarial


def _eager(value: Any) -> Any:
    """Return a reported loss without its graph."""
    return value.detach() if hasattr(value, "detach") else value
