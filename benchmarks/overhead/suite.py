"""``python -m benchmarks overhead``: what does watching cost per step, and how much memory does it keep?

A grid of models and settings (`benchmarks.overhead.settings`), including tools that a user might use instead, and
callbacks, which are compared with a plain ``fit`` of their library. Both trainings of a cell run in one process, in
blocks A B B A A B …: A plain, B with the setting. The ratio of a pair of blocks is that of their median step times; the
first pairs are dropped. The watched training is watched from its first step on, so that the dense samples of the start
(reported separately) fall into the dropped pairs. Memory is measured in separate processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autotrainer.errors import ConfigError
from benchmarks.execution.pool import Row, Task, key, run_all
from benchmarks.execution.provenance import provenance_line
from benchmarks.overhead.models import MODELS
from benchmarks.overhead.settings import CALLBACKS, CONTROL, missing_module, settings_of
from benchmarks.overhead.tables import median_ratio, summarize, total_ratio

__all__ = ["MODELS", "median_ratio", "overhead", "summarize", "tasks", "total_ratio"]

_QUICK_MODELS = ("mlp",)
_QUICK_SETTINGS = ("plain", "default", "norm_loop", "detect_anomaly", "check_numerics")

_TIMEOUT = 3600.0
"""Seconds for one task: some settings make a step ten times as long."""

_STEPS = {"mlp": 8000, "cnn": 4000, "transformer": 600, "lstm": 2000}
"""Steps after which memory is measured."""


def overhead(
    frameworks: Sequence[str],
    *,
    quick: bool = False,
    out: Path | None = None,
    models: Sequence[str] = (),
    settings: Sequence[str] = (),
) -> str:
    """Run the benchmark and return its tables, Markdown.

    One process at a time: parallel processes would distort the timings.

    Args:
        frameworks: ``pytorch``, ``keras3``.
        quick: Few blocks and, unless models or settings are chosen, a small part of the grid.
        out: File of rows; tasks whose row it holds are not run again.
        models: Names of `MODELS`; empty for all.
        settings: Names from `settings_of`; empty for all.

    Raises:
        ConfigError: If a model or a setting is unknown.
    """
    timed, measured = tasks(frameworks, quick=quick, models=models, settings=settings)
    rows, memory = _rows("benchmarks.overhead.run", timed, out), _rows("benchmarks.overhead.memory", measured, out)
    return f"{provenance_line([row for row in [*rows, *memory] if 'missing' not in row])}\n\n{summarize(rows, memory)}"


def tasks(
    frameworks: Sequence[str], *, quick: bool = False, models: Sequence[str] = (), settings: Sequence[str] = ()
) -> tuple[list[Task], list[Task]]:
    """Return the tasks of `benchmarks.overhead.run` and of `benchmarks.overhead.memory`; arguments as in `overhead`."""
    available = {setting for framework in frameworks for setting in settings_of(framework)}
    for kind, names, choices in (("model", models, set(MODELS)), ("setting", settings, available)):
        unknown = sorted(set(names) - choices)
        if unknown:
            raise ConfigError(f"unknown {kind} {unknown[0]!r}: choose from {', '.join(sorted(choices))}")
    models = models or (_QUICK_MODELS if quick else MODELS)
    settings = settings or (_QUICK_SETTINGS if quick else ())
    cells: list[Task] = [
        {"framework": framework, "model": model, "setting": setting}
        for framework in frameworks
        for setting in settings_of(framework)
        for model in models
        if not settings or setting in (CONTROL, *settings)
    ]
    timed = [
        {**cell, "pairs": 12 if quick else 120, "seconds": 0.25}
        for cell in cells
        if not settings or cell["setting"] in settings
    ]
    # Memory is reported as the difference from the control, which is therefore always included: a plain loop.
    measured = [
        {**cell, "steps": _STEPS[cell["model"]] // (10 if quick else 1), "memory": True}
        for cell in cells
        if cell["setting"] not in CALLBACKS[cell["framework"]]
    ]
    return timed, measured


def _rows(module: str, tasks: Sequence[Task], out: Path | None) -> list[Row]:
    """Run tasks; where a module is not installed, the row is not stored, so that a later run can measure it."""
    absent = {key(task): missing_module(task["framework"], task["setting"]) for task in tasks}
    runnable = [task for task in tasks if absent[key(task)] is None]
    rows = {key(row["task"]): row for row in run_all(module, runnable, out, workers=1, timeout=_TIMEOUT)}
    return [rows.get(key(task), {"task": task, "missing": absent[key(task)]}) for task in tasks]
