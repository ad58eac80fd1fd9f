"""Rows become tables: judgement, resumption, statistics."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import pool, runs
from benchmarks.__main__ import main
from benchmarks.cases import load_cases
from benchmarks.detect import detect, judge, summarize, tasks
from benchmarks.overhead import median_ratio, total_ratio
from benchmarks.repair import clipped_ratio
from benchmarks.repair import repair as run_repair_benchmark
from benchmarks.repair import summarize as summarize_repair


def finding(problem: str, severity: str = "error", seen: int = 5) -> dict[str, Any]:
    return {"problem": problem, "severity": severity, "seen": seen}


def entry(score: float, *found: dict[str, Any], steps: int = 1000) -> dict[str, Any]:
    first = min((f["seen"] for f in found if f["severity"] == "error"), default=None)
    told = list(found)
    return {"score": score, "steps": steps, "first_error": first, "raised": told, "findings": told, "complaints": []}


def row(given: dict[str, Any], fixed: dict[str, Any], case: str = "so50306988") -> dict[str, Any]:
    task = {"framework": "pytorch", "source": "real", "case": case, "seed": 0, "variants": ["given", "fixed"]}
    return {"task": task, "given": given, "fixed": fixed}


@pytest.mark.parametrize(
    ("found", "named", "early"),
    [
        ((finding("slow_convergence"),), True, True),
        ((finding("nonfinite", seen=199), finding("slow_convergence")), True, True),
        (
            (finding("nonfinite", seen=300), finding("dying_relu", seen=400), finding("slow_convergence", seen=500)),
            False,
            False,
        ),
        ((finding("nonfinite", "info"), finding("slow_convergence", "warning")), True, False),
        ((), False, False),
    ],
)
def test_a_faulty_training_is_judged(found: tuple[dict[str, Any], ...], named: bool, early: bool) -> None:
    (faulty, healthy), left_out = judge(row(entry(0.46, *found), entry(1.0)), "pytorch")
    assert faulty.faulty
    assert (faulty.named, faulty.early) == (named, early)
    assert healthy.case.endswith("+fix")
    assert not healthy.faulty
    assert not left_out


def test_what_does_not_show_is_left_out() -> None:
    verdicts, left_out = judge(row(entry(0.99), entry(1.0)), "pytorch")
    assert [v.faulty for v in verdicts] == [False]
    assert len(left_out) == 1
    verdicts, left_out = judge({"task": row(entry(0), entry(0))["task"], "error": "no end after 9 s"}, "pytorch")
    assert not verdicts
    assert "no end" in left_out[0]


def test_the_summary_counts() -> None:
    rows = [row(entry(0.46, finding("slow_convergence")), entry(1.0, finding("overfitting", "warning")))]
    rows.append(row(entry(0.11), entry(0.98, finding("not_learning")), "so58609115"))
    text = summarize(rows, "pytorch")
    assert "| real | 2 | 1/2 (50 %) | 1/2 (50 %) | 1/2 (50 %) | 2 | 1/2 (50 %) | 1/2 (50 %) | 1/2 (50 %) |" in text
    assert "Not found:\n* so58609115" in text
    assert "False alarms:" in text


def test_a_shared_fix_is_trained_once() -> None:
    made = tasks(load_cases(["zoo"]), "pytorch", 1)
    assert sum("fixed" in task["variants"] for task in made) == 3  # one each for Circle, Blob and MNIST
    assert all(task["case"] != "ptf-linreg-shape" for task in tasks(load_cases(["real"]), "keras3", 1))


def test_rows_in_the_file_are_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, module = tmp_path / "rows.jsonl", "benchmarks.no_such_module"
    rows = pool.run_all(module, [{"case": 1}], out)
    assert "no_such_module" in rows[0]["error"]
    out.write_text(json.dumps({"task": {"case": 1}, "score": 7}) + '\n{"task": {"ca')
    assert pool.run_all(module, [{"case": 1}], out) == [{"task": {"case": 1}, "score": 7}]
    assert "incomplete line" in capsys.readouterr().err


def test_a_worker_prints_its_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["worker", '{"case": 2}'])
    pool.worker(lambda task: {"twice": 2 * task["case"]})
    assert capsys.readouterr().out == 'row: {"twice": 4}\n'


def test_overhead_statistics() -> None:
    plain, watched = np.full(20, 2.0), np.full(20, 2.02)
    watched[3] = 6.02  # one block in which steps were measured
    assert median_ratio(plain, watched)[0] == pytest.approx(1.01)
    total, low, high = total_ratio(plain, watched)
    assert total == pytest.approx(1.11)
    assert low < total < high
    noisy = np.random.default_rng(0).normal(1.01, 0.01, 200)
    _, low, high = median_ratio(np.ones(200), noisy)
    assert low < 1.01 < high
    assert high - low < 0.01


@pytest.mark.parametrize(("repaired", "ratio"), [(0.5, 0.0), (0.7, 0.5), (0.9, 1.0), (0.95, 1.0), (0.3, 0.0)])
def test_the_ratio_is_clipped(repaired: float, ratio: float) -> None:
    assert clipped_ratio(0.5, repaired, 0.9) == pytest.approx(ratio)


def test_the_repair_summary_tells_dear_fixes_apart_and_counts_losses() -> None:
    def made(case: str, repaired: float, status: str, fix_cost: float, plan: str | None = "x") -> dict[str, Any]:
        task = {"framework": "pytorch", "source": "real", "case": case, "seed": 0, "budget": 3.0}
        numbers = {
            "given": 0.5,
            "repaired": repaired,
            "fixed": 1.0,
            "fix_cost": fix_cost,
            "cost": 2.5,
            "cost_to_win": 1.2,
        }
        return {"task": task, **numbers, "status": status, "plan": plan, "findings": []}

    rows = [made("so50306988", 1.0, "repaired", 1.0), made("so58609115", 0.4, "improved", 1.0)]
    rows += [made("so39939881", 0.75, "repaired", 40.0), made("so43239467", 0.9, "healthy", 1.0, None)]
    text = summarize_repair(rows, 3.0)
    assert "| all | 3 | 0.333 | 1/3 (33 %) | 1/3 (33 %) | 1 | 1.20 | 1.20 | 2.50 |" in text
    assert "| fix beyond the budget | 1 | 0.500 |" in text


def test_bad_input_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "--only", "nothing"]) == 2
    assert "'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "entries", "shown"),
    [
        (
            detect,
            [{"given": entry(0.46, finding("slow_convergence")), "fixed": entry(1.0)}] * 2,
            "### pytorch\n\n| cases |",
        ),
        (
            lambda runs: run_repair_benchmark(runs, 3.0),
            [{"error": "no end after 9 s"}] * 2,
            "* so50306988 (seed 1): no end after 9 s",
        ),
    ],
)
def test_each_case_is_run_with_each_seed_in_each_framework(
    command: Any, entries: list[dict[str, Any]], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def run(module: str, given: list[dict[str, Any]], *_: Any, **__: Any) -> list[dict[str, Any]]:
        asked.extend(given)
        return [{"task": task, **found} for task, found in zip(given, entries, strict=True)]

    monkeypatch.setattr(runs, "run_all", run)
    text = command(runs.Runs(["pytorch", "keras3"], ["real"], seeds=2, names=["so50306988"]))
    assert [(task["framework"], task["case"], task["seed"]) for task in asked] == [
        (framework, "so50306988", seed) for framework in ("pytorch", "keras3") for seed in (0, 1)
    ]
    assert shown in text
    assert "### keras3" in text
