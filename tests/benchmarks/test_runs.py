"""Small runs from end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotrainer.errors import DataError
from benchmarks.datasets import data_folder
from benchmarks.detect import detect
from benchmarks.overhead_run import run as run_overhead
from benchmarks.pool import read_rows
from benchmarks.repair_run import run as run_repair
from benchmarks.runs import Runs


@pytest.fixture
def needs_data() -> None:
    try:
        data_folder()
    except DataError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.usefixtures("needs_data")
@pytest.mark.parametrize("framework", ["pytorch", "keras3"])
def test_two_cases_end_to_end(framework: str, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    text = detect(Runs([framework], ["real"], names=["so50306988", "so58609115"], out=out))
    rows = read_rows(out)
    assert len(rows) == 2
    for row in rows:
        assert "error" not in row, row
        assert row["given"]["score"] + 0.3 < row["fixed"]["score"]
        assert not row["given"]["complaints"]
    assert "| real | 2 |" in text


@pytest.mark.slow
@pytest.mark.usefixtures("needs_data")
def test_too_high_a_rate_is_repaired() -> None:
    row = run_repair({"framework": "pytorch", "source": "real", "case": "so46577203", "seed": 0, "budget": 3.0})
    assert row["given"] < 0 < 0.9 < row["fixed"]
    assert row["cost"] <= 3.0
    assert row["fix_cost"] == 1.0
    if row["plan"] is not None:
        assert 0 < row["cost_to_win"] <= row["cost"]
        assert row["repaired"] >= row["given"]
    else:
        assert row["cost_to_win"] is None


def test_blocks_are_timed_in_turns() -> None:
    row = run_overhead({"framework": "pytorch", "model": "mlp", "pairs": 3, "seconds": 0.01})
    for name in ("plain_median", "watched_median", "plain_processor", "watched_processor"):
        assert len(row[name]) == 3
        assert min(row[name]) > 0
