"""Standard losses computed on the copied rows: comparing them with the measured loss identifies a custom one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.signals import Floats

__all__ = ["entropies", "errors", "finite_or_inf"]

_CLIP = 1e-7
"""Distance from 0 and 1 that Keras and many custom losses keep; a loss without it differs only beyond that."""


def finite_or_inf(value: Any) -> float:
    """Return a measured value, or infinity if it is not finite."""
    return float(value) if np.isfinite(value) else float("inf")


def _cross_broadcast(outputs: Floats, targets: NDArray[Any]) -> bool:
    """Return whether the shapes are (rows,) and (rows, 1), which broadcast to (rows, rows)."""
    return {outputs.shape, targets.shape} == {(len(outputs),), (len(outputs), 1)}


def _one_value(outputs: Floats, targets: NDArray[Any]) -> bool:
    """Return whether a row has one output and one target, in any shapes: a custom loss may squeeze one of them."""
    return outputs.size == targets.size == len(outputs)


def errors(outputs: Floats, targets: NDArray[Any], *, custom: bool) -> dict[str, float]:
    """Return the squared error, and the other error columns if the shapes broadcast to (rows, rows).

    Args:
        outputs: Outputs.
        targets: Targets of the same size and any shape.
        custom: Whether the loss is a custom one, which may compute any of them.
    """
    aligned = np.asarray(targets, np.float64).reshape(outputs.shape)
    values = {"squared_error": finite_or_inf(np.mean((outputs - aligned) ** 2))}
    crossed = _one_value(outputs, targets) if custom else _cross_broadcast(outputs, targets)
    if custom or crossed:
        values["absolute_error"] = finite_or_inf(np.abs(outputs - aligned).mean())
    if crossed:
        offset = outputs.mean() - aligned.mean()
        values["crossed_error"] = finite_or_inf(outputs.var() + aligned.var() + offset**2)
        values["crossed_absolute_error"] = finite_or_inf(np.abs(outputs.reshape(-1, 1) - aligned.ravel()).mean())
    return values


def entropies(outputs: Floats, targets: NDArray[Any], labels: NDArray[Any] | None, loss: float) -> dict[str, float]:
    """Return cross-entropies of outputs taken as probabilities, or as logits if that is closer to the loss.

    Args:
        outputs: Probabilities or logits, shape (rows, ...), the classes on the last axis.
        targets: Targets of any shape and value; for a binary cross-entropy, of the size of the outputs.
        labels: Class indices, shape (rows, ...) without the classes; negative ones are masked. None if the targets are
            not classes.
        loss: The measured loss.

    Returns:
        ``binary_entropy``, ``crossed_binary_entropy`` and ``cross_entropy``, as far as they are defined, and
        ``entropy_of_logits``: 1 if the one closest to the loss is that of logits, else 0.
    """
    forms: dict[float, dict[str, float]] = {}
    for of_logits in (0.0, 1.0):
        values = _binary(outputs, targets, bool(of_logits)) if outputs.size == targets.size else {}
        values |= _categorical(outputs, labels, bool(of_logits)) if labels is not None and outputs.ndim > 1 else {}
        forms[of_logits] = values
    result: dict[str, float] = {}
    nearest = np.inf
    for name in ("binary_entropy", "crossed_binary_entropy", "cross_entropy"):
        gaps = {form: abs(values[name] - loss) for form, values in forms.items() if name in values}
        if not gaps:
            continue
        form = min(gaps, key=lambda f: np.inf if np.isnan(gaps[f]) else gaps[f])
        result[name] = forms[form][name]
        if gaps[form] < nearest or "entropy_of_logits" not in result:
            nearest, result["entropy_of_logits"] = gaps[form], form
    return result


def _are_probabilities(outputs: Floats) -> bool:
    return bool(outputs.min() >= -_CLIP and outputs.max() <= 1 + 1e-6)  # sums in single precision may exceed 1


def _clipped(probabilities: Floats) -> Floats:
    """Return probabilities clipped as most libraries do, in single precision, so that equal losses stay equal."""
    clipped = np.clip(probabilities.astype(np.float32), np.float32(_CLIP), np.float32(1 - _CLIP))
    return clipped.astype(np.float64)


def _binary(outputs: Floats, targets: NDArray[Any], of_logits: bool) -> dict[str, float]:
    """Return the mean over rows, and of every output with every target if a row has one of each."""
    if of_logits:
        log_p, log_not_p = -np.logaddexp(0.0, -outputs), -np.logaddexp(0.0, outputs)
    elif _are_probabilities(outputs):
        clipped = _clipped(outputs)
        log_p, log_not_p = np.log(clipped), np.log1p(-clipped)
    else:
        return {}
    values = np.asarray(targets, np.float64).reshape(outputs.shape)
    result = {"binary_entropy": finite_or_inf(-(values * log_p + (1 - values) * log_not_p).mean())}
    if _one_value(outputs, targets):
        share = values.mean()
        result["crossed_binary_entropy"] = finite_or_inf(-(share * log_p.mean() + (1 - share) * log_not_p.mean()))
    return result


def _categorical(outputs: Floats, labels: NDArray[Any], of_logits: bool) -> dict[str, float]:
    """Return the mean over unmasked labels; of probabilities, which are normalized here, or of logits."""
    flat, labels = outputs.reshape(-1, outputs.shape[-1]), np.asarray(labels).ravel()
    if len(flat) != len(labels) or not (labels < flat.shape[1]).all():
        return {}
    flat, labels = flat[labels >= 0], labels[labels >= 0].astype(int)
    if not len(labels):
        return {}
    if of_logits:
        logs = flat
    elif _are_probabilities(flat):
        logs = np.log(_clipped(flat))
    else:
        return {}
    top = logs.max(axis=1)
    log_sums = top + np.log(np.exp(logs - top[:, None]).sum(axis=1))
    return {"cross_entropy": finite_or_inf((log_sums - logs[np.arange(len(logs)), labels]).mean())}
