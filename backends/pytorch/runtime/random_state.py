"""The global random states: preserved around managed trainings, and seeded for each training and epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import numpy as np
import torch

__all__ = ["RandomState", "mix", "preserve_random_state", "seed_all"]


@dataclass(frozen=True, slots=True)
class RandomState:
    """The states of the global generators of Python, NumPy and torch (all devices in use)."""

    python: Any
    numpy: Any
    cpu: torch.Tensor
    cuda: list[torch.Tensor] | None
    mps: torch.Tensor | None

    @classmethod
    def now(cls) -> Self:
        """Return the current states."""
        cuda_in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        return cls(
            random.getstate(),
            np.random.get_state(),
            torch.get_rng_state(),
            torch.cuda.get_rng_state_all() if cuda_in_use else None,
            torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        )

    def restore(self) -> None:
        """Set the global generators to these states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state_all(self.cuda)
        if self.mps is not None:
            torch.mps.set_rng_state(self.mps)


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Restore the random states of torch (all devices in use), NumPy and Python at the end, whatever happens."""
    state = RandomState.now()
    try:
        yield
    finally:
        state.restore()


def seed_all(seed: int) -> None:
    """Seed torch (all devices), NumPy's global generator and Python's.

    Args:
        seed: Any integer.
    """
    if _has_accelerator():
        torch.manual_seed(seed % 2**63)
    else:  # without CUDA, torch.manual_seed formats a stack trace each time: longer than a step of a small model
        torch.default_generator.manual_seed(seed % 2**63)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@cache
def _has_accelerator() -> bool:
    """Return whether torch is built for one; asking whether it is available would initialize its driver."""
    return not hasattr(torch, "accelerator") or torch.accelerator.current_accelerator() is not None


def mix(seed: int, epoch: int) -> int:
    """Return the seed of one epoch, in [0, 2**63), so that its random numbers do not depend on earlier epochs."""
    return (seed * 1_000_003 + epoch + 1) % 2**63
