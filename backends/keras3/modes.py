"""Whether a model was called in training mode, as far as that makes a difference to it."""

from __future__ import annotations

from typing import Any

import keras

from autotrainer.backends.keras3.kinds import kind_of

__all__ = ["Modes"]


class Modes:
    """Takes down in which mode a model and those of its layers that go by it are called.

    Args:
        model: The model.

    Attributes:
        layers: Dropout and batch normalization layers, without frozen ones.
    """

    def __init__(self, model: Any) -> None:
        self.layers = tuple(layer for layer in model._flatten_layers() if _has_mode(layer))
        self._called, self._inside, self._trains = False, False, False

    @property
    def training_mode(self) -> float:
        """1 if the model was called in training mode, 0 if not; NaN if it has no layer that goes by it.

        Layers that the model itself calls in another mode, as is usual in fine-tuning, are left out. Nothing is known
        of a model that is not called itself: training steps that call parts of it may mean what they do.
        """
        return float(self._trains) if self._called and self._inside else float("nan")

    def clear(self) -> None:
        """Forget all calls."""
        self._called, self._inside, self._trains = False, False, False

    def note_model(self, training: Any = None, **_: Any) -> None:
        """Take down that the model was called."""
        self._called, self._trains = True, self._trains or _is_on(training)

    def note_layer(self, _: Any, *__: Any, training: Any = None, **___: Any) -> None:
        """Take down that one of the layers was called."""
        self._inside, self._trains = True, self._trains or _is_on(training)


def _is_on(training: Any) -> bool:
    return training is not None and (not isinstance(training, bool | int) or bool(training))


def _has_mode(layer: Any) -> bool:
    """Say whether a layer that may learn does something else in training than in use."""
    drops = kind_of(layer) == "dropout" and bool(getattr(layer, "rate", getattr(layer, "stddev", 1.0)))
    return bool(layer.trainable) and (drops or isinstance(layer, keras.layers.BatchNormalization))
