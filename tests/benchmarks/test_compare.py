"""Comparison of two files of rows, and the page of stored rows."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.cases.case import load_cases
from benchmarks.reporting.page import blocks

CASES = [case.id for case in load_cases(["real"]) if case.ceiling is None][:12]


def watched(case: str, *, detected: bool, false_alarm: bool = False, framework: str = "pytorch") -> dict[str, Any]:
    def entry(score: float, error: bool) -> dict[str, Any]:
        one = {"problem": "not_learning", "severity": "error", "seen": 900, "confidence": 0.9, "caused_by": None}
        findings = [one] if error else []
        first = 900 if error else None
        return {"score": score, "steps": 1000, "first_error": first, "raised": findings, "findings": findings}

    task = {"framework": framework, "source": "real", "case": case, "seed": 0, "variants": ["given", "fixed"]}
    return {"task": task, "given": entry(0.0, detected), "fixed": entry(1.0, false_alarm)}


def repaired(case: str, score: float, seed: int = 0) -> dict[str, Any]:
    task = {"framework": "pytorch", "source": "real", "case": case, "seed": seed, "budgets": [3.0], "methods": ["fit"]}
    entry = {"method": "fit", "budget": 3.0, "repaired": score, "cost": 2.0, "cost_to_win": 1.5, "plan": "x | y"}
    return {"task": task, "given": 0.0, "fixed": 1.0, "fix_cost": 1.0, "methods": [entry]}


def timed(model: str, ratio: float = 1.01) -> dict[str, Any]:
    noise = [1 + 0.002 * math.sin(i) for i in range(16)]
    blocks = {name: [1.0] * 16 for name in ("plain_median", "plain_processor")}
    blocks |= {name: [ratio * n for n in noise] for name in ("watched_median", "watched_processor")}
    task = {"framework": "pytorch", "model": model, "setting": "default", "pairs": 16}
    return {"task": task, **blocks, "start": 0.1, "entry": 0.0, "steps": 100}


def written(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def compared(folder: Path, before: Sequence[Any], after: Sequence[Any], capsys: pytest.CaptureFixture[str]) -> str:
    files = [written(folder / name, rows) for name, rows in (("a.jsonl", before), ("b.jsonl", after))]
    assert main(["compare", *files]) == 0
    return capsys.readouterr().out


def test_gains_and_losses_are_listed_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = [watched(case, detected=i < 2, false_alarm=i == 11) for i, case in enumerate(CASES)]
    after = [watched(case, detected=i != 0, false_alarm=i == 10) for i, case in enumerate(CASES)]
    text = compared(tmp_path, before, after, capsys)
    assert "| error found | 2/12 | 11/12 | 10 | 1 | 0.012 | better |" in text
    assert "| error on healthy | 1/12 | 1/12 | 1 | 1 | 1.000 | within noise |" in text
    assert f"error found: no longer:\n\n* {CASES[0]} (seed 0, pytorch)" in text
    assert f"error on healthy: new:\n\n* {CASES[10]}+fix (seed 0, pytorch)" in text
    assert "/" not in text.splitlines()[0].replace("`", "")  # no file path
    assert "| better |" not in compared(tmp_path, after, after, capsys)
    assert "| error found | 11/12 | 2/12 | 1 | 10 | 0.012 | worse |" in compared(tmp_path, after, before, capsys)


def test_seeds_of_one_case_are_not_independent_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rows(detected: bool) -> list[dict[str, Any]]:
        repeated = [watched(CASES[0], detected=detected) for _ in range(8)]
        return [{**row, "task": {**row["task"], "seed": seed}} for seed, row in enumerate(repeated)]

    text = compared(tmp_path, rows(False), rows(True), capsys)
    assert "| error found | 0/8 | 8/8 | 8 | 0 | 1.000 | within noise |" in text


def test_improvement_ratios_are_compared_in_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = [repaired(case, 0.3 + 0.05 * (i % 3), seed) for i, case in enumerate(CASES) for seed in range(2)]
    after = [repaired(case, 0.5 + 0.05 * (i % 2), seed) for i, case in enumerate(CASES) for seed in range(2)]
    text = compared(tmp_path, before, after, capsys)
    assert re.search(r"\| pytorch \| fit \| 3 \| 24 \| 0.350 \| 0.525 \| \+0.175 \| \+0.1.. to \+0.... \| better", text)
    assert f"fit, budget 3, pytorch: gained:\n\n* {CASES[0]} (seed 0): IR 0.30 → 0.50" in text
    assert "within noise" in compared(tmp_path, before, before, capsys)
    assert "| worse |" in compared(tmp_path, after, before, capsys)


def test_step_times_are_compared_by_their_confidence_intervals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = compared(tmp_path, [timed("mlp"), timed("cnn")], [timed("mlp", 1.03), timed("cnn", 1.0102)], capsys)
    assert re.search(r"pytorch · mlp · default \| 1.01.. \| 1.03.. \| \+0.02.. \| .* \| worse", text)
    assert re.search(r"pytorch · cnn · default .* \| within noise", text)


def test_changed_cases_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = ([watched(case, detected=True) for case in CASES] for _ in range(2))
    before[0]["task"]["recipe"], after[0]["task"]["recipe"] = "1", "2"
    after[1]["task"]["recipe"] = "3"  # older rows have no recipe
    text = compared(tmp_path, before, after, capsys)
    assert "| error found | 11/11 | 11/11 |" in text
    assert text.endswith(f"Not compared, since the case changed from A to B:\n\n* {CASES[0]} (seed 0, pytorch)\n")


def test_last_row_of_a_repeated_case_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = ([watched(case, detected=detected) for case in CASES] for detected in (False, True))
    for row in new:
        row["task"]["recipe"] = "2"
    text = compared(tmp_path, old, [*old, *new], capsys)
    assert "| error found | 0/12 | 12/12 |" in text


CALIBRATED = {"task": {"framework": "pytorch", "logs": "x"}}


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ([], [watched(CASES[0], detected=True)], "no rows in"),
        ([watched(CASES[0], detected=True)], [repaired(CASES[0], 1.0)], "rows of detect"),
        ([watched(CASES[0], detected=True)], [watched(CASES[1], detected=True)], "share no training"),
        ([{"task": {"x": 1}}], [watched(CASES[1], detected=True)], "unknown benchmark"),
        ([{"task": {"logs": "x"}}], [{"task": {"logs": "x"}}], "unknown benchmark"),
        ([CALIBRATED], [CALIBRATED], "can't be compared"),
        ([timed("mlp")], [timed("cnn")], "share no framework, model and setting"),
    ],
)
def test_incomparable_files_end_with_status_2(
    before: list[Any], after: list[Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [written(tmp_path / name, rows) for name, rows in (("a.jsonl", before), ("b.jsonl", after))]
    assert main(["compare", *files]) == 2
    assert words in capsys.readouterr().err


def test_page_is_self_contained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    rows = [
        watched(case, detected=i > 3, framework=name) for name in ("pytorch", "keras3") for i, case in enumerate(CASES)
    ]
    broken = {"task": {**rows[0]["task"], "seed": 1}, "error": "<script>alert(1)</script>"}
    files = [written(tmp_path / "d.jsonl", [*rows, broken]), written(tmp_path / "o.jsonl", [timed("mlp")])]
    files.append(written(tmp_path / "r.jsonl", [repaired(case, 0.5) for case in CASES]))
    out = tmp_path / "deeper" / "page.html"
    assert main(["page", *files, "-o", str(out)]) == 0
    text = out.read_text()
    assert text.count("<svg") == text.count("</svg>") == 6
    assert not re.search(r'(src|href)="(?!#)', text.replace("http://www.w3.org", ""))
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert "<td>null monitor</td>" in text
    assert "<td>original</td>" in text
    capsys.readouterr()


def test_blocks_of_markdown() -> None:
    text = "### A\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\nLost:\n\n* x\n* y"
    heading, table, title, lines = blocks(text)
    assert (heading["kind"], heading["level"], heading["text"]) == ("heading", 3, "A")
    assert (table["head"], table["rows"]) == (["a", "b"], [["1", "2"]])
    assert title["text"] == "Lost:"
    assert lines["lines"] == ["x", "y"]
