"""Process-wide settings of PyTorch that a training in another process needs to give the same result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["adopt_settings", "process_settings"]

_CUDNN = ("enabled", "benchmark", "deterministic", "allow_tf32")
_SMALLEST = 5e-324
"""The smallest positive number of double precision: zero where such numbers are flushed to zero."""


def process_settings() -> dict[str, Any]:
    """Return the settings of this process."""
    return {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "flush_denormal": float(torch.tensor(_SMALLEST, dtype=torch.float64) * 1) == 0,
        "device": str(torch.get_default_device()),
        "cudnn": {name: getattr(torch.backends.cudnn, name) for name in _CUDNN},
    }


def adopt_settings(values: Mapping[str, Any]) -> None:
    """Apply the settings that `process_settings` returned in another process."""
    torch.set_num_threads(values["threads"])
    torch.set_default_dtype(values["dtype"])
    torch.set_float32_matmul_precision(values["precision"])
    torch.use_deterministic_algorithms(values["deterministic"], warn_only=values["warn_only"])
    torch.set_flush_denormal(values["flush_denormal"])
    if values["device"] != str(torch.get_default_device()):
        torch.set_default_device(values["device"])
    for name, value in values["cudnn"].items():
        setattr(torch.backends.cudnn, name, value)
