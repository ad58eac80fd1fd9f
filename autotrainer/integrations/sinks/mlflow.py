"""MLflow: measurements as metrics of a run, findings as tags and as a text."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from autotrainer.errors import ConfigError
from autotrainer.integrations._callback import require
from autotrainer.integrations.sinks._support import CopyableSink
from autotrainer.records.findings import Finding

__all__ = ["MLflowSink"]

_BATCH = 1000
"""Metrics that MLflow takes in one call, at most."""


class MLflowSink(CopyableSink):
    """Logs to the active run of MLflow, or to a new one, which is terminated at the end.

    ```python
    with mlflow.start_run(), autotrainer.watch(model, optimizer, sinks=["mlflow"]):
        ...
    ```

    Each finding is a tag (``autotrainer.<problem>``) and a line of the artifact ``autotrainer/findings.txt``; the tag
    ``autotrainer.severity`` is the worst severity, to search runs by: ``tags."autotrainer.severity" = "error"``.

    Args:
        run_id: Identifier of an existing run; None: the active run, or a new one.
        experiment: Name of the experiment of a new run; None: the active one,
            or ``Default`` with a ``tracking_uri``.
        tracking_uri: Server, database or folder; None: the current one of MLflow.

    Raises:
        ConfigError: If the package ``mlflow`` is missing, or the run can't be found or started.
    """

    def __init__(
        self, run_id: str | None = None, *, experiment: str | None = None, tracking_uri: str | None = None
    ) -> None:
        self._mlflow: Any = require("mlflow", "mlflow")
        self._given, self._experiment_name, self._tracking_uri = run_id, experiment, tracking_uri
        self._open()

    def _open(self) -> None:
        mlflow, run_id, tracking_uri = self._mlflow, self._given, self._tracking_uri
        active = mlflow.active_run() if run_id is None and tracking_uri is None else None
        run_id = run_id if active is None else active.info.run_id
        self._owned = run_id is None
        try:
            self._client: Any = mlflow.MlflowClient(tracking_uri)
            if run_id is None:
                elsewhere = tracking_uri is not None
                run = self._client.create_run(self._experiment(self._experiment_name, elsewhere=elsewhere))
            else:
                run = self._client.get_run(run_id)
        except Exception as error:
            where = tracking_uri or mlflow.get_tracking_uri()
            hint = "check the tracking URI (MLFLOW_TRACKING_URI) and its credentials"
            raise ConfigError(f"sink 'mlflow' can't use a run in {where!r} ({error}): {hint}") from error
        self._metric: Any = mlflow.entities.Metric
        self._run_id: str = run.info.run_id
        self._findings: list[Finding] = []
        self._closed = False

    def reopen(self) -> None:
        """Log to the run that is active now, or to a new one, if a training has closed this sink before."""
        if self._closed:
            self._open()

    def _experiment(self, name: str | None, *, elsewhere: bool) -> str:
        """Return the identifier of the experiment of a new run."""
        if name is None and not elsewhere:
            return str(require("mlflow.tracking.fluent", "mlflow")._get_experiment_id())
        experiment = self._client.get_experiment_by_name(name or "Default")
        if experiment is None:
            return str(self._client.create_experiment(name or "Default"))
        return str(experiment.experiment_id)

    def scalars(self, step: int, mapping: Mapping[str, float], /) -> None:
        """Log the measurements of a step."""
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for name, value in mapping.items()]
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + _BATCH])

    def finding(self, finding: Finding, /) -> None:
        """Set the tags of a finding."""
        self._findings.append(finding)
        self._client.set_tag(self._run_id, f"autotrainer.{finding.problem}", str(finding))
        worst = min((f.severity for f in self._findings), key=lambda severity: severity.rank)
        self._client.set_tag(self._run_id, "autotrainer.severity", str(worst))

    def close(self) -> None:
        """Write the findings as a text, and terminate the run if this sink started it."""
        if self._findings:
            lines = "".join(f"{finding} (step {finding.step})\n" for finding in self._findings)
            self._client.log_text(self._run_id, lines, "autotrainer/findings.txt")
        if self._owned and not self._closed:
            self._client.set_terminated(self._run_id)
        self._closed = True
