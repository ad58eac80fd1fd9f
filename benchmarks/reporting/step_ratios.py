"""Step times of ``overhead`` as ratios, for the page and for the comparison of two files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from benchmarks.execution.pool import Row
from benchmarks.overhead.suite import median_ratio
from benchmarks.reporting.tables import table

__all__ = ["compare_step_ratios", "step_ratios"]

Ratio = tuple[float, float, float]


def step_ratios(rows: Iterable[Row]) -> dict[str, Ratio]:
    """Return the median ratio of step times and its 95 % interval, by framework, model and setting."""
    ratios = {}
    for row in rows:
        if "plain_median" in row:
            task, drop = row["task"], max(2, len(row["plain_median"]) // 4)
            name = " · ".join(str(task[key]) for key in ("framework", "model", "setting") if key in task)
            plain, watched = (np.array(row[f"{kind}_median"][drop:]) for kind in ("plain", "watched"))
            ratios[name] = median_ratio(plain, watched)
    return ratios


def compare_step_ratios(before: Mapping[str, Ratio], after: Mapping[str, Ratio]) -> str:
    """Return a line for each cell of both: the change of its cost, and whether that is beyond noise.

    The two medians are taken as normally distributed, with standard errors derived from their intervals.
    """
    lines = []
    for name in before:
        if name in after:
            change = after[name][0] - before[name][0]
            error = 1.96 * math.hypot(*((side[2] - side[1]) / 3.92 for side in (before[name], after[name])))
            verdict = "within noise" if abs(change) <= error else ("worse" if change > 0 else "better")
            interval = f"{change - error:+.4f} to {change + error:+.4f}"
            lines.append(
                [name, *(f"{side[name][0]:.4f}" for side in (before, after)), f"{change:+.4f}", interval, verdict]
            )
    return table(["step time with ÷ without the setting", "A", "B", "B − A", "95 % interval", "verdict"], lines)
