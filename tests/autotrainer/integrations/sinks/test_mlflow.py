"""MLflow on a local file store: metrics, tags and the text of a run, read back by its client."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autotrainer.errors import ConfigError
from autotrainer.integrations.sinks.mlflow import MLflowSink
from autotrainer.monitoring.sinks.scalar_names import ScalarNames
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.signals import LayerInfo

pytestmark = [
    pytest.mark.integrations,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::FutureWarning"),
]

WARNING = Finding("not_learning", "AT303", Severity.WARNING, 0.9, "Stuck.", step=3)
ERROR = Finding("vanishing_gradient", "AT101", Severity.ERROR, 0.9, "Fades.\x1b", ("a",), step=7)


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    library = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    before = library.get_tracking_uri()
    library.set_tracking_uri((tmp_path / "store").as_uri())
    yield library
    while library.active_run() is not None:
        library.end_run()
    library.set_tracking_uri(before)


def only_run(mlflow: Any) -> Any:
    (run,) = mlflow.MlflowClient().search_runs(["0"])
    return run


def test_new_run_has_metrics_tags_and_text_and_is_terminated(mlflow: Any) -> None:
    sink = MLflowSink()
    assert mlflow.active_run() is None
    sink.scalars(0, {f"autotrainer/layer{i}/grad_norm": 0.5 for i in range(1500)})  # more than one batch of MLflow
    sink.scalars(4, {"autotrainer/layer1/grad_norm": math.inf, "autotrainer/loss": 0.25})
    sink.finding(WARNING)
    sink.finding(ERROR)
    sink.finding(WARNING)
    sink.close()
    run = only_run(mlflow)
    assert run.info.status == "FINISHED"
    assert len(run.data.metrics) == 1501
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "autotrainer/layer1/grad_norm")
    assert [(metric.step, metric.value) for metric in history] == [(0, 0.5), (4, math.inf)]
    assert run.data.tags["autotrainer.severity"] == "error"
    assert run.data.tags["autotrainer.vanishing_gradient"] == str(ERROR)
    text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/autotrainer/findings.txt")
    assert text.splitlines()[1] == f"{ERROR} (step 7)"
    assert mlflow.search_runs(["0"], filter_string="tags.`autotrainer.severity` = 'error'", output_format="list")


def test_active_run_is_used_and_stays_open(mlflow: Any) -> None:
    with mlflow.start_run() as run:
        sink = MLflowSink()
        sink.scalars(1, {"autotrainer/loss": 0.5})
        sink.close()
        assert mlflow.active_run().info.run_id == run.info.run_id
        assert only_run(mlflow).info.status == "RUNNING"
    assert only_run(mlflow).data.metrics == {"autotrainer/loss": 0.5}


def test_sink_of_an_earlier_training_logs_to_the_run_that_is_active_then_or_to_a_new_one(mlflow: Any) -> None:
    sink = MLflowSink()
    for step in (3, 4):
        sink.reopen()
        sink.scalars(step, {"autotrainer/loss": 0.5})
        sink.finding(WARNING)
        sink.close()
    with mlflow.start_run() as active:
        sink.reopen()
        sink.scalars(5, {"autotrainer/loss": 0.5})
        sink.close()
        assert mlflow.active_run().info.run_id == active.info.run_id
    client = mlflow.MlflowClient()
    runs = client.search_runs(["0"], order_by=["start_time"])
    steps = [m.step for run in runs for m in client.get_metric_history(run.info.run_id, "autotrainer/loss")]
    assert sorted(steps) == [3, 4, 5]
    assert len(runs) == 3
    assert sum("autotrainer.severity" in run.data.tags for run in runs) == 2


def test_names_of_hostile_layers_are_accepted(mlflow: Any) -> None:
    layers = [LayerInfo(name) for name in ("a/b", "../x", "", "loss", "重" * 500, "\ud800", "A/B", "a b:%")]
    names = [name for group in ScalarNames(layers)._names.values() for name in group]
    sink = MLflowSink()
    sink.scalars(0, {"autotrainer/loss": 1.0, **dict.fromkeys(names, 1.0)})
    sink.close()
    assert only_run(mlflow).data.metrics.keys() == {"autotrainer/loss", *names}


def test_run_that_does_not_exist_is_one_clear_line(mlflow: Any) -> None:
    with pytest.raises(ConfigError, match=r"can't use a run in .*check the tracking URI") as caught:
        MLflowSink("no-such-run")
    assert "\n" not in str(caught.value)
