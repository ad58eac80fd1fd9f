"""Trackio on this machine: values, texts and alerts of a run, read back from its database."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from autotrainer.errors import ConfigError
from autotrainer.integrations.sinks.trackio import TrackioSink
from autotrainer.records.findings import Finding, Severity

pytestmark = [
    pytest.mark.integrations,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:trackio"),
]

ROOT = Finding("vanishing_gradient", "AT101", Severity.ERROR, 0.9, "Fades.", ("a",), step=7)
CONSEQUENCE = Finding("not_learning", "AT303", Severity.WARNING, 0.9, "Stuck.", step=7, caused_by="vanishing_gradient")


@pytest.fixture
def trackio(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    library = pytest.importorskip("trackio")
    for module in ("trackio.utils", "trackio.sqlite_storage"):
        monkeypatch.setattr(f"{module}.TRACKIO_DIR", tmp_path, raising=False)
    library.context_vars.current_run.set(None)
    library.context_vars.current_project.set(None)
    return library


def logged(project: str) -> list[dict[str, Any]]:
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = SQLiteStorage.get_runs(project)
    logs: list[dict[str, Any]] = SQLiteStorage.get_logs(project, run)
    return logs


def test_new_run_keeps_all_samples_and_is_finished(trackio: Any) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    sink = TrackioSink(project="new")
    assert trackio.context_vars.current_run.get() is None
    for step in (0, 1, 5):
        sink.scalars(step, {"autotrainer/loss": 0.5, "autotrainer/a/grad_norm": math.inf})
    sink.finding(ROOT)
    sink.finding(CONSEQUENCE)
    sink.close()
    rows = logged("new")
    assert [row["step"] for row in rows if "autotrainer/loss" in row] == [0, 1, 5]
    assert rows[0]["autotrainer/a/grad_norm"] == math.inf
    assert [row["autotrainer/not_learning"] for row in rows if "autotrainer/not_learning" in row] == [str(CONSEQUENCE)]
    (alert,) = SQLiteStorage.get_alerts("new")
    assert (alert["title"], alert["level"]) == ("autotrainer error: vanishing_gradient", "error")


def test_run_of_the_user_keeps_its_steps_and_stays_open(trackio: Any) -> None:
    run = trackio.init(project="mine", auto_log_gpu=False, auto_log_cpu=False)
    sink = TrackioSink()
    for epoch in range(3):
        sink.scalars(100 * epoch, {"autotrainer/loss": 0.5})
        run.log({"score": epoch})
    sink.close()
    run.log({"score": 3})
    run.finish()
    rows = logged("mine")
    assert [(row["step"], row["score"]) for row in rows if "score" in row] == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert [row["autotrainer/step"] for row in rows if "autotrainer/step" in row] == [0, 100, 200]


def test_run_in_which_the_user_logs_nothing_keeps_all_samples(trackio: Any) -> None:
    run = trackio.init(project="quiet", auto_log_gpu=False, auto_log_cpu=False)
    sink = TrackioSink()
    for step in (0, 4, 9):
        sink.scalars(step, {"autotrainer/loss": 0.5})
    sink.close()
    run.finish()
    assert [row["step"] for row in logged("quiet")] == [0, 4, 9]


def test_sink_of_an_earlier_training_logs_to_the_run_that_is_active_then_or_to_a_new_one(trackio: Any) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    sink = TrackioSink(project="twice")
    for step in (3, 4):
        sink.reopen()
        sink.scalars(step, {"autotrainer/loss": 0.5})
        sink.close()
    names = SQLiteStorage.get_runs("twice")
    steps = sorted(row["step"] for name in names for row in SQLiteStorage.get_logs("twice", name))
    assert (len(names), steps) == (2, [3, 4])
    run = trackio.init(project="mine", auto_log_gpu=False, auto_log_cpu=False)
    mine = TrackioSink(run)
    for _ in range(2):
        mine.reopen()
        mine.scalars(7, {"autotrainer/loss": 0.5})
        mine.close()
    run.finish()
    assert [row["autotrainer/step"] for row in logged("mine") if "autotrainer/step" in row] == [7, 7]


def test_server_that_can_not_be_used_is_one_clear_line(trackio: Any) -> None:
    with pytest.raises(ConfigError, match="can't start a run"):
        TrackioSink(server_url="no url")
