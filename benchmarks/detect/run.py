"""One task of ``detect``: trains a case, watched, and says what was found and when. Run by `running.pool`."""

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
    """Train the variants (``given``, ``fixed``) of a case and return one entry for each.

    An entry has ``score`` on test data, ``steps`` planned, ``first_error`` and ``raised`` (what was found, with the
    step), ``findings`` (the verdict at the end), ``complaints`` (parts of the monitor that failed), ``seconds``.
    """
    case = case_of(task)
    programs = {"given": case.given, "fixed": case.fixed}
    return {name: _watched(programs[name], task) for name in task["variants"]}


def _watched(program: Program | None, task: Task) -> Row:
    assert program is not None
    seed = int(task["seed"])
    build, data = builder(task["framework"]), load(program, seed)
    raised: list[Row] = []
    steps_done: Callable[[], int] = int

    def note(finding: Finding) -> None:
        raised.append({**_brief(finding), "seen": steps_done()})

    def watch(model: Any, optimizer: Any = None, **known: Any) -> Any:
        nonlocal steps_done
        steps_done = build.step_counter(model, optimizer)
        return autotrainer.watch(model, optimizer, overhead=task["overhead"], on_finding=note, **known)

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
        "complaints": complaints.said,
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
    """Keeps what the package's logger says about its own failures."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message on a part that was switched off."""
        message = record.getMessage()
        if "switched off" in message:
            self.said.append(message[:400])


if __name__ == "__main__":
    worker(run)
