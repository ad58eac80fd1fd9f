"""Calling a Keras model outside of training, and the reason of an error that it raises."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["call_model", "error_reason"]


def call_model(model: Any, inputs: Any) -> Any:
    """Return the outputs of a model in inference mode, whether or not its ``call`` takes ``training``."""
    return model(inputs, training=False) if model._call_has_training_arg else model(inputs)


def error_reason(error: Exception) -> str:
    """Return the line of a Keras error message that gives the reason, without terminal colours."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()]
    reasons = [line for line in lines if line and not line.startswith("Exception encountered when calling")]
    return reasons[0] if reasons else type(error).__name__
