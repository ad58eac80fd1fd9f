from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrainer.errors import LogError
from autotrainer.monitoring.logs.log_reader import Record, StepRecord, read_log
from autotrainer.monitoring.logs.run_log import RUN_LOG, LogWriter, encode_step
from autotrainer.records.json_lines import LineWriter
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, LayerInfo, StepStats
from autotrainer.records.task import TargetSummary, TaskContext


def _read(path: Path, /, *records: dict[str, Any], **header: Any) -> list[Record]:
    """Read a log of these records."""
    with path.open("w") as file:
        writer = LineWriter(file, RUN_LOG)
        writer.write(
            json.dumps({"autotrainer_log": 2, "version": "0", "step_columns": [], "layer_columns": [], **header})
        )
        for record in records:
            writer.write(json.dumps(record))
    return list(read_log(path))


def _context(layers: int) -> dict[str, Any]:
    return {"type": "context", "context": {"layers": [{"name": str(number)} for number in range(layers)]}}


def _step(step: int, /, **change: Any) -> dict[str, Any]:
    record = {"type": "step", "step": step, "epoch": 0, "scalars": [], "layers": [], "losses": [], "targets": {}}
    return {**record, **change}


def test_writers_use_separate_files(tmp_path: Path) -> None:
    writers = [LogWriter(tmp_path / "new" / "folder") for _ in range(3)]
    assert len({writer.path for writer in writers}) == 3
    for writer in writers:
        writer.close()


VALUES = st.one_of(st.just(math.nan), st.just(math.inf), st.floats(-1e9, 1e9))


@given(
    st.lists(VALUES, min_size=len(STEP_COLUMNS), max_size=len(STEP_COLUMNS)), st.integers(0, 3), st.floats(0, math.inf)
)
def test_records_round_trip(tmp_path_factory: Any, values: list[float], layers: int, loss: float) -> None:
    table = np.resize(np.array(values), (layers, len(LAYER_COLUMNS)))
    stats = StepStats(7, 2, np.array(values), table)
    targets = TargetSummary(count=4, rows=4, minimum=0.0, values=(0.0, 1.0), classes=2)
    context = TaskContext("x", layers=tuple(LayerInfo(f"é{n}", units=n) for n in range(layers)), asked={"q": loss})
    writer = LogWriter(tmp_path_factory.mktemp("log"))
    writer.write({"type": "context", "context": context.to_dict()})
    writer.write(encode_step(stats, [(5, math.inf), (6, loss)], targets))
    first, second = read_log(writer.path)
    writer.close()
    assert repr(first) == f"ContextRecord(context={context!r})"
    assert isinstance(second, StepRecord)
    np.testing.assert_array_equal(second.stats.scalars, stats.scalars)
    np.testing.assert_array_equal(second.stats.layers, stats.layers)
    assert (second.step, second.epoch, second.losses.tolist()) == (7, 2, [[5, math.inf], [6, loss]])
    assert repr(second.targets) == repr(targets)


def test_columns_of_other_versions_are_matched_by_name(tmp_path: Path) -> None:
    step = _step(0, scalars=[3.0, 1.0], layers=[[2.0, 5.0]])
    columns = {"step_columns": ["gone", "loss"], "layer_columns": ["weight_norm", "gone"]}
    _, record = _read(tmp_path / "run", _context(1), step, **columns)
    assert isinstance(record, StepRecord)
    assert record.scalars[STEP_COLUMNS.index("loss")] == 1.0
    assert record.layers[0, LAYER_COLUMNS.index("weight_norm")] == 2.0
    assert np.isnan(record.layers[0, LAYER_COLUMNS.index("grad_norm")])


@pytest.mark.parametrize(
    "header",
    [
        {"step_columns": STEP_COLUMNS[::-1]},
        {"layer_columns": ["grad_norm", "grad_norm"]},
        {"layer_columns": "grad_norm"},
        {"version": None},
        {"autotrainer_log": 3},
        {"autotrainer_log": 2.0},
        {"autotrainer_log": True},
    ],
)
def test_header_that_makes_no_sense_is_an_error(tmp_path: Path, header: dict[str, Any], record_property: Any) -> None:
    with pytest.raises(LogError, match="no header of a run log of format 2"):
        _read(tmp_path / "run", **header)
    record_property("attacks", 1)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (_step(1, step=True), "step: a whole number from -1 to 1000000000000 expected, not True"),
        (_step(1, step=10**13), "step: a whole number"),
        (_step(0), "step: 0 after 0"),
        (_step(1, epoch=-1), "epoch: a whole number"),
        (_step(1, scalars=[1.0]), "scalars: 0 numbers expected, not 1"),
        (_step(1, layers=[[1.0]]), "layers: 1 rows of 0 numbers"),
        (_step(1, layers=[[], []]), "layers: 1 rows"),
        (_step(1, layers=[[1.0], []]), "layers: rows of the same length"),
        (_step(1, losses=[[0, 1.0, 2.0]]), "losses: pairs"),
        (_step(1, losses=[[0.5, 1.0]]), "losses: pairs"),
        (_step(1, losses=[[None, 1.0]]), "losses: pairs"),
        (_step(1, targets={"values": [{}]}), "targets: values: 0: a number expected, not {}"),
        (_step(1, targets={"one_hot": 1}), "targets: one_hot: true or false expected, not 1"),
        (_context(2), "layers: 2, but the steps before have 1"),
        ({"type": "context", "context": {"loss": {"expects": "x"}}}, "context: loss: expects: one of logits, "),
        ({"type": "epoch", "epoch": 0, "step": 0, "values": {str(n): 0.0 for n in range(1001)}}, "1000 names"),
        ({"type": "epoch", "epoch": 0, "step": -1, "values": {}}, "step: -1 after 0"),
        ({"type": "end"}, "step is missing"),
        ({"type": "end", "step": 0, "finished": "yes"}, "finished: true or false"),
        ({"type": "stop"}, "type: one of context, step, "),
        ({"type": ["end"]}, "type: one of"),
        ({}, "Expecting"),
    ],
)
def test_record_that_makes_no_sense_is_an_error(
    tmp_path: Path, record: dict[str, Any], message: str, record_property: Any
) -> None:
    records = [_context(1), _step(0, layers=[[]])]
    assert len(_read(tmp_path / "run", *records)) == 2
    with pytest.raises(LogError, match=r"run: line 4 is damaged \(.*head -n 3") as error:
        _read(tmp_path / "run", *records, record)
    assert message in str(error.value)
    record_property("attacks", 1)
