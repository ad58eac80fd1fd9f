"""The PyTorch backend. Nothing in here imports torch before there is a model of it."""

from __future__ import annotations

from pathlib import Path

from autotrainer.backends.pytorch.backend import PyTorchBackend

__all__ = ["BACKEND"]

BACKEND = PyTorchBackend()

__path__.append(str(Path(__file__).parent / "moved"))  # import paths of version 0.1 in saved files
