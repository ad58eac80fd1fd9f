"""The random states that managed trainings touch: put back afterwards, and set for each training and epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["mix", "preserve_random_state", "seed_all"]


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Put back the random states of torch (all devices in use), NumPy and Python at the end, whatever happens."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if in_use else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)


def seed_all(seed: int) -> None:
    """Seed torch (all devices), NumPy's global generator and Python's.

    Args:
        seed: Any whole number.
    """
    torch.manual_seed(seed % 2**63)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def mix(seed: int, epoch: int) -> int:
    """Return the seed of one epoch, in [0, 2**63): what is drawn in it does not depend on earlier epochs."""
    return (seed * 1_000_003 + epoch + 1) % 2**63
