"""Recording the tensors of a step that the user's own loop takes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import keras
import numpy as np

from autotrainer.backends.keras3.engines.patching import RecordingError
from autotrainer.backends.keras3.engines.step_recorder import StepRecorder, paired
from autotrainer.backends.keras3.engines.tensorflow_graph import raise_if_stateful_random
from autotrainer.backends.keras3.model.masks import mask_of
from autotrainer.backends.keras3.model.watched_layers import WatchedLayer
from autotrainer.monitoring.guard import StatisticGuard

__all__ = ["LoopRecorder"]


_DERIVATIVES = 4
"""Second derivatives that are recorded of a step, at most."""


class LoopRecorder(StepRecorder):
    """Records the tensors of a step in eager code, from `open` to `finish`, or while it is traced.

    Args:
        model: The model.
        layers: Its layers.
        guard: Takes exceptions of our own code, by statistic; the step goes on.
        needs: Columns to measure, None for all.
    """

    def __init__(
        self,
        model: Any,
        layers: Sequence[WatchedLayer],
        guard: StatisticGuard,
        needs: frozenset[str] | None = None,
    ) -> None:
        super().__init__(model, layers, guard, needs=needs)
        self._stack = ExitStack()
        self._pair: tuple[Any, Any, Any] | None = None
        self._from_model = False  # whether the outputs of the pair are those of the model
        self._target: Any = None
        self._eager = False  # whether it records eager code: graphs that this code traces are not part of the step
        self.active = False
        """Whether it records now."""
        self.may_trace = True
        """Whether a compiled step may be traced once more to be recorded."""
        self.inputs: list[Any] = []
        """The tensors that the model was called with last."""
        self.loss: Any = None
        """The Keras loss that was called; None if there was none."""
        self.second_derivatives: list[Any] = []
        """The derivatives of order 2 or more by inputs that the step computes."""
        self._loss_index: int | None = None  # among the tensors that the compiled function returns
        self.reason: str | None = None
        """Why the step can't be recorded."""

    def open(self) -> None:
        """Begin to record a step of eager code."""
        self._eager = True
        self.begin()
        self._stack.enter_context(self.recording())

    def cancel(self) -> None:
        """Record no longer."""
        self._stack.close()
        self.active = self._eager = False

    def begin(self) -> None:
        """Forget what was recorded before, and record from now on."""
        super().begin()
        self.active, self.inputs, self._pair, self._target, self._from_model = True, [], None, None, False

    def finish(self) -> dict[str, Any]:
        """End recording, and return the recorded tensors; see `StepRecorder.train_step`."""
        if self._eager:
            self._recorded = {key: value for key, value in self._recorded.items() if not _is_symbolic(value)}
            self._layer_inputs = {row: v for row, v in self._layer_inputs.items() if not _is_symbolic(v)}
        self.cancel()
        recorded = self._recorded
        if self._pair is not None:
            recorded.pop("outputs", None)
            recorded.update(paired(*self._pair[:2]))
        if self.inputs:
            recorded.setdefault("inputs", self.inputs[0])
        for index, derivative in enumerate(self.second_derivatives[:_DERIVATIVES]):
            recorded[f"second_derivative:{index}"] = derivative
        self.second_derivatives = []
        mask = mask_of(recorded.get("outputs"))
        if mask is not None:
            recorded["mask"] = mask
        if any(hasattr(optimizer, "inner_optimizer") for optimizer in self.applied):  # the target is scaled
            self._target = None
        self._target = loss = self._target if self._target is not None else (self._pair or (None,))[-1]
        if loss is not None:
            recorded["loss"] = loss
        return super().finish()

    # -- signals --------------------------------------------------------------------------------------------------

    def model_called(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The model is about to be called for a step: the last call before the gradients counts."""
        self.begin()
        self.inputs = [v for v in keras.tree.flatten([*args, *kwargs.values()]) if _is_array(v)]

    def loss_called(self, loss: Any, targets: Any, outputs: Any, value: Any) -> None:
        """A loss was called: the first one that takes the output of the model counts."""
        from_model = outputs is not None and outputs is self._recorded.get("outputs")
        if self._pair is None or (from_model and not self._from_model):
            self._pair, self._from_model, self.loss = (targets, outputs, value), from_model, loss

    def differentiated(self, target: Any) -> None:
        """The gradients of the model's variables are those of this target."""
        self._target = target if _is_array(target) else None

    def applying(self, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        """An optimizer takes gradients.

        Raises:
            RecordingError: If the step can't be recorded without changing it.
        """
        self._gradients(gradients, variables)
        self.applied.append(optimizer)
        self._refuse_stateful_random()

    def find_loss(self, result: Any) -> None:
        """Find the loss in the result of the function that is being traced."""
        flat = keras.tree.flatten(result)
        self._loss_index = next((index for index, value in enumerate(flat) if value is self._target), None)

    def loss_in(self, result: Any) -> Any:
        """Return the loss in the result of the compiled function; None if it is not there.

        If the function could not be traced again, its only number counts.
        """
        flat = [result] if keras.ops.is_tensor(result) else keras.tree.flatten(result)
        if self.reason is not None:
            numbers = [value for value in flat if _is_array(value) and len(value.shape) == 0 and _is_float(value)]
            return numbers[0] if len(numbers) == 1 else None
        return None if self._loss_index is None else flat[self._loss_index]

    def _output(self, output: Any) -> None:
        self._recorded.update(paired(None, output))
        self._refuse_stateful_random()

    def _refuse_stateful_random(self) -> None:
        if self._eager:
            return
        try:
            raise_if_stateful_random(self._model)
        except RecordingError as error:
            self.reason = str(error)  # Keras and TensorFlow add to the message
            raise


def _is_array(value: Any) -> bool:
    return keras.ops.is_tensor(value) or isinstance(value, np.ndarray)


def _is_symbolic(value: Any) -> bool:
    """Return whether a tensor belongs to a graph that is or was being traced."""
    return keras.backend.backend() == "tensorflow" and keras.ops.is_tensor(value) and not hasattr(value, "numpy")


def _is_float(value: Any) -> bool:
    return bool(keras.backend.is_float_dtype(keras.backend.standardize_dtype(value.dtype)))
