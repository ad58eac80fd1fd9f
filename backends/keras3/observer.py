"""Watching the trainings that a user runs with `keras.Model.fit` or ``train_on_batch``.

Two attributes of the model instance are wrapped while it is watched: ``fit``, to add one callback for the epochs, and
``make_train_function``, to put one comparison before each call of the train function. A step that is to be sampled
runs an instrumented train function (see `instrument`); all others run the one that Keras made, untouched.
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

from autotrainer.backends.keras3.epochs import EpochCallback, canonical, data_size, with_callback
from autotrainer.backends.keras3.instrument import InstrumentedStep, has_weights
from autotrainer.backends.keras3.losses_seen import LossReader
from autotrainer.backends.keras3.measure import Measure, Position
from autotrainer.backends.keras3.tensorflow_graph import UnobservableError
from autotrainer.errors import InputError
from autotrainer.monitor import Monitor

__all__ = ["KerasObserver", "observe"]

logger = logging.getLogger("autotrainer")

_PART = "watching Keras"
_NEVER = sys.maxsize
_SHORT_RUN = 1000
"""Steps up to which the last step of each epoch is sampled too."""


def observe(
    model: Any, optimizer: Any, loss_fn: Any, monitor: Monitor, *, epochs: int | None = None, steps: int | None = None
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

    def __init__(self, model: Any, monitor: Monitor, epochs: int | None, steps: int | None) -> None:
        self._model = model
        self._monitor = monitor
        self._planned = (epochs, steps)
        self._planned_by_fit: tuple[int | None, int | None] = (None, None)
        self._data_size: tuple[int | None, int | None] = (None, None)
        self._count = 0  # optimizer steps so far
        self._next = 0  # the first step at which there is something to ask
        self._stride = 1  # steps that a call of the train function takes
        self._epoch_start = 0
        self._epoch_of_fit: int | None = None
        self._steps_per_epoch: int | None = None
        self._losses = LossReader()
        self._measure: Measure | None = None
        self._step: InstrumentedStep | None = None
        self._from_outside = False
        self._base: Callable[..., Any] | None = None
        self._function: Callable[..., Any] | None = None
        self._own = {name: getattr(model, name) for name in ("fit", "make_train_function")}
        self._wrapped = {
            "fit": functools.wraps(self._own["fit"])(functools.partial(self._fit)),
            "make_train_function": functools.wraps(self._own["make_train_function"])(functools.partial(self._make)),
        }
        vars(model).update(self._wrapped)

    # -- what the core asks ---------------------------------------------------------------------------------------

    def log(self, *, loss: Any, outputs: Any, targets: Any) -> None:
        """Do nothing: ``fit`` shows all of it."""

    def close(self) -> None:
        """Take everything off the model again."""
        attributes = vars(self._model)
        for name, wrapped in self._wrapped.items():
            if attributes.get(name) is wrapped:
                del attributes[name]
        if self._function is not None and attributes.get("train_function") is self._function:
            attributes["train_function"] = self._base
        self._next = _NEVER
        self._step = self._measure = None
        self._losses.start_epoch()
        self._monitor.advance(self._count - 1)
        if self._function is None and not self._monitor.context.managed:
            logger.warning("no training step of this model was seen: Keras is watched in fit() and train_on_batch()")

    # -- what the callback tells ----------------------------------------------------------------------------------

    def start_fit(self, epochs: int | None, steps: int | None) -> None:
        """Take the planned length of a ``fit``: number of its last epoch, steps an epoch."""
        with self._guard():
            self._steps_per_epoch = steps
            self._planned_by_fit = (epochs, None)

    def start_epoch(self, epoch: int) -> None:
        """Note where an epoch starts; epochs of several ``fit`` are counted on."""
        with self._guard():
            history = self._monitor.history
            planned, _ = self._planned_by_fit
            if planned is not None and self._epoch_of_fit is None:
                history.epoch = max(history.epoch, epoch)
                planned = history.epoch + planned - epoch
                steps = None if self._steps_per_epoch is None else self._steps_per_epoch * planned
                self._planned_by_fit = (planned, steps)
                self._tell_context()
            self._epoch_of_fit = epoch
            self._epoch_start = self._count
            self._losses.start_epoch()

    def end_epoch(self, logs: Mapping[str, Any]) -> None:
        """Pass on what is known at the end of an epoch."""
        with self._guard():
            started = perf_counter()
            if self._monitor.sampler.affordable():
                self._losses.collect(self._count, self._count - self._epoch_start, self._stride, sampled=False)
            self._monitor.sampler.charge(perf_counter() - started)
            self._monitor.advance(self._count - 1)
            if not self._monitor.context.managed:  # else `fit` says so itself, with its own evaluation
                self._monitor.end_epoch(**canonical(logs))

    # -- wrapped attributes of the model --------------------------------------------------------------------------

    def _fit(self, *args: Any, **kwargs: Any) -> Any:
        own = self._own["fit"]
        with self._guard():
            self._epoch_of_fit = None
            self._data_size = data_size(own, args, kwargs)
            args, kwargs = with_callback(own, EpochCallback(self), args, kwargs)
        try:
            return own(*args, **kwargs)
        finally:
            self._monitor.advance(self._count - 1)

    def _make(self, force: bool = False) -> Any:
        """Let Keras make its train function, and put a counter before it."""
        attributes = vars(self._model)
        if self._function is not None and attributes.get("train_function") is self._function:
            attributes["train_function"] = self._base
        result = self._own["make_train_function"](force=force)
        with self._guard():
            base = attributes.get("train_function")
            if base is not None and not self._monitor.closed:
                if base is not self._base:
                    self._base, self._function = base, self._counting(base)
                    self._step, self._from_outside = None, False
                    self._stride = max(1, int(self._model.steps_per_execution or 1))
                attributes["train_function"] = self._function
        return result

    def _counting(self, base: Callable[..., Any]) -> Callable[..., Any]:
        losses, logs_of = self._losses, _logs_of

        def train_function(*data: Any) -> Any:
            if self._count < self._next:
                result = base(*data)
                self._count += self._stride
                losses.logs.append(logs_of(result))
                return result
            return self._maybe_sampled(base, data)

        return train_function

    # -- steps ----------------------------------------------------------------------------------------------------

    def _maybe_sampled(self, base: Callable[..., Any], data: tuple[Any, ...]) -> Any:
        sample = False
        with self._guard():
            sample = self._ready() and self._due()
        if sample:
            return self._sampled(base, data)
        result = base(*data)
        self._count += self._stride
        self._losses.logs.append(_logs_of(result))
        return result

    def _ready(self) -> bool:
        """Say whether steps can be sampled, and prepare for it the first time: the weights have to be there.

        Some models with a training step of their own are never called themselves, and so never count as built.
        """
        if self._monitor.closed or not (self._count or has_weights(self._model)):
            return False
        if self._measure is None:
            self._measure = Measure(self._model, self._losses)
        if self._step is None and not self._from_outside:
            try:
                make, parts = self._own["make_train_function"], self._measure.parts
                self._step = InstrumentedStep(self._model, make, parts, self._fail)
                if self._step.batch_only:
                    self._look_from_outside("with jit_compile=True on a CPU that would change how it rounds")
            except UnobservableError as reason:
                self._look_from_outside(reason)
        return True

    def _due(self) -> bool:
        """Say whether this step is to be sampled, and note when to ask again."""
        sampler, step = self._monitor.sampler, self._count
        due = sampler.due(step)
        last = self._last_of_epoch()
        if not due and step == last:
            due = sampler.affordable()
        self._next = sampler.next_step if last is None or step >= last else min(sampler.next_step, last)
        return due

    def _last_of_epoch(self) -> int | None:
        """Return the step at which the last call of this epoch starts, in a short run and where it is known."""
        if self._steps_per_epoch is None or self._epoch_start + self._steps_per_epoch > _SHORT_RUN:
            return None
        return self._epoch_start + (self._steps_per_epoch - 1) // self._stride * self._stride

    def _sampled(self, base: Callable[..., Any], data: tuple[Any, ...]) -> Any:
        started = perf_counter()
        measure, step = self._measure, self._step
        assert measure is not None
        with self._guard():
            measure.before_step()
        cost = perf_counter() - started
        # The time of the step itself, and of tracing it for the first time, is not charged: see the sampler's share.
        seen: dict[str, Any] = {}
        if step is None:
            result = base(*data)
        else:
            result, seen, reason = step.run(base, data[0])
            if reason is not None:
                self._step = None
                self._look_from_outside(reason)
        started = perf_counter()
        self._count += self._stride
        self._losses.logs.append(_logs_of(result))
        with self._guard():
            recorder = step.recorder if step is not None and seen else None
            if not measure.begun:
                measure.begin(recorder, seen)
                if recorder is not None or not self._monitor.history.layers:
                    self._tell_context()
                if recorder is not None and recorder.misses_gradients:
                    logger.warning("gradients can't be watched: the training step gives none to an optimizer's apply()")
            position = Position(self._count, self._count - self._epoch_start, self._stride)
            self._monitor.record(measure.observation(recorder, seen, position))
        self._monitor.sampler.charge(cost + perf_counter() - started, sample=True)
        return result

    # -- inside ---------------------------------------------------------------------------------------------------

    def _tell_context(self) -> None:
        model = self._model
        measure = self._measure if self._measure is not None else Measure(model, self._losses)
        epochs, steps = self._planned
        rows, batch_size = self._data_size
        context = replace(
            measure.context(),
            planned_epochs=self._planned_by_fit[0] if epochs is None else epochs,
            planned_steps=self._planned_by_fit[1] if steps is None else steps,
            train_rows=rows,
            batch_size=batch_size,
        )
        self._monitor.begin(context)

    def _look_from_outside(self, reason: Exception | str) -> None:
        """Go on with what can be seen without looking into steps: losses, learning rate, weights, epochs."""
        self._from_outside = True
        if type(self._model).train_step is keras.Model.train_step:
            self._losses.trust_means()
        logger.warning("layers, gradients and outputs of this training can't be watched: %s", reason)

    def _fail(self, error: Exception) -> None:
        self._next = _NEVER
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
