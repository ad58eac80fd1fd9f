"""A curve in little space: as one line of text, or as a picture without axes."""

from __future__ import annotations

import math
from html import escape

from autotrainer.reporting.outcome import Points
from autotrainer.reporting.text import number

__all__ = ["bars", "picture"]

_BARS = "▁▂▃▄▅▆▇█"
_LOG_FROM = 50.0
"""Curves that span more than this factor are drawn logarithmically."""
_WIDTH, _HEIGHT, _MARGIN = 480, 60, 3
_MOST = 120
"""Points of a picture."""


def bars(points: Points, width: int) -> str:
    """Return a curve as a line of bars with its first and last value; empty if it has no finite one.

    Args:
        points: (position, value) pairs; a × marks values that are not finite.
        width: Maximum number of bars.
    """
    heights = _heights([value for _, value in points], width)
    if not heights:
        return ""
    line = "".join("×" if math.isnan(each) else _BARS[round(each * (len(_BARS) - 1))] for each in heights)
    return f"{line} {_ends(points)}"


def picture(points: Points, name: str) -> str:
    """Return a curve as HTML, with its first and last value beside it; empty if it has no two finite ones.

    Args:
        points: (position, value) pairs; the line is broken where they are not finite.
        name: What the values are.
    """
    heights = _heights([value for _, value in points], _MOST)
    if sum(not math.isnan(each) for each in heights) < 2:
        return ""
    commands, draws = [], False
    for i, each in enumerate(heights):
        if not math.isnan(each):
            x = _MARGIN + i / (len(heights) - 1) * (_WIDTH - 2 * _MARGIN)
            y = _MARGIN + (1 - each) * (_HEIGHT - 2 * _MARGIN)
            commands.append(f"{'L' if draws else 'M'}{x:.1f} {y:.1f}")
        draws = not math.isnan(each)
    label = escape(f"{name} {_ends(points)}")
    return (
        '<div style="display:flex;flex-wrap:wrap;align-items:center;gap:.3em 1em">'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{label}" '
        'style="max-width:100%;border-bottom:1px solid rgba(128,128,128,.5)">'
        f'<path d="{"".join(commands)}" fill="none" stroke="#3d87d3" stroke-width="2"/></svg><span>{label}</span></div>'
    )


def _ends(points: Points) -> str:
    return f"{number(points[0][1])} → {number(points[-1][1])}"


def _heights(values: list[float], most: int) -> list[float]:
    """Return the means of equal stretches of values, from 0 at the lowest to 1 at the highest; NaN if not finite."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return []
    low, high = min(finite), max(finite)
    log = low > 0 and high / low > _LOG_FROM
    scaled = [math.log(v) if log and math.isfinite(v) else v for v in values]
    bottom, top = (math.log(low), math.log(high)) if log else (low, high)
    size = math.ceil(len(scaled) / most)
    means = [sum(part) / len(part) for part in (scaled[i : i + size] for i in range(0, len(scaled), size))]
    spread = top - bottom
    return [math.nan if not math.isfinite(m) else (m - bottom) / spread if spread > 0 else 0.5 for m in means]
