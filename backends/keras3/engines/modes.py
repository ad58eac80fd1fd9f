"""Whether a model was called in training mode, as far as that makes a difference to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras

from autotrainer.backends.keras3.engines.patching import noting, patched
from autotrainer.backends.keras3.model.kinds import kind_of

__all__ = ["EvaluationMode", "Modes"]


class Modes:
    """Takes down in which mode a model and those of its layers that go by it are called.

    Args:
        model: The model.

    Attributes:
        layers: Dropout and batch normalization layers, without frozen ones.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.layers = tuple(layer for layer in model._flatten_layers() if _has_mode(layer))
        self._called, self._inside, self._trains, self._asked = False, False, False, False

    @property
    def training_mode(self) -> float:
        """1 if the model was called in training mode, 0 if not; NaN if it has no layer that goes by it.

        Layers that the model itself calls in another mode, as is usual in fine-tuning, are left out. Nothing is known
        of a model that is not called itself: training steps that call parts of it may mean what they do.
        """
        return float(self._trains) if self._called and self._inside else float("nan")

    @property
    def asked_to_train(self) -> float:
        """1 if the model was called with ``training=True``, 0 if not; NaN as above.

        Layers that the model calls in training mode in any case, to sample from its dropout say, do not count.
        """
        return float(self._asked) if self._called and self._inside else float("nan")

    @contextmanager
    def listening(self, fail: Callable[[Exception], None]) -> Iterator[None]:
        """Take down all calls meanwhile; ``fail`` takes an exception of our own code."""
        heard = [(layer, self.note_layer) for layer in self.layers] + [(self._model, self.note_model)]
        with ExitStack() as stack:
            for layer, note in heard:
                stack.enter_context(patched(layer, "call", noting(layer.call, note, fail, arguments=True)))
            yield

    def clear(self) -> None:
        """Forget all calls."""
        self._called, self._inside, self._trains, self._asked = False, False, False, False

    def note_model(self, _: Any, *__: Any, training: Any = None, **___: Any) -> None:
        """Take down that the model was called."""
        self._called, self._asked = True, self._asked or _is_on(training)
        self._trains = self._trains or self._asked

    def note_layer(self, _: Any, *__: Any, training: Any = None, **___: Any) -> None:
        """Take down that one of the layers was called."""
        self._inside, self._trains = True, self._trains or _is_on(training)


class EvaluationMode:
    """Finds out in which mode a model is evaluated, where its test step is the user's own.

    An engine that compiles runs that step in Python once, so that what was seen then holds for all evaluations.

    Args:
        model: The model.
        fail: Takes an exception of our own code.
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
            self._value = self._modes.asked_to_train
        self._modes = None

    def take(self) -> dict[str, float]:
        """Return ``evaluation_mode`` where it is known of an evaluation since the last call; see `EpochObserver`."""
        known, self._evaluated = self._evaluated and math.isfinite(self._value), False
        return {"evaluation_mode": self._value} if known else {}


def _is_on(training: Any) -> bool:
    return training is not None and (not isinstance(training, bool | int) or bool(training))


def _has_mode(layer: Any) -> bool:
    """Say whether a layer that may learn does something else in training than in use."""
    drops = kind_of(layer) == "dropout" and bool(getattr(layer, "rate", getattr(layer, "stddev", 1.0)))
    return bool(layer.trainable) and (drops or isinstance(layer, keras.layers.BatchNormalization))
