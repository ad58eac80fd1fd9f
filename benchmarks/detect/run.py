"""One task of ``detect``: trains a case, watched, and returns its findings. Run by `benchmarks.execution.pool`."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable
from typing import Any

import autotrainer
from autotrainer import Finding
from benchmarks.cases.case import Program
from benchmarks.data.datasets import load
from benchmarks.execution.pool import Row, Task, worker
from benchmarks.execution.runs import case_of

__all__ = ["builder", "run"]


def builder(framework: str) -> Any:
    """Return the module that builds programs in a framework; imports the framework."""
    return importlib.import_module(
        {"pytorch": "benchmarks.programs.pytorch", "keras3": "benchmarks.programs.keras3"}[framework]
    )


def run(task: Task) -> Row:
    """Train the variants (``given``, ``fixed``) of a case and return an entry for each, and the ``family`` of the case.

    A fault of a transformer also has the ``component`` that it is in.

    An entry has ``score`` on test data, ``steps`` planned, ``first_error`` and ``raised`` (all findings
    raised, with the step), ``findings`` (at the end), ``complaints`` (parts of the monitor that failed), ``seconds``.
    """
    case = case_of(task)
    programs = {"given": case.original, "fixed": case.fixed}
    named = {"family": case.family, **({"component": case.component} if case.component else {})}
    return {**named, **{name: _watched(programs[name], task) for name in task["variants"]}}


def _watched(program: Program | None, task: Task) -> Row:
    assert program is not None
    seed = int(task["seed"])
    build, data = builder(task["framework"]), load(program, seed)
    raised: list[Row] = []
    steps_done: Callable[[], int] = int

    def record(finding: Finding) -> None:
        raised.append({**_brief(finding), "seen": steps_done()})

    def watch(model: Any, optimizer: Any = None, **options: Any) -> Any:
        nonlocal steps_done
        steps_done = build.step_counter(model, optimizer)
        options |= {"overhead": task["overhead"], "probe": bool(task.get("probe"))}
        return autotrainer.watch(model, optimizer, on_finding=record, **options)

    complaints = _Complaints()
    logging.getLogger("autotrainer").addHandler(complaints)
    started = time.perf_counter()
    try:
        score, monitor = build.train(program, data, seed, watch)
    finally:
        logging.getLogger("autotrainer").removeHandler(complaints)
    errors = [entry["seen"] for entry in raised if entry["severity"] == "error"]
    return {
        "score": score,
        "steps": program.epochs * -(-len(data.x_train) // program.batch_size),
        "first_error": min(errors, default=None),
        "raised": raised,
        "findings": [{**_brief(f), "message": f.message, "evidence": f.evidence} for f in monitor.findings],
        "complaints": complaints.messages,
        "seconds": round(time.perf_counter() - started, 2),
    }


def _brief(finding: Finding) -> Row:
    return {
        "problem": finding.problem,
        "severity": str(finding.severity),
        "confidence": round(finding.confidence, 3),
        "step": finding.step,
        "caused_by": finding.caused_by,
        "layers": list(finding.layers)[:3],
    }


class _Complaints(logging.Handler):
    """Collects log messages about parts of the monitor that failed."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep messages about parts that were switched off."""
        message = record.getMessage()
        if "switched off" in message:
            self.messages.append(message[:400])


if __name__ == "__main__":
    worker(run)
