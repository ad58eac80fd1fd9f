"""One task of ``scripts``: runs a program under ``autotrainer run``. Run by `benchmarks.execution.pool`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.execution.pool import Row, Task, worker
from benchmarks.scripts.variants import FOLDER, select

__all__ = ["run"]

_TIMEOUT = 300.0
"""Seconds allowed for one program."""


def run(task: Task) -> Row:
    """Run a variant, and return its exit ``status``, the last line of ``stderr``, and its ``trainings``.

    A training has ``findings``, ``epochs``, ``steps``, ``sampled``, ``first`` (the first sampled step), and ``score``
    on held-out rows, where the program reports one.
    """
    (variant,) = select([task["case"]])
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        program = str(FOLDER / f"{variant.program}.py")
        command = [sys.executable, "-m", "autotrainer", "run", "-o", str(report), program]
        if variant.watched:
            command = [sys.executable, "-m", "benchmarks.scripts.watched", str(report), program]
        ended = subprocess.run(  # nosec B603
            [*command, *variant.arguments],
            env={**os.environ, **variant.environment},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
        saved = sorted(Path(folder).glob("report*.json"), key=lambda path: (len(path.name), path.name))
        trainings = [_training(json.loads(path.read_text(encoding="utf-8"))) for path in saved]
    return {"status": ended.returncode, "stderr": ended.stderr[-600:], "trainings": trainings}


def _training(report: Row) -> Row:
    run = report["run"]
    return {
        "findings": [
            {
                key: finding[key]
                for key in ("problem", "severity", "confidence", "caused_by", "place", "message", "step")
            }
            for finding in report["findings"]
        ],
        "epochs": run["epochs"],
        "steps": run["steps"],
        "sampled": run["sampled_steps"],
        "first": run.get("first_sampled_step"),
        "score": report.get("score"),
    }


if __name__ == "__main__":
    worker(run)
