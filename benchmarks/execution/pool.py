"""Runs tasks in separate processes: a crash costs one row, and an interrupted benchmark can be resumed."""

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
_ROW_PREFIX = "row: "


def key(task: Mapping[str, Any]) -> str:
    """Return the key that identifies a task."""
    return json.dumps(task, sort_keys=True)


def read_rows(path: Path | None) -> list[Row]:
    """Return the rows of a file, the last one of each task; none if it does not exist. Incomplete lines are skipped.

    Raises:
        ConfigError: If the file can't be read, or a line is not a row of a benchmark.
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
            print(f"{path}: skipped an incomplete line", file=sys.stderr)
            continue
        if not isinstance(row, dict) or not isinstance(row.get("task"), dict):
            raise ConfigError(f"{path}, line {number}: not a row of a benchmark: it has no task")
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

    An interrupt ends the running processes; their tasks get no row and run again the next time.

    Args:
        module: Module that calls `worker` with its function.
        tasks: The tasks; plain values only.
        out: File that rows are appended to; tasks whose row it holds are not run again.
        workers: Processes at a time.
        timeout: Seconds allowed for one task.
        retry: Whether tasks that crashed are run again.

    Returns:
        One row per task, in order: ``task``, ``made`` (see `made_with`), ``took`` (seconds), and the result of the
        function, or ``error``.

    Raises:
        ConfigError: If ``out`` can't be written, or holds a line that is not a row.
    """
    rows = {key(row["task"]): row for row in read_rows(out) if not (retry and "error" in row)}
    pending = [task for task in tasks if key(task) not in rows]
    if len(pending) < len(tasks):
        print(f"{len(tasks) - len(pending)} of {len(tasks)} rows are already in {out}", file=sys.stderr)
    if out is not None:
        _terminate_last_line(out)
    lock, processes, stopping = Lock(), set[subprocess.Popen[str]](), Event()

    def run(task: Task) -> Row:
        started = time.monotonic()
        result = _run_one(module, task, timeout, processes, stopping)
        took = round(time.monotonic() - started, 1)
        row = {"task": task, "made": made_with(module), "took": took, **result}
        with lock:
            if out is not None and not stopping.is_set():
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
        return row

    with progress(len(pending)) as shown, ThreadPoolExecutor(max(1, workers)) as pool:
        futures = [pool.submit(run, task) for task in pending]
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
    """Run the task on the command line and print its row, with the provenance of this process."""
    spec = sys.modules["__main__"].__spec__
    made = made_with(spec.name if spec is not None else "__main__")
    print(_ROW_PREFIX + json.dumps({"made": made, **function(json.loads(sys.argv[1]))}))


def _terminate_last_line(out: Path) -> None:
    """Make sure that the next row starts on a new line, even if an earlier run was cut off while writing."""
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
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # modules of an installed package are compiled, too
    command = [sys.executable, "-m", module, json.dumps(task)]
    process = subprocess.Popen(  # nosec B603
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # the pool handles an interrupt from the terminal
    )
    processes.add(process)
    if stopping.is_set():
        _kill(process)
    timeout_error = ""
    try:
        output, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _kill(process)
        output, stderr = process.communicate()
        timeout_error = f"no end after {timeout:.0f} s"
    finally:
        processes.discard(process)
    for line in output.splitlines():
        if line.startswith(_ROW_PREFIX):
            row: Row = json.loads(line[len(_ROW_PREFIX) :])
            return row
    last = (stderr.strip().splitlines() or ["no output"])[-1]
    return {"error": timeout_error or f"ended with status {process.returncode}: {last[:300]}"}


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and its children, which hold its output open."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
