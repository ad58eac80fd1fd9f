"""One task of ``overhead``: trains one model plain and with a setting, in turns. Run by `benchmarks.execution.pool`."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.execution.pool import Row, Task, worker
from benchmarks.overhead.settings import CONTROL, Training, missing

__all__ = ["FIRST", "run", "training"]

FIRST = 20
"""Steps of the first blocks, whose whole time tells the start."""

_BATCH = 32


def run(task: Task) -> Row:
    """Time blocks of steps, plain and watched in turns.

    Args:
        task: ``framework``, ``model``, ``setting`` (default ``default``), ``pairs`` of blocks, ``seconds`` of a block.

    Returns:
        ``plain_median``, ``watched_median``: seconds a step, and ``plain_processor``, ``watched_processor``: mean
        processor seconds a step, one number a block;
        ``start``: seconds by which the first watched block is longer than the first plain one;
        ``entry``: the same of what later blocks take besides their steps (Keras: each call of ``fit``), median.
        Or ``missing``: the module that is not installed.
    """
    setting = str(task.get("setting", "default"))
    absent = missing(task["framework"], setting)
    if absent is not None:
        return {"missing": absent}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        warm, plain = (training(task, CONTROL, folder) for _ in range(2))
        watched = training(task, setting, folder)
        _timed(warm, FIRST)  # the framework's own start
        start = -_timed(plain, FIRST)[2]
        begun = time.perf_counter()
        watched.attach()
        start += time.perf_counter() - begun + _timed(watched, FIRST)[2]
        count = max(FIRST, round(float(task["seconds"]) / statistics.median(plain.block(FIRST)[0])))
        row: Row = {"steps": count, "start": start, "entry": []}
        for pair in range(int(task["pairs"])):
            entry = {}
            blocks = [("plain", plain), ("watched", watched)]
            for name, block in blocks[:: -1 if pair % 2 else 1]:  # neither is always the first
                seconds, processor, wall = _timed(block, count)
                row.setdefault(f"{name}_median", []).append(statistics.median(seconds))
                row.setdefault(f"{name}_processor", []).append(processor / len(seconds))
                entry[name] = wall - sum(seconds)
            row["entry"].append(entry["watched"] - entry["plain"])
        row["entry"] = statistics.median(row["entry"])
        watched.close()
    return row


def training(task: Task, setting: str, folder: str) -> Training:
    """Build the training of a task; imports its framework."""
    x, y = _data(task["model"])
    if task["framework"] == "pytorch":
        from benchmarks.overhead.pytorch import PytorchTraining

        return PytorchTraining(task["model"], x, y, setting, Path(folder))
    from benchmarks.overhead.keras3 import KerasTraining

    return KerasTraining(task["model"], x, y, setting, Path(folder))


def _timed(trained: Training, steps: int) -> tuple[list[float], float, float]:
    """Return the seconds of each step, the processor seconds of all, and the seconds of the whole block."""
    begun = time.perf_counter()
    seconds, processor = trained.block(steps)
    return seconds, processor, time.perf_counter() - begun


def _data(model: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    generator = np.random.default_rng(0)
    shape: tuple[Any, ...] = {"mlp": (20,), "cnn": (16, 16, 3), "transformer": (32, 64), "lstm": (32, 16)}[model]
    x = generator.standard_normal((_BATCH, *shape)).astype(np.float32)
    return x, generator.integers(0, 10, _BATCH)


if __name__ == "__main__":
    worker(run)
