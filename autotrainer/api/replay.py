"""`replay`: judge a recorded run again, from its log."""

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
    """Judge a recorded run again: the same history, judged at the same steps, gives the same findings.

    Args:
        log: Run log that ``watch(log_dir=…)`` wrote.
        replicas: Run logs of the other processes of a distributed training, to be compared with this one.
        select: Problems to look for; None for all.
        ignore: Problems to leave out.
        thresholds: Values by ``problem.name`` or by the papers' names.

    Returns:
        The report of the run.

    Raises:
        LogError: If a log can't be read, has no valid header, is damaged before its last line, or is of another model.
        ConfigError: If a name or value is wrong.
    """
    engine = Engine(registry.make_rules(select, ignore, thresholds))
    history, context = _replayed(log, engine)
    others = []
    for path in replicas:
        others.append(_replayed(path, Engine(()))[0])
        if not same_model(history, others[-1]):
            raise LogError(f"{path} is the log of another model than {log}: give logs of processes that train together")
    facts = compare_replicas(history, others)
    if facts:
        context = replace(context, asked={**context.asked, **facts})
    if facts or not history.finished:
        engine.evaluate(history, context)
    return Report.of_run(engine.findings, history, context)


def _replayed(log: str | Path, engine: Engine) -> tuple[RunHistory, TaskContext]:
    """Read a log and judge it where it was judged."""
    history, context = RunHistory(), TaskContext()
    records = read_log(log)
    header = next(records)
    try:
        for record in records:
            kind = record.get("type")
            if kind == "context":
                context = TaskContext.from_dict(record["context"])
                if not len(history.steps):
                    restarted = RunHistory(context.layers)
                    restarted.step, restarted.epoch = history.step, history.epoch
                    history = restarted
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
        raise LogError(f"{log} holds a damaged record: {error!r}") from error
    return history, context
