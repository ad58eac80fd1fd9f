"""Saving trained models to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autotrainer.errors import InputError
from autotrainer.reporting.files import writing

__all__ = ["save_model"]


def save_model(model: Any, folder: Path) -> Path:
    """Write a trained model as ``model.keras``, for `keras.models.load_model`; layers of this package must be imported.

    Raises:
        InputError: If the model can't be saved; the message says why.
        OSError: If the file can't be written.
    """
    path = folder / "model.keras"
    try:
        with writing(path):
            model.save(path)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise InputError(f"{type(model).__name__} can't be saved as .keras: {error}") from error
    return path
