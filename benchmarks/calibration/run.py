"""One task of ``calibrate``: trains a case, watched, and stores its run logs. Run by `benchmarks.execution.pool`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import autotrainer
from benchmarks.cases.case import Program
from benchmarks.data.datasets import load
from benchmarks.detect.run import builder
from benchmarks.execution.pool import Row, Task, worker
from benchmarks.execution.runs import case_of

__all__ = ["kind_of", "run"]

_KINDS: Mapping[str, str] = {
    "attention": "transformer",
    "lstm": "recurrent",
    "gru": "recurrent",
    "conv1d": "convolutional",
    "conv2d": "convolutional",
}


def run(task: Task) -> Row:
    """Train the variants (``given``, ``fixed``) of a case and return one entry for each.

    Args:
        task: A task of `detect`, with ``logs``: the folder for run logs.

    Returns:
        By variant: ``score`` on test data, ``steps`` planned, ``log``: the run log, ``data`` (the family of programs,
        `Case.family`) and ``kind`` of network: the groups of the cross-validation.
    """
    case = case_of(task)
    programs = {"given": case.original, "fixed": case.fixed}
    return {name: {**_recorded(programs[name], task), "data": case.family} for name in task["variants"]}


def kind_of(program: Program) -> str:
    """Return the kind of a network: ``transformer``, ``recurrent``, ``convolutional`` or ``dense``."""
    types = list(_types(program.layers))
    return next((kind for layer, kind in _KINDS.items() if layer in types), "dense")


def _types(layers: Any) -> list[str]:
    return [name for layer in layers for name in (str(layer["type"]), *_types(layer.get("layers", ())))]


def _recorded(program: Program | None, task: Task) -> Row:
    assert program is not None
    seed = int(task["seed"])
    build, data = builder(task["framework"]), load(program, seed)

    def watch(model: Any, optimizer: Any = None, **options: Any) -> Any:
        return autotrainer.watch(model, optimizer, overhead=task["overhead"], log_dir=Path(task["logs"]), **options)

    score, monitor = build.train(program, data, seed, watch)
    return {
        "score": score,
        "steps": program.epochs * -(-len(data.x_train) // program.batch_size),
        "log": str(monitor.log_path),
        "kind": kind_of(program),
    }


if __name__ == "__main__":
    worker(run)
