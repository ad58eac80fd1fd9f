"""Scores of trained programs, from raw outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import Case, Program

__all__ = ["MARGIN", "is_faulty", "is_healthy", "score"]

MARGIN = 0.05
"""A training within 5 % of what the known good recipe reaches is healthy; one that lies 5 points below it is faulty."""


def score(program: Program, outputs: NDArray[Any], targets: NDArray[Any]) -> float:
    """Return accuracy in [0, 1], or R² limited to [-1, 1]. A prediction that is not finite counts as wrong.

    Args:
        program: Tells the metric and the form of the targets.
        outputs: Raw outputs, shape (rows, units) or (rows, time, units).
        targets: Targets as the program is given them.
    """
    if program.metric == "r2":
        return _r2(outputs.reshape(-1).astype(np.float64), targets.reshape(-1).astype(np.float64))
    finite = np.isfinite(outputs).all(axis=-1)
    if outputs.shape[-1] == 1:
        cut = 0.0 if program.loss == "bce_logits" else 0.5
        right = (outputs[..., 0] > cut) == (targets.reshape(outputs.shape[:-1]) > 0.5)
    else:
        wanted = targets.argmax(-1) if program.layout == "onehot" else targets
        right = outputs.argmax(-1) == wanted
    return float((right & finite).mean())


def is_faulty(case: Case, given: float, fixed: float) -> bool:
    """Say whether the training as given failed in this run, judged by its score.

    Real programs are compared with their fix. Models of the zoo have trained if they reach 90 % of the ceiling
    (the threshold of their stored verdicts), else failed.

    Args:
        case: The case.
        given: Test score of the training as given.
        fixed: Test score of the known good recipe; NaN (not run) is enough for the zoo.
    """
    if case.ceiling is not None:
        return given < 0.9 * case.ceiling
    return bool(fixed - given > MARGIN)


def is_healthy(case: Case, fixed: float, framework: str) -> bool:
    """Say whether the known good recipe reached, in this run, what it is known to reach, within 5 %."""
    reference = case.reference(framework) if case.ceiling is None else case.ceiling
    return bool(fixed >= (1 - MARGIN) * reference) if np.isfinite(reference) else bool(fixed > 0.9)


def _r2(outputs: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    if not np.isfinite(outputs).all():
        return -1.0
    variance = float(((targets - targets.mean()) ** 2).sum())
    with np.errstate(over="ignore"):
        error = float(((outputs - targets) ** 2).sum())
    return float(np.clip(1 - error / variance, -1, 1)) if variance > 0 else float("nan")
