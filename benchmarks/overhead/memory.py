"""One task of ``overhead``: what a training keeps in memory, and whether it grows. Run by `benchmarks.execution.pool`.

A training takes a number of steps in equal parts, in a process of its own. What it has taken more than the plain
training of the same model after as many steps is the setting's: allocations of Python and NumPy by `tracemalloc`, and
the resident memory of the whole process, which sees everything but is coarse.
"""

from __future__ import annotations

import gc
import os
import tempfile
import tracemalloc
from pathlib import Path

from benchmarks.execution.pool import Row, Task, worker
from benchmarks.overhead.run import FIRST, training
from benchmarks.overhead.settings import CONTROL, missing

__all__ = ["PARTS", "run"]

PARTS = 4
"""Parts that the steps are told in; the growth is that from the middle to the end."""


def run(task: Task) -> Row:
    """Train, and read the memory after each part.

    Args:
        task: ``framework``, ``model``, ``setting``, ``steps``.

    Returns:
        ``parameters``: bytes of the weights; ``traced`` and ``resident``: bytes taken since before the model was
        built, after each part (``resident`` None where the system does not tell). Or ``missing``: the module that is
        not installed.
    """
    absent = missing(task["framework"], task["setting"])
    if absent is not None:
        return {"missing": absent}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        training(task, CONTROL, folder).block(FIRST)  # what the framework takes once
        tracemalloc.start()
        traced, resident = _now()
        trained = training(task, task["setting"], folder)
        trained.attach()
        row: Row = {"parameters": trained.parameters, "traced": [], "resident": [] if resident is not None else None}
        for _ in range(PARTS):
            trained.block(int(task["steps"]) // PARTS)
            now, size = _now()
            row["traced"].append(now - traced)
            if resident is not None and size is not None:
                row["resident"].append(size - resident)
        tracemalloc.stop()
        trained.close()
    return row


def _now() -> tuple[int, int | None]:
    """Return traced and resident bytes; None where the system does not tell the latter."""
    gc.collect()
    try:
        pages: int | None = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        pages = None
    size = None if pages is None else pages * os.sysconf("SC_PAGE_SIZE")
    return tracemalloc.get_traced_memory()[0], size


if __name__ == "__main__":
    worker(run)
