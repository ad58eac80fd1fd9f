"""Which train function takes a step: Keras' own, or one that also returns the tensors inside the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from autotrainer.backends.keras3.engines.instrumented_step import InstrumentedStep
from autotrainer.backends.keras3.engines.jax_step import JaxStep
from autotrainer.backends.keras3.engines.patching import RecordingError
from autotrainer.backends.keras3.engines.step_recorder import StepRecorder
from autotrainer.backends.keras3.model.watched_layers import WatchedLayer
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.monitoring.tracebacks import passes_on
from autotrainer.output import logger

__all__ = ["TrainFunctions"]

_ONE_TRACE = 32
"""Steps of a run up to which the instrumented train function takes all steps. Tracing Keras' own function as well costs
as much as instrumenting 250 to 1000 steps, but longer runs are to be as fast as unwatched ones."""


class TrainFunctions:
    """Takes the steps of one model with the fitting train function.

    Args:
        model: The model.
        make: The model's original ``make_train_function``.
        guard: Takes exceptions of our own code, by statistic.
        on_unrecordable: Called when it turns out that steps can't be recorded.
    """

    def __init__(
        self,
        model: Any,
        make: Callable[..., Any],
        guard: StatisticGuard,
        on_unrecordable: Callable[[], None],
    ) -> None:
        self._model, self._make, self._guard, self._on_unrecordable = model, make, guard, on_unrecordable
        self._step: InstrumentedStep | JaxStep | None = None
        self._unrecordable = False
        self.uses_original = False
        """Whether Keras' own train function takes the steps that are not sampled."""

    @property
    def recorder(self) -> StepRecorder | None:
        """The recorder of the last sampled step; None if that was not recorded."""
        return None if self._step is None else self._step.recorder

    @property
    def cost(self) -> tuple[float, float]:
        """Wall and working seconds that recording has added to the last step, without tracing and compilation."""
        return self._step.cost if isinstance(self._step, JaxStep) else (0.0, 0.0)

    def reset(self, *, traced: bool) -> None:
        """Start again with another train function of Keras; ``traced``: whether it may have been traced already."""
        self._step, self._unrecordable, self.uses_original = None, False, traced

    def prepare(self, layers: Sequence[WatchedLayer], needs: frozenset[str]) -> None:
        """Prepare recording, unless that is done; the model must have its weights.

        Args:
            layers: Its layers.
            needs: Columns to measure.
        """
        if self._step is not None or self._unrecordable:
            return
        if keras.backend.backend() == "jax":
            self._step, self.uses_original = JaxStep(self._model, layers, self._guard, needs), True
            if self._step.reason is not None:
                self._give_up_recording(self._step.reason)
            return
        try:
            self._step = InstrumentedStep(self._model, self._make, layers, self._guard, needs)
            if self._step.batch_only:
                self._give_up_recording("with jit_compile=True on a CPU this would change the rounding")
        except RecordingError as reason:
            self._give_up_recording(reason)

    def choose(self, planned: int | None, count: int) -> None:
        """Let Keras' own train function take the steps that are not sampled, unless the run is too short.

        Args:
            planned: Planned steps of the run; None if unknown.
            count: Steps so far.
        """
        short = planned is not None and planned <= _ONE_TRACE
        traced = isinstance(self._step, InstrumentedStep) and self._step.is_traced
        self.uses_original = self.uses_original or not (short and (traced or not count))

    @passes_on
    def run(self, base: Callable[..., Any], data: tuple[Any, ...]) -> tuple[Any, dict[str, Any]]:
        """Take a step, or several with steps_per_execution; record it if possible.

        Args:
            base: Keras' own train function.
            data: Its arguments.

        Returns:
            Result of the function, and the recorded tensors.
        """
        if self._step is None:
            self.uses_original = True
            return base(*data), {}
        if isinstance(self._step, JaxStep):
            result, recorded = self._step.run(base, data)
            if self._step.reason is not None and not self._unrecordable:
                self._give_up_recording(self._step.reason)
            return result, recorded
        result, recorded, reason = self._step.run(base, data[0])
        if reason is not None:
            self._step = None
            self._give_up_recording(reason)
        return result, recorded

    def _give_up_recording(self, reason: Exception | str) -> None:
        """Go on with what can be observed without recording steps: losses, learning rate, weights, epochs."""
        self._unrecordable = True
        self._on_unrecordable()
        logger.warning("layers, gradients and outputs can't be watched in this training: %s", reason)
