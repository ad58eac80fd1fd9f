"""Small end-to-end runs of the benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotrainer.errors import DataError
from benchmarks.data.datasets import data_folder
from benchmarks.detect.suite import detect
from benchmarks.execution.pool import read_rows
from benchmarks.execution.runs import Runs
from benchmarks.overhead.run import run as run_overhead
from benchmarks.repair.suite import repair


@pytest.fixture
def needs_data() -> None:
    try:
        data_folder()
    except DataError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.usefixtures("needs_data")
def test_detect_in_both_frameworks(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    text = detect(Runs(["pytorch", "keras3"], ["real"], names=["so50306988", "so58609115"], out=out))
    rows = read_rows(out)
    assert len(rows) == 4
    for row in rows:
        assert "error" not in row, row
        assert row["given"]["score"] + 0.3 < row["fixed"]["score"]
        assert not row["given"]["complaints"]
    assert text.count("| real | autotrainer | 2 |") == 2
    assert "### The same verdict in both frameworks" in text


@pytest.mark.slow
@pytest.mark.usefixtures("needs_data")
def test_repair_in_both_frameworks(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    methods = ("fit", "random log-uniform")
    text = repair(Runs(["pytorch", "keras3"], ["real"], names=["so47241622"], out=out), [2.5], methods)
    rows = read_rows(out)
    assert {row["task"]["framework"] for row in rows} == {"pytorch", "keras3"}
    for row in rows:
        assert "error" not in row, row
        assert row["given"] + 0.3 < row["fixed"]
        assert row["fix_cost"] == 1.0
        assert tuple(entry["method"] for entry in row["methods"]) == methods
        for entry in row["methods"]:
            assert "error" not in entry, entry
            assert 1 <= entry["cost"] <= 2.5
            assert (entry["plan"] is None) == (entry["cost_to_win"] is None)
            assert entry["cost_to_win"] is None or 1 < entry["cost_to_win"] <= entry["cost"]
    assert text.count("| real | original | 1 | 0.000") == 2


def test_overhead_times_plain_and_watched_blocks() -> None:
    row = run_overhead({"framework": "pytorch", "model": "mlp", "pairs": 3, "seconds": 0.01})
    for name in ("plain_median", "watched_median", "plain_processor", "watched_processor"):
        assert len(row[name]) == 3
        assert min(row[name]) > 0
