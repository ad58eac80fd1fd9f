"""Saving trained models."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autotrainer.errors import InputError
from autotrainer.reporting.files import writing

__all__ = ["save_model"]

_UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError, RuntimeError, RecursionError)
"""Errors of local classes, lambdas, hooks, and modules that refuse."""


def save_model(model: nn.Module, folder: Path) -> Path:
    """Write ``weights.pt``, the ``state_dict``, and ``model.pt``, a dict with that and the whole model.

    ``torch.load("weights.pt")`` loads as it is, unless the model's own `get_extra_state` returns other things than
    tensors and plain values. ``torch.load("model.pt", weights_only=False)["model"]`` needs the code of the classes; the
    model is left out if it can't be pickled.

    Args:
        model: The model.
        folder: An existing folder.

    Returns:
        The path of ``model.pt``.

    Raises:
        InputError: If the weights can't be saved.
        OSError: If a file can't be written.
    """
    weights = model.state_dict()
    try:
        _save(weights, folder / "weights.pt")
    except _UNPICKLABLE as error:
        raise InputError(f"the state_dict of {type(model).__name__} can't be saved: {error}") from error
    path = folder / "model.pt"
    try:
        _save({"state_dict": weights, "model": model}, path)
    except _UNPICKLABLE:
        _save({"state_dict": weights}, path)
    return path


def _save(content: Any, path: Path) -> None:
    with writing(path), path.open("wb") as file:
        torch.save(content, file)
