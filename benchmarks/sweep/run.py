"""One task of ``sweep``: trains all trials of a search space to their end. Run by `benchmarks.execution.pool`."""

from __future__ import annotations

import contextlib
import io
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import autotrainer
from autotrainer.integrations.optuna import CAUSE, AutoTrainerPruningCallback
from benchmarks.cases.case import Program
from benchmarks.data.datasets import load
from benchmarks.detect.run import builder
from benchmarks.execution.pool import Row, Task, worker
from benchmarks.execution.runs import case_of
from benchmarks.repair.search_space import SPACE, output_pairs, with_settings

__all__ = ["run"]

_RATES = (-3.0, 0.5)
"""Range of the learning rate's decimal logarithm."""


def run(task: Task) -> Row:
    """Train the trials of a space, each to its end.

    Returns:
        ``trivial``: accuracy of the most frequent class; ``trials``: for each trial its ``settings``, the validation
        ``values`` of its epochs, and the epoch after which it would have been ``stopped``, with the ``cause``, or None.
    """
    case, seed = case_of(task), int(task["seed"])
    draw = np.random.default_rng([seed, zlib.crc32(case.id.encode())])
    base = replace(case.fixed or case.original, epochs=int(task["epochs"]))
    data = load(base, seed)
    trials = []
    for number in range(int(task["trials"])):
        settings = {name: choices[int(draw.integers(len(choices)))] for name, choices in SPACE.items()} | {"epochs": 1}
        rate = float(10 ** draw.uniform(*_RATES))
        program = with_settings(base, settings, output_pairs(base)[0], rate)
        trials.append({"settings": {**settings, "rate": rate}, **_trial(program, data, number, task["framework"])})
    return {"trivial": _most_frequent(data.y_test), "trials": trials}


class _Attributes:
    """Stands for the trial of a study, and keeps its user attributes."""

    def __init__(self) -> None:
        self.user_attrs: dict[str, Any] = {}

    def set_user_attr(self, key: str, value: Any) -> None:
        """Keep an attribute."""
        self.user_attrs[key] = value


def _trial(program: Program, data: Any, seed: int, framework: str) -> Row:
    values: list[float] = []
    row: Row = {"values": values, "stopped": None, "cause": None}
    trial = _Attributes()

    def watch(*arguments: Any, **options: Any) -> Any:
        monitor = autotrainer.watch(*arguments, **options)
        end_epoch, callback = monitor.end_epoch, AutoTrainerPruningCallback(trial, monitor)  # type: ignore[arg-type]

        def end_and_check(**reported: float) -> None:
            end_epoch(**reported)
            values.append(float(reported["val_accuracy"]))
            if row["stopped"] is None and callback.update():
                row.update(stopped=len(values), cause=trial.user_attrs[CAUSE])

        monitor.end_epoch = end_and_check  # type: ignore[method-assign]
        return monitor

    with contextlib.redirect_stderr(io.StringIO()), np.errstate(all="ignore"):
        builder(framework).train(program, data, seed, watch)
    return row


def _most_frequent(targets: NDArray[Any]) -> float:
    """Return the share of the most frequent class."""
    labels = targets.argmax(-1) if targets.ndim > 1 and targets.shape[-1] > 1 else targets.reshape(-1)
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


if __name__ == "__main__":
    worker(run)
