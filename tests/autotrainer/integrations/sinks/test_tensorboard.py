"""TensorBoard: event files that its own reader reads, without TensorFlow or PyTorch."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from autotrainer.errors import ConfigError
from autotrainer.integrations.sinks.tensorboard import TensorBoardSink, masked_crc32c
from autotrainer.records.findings import Finding, Severity

pytestmark = pytest.mark.integrations

REPOSITORY = Path(__file__).parents[4]
FINDING = Finding("vanishing_gradient", "AT101", Severity.ERROR, 0.9, "The <b>gradient</b>\nfades \ud800.", step=7)


def read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", types.ModuleType("notf"))  # TensorFlow is slow to load
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = module.EventAccumulator(str(folder))
    events.Reload()
    return events


def test_scalars_and_texts_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = TensorBoardSink(tmp_path)
    for step in (0, 5, 5):
        sink.scalars(step, {"autotrainer/loss": 0.5, "autotrainer/a/grad_norm": math.inf, "autotrainer/big": 1e300})
    sink.finding(FINDING)
    before_close = read(tmp_path, monkeypatch).Scalars("autotrainer/loss")
    sink.close()
    events = read(tmp_path, monkeypatch)
    assert [(e.step, e.value) for e in events.Scalars("autotrainer/loss")] == [(0, 0.5), (5, 0.5), (5, 0.5)]
    assert len(before_close) == 3
    assert events.Scalars("autotrainer/a/grad_norm")[0].value == math.inf
    (event,) = events.Tensors("autotrainer/vanishing_gradient/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert event.step == 7
    assert text.startswith("**error** at step 7")
    assert "<b>" not in text.replace("\\<b\\>", "")
    assert events.SummaryMetadata("autotrainer/vanishing_gradient/text_summary").plugin_data.plugin_name == "text"


@pytest.mark.parametrize("size", [4, 8, 255, 256, 257, 512, 5000])
def test_checksum_is_that_of_tensorboard(size: int) -> None:
    reference = pytest.importorskip("tensorboard.compat.tensorflow_stub.pywrap_tensorflow").masked_crc32c
    for data in (os.urandom(size), bytes(size), b"\xff" * size):
        assert masked_crc32c(data) == reference(data)


def test_sink_of_an_earlier_training_is_opened_again(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    for _ in range(2):
        sink.reopen()
        sink.scalars(0, {"autotrainer/loss": 0.5})
        sink.close()
    assert len({path.stat().st_size for path in tmp_path.iterdir()}) == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_each_run_has_a_file_of_its_own(tmp_path: Path) -> None:
    for _ in range(2):
        TensorBoardSink(tmp_path).close()
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2


def test_default_folder_is_new_in_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    TensorBoardSink().close()
    assert len(list(tmp_path.glob("runs/*/events.out.tfevents.*"))) == 1


def test_folder_that_can_not_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="choose another folder"):
        TensorBoardSink(tmp_path / "file")


def test_no_framework_is_imported(tmp_path: Path) -> None:
    code = (
        "import runpy, sys; runpy.run_path('conftest.py'); sys.path.insert(0, '.')\n"
        "from autotrainer.integrations.sinks.tensorboard import TensorBoardSink\n"
        f"sink = TensorBoardSink({str(tmp_path)!r}); sink.scalars(0, {{'a': 1.0}}); sink.close()\n"
        "print([m for m in ('torch', 'tensorflow', 'keras') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert ran.stdout.strip() == "[]"
