"""``python -m benchmarks overhead``: what does watching cost a step, and what does it keep in memory?

A grid of models and settings (`benchmarks.overhead.settings`), and of what a user would use instead. Both trainings of
a cell run in one process, in blocks A B B A A B …: A plain, B with the setting. The ratio of a pair of blocks is that
of their median step times; the first pairs are dropped. The watched training stays watched from its first step on, so
that the start allowance (0.2 s, told apart) falls into the dropped pairs. Memory is read in processes of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autotrainer.errors import ConfigError
from benchmarks.execution.pool import Row, Task, key, run_all
from benchmarks.execution.provenance import told
from benchmarks.overhead.models import MODELS
from benchmarks.overhead.settings import CONTROL, missing, settings_of
from benchmarks.overhead.tables import median_ratio, summarize, total_ratio

__all__ = ["MODELS", "median_ratio", "overhead", "summarize", "tasks", "total_ratio"]

_QUICK_MODELS = ("mlp",)
_QUICK_SETTINGS = ("plain", "default", "norm_loop", "detect_anomaly", "check_numerics")

_TIMEOUT = 3600.0
"""Seconds for one task: some of what is measured makes a step ten times as long."""

_STEPS = {"mlp": 8000, "cnn": 4000, "transformer": 600, "lstm": 2000}
"""Steps after which the memory is read."""


def overhead(
    frameworks: Sequence[str],
    *,
    quick: bool = False,
    out: Path | None = None,
    models: Sequence[str] = (),
    settings: Sequence[str] = (),
) -> str:
    """Run the benchmark and return its tables, Markdown.

    One process at a time, or the two would disturb each other.

    Args:
        frameworks: ``pytorch``, ``keras3``.
        quick: Few blocks, and without other choice a small part of the grid.
        out: File of rows; those that it holds are not run again.
        models: Names of `MODELS`; empty for all.
        settings: Names that `settings_of` gives for a framework; empty for all.

    Raises:
        ConfigError: If a model or a setting is unknown.
    """
    timed, kept = tasks(frameworks, quick=quick, models=models, settings=settings)
    rows, memory = _rows("benchmarks.overhead.run", timed, out), _rows("benchmarks.overhead.memory", kept, out)
    return f"{told([row for row in [*rows, *memory] if 'missing' not in row])}\n\n{summarize(rows, memory)}"


def tasks(
    frameworks: Sequence[str], *, quick: bool = False, models: Sequence[str] = (), settings: Sequence[str] = ()
) -> tuple[list[Task], list[Task]]:
    """Return the tasks of `benchmarks.overhead.run` and of `benchmarks.overhead.memory`; as `overhead`."""
    known = {setting for framework in frameworks for setting in settings_of(framework)}
    for kind, given, choice in (("model", models, set(MODELS)), ("setting", settings, known)):
        unknown = sorted(set(given) - choice)
        if unknown:
            raise ConfigError(f"unknown {kind} {unknown[0]!r}: choose from {', '.join(sorted(choice))}")
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
    # Memory is told as what a setting takes more than the control, which is always there.
    kept = [{**cell, "steps": _STEPS[cell["model"]] // (10 if quick else 1), "memory": True} for cell in cells]
    return timed, kept


def _rows(module: str, wanted: Sequence[Task], out: Path | None) -> list[Row]:
    """Run tasks; what is not installed gets a row that is not kept, so that it is run once it is installed."""
    absent = {key(task): missing(task["framework"], task["setting"]) for task in wanted}
    there = [task for task in wanted if absent[key(task)] is None]
    found = {key(row["task"]): row for row in run_all(module, there, out, workers=1, timeout=_TIMEOUT)}
    return [found.get(key(task), {"task": task, "missing": absent[key(task)]}) for task in wanted]
