"""Rows of ``overhead`` become tables: one line for each framework and setting, one column for each model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.execution.pool import Row
from benchmarks.overhead.models import MODELS
from benchmarks.overhead.settings import CONTROL, WATCH
from benchmarks.reporting.tables import table

__all__ = ["median_ratio", "summarize", "total_ratio"]

_MEGABYTE = 1e6
_ALLOWED = 20 * _MEGABYTE
"""What the monitor may keep, unless 1 % of the weights is more."""

_GROWTH = 2 * _MEGABYTE
"""Growth in the second half of the steps, as Python tells it, from which it is none of one table that is begun late."""

_WAYS = ("traced", "resident")
"""Ways in which memory is read."""


def summarize(rows: Sequence[Row], memory: Sequence[Row]) -> str:
    """Return the tables of a run as Markdown.

    Args:
        rows: Rows of `benchmarks.overhead.run`.
        memory: Rows of `benchmarks.overhead.memory`.
    """
    more = _more_than_control(memory)
    failed = [f"* {_name(row)}, {row['task']['model']}: {row['error']}" for row in [*rows, *more] if "error" in row]
    parts = [
        *_grid("Step time with it ÷ without it: ratio of medians (95 % interval)", rows, lambda r: _ratio(r, "median")),
        *_grid("Processor time, the same: every step counts (95 % interval)", rows, lambda r: _ratio(r, "processor")),
        *_grid("Start, s (Keras: + s of each later `fit`)", rows, _start),
        *_grid("Memory, MB more than without it: Python and NumPy / whole process", more, _kept),
        *_grid("Growth of it in the second half of the steps, MB", more, _growth),
        *_grid("Step without it, ms", _plain(rows), _plain_step),
    ]
    missed = [words for row in rows for words in _missed_time(row)] + [w for r in more for w in _missed_memory(r)]
    for title, lines in (("Goals missed", missed), ("Failed", failed)):
        parts += [f"{title}:", "", *lines, ""] if lines else []
    return "\n".join(parts).rstrip()


def median_ratio(plain: NDArray[Any], watched: NDArray[Any]) -> tuple[float, float, float]:
    """Return the median over pairs of watched ÷ plain, and its 95 % bootstrap interval over pairs.

    Args:
        plain: One number a block, shape (pairs,).
        watched: The same of the watched training.
    """
    return _interval(watched / plain, np.ones_like(plain), np.median)


def total_ratio(plain: NDArray[Any], watched: NDArray[Any]) -> tuple[float, float, float]:
    """Return the sum of watched ÷ the sum of plain, and its 95 % bootstrap interval over pairs.

    Unlike a median it counts the few steps that were measured, in whichever pair they fall.
    """
    return _interval(watched, plain, np.sum)


def _interval(
    upper: NDArray[Any], lower: NDArray[Any], statistic: Callable[..., Any], draws: int = 4000
) -> tuple[float, float, float]:
    drawn = np.random.default_rng(0).integers(0, len(upper), (draws, len(upper)))
    found = statistic(upper[drawn], axis=1) / statistic(lower[drawn], axis=1)
    low, high = np.quantile(found, (0.025, 0.975))
    return float(statistic(upper) / statistic(lower)), float(low), float(high)


def _grid(title: str, rows: Sequence[Row], cell: Callable[[Row], str]) -> list[str]:
    models = [model for model in MODELS if any(row["task"]["model"] == model for row in rows)]
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        task = row["task"]
        lines.setdefault((task["framework"], task["setting"]), {})[task["model"]] = _cell(row, cell)
    body = [[*names, *(cells.get(model, "") for model in models)] for names, cells in lines.items()]
    return [f"#### {title}", "", table(["framework", "setting", *models], body), ""] if body else []


def _cell(row: Row, cell: Callable[[Row], str]) -> str:
    if "missing" in row:
        return "not installed"
    return "failed" if "error" in row else cell(row)


def _blocks(row: Row, what: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the numbers of the plain and the watched blocks, the first pairs dropped."""
    drop = max(2, len(row["plain_median"]) // 4)
    return np.asarray(row[f"plain_{what}"][drop:]), np.asarray(row[f"watched_{what}"][drop:])


def _interval_of(row: Row, what: str) -> tuple[float, float, float]:
    return (median_ratio if what == "median" else total_ratio)(*_blocks(row, what))


def _ratio(row: Row, what: str) -> str:
    ratio, low, high = _interval_of(row, what)
    return f"{ratio:.4f} ({low:.4f} – {high:.4f})"


def _start(row: Row) -> str:
    return f"{row['start']:.2f}" + (f" + {row['entry']:.3f}" if row["task"]["framework"] == "keras3" else "")


def _plain_step(row: Row) -> str:
    return f"{1e3 * float(np.median(_blocks(row, 'median')[0])):.3g}"


def _plain(rows: Sequence[Row]) -> list[Row]:
    """Return one row for each framework and model, as that of the control."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        if "plain_median" in row:
            task = row["task"]
            found.setdefault((task["framework"], task["model"]), {**row, "task": {**task, "setting": CONTROL}})
    return list(found.values())


def _more_than_control(memory: Sequence[Row]) -> list[Row]:
    """Return the rows with what the plain training of the same framework and model took taken off."""

    def cell(row: Row) -> tuple[str, str]:
        return row["task"]["framework"], row["task"]["model"]

    def less(taken: Sequence[int] | None, control: Sequence[int] | None) -> list[int] | None:
        return None if taken is None or control is None else [a - b for a, b in zip(taken, control, strict=True)]

    controls = {cell(row): row for row in memory if row["task"]["setting"] == CONTROL and "traced" in row}
    found = []
    for row in memory:
        control = controls.get(cell(row))
        if row["task"]["setting"] == CONTROL:
            continue
        if "traced" in row and control is None:
            row = {"task": row["task"], "error": "its control failed"}
        elif "traced" in row and control is not None:
            row = {**row, **{name: less(row[name], control[name]) for name in _WAYS}}
        found.append(row)
    return found


def _told(row: Row, number: Callable[[Sequence[int]], float], digits: int) -> str:
    words = ["–" if row[name] is None else f"{number(row[name]) / _MEGABYTE:.{digits}f}" for name in _WAYS]
    return " / ".join(words)


def _kept(row: Row) -> str:
    return _told(row, lambda taken: taken[-1], 1)


def _growth(row: Row) -> str:
    return _told(row, _second_half, 2)


def _second_half(taken: Sequence[int]) -> int:
    return taken[-1] - taken[len(taken) // 2 - 1]


def _name(row: Row) -> str:
    return f"{row['task']['framework']}, {row['task']['setting']}"


def _missed_time(row: Row) -> list[str]:
    """Say where ``watch`` misses the goals of step time: median at most 1 %, upper end of its interval at most 2 %."""
    task: Mapping[str, Any] = row["task"]
    if task["setting"] not in WATCH or "plain_median" not in row:
        return []
    allowed = float(WATCH[task["setting"]].get("overhead", 0.01))
    ratio, _, high = _interval_of(row, "median")
    if ratio <= 1 + allowed and high <= 1 + 2 * allowed:
        return []
    return [f"* {_name(row)}, {task['model']}: step time {ratio:.4f}, upper end {high:.4f}"]


def _missed_memory(row: Row) -> list[str]:
    """Say where ``watch`` misses the goals of memory: 20 MB or 1 % of the weights, and no growth with the steps."""
    if row["task"]["setting"] not in WATCH or "traced" not in row:
        return []
    name, allowed = f"* {_name(row)}, {row['task']['model']}", max(_ALLOWED, 0.01 * row["parameters"])
    kept = max(row[way][-1] for way in _WAYS if row[way] is not None)
    grown = _second_half(row["traced"])
    missed = [f"{name}: {kept / _MEGABYTE:.1f} MB of {allowed / _MEGABYTE:.1f} allowed"] if kept > allowed else []
    return missed + ([f"{name}: grows, by {grown / _MEGABYTE:.2f} MB"] if grown > _GROWTH else [])
