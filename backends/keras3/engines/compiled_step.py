"""Steps of compiled functions of the user's that also return the tensors inside them.

A second function is traced for the sampled steps; all others call the user's own, unchanged.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from autotrainer.backends.keras3.engines.loop_recorder import LoopRecorder
from autotrainer.backends.keras3.engines.patching import RecordingError
from autotrainer.backends.keras3.engines.step_recorder import batch_of
from autotrainer.backends.keras3.engines.tensorflow_graph import (
    copy_if_regrouped,
    has_accelerator,
    tensors_of_this_graph,
)
from autotrainer.backends.keras3.runtime.tensorflow_functions import converted, uses_xla, with_body
from autotrainer.monitoring.tracebacks import passes_on

__all__ = ["CompiledStep", "TracedFunction"]

_RandomStates = tuple[Any, Any]


class TracedFunction:
    """What the traces of a `tf.function` have shown.

    Attributes:
        applies: The optimizers that it calls, each with its variables, by id.
        nested: Whether an optimizer is called in an inner graph, as in a loop over batches.
        differentiates: Whether it computes gradients.
        loss: The first Keras loss that it calls.
        announced: Whether the listeners know that it calls an optimizer.
        postponed: Whether its own first call has to come before a sampled one, as it gives variables their values.
        models: Ids of the watched models that it calls.
        seconds: What its first trace took, or its first call; 0 before that.
        random_states: States of Python's and NumPy's global generators before that.
    """

    def __init__(self) -> None:
        self.applies: dict[int, tuple[Any, tuple[Any, ...]]] = {}
        self.nested = False
        self.differentiates = False
        self.loss: Any = None
        self.announced = self.postponed = False
        self.models: set[int] = set()
        self.seconds = 0.0
        self.random_states = _random_states()
        self._steps: dict[tuple[int, ...], CompiledStep] = {}

    def step(self, function: Any, recorders: Sequence[LoopRecorder]) -> CompiledStep:
        """Return the function that records with these recorders."""
        key = tuple(map(id, recorders))
        if key not in self._steps:
            self._steps[key] = CompiledStep(function, recorders, self.random_states)
        return self._steps[key]


class CompiledStep:
    """Takes the sampled steps of one compiled function.

    Args:
        function: The function.
        recorders: What records them.
        random_states: States of the generators from which its own trace has drawn constants, if it draws any.
    """

    tracing: ClassVar[bool] = False
    """Whether a step is being traced: the compiled functions that it calls are then part of its own graph."""

    def __init__(self, function: Any, recorders: Sequence[LoopRecorder], random_states: _RandomStates) -> None:
        self._random_states = random_states
        self._recorders = list(recorders)
        self._body = converted(function)
        self._traces = 0
        self._reason: str | None = None
        if uses_xla(function) and not has_accelerator():
            self._reason = "with jit_compile=True on a CPU this would change the rounding"
        self._function = with_body(function, self._trace)

    @passes_on
    def run(
        self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, list[dict[str, Any] | None]]:
        """Take a step.

        Args:
            original: The user's function, which takes the step if it can't be recorded.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Returns:
            Its result, and what each recorder has recorded; None if nothing could be recorded.
        """
        import tensorflow as tf

        postponed = not self._traces and not all(recorder.may_trace for recorder in self._recorders)
        if self._reason is None and not postponed:
            traces = self._traces
            try:
                result, recorded = self._function(*args, **kwargs)
            except tf.errors.OpError:
                raise
            except Exception as error:
                if traces == self._traces and not isinstance(error, RecordingError):
                    raise
                reasons = [recorder.reason for recorder in self._recorders if recorder.reason is not None]
                line = (str(error).strip().splitlines() or [""])[-1].strip()
                self._reason = reasons[0] if reasons else f"tracing failed: {type(error).__name__}: {line}"
            else:
                return result, list(recorded)
        for recorder in self._recorders:
            recorder.reason = self._reason or "to trace its step a second time would take too long at present"
        return original(*args, **kwargs), [None for _ in self._recorders]

    @passes_on
    def _trace(self, *args: Any, **kwargs: Any) -> tuple[Any, list[dict[str, Any]]]:
        self._traces += 1
        result: list[Any] = []

        @passes_on
        def run() -> None:
            result.append(self._body(*args, **kwargs))

        CompiledStep.tracing = True
        states = _random_states()
        _set_random_states(self._random_states)
        try:
            recorded = self._record(run, self._recorders)
        finally:
            CompiledStep.tracing = False
            _set_random_states(states)
        copies: dict[Any, Any] = {}
        for recorder, values in zip(self._recorders, recorded, strict=True):
            recorder.find_loss(result[0])
            _add_targets(values, recorder.inputs, args, kwargs)
        kept = [
            {key: copy_if_regrouped(value, copies) for key, value in tensors_of_this_graph(values).items()}
            for values in recorded
        ]
        return result[0], kept

    def _record(self, run: Callable[[], None], recorders: Sequence[LoopRecorder]) -> list[dict[str, Any]]:
        if not recorders:
            run()
            return []
        inner: list[dict[str, Any]] = []

        @passes_on
        def run_inner() -> None:
            inner.extend(self._record(run, recorders[1:]))

        return [recorders[0].record(run_inner), *inner]


def _add_targets(
    recorded: dict[str, Any], inputs: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Add targets that no loss shows: the second argument of a step, or of its pair, if the first is the input."""
    values = (*args, *kwargs.values())
    data = values[0] if len(values) == 1 and isinstance(values[0], list | tuple) else values
    outputs = recorded.get("outputs")
    if len(data) not in (2, 3) or outputs is None or "targets" in recorded:
        return
    batch = batch_of(tuple(data))
    x, y = batch.get("inputs"), batch.get("targets")
    if len(inputs) == 1 and x is inputs[0] and y is not None and y is not x and y.shape[:1] == outputs.shape[:1]:
        recorded["targets"] = y


def _random_states() -> _RandomStates:
    return random.getstate(), np.random.get_state()


def _set_random_states(states: _RandomStates) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
