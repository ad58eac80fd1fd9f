"""`replay`: evaluates the rules on a recorded run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from autotrainer import registry
from autotrainer.diagnostics.resumed_run import resumed_run
from autotrainer.errors import LogError
from autotrainer.monitoring.engine import Engine
from autotrainer.monitoring.logs.log_reader import (
    CheckRecord,
    ContextRecord,
    EndRecord,
    EpochRecord,
    FindingRecord,
    LossesRecord,
    Record,
    StepRecord,
    read_log,
)
from autotrainer.monitoring.logs.replica_logs import compare_replicas, same_model
from autotrainer.records.findings import Finding
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import Floats
from autotrainer.records.task import TaskContext
from autotrainer.reporting.report import Report

__all__ = ["RecordedRun", "read_run", "recorded_run", "replay"]


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
    run = read_run(log, engine)
    history, context = run.history, run.context
    others = []
    for path in replicas:
        others.append(read_run(path, Engine(())).history)
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
    return Report.of_run(run.located(engine.findings), history, context)


def recorded_run(log: str | Path) -> tuple[RunHistory, TaskContext]:
    """Return history and context of a recorded run.

    Raises:
        LogError: If the log can't be read.
    """
    run = read_run(log, Engine(()))
    return run.history, run.context


def read_run(log: str | Path, engine: Engine) -> RecordedRun:
    """Read a log and evaluate the rules where the run did.

    Args:
        log: The log.
        engine: Evaluates the rules and holds their findings.

    Raises:
        LogError: If the log can't be read, has no valid header, or a complete line is damaged.
    """
    run = RecordedRun(engine)
    for record in read_log(log):
        run.add(record)
    return run


class RecordedRun:
    """A run rebuilt from the records of its log; the rules are evaluated where the run did.

    Args:
        engine: Evaluates the rules and holds their findings.

    Attributes:
        history: The measurements.
        context: The training's model, loss, optimizer and data.
        ended: Whether the run has recorded its end, regular or not.
    """

    def __init__(self, engine: Engine) -> None:
        self.history, self.context, self.ended = RunHistory(), TaskContext(), False
        self._engine = engine
        self._places: dict[str, str] = {}

    def add(self, record: Record) -> None:
        """Take in the next record."""
        match record:
            case ContextRecord(context):
                self.context = context
                if not len(self.history.steps):
                    with_layers = RunHistory(context.layers)
                    with_layers.step, with_layers.epoch = self.history.step, self.history.epoch
                    self.history = with_layers
            case StepRecord(losses=losses, targets=targets):
                self.history.add_step(record.stats, _pairs(losses), targets)
            case LossesRecord(losses, terms):
                self.history.add_losses(_pairs(losses), terms)
            case EpochRecord(epoch, step, values):
                self.history.add_epoch(epoch, step, values)
            case CheckRecord(step):
                self.history.step = max(self.history.step, step)
                self._engine.evaluate(self.history, self.context)
            case FindingRecord(finding):
                self._places[finding.problem] = finding.place
            case EndRecord(finished=finished):
                self.history.finished, self.ended = finished, True

    def located(self, findings: Iterable[Finding]) -> list[Finding]:
        """Return findings with the file and line that the run has recorded for their problems."""
        return [replace(f, place=self._places.get(f.problem, "")) for f in findings]


def _pairs(losses: Floats) -> list[tuple[int, float]]:
    return [(int(step), float(loss)) for step, loss in losses]
