"""Watching trainings in which the user's own loop calls an optimizer, as around `tf.GradientTape`.

The loop may be eager or call compiled functions that take a step each. A step ends where the last of the model's
optimizers has taken its gradients.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakKeyDictionary, ref

import keras
import numpy as np

from autotrainer.adapter.observer import Recorder
from autotrainer.backends.keras3.engines.compiled_step import TracedFunction
from autotrainer.backends.keras3.engines.loop_recorder import LoopRecorder
from autotrainer.backends.keras3.engines.loop_signals import (
    add_listener,
    executes_eagerly,
    is_listening,
    latest_dataset,
    listeners,
    note_call,
    remove_listener,
)
from autotrainer.backends.keras3.model.watched_layers import has_weights
from autotrainer.backends.keras3.runtime.missing_step import MissingStep
from autotrainer.backends.keras3.runtime.tensorflow_functions import is_recording
from autotrainer.backends.keras3.statistics.input_derivatives import InputDerivatives
from autotrainer.backends.keras3.watching.loop_epochs import LoopEpochs
from autotrainer.backends.keras3.watching.loss_tracker import LossTracker
from autotrainer.backends.keras3.watching.opponents import Opponents
from autotrainer.backends.keras3.watching.step_counter import StepCounter
from autotrainer.backends.keras3.watching.step_measurement import StepMeasurement
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.monitoring.lifetime import weak_method
from autotrainer.monitoring.source_lines import calling_line
from autotrainer.monitoring.tracebacks import passes_on
from autotrainer.output import logger

__all__ = ["CustomLoop", "records_gradients"]

_TRACING = 1.0
"""Seconds that the trace of a compiled step may take for a second one in any run: nobody minds a second."""


class CustomLoop:
    """The steps that a user's own loop takes with one model.

    Args:
        model: The model.
        monitor: Receives what is observed.
        counter: Counts the steps.
        losses: Takes the losses.
        optimizer: The optimizer; None if unknown.
        loss: The loss; None if unknown.
        guard: Makes a context manager that keeps exceptions from the training.
        report_context: Called when the context of the training is known, with the measurement.
    """

    def __init__(
        self,
        model: Any,
        monitor: Recorder,
        counter: StepCounter,
        losses: LossTracker,
        optimizer: Any,
        loss: Any,
        guard: Callable[[], AbstractContextManager[None]],
        report_context: Callable[[StepMeasurement], None],
    ) -> None:
        self._model, self._monitor, self._counter, self._losses = ref(model), monitor, counter, losses
        self._optimizer, self._loss, self._guard, self._report_context = optimizer, loss, guard, report_context
        self._statistics = StatisticGuard(weak_method(monitor.fail_statistic))
        self._epochs = LoopEpochs(self._end_epoch)
        self._ended = monitor.history.epoch  # epochs that have been ended, here or before
        self._trained: dict[int, tuple[Any, bool]] = {}  # optimizers, and whether they update the model
        self._later = {"later_optimizers": 0.0, "later_steps": 0.0}
        self._begun_at = 0  # steps done before the latest optimizer appeared
        self._last: Any = None  # the optimizer whose call ends a step
        self._functions: WeakKeyDictionary[TracedFunction, bool] = WeakKeyDictionary()  # whether they train the model
        self._recorders: WeakKeyDictionary[TracedFunction, LoopRecorder] = WeakKeyDictionary()  # of these functions
        self._ids: frozenset[int] = frozenset()  # of the weights
        self._waiting = set[int]()  # optimizers that were called since the latest step ended
        self._iterations = 0  # of the optimizer, before the call of a function that takes several steps
        self._measurement: StepMeasurement | None = None
        self._recorder: LoopRecorder | None = None  # of eager steps
        self._before_step = False
        self._next = 0
        self._target = self._loss_value = None  # of the present step
        self._latest_target: Any = None  # whose gradients were computed last
        self._adversaries: list[CustomLoop] = []  # loops of models on which that target depends
        self._opponents = Opponents(model)
        self._derivatives = InputDerivatives()
        self._missing_step = MissingStep()
        self._traced_loss: Any = None  # of a compiled function that can't be recorded
        self._warned = False
        self.adversarial = False
        """Whether the model is trained against another one: its loss does not measure progress."""
        self.steps = 0
        """Steps that have been observed."""
        self.step_line = ""
        """File and line of the call that took the first step; empty if unknown."""
        self._call = model.call
        self._overridden = "call" in vars(model)
        vars(model)["call"] = self._wrapped = passes_on(self._called)
        dataset = latest_dataset()
        if dataset is not None:
            self._epochs.dataset_started(dataset)
        add_listener(self)

    def close(self) -> None:
        """Detach, and end the last epoch."""
        remove_listener(self)
        self._cancel_eager()
        model = self._model()
        if model is not None and vars(model).get("call") is self._wrapped:
            if self._overridden:
                vars(model)["call"] = self._call
            else:
                del vars(model)["call"]
        if self.steps and self._measurement is not None and not self._monitor.context.managed:
            self._monitor.learn(self._measurement.end())
            self._learn_later()
        if self.steps:
            self._epochs.finish(interrupted=self._monitor.interrupted)
        else:
            self._monitor.learn(self._missing_step.facts(model))

    @property
    def model(self) -> Any:
        """The model; None once nobody uses it."""
        return self._model()

    @property
    def last(self) -> Any:
        """The optimizer whose call ends a step; None before the first one."""
        return self._last

    # -- calls of the model ---------------------------------------------------------------------------------------

    def _called(self, *args: Any, **kwargs: Any) -> Any:
        if is_listening():
            try:
                self._note_call(args, kwargs)
            except Exception as error:  # noqa: BLE001 - nothing may reach the training; a `with` would take 2 µs
                self._fail(error)
        return self._call(*args, **kwargs)

    def _note_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._derivatives.follows and records_gradients():
            self._derivatives.called((args, kwargs))
        if not executes_eagerly():
            note_call(self._model())
            recorder = self._tracing_recorder()
            if recorder is not None:
                recorder.model_called(args, kwargs)
            return
        if not records_gradients():
            if self.steps:
                self._epochs.evaluated()
            return
        if self._recorder is None and not self.steps:
            self._begin_step()
        if self._recorder is not None and self._recorder.active:
            self._recorder.model_called(args, kwargs)

    # -- signals of the loop --------------------------------------------------------------------------------------

    def model_evaluated(self, model: Any) -> None:
        """Keras evaluates a model, or predicts with it."""
        if self.steps and model is self._model():
            self._epochs.evaluated()

    def model_trains(self, model: Any) -> None:
        """A model is about to take a step in ``train_on_batch``."""
        self._opponents.trains(model)
        self.adversarial = self.adversarial or self._opponents.found

    def dataset_started(self, dataset: Any) -> None:
        """The loop begins to read a dataset."""
        self._epochs.dataset_started(dataset)

    def loss_called(self, loss: Any, targets: Any, outputs: Any, value: Any) -> None:
        """A Keras loss was called."""
        eager = executes_eagerly()
        recorder = self._recorder if eager else self._tracing_recorder()
        if eager:
            if not records_gradients():
                return
            self._loss_value = value.detach() if hasattr(value, "detach") else value  # else torch keeps its graph
        if recorder is not None and recorder.active:
            recorder.loss_called(loss, targets, outputs, value)

    def differentiated(self, tape: Any, target: Any, sources: Any) -> None:
        """A gradient tape is about to compute the gradients of a target."""
        if not self._is_of_model(keras.tree.flatten(sources)):
            return
        self._latest_target = target
        self._adversaries = [] if self.adversarial else self._others_on(tape)
        if not executes_eagerly():
            recorder = self._tracing_recorder()
            if recorder is not None:
                recorder.differentiated(target)
            return
        self._target = target
        if not self.steps:
            self._missing_step.differentiated(self._model())
        if self._recorder is not None and self._recorder.active:
            self._recorder.differentiated(target)

    def derived(self, target: Any, sources: Any, results: Any) -> None:
        """A gradient tape has computed gradients."""
        if self._derivatives.follows:
            found = self._derivatives.computed(target, sources, results)
            recorder = self._recorder if executes_eagerly() else self._tracing_recorder()
            if recorder is not None and recorder.active:
                recorder.second_derivatives.extend(found)

    def _others_on(self, tape: Any) -> list[CustomLoop]:
        """Return the loops of other models that a tape has watched."""
        others = [each for each in listeners() if isinstance(each, CustomLoop) and each is not self]
        if not others:
            return []
        ids = {id(variable) for variable in tape.watched_variables()}
        models = [(other, other.model) for other in others]
        return [o for o, model in models if model and any(id(v.value) in ids for v in model.trainable_variables)]

    def _find_adversary(self) -> None:
        """Find another model that has a loss of its own and on which the loss of this one depends."""
        for other in self._adversaries:
            target = other._latest_target
            if target is not None and target is not self._latest_target:
                self.adversarial = other.adversarial = True
        self._adversaries = []

    def applying(self, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        """An optimizer is about to take gradients."""
        if not self._updates_model(optimizer, variables):
            return
        self._find_adversary()
        if not executes_eagerly():
            recorder = self._tracing_recorder()
            if recorder is not None:
                recorder.applying(optimizer, gradients, variables)
            return
        recorder = self._recorder
        if recorder is not None and recorder.active:
            with self._guard(), self._monitor.sampler.stopwatch:
                if not self._before_step and self._measurement is not None:
                    self._measurement.adopt(None, self._optimizers)
                    self._measurement.before_step()
                    self._before_step = True
                recorder.applying(optimizer, gradients, variables)

    def applied(self, optimizer: Any) -> None:
        """The optimizer has taken them: the step has ended, if it is the last optimizer of the model."""
        if self._trained.get(id(optimizer), (None, False))[1] and executes_eagerly():
            if optimizer is not self._last:
                if id(optimizer) not in self._waiting:
                    self._waiting.add(id(optimizer))
                    return
                self._last = optimizer  # the other one takes no part in the present steps
            self._waiting.clear()
            try:
                self._end_step()
            except Exception as error:  # noqa: BLE001 - nothing may reach the training; a `with` would take 2 µs
                self._fail(error)

    def wants_trace(self, function: Any) -> bool:
        """Return whether a compiled function that has not been called yet is traced before its first call."""
        if self._last is not None:
            self._iterations = self._iterations_of()
        return not (self.steps or self._monitor.closed)

    def function_traced(self, function: Any, traced: TracedFunction) -> None:
        """Do nothing: `recorder_for` is called next."""

    def recorder_for(self, function: Any, traced: TracedFunction) -> LoopRecorder | None:
        """Return what records the step that a compiled function is about to take; None if it is not sampled."""
        if not self._trains_model(traced):
            return None
        if traced.nested:
            self._iterations = self._iterations_of()
        if not self._is_due():
            return None
        with self._guard():
            self._cancel_eager()
            measurement = self._prepare()
            if measurement is None:
                return None
            self._traced_loss = traced.loss
            recorder = self._recorders.get(traced)
            if recorder is None:
                recorder = self._recorders[traced] = self._make_recorder(measurement)
            sampler = self._monitor.sampler
            recorder.may_trace = traced.seconds <= _TRACING or sampler.affordable(traced.seconds)
            sampler.begin_sample()
            with sampler.stopwatch:
                measurement.adopt(None, self._optimizers)
                measurement.before_step()
            return recorder
        return None

    def function_called(self, function: Any, traced: TracedFunction, result: Any) -> None:
        """A compiled function has been called."""
        if not traced.applies:
            if self.steps and id(self._model()) in traced.models and not traced.differentiates:
                self._epochs.evaluated()
            return
        if not self._trains_model(traced):
            return
        steps = 1
        if traced.nested:
            steps, self._iterations = self._iterations_of() - self._iterations, 0
        recorder = self._recorders.get(traced)
        loss = None if recorder is None else recorder.loss_in(result)
        try:
            self._count(steps, loss)
            if traced.nested and steps > 1:
                self._epochs.called()
        except Exception as error:  # noqa: BLE001 - nothing may reach the training; a `with` would take 2 µs
            self._fail(error)

    def step_recorded(self, recorder: LoopRecorder, recorded: dict[str, Any] | None) -> None:
        """A sampled step of a compiled function has been taken."""
        with self._guard(), self._monitor.sampler.stopwatch:
            if recorded is None and not self._warned:
                self._warned = True
                logger.warning("layers and gradients can't be watched in this training: %s", recorder.reason)
            self._record(recorder if recorded is not None else None, recorded or {})
        self._monitor.sampler.end_sample()

    # -- steps of eager code --------------------------------------------------------------------------------------

    def _begin_step(self) -> None:
        """Begin to record the step that is about to begin, if it is due and the model has its weights."""
        if not self._is_due():
            return
        measurement = self._prepare()
        if measurement is None:
            return
        if self._recorder is None:
            self._recorder = self._make_recorder(measurement)
        self._monitor.sampler.begin_sample()
        with self._monitor.sampler.stopwatch:
            self._recorder.open()
        self._before_step = False

    def _cancel_eager(self) -> None:
        if self._recorder is not None and self._recorder.active:
            self._recorder.cancel()

    def _end_step(self) -> None:
        target, value = self._target, self._loss_value
        self._target = self._loss_value = None
        scaled = hasattr(self._last, "inner_optimizer")
        self._count(1, value if target is None or scaled else target)
        recorder = self._recorder
        if recorder is not None and recorder.active:
            sampler = self._monitor.sampler
            with sampler.stopwatch:
                recorded = recorder.finish()
                if self._before_step:
                    self._record(recorder, recorded)
            sampler.end_sample()
        self._begin_step()

    # -- any step -------------------------------------------------------------------------------------------------

    def _count(self, steps: int, loss: Any) -> None:
        """Count steps, and keep a reference to the loss."""
        if self._counter.total != self._epochs.step:  # ``fit`` has taken steps
            self._epochs.restart(self._counter.total)
            self._ended = self._monitor.history.epoch
        self._epochs.stepped(steps)
        self._counter.steps_per_call = max(1, steps)
        self._counter.total += steps
        if self._derivatives.follows:
            self._derivatives.end_step()
        if not self.steps:
            self.step_line = calling_line()
        self.steps += steps
        self._later["later_steps"] += steps if self._later["later_optimizers"] else 0
        self._losses.logs.append({} if loss is None else {"loss": _Loss(loss, only_nonfinite=self.adversarial)})
        if loss is not None:
            self._losses.trust_values()

    def _is_due(self) -> bool:
        """Return whether to sample this step, and set the next step to consider."""
        sampler, step = self._monitor.sampler, self._counter.total
        if step < self._next or self._monitor.closed:
            return False
        due = sampler.due(step) or (self._counter.is_last(step) and not sampler.stopped)
        self._next = sampler.next_step if sampler.next_step > step else step + 1
        return due

    def _prepare(self) -> StepMeasurement | None:
        """Return what measures steps; None as long as the model has no weights."""
        model = self._model()
        if self._measurement is None and model is not None and has_weights(model):
            needs = self._monitor.needs
            self._measurement = StepMeasurement(
                model, self._losses, self._statistics, self._loss, self._optimizer, needs=needs
            )
        return self._measurement

    def _make_recorder(self, measurement: StepMeasurement) -> LoopRecorder:
        return LoopRecorder(self._model(), measurement.layers, self._statistics, self._monitor.needs)

    def _learn_later(self) -> None:
        """Report optimizers that have appeared during the training."""
        if self._later["later_steps"]:
            self._monitor.learn(self._later)

    def _record(self, recorder: LoopRecorder | None, recorded: dict[str, Any]) -> None:
        """Record the observation of the step just taken."""
        measurement = self._measurement
        assert measurement is not None
        if self.adversarial:
            recorded = {key: value for key, value in recorded.items() if key not in ("loss", "outputs", "targets")}
        if "loss" in recorded:
            known = bool(self._losses.logs and self._losses.logs[-1])
            loss = recorded.pop("loss")
            if not known:
                recorded["loss"] = np.asarray(float(_Loss(loss)))
        if not measurement.begun:
            loss = self._traced_loss if recorder is None else recorder.loss
            measurement.adopt(None if self.adversarial else loss, self._optimizers)
            measurement.begin(recorder, recorded)
            self._report_context(measurement)
            if recorder is not None and recorder.misses_gradients:
                logger.warning("gradients can't be watched: the training step gives none to an optimizer's apply()")
        self._learn_later()
        self._monitor.record(measurement.observation(recorder, recorded, self._counter.counts))

    def _end_epoch(self, at: int) -> None:
        """End an epoch, unless the user's loop ends epochs itself."""
        counts = self._counter.counts
        self._losses.collect(counts, sampled=False)
        self._losses.start_epoch()
        self._counter.restart_epoch()
        self._monitor.advance(at - 1)
        if self._monitor.history.epoch == self._ended:
            self._monitor.end_epoch()
            self._ended = self._monitor.history.epoch

    # -- whose optimizers and functions ---------------------------------------------------------------------------

    def _tracing_recorder(self) -> LoopRecorder | None:
        """Return the recorder whose step is being traced."""
        return next((each for each in self._recorders.values() if each.active), None)

    def _updates_model(self, optimizer: Any, variables: Sequence[Any]) -> bool:
        known = self._trained.get(id(optimizer))
        if known is not None and known[0]() is optimizer:
            return known[1]
        updates = self._is_of_model(variables)
        self._trained[id(optimizer)] = ref(optimizer), updates
        if updates and self.steps > self._begun_at:  # else one of several that take the same step
            self._later["later_optimizers"] += 1
            self._begun_at = self.steps
        if updates:
            self._last = optimizer
        return updates

    def _trains_model(self, traced: TracedFunction) -> bool:
        known = self._functions.get(traced)
        if known is None:
            updates = [self._updates_model(*each) for each in traced.applies.values()]
            known = self._functions[traced] = any(updates)
        return known

    @property
    def _optimizers(self) -> list[Any]:
        """The optimizers that have updated the model, the one that ends a step last."""
        updating = [optimizer() for optimizer, updates in self._trained.values() if updates]
        return [each for each in updating if each is not None]

    def _iterations_of(self) -> int:
        """Return how often the model's optimizer has been called."""
        return int(keras.ops.convert_to_numpy(self._last.iterations))

    def _is_of_model(self, variables: Sequence[Any]) -> bool:
        """Return whether any of these variables is a weight of the model."""
        if self._ids.isdisjoint(map(id, variables)):
            model = self._model()
            weights = [] if model is None else model.trainable_variables
            self._ids = frozenset(id(each) for weight in weights for each in (weight, weight.value))
        return not self._ids.isdisjoint(map(id, variables))

    def _fail(self, error: Exception) -> None:
        self._next = sys.maxsize
        self._monitor.fail("watching Keras", error)


class _Loss:
    """A loss that is read when it is needed, the mean of a tensor; with ``only_nonfinite``, a finite one is none."""

    def __init__(self, value: Any, *, only_nonfinite: bool = False) -> None:
        self._value, self._only_nonfinite = value, only_nonfinite

    def __float__(self) -> float:
        value = self._value
        if hasattr(value, "detach"):  # torch
            value = value.detach().cpu()
        mean = float(np.mean(np.asarray(value, dtype=np.float64)))
        if self._only_nonfinite and math.isfinite(mean):
            raise ValueError("the loss does not measure progress")
        return mean


def records_gradients() -> bool:
    """Return whether gradients are being recorded: else a call of the model is an evaluation."""
    engine = keras.backend.backend()
    if engine == "tensorflow":
        return is_recording()
    if engine == "torch":
        import torch

        return torch.is_grad_enabled()
    return False
