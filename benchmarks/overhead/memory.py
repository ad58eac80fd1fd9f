"""One task of ``overhead``: the memory that a training keeps, and whether it grows. Run by `benchmarks.execution.pool`.

A training runs in a separate process, in equal parts. The memory that it uses beyond a plain training of the same model
after as many steps is attributed to the setting: the resident memory of the whole process, which includes everything
but is coarse, and, in a second process, allocations of Python and NumPy, measured by `tracemalloc`.
"""

from __future__ import annotations

import gc
import os
import tempfile
import tracemalloc
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

from benchmarks.execution.pool import Row, Task, worker
from benchmarks.overhead.run import START_STEPS, build_training
from benchmarks.overhead.settings import CONTROL, missing_module

__all__ = ["PARTS", "run"]

PARTS = 4
"""Parts into which the steps are divided; growth is measured from the middle to the end."""


def run(task: Task) -> Row:
    """Train twice, once traced, and read the memory after each part.

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
    with get_context("spawn").Pool(1) as pool:  # tracing takes memory itself: a third of what it traces
        parameters, resident = pool.apply(_sizes, (task, _resident))
    tracemalloc.start()
    traced = _sizes(task, _traced)[1]
    tracemalloc.stop()
    return {"parameters": parameters, "traced": traced, "resident": resident if None not in resident else None}


def _sizes(task: Task, read: Callable[[], int | None]) -> tuple[int, list[int | None]]:
    """Return the size of the weights, and how much more memory is in use after each part than before the model."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        build_training(task, CONTROL, folder).block(START_STEPS)  # one-time allocations of the framework
        gc.collect()
        before = read()
        trained = build_training(task, task["setting"], folder)
        trained.attach()
        sizes: list[int | None] = []
        for _ in range(PARTS):
            trained.block(int(task["steps"]) // PARTS)
            gc.collect()
            now = read()
            sizes.append(None if now is None or before is None else now - before)
        trained.close()
    return trained.parameters, sizes


def _traced() -> int:
    """Return the bytes that Python and NumPy have allocated since tracing began."""
    return tracemalloc.get_traced_memory()[0]


def _resident() -> int | None:
    """Return the resident bytes of this process; None where the system does not report them."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    worker(run)
