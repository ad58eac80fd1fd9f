"""`compare`: compares recorded runs with a baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from autotrainer import registry
from autotrainer.api.replay import read_run
from autotrainer.comparison.compare import compare_runs
from autotrainer.comparison.compared_run import ComparedRun
from autotrainer.comparison.outcomes import metric_names
from autotrainer.config import as_path
from autotrainer.edits.base import shorten
from autotrainer.errors import ConfigError, nearest
from autotrainer.monitoring.engine import Engine
from autotrainer.monitoring.monitor import Monitor
from autotrainer.records.findings import Severity
from autotrainer.reporting.comparison import Comparison

__all__ = ["compare", "read_baseline"]

Log = str | Path | Monitor


def compare(
    baseline: Log | Iterable[Log],
    runs: Log | Iterable[Log],
    *,
    metrics: str | Iterable[str] = (),
    select: str | Iterable[str] | None = None,
    ignore: str | Iterable[str] = (),
    thresholds: Mapping[str, float] | None = None,
    fail_on: str = "error",
) -> Comparison:
    """Compare runs with a baseline: where they part, which findings are new, and whether they end worse.

    In a test, against logs of a version that worked (``watch(log_dir=…)`` writes them; three or more seeds tell a
    regression from chance):

    ```python
    def test_training_is_no_worse(tmp_path):
        with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=5, log_dir=tmp_path) as monitor:
            train(model, optimizer, loss_fn, monitor)
        comparison = autotrainer.compare(sorted(Path("tests/baseline").glob("*.jsonl")), monitor)
        assert not comparison.worse, comparison.text
    ```

    With one seed on one machine, ``assert comparison.identical`` shows that a change alters nothing.

    Statistics are compared over the steps that all runs have, on scales on which equal factors matter equally, for
    layers matched by name, else by order and shape. A difference counts if it exceeds the scatter between seeds. That
    is measured on the runs of each side, and so few of them are supplemented by the usual scatter of other trainings
    (a moderated t test): with one run a side there is no other, so give several where it matters.

    Args:
        baseline: One or several run logs, or monitors, of the training as it should be.
        runs: One or several of the training to compare.
        metrics: Names of the metrics, passed to ``end_epoch`` or in Keras's history, that decide whether the runs are
            worse; none for all that the runs have, or for the training loss if there are none.
        select: Names, codes, code prefixes (``"AT4"``) or aliases of the problems to compare; None for all.
        ignore: The same, for problems to skip.
        thresholds: Values by ``problem.name``, for logs: a monitor has the findings of its own thresholds.
        fail_on: Lowest severity of a new finding that makes the runs worse: ``error`` or ``warning``.

    Returns:
        The comparison: ``worse``, ``differs`` and ``identical`` are the verdicts, ``score`` is an anomaly score, and
        ``text``, ``to_dict()`` and ``to_json()`` are its forms. Whether the runs behave differently does not make them
        worse; that a metric is, beyond chance, or that most of them have an error that the baseline has not, does.

    Raises:
        LogError: If a log can't be read or is damaged.
        ConfigError: If a side has no run, or an option is invalid.
    """
    if fail_on not in ("error", "warning"):
        raise ConfigError(f"fail_on must be 'error' or 'warning', not {shorten(fail_on)}")
    registry.make_rules(select, ignore, thresholds)  # raises before any log is read

    def engine() -> Engine:
        return Engine(registry.make_rules(select, ignore, thresholds))

    old = [_read(log, "baseline", engine()) for log in _logs(baseline, "baseline")]
    new = [_read(log, "runs", engine()) for log in _logs(runs, "runs")]
    names = _metrics(metrics, [*old, *new])
    return compare_runs(old, new, metrics=names, fail_on=Severity(fail_on))


def read_baseline(
    baseline: Any,
    select: str | Iterable[str] | None = None,
    ignore: str | Iterable[str] = (),
    thresholds: Mapping[str, float] | None = None,
) -> list[ComparedRun]:
    """Return the runs of ``watch(baseline=…)``, with the findings that rules have at their ends.

    Raises:
        LogError: If a log can't be read or is damaged.
        ConfigError: If there is none, or it is not a path or monitor.
    """
    runs = []
    for log in _logs(baseline, "baseline"):
        run = _read(log, "baseline", Engine(()))
        engine = Engine(registry.make_rules(select, ignore, thresholds))  # once, as that takes less time
        engine.evaluate(run.history, run.context)
        runs.append(ComparedRun(run.name, run.history, run.context, tuple(engine.findings)))
    return runs


def _logs(value: Any, name: str) -> list[Any]:
    """Return one or several logs as a list.

    Raises:
        ConfigError: If there is none.
    """
    single = isinstance(value, str | bytes | PathLike | Monitor) or not isinstance(value, Iterable)
    logs = [value] if single else list(value)
    if not logs:
        raise ConfigError(f"{name} has no run log: pass at least one file that watch(log_dir=…) wrote")
    return logs


def _read(log: Any, name: str, engine: Engine) -> ComparedRun:
    if isinstance(log, Monitor):
        problems = {rule.problem for rule in engine.rules}
        findings = tuple(finding for finding in log.findings if finding.problem in problems)
        return ComparedRun(str(log.log_path or "this run"), log.history, log.context, findings)
    path = as_path(log, name)
    run = read_run(path, engine)
    if not run.history.finished:
        engine.evaluate(run.history, run.context)
    return ComparedRun(str(path), run.history, run.context, tuple(engine.findings))


def _metrics(metrics: str | Iterable[str], runs: Sequence[ComparedRun]) -> list[str]:
    """Return the names of metrics as a list.

    Raises:
        ConfigError: If one of the runs does not have one of them.
    """
    names = [metrics] if isinstance(metrics, str) or not isinstance(metrics, Iterable) else list(metrics)
    common = (*metric_names(runs), "loss")
    for name in names:
        if name not in common:
            raise ConfigError(f"not every run has a metric {shorten(name)}: {nearest(str(name), common)}")
    return names
