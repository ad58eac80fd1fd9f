"""Mean and standard deviation of inputs or targets, fitted on the training data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.backends.pytorch.data.batches import Batch, Batches
from autotrainer.backends.pytorch.runtime.random_state import preserve_random_state
from autotrainer.backends.pytorch.runtime.tensors import first_tensor
from autotrainer.errors import ConfigError

__all__ = ["fit_scale", "fit_target_scale"]

_CONSTANT = 1e-8
"""Standard deviation, relative to the mean, below which a feature counts as constant."""


Scale = tuple[tuple[float, ...], tuple[float, ...]]
"""Means and standard deviations."""


def fit_scale(batches: Batches) -> Scale:
    """Return mean and population standard deviation of the first floating-point input.

    Non-finite values are left out. Constant features get a standard deviation of 1.

    Args:
        batches: The training data; read once, random states preserved.

    Returns:
        Means and standard deviations: one for each feature of inputs of rank 2, otherwise a single one.

    Raises:
        ConfigError: If there is no such input.
    """

    def values(batch: Batch) -> NDArray[np.float64]:
        tensor = first_tensor(batch.inputs, floating=True)
        if tensor is None:
            raise ConfigError("there are no floating-point inputs to scale")
        return _columns(tensor)

    return _fit(batches, values)


def fit_target_scale(batches: Batches) -> Scale:
    """Return mean and population standard deviation of the targets, as `fit_scale` does."""
    return _fit(batches, lambda batch: _columns(batch.targets))


def _columns(tensor: Any) -> NDArray[np.float64]:
    values: NDArray[np.float64] = tensor.detach().double().cpu().numpy()
    return values if values.ndim == 2 else values.reshape(-1, 1)


def _fit(batches: Batches, values_of: Callable[[Batch], NDArray[np.float64]]) -> Scale:
    count: NDArray[np.float64] = np.zeros(1)
    mean: NDArray[np.float64] = np.zeros(1)
    squares: NDArray[np.float64] = np.zeros(1)
    with preserve_random_state():
        for batch in batches.read():
            values = values_of(batch)
            finite = np.isfinite(values)
            number = finite.sum(0).astype(np.float64)
            batch_mean = np.where(finite, values, 0.0).sum(0) / np.maximum(number, 1)
            spread = (np.where(finite, values - batch_mean, 0.0) ** 2).sum(0)
            total = np.maximum(count + number, 1)
            delta = batch_mean - mean  # combined as in Chan, Golub and LeVeque 1979
            squares = squares + spread + delta**2 * count * number / total
            mean = mean + delta * number / total
            count = count + number
    std = np.sqrt(squares / np.maximum(count, 1))
    varies = std > _CONSTANT * np.maximum(np.abs(mean), 1e-30)
    return tuple(mean.tolist()), tuple(np.where(varies, std, 1.0).tolist())
