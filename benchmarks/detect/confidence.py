"""Calibration of ``confidence``: of the findings that state 0.8, about 80 % should be right."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from benchmarks.detect.verdicts import Verdict
from benchmarks.reporting.tables import interval_share, number, table

__all__ = ["reliability"]

_BOUNDS = (0.0, 0.5, 0.65, 0.75, 0.85, 0.95, 1.01)


def reliability(verdicts: Sequence[Verdict]) -> str:
    """Return, by stated confidence, how many root findings are right.

    A root finding is an error or warning at the end that is not caused by another problem. It is right if it names a
    true cause of the training's fault; on a healthy training none is. Faulty trainings of unknown cause are excluded.

    Returns:
        A Markdown table; empty if there is no such finding.
    """
    stated = [
        (confidence, problem in v.accepted, v.case)
        for v in verdicts
        if v.accepted or not v.faulty
        for problem, confidence in v.roots
    ]
    lines = []
    for low, high in pairwise(_BOUNDS):
        group = [finding for finding in stated if low <= finding[0] < high]
        if group:
            mean = sum(confidence for confidence, _, _ in group) / len(group)
            right = interval_share(
                sum(correct for _, correct, _ in group), len(group), len({case for _, _, case in group})
            )
            lines.append([f"{low:.2f} – {min(high, 1):.2f}", number(mean, 2), right])
    return table(["confidence of root findings", "mean", "right"], lines) if lines else ""
