"""Agreement of repetitions: which count, and how they are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autotrainer.errors import DataError
from benchmarks.agreement.suite import NAMES, agreement, report, tasks
from benchmarks.cases.case import load_cases
from benchmarks.data.datasets import data_folder
from benchmarks.execution.pool import read_rows
from benchmarks.execution.runs import Runs
from benchmarks.reporting.suites import suite_of


def row(case: str, busy: int, verdicts: list[str], *, replay: bool = True) -> dict[str, Any]:
    runs = [
        {
            "errors": errors.split(),
            "findings": errors.split(),
            "samples": [0, 1],
            "work": 0.1,
            "wall": 0.2,
            "seconds": 1.0,
        }
        for errors in verdicts
    ]
    logged = {"errors": [], "findings": []}
    task = {"framework": "pytorch", "source": "zoo", "case": case, "seed": 0, "recipe": "", "busy": busy, "repeats": 4}
    script = {"errors": ["nonfinite"], "findings": ["nonfinite"]} if busy else logged
    return {"task": task, "runs": runs, "logged": logged, "replayed": logged if replay else {}, "script": script}


def test_repetitions_count_that_have_the_most_frequent_errors() -> None:
    rows = [
        row("a", 0, ["nonfinite", "nonfinite", "nonfinite dying_relu", "nonfinite"]),
        row("a", 2, ["nonfinite"] * 4, replay=False),
        row("b", 0, [""] * 4),
        row("b", 2, ["dying_relu"] * 4),
    ]
    text = report(rows)
    lines = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    assert (
        "| 3/4 (75 %) | 4/4 (100 %) | 7/8 (88 %) | 7/8 (88 %) | 8/8 (100 %) | 1/2 (50 %) | 1/2 (50 %) |"
        in lines["| a (seed 0)"]
    )
    assert lines["| a (seed 0)"].endswith("| dying_relu |")
    assert "| 4/4 (100 %) | 4/4 (100 %) | 4/8 (50 %) |" in lines["| b (seed 0)"], "busy and idle must agree, too"
    assert "missed" in text
    assert "met" in report(rows[1:2])
    assert suite_of(rows) == "agreement"


def test_each_case_runs_idle_and_busy() -> None:
    cases = load_cases(["zoo"], ["demo_oscillating"])
    idle, busy = tasks(cases, "pytorch", 1, 10)
    assert idle["busy"] == 0 < busy["busy"]
    assert idle["repeats"] == busy["repeats"] == 10
    assert "demo_oscillating" in NAMES


@pytest.mark.slow
def test_a_case_end_to_end(tmp_path: Path) -> None:
    try:
        data_folder()
    except DataError as error:
        pytest.skip(str(error))
    out = tmp_path / "rows.jsonl"
    text = agreement(Runs(["pytorch"], ["real"], names=["so46620813"], out=out, workers=1), 2)
    for result in read_rows(out):
        assert "error" not in result, result
        assert all(run["samples"] for run in result["runs"])
        assert result["logged"] == result["replayed"]
        assert result["logged"]["errors"] == result["script"]["errors"]
    assert "4/4 (100 %)" in text
