"""Process-wide settings of PyTorch that a training in another process needs to give the same result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["adopt_settings", "process_settings"]


def process_settings() -> dict[str, Any]:
    """Return the settings of this process."""
    return {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
    }


def adopt_settings(values: Mapping[str, Any]) -> None:
    """Apply the settings that `process_settings` returned in another process."""
    torch.set_num_threads(values["threads"])
    torch.set_default_dtype(values["dtype"])
    torch.set_float32_matmul_precision(values["precision"])
    torch.use_deterministic_algorithms(values["deterministic"], warn_only=values["warn_only"])
