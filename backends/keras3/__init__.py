"""The Keras backend. Nothing in here imports keras before there is a model of it."""

from __future__ import annotations

from autotrainer.backends.keras3.adapter import KerasBackend

__all__ = ["BACKEND"]

BACKEND = KerasBackend()
