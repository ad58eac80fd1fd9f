"""Training steps on TensorFlow and torch that also return the tensors inside them.

TensorFlow needs a second train function for that; all other steps run the one that Keras made.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from autotrainer.backends.keras3.engines.patching import RecordingError, patched
from autotrainer.backends.keras3.engines.step_recorder import StepRecorder
from autotrainer.backends.keras3.engines.tensorflow_graph import has_accelerator
from autotrainer.backends.keras3.model.watched_layers import WatchedLayer
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.monitoring.tracebacks import passes_on

__all__ = ["InstrumentedStep"]


class InstrumentedStep:
    """Takes training steps that also return the tensors inside them.

    Args:
        model: The model, built and compiled.
        make: The model's original ``make_train_function``.
        layers: Its layers.
        guard: Takes exceptions of our own code, by statistic.
        needs: Columns to measure; None for all.

    Raises:
        RecordingError: If the engine or the model's compile settings do not allow it.
    """

    def __init__(
        self,
        model: Any,
        make: Callable[..., Any],
        layers: Sequence[WatchedLayer],
        guard: StatisticGuard,
        needs: frozenset[str] | None = None,
    ) -> None:
        self._model = model
        self._make = make
        self._compiles_graph = keras.backend.backend() == "tensorflow"
        self._train_function: Callable[..., Any] | None = None
        self._check_recordable()
        self.batch_only = self._compiles_graph and bool(model.jit_compile) and not has_accelerator()
        """Whether only inputs and targets are recorded: on a CPU, XLA rounds differently if a step returns more."""
        self.recorder = StepRecorder(model, layers, guard, batch_only=self.batch_only, needs=needs)

    @property
    def is_traced(self) -> bool:
        """Whether its train function is compiled already."""
        return self._train_function is not None and not self._model.run_eagerly

    def _check_recordable(self) -> None:
        engine, model = keras.backend.backend(), self._model
        if engine not in ("tensorflow", "torch"):
            raise RecordingError(f"the {engine} engine is not supported")
        if engine == "torch" and model.jit_compile:
            raise RecordingError("the model is compiled with jit_compile=True on the torch engine")
        if self._compiles_graph and model.distribute_strategy.num_replicas_in_sync > 1:
            raise RecordingError("the model trains on several replicas")

    @passes_on
    def run(self, base: Callable[..., Any], data: Any) -> tuple[Any, dict[str, Any], RecordingError | None]:
        """Take one step, or several with steps_per_execution.

        Args:
            base: The model's original train function, which takes the step if it can't be recorded.
            data: Argument of the train function.

        Returns:
            The logs; the recorded tensors (see `StepRecorder.train_step`); and why nothing was recorded, or None.
        """
        if not self._compiles_graph:
            with patched(self._model, "train_step", self.recorder.train_step):
                return self._split(base(data))
        import tensorflow as tf

        if not isinstance(data, tf.data.Iterator | tf.distribute.DistributedIterator):
            data = list(itertools.islice(data, self._model.steps_per_execution))
        calls = self.recorder.calls
        try:
            return self._split(self._instrumented()(data))
        except (StopIteration, tf.errors.OpError):
            raise
        except Exception as error:
            eager = self._model.run_eagerly or tf.config.functions_run_eagerly()
            if eager or (self.recorder.calls == calls and not isinstance(error, RecordingError)):
                raise
            # It failed while it was traced: no step has been taken and no batch has been read yet.
            reason = error if isinstance(error, RecordingError) else RecordingError(f"tracing failed: {error!r}")
            return base(data), {}, reason

    def _instrumented(self) -> Callable[..., Any]:
        if self._train_function is None:
            attributes = vars(self._model)
            original = attributes.get("train_function")
            try:
                with patched(self._model, "train_step", self.recorder.train_step):
                    self._make(force=True)
                self._train_function = attributes["train_function"]
            finally:
                attributes["train_function"] = original
        return self._train_function

    def _split(self, result: Any) -> tuple[Any, dict[str, Any], RecordingError | None]:
        if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict):
            return result[0], result[1], None
        return result, {}, RecordingError("the model overrides make_train_function")
