"""One task of ``overhead``: times a training with and without a setting. Run by `benchmarks.execution.pool`."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.execution.pool import Row, Task, worker
from benchmarks.overhead.settings import CALLBACKS, CONTROL, Training, missing_module
from benchmarks.overhead.size_models import RANKS, SIZES, batch
from benchmarks.overhead.sizes import on_two_ranks

__all__ = ["START_STEPS", "alternate", "build_training", "run"]

START_STEPS = 20
"""Steps of the first blocks, whose total time measures the start-up cost."""

_BATCH = 32


def run(task: Task) -> Row:
    """Time alternating plain and watched blocks of steps.

    Args:
        task: ``framework``, ``model``, ``setting`` (default ``default``), ``pairs`` of blocks, ``seconds`` of a block,
            ``start_steps`` (default 20) of the first blocks.

    Returns:
        ``plain_median``, ``watched_median``: seconds per step, ``plain_processor``, ``watched_processor``: mean
        processor seconds per step, and ``plain_wall``, ``watched_wall``: seconds, one number per block; ``steps`` of a
        block;
        ``start``: seconds by which the first watched block takes longer than the first plain one;
        ``entry``: the median difference in the time that later blocks take outside their steps (Keras: each call of
        ``fit``).
        Or ``missing``: the name of the module that is not installed.
    """
    setting = str(task.get("setting", "default"))
    absent = missing_module(task["framework"], setting)
    if absent is not None:
        return {"missing": absent}
    return on_two_ranks(task) if task["model"] in RANKS else alternate(task)


def alternate(task: Task, agree: Callable[[int], int] = int) -> Row:
    """Return the row of a task without missing modules; `agree` makes all ranks take the same number of steps."""
    setting, first = str(task.get("setting", "default")), int(task.get("start_steps", START_STEPS))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        warm, plain = (build_training(task, CONTROL, folder) for _ in range(2))
        watched = build_training(task, setting, folder)
        _timed(warm, first)  # the framework's start-up
        start = -_timed(plain, first)[2]
        begun = time.perf_counter()
        watched.attach()
        start += time.perf_counter() - begun + _timed(watched, first)[2]
        count = agree(max(first, round(float(task["seconds"]) / statistics.median(plain.block(first)[0]))))
        row: Row = {"steps": count, "start": start, "entry": []}
        for pair in range(int(task["pairs"])):
            entry = {}
            blocks = [("plain", plain), ("watched", watched)]
            for name, block in blocks[:: -1 if pair % 2 else 1]:  # neither always comes first
                seconds, processor, wall = _timed(block, count)
                row.setdefault(f"{name}_median", []).append(statistics.median(seconds))
                row.setdefault(f"{name}_processor", []).append(processor / len(seconds))
                row.setdefault(f"{name}_wall", []).append(wall)
                entry[name] = wall - sum(seconds)
            row["entry"].append(entry["watched"] - entry["plain"])
        row["entry"] = statistics.median(row["entry"])
        for training in (warm, plain, watched):
            training.close()
    return row


def build_training(task: Task, setting: str, folder: str) -> Training:
    """Build the training of a task; imports its framework."""
    x, y = batch(task["model"]) if task["model"] in SIZES else _data(task["model"])
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
