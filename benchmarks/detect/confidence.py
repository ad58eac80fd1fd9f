"""Does ``confidence`` mean what it says? Of the findings that say 0.8, about 80 % should be right."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from benchmarks.detect.verdicts import Verdict
from benchmarks.reporting.tables import interval_share, number, table

__all__ = ["reliability"]

_BOUNDS = (0.0, 0.5, 0.65, 0.75, 0.85, 0.95, 1.01)


def reliability(verdicts: Sequence[Verdict]) -> str:
    """Return, by what was stated, how many of the root findings are right.

    A root finding is an error or warning at the end that names no other problem as its cause. It is right if it names a
    true cause of the training's fault; on a healthy training none is. Faulty trainings of unknown cause don't count.

    Returns:
        A table, Markdown; empty if there is no such finding.
    """
    stated = [
        (confidence, problem in v.accepted, v.unit)
        for v in verdicts
        if v.accepted or not v.faulty
        for problem, confidence in v.roots
    ]
    lines = []
    for low, high in pairwise(_BOUNDS):
        of = [one for one in stated if low <= one[0] < high]
        if of:
            mean = sum(confidence for confidence, _, _ in of) / len(of)
            right = interval_share(sum(true for _, true, _ in of), len(of), len({unit for _, _, unit in of}))
            lines.append([f"{low:.2f} – {min(high, 1):.2f}", number(mean, 2), right])
    return table(["confidence of root findings", "mean", "right"], lines) if lines else ""
