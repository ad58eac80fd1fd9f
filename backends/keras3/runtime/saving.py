"""Saving trained models to disk."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from autotrainer.errors import InputError

__all__ = ["save_model"]


def save_model(model: Any, folder: Path) -> Path:
    """Write a trained model as ``model.keras``; an older file is replaced only by a complete new one.

    Raises:
        InputError: If the model can't be saved; the message says why.
    """
    target = folder / "model.keras"
    with TemporaryDirectory(dir=folder) as scratch:
        file = Path(scratch) / "model.keras"
        try:
            model.save(file)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise InputError(f"{type(model).__name__} can't be saved as .keras: {error}") from error
        os.replace(file, target)
    return target
