"""Runs tasks in processes of their own: a crash costs one row, and a benchmark that was cut off goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock
from typing import Any

from autotrainer.errors import ConfigError
from benchmarks.execution.progress import progress
from benchmarks.execution.provenance import made_with

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
    """Return the rows of a file, of each task the last; none if it does not exist. An incomplete line is left out.

    Raises:
        ConfigError: If the file can't be read, or a line is no row of a benchmark.
    """
    if path is None:
        return []
    try:
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from None
    rows: dict[str, Row] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            print(f"{path}: an incomplete line is left out", file=sys.stderr)
            continue
        if not isinstance(row, dict) or not isinstance(row.get("task"), dict):
            raise ConfigError(f"{path}, line {number}: no row of a benchmark: each has its task")
        rows[key(row["task"])] = row
    return list(rows.values())


def run_all(
    module: str,
    tasks: Sequence[Task],
    out: Path | None,
    *,
    workers: int = 2,
    timeout: float = 900,
    retry: bool = False,
) -> list[Row]:
    """Run tasks, each by ``python -m MODULE TASK`` in a process with one thread.

    An interrupt ends the running processes; their tasks have no row and are run again the next time.

    Args:
        module: Module that hands its function to `worker`.
        tasks: The tasks; plain values.
        out: File that rows are appended to; tasks whose row it holds are not run again.
        workers: Processes at a time.
        timeout: Seconds for one task.
        retry: Whether tasks that crashed are run again.

    Returns:
        One row a task, in order: ``task``, ``made`` (see `made_with`), ``took`` (seconds), and what the function
        returned, or ``error``.

    Raises:
        ConfigError: If ``out`` can't be written, or holds what is no row.
    """
    rows = {key(row["task"]): row for row in read_rows(out) if not (retry and "error" in row)}
    left = [task for task in tasks if key(task) not in rows]
    if len(left) < len(tasks):
        print(f"{len(tasks) - len(left)} of {len(tasks)} rows are in {out} already", file=sys.stderr)
    if out is not None:
        _end_the_last_line(out)
    lock, processes, stopping = Lock(), set[subprocess.Popen[str]](), Event()

    def run(task: Task) -> Row:
        started = time.monotonic()
        found = _run_one(module, task, timeout, processes, stopping)
        took = round(time.monotonic() - started, 1)
        row = {"task": task, "made": made_with(module), "took": took, **found}
        with lock:
            if out is not None and not stopping.is_set():
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
        return row

    with progress(len(left)) as shown, ThreadPoolExecutor(max(1, workers)) as pool:
        futures = [pool.submit(run, task) for task in left]
        try:
            for future in as_completed(futures):
                row = future.result()
                rows[key(row["task"])] = row
                shown.done(row)
        except BaseException:
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(processes):
                _kill(process)
            raise
    return [rows[key(task)] for task in tasks]


def worker(function: Callable[[Task], Row]) -> None:
    """Run the task given on the command line and print its row, with what this very process was made from."""
    spec = sys.modules["__main__"].__spec__
    made = made_with(spec.name if spec is not None else "__main__")
    print(_MARK + json.dumps({"made": made, **function(json.loads(sys.argv[1]))}))


def _end_the_last_line(out: Path) -> None:
    """Make sure that the next row begins a line of its own, also after a run that was cut off while it wrote."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
    except OSError as error:
        raise ConfigError(f"{out} can't be written: {error.strerror}") from None


def _run_one(module: str, task: Task, timeout: float, processes: set[subprocess.Popen[str]], stopping: Event) -> Row:
    if stopping.is_set():
        return {"error": "interrupted"}
    quiet = {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    environment = {**os.environ, **dict.fromkeys(_THREADS, "1"), **quiet}
    command = [sys.executable, "-m", module, json.dumps(task)]
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # an interrupt of the terminal is the pool's to answer
    )
    processes.add(process)
    if stopping.is_set():
        _kill(process)
    late = ""
    try:
        output, said = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _kill(process)
        output, said = process.communicate()
        late = f"no end after {timeout:.0f} s"
    finally:
        processes.discard(process)
    for line in output.splitlines():
        if line.startswith(_MARK):
            row: Row = json.loads(line[len(_MARK) :])
            return row
    last = (said.strip().splitlines() or ["nothing said"])[-1]
    return {"error": late or f"ended with status {process.returncode}: {last[:300]}"}


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and those that it has started, which hold its output open."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
