"""Which train function takes a step: Keras' own, or the one that gives out what flows through the step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import keras

from autotrainer.backends.keras3.engines.instrument import InstrumentedStep
from autotrainer.backends.keras3.engines.jax_step import JaxStep
from autotrainer.backends.keras3.engines.recording import StepRecorder
from autotrainer.backends.keras3.engines.tensorflow_graph import UnobservableError
from autotrainer.backends.keras3.model.parts import Part

__all__ = ["TrainFunctions"]

logger = logging.getLogger("autotrainer")

_ONE_TRACE = 32
"""Steps of a run up to which the instrumented train function takes all steps. Tracing Keras' own as well takes as long
as that costs in some 250 to 1000 steps, but the usual step of a run that has one is to be as fast as without us."""


class TrainFunctions:
    """Takes the steps of one model.

    Args:
        model: The model.
        make: The model's own ``make_train_function``.
        fail: Takes an exception of our own code.
        go_outside: Called where steps can be seen only from outside.
    """

    def __init__(
        self, model: Any, make: Callable[..., Any], fail: Callable[[Exception], None], go_outside: Callable[[], None]
    ) -> None:
        self._model, self._make, self._fail, self._go_outside = model, make, fail, go_outside
        self._step: InstrumentedStep | JaxStep | None = None
        self._from_outside = False
        self.plain = False
        """Whether Keras' own train function takes the steps that are not sampled."""

    @property
    def recorder(self) -> StepRecorder | None:
        """What recorded the last step that is sampled; None if it was seen from outside."""
        return None if self._step is None else self._step.recorder

    @property
    def cost(self) -> float:
        """Seconds that the last step taken was longer for being recorded, apart from tracing and compiling."""
        return self._step.cost if isinstance(self._step, JaxStep) else 0.0

    def reset(self, *, traced: bool) -> None:
        """Start anew, with another train function of Keras' own; ``traced``: that may have been traced already."""
        self._step, self._from_outside, self.plain = None, False, traced

    def prepare(self, parts: Sequence[Part], needs: frozenset[str]) -> None:
        """Make what takes sampled steps, where it is not there yet; the model has to have its weights.

        Args:
            parts: Its layers.
            needs: Columns that are worth measuring.
        """
        if self._step is not None or self._from_outside:
            return
        if keras.backend.backend() == "jax":
            self._step, self.plain = JaxStep(self._model, parts, self._fail, needs), True
            if self._step.reason is not None:
                self._look_from_outside(self._step.reason)
            return
        try:
            self._step = InstrumentedStep(self._model, self._make, parts, self._fail, needs)
            if self._step.batch_only:
                self._look_from_outside("with jit_compile=True on a CPU that would change how it rounds")
        except UnobservableError as reason:
            self._look_from_outside(reason)

    def choose(self, planned: int | None, count: int) -> None:
        """Let Keras' own train function take the steps that are not sampled, unless the run is too short for that.

        Args:
            planned: Steps of the run, if known.
            count: Steps so far.
        """
        short = planned is not None and planned <= _ONE_TRACE
        traced = isinstance(self._step, InstrumentedStep) and self._step.traced
        self.plain = self.plain or not (short and (traced or not count))

    def take(self, base: Callable[..., Any], data: tuple[Any, ...]) -> tuple[Any, dict[str, Any]]:
        """Take a step (or as many as a call takes) with the instrumented function, where there is one.

        Args:
            base: Keras' own train function.
            data: What Keras gives it.

        Returns:
            What the function returns, and the tensors recorded.
        """
        if self._step is None:
            self.plain = True
            return base(*data), {}
        if isinstance(self._step, JaxStep):
            result, seen = self._step.run(base, data)
            if self._step.reason is not None and not self._from_outside:
                self._look_from_outside(self._step.reason)
            return result, seen
        result, seen, reason = self._step.run(base, data[0])
        if reason is not None:
            self._step = None
            self._look_from_outside(reason)
        return result, seen

    def _look_from_outside(self, reason: Exception | str) -> None:
        """Go on with what can be seen without looking into steps: losses, learning rate, weights, epochs."""
        self._from_outside = True
        self._go_outside()
        logger.warning("layers, gradients and outputs can't be watched in this training: %s", reason)
