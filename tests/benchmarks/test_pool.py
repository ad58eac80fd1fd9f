"""Tasks in separate processes: crashes, resumption, interrupts; and the provenance of rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from autotrainer.errors import ConfigError
from benchmarks.__main__ import main
from benchmarks.detect.suite import detect
from benchmarks.execution import pool, runs
from benchmarks.execution.progress import duration
from benchmarks.execution.provenance import provenance_line
from benchmarks.repair.suite import repair

_SLEEPER = """
import time
from benchmarks.execution.pool import worker

def run(task):
    time.sleep(task["seconds"])
    return {"slept": task["seconds"]}

if __name__ == "__main__":
    worker(run)
"""


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "sleeper.py").write_text(_SLEEPER)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "sleeper"


def test_stored_rows_are_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, module = tmp_path / "rows.jsonl", "benchmarks.no_such_module"
    rows = pool.run_all(module, [{"case": 1}], out)
    assert "no_such_module" in rows[0]["error"]
    out.write_text(json.dumps({"task": {"case": 1}, "score": 7}) + '\n{"task": {"ca')
    assert pool.run_all(module, [{"case": 1}], out) == [{"task": {"case": 1}, "score": 7}]
    assert "incomplete line" in capsys.readouterr().err


def test_crashed_tasks_are_retried_on_request(tmp_path: Path, sleeper: str) -> None:
    out = tmp_path / "rows.jsonl"
    out.write_text(json.dumps({"task": {"seconds": 0}, "error": "x"}) + "\n")
    assert pool.run_all(sleeper, [{"seconds": 0}], out)[0]["error"] == "x"
    assert pool.run_all(sleeper, [{"seconds": 0}], out, retry=True)[0]["slept"] == 0
    assert [row.get("slept") for row in pool.read_rows(out)] == [0]


def test_row_after_an_incomplete_line_is_kept(tmp_path: Path, sleeper: str) -> None:
    out = tmp_path / "rows.jsonl"
    out.write_text('{"task": {"ca')
    pool.run_all(sleeper, [{"seconds": 0}], out)
    assert [row["slept"] for row in pool.read_rows(out)] == [0]


def test_rows_have_their_provenance(tmp_path: Path, sleeper: str, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = pool.run_all(sleeper, [{"seconds": 0, "seed": 3}], None)
    assert row["made"]["by"] == "sleeper"
    assert {"python", "torch", "keras"} <= set(row["made"]["versions"])
    words = provenance_line([row, {**row, "made": {**row["made"], "commit": "0123456789"}}])
    assert words.startswith("2 rows · seed 3 · commit ")
    assert "0123456789 (1 rows)" in words
    assert "[1/1] seed 3" in capsys.readouterr().err.replace("  ", " ")


def test_timeout_is_a_row_with_its_reason(sleeper: str) -> None:
    (row,) = pool.run_all(sleeper, [{"seconds": 60}], None, timeout=1)
    assert row["error"] == "no end after 1 s"


def test_interrupt_leaves_no_process_and_no_row(tmp_path: Path, sleeper: str) -> None:
    out = tmp_path / "rows.jsonl"
    code = (
        # A shell that runs the tests in the background has its children ignore interrupts.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from pathlib import Path; from benchmarks.execution.pool import run_all; "
        f"run_all({sleeper!r}, [{{'seconds': 0}}, {{'seconds': 300}}, {{'seconds': 301}}], Path({str(out)!r}))"
    )
    path = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 180
    while not (out.exists() and out.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=120)[1]
    assert [row["task"]["seconds"] for row in pool.read_rows(out)] == [0]


@pytest.mark.parametrize("text", ["[]", '{"score": 1}', "3"])
def test_invalid_rows_are_rejected(text: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(ConfigError, match="line 1"):
        pool.read_rows(tmp_path / "rows.jsonl")


def test_worker_prints_its_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["worker", '{"case": 2}'])
    pool.worker(lambda task: {"twice": 2 * task["case"]})
    row = json.loads(capsys.readouterr().out.removeprefix("row: "))
    assert row["twice"] == 4
    assert {"by", "commit", "versions"} == set(row["made"])


@pytest.mark.parametrize(("seconds", "words"), [(40.4, "40 s"), (700, "12 min"), (12600, "3.5 h")])
def test_duration_in_readable_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize("command", [detect, lambda runs: repair(runs, [3.0])])
def test_cases_run_with_each_seed_in_each_framework(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTRAINER_DATA", str(tmp_path))
    pending: list[dict[str, Any]] = []

    def run(module: str, tasks: list[dict[str, Any]], *_: Any, **__: Any) -> list[dict[str, Any]]:
        pending.extend(tasks)
        return [{"task": task, "error": "no end after 9 s"} for task in tasks]

    monkeypatch.setattr(runs, "run_all", run)
    text = command(runs.Runs(["pytorch", "keras3"], ["real"], seeds=2, names=["so50306988"]))
    assert [(task["framework"], task["case"], task["seed"]) for task in pending] == [
        (framework, "so50306988", seed) for framework in ("pytorch", "keras3") for seed in (0, 1)
    ]
    assert "* so50306988 (seed 1): no end after 9 s" in text
    assert "### keras3" in text
    assert "### Published by others" in text


def test_missing_data_is_reported_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AUTOTRAINER_DATA", str(tmp_path / "nowhere"))
    assert main(["detect", "--only", "so50306988"]) == 2
    assert "AUTOTRAINER_DATA" in capsys.readouterr().err
