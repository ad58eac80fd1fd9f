"""One task of ``overhead``: trains one model plain and watched, in turns. Run by `benchmarks.pool`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import autotrainer
from benchmarks.pool import Row, Task, worker

__all__ = ["run"]

Block = Callable[[int], tuple[list[float], float]]
"""Takes the number of steps; returns the seconds of each and the processor seconds of all (Keras: but the first)."""

_FIRST = 20
"""Steps of the first blocks, whose whole time tells the start."""

_BATCH = 32


def run(task: Task) -> Row:
    """Time blocks of steps, plain and watched in turns.

    Returns:
        ``plain_median``, ``watched_median``: seconds a step, and ``plain_processor``, ``watched_processor``: mean
        processor seconds a step, one number a block;
        ``start``: seconds by which the first watched block is longer than the first plain one;
        ``entry``: the same of what later blocks take besides their steps (Keras: each call of ``fit``), median.
    """
    make = {"pytorch": _pytorch, "keras3": _keras}[task["framework"]]
    x, y = _data(task["model"])
    warm, plain, watched = (make(task["model"], x, y, watch=watch) for watch in (False, False, True))
    _timed(warm, _FIRST)  # the framework's own start
    start = -_timed(plain, _FIRST)[2] + _timed(watched, _FIRST)[2]
    count = max(_FIRST, round(float(task["seconds"]) / statistics.median(plain(_FIRST)[0])))
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
    return row


def _timed(block: Block, steps: int) -> tuple[list[float], float, float]:
    """Return the seconds of each step, the processor seconds of all, and the seconds of the whole block."""
    begun = time.perf_counter()
    seconds, processor = block(steps)
    return seconds, processor, time.perf_counter() - begun


def _data(model: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    generator = np.random.default_rng(0)
    shape = {"mlp": (20,), "cnn": (16, 16, 3), "transformer": (32, 64)}[model]
    x = generator.standard_normal((_BATCH, *shape)).astype(np.float32)
    return x, generator.integers(0, 10, _BATCH)


def _pytorch(model: str, x: NDArray[np.float32], y: NDArray[np.int64], *, watch: bool) -> Block:
    import torch

    from benchmarks.overhead_models import pytorch_model

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = pytorch_model(model)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    loss_fn = torch.nn.CrossEntropyLoss()
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    started: list[Any] = []

    def block(steps: int) -> tuple[list[float], float]:
        if watch and not started:
            started.append(autotrainer.watch(network, optimizer, loss_fn=loss_fn, steps=10**7))
        seconds, processor = [], time.process_time()
        for _ in range(steps):
            begun = time.perf_counter()
            optimizer.zero_grad()
            loss_fn(network(inputs), targets).backward()
            optimizer.step()
            seconds.append(time.perf_counter() - begun)
        return seconds, time.process_time() - processor

    return block


def _keras(model: str, x: NDArray[np.float32], y: NDArray[np.int64], *, watch: bool) -> Block:
    import keras
    import tensorflow as tf

    from benchmarks.overhead_models import keras_model

    if not tf.config.threading.get_intra_op_parallelism_threads():  # one thread, as in PyTorch: threads add noise
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(0)
    network = keras_model(model)
    network.compile(
        optimizer=keras.optimizers.Adam(1e-4), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    clock = _StepClock()
    started: list[Any] = []

    def block(steps: int) -> tuple[list[float], float]:
        if watch and not started:
            started.append(autotrainer.watch(network, steps=10**7))
        clock.seconds.clear()
        # An epoch of as many batches as steps: what `fit` does between epochs is not a step's cost.
        network.fit(
            np.tile(x, (steps, *[1] * (x.ndim - 1))),
            np.tile(y, steps),
            batch_size=len(y),
            shuffle=False,
            verbose=0,
            callbacks=[clock.callback()],
        )
        return list(clock.seconds), time.process_time() - clock.processor

    return block


class _StepClock:
    """Notes the time from the end of a batch to the end of the next, so that all callbacks count."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.processor = 0.0  # process time at the end of the first batch

    def callback(self) -> Any:
        """Return a Keras callback that writes to this clock."""
        import keras

        seconds, last = self.seconds, [0.0]

        def end(batch: int, logs: object = None) -> None:
            now = time.perf_counter()
            if batch:
                seconds.append(now - last[0])
            else:
                self.processor = time.process_time()
            last[0] = now

        return keras.callbacks.LambdaCallback(on_train_batch_end=end)


if __name__ == "__main__":
    worker(run)
