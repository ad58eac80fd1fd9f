"""Seeing each operation of a step that runs eagerly, and the first that makes a value that is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from autotrainer.records.nonfinite import Operation, is_intended, kind_of_operation

__all__ = ["NonfiniteOperations", "numbers"]


class NonfiniteOperations:
    """While active, keeps the first operation that makes a value that is not finite, of each part of a step.

    Attributes:
        part: The part of the step that runs: ``forward``, ``backward`` or ``update``.
        first: The first such operation of each part that has one.
    """

    def __init__(self) -> None:
        self.part = "forward"
        self.first: dict[str, Operation] = {}

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Look at all operations while this lasts."""
        if keras.backend.backend() == "torch":
            from autotrainer.backends.keras3.training.torch_operations import TorchOperations

            with TorchOperations(self._see):
                yield
            return
        # What `tf.debugging.enable_check_numerics` is built on: that one raises, and does not tell what went in.
        from tensorflow.python.framework import op_callbacks

        op_callbacks.add_op_callback(self._see_tensorflow)
        try:
            yield
        finally:
            op_callbacks.remove_op_callback(self._see_tensorflow)

    def _see_tensorflow(
        self, op_type: str, inputs: Sequence[Any], attrs: Any, outputs: Any, op_name: Any = None, graph: Any = None
    ) -> None:
        if graph is None:  # of what is traced into a graph there is nothing to see
            self._see(op_type, inputs, outputs)

    def _see(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Take an operation that has run."""
        if self.part in self.first:
            return
        made = [values for values in map(numbers, outputs) if values is not None and not np.isfinite(values).all()]
        if not made:
            return
        nan = any(bool(np.isnan(values).any()) for values in made)
        given = [values for values in map(numbers, inputs) if values is not None and values.size]
        handed_on = any(bool((np.isnan(v) if nan else ~np.isfinite(v)).any()) for v in given)
        if handed_on or is_intended(name, nan=nan):
            return
        backward = self.part == "backward"
        seen = {
            "lowest": min((float(v.min()) for v in given), default=math.nan),
            "highest": max((float(v.max()) for v in given), default=math.nan),
            "nearest": float(np.abs(_divisor(name, given)).min()) if given else math.nan,
        }
        kind = kind_of_operation(name, seen, nan=nan, backward=backward)
        self.first[self.part] = Operation(kind, **seen, half=made[0].dtype == np.float16, backward=backward)


def _divisor(name: str, given: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Return what would divide, if the operation divides: gradients of roots are given the root first."""
    return given[0] if name.endswith("Grad") else given[-1]


def numbers(tensor: Any) -> np.ndarray[Any, Any] | None:
    """Return floating values as an array; None for what has none."""
    tensor = getattr(tensor, "values", tensor) if hasattr(tensor, "dense_shape") else tensor
    dtype = getattr(tensor, "dtype", "")  # of a kind that Keras does not know for resources of TensorFlow
    if not str(getattr(dtype, "name", dtype)).removeprefix("torch.").startswith(("float", "bfloat")):
        return None
    values = np.asarray(keras.ops.convert_to_numpy(tensor))
    return values if values.dtype == np.float16 else values.astype(np.float64)
