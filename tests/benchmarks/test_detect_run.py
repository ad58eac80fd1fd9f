"""Two cases, watched from end to end in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotrainer.errors import DataError
from benchmarks.datasets import data_folder
from benchmarks.detect import detect
from benchmarks.pool import read_rows


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["pytorch", "keras3"])
def test_two_cases_end_to_end(framework: str, tmp_path: Path) -> None:
    try:
        data_folder()
    except DataError as error:
        pytest.skip(str(error))
    out = tmp_path / "rows.jsonl"
    text = detect([framework], ["real"], 1, ["so50306988", "so58609115"], out, workers=2)
    rows = read_rows(out)
    assert len(rows) == 2
    for row in rows:
        assert "error" not in row, row
        assert row["given"]["score"] + 0.3 < row["fixed"]["score"]
        assert not row["given"]["complaints"]
    assert "| real | 2 |" in text
