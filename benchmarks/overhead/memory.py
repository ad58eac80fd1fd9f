"""One task of ``overhead``: the memory that a training keeps, and whether it grows. Run by `benchmarks.execution.pool`.

A training runs in a separate process, in equal parts. The memory that it uses beyond a plain training of the same model
after as many steps is attributed to the setting: allocations of Python and NumPy, measured by `tracemalloc`, and the
resident memory of the whole process, which includes everything but is coarse.
"""

from __future__ import annotations

import gc
import os
import tempfile
import tracemalloc
from pathlib import Path

from benchmarks.execution.pool import Row, Task, worker
from benchmarks.overhead.run import START_STEPS, build_training
from benchmarks.overhead.settings import CONTROL, missing_module

__all__ = ["PARTS", "run"]

PARTS = 4
"""Parts into which the steps are divided; growth is measured from the middle to the end."""


def run(task: Task) -> Row:
    """Train, and read the memory after each part.

    Args:
        task: ``framework``, ``model``, ``setting``, ``steps``.

    Returns:
        ``parameters``: bytes of the weights; ``traced`` and ``resident``: bytes taken since before the model was
        built, after each part (``resident`` is None where the system does not report it). Or ``missing``: the name
        of the module that is not installed.
    """
    absent = missing_module(task["framework"], task["setting"])
    if absent is not None:
        return {"missing": absent}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        build_training(task, CONTROL, folder).block(START_STEPS)  # one-time allocations of the framework
        tracemalloc.start()
        traced, resident = _memory()
        trained = build_training(task, task["setting"], folder)
        trained.attach()
        row: Row = {"parameters": trained.parameters, "traced": [], "resident": [] if resident is not None else None}
        for _ in range(PARTS):
            trained.block(int(task["steps"]) // PARTS)
            now, size = _memory()
            row["traced"].append(now - traced)
            if resident is not None and size is not None:
                row["resident"].append(size - resident)
        tracemalloc.stop()
        trained.close()
    return row


def _memory() -> tuple[int, int | None]:
    """Return traced and resident bytes; None where the system does not report the latter."""
    gc.collect()
    try:
        pages: int | None = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        pages = None
    size = None if pages is None else pages * os.sysconf("SC_PAGE_SIZE")
    return tracemalloc.get_traced_memory()[0], size


if __name__ == "__main__":
    worker(run)
