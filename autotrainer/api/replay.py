"""`replay`: evaluates the rules on a recorded run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from autotrainer import registry
from autotrainer.diagnostics.resumed_run import resumed_run
from autotrainer.errors import LogError
from autotrainer.monitoring.engine import Engine
from autotrainer.monitoring.log_reader import (
    CheckRecord,
    ContextRecord,
    EndRecord,
    EpochRecord,
    FindingRecord,
    LossesRecord,
    StepRecord,
    read_log,
)
from autotrainer.monitoring.replica_logs import compare_replicas, same_model
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import Floats
from autotrainer.records.task import TaskContext
from autotrainer.reporting.report import Report

__all__ = ["read_run", "recorded_run", "replay"]


def replay(
    log: str | Path,
    *,
    replicas: Iterable[str | Path] = (),
    previous: str | Path | None = None,
    select: str | Iterable[str] | None = None,
    ignore: str | Iterable[str] = (),
    thresholds: Mapping[str, float] | None = None,
) -> Report:
    """Evaluate the rules on a recorded run, possibly with other thresholds.

    The rules see the same history at the same steps as during the run, so that equal options give equal findings.

    Args:
        log: Run log written by ``watch(log_dir=…)``.
        replicas: Run logs of the other processes of a distributed training, to compare with this one.
        previous: Run log of an earlier run that this one may continue, to compare with it; None: the facts that the run
            itself has recorded count, if its folder had such a log.
        select: Names, codes, code prefixes (``"AT4"``) or aliases of the problems to detect; None for all.
        ignore: The same, for problems to skip.
        thresholds: Values by ``problem.name`` (``{"vanishing_gradient.ratio": 1e-4}``), or by the names in the
            AUTOTRAINER papers (``beta_1``).

    Returns:
        The report of the run.

    Raises:
        LogError: If a log can't be read, has no valid header, a complete line is damaged, or it belongs to another
            model.
        ConfigError: If an option is invalid.
    """
    engine = Engine(registry.make_rules(select, ignore, thresholds))
    places: dict[str, str] = {}
    history, context = read_run(log, engine, places)
    others = []
    for path in replicas:
        others.append(read_run(path, Engine(()))[0])
        if not same_model(history, others[-1]):
            raise LogError(
                f"{path} is the log of another model than {log}: pass logs of processes of the same training"
            )
    facts = compare_replicas(history, others, sharded=bool(context.asked.get("sharded")))
    if previous is not None:
        facts |= resumed_run(history, *recorded_run(previous))
    if facts:
        context = replace(context, asked={**context.asked, **facts})
    if facts or not history.finished:
        engine.evaluate(history, context)
    findings = [replace(f, place=places.get(f.problem, "")) for f in engine.findings]
    return Report.of_run(findings, history, context)


def recorded_run(log: str | Path) -> tuple[RunHistory, TaskContext]:
    """Return history and context of a recorded run.

    Raises:
        LogError: If the log can't be read.
    """
    return read_run(log, Engine(()))


def read_run(log: str | Path, engine: Engine, places: dict[str, str] | None = None) -> tuple[RunHistory, TaskContext]:
    """Read a log and evaluate the rules where the run did.

    Args:
        log: The log.
        engine: Evaluates the rules and holds their findings.
        places: Gets the file and line of each finding that the run has recorded, by the name of its problem.

    Raises:
        LogError: If the log can't be read, has no valid header, or a complete line is damaged.
    """
    history, context = RunHistory(), TaskContext()
    for record in read_log(log):
        match record:
            case ContextRecord(context):
                if not len(history.steps):
                    with_layers = RunHistory(context.layers)
                    with_layers.step, with_layers.epoch = history.step, history.epoch
                    history = with_layers
            case StepRecord(losses=losses, targets=targets):
                history.add_step(record.stats, _pairs(losses), targets)
            case LossesRecord(losses, terms):
                history.add_losses(_pairs(losses), terms)
            case EpochRecord(epoch, step, values):
                history.add_epoch(epoch, step, values)
            case CheckRecord(step):
                history.step = max(history.step, step)
                engine.evaluate(history, context)
            case FindingRecord(finding) if places is not None:
                places[finding.problem] = finding.place
            case EndRecord(finished=finished):
                history.finished = finished
    return history, context


def _pairs(losses: Floats) -> list[tuple[int, float]]:
    return [(int(step), float(loss)) for step, loss in losses]
