"""The PyTorch backend. Nothing in here imports torch before there is a model of it."""

from __future__ import annotations

from autotrainer.backends.pytorch.adapter import PyTorchBackend

__all__ = ["BACKEND"]

BACKEND = PyTorchBackend()
