"""Training steps that give out what flows through them.

On TensorFlow that takes a train function of its own, so that all other steps run the one that Keras made.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from autotrainer.backends.keras3.engines.patching import patched
from autotrainer.backends.keras3.engines.recording import StepRecorder
from autotrainer.backends.keras3.engines.tensorflow_graph import UnobservableError, has_accelerator
from autotrainer.backends.keras3.model.parts import Part

__all__ = ["InstrumentedStep", "has_weights"]


class InstrumentedStep:
    """Takes training steps that give out what flows through them.

    Args:
        model: The model, built and compiled.
        make: The model's own ``make_train_function``.
        parts: Its layers.
        fail: Takes an exception of our own code.
        needs: Columns that are worth measuring, None for all.

    Raises:
        UnobservableError: If the engine or the way in which the model is compiled does not allow it.
    """

    def __init__(
        self,
        model: Any,
        make: Callable[..., Any],
        parts: Sequence[Part],
        fail: Callable[[Exception], None],
        needs: frozenset[str] | None = None,
    ) -> None:
        self._model = model
        self._make = make
        self._graph = keras.backend.backend() == "tensorflow"
        self._function: Callable[..., Any] | None = None
        self._raise_if_unobservable()
        self.batch_only = self._graph and bool(model.jit_compile) and not has_accelerator()
        """Whether only inputs and targets are recorded: on a CPU, XLA rounds otherwise if more values leave a step."""
        self.recorder = StepRecorder(model, parts, fail, batch_only=self.batch_only, needs=needs)

    @property
    def traced(self) -> bool:
        """Whether it has a train function that is compiled already."""
        return self._function is not None and not self._model.run_eagerly

    def _raise_if_unobservable(self) -> None:
        engine, model = keras.backend.backend(), self._model
        if engine not in ("tensorflow", "torch"):
            raise UnobservableError(f"the {engine} engine is not known")
        if engine == "torch" and model.jit_compile:
            raise UnobservableError("the model is compiled with jit_compile=True on the torch engine")
        if self._graph and model.distribute_strategy.num_replicas_in_sync > 1:
            raise UnobservableError("the model trains on several replicas")

    def run(self, base: Callable[..., Any], data: Any) -> tuple[Any, dict[str, Any], UnobservableError | None]:
        """Take one step (or as many as a call takes) on a batch.

        Args:
            base: The model's own train function, which takes the step where it can't be recorded.
            data: What Keras gives its train function.

        Returns:
            The logs; the tensors recorded (see `StepRecorder.train_step`); and why nothing was recorded, or None.
        """
        if not self._graph:
            with patched(self._model, "train_step", self.recorder.train_step):
                return self._split(base(data))
        import tensorflow as tf

        if not isinstance(data, tf.data.Iterator | tf.distribute.DistributedIterator):
            data = list(itertools.islice(data, self._model.steps_per_execution))
        traced = self.recorder.calls
        try:
            return self._split(self._instrumented()(data))
        except (StopIteration, tf.errors.OpError):
            raise
        except Exception as error:
            eager = self._model.run_eagerly or tf.config.functions_run_eagerly()
            if eager or (self.recorder.calls == traced and not isinstance(error, UnobservableError)):
                raise
            # It failed while being traced, so that no step has been taken and no batch has been read yet.
            reason = error if isinstance(error, UnobservableError) else UnobservableError(f"tracing failed: {error!r}")
            return base(data), {}, reason

    def _instrumented(self) -> Callable[..., Any]:
        if self._function is None:
            attributes = vars(self._model)
            own = attributes.get("train_function")
            try:
                with patched(self._model, "train_step", self.recorder.train_step):
                    self._make(force=True)
                self._function = attributes["train_function"]
            finally:
                attributes["train_function"] = own
        return self._function

    def _split(self, result: Any) -> tuple[Any, dict[str, Any], UnobservableError | None]:
        if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict):
            return result[0], result[1], None
        return result, {}, UnobservableError("the model makes its train function in a way of its own")


def has_weights(model: Any) -> bool:
    """Say whether all weights are there.

    A model that is never called itself never counts as built, and one that was built by hand may have layers that its
    first call builds.
    """
    layers = list(model._flatten_layers(include_self=False))
    return bool((model.built or (layers and model.weights)) and all(layer.built for layer in layers))
