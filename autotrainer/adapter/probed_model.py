"""A copy of a model that probes run forward passes on, and what a backend provides for it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.facts import NOISE_SOURCES, NOT_PROBED

__all__ = ["PROBE_ROWS", "NotProbedError", "ProbedModel", "check_memory"]
__all__ += ["TARGET_NAMES"]

PROBE_ROWS = 64
"""Maximum number of rows of the first batch that a backend keeps; each forward pass takes a few of them."""

TARGET_NAMES = frozenset({"labels", "label", "targets", "target"})
"""Names of inputs that are targets: the model computes its own loss of them."""

_COPIES = 2
"""Times the size of a model that must be free: one for the copy, one for its activations."""


class NotProbedError(Exception):
    """A model that can't be probed; ``reason`` is one of `NOT_PROBED`."""

    def __init__(self, reason: str) -> None:
        assert reason in NOT_PROBED
        super().__init__(reason)
        self.reason = reason


class ProbedModel(ABC):
    """A copy of a model in evaluation mode, with a few rows of its inputs. Nothing that it does reaches the original.

    Attributes:
        fields: The arrays of a call, by name: row by row, or of another shape (masks, weights), which stay as they are.
        targets: Targets of the same rows, or None.
        rows_first: Whether the first axis is known to be that of the rows; None if that is unknown.
        values_last: Whether the last axis of an output for each position is known to hold its values, such as scores.
        depth: Number of layers: rounding errors grow with it.
        epsilon: Spacing of the floating-point numbers that the model computes with, relative to 1.
        embeds: Whether it has embedding layers.
        padding: Token ids that an embedding layer declares to be padding.
        attention: Whether a call computed attention weights of a sequence; known after a call.
        noise: What drew random numbers in the last call: one of `NOISE_SOURCES`.
        loss: The loss that the last call returned beside the outputs; NaN if none.
        added_losses: Losses that layers have added in the last call (`add_loss`): what is computed beside the outputs.
    """

    fields: Mapping[str, NDArray[Any]]
    targets: NDArray[Any] | None = None
    rows_first: bool | None = True
    values_last: bool = False
    depth: int = 1
    epsilon: float = float(np.finfo(np.float32).eps)
    embeds: bool = False
    padding: frozenset[int] = frozenset()
    attention: bool = False
    noise: str = NOISE_SOURCES[0]
    loss: float = float("nan")
    added_losses: tuple[float, ...] = ()

    @abstractmethod
    def outputs(
        self, fields: Mapping[str, NDArray[Any]], *, seed: int = 0, keep_state: bool = False
    ) -> list[NDArray[np.float64]]:
        """Call the model, and return its floating-point outputs, the predictions first.

        Args:
            fields: All of `fields`, with values of the same types and any number of rows.
            seed: Seed of the random numbers that the model draws, if any. The user's random states are preserved.
            keep_state: Leave buffers as the call before has left them, instead of those of the original.

        Raises:
            Exception: Whatever the model raises.
        """

    @abstractmethod
    def perturbed(self) -> AbstractContextManager[bool]:
        """Return a context manager in which the weights that training changes are moved by random numbers.

        What does not depend on an input then does not depend on it for structural reasons, rather than since a weight
        starts at zero. Rows of an embedding that are declared as padding stay as they are. It yields False if weights
        can't be moved.
        """

    @abstractmethod
    def without_normalization(self) -> AbstractContextManager[None]:
        """Return a context manager in which batch normalization passes on its inputs unchanged."""


def check_memory(size: int, free: int | None = None) -> None:
    """Check that there is memory for a copy of a model.

    Args:
        size: Bytes of its parameters and buffers.
        free: Free bytes of its device; None for the main memory.

    Raises:
        NotProbedError: If there is not.
    """
    free = _free_memory() if free is None else free
    if free is not None and _COPIES * size > free:
        raise NotProbedError("memory is too short for a copy of the model")


def _free_memory() -> int | None:
    """Return the available main memory in bytes; None where the system does not tell."""
    meminfo = Path("/proc/meminfo")  # Linux
    lines = meminfo.read_text("ascii").splitlines() if meminfo.exists() else []
    available = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    if available is not None:
        return int(available) * 1024
    if {"SC_AVPHYS_PAGES", "SC_PAGE_SIZE"} <= getattr(os, "sysconf_names", {}).keys():
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
