"""``python -m benchmarks overhead --sizes``: what does watching cost from 10 to 10,000 layers, and on two ranks?

Each size varies one quantity. As with the other models of this suite, a plain training and a watched one take turns in
one process. The whole run is compared, too, its start included: watching may take 1 % of it, or a second if that is
more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autotrainer.errors import ConfigError
from benchmarks.execution.pool import Row, Task, run_all
from benchmarks.execution.provenance import provenance_line
from benchmarks.overhead.settings import settings_of
from benchmarks.overhead.size_models import RANKS, SIZES
from benchmarks.overhead.tables import interval_of
from benchmarks.reporting.tables import table

__all__ = ["on_two_ranks", "sizes"]

_TIMEOUT = 3600.0
_MEASURES = ("median", "processor")


_ONLY_PYTORCH = {"10,000 layers", *RANKS}
"""Keras compiles a step of 10,000 layers for hours, and has no counterpart of these wrappers on a CPU."""


def sizes(
    frameworks: Sequence[str],
    *,
    quick: bool = False,
    out: Path | None = None,
    names: Sequence[str] = (),
    settings: Sequence[str] = (),
) -> str:
    """Run the benchmark and return its table, Markdown: of `watch`, or of the settings and other tools that are named.

    Args:
        frameworks: ``pytorch``, ``keras3``.
        quick: A few seconds for each size.
        out: File of rows; tasks whose row it holds are not run again.
        names: Names of `SIZES`; empty for all.
        settings: Names from `settings_of`; empty for ``default``.

    Raises:
        ConfigError: If a name is unknown.
    """
    unknown = [name for name in names if name not in SIZES]
    if unknown:
        raise ConfigError(f"unknown size {unknown[0]!r}: choose from {'; '.join(SIZES)}")
    known = {setting for framework in frameworks for setting in settings_of(framework)}
    strange = [setting for setting in settings if setting not in known]
    if strange:
        raise ConfigError(f"unknown setting {strange[0]!r}: choose from {', '.join(sorted(known))}")
    length = {"pairs": 4, "seconds": 0.2} if quick else {"pairs": 30, "seconds": 2.0}
    tasks: list[Task] = [
        {"framework": framework, "model": name, "setting": setting, "start_steps": 3, **length}
        for framework in frameworks
        for name in names or SIZES
        if framework == "pytorch" or name not in _ONLY_PYTORCH
        for setting in settings or ["default"]
        if setting in settings_of(framework)
    ]
    rows = run_all("benchmarks.overhead.run", tasks, out, workers=1, timeout=_TIMEOUT)
    head = ["framework", "size", "setting", "step, ms", "step time", "processor time", "whole run", "start, s", "steps"]
    failed = [
        "* {framework}, {model}, {setting}: ".format_map(row["task"])
        + (row.get("error") or f"{row['missing']} is not installed")
        for row in rows
        if row.keys() & {"error", "missing"}
    ]
    lines = [_line(row) for row in rows if not row.keys() & {"error", "missing"}]
    return "\n".join(
        [
            provenance_line(rows),
            "",
            "With ÷ without the setting (`default`: `watch`): ratio of medians and of processor time (95 % interval), "
            "and of the time of the whole run, its start included:",
            "",
            table(head, lines),
            *(["", "Failed:", "", *failed] if failed else []),
        ]
    )


def on_two_ranks(task: Task) -> Row:
    """Run a task in two processes that train one model; return the row of the first."""
    from multiprocessing import get_context

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, get_context("spawn").Pool(2) as pool:
        rows: list[Row] = pool.starmap(_as_rank, [(task, folder, rank) for rank in range(2)], chunksize=1)
    return rows[0]


def _as_rank(task: Task, folder: str, rank: int) -> Row:
    from torch import distributed

    from benchmarks.overhead.run import alternate

    distributed.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=2)
    try:
        return alternate(task, agree=_of_first_rank)
    finally:
        distributed.destroy_process_group()


def _of_first_rank(number: int) -> int:
    """Return the number of the first rank."""
    from torch import distributed

    numbers = [number]
    distributed.broadcast_object_list(numbers)
    return numbers[0]


def _line(row: Row) -> list[str]:
    ratios = [f"{ratio:.4f} ({low:.4f} – {high:.4f})" for ratio, low, high in map(interval_of, [row] * 2, _MEASURES)]
    plain, watched = sum(row["plain_wall"]), sum(row["watched_wall"]) + row["start"]
    return [
        row["task"]["framework"],
        row["task"]["model"],
        row["task"]["setting"],
        f"{1e3 * float(np.median(row['plain_median'])):.3g}",
        *ratios,
        f"{watched / plain:.4f}, {watched - plain:+.2f} s in {plain:.0f} s",
        f"{row['start']:.2f}",
        f"{row['steps'] * len(row['plain_wall']):,}",
    ]
