"""The suite of unmodified scripts: its programs and its tables."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from autotrainer.errors import ConfigError
from autotrainer.registry import rules
from benchmarks.scripts.suite import QUICK, report, tasks
from benchmarks.scripts.variants import FOLDER, VARIANTS, select
from benchmarks.scripts.watched import main


def row(case: str, status: int, *problems: str, severity: str = "error", **training: Any) -> dict[str, Any]:
    findings = [{"problem": problem, "severity": severity} for problem in problems]
    run = {"epochs": 20, "steps": 860, "sampled": 50, "first": 0, **training}
    return {
        "task": {"script": case.split(":")[0], "case": case},
        "status": status,
        "trainings": [{"findings": findings, **run}],
    }


def test_programs_and_variants_agree() -> None:
    paths = {path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.py")}
    assert paths == {variant.program for variant in VARIANTS}
    assert len({variant.id for variant in VARIANTS}) == len(VARIANTS)
    healthy = [variant for variant in VARIANTS if not variant.causes]
    faulty = [variant for variant in VARIANTS if variant.causes]
    assert len(healthy) >= 24
    assert len({variant.program for variant in faulty}) >= 16
    problems = {rule.problem for rule in rules()}
    assert {cause for variant in faulty for cause in variant.causes} <= problems


def test_programs_use_no_monitor() -> None:
    for path in FOLDER.glob("*.py"):
        imported = {
            alias.name.partition(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert "autotrainer" not in imported


def test_programs_of_threads_watch_themselves() -> None:
    for path in (FOLDER / "threads").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.count("autotrainer.watch(") == 1
        assert "score =" in text
        assert '"faulty" in sys.argv' in text


def test_watched_program_is_run(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from autotrainer.monitoring.monitor import Monitor\n"
        "from autotrainer.monitoring.sampler import Sampler\n"
        "monitor = Monitor([], Sampler(0.01))\n"
        "monitor.close()\n"
        "score = float(sys.argv[1])\n",
        encoding="utf-8",
    )
    assert main([str(tmp_path / "report.json"), str(program), "0.5"]) == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["score"] == 0.5
    assert report["findings"] == []


def test_selection() -> None:
    assert [variant.id for variant in select(["xor"])] == ["xor:healthy", "xor:slow"]
    assert [task["case"] for task in tasks(QUICK, ["keras3"])] == ["keras_sequential:slow"]
    with pytest.raises(ConfigError, match="there is no program 'xro'"):
        select(["xro"])


def test_tables() -> None:
    text = report(
        [
            row("digits_notebook:healthy", 0),
            row("digits_notebook:slow", 1, "not_learning"),
            row("digits_notebook:fast", 0, "abnormal_data", "divergence", severity="warning", epochs=19, first=1),
        ]
    )
    assert "| faulty: status 1 | 1/2" in text
    assert "| faulty: cause first | 1/2" in text
    assert "| faulty: cause first or second | 2/2" in text
    assert "| healthy: status 0 | 1/1" in text
    assert "| first step sampled | 2/3" in text
    assert "| epochs counted | 2/3" in text
    assert (
        "| digits_notebook:fast | 0 ≠ 1 | abnormal_data (w), divergence (w) | 2 | 1 | 19 of 20 | 860 | 50 | 1 |" in text
    )
