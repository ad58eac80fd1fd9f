"""Whether a model was called in training mode, for models where the mode makes a difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras

from autotrainer.backends.keras3.engines.patching import observed, patched
from autotrainer.backends.keras3.model.layer_kinds import kind_of

__all__ = ["EvaluationMode", "Modes"]


class Modes:
    """Records the mode in which a model and its mode-dependent layers are called.

    Args:
        model: The model.

    Attributes:
        layers: Dropout and batch normalization layers, without frozen ones.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.layers = tuple(layer for layer in model._flatten_layers() if _depends_on_mode(layer))
        self._model_called, self._layer_called, self._any_training, self._model_training = False, False, False, False

    @property
    def training_mode(self) -> float:
        """1 if the model was called in training mode, 0 if not; NaN if no layer depends on the mode.

        Layers that the model itself calls in another mode, as is usual in fine-tuning, do not count. It is also NaN if
        the model itself is not called: training steps that call parts of it may do so on purpose.
        """
        return float(self._any_training) if self._model_called and self._layer_called else float("nan")

    @property
    def model_training(self) -> float:
        """1 if the model was called with ``training=True``, 0 if not; NaN as above.

        Layers that the model always calls in training mode, to sample from its dropout for example, do not count.
        """
        return float(self._model_training) if self._model_called and self._layer_called else float("nan")

    @contextmanager
    def listening(self, fail: Callable[[Exception], None]) -> Iterator[None]:
        """Record all calls meanwhile; ``fail`` is called with an exception of our own code."""
        observers = [(layer, self.note_layer) for layer in self.layers] + [(self._model, self.note_model)]
        with ExitStack() as stack:
            for layer, note in observers:
                stack.enter_context(patched(layer, "call", observed(layer.call, note, fail, arguments=True)))
            yield

    def clear(self) -> None:
        """Forget all calls."""
        self._model_called, self._layer_called, self._any_training, self._model_training = False, False, False, False

    def note_model(self, _: Any, *__: Any, training: Any = None, **___: Any) -> None:
        """Record a call of the model."""
        self._model_called, self._model_training = True, self._model_training or _is_true(training)
        self._any_training = self._any_training or self._model_training

    def note_layer(self, _: Any, *__: Any, training: Any = None, **___: Any) -> None:
        """Record a call of one of the layers."""
        self._layer_called, self._any_training = True, self._any_training or _is_true(training)


class EvaluationMode:
    """Finds out the mode in which a model is evaluated, also by a custom test step.

    A compiling engine runs that step in Python only once, so the mode found then holds for all evaluations.

    Args:
        model: The model.
        fail: Called with an exception of our own code.
    """

    def __init__(self, model: Any, fail: Callable[[Exception], None]) -> None:
        self._model, self._fail = model, fail
        self._listening = ExitStack()
        self._modes: Modes | None = None
        self._value = math.nan
        self._evaluated = False

    def begin(self) -> None:
        """An evaluation begins."""
        self.end()
        self._evaluated = True
        if not math.isfinite(self._value):
            self._modes = Modes(self._model)
            if type(self._model).test_step is keras.Model.test_step:
                self._value = 0.0 if self._modes.layers else math.nan
            elif self._modes.layers:
                self._listening.enter_context(self._modes.listening(self._fail))

    def end(self) -> None:
        """The evaluation has ended, or failed."""
        self._listening.close()
        if self._modes is not None and not math.isfinite(self._value):
            self._value = self._modes.model_training
        self._modes = None

    def take(self) -> dict[str, float]:
        """Return ``evaluation_mode`` if an evaluation since the last call has shown it; see `EpochObserver`."""
        is_known, self._evaluated = self._evaluated and math.isfinite(self._value), False
        return {"evaluation_mode": self._value} if is_known else {}


def _is_true(training: Any) -> bool:
    return training is not None and (not isinstance(training, bool | int) or bool(training))


def _depends_on_mode(layer: Any) -> bool:
    """Return whether a trainable layer behaves differently in training and inference."""
    drops = kind_of(layer) == "dropout" and bool(getattr(layer, "rate", getattr(layer, "stddev", 1.0)))
    return bool(layer.trainable) and (drops or isinstance(layer, keras.layers.BatchNormalization))
