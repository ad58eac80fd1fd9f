"""`fit`: managed training and repair, the same call for both frameworks."""

from __future__ import annotations

from typing import Any

from autotrainer.result import Result

__all__ = ["fit"]


def fit(model: Any, train_data: Any, validation_data: Any = None, *, epochs: int) -> Result:
    """Train a model, repair the training if it fails, and prove that the repair helped."""
    raise RuntimeError((model, train_data, validation_data, epochs))
