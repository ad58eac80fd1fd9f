"""The Keras backend. Nothing in here imports keras before there is a model of it."""

from __future__ import annotations

from pathlib import Path

from autotrainer.backends.keras3.backend import KerasBackend

__all__ = ["BACKEND"]

BACKEND = KerasBackend()

__path__.append(str(Path(__file__).parent / "moved"))  # where files and code of earlier versions find what they name
