"""Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.reporting.intervals import wilson

__all__ = ["interval_share", "listed", "number", "share", "table"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def share(part: int, whole: int) -> str:
    """Return a share as ``part/whole (percent)``; "–" if ``whole`` is 0."""
    return f"{part}/{whole} ({100 * part / whole:.0f} %)" if whole else "–"


def interval_share(part: int, whole: int, units: int | None = None) -> str:
    """Return a share as ``part/whole (percent, low–high)`` with its 95 % interval; "–" if ``whole`` is 0.

    Args:
        part: Trainings that count.
        whole: All of them.
        units: How many of them are independent, such as the number of cases if each has several seeds; None for all.
    """
    if not whole:
        return "–"
    independent = whole if units is None else units
    low, high = wilson(part / whole * independent, independent)
    return f"{part}/{whole} ({100 * part / whole:.0f} %, {100 * low:.0f}–{100 * high:.0f})"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with that many decimals; "–" for None or NaN."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def listed(title: str, lines: Sequence[str]) -> list[str]:
    """Return a titled list as lines to append to a table; nothing if the list is empty."""
    return ["", f"{title}:", "", *(f"* {line}" for line in lines)] if lines else []
