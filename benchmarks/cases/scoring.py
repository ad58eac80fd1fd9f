"""Scores of trained programs, from raw outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases.case import Case, Program

__all__ = ["MARGIN", "SHARE", "fix_verdict", "is_faulty", "is_healthy", "score", "verdict"]

MARGIN = 0.05
"""A training within 5 % of what the known good recipe reaches is healthy; one that lies 5 points below it is faulty."""

SHARE = 2 / 3
"""What is said of a training over several seeds holds for this share of them, and for the median score."""


def score(program: Program, outputs: NDArray[Any], targets: NDArray[Any]) -> float:
    """Return accuracy in [0, 1], or R² limited to [-1, 1]. A prediction that is not finite counts as wrong.

    Of several values each weighs by its variance.

    Args:
        program: Tells the metric and the form of the targets.
        outputs: Raw outputs, shape (rows, units) or (rows, time, units).
        targets: Targets as the program is given them.
    """
    if program.metric == "r2":
        wanted = targets.reshape(len(targets), -1).astype(np.float64)
        return _r2(outputs.reshape(wanted.shape).astype(np.float64), wanted)
    finite = np.isfinite(outputs).all(axis=-1)
    if outputs.shape[-1] == 1:
        cut = 0.0 if program.loss == "bce_logits" else 0.5
        positive = 1.5 if program.layout == "binary_plus1" else 0.5
        right = (outputs[..., 0] > cut) == (targets.reshape(outputs.shape[:-1]) > positive)
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


def verdict(case: Case, given: Sequence[float], fixed: Sequence[float], framework: str) -> str:
    """Judge the training as given by its scores over seeds.

    It is faulty, or healthy, if it is so (`is_faulty`, `is_healthy`) by the median score and in two thirds of the
    seeds. One whose known fault does not show is neither: it is left out, not counted as healthy.

    Args:
        case: The case.
        given: Test scores of the training as given, one a seed.
        fixed: Those of the known good recipe, for the same seeds; empty (not run) is enough for the zoo.
        framework: ``pytorch`` or ``keras3``.

    Returns:
        ``faulty``, ``healthy``, or why it is neither.
    """
    if not given:
        return "no scores"
    known = list(fixed) or [math.nan] * len(given)
    pairs = [(median(given), median(known)), *zip(given, known, strict=True)]
    failed = [is_faulty(case, *pair) for pair in pairs]
    if failed[0] and sum(failed[1:]) >= SHARE * len(given):
        return "faulty"
    says = f"{_scores(given)} as given" + (f", {_scores(fixed)} fixed" if fixed else "")
    if failed[0] or any(failed[1:]):
        return f"{says}: the fault shows in {sum(failed[1:])} of {len(given)} seeds"
    if case.faults or case.ceiling is None:
        return f"{says}: no fault shows"
    reached = [is_healthy(case, value, framework) for value in (median(given), *given)]
    if reached[0] and sum(reached[1:]) >= SHARE * len(given):
        return "healthy"
    return f"{says}: neither faulty nor healthy"


def fix_verdict(case: Case, fixed: Sequence[float], framework: str) -> str:
    """Judge the known good recipe by its scores over seeds, as `verdict` does.

    Returns:
        ``healthy``, or why it is not.
    """
    if not fixed:
        return "no scores"
    reached = [is_healthy(case, value, framework) for value in (median(fixed), *fixed)]
    if reached[0] and sum(reached[1:]) >= SHARE * len(fixed):
        return "healthy"
    return f"{_scores(fixed)} fixed: not what it is known to reach"


def _scores(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _r2(outputs: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    if not np.isfinite(outputs).all():
        return -1.0
    variance = float(((targets - targets.mean(0)) ** 2).sum())
    with np.errstate(over="ignore"):
        error = float(((outputs - targets) ** 2).sum())
    return float(np.clip(1 - error / variance, -1, 1)) if variance > 0 else float("nan")
