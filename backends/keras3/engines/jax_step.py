"""Recording steps of the JAX engine, which compiles a training step as one pure function.

Nothing can be added to that function: XLA would round differently. But a pure function can be evaluated again from the
same weights, batch and random state without side effects. So Keras' own train function takes a sampled step, and a
second function computes the same step, returns the tensors inside it, and discards the new weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from autotrainer.adapter.stopwatch import Stopwatch
from autotrainer.backends.keras3.engines.patching import RecordingError
from autotrainer.backends.keras3.engines.step_recorder import StepRecorder, batch_of
from autotrainer.backends.keras3.model.watched_layers import WatchedLayer
from autotrainer.backends.keras3.runtime.random_state import preserve_random_state
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.monitoring.tracebacks import passes_on

__all__ = ["JaxStep"]

_SHAPES = 2
"""Batch shapes, at most, for which the second function is compiled: full batches, and the last one of an epoch."""


class JaxStep:
    """Takes training steps of the JAX engine, and computes the tensors inside them separately.

    Args:
        model: The model, built and compiled.
        layers: Its layers.
        guard: Takes exceptions of our own code, by statistic.
        needs: Columns to measure; None for all.
    """

    def __init__(
        self,
        model: Any,
        layers: Sequence[WatchedLayer],
        guard: StatisticGuard,
        needs: frozenset[str] | None = None,
    ) -> None:
        import jax

        self._model, self._guard = model, guard
        self._recorder = StepRecorder(model, layers, guard, needs=needs)
        self._recording_step: Any = jax.jit(lambda state, batch: self._recorder.train_step(state, batch)[1])
        self._wait: Callable[[Any], Any] = jax.block_until_ready
        self._shapes: set[Any] = set()
        self.reason = _obstacle(model)
        """Why only the batch can be recorded; None if everything can."""
        self.recorder: StepRecorder | None = None
        """The recorder of the last step; None if only its batch was recorded."""
        self.cost = 0.0, 0.0
        """Wall and working seconds that recording has added to the last step, without compilation."""

    @passes_on
    def run(self, base: Callable[..., Any], data: tuple[Any, ...]) -> tuple[Any, dict[str, Any]]:
        """Take one step (or several, with steps_per_execution), and record the last one.

        Args:
            base: The model's own train function.
            data: Its arguments: the state and an iterator of batches.

        Returns:
            The logs and the new state; the recorded tensors (see `StepRecorder.train_step`), or only ``inputs`` and
            ``targets``.
        """
        self.recorder, self.cost = None, (0.0, 0.0)
        if len(data) != 2 or not isinstance(data[1], Iterator):
            return base(*data), {}  # a custom train function
        state, batches = data[0], list(itertools.islice(data[1], self._model.steps_per_execution))
        if self.reason is not None or not batches:
            return base(state, iter(batches)), self._batch_only(batches)
        if len(batches) > 1:  # Keras takes them one by one, each by the same compiled function
            _, state = base(state, iter(batches[:-1]))
        if self._model.run_eagerly or not self._model.jit_compile:
            self.recorder = self._recorder
            return self._recorder.train_step(state, batches[-1])
        recorded = self._record(state, batches[-1])  # before the step itself, which donates the memory of the state
        return base(state, iter(batches[-1:])), recorded

    def _record(self, state: Any, batch: Any) -> dict[str, Any]:
        if not self._may_compile(batch):
            return self._batch_only([batch])
        stopwatch, calls = Stopwatch(), self._recorder.calls
        try:
            with stopwatch, preserve_random_state():  # tracing may draw random numbers
                recorded: dict[str, Any] = self._wait(self._recording_step(state, batch))
        except Exception as error:  # noqa: BLE001 - nothing of ours may stop a training
            self.reason = RecordingError(f"tracing failed: {error!r}")
            return self._batch_only([batch])
        self.cost = (stopwatch.wall, stopwatch.work) if self._recorder.calls == calls else (0.0, 0.0)
        self.recorder = self._recorder
        return recorded

    def _batch_only(self, batches: Sequence[Any]) -> dict[str, Any]:
        return (self._guard.measure("inputs", batch_of, batches[-1]) or {}) if batches else {}

    def _may_compile(self, batch: Any) -> bool:
        """Return whether the function is compiled for batches of this shape, or may be."""
        shapes = tuple((tuple(v.shape), str(v.dtype)) for v in keras.tree.flatten(batch) if hasattr(v, "shape"))
        if len(self._shapes) < _SHAPES:
            self._shapes.add(shapes)
        return shapes in self._shapes


def _obstacle(model: Any) -> RecordingError | None:
    if type(model).make_train_function is not keras.Model.make_train_function:
        return RecordingError("the model overrides make_train_function")
    if keras.distribution.distribution() is not None:
        return RecordingError("the model trains on several devices")
    return None
