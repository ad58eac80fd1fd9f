"""Tells weights of a special form from their values: all zero, one constant, the same for all units or all inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

__all__ = ["recurrent_form", "weight_form"]


def weight_form(matrix: NDArray[Any]) -> str:
    """Return the form of the weights of a layer without recurrence, as `autotrainer.signals.LayerInfo.start` has it.

    A single unit is not equal to others, nor is a single input.

    Args:
        matrix: Shape (units, inputs, places), none of them zero.
    """
    if not matrix.any():
        return "zero"
    units = matrix.shape[0] > 1 and bool((matrix == matrix[:1]).all())
    inputs = matrix.shape[1] > 1 and bool((matrix == matrix[:, :1]).all())
    if units and (inputs or _is_one_value(matrix)):
        return "constant"
    return "equal_units" if units else ("equal_inputs" if inputs else "")


def recurrent_form(matrices: Sequence[NDArray[Any]]) -> str:
    """Return ``constant`` if all matrices of a recurrent layer hold one value each, and not only zeros, else ``""``.

    Args:
        matrices: Those of inputs and of states, none of them empty.
    """
    alike = all(_is_one_value(matrix) for matrix in matrices)
    return "constant" if alike and any(matrix.flat[0] for matrix in matrices) else ""


def _is_one_value(values: NDArray[Any]) -> bool:
    return bool((values == values.flat[0]).all())
