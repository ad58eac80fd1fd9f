"""One task of ``overhead``: times a training with and without a setting. Run by `benchmarks.execution.pool`."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.execution.pool import Row, Task, worker
from benchmarks.overhead.settings import CALLBACKS, CONTROL, Training, missing_module

__all__ = ["START_STEPS", "build_training", "run"]

START_STEPS = 20
"""Steps of the first blocks, whose total time measures the start-up cost."""

_BATCH = 32


def run(task: Task) -> Row:
    """Time alternating plain and watched blocks of steps.

    Args:
        task: ``framework``, ``model``, ``setting`` (default ``default``), ``pairs`` of blocks, ``seconds`` of a block.

    Returns:
        ``plain_median``, ``watched_median``: seconds per step, and ``plain_processor``, ``watched_processor``: mean
        processor seconds per step, one number per block;
        ``start``: seconds by which the first watched block takes longer than the first plain one;
        ``entry``: the median difference in the time that later blocks take outside their steps (Keras: each call of
        ``fit``).
        Or ``missing``: the name of the module that is not installed.
    """
    setting = str(task.get("setting", "default"))
    absent = missing_module(task["framework"], setting)
    if absent is not None:
        return {"missing": absent}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        warm, plain = (build_training(task, CONTROL, folder) for _ in range(2))
        watched = build_training(task, setting, folder)
        _timed(warm, START_STEPS)  # the framework's start-up
        start = -_timed(plain, START_STEPS)[2]
        begun = time.perf_counter()
        watched.attach()
        start += time.perf_counter() - begun + _timed(watched, START_STEPS)[2]
        count = max(START_STEPS, round(float(task["seconds"]) / statistics.median(plain.block(START_STEPS)[0])))
        row: Row = {"steps": count, "start": start, "entry": []}
        for pair in range(int(task["pairs"])):
            entry = {}
            blocks = [("plain", plain), ("watched", watched)]
            for name, block in blocks[:: -1 if pair % 2 else 1]:  # neither always comes first
                seconds, processor, wall = _timed(block, count)
                row.setdefault(f"{name}_median", []).append(statistics.median(seconds))
                row.setdefault(f"{name}_processor", []).append(processor / len(seconds))
                entry[name] = wall - sum(seconds)
            row["entry"].append(entry["watched"] - entry["plain"])
        row["entry"] = statistics.median(row["entry"])
        for training in (warm, plain, watched):
            training.close()
    return row


def build_training(task: Task, setting: str, folder: str) -> Training:
    """Build the training of a task; imports its framework."""
    x, y = _data(task["model"])
    if task.get("setting") in CALLBACKS[task["framework"]]:
        from benchmarks.overhead.library_fits import FitTraining

        library = str(task["setting"]).partition("_")[0]
        return FitTraining(library, task["model"], x, y, setting, Path(folder))
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
