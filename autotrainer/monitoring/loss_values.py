"""Known losses of the rows that were copied: which of them the loss of the batch is tells what it computes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.signals import OFF_ZERO, PROBABLE, Floats

__all__ = ["binary_entropies", "cross_entropy", "errors", "measured"]


def measured(value: Any) -> float:
    """Return a measured value, with infinity for everything that is not finite."""
    return float(value) if np.isfinite(value) else float("inf")


def _are_logits(outputs: Floats, activation: str | None) -> bool:
    """Say whether a loss of one's own takes outputs for logits, and not for probabilities."""
    if activation is None:
        return bool(outputs.min() < 0 or outputs.max() > 1)
    return activation not in PROBABLE


def _crosses(outputs: Floats, targets: NDArray[Any]) -> bool:
    """Say whether shapes are (rows,) and (rows, 1), which broadcast to (rows, rows)."""
    return {outputs.shape, targets.shape} == {(len(outputs),), (len(outputs), 1)}


def errors(outputs: Floats, targets: NDArray[Any]) -> dict[str, float]:
    """Return the squared error row by row, and, of shapes that broadcast, all four of the columns of errors.

    Args:
        outputs: Outputs.
        targets: As many targets, of any shape.
    """
    wanted = np.asarray(targets, np.float64).reshape(outputs.shape)
    values = {"squared_error": measured(np.mean((outputs - wanted) ** 2))}
    if _crosses(outputs, targets):
        apart = outputs.mean() - wanted.mean()
        values["crossed_error"] = measured(outputs.var() + wanted.var() + apart**2)
        values["absolute_error"] = measured(np.abs(outputs - wanted).mean())
        values["crossed_absolute_error"] = measured(np.abs(outputs.reshape(-1, 1) - wanted.ravel()).mean())
    return values


def binary_entropies(outputs: Floats, targets: NDArray[Any], activation: str | None) -> dict[str, float]:
    """Return the binary cross-entropy row by row, and, of shapes that broadcast, of every output with every target.

    Args:
        outputs: Probabilities, or logits.
        targets: As many targets, of any shape and value.
        activation: What the outputs went through, as far as it is known.
    """
    if _are_logits(outputs, activation):
        yes, no = -np.logaddexp(0.0, -outputs), -np.logaddexp(0.0, outputs)
    elif outputs.min() >= OFF_ZERO and outputs.max() <= 1 - OFF_ZERO:
        yes, no = np.log(outputs), np.log1p(-outputs)
    else:
        return {}
    wanted = np.asarray(targets, np.float64).reshape(outputs.shape)
    values = {"binary_entropy": measured(-(wanted * yes + (1 - wanted) * no).mean())}
    if _crosses(outputs, targets):
        share = wanted.mean()
        values["crossed_binary_entropy"] = measured(-(share * yes.mean() + (1 - share) * no.mean()))
    return values


def cross_entropy(outputs: Floats, labels: NDArray[Any], activation: str | None) -> dict[str, float]:
    """Return the cross-entropy over classes.

    Args:
        outputs: Probabilities, which are normalized, or logits, shape (rows, classes).
        labels: One class index a row.
        activation: What the outputs went through, as far as it is known.
    """
    if not ((labels >= 0) & (labels < outputs.shape[1])).all():
        return {}
    if _are_logits(outputs, activation):
        logs = outputs
    elif outputs.min() >= OFF_ZERO**2:  # one class of many: further from 1 than single precision
        logs = np.log(outputs)
    else:
        return {}
    top = logs.max(axis=1)
    wanted = logs[np.arange(len(logs)), labels.astype(int)]
    return {"cross_entropy": measured((top + np.log(np.exp(logs - top[:, None]).sum(axis=1)) - wanted).mean())}
