"""Standard losses computed on the copied rows: comparing them with the measured loss identifies a custom one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.signals import PROBABILITY_ACTIVATIONS, PROBABILITY_MARGIN, Floats

__all__ = ["binary_entropies", "cross_entropy", "errors", "finite_or_inf"]


def finite_or_inf(value: Any) -> float:
    """Return a measured value, or infinity if it is not finite."""
    return float(value) if np.isfinite(value) else float("inf")


def _are_logits(outputs: Floats, activation: str | None) -> bool:
    """Return whether a custom loss is taken to expect logits rather than probabilities."""
    if activation is None:
        return bool(outputs.min() < 0 or outputs.max() > 1)
    return activation not in PROBABILITY_ACTIVATIONS


def _cross_broadcast(outputs: Floats, targets: NDArray[Any]) -> bool:
    """Return whether the shapes are (rows,) and (rows, 1), which broadcast to (rows, rows)."""
    return {outputs.shape, targets.shape} == {(len(outputs),), (len(outputs), 1)}


def errors(outputs: Floats, targets: NDArray[Any]) -> dict[str, float]:
    """Return the squared error, and all four error columns if the shapes broadcast to (rows, rows).

    Args:
        outputs: Outputs.
        targets: Targets of the same size and any shape.
    """
    aligned = np.asarray(targets, np.float64).reshape(outputs.shape)
    values = {"squared_error": finite_or_inf(np.mean((outputs - aligned) ** 2))}
    if _cross_broadcast(outputs, targets):
        offset = outputs.mean() - aligned.mean()
        values["crossed_error"] = finite_or_inf(outputs.var() + aligned.var() + offset**2)
        values["absolute_error"] = finite_or_inf(np.abs(outputs - aligned).mean())
        values["crossed_absolute_error"] = finite_or_inf(np.abs(outputs.reshape(-1, 1) - aligned.ravel()).mean())
    return values


def binary_entropies(outputs: Floats, targets: NDArray[Any], activation: str | None) -> dict[str, float]:
    """Return the binary cross-entropy, also of every output with every target if the shapes broadcast to (rows, rows).

    Args:
        outputs: Probabilities, or logits.
        targets: Targets of the same size, of any shape and value.
        activation: Activation applied to the outputs, or None if unknown.

    Returns:
        Values by column; empty if probabilities are too close to 0 or 1, see `PROBABILITY_MARGIN`.
    """
    if _are_logits(outputs, activation):
        log_p, log_not_p = -np.logaddexp(0.0, -outputs), -np.logaddexp(0.0, outputs)
    elif outputs.min() >= PROBABILITY_MARGIN and outputs.max() <= 1 - PROBABILITY_MARGIN:
        log_p, log_not_p = np.log(outputs), np.log1p(-outputs)
    else:
        return {}
    labels = np.asarray(targets, np.float64).reshape(outputs.shape)
    values = {"binary_entropy": finite_or_inf(-(labels * log_p + (1 - labels) * log_not_p).mean())}
    if _cross_broadcast(outputs, targets):
        share = labels.mean()
        values["crossed_binary_entropy"] = finite_or_inf(-(share * log_p.mean() + (1 - share) * log_not_p.mean()))
    return values


def cross_entropy(outputs: Floats, labels: NDArray[Any], activation: str | None) -> dict[str, float]:
    """Return the cross-entropy over classes.

    Args:
        outputs: Probabilities, which are normalized here, or logits, shape (rows, classes).
        labels: Class indices, shape (rows,).
        activation: Activation applied to the outputs, or None if unknown.

    Returns:
        Values by column; empty if a class index is out of range or a probability too close to 0.
    """
    if not ((labels >= 0) & (labels < outputs.shape[1])).all():
        return {}
    if _are_logits(outputs, activation):
        logs = outputs
    elif outputs.min() >= PROBABILITY_MARGIN**2:  # with several classes, probabilities near 1 are accurate enough
        logs = np.log(outputs)
    else:
        return {}
    top = logs.max(axis=1)
    log_sums = top + np.log(np.exp(logs - top[:, None]).sum(axis=1))
    return {"cross_entropy": finite_or_inf((log_sums - logs[np.arange(len(logs)), labels.astype(int)]).mean())}
