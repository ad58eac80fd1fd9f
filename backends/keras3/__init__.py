"""The Keras backend. Importing it does not import keras: that happens once there is a Keras model."""

from __future__ import annotations

from pathlib import Path

from autotrainer.backends.keras3.backend import KerasBackend

__all__ = ["BACKEND"]

BACKEND = KerasBackend()

__path__.append(str(Path(__file__).parent / "moved"))  # paths that saved models and older code name
