"""Mean and standard deviation of the inputs, fitted on the training data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autotrainer.backends.pytorch.data import Batches
from autotrainer.backends.pytorch.functional import first_tensor
from autotrainer.backends.pytorch.random_state import preserve_random_state
from autotrainer.errors import ConfigError

__all__ = ["fit_scale"]

_CONSTANT = 1e-8
"""Standard deviation, relative to the mean, below which a feature counts as constant."""


def fit_scale(batches: Batches) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and population standard deviation of the first floating-point input.

    Values that are not finite are left out. Constant features get a standard deviation of 1.

    Args:
        batches: The training data; read once, leaving every random state as it was.

    Returns:
        Means and standard deviations: one for each feature of inputs of rank 2, else a single one.

    Raises:
        ConfigError: If there is no such input.
    """
    count: NDArray[np.float64] = np.zeros(1)
    mean: NDArray[np.float64] = np.zeros(1)
    squares: NDArray[np.float64] = np.zeros(1)
    with preserve_random_state():
        for batch in batches.read():
            tensor = first_tensor(batch.inputs, floating=True)
            if tensor is None:
                raise ConfigError("there are no floating-point inputs to scale")
            values = tensor.detach().double().cpu().numpy()
            values = values if values.ndim == 2 else values.reshape(-1, 1)
            finite = np.isfinite(values)
            number = finite.sum(0).astype(np.float64)
            own = np.where(finite, values, 0.0).sum(0) / np.maximum(number, 1)
            spread = (np.where(finite, values - own, 0.0) ** 2).sum(0)
            total = np.maximum(count + number, 1)
            delta = own - mean  # combined as in Chan, Golub and LeVeque 1979
            squares = squares + spread + delta**2 * count * number / total
            mean = mean + delta * number / total
            count = count + number
    std = np.sqrt(squares / np.maximum(count, 1))
    varies = std > _CONSTANT * np.maximum(np.abs(mean), 1e-30)
    return tuple(mean.tolist()), tuple(np.where(varies, std, 1.0).tolist())
