"""Watching the JAX engine, which compiles a training step as one pure function.

Nothing can be added to that function, which XLA would then round otherwise. But a pure function can be computed once
more, from the same weights, batch and state of the random numbers, and that changes nothing: a sampled step is taken
by Keras' own train function, and beside it by one that gives out what flows through it, and no new weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any

import keras

from autotrainer.backends.keras3.engines.recording import StepRecorder, batch_of
from autotrainer.backends.keras3.engines.tensorflow_graph import UnobservableError
from autotrainer.backends.keras3.model.parts import Part
from autotrainer.backends.keras3.runtime.random_state import preserve_random_state

__all__ = ["JaxStep"]

_SHAPES = 2
"""Shapes of batches, at most, for which the second function is compiled: full ones, and the last of an epoch."""


class JaxStep:
    """Takes training steps of the JAX engine, and works out beside them what flows through them.

    Args:
        model: The model, built and compiled.
        parts: Its layers.
        fail: Takes an exception of our own code.
        needs: Columns that are worth measuring, None for all.
    """

    def __init__(
        self,
        model: Any,
        parts: Sequence[Part],
        fail: Callable[[Exception], None],
        needs: frozenset[str] | None = None,
    ) -> None:
        import jax

        self._model, self._fail = model, fail
        self._all = StepRecorder(model, parts, fail, needs=needs)
        self._beside: Any = jax.jit(lambda state, batch: self._all.train_step(state, batch)[1])
        self._finished: Callable[[Any], Any] = jax.block_until_ready
        self._shapes: set[Any] = set()
        self.reason = _reason_against(model)
        """Why no more than the batch can be seen; None where all can."""
        self.recorder: StepRecorder | None = None
        """What recorded the last step; None where only its batch could be seen."""
        self.cost = 0.0
        """Seconds that the last step has taken longer for being looked at, without compiling."""

    def run(self, base: Callable[..., Any], data: tuple[Any, ...]) -> tuple[Any, dict[str, Any]]:
        """Take one step (or as many as a call takes), and look at the last of them.

        Args:
            base: The model's own train function.
            data: What Keras gives it: the state and an iterator of batches.

        Returns:
            The logs and the new state; the tensors recorded (see `StepRecorder.train_step`), or ``inputs`` and
            ``targets`` alone.
        """
        self.recorder, self.cost = None, 0.0
        if len(data) != 2 or not isinstance(data[1], Iterator):
            return base(*data), {}  # a train function of the user's own
        state, batches = data[0], list(itertools.islice(data[1], self._model.steps_per_execution))
        if self.reason is not None or not batches:
            return base(state, iter(batches)), self._batch(batches)
        if len(batches) > 1:  # Keras takes them one by one, each by the same compiled function
            _, state = base(state, iter(batches[:-1]))
        if self._model.run_eagerly or not self._model.jit_compile:
            self.recorder = self._all
            return self._all.train_step(state, batches[-1])
        seen = self._look(state, batches[-1])  # before the step itself, which gives the memory of the state away
        return base(state, iter(batches[-1:])), seen

    def _look(self, state: Any, batch: Any) -> dict[str, Any]:
        if not self._is_known(batch):
            return self._batch([batch])
        started, calls = perf_counter(), self._all.calls
        try:
            with preserve_random_state():  # tracing may run code that draws numbers
                seen: dict[str, Any] = self._finished(self._beside(state, batch))
        except Exception as error:  # noqa: BLE001 - nothing of ours may stop a training
            self.reason = UnobservableError(f"tracing failed: {error!r}")
            return self._batch([batch])
        self.cost = perf_counter() - started if self._all.calls == calls else 0.0
        self.recorder = self._all
        return seen

    def _batch(self, batches: Sequence[Any]) -> dict[str, Any]:
        try:
            return batch_of(batches[-1]) if batches else {}
        except Exception as error:  # noqa: BLE001 - nothing of ours may stop a training
            self._fail(error)
            return {}

    def _is_known(self, batch: Any) -> bool:
        """Say whether the function is compiled for batches of this shape, or may be."""
        shapes = tuple((tuple(v.shape), str(v.dtype)) for v in keras.tree.flatten(batch) if hasattr(v, "shape"))
        if len(self._shapes) < _SHAPES:
            self._shapes.add(shapes)
        return shapes in self._shapes


def _reason_against(model: Any) -> UnobservableError | None:
    if type(model).make_train_function is not keras.Model.make_train_function:
        return UnobservableError("the model makes its train function in a way of its own")
    if keras.distribution.distribution() is not None:
        return UnobservableError("the model trains on several devices")
    return None
