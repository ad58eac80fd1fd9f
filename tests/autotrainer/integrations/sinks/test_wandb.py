"""W&B offline: what is in the transaction log of the run, read back with W&B's own records."""

from __future__ import annotations

import json
import math
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autotrainer.errors import ConfigError
from autotrainer.integrations.sinks.wandb import WandbSink
from autotrainer.records.findings import Finding, Severity

pytestmark = pytest.mark.integrations

ROOT = Finding("vanishing_gradient", "AT101", Severity.ERROR, 0.9, "Fades.", ("a",), step=7)
CONSEQUENCE = Finding("not_learning", "AT303", Severity.WARNING, 0.9, "Stuck.", step=7, caused_by="vanishing_gradient")


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    library = pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    yield library
    library.finish()


def records(folder: Path) -> list[Any]:
    """Return the records of the run, once W&B's process, which may go on after its end, has written the last one."""
    path, *_ = sorted(folder.glob("wandb/offline-run-*/*.wandb" if (folder / "wandb").exists() else "*.wandb"))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        complete = list(parse(path.read_bytes()))
        if any(record.WhichOneof("record_type") == "exit" for record in complete):
            return complete
        time.sleep(0.1)
    raise TimeoutError(path)


def parse(data: bytes) -> Iterator[Any]:
    """Yield the records of a log of blocks of 32 KiB, as LevelDB writes it, as far as it is complete."""
    from wandb.proto.wandb_internal_pb2 import Record

    position, parts = 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        if position + 7 + size > len(data):
            return
        parts += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # complete, or the last part
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def rows_of(folder: Path) -> list[dict[str, float]]:
    items = (record.history.item for record in records(folder) if record.WhichOneof("record_type") == "history")
    return [{i.key or i.nested_key[0]: json.loads(i.value_json) for i in row} for row in items]


def alerts(folder: Path) -> list[tuple[str, str]]:
    return [(r.alert.title, r.alert.level) for r in records(folder) if r.WhichOneof("record_type") == "alert"]


def test_new_run_keeps_all_samples_and_is_finished(wandb: Any, tmp_path: Path) -> None:
    sink = WandbSink(dir=tmp_path)
    assert wandb.run is None  # a run that the user starts later is another one
    for step in (0, 1, 3):
        sink.scalars(step, {"autotrainer/loss": 0.5, "autotrainer/a/grad_norm": math.inf})
    sink.finding(ROOT)
    sink.finding(CONSEQUENCE)
    sink.close()
    history = rows_of(tmp_path)
    assert [row["autotrainer/step"] for row in history] == [0, 1, 3]
    assert history[0]["autotrainer/loss"] == 0.5
    assert alerts(tmp_path) == [("autotrainer error: vanishing_gradient", "ERROR")]
    summary = {
        item.key or item.nested_key[0]: item.value_json
        for record in records(tmp_path)
        if record.WhichOneof("record_type") == "summary"
        for item in record.summary.update
    }
    assert "AT303 not_learning [warning]: Stuck." in summary["autotrainer/not_learning"]


def test_run_of_the_user_keeps_its_steps_and_stays_open(wandb: Any, tmp_path: Path) -> None:
    run = wandb.init(project="mine", dir=tmp_path)
    sink = WandbSink()
    for epoch in range(3):
        for step in (0, 1):
            sink.scalars(10 * epoch + step, {"autotrainer/loss": 0.5})
        run.log({"score": epoch}, step=epoch)
    sink.close()
    run.log({"score": 3}, step=3)
    assert wandb.run is run
    run.finish()
    history = rows_of(tmp_path)
    assert [row["score"] for row in history if "score" in row] == [0, 1, 2, 3]
    assert [row["_step"] for row in history] == [0, 1, 2, 3]
    assert {row["autotrainer/step"] for row in history if "autotrainer/step" in row} == {11, 21}


def test_run_in_which_the_user_logs_nothing_keeps_all_samples(wandb: Any, tmp_path: Path) -> None:
    with wandb.init(dir=tmp_path):
        sink = WandbSink()
        for step in (0, 4, 9):
            sink.scalars(step, {"autotrainer/loss": 0.5})
        sink.close()
    assert [row["autotrainer/step"] for row in rows_of(tmp_path)] == [0, 4, 9]


def test_sink_of_an_earlier_training_logs_to_the_run_that_is_active_then_or_to_a_new_one(
    wandb: Any, tmp_path: Path
) -> None:
    sink = WandbSink(dir=tmp_path)
    for step in (3, 4):
        sink.reopen()
        sink.scalars(step, {"autotrainer/loss": 0.5})
        sink.close()
        sink.close()
        time.sleep(1.1)  # folders are named by the second
    folders = sorted(tmp_path.glob("wandb/offline-run-*"))
    steps = [[row["autotrainer/step"] for row in rows_of(folder)] for folder in folders]
    assert steps == [[3], [4]]
    sink = WandbSink()
    sink.close()
    with wandb.init(dir=tmp_path) as run:
        sink.reopen()
        assert sink._run is run
        sink.close()


def test_options_are_refused_where_a_run_is_active(wandb: Any) -> None:
    with wandb.init(), pytest.raises(ConfigError, match="a run is active, so project can't be set"):
        WandbSink(project="other")


def test_without_credentials_one_line_says_what_to_do(wandb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(ConfigError) as caught:
        WandbSink(mode="online")
    assert "\n" not in str(caught.value)
    assert "wandb login" in str(caught.value)
    assert "WANDB_MODE=offline" in str(caught.value)
