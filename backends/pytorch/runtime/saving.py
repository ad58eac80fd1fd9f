"""Saving trained models."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import torch
from torch import nn

from autotrainer.reporting.files import write_atomic

__all__ = ["save_model"]


def save_model(model: nn.Module, folder: Path) -> Path:
    """Write ``model.pt``: a dict with ``state_dict``, and with the whole ``model`` if it can be pickled.

    ``torch.load(path)["state_dict"]`` reads the weights alone; loading the whole model needs ``weights_only=False``
    and the code of its classes.

    Args:
        model: The model.
        folder: An existing folder.

    Returns:
        The file. An existing one is replaced only once the new one is complete.

    Raises:
        InputError: If the file can't be written.
    """
    content = io.BytesIO()
    try:
        torch.save({"state_dict": model.state_dict(), "model": model}, content)
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError):  # of local classes, lambdas, hooks
        content = io.BytesIO()
        torch.save({"state_dict": model.state_dict()}, content)
    return write_atomic(folder / "model.pt", content.getvalue())
