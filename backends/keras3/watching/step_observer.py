"""The steps of a watched training: counting them, sampling some, and collecting their losses.

``make_train_function`` of the model adds one comparison to each call of the train function. A sampled step runs an
instrumented train function (see `instrumented_step`); all others run the one that Keras made, unchanged, unless the run
is so short that tracing a second function would cost more than it saves (see `train_functions`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import keras

from autotrainer.adapter.observer import Recorder
from autotrainer.backends.keras3.engines.jax_state import readable_variables
from autotrainer.backends.keras3.engines.train_functions import TrainFunctions
from autotrainer.backends.keras3.model.watched_layers import has_weights
from autotrainer.backends.keras3.watching.epochs import EpochValues
from autotrainer.backends.keras3.watching.loss_tracker import LossTracker
from autotrainer.backends.keras3.watching.step_counter import StepCounter
from autotrainer.backends.keras3.watching.step_measurement import StepMeasurement
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.monitoring.lifetime import weak_method
from autotrainer.monitoring.tracebacks import passes_on
from autotrainer.output import logger

__all__ = ["StepObserver"]

_WATCHING = "watching Keras"
_NEVER = sys.maxsize
_OF_PROGRESS = frozenset({"loss", "outputs", "targets", "row_losses"})
"""What a step shows of its progress, unless a model is trained against another one."""


class StepObserver:
    """Observes the steps that the train function of one model takes.

    Args:
        model: The model.
        monitor: Receives what is observed.
        counter: Counts the steps.
        losses: Takes the losses of the steps.
        epoch_values: Finds out which metrics a train function updates.
        make_train_function: The model's original one.
        before_step: Called before a step that may be sampled.
        is_adversarial: Returns whether the model is trained against another one: its loss does not measure progress.
    """

    def __init__(
        self,
        model: Any,
        monitor: Recorder,
        counter: StepCounter,
        losses: LossTracker,
        epoch_values: EpochValues,
        make_train_function: Callable[..., Any],
        before_step: Callable[[], None],
        is_adversarial: Callable[[], bool] = bool,
    ) -> None:
        self._model, self._monitor, self._counter, self._losses = model, monitor, counter, losses
        self._epoch_values, self._make, self._before_step = epoch_values, make_train_function, before_step
        self._is_adversarial, self._adversarial = is_adversarial, False
        self._next = 0  # the first step that may be sampled
        self._measurement: StepMeasurement | None = None
        self._keras_function: Callable[..., Any] | None = None
        self._counting_function: Callable[..., Any] | None = None
        self.statistics = StatisticGuard(weak_method(monitor.fail_statistic))
        """Measures statistics, so that one that fails is left out alone."""
        self._train_functions = TrainFunctions(model, make_train_function, self.statistics, self._on_unrecordable)
        self.schedule_callback = ""  # class of a callback that changes the learning rate
        """Whether a callback of the present ``fit`` changes the learning rate."""

    @property
    def observed_any(self) -> bool:
        """Whether Keras has made a train function since watching began."""
        return self._counting_function is not None

    @property
    def stopped(self) -> bool:
        """Whether Keras' own train function takes all steps."""
        return self._next == _NEVER

    @property
    def penalty(self) -> float:
        """What the latest sampled loss held besides that of the only output; NaN if nothing, or unknown."""
        return float("nan") if self._measurement is None else self._measurement.penalty

    def begin_fit(self) -> None:
        """Describe the training to the monitor at the start of a ``fit`` of known length."""
        self.report_context()
        self._train_functions.choose(self._counter.planned[1], self._counter.total)

    def consider(self, *steps: int) -> None:
        """Consider sampling these steps, as far as they are still to come; the end of a run may have moved."""
        if not self.stopped:
            self._next = min([self._next, *(step for step in steps if step >= self._counter.total)])

    def stop(self) -> None:
        """Let Keras' own train function take all steps from now on."""
        self._next, self._train_functions.uses_original = _NEVER, True

    def close(self) -> None:
        """Detach from the model."""
        attributes = vars(self._model)
        if self._counting_function is not None and attributes.get("train_function") is self._counting_function:
            attributes["train_function"] = self._keras_function
        if self._measurement is not None and not self._monitor.context.managed:
            with self.guard():
                self._monitor.learn(self._measurement.end())
        self._measurement = None
        self.stop()
        self._train_functions.reset(traced=True)

    def fail(self, error: Exception) -> None:
        """Stop watching after an exception of our own code, and report it."""
        self.stop()
        self._monitor.fail(_WATCHING, error)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Keep exceptions of our own code from the training: report the first one, and stop watching."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - nothing of ours may stop a training
            self.fail(error)

    def make_train_function(self, force: bool = False) -> Any:
        """Let Keras make its train function, and wrap it with a step counter."""
        attributes = vars(self._model)
        if self._counting_function is not None and attributes.get("train_function") is self._counting_function:
            attributes["train_function"] = self._keras_function
        traced = attributes.get("train_function") if not force else None
        result = self._make(force=force)
        with self.guard():
            self.wrap_train_function(traced)
        return result

    def wrap_train_function(self, traced: Any) -> None:
        """Wrap the model's present train function with a step counter.

        Args:
            traced: A train function that may have taken steps; None if there is none.
        """
        attributes = vars(self._model)
        base = attributes.get("train_function")
        if base is None or self._monitor.closed or base is self._counting_function:
            return
        if base is not self._keras_function:
            self._keras_function, self._counting_function = base, self._with_counter(base)
            self._train_functions.reset(traced=base is traced)
            self._counter.steps_per_call = max(1, int(self._model.steps_per_execution or 1))
        attributes["train_function"] = self._counting_function

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

    @passes_on
    def _take(self, base: Callable[..., Any], data: tuple[Any, ...]) -> Any:
        sample = False
        with self.guard():
            self._before_step()
        with self.guard(), readable_variables(self._model, data) as readable:
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
        with self.guard():
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
            self._measurement = StepMeasurement(
                self._model, self._losses, self.statistics, needs=self._monitor.needs, readable=readable
            )
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
        with self.guard(), sampler.stopwatch, readable_variables(self._model, data) as readable:
            if readable:
                measurement.before_step()
        # The time of the step itself and of its first tracing is not charged; see the sampler's share.
        result, recorded = self._train_functions.run(base, data)
        sampler.stopwatch.add(*self._train_functions.cost)
        if self._adversarial or self._is_adversarial():
            self._adversarial = True
            self._losses.expect_no_progress()
            recorded = {key: value for key, value in recorded.items() if key not in _OF_PROGRESS}
        self._register(result)
        with self.guard(), sampler.stopwatch, readable_variables(self._model, result):
            recorder = self._train_functions.recorder if recorded else None
            first = not measurement.begun
            if first:
                measurement.begin(recorder, recorded)
                if recorder is not None and recorder.misses_gradients:
                    logger.warning("gradients can't be watched: the training step gives none to an optimizer's apply()")
            observation = measurement.observation(recorder, recorded, self._counter.counts)
            described = first and (recorder is not None or not self._monitor.history.layers)
            described |= self._adversarial and not self._monitor.context.optimizer.several
            if described or measurement.weighted > self._monitor.context.loss.weighted:
                self.report_context()
            self._monitor.record(observation)
        sampler.end_sample()
        return result

    def report_context(self, measurement: StepMeasurement | None = None) -> None:
        """Describe the training to the monitor.

        Args:
            measurement: What has measured its steps; None: that of the train function, as far as it knows them.
        """
        model = self._model
        measurement = measurement if measurement is not None else self._measurement
        measurement = (
            measurement
            if measurement is not None
            else StepMeasurement(model, self._losses, self.statistics, readable=keras.backend.backend() != "jax")
        )
        (epochs, steps), (rows, batch_size) = self._counter.planned, self._counter.data_size
        context = measurement.context()
        optimizer = context.optimizer
        if self.schedule_callback and not optimizer.scheduled:
            optimizer = replace(optimizer, scheduled=True, schedule=self.schedule_callback)
        if self._adversarial:
            optimizer = replace(optimizer, several=True)
        context = replace(
            context,
            optimizer=optimizer,
            planned_epochs=epochs,
            planned_steps=steps,
            train_rows=rows,
            batch_size=batch_size,
        )
        self._monitor.begin(context)

    def _on_unrecordable(self) -> None:
        if type(self._model).train_step is keras.Model.train_step:
            self._losses.trust_means()


def _is_on_accelerator(model: Any) -> bool:
    device = next((str(getattr(weight.value, "device", "cpu")) for weight in model.weights), "cpu")
    return "cpu" not in device.lower()


def _logs_of(result: Any) -> Any:
    """Return the logs of a train function: JAX returns them with the new state."""
    return result[0] if isinstance(result, tuple) else result
