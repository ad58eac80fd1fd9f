"""Statistics of the inputs of a managed training."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from autotrainer.backends.keras3.data.batches import first_array, read_batches
from autotrainer.edits import ScaleInputs
from autotrainer.records.data import Data, as_array
from autotrainer.training.column_scaling import ColumnScaling
from autotrainer.training.data_edits import Moments

__all__ = ["InputStatistics", "input_statistics"]


@dataclass(frozen=True, slots=True)
class InputStatistics:
    """Statistics of one training input.

    Attributes:
        shape: Shape of a row.
        scaling: The scaling that suits it, with one number per feature for rows of rank 1, else a single one.
        spread: Standard deviation over all values.
    """

    shape: tuple[int, ...]
    scaling: ScaleInputs
    spread: float


def input_statistics(data: Data, input_index: int, name: str | None) -> InputStatistics:
    """Return statistics of one input over the training data; values that are not finite are ignored.

    Args:
        data: The training data.
        input_index: Which of the flattened inputs.
        name: Name of the input, for a dict of inputs.
    """
    columns, values = ColumnScaling(), Moments()
    shape: tuple[int, ...] = ()
    for inputs, targets, _ in read_batches(data, size=8192):
        named = isinstance(inputs, dict) and name in inputs
        chosen = inputs[name] if named else keras.tree.flatten(inputs)[input_index]
        rows = np.asarray(as_array(chosen), np.float64)
        shape = rows.shape[1:]
        nested = len(keras.tree.flatten(targets)) != 1
        columns.add(rows, None if nested else as_array(first_array(targets)))
        values.add(rows.reshape(-1, 1))
    return InputStatistics(shape, columns.fit(), values.scale()[1][0])
