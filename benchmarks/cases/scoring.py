"""Scores of trained programs from their raw outputs, and whether a training is faulty or healthy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases.case import Case, Program

__all__ = [
    "CONTRASTIVE_MARGIN",
    "MARGIN",
    "SEED_SHARE",
    "case_state",
    "fix_state",
    "is_costly",
    "is_faulty",
    "is_healthy",
]
__all__ += ["sample_quality", "score"]

CONTRASTIVE_MARGIN = 1.0
"""Distance that a contrastive loss asks for between members of a pair that differ; half of it separates the two."""

MARGIN = 0.05
"""Within 5 % of the reference score a training is healthy; more than 5 points below its fix it is faulty."""

SEED_SHARE = 2 / 3
"""A case is faulty or healthy if this share of its seeds is, and its median score."""


def score(program: Program, outputs: NDArray[Any], targets: NDArray[Any]) -> float:
    """Return accuracy or `sample_quality` in [0, 1], or R² limited to [-1, 1]; what is not finite is wrong.

    ``binary_accuracy`` is the mean over labels; ``likelihood`` the geometric mean of the probabilities of the tokens
    that count, so that its logarithm is the loss in nats; in R², several outputs are weighted by their variance.

    Args:
        program: Defines the metric and the encoding of the targets.
        outputs: Raw outputs, shape (rows, units) or (rows, time, units).
        targets: Encoded targets.
    """
    if program.metric == "sample_quality":
        return sample_quality(outputs, targets)
    if program.metric == "likelihood":
        return _likelihood(outputs, targets)
    if program.metric == "pair_accuracy":
        near = np.linalg.norm(outputs[:, 0] - outputs[:, 1], axis=-1) < CONTRASTIVE_MARGIN / 2
        return float(((near == (targets > 0.5)) & np.isfinite(outputs).all((1, 2))).mean())
    if program.metric == "rank_accuracy":
        better = outputs[:, 0, 0] > outputs[:, 1, 0]
        return float(((better == (targets > 0.5)) & np.isfinite(outputs).all((1, 2))).mean())
    if program.metric == "r2":
        if program.loss in ("bce_logits", "poisson"):
            with np.errstate(over="ignore"):
                outputs = np.exp(outputs) if program.loss == "poisson" else 1 / (1 + np.exp(-outputs))
        flat = targets.reshape(len(targets), -1).astype(np.float64)
        return _r2(outputs.reshape(flat.shape).astype(np.float64), flat)
    if program.metric == "binary_accuracy":
        right = (outputs > (0.0 if program.loss == "bce_logits" else 0.5)) == (targets.reshape(outputs.shape) > 0.5)
        return float((right & np.isfinite(outputs)).mean())
    finite = np.isfinite(outputs).all(axis=-1)
    if outputs.shape[-1] == 1:
        signed = program.layout == "pm1" and program.loss in ("mse", "mae", "huber")
        cut = 0.0 if program.loss == "bce_logits" or signed else 0.5
        positive = 1.5 if program.layout == "binary_plus1" else 0.5
        labels = targets.reshape(outputs.shape[:-1])
        if program.layout != "index_as_float":  # there, classes above 1 are out of reach of one unit
            labels = labels > positive
        correct = (outputs[..., 0] > cut) == labels
    else:
        classes = targets.argmax(-1) if program.layout == "onehot" else targets.reshape(outputs.shape[:-1])
        correct = outputs.argmax(-1) == classes
    return float((correct & finite).mean())


def sample_quality(samples: NDArray[Any], real: NDArray[Any]) -> float:
    """Return how well samples imitate real points: 1 minus their energy distance ÷ that of one constant point.

    0 if they are no better than the mean of the real points, 1 for the same distribution; limited to [0, 1].

    Args:
        samples: Shape (rows, features).
        real: Shape (rows, features).

    Source: Székely & Rizzo, J. Stat. Plan. Inference 143 (2013), 1249.
    """
    if not np.isfinite(samples).all():
        return 0.0

    def mean_distance(a: NDArray[Any], b: NDArray[Any]) -> float:
        return float(np.linalg.norm(a[:, None] - b[None], axis=-1).mean())

    def energy(points: NDArray[Any]) -> float:
        return 2 * mean_distance(points, real) - mean_distance(points, points) - mean_distance(real, real)

    return float(np.clip(1 - energy(samples) / energy(real.mean(0, keepdims=True)), 0, 1))


def is_faulty(case: Case, original: float, fixed: float) -> bool:
    """Return whether the original training failed in this run, judged by its score.

    Real programs are compared with their fix. Models of the zoo have failed if they stay below 90 % of the ceiling
    (the threshold of their stored verdicts).

    Args:
        case: The case.
        original: Test score of the original training.
        fixed: Test score of the known good training; may be NaN (not run) for the zoo.
    """
    if case.ceiling is not None:
        return original < 0.9 * case.ceiling
    return bool(fixed - original > MARGIN)


def is_costly(case: Case, original: float, fixed: float) -> bool:
    """Return whether a fault costs at least 0.3 of the score, or 0.2 nats of a likelihood."""
    if case.original.metric == "likelihood":
        return bool(math.log(max(fixed, 1e-12)) - math.log(max(original, 1e-12)) >= 0.2)
    return bool(fixed - original >= 0.3)


def is_healthy(case: Case, fixed: float, framework: str) -> bool:
    """Return whether the known good training reached its reference score, within 5 %, in this run."""
    reference = case.reference(framework) if case.ceiling is None else case.ceiling
    return bool(fixed >= (1 - MARGIN) * reference) if np.isfinite(reference) else bool(fixed > 0.9)


def case_state(case: Case, original: Sequence[float], fixed: Sequence[float], framework: str) -> str:
    """Judge the original training by its scores over seeds.

    It is faulty or healthy if the median score and two thirds of the seeds say so (`is_faulty`, `is_healthy`). A
    training whose known fault does not show is neither: it is excluded, not counted as healthy.

    Args:
        case: The case.
        original: Test scores of the original training, one per seed.
        fixed: Those of the known good training, for the same seeds; may be empty (not run) for the zoo.
        framework: ``pytorch`` or ``keras3``.

    Returns:
        ``faulty``, ``healthy``, or the reason why it is neither.
    """
    if not original:
        return "no scores"
    references = list(fixed) or [math.nan] * len(original)
    pairs = [(median(original), median(references)), *zip(original, references, strict=True)]
    failed = [is_faulty(case, *pair) for pair in pairs]
    if failed[0] and sum(failed[1:]) >= SEED_SHARE * len(original):
        return "faulty"
    scores = f"{_scores(original)} original" + (f", {_scores(fixed)} fixed" if fixed else "")
    if failed[0] or any(failed[1:]):
        return f"{scores}: the fault shows in {sum(failed[1:])} of {len(original)} seeds"
    if case.faults or (case.ceiling is None and not case.healthy):
        return f"{scores}: no fault shows"
    reached = [is_healthy(case, value, framework) for value in (median(original), *original)]
    if reached[0] and sum(reached[1:]) >= SEED_SHARE * len(original):
        return "healthy"
    return f"{scores}: neither faulty nor healthy"


def fix_state(case: Case, fixed: Sequence[float], framework: str) -> str:
    """Judge the known good training by its scores over seeds, as `case_state` does for the original.

    Returns:
        ``healthy``, or the reason why it is not.
    """
    if not fixed:
        return "no scores"
    reached = [is_healthy(case, value, framework) for value in (median(fixed), *fixed)]
    if reached[0] and sum(reached[1:]) >= SEED_SHARE * len(fixed):
        return "healthy"
    return f"{_scores(fixed)} fixed: below its reference score"


def _scores(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _likelihood(outputs: NDArray[Any], targets: NDArray[Any]) -> float:
    logits = outputs[targets >= 0].astype(np.float64)
    if not np.isfinite(logits).all():
        return 0.0
    logits -= logits.max(-1, keepdims=True)
    chosen = logits[np.arange(len(logits)), targets[targets >= 0]] - np.log(np.exp(logits).sum(-1))
    return float(np.exp(chosen.mean()))


def _r2(outputs: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    if not np.isfinite(outputs).all():
        return -1.0
    variance = float(((targets - targets.mean(0)) ** 2).sum())
    with np.errstate(over="ignore"):
        error = float(((outputs - targets) ** 2).sum())
    return float(np.clip(1 - error / variance, -1, 1)) if variance > 0 else float("nan")
