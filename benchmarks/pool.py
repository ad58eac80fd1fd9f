"""Runs tasks in processes of their own: a crash costs one row, and a benchmark that was cut off goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

__all__ = ["Row", "Task", "key", "read_rows", "run_all", "worker"]

Task = dict[str, Any]
Row = dict[str, Any]

_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
_MARK = "row: "


def key(task: Mapping[str, Any]) -> str:
    """Return what tells one task from another."""
    return json.dumps(task, sort_keys=True)


def read_rows(path: Path | None) -> list[Row]:
    """Return the rows of a file; none if it does not exist. An incomplete last line is left out."""
    if path is None or not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"{path}: an incomplete line is left out", file=sys.stderr)
    return rows


def run_all(
    module: str, tasks: Sequence[Task], out: Path | None, *, workers: int = 2, timeout: float = 900
) -> list[Row]:
    """Run tasks, each by ``python -m MODULE TASK`` in a process with one thread.

    Args:
        module: Module that hands its function to `worker`.
        tasks: The tasks; plain values.
        out: File that rows are appended to; tasks whose row it holds are not run again.
        workers: Processes at a time.
        timeout: Seconds for one task.

    Returns:
        One row a task, in order: ``task`` and what the function returned, or ``error``.
    """
    done = {key(row["task"]): row for row in read_rows(out)}
    lock = Lock()

    def run(task: Task) -> Row:
        if key(task) in done:
            return done[key(task)]
        row = {"task": task, **_run_one(module, task, timeout)}
        with lock:
            if out is not None:
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            print("." if "error" not in row else "x", end="", file=sys.stderr, flush=True)
        return row

    with ThreadPoolExecutor(workers) as pool:
        rows = list(pool.map(run, tasks))
    print(file=sys.stderr)
    return rows


def worker(function: Callable[[Task], Row]) -> None:
    """Run the task given on the command line and print its row."""
    print(_MARK + json.dumps(function(json.loads(sys.argv[1]))))


def _run_one(module: str, task: Task, timeout: float) -> Row:
    quiet = {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    environment = {**os.environ, **dict.fromkeys(_THREADS, "1"), **quiet}
    command = [sys.executable, "-m", module, json.dumps(task)]
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"no end after {timeout:.0f} s"}
    for line in ended.stdout.splitlines():
        if line.startswith(_MARK):
            row: Row = json.loads(line[len(_MARK) :])
            return row
    said = ended.stderr.strip().splitlines() or ["nothing said"]
    return {"error": f"ended with status {ended.returncode}: {said[-1][:300]}"}
