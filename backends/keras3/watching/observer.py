"""Watching the trainings that a user runs with `keras.Model.fit` or ``train_on_batch``.

Two attributes of the model instance are wrapped while it is watched: ``fit``, to add one callback for the epochs, and
``make_train_function``, to put one comparison before each call of the train function. A step that is to be sampled
runs an instrumented train function (see `instrument`); all others run the one that Keras made, untouched, unless the
run is so short that tracing a second function would cost more than it saves (see `train_functions`).
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any

import keras

from autotrainer.adapter.observer import Recorder
from autotrainer.backends.keras3.engines.instrument import has_weights
from autotrainer.backends.keras3.engines.jax_state import carried
from autotrainer.backends.keras3.engines.modes import EvaluationMode
from autotrainer.backends.keras3.engines.train_functions import TrainFunctions
from autotrainer.backends.keras3.watching.epoch_values import EpochValues
from autotrainer.backends.keras3.watching.epochs import EpochCallback, data_size, has_schedule, with_callback
from autotrainer.backends.keras3.watching.loss_tracker import LossTracker
from autotrainer.backends.keras3.watching.schedule import Schedule
from autotrainer.backends.keras3.watching.source_lines import place
from autotrainer.backends.keras3.watching.step_measurement import StepMeasurement
from autotrainer.errors import InputError
from autotrainer.monitoring.source_lines import calling_file
from autotrainer.rule import Place

__all__ = ["KerasObserver", "observe"]

logger = logging.getLogger("autotrainer")

_PART = "watching Keras"
_NEVER = sys.maxsize


def observe(
    model: Any, optimizer: Any, loss_fn: Any, monitor: Recorder, *, epochs: int | None = None, steps: int | None = None
) -> KerasObserver:
    """Attach to the trainings of a Keras model.

    Args:
        model: A `keras.Model`, compiled now or later.
        optimizer: None, or the optimizer that the model is compiled with.
        loss_fn: None, or the loss that the model is compiled with.
        monitor: Takes what is observed.
        epochs: Planned epochs; None: as ``fit`` says.
        steps: Planned steps; None: as ``fit`` says.

    Returns:
        The observer, attached.

    Raises:
        InputError: If it is no Keras model, or the optimizer is not the model's.
    """
    if not isinstance(model, keras.Model):
        raise InputError(f"a keras.Model is needed to watch a Keras training, not {type(model).__name__}")
    own = getattr(model, "optimizer", None)
    if optimizer is not None and optimizer is not own and optimizer is not getattr(own, "inner_optimizer", None):
        raise InputError(
            "this optimizer is not the one that the model is compiled with; leave it out: Keras models know their own"
        )
    if loss_fn is not None and loss_fn is not getattr(model, "loss", None):
        raise InputError("this loss is not the one that the model is compiled with; leave it out: Keras knows it")
    return KerasObserver(model, monitor, epochs, steps)


class KerasObserver:
    """What stays attached to a watched Keras model. Made by `observe`."""

    def __init__(self, model: Any, monitor: Recorder, epochs: int | None, steps: int | None) -> None:
        self._model = model
        self._monitor = monitor
        self._file = calling_file()
        self._schedule = Schedule(epochs, steps)
        self._scheduled = False  # whether a callback of the present fit changes the learning rate
        self._next = 0  # the first step at which there is something to ask
        self._values = EpochValues(model)
        self._evaluation = EvaluationMode(model, self._fail)
        self._losses = LossTracker()
        self._measure: StepMeasurement | None = None
        self._base: Callable[..., Any] | None = None
        self._function: Callable[..., Any] | None = None
        self._own = {name: getattr(model, name) for name in ("fit", "make_train_function")}
        self._steps = TrainFunctions(model, self._own["make_train_function"], self._fail, self._go_outside)
        self._wrapped = {
            "fit": functools.wraps(self._own["fit"])(functools.partial(self._fit)),
            "make_train_function": functools.wraps(self._own["make_train_function"])(functools.partial(self._make)),
        }
        vars(model).update(self._wrapped)

    # -- what the core asks ---------------------------------------------------------------------------------------

    def log(self, *, loss: Any, outputs: Any, targets: Any) -> None:
        """Do nothing: ``fit`` shows all of it."""

    def place(self, what: Place, layer: str | None) -> str:
        """Return file and line where a layer is made or the loss is named; see `Locator`."""
        return place(self._model, what, layer, self._file)

    def close(self) -> None:
        """Take everything off the model again."""
        attributes = vars(self._model)
        for name, wrapped in self._wrapped.items():
            if attributes.get(name) is wrapped:
                del attributes[name]
        if self._function is not None and attributes.get("train_function") is self._function:
            attributes["train_function"] = self._base
        self._measure = None
        self._stop()
        self._steps.reset(traced=True)
        self._losses.start_epoch()
        self._monitor.advance(self._schedule.count - 1)
        if self._function is None and not self._monitor.context.managed:
            logger.warning("no training step of this model was seen: Keras is watched in fit() and train_on_batch()")

    # -- what the callback tells ----------------------------------------------------------------------------------

    def start_fit(self, epochs: int | None, steps: int | None) -> None:
        """Take the planned length of a ``fit``: number of its last epoch, steps an epoch."""
        with self._guard():
            self._schedule.start_fit(epochs, steps)

    def start_epoch(self, epoch: int) -> None:
        """Note where an epoch starts; epochs of several ``fit`` are counted on."""
        with self._guard():
            number = self._schedule.start_epoch(epoch, self._monitor.history.epoch)
            goes_on = self._monitor.context.managed and self._schedule.count  # after a pause: all is known
            if number is not None and not goes_on:
                self._monitor.history.epoch = number
                self._tell_context()
                self._steps.choose(self._schedule.planned[1], self._schedule.count)
            self._losses.start_epoch()

    def start_test(self) -> None:
        """Note that an evaluation begins."""
        with self._guard():
            self._evaluation.begin()

    def end_test(self) -> None:
        """Note what an evaluation has measured."""
        with self._guard():
            self._evaluation.end()
            self._values.after_test()

    def end_epoch(self, logs: Mapping[str, Any]) -> None:
        """Pass on what is known at the end of an epoch."""
        with self._guard():
            started = perf_counter()
            where = self._schedule.position
            values = self.values(logs)
            if self._monitor.sampler.affordable():
                self._losses.collect(where.count, where.done, where.stride, sampled=False)
            self._monitor.sampler.charge(perf_counter() - started)
            self._monitor.advance(where.count - 1)
            if not self._monitor.context.managed:  # else `fit` says so itself, with its own evaluation
                self._monitor.end_epoch(**values, **self._evaluation.take())

    def values(self, logs: Mapping[str, Any]) -> dict[str, float]:
        """Return what the logs of an epoch say of it, by the usual names."""
        return self._values.of(logs, self._losses.last)

    # -- wrapped attributes of the model --------------------------------------------------------------------------

    def _fit(self, *args: Any, **kwargs: Any) -> Any:
        own = self._own["fit"]
        with self._guard():
            self._schedule.call_fit(data_size(own, args, kwargs))
            self._scheduled = has_schedule(own, args, kwargs)
            args, kwargs = with_callback(own, EpochCallback(self), args, kwargs)
        try:
            return own(*args, **kwargs)
        finally:
            self._evaluation.end()
            self._monitor.advance(self._schedule.count - 1)

    def _make(self, force: bool = False) -> Any:
        """Let Keras make its train function, and put a counter before it."""
        attributes = vars(self._model)
        if self._function is not None and attributes.get("train_function") is self._function:
            attributes["train_function"] = self._base
        traced = attributes.get("train_function") if not force else None
        result = self._own["make_train_function"](force=force)
        with self._guard():
            base = attributes.get("train_function")
            if base is not None and not self._monitor.closed:
                if base is not self._base:
                    self._base, self._function = base, self._counting(base)
                    self._steps.reset(traced=base is traced)
                    self._schedule.stride = max(1, int(self._model.steps_per_execution or 1))
                attributes["train_function"] = self._function
        return result

    def _counting(self, base: Callable[..., Any]) -> Callable[..., Any]:
        losses, logs_of, schedule, steps = self._losses, _logs_of, self._schedule, self._steps

        def train_function(*data: Any) -> Any:
            if schedule.count < self._next:
                result = base(*data) if steps.plain else steps.take(base, data)[0]
                schedule.count += schedule.stride
                losses.logs.append(logs_of(result))
                return result
            return self._maybe_sampled(base, data)

        return train_function

    # -- steps ----------------------------------------------------------------------------------------------------

    def _maybe_sampled(self, base: Callable[..., Any], data: tuple[Any, ...]) -> Any:
        sample = False
        with self._guard(), carried(self._model, data) as known:
            sample = self._ready(known) and self._due()
        if sample:
            return self._sampled(base, data)
        steps = self._steps
        steps.choose(self._schedule.planned[1], self._schedule.count)
        result = base(*data) if steps.plain else steps.take(base, data)[0]
        self._note(result)
        return result

    def _note(self, result: Any) -> None:
        """Count a call of the train function, and keep the logs that it returned."""
        self._schedule.count += self._schedule.stride
        logs = _logs_of(result)
        self._losses.logs.append(logs)
        with self._guard():
            self._losses.unmeasured = self._values.after_call(logs)

    def _ready(self, valued: bool) -> bool:
        """Say whether steps can be sampled, and prepare for it the first time: the weights have to be there.

        Some models with a training step of their own are never called themselves, and so never count as built.

        Args:
            valued: Whether the variables hold values now.
        """
        if self._monitor.closed or not (self._schedule.count or has_weights(self._model)):
            return False
        if self._measure is None:
            self._measure = StepMeasurement(self._model, self._losses, needs=self._monitor.needs, valued=valued)
        self._steps.prepare(self._measure.parts, self._monitor.needs)
        return True

    def _due(self) -> bool:
        """Say whether this step is to be sampled, and note when to ask again."""
        sampler, step = self._monitor.sampler, self._schedule.count
        due = sampler.due(step)
        last = self._schedule.last_of_epoch()
        if not due and step == last:
            due = sampler.affordable()
        self._next = sampler.next_step if last is None or step >= last else min(sampler.next_step, last)
        return due

    def _sampled(self, base: Callable[..., Any], data: tuple[Any, ...]) -> Any:
        started = perf_counter()
        measure = self._measure
        assert measure is not None
        with self._guard(), carried(self._model, data) as known:
            if known:
                measure.before_step()
        cost = perf_counter() - started
        # The time of the step itself, and of tracing it for the first time, is not charged: see the sampler's share.
        result, seen = self._steps.take(base, data)
        cost += self._steps.cost
        started = perf_counter()
        self._note(result)
        with self._guard(), carried(self._model, result):
            recorder = self._steps.recorder if seen else None
            if not measure.begun:
                measure.begin(recorder, seen)
                if recorder is not None or not self._monitor.history.layers:
                    self._tell_context()
                if recorder is not None and recorder.misses_gradients:
                    logger.warning("gradients can't be watched: the training step gives none to an optimizer's apply()")
            self._monitor.record(measure.observation(recorder, seen, self._schedule.position))
        self._monitor.sampler.charge(cost + perf_counter() - started, sample=True)
        return result

    # -- inside ---------------------------------------------------------------------------------------------------

    def _tell_context(self) -> None:
        model = self._model
        measure = (
            self._measure
            if self._measure is not None
            else StepMeasurement(model, self._losses, valued=keras.backend.backend() != "jax")
        )
        (epochs, steps), (rows, batch_size) = self._schedule.planned, self._schedule.data_size
        context = measure.context()
        optimizer = context.optimizer
        context = replace(
            context,
            optimizer=replace(optimizer, scheduled=optimizer.scheduled or self._scheduled),
            planned_epochs=epochs,
            planned_steps=steps,
            train_rows=rows,
            batch_size=batch_size,
        )
        self._monitor.begin(context)

    def _go_outside(self) -> None:
        if type(self._model).train_step is keras.Model.train_step:
            self._losses.trust_means()

    def _stop(self) -> None:
        """Let Keras' own train function take all steps from now on."""
        self._next, self._steps.plain = _NEVER, True

    def _fail(self, error: Exception) -> None:
        self._stop()
        self._monitor.fail(_PART, error)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Keep exceptions of our own code from the training: report the first one, and watch no further."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - nothing of ours may stop a training
            self._fail(error)


def _logs_of(result: Any) -> Any:
    """Return the logs of a train function: JAX returns them with the new state."""
    return result[0] if isinstance(result, tuple) else result
