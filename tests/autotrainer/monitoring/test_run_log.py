from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrainer.errors import LogError
from autotrainer.monitoring.run_log import LogWriter, decode_step, encode_step, read_log
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, StepStats
from autotrainer.records.task import TargetSummary

HEADER = '{"autotrainer_log":1,"version":"0","step_columns":[],"layer_columns":[]}\n'


def _write(folder: Path, text: str) -> Path:
    path = folder / "run.jsonl"
    path.write_text(text, "utf-8")
    return path


def test_records_are_flushed_and_read_back(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "new" / "folder")
    writer.write({"type": "end", "step": np.int64(3), "values": (math.inf, math.nan, 1.5)})
    header, record = read_log(writer.path)
    writer.close()
    assert header["autotrainer_log"] == 1
    assert record == {"type": "end", "step": 3, "values": ["inf", None, 1.5]}


def test_writers_use_separate_files(tmp_path: Path) -> None:
    writers = [LogWriter(tmp_path) for _ in range(3)]
    assert len({writer.path for writer in writers}) == 3
    for writer in writers:
        writer.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ('{"autotrainer_log":1}', "is empty or has no complete line"),
        ('{"type":"end"}\n', "no header"),
        ("no json\n", "no header"),
        ('{"autotrainer_log":99}\n', "no header of a run log of format 1"),
        (HEADER + 'dam{aged\n{"type":"end"}\n', r"line 2 is damaged.*head -n 1"),
        (HEADER + '[1]\n{"type":"end"}\n', "line 2 is damaged"),
        (HEADER + '{"type":"end"}\n{"a":\n{"type":"end"}\n{"a', "line 3 is damaged"),
    ],
)
def test_malformed_log_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LogError, match=message):
        list(read_log(_write(tmp_path, text)))


def test_missing_and_binary_files_are_errors(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing", tmp_path / "binary", tmp_path):
        with pytest.raises(LogError, match="can't read the run log"):
            list(read_log(path))


@pytest.mark.parametrize("rest", ['{"type":"st', '{"type":"step"}', '{"type":"st\n'])
def test_truncated_last_line_is_skipped_with_a_warning(
    tmp_path: Path, rest: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = _write(tmp_path, HEADER + '{"type":"end"}\n' + rest)
    with caplog.at_level(logging.WARNING, "autotrainer"):
        records = list(read_log(path))
    assert [r.get("type") for r in records] == [None, "end"]
    assert "is skipped" in caplog.text


VALUES = st.one_of(st.just(math.nan), st.just(math.inf), st.floats(-1e9, 1e9))


@given(st.lists(VALUES, min_size=len(STEP_COLUMNS), max_size=len(STEP_COLUMNS)), st.integers(0, 3))
def test_steps_round_trip(values: list[float], layers: int) -> None:
    table = np.resize(np.array(values), (layers, len(LAYER_COLUMNS)))
    stats = StepStats(7, 2, np.array(values), table)
    targets = TargetSummary(count=4, rows=4, minimum=0.0, values=(0.0, 1.0), classes=2)
    from autotrainer.monitoring.run_log import _plain

    record = json.loads(json.dumps(_plain(encode_step(stats, [(5, math.inf), (6, 0.5)], targets)), allow_nan=False))
    back, losses, summary = decode_step(record, list(STEP_COLUMNS), list(LAYER_COLUMNS))
    np.testing.assert_array_equal(back.scalars, stats.scalars)
    np.testing.assert_array_equal(back.layers, stats.layers)
    assert (back.step, back.epoch, losses) == (7, 2, [(5, math.inf), (6, 0.5)])
    assert repr(summary) == repr(targets)


def test_columns_of_other_versions_are_matched_by_name() -> None:
    record = {"step": 0, "epoch": 0, "scalars": [3.0, 1.0], "layers": [[2.0, 5.0]], "losses": []}
    record |= {"targets": {"values": []}}
    stats, _, _ = decode_step(record, ["gone", "loss"], ["weight_norm", "gone"])
    assert stats.scalars[STEP_COLUMNS.index("loss")] == 1.0
    assert stats.layers[0, LAYER_COLUMNS.index("weight_norm")] == 2.0
    assert np.isnan(stats.layers[0, LAYER_COLUMNS.index("grad_norm")])


@pytest.mark.parametrize("lacking", ["step", "scalars", "layers", "losses", "targets"])
def test_incomplete_steps_are_errors(lacking: str) -> None:
    record = {"step": 0, "epoch": 0, "scalars": [], "layers": [], "losses": [], "targets": {"values": []}}
    del record[lacking]
    with pytest.raises(LogError, match="damaged"):
        decode_step(record, [], ["grad_norm"])
