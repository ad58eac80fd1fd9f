"""Tables of ``overhead``: one line for each framework and setting, one column for each model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.execution.pool import Row
from benchmarks.overhead.models import MODELS
from benchmarks.overhead.settings import CONTROL, WATCH
from benchmarks.reporting.tables import table

__all__ = ["interval_of", "median_ratio", "summarize", "total_ratio"]

_MEGABYTE = 1e6
_ALLOWED = 20 * _MEGABYTE
"""Memory that the monitor may keep; 1 % of the weights if that is more."""

_GROWTH = 2 * _MEGABYTE
"""Growth traced by Python in the second half of the steps above which it counts; less may be a table allocated late."""

_WAYS = ("traced", "resident")
"""How memory is measured."""


def summarize(rows: Sequence[Row], memory: Sequence[Row]) -> str:
    """Return the tables of a run as Markdown.

    Args:
        rows: Rows of `benchmarks.overhead.run`.
        memory: Rows of `benchmarks.overhead.memory`.
    """
    excess = _above_control(memory)
    failed = [f"* {_name(row)}, {row['task']['model']}: {row['error']}" for row in [*rows, *excess] if "error" in row]
    parts = [
        *_grid(
            "Step time with ÷ without the setting: ratio of medians (95 % interval)",
            rows,
            lambda r: _ratio(r, "median"),
        ),
        *_grid(
            "Processor time with ÷ without the setting, all steps included (95 % interval)",
            rows,
            lambda r: _ratio(r, "processor"),
        ),
        *_grid("Start, s (Keras: + s for each later `fit`)", rows, _start),
        *_grid("Extra memory, MB: Python and NumPy / whole process", excess, _extra_memory),
        *_grid("Growth of the extra memory in the second half of the steps, MB", excess, _growth),
        *_grid("Step time without the setting, ms", _plain(rows), _plain_step),
    ]
    missed = [line for row in rows for line in _missed_time(row)]
    missed += [line for row in excess for line in _missed_memory(row)]
    for title, lines in (("Goals missed", missed), ("Failed", failed)):
        parts += [f"{title}:", "", *lines, ""] if lines else []
    return "\n".join(parts).rstrip()


def median_ratio(plain: NDArray[Any], watched: NDArray[Any]) -> tuple[float, float, float]:
    """Return the median over pairs of watched ÷ plain, and its 95 % bootstrap interval over pairs.

    Args:
        plain: One number per block, shape (pairs,).
        watched: The same for the watched training.
    """
    return _interval(watched / plain, np.ones_like(plain), np.median)


def total_ratio(plain: NDArray[Any], watched: NDArray[Any]) -> tuple[float, float, float]:
    """Return the sum of watched ÷ the sum of plain, and its 95 % bootstrap interval over pairs.

    Unlike a median, it includes the few steps in which the monitor measured, whichever pair they fall into.
    """
    return _interval(watched, plain, np.sum)


def _interval(
    upper: NDArray[Any], lower: NDArray[Any], statistic: Callable[..., Any], draws: int = 4000
) -> tuple[float, float, float]:
    drawn = np.random.default_rng(0).integers(0, len(upper), (draws, len(upper)))
    ratios = statistic(upper[drawn], axis=1) / statistic(lower[drawn], axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
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


def _blocks(row: Row, measure: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the numbers of the plain and the watched blocks, the first pairs dropped."""
    drop = max(2, len(row["plain_median"]) // 4)
    return np.asarray(row[f"plain_{measure}"][drop:]), np.asarray(row[f"watched_{measure}"][drop:])


def interval_of(row: Row, measure: str) -> tuple[float, float, float]:
    """Return the ratio of a measure, ``median`` or ``processor``, and its 95 % interval, the first pairs dropped."""
    return (median_ratio if measure == "median" else total_ratio)(*_blocks(row, measure))


def _ratio(row: Row, measure: str) -> str:
    ratio, low, high = interval_of(row, measure)
    return f"{ratio:.4f} ({low:.4f} – {high:.4f})"


def _start(row: Row) -> str:
    return f"{row['start']:.2f}" + (f" + {row['entry']:.3f}" if row["task"]["framework"] == "keras3" else "")


def _plain_step(row: Row) -> str:
    return f"{1e3 * float(np.median(_blocks(row, 'median')[0])):.3g}"


def _plain(rows: Sequence[Row]) -> list[Row]:
    """Return one row for each framework and model, labelled as the control."""
    plain: dict[tuple[str, str], Row] = {}
    for row in rows:
        if "plain_median" in row:
            task = row["task"]
            plain.setdefault((task["framework"], task["model"]), {**row, "task": {**task, "setting": CONTROL}})
    return list(plain.values())


def _above_control(memory: Sequence[Row]) -> list[Row]:
    """Return the rows minus the memory of the plain training of the same framework and model."""

    def cell(row: Row) -> tuple[str, str]:
        return row["task"]["framework"], row["task"]["model"]

    def minus(used: Sequence[int] | None, control: Sequence[int] | None) -> list[int] | None:
        return None if used is None or control is None else [a - b for a, b in zip(used, control, strict=True)]

    controls = {cell(row): row for row in memory if row["task"]["setting"] == CONTROL and "traced" in row}
    excess = []
    for row in memory:
        control = controls.get(cell(row))
        if row["task"]["setting"] == CONTROL:
            continue
        if "traced" in row and control is None:
            row = {"task": row["task"], "error": "its control failed"}
        elif "traced" in row and control is not None:
            row = {**row, **{name: minus(row[name], control[name]) for name in _WAYS}}
        excess.append(row)
    return excess


def _both(row: Row, number: Callable[[Sequence[int]], float], digits: int) -> str:
    cells = ["–" if row[name] is None else f"{number(row[name]) / _MEGABYTE:.{digits}f}" for name in _WAYS]
    return " / ".join(cells)


def _extra_memory(row: Row) -> str:
    return _both(row, lambda used: used[-1], 1)


def _growth(row: Row) -> str:
    return _both(row, _second_half, 2)


def _second_half(used: Sequence[int]) -> int:
    return used[-1] - used[len(used) // 2 - 1]


def _name(row: Row) -> str:
    return f"{row['task']['framework']}, {row['task']['setting']}"


def _missed_time(row: Row) -> list[str]:
    """Return where ``watch`` misses the goals for step time: median at most 1 %, upper interval end at most 2 %."""
    task: Mapping[str, Any] = row["task"]
    if task["setting"] not in WATCH or "plain_median" not in row:
        return []
    allowed = float(WATCH[task["setting"]].get("overhead", 0.01))
    ratio, _, high = interval_of(row, "median")
    if ratio <= 1 + allowed and high <= 1 + 2 * allowed:
        return []
    return [f"* {_name(row)}, {task['model']}: step time {ratio:.4f}, upper end {high:.4f}"]


def _missed_memory(row: Row) -> list[str]:
    """Return where ``watch`` misses the goals for memory: 20 MB or 1 % of the weights, and no growth."""
    if row["task"]["setting"] not in WATCH or "traced" not in row:
        return []
    name, allowed = f"* {_name(row)}, {row['task']['model']}", max(_ALLOWED, 0.01 * row["parameters"])
    used = max(row[way][-1] for way in _WAYS if row[way] is not None)
    grown = _second_half(row["traced"])
    missed = [f"{name}: {used / _MEGABYTE:.1f} MB of {allowed / _MEGABYTE:.1f} allowed"] if used > allowed else []
    return missed + ([f"{name}: grows, by {grown / _MEGABYTE:.2f} MB"] if grown > _GROWTH else [])
