"""One task of ``agreement``: trains a case several times, watched. Run by `benchmarks.execution.pool`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import autotrainer
from autotrainer import Finding
from benchmarks.data.datasets import load
from benchmarks.detect.run import builder
from benchmarks.execution.pool import Row, Task, worker
from benchmarks.execution.runs import case_of

__all__ = ["run"]

_TIMEOUT = 900.0
"""Seconds allowed for the script."""


def run(task: Task) -> Row:
    """Train a case and return its verdicts.

    Args:
        task: The case, ``repeats``, and ``busy``: number of processes that compute at the same time.

    Returns:
        ``runs``: for each repetition ``errors`` and ``findings`` (problems above info), ``samples`` (sampled steps),
        ``work`` and ``wall`` (seconds of monitoring, without and with those of other processes), and ``seconds``;
        ``logged`` and ``replayed``: ``errors`` and ``findings`` of one more run, which writes a log, and of its
        `replay`; ``script``: the same of a script that trains the case unwatched, under ``autotrainer run``, which
        knows less: no values at the end of an epoch, and no planned length.
    """
    case, seed = case_of(task), int(task["seed"])
    build, data = builder(task["framework"]), load(case.original, seed)
    runs: list[Row] = []
    with _busy(int(task["busy"])):
        for _ in range(int(task["repeats"])):
            started = time.perf_counter()
            _, monitor = build.train(case.original, data, seed, autotrainer.watch)
            stopwatch = monitor.sampler.stopwatch
            runs.append(
                {
                    **_verdict(monitor.findings),
                    "samples": monitor.history.steps.tolist(),
                    "work": round(stopwatch.work, 3),
                    "wall": round(stopwatch.wall, 3),
                    "seconds": round(time.perf_counter() - started, 2),
                }
            )
        with tempfile.TemporaryDirectory() as folder:

            def watch(*args: Any, **options: Any) -> Any:
                return autotrainer.watch(*args, log_dir=folder, **options)

            _, monitor = build.train(case.original, data, seed, watch)
            replayed = autotrainer.replay(monitor.log_path)
        script = _run_script(task)
    logged = _verdict(monitor.findings)
    return {"runs": runs, "logged": logged, "replayed": _verdict(replayed.findings), "script": script}


def _run_script(task: Task) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = ["autotrainer", "run", "-o", str(report), "-m", "benchmarks.agreement.unwatched", json.dumps(task)]
        subprocess.run([sys.executable, "-m", *command], capture_output=True, timeout=_TIMEOUT)  # nosec B603
        findings = json.loads(report.read_text(encoding="utf-8"))["findings"]
    return _verdict([Finding.from_dict(finding) for finding in findings])


def _verdict(findings: Iterable[Finding]) -> Row:
    relevant = [finding for finding in findings if finding.severity != "info"]
    return {
        "errors": sorted(finding.problem for finding in relevant if finding.severity == "error"),
        "findings": sorted(finding.problem for finding in relevant),
    }


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Let a number of processes compute."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]  # nosec B603
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    worker(run)
