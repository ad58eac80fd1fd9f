"""`replay`: evaluates the rules on a recorded run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from autotrainer import registry
from autotrainer.errors import LogError
from autotrainer.monitoring.engine import Engine
from autotrainer.monitoring.replica_logs import compare_replicas, same_model
from autotrainer.monitoring.run_log import decode_step, read_log
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext
from autotrainer.reporting.report import Report

__all__ = ["replay"]


def replay(
    log: str | Path,
    *,
    replicas: Iterable[str | Path] = (),
    select: str | Iterable[str] | None = None,
    ignore: str | Iterable[str] = (),
    thresholds: Mapping[str, float] | None = None,
) -> Report:
    """Evaluate the rules on a recorded run, possibly with other thresholds.

    The rules see the same history at the same steps as during the run, so that equal options give equal findings.

    Args:
        log: Run log written by ``watch(log_dir=…)``.
        replicas: Run logs of the other processes of a distributed training, to compare with this one.
        select: Names, codes, code prefixes (``"AT4"``) or aliases of the problems to detect; None for all.
        ignore: The same, for problems to skip.
        thresholds: Values by ``problem.name`` (``{"vanishing_gradient.ratio": 1e-4}``), or by the names in the
            AUTOTRAINER papers (``beta_1``).

    Returns:
        The report of the run.

    Raises:
        LogError: If a log can't be read, has no valid header, is damaged before its last line, or belongs to another
            model.
        ConfigError: If an option is invalid.
    """
    engine = Engine(registry.make_rules(select, ignore, thresholds))
    history, context = _replayed(log, engine)
    others = []
    for path in replicas:
        others.append(_replayed(path, Engine(()))[0])
        if not same_model(history, others[-1]):
            raise LogError(
                f"{path} is the log of another model than {log}: pass logs of processes of the same training"
            )
    facts = compare_replicas(history, others)
    if facts:
        context = replace(context, asked={**context.asked, **facts})
    if facts or not history.finished:
        engine.evaluate(history, context)
    return Report.of_run(engine.findings, history, context)


def _replayed(log: str | Path, engine: Engine) -> tuple[RunHistory, TaskContext]:
    """Read a log and evaluate the rules where the run did."""
    history, context = RunHistory(), TaskContext()
    records = read_log(log)
    header = next(records)
    try:
        for record in records:
            kind = record.get("type")
            if kind == "context":
                context = TaskContext.from_dict(record["context"])
                if not len(history.steps):
                    with_layers = RunHistory(context.layers)
                    with_layers.step, with_layers.epoch = history.step, history.epoch
                    history = with_layers
            elif kind == "step":
                stats, losses, targets = decode_step(record, header["step_columns"], header["layer_columns"])
                history.add_step(stats, losses, targets)
            elif kind == "losses":
                history.add_losses([(int(step), float(loss)) for step, loss in record["losses"]])
            elif kind == "epoch":
                values = {
                    name: float("inf") if v in (None, "inf") else float(v) for name, v in record["values"].items()
                }
                history.add_epoch(int(record["epoch"]), int(record["step"]), values)
            elif kind == "check":
                history.step = max(history.step, int(record["step"]))
                engine.evaluate(history, context)
            elif kind == "end":
                history.finished = bool(record.get("finished", True))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LogError(f"{log} has a damaged record: {error!r}") from error
    return history, context
