"""JSON lines: what is written can be read back, strictly, and a file of an earlier run is kept."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from autotrainer.errors import ConfigError
from autotrainer.integrations.sinks.jsonl import JsonLinesSink
from autotrainer.records.findings import Finding, Severity

FINDING = Finding("nonfinite", "AT801", Severity.ERROR, 0.9, "NaN\nin \ud800", ("a/b\x1b",), evidence={"x": math.inf})


def read(path: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> float:
        raise ValueError(constant)

    return [json.loads(line, parse_constant=refuse) for line in path.read_bytes().decode("ascii").splitlines()]


def test_lines_are_strict_json_and_complete_at_any_time(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.jsonl"
    sink = JsonLinesSink(path)
    sink.scalars(3, {"autotrainer/loss": 0.5, "autotrainer/a/grad_norm": math.inf})
    sink.finding(FINDING)
    before_close = read(path)
    sink.close()
    sink.close()
    lines = read(path)
    assert lines[:-1] == before_close
    assert [line.pop("type") for line in lines] == ["run", "scalars", "finding", "end"]
    assert all(line.pop("time") > 0 for line in lines)
    assert lines[0]["version"] == 1
    assert lines[1] == {"step": 3, "values": {"autotrainer/loss": 0.5, "autotrainer/a/grad_norm": "inf"}}
    assert Finding.from_dict(lines[2] | {"evidence": {}}).layers == FINDING.layers


def test_a_second_run_is_appended(tmp_path: Path) -> None:
    for _ in range(2):
        JsonLinesSink(tmp_path / "run.jsonl").close()
    assert [line["type"] for line in read(tmp_path / "run.jsonl")] == ["run", "end"] * 2


@pytest.mark.parametrize("path", ["", "folder", 3, "file/below"])
def test_a_path_that_can_not_be_written_is_one_clear_line(path: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").touch()
    with pytest.raises(ConfigError) as caught:
        JsonLinesSink(path)
    assert "\n" not in str(caught.value)


def test_sink_of_an_earlier_training_is_opened_again(tmp_path: Path) -> None:
    sink = JsonLinesSink(tmp_path / "run.jsonl")
    for _ in range(2):
        sink.reopen()
        sink.scalars(0, {"autotrainer/loss": 0.5})
        sink.close()
    assert [line["type"] for line in read(tmp_path / "run.jsonl")] == ["run", "scalars", "end"] * 2
