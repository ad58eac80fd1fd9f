"""The monitor: what `watch` returns. Takes observations in, keeps the history, and tells the findings."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

from autotrainer.adapter.observer import EpochObserver, Locator, Observer
from autotrainer.errors import ConfigError, InputError
from autotrainer.monitoring.engine import Engine
from autotrainer.monitoring.guard import Guard
from autotrainer.monitoring.run_log import LogWriter, encode_step
from autotrainer.monitoring.sampler import Sampler
from autotrainer.monitoring.summary import DataSummary, summarize
from autotrainer.records.findings import Finding, Severity, fold
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, Observation
from autotrainer.records.task import TaskContext
from autotrainer.reporting.report import Report
from autotrainer.rule import Place, Rule

__all__ = ["Monitor", "as_number", "is_watched", "watched_models"]

logger = logging.getLogger("autotrainer")

_MAX_LOG_LINES = 10


class Monitor:
    """Watches one training. Made by `autotrainer.watch`.

    Nothing that goes wrong in here reaches the training: it is reported once through
    ``logging.getLogger("autotrainer")`` and switches off the part concerned.

    Args:
        rules: Rules in force.
        sampler: Decides which steps are measured.
        log_dir: Folder for the run log, or None for no file.
        on_finding: Called with each new finding.
        quiet: Say nothing, neither while running nor at the end.

    Raises:
        ConfigError: If the folder is no path, or ``on_finding`` can't be called.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        sampler: Sampler,
        *,
        log_dir: str | Path | None = None,
        on_finding: Callable[[Finding], None] | None = None,
        quiet: bool = False,
    ) -> None:
        self.sampler = sampler
        self.history = RunHistory()
        self.context = TaskContext()
        self._engine = Engine(rules, self._tell, self._place)
        self._data = DataSummary()
        self._observer: Observer | None = None
        self._on_finding = on_finding
        self._quiet = quiet
        self._lines = 0
        self._stale = self._ended = False
        self._next_check = 0
        self._next_epoch_check = 0
        self._failed: set[str] = set()
        self._log: LogWriter | None = None
        self.closed = False
        if on_finding is not None and not callable(on_finding):
            raise ConfigError(f"on_finding must be callable or None, not {type(on_finding).__name__}")
        if not isinstance(log_dir, str | PathLike | None):
            raise ConfigError(f"log_dir must be a path or None, not {type(log_dir).__name__}")
        if log_dir is not None:
            try:
                self._log = LogWriter(log_dir)
            except OSError as error:
                self.fail("the run log", error)

    # -- for the user ---------------------------------------------------------------------------------------------

    @property
    def findings(self) -> list[Finding]:
        """The verdict as of now, ranked: roots before their consequences, errors first."""
        if self._stale:
            self._check()
        return self._engine.findings

    @property
    def should_stop(self) -> bool:
        """True once there is an error."""
        return any(f.severity is Severity.ERROR for f in self.findings)

    @property
    def needs(self) -> frozenset[str]:
        """Columns of `STEP_COLUMNS` and `LAYER_COLUMNS` that are worth measuring: those that the rules need.

        All of them for a run log, where no rule could find later what it lacks, and for a monitor without any rules,
        which only keeps a history. Backends leave out what is costly.
        """
        if self._log is not None or not self._engine.rules:
            return frozenset((*STEP_COLUMNS, *LAYER_COLUMNS))
        return frozenset[str]().union(*(rule.needs for rule in self._engine.rules))

    @property
    def log_path(self) -> Path | None:
        """File of the run log, or None."""
        return self._log.path if self._log is not None else None

    def report(self) -> Report:
        """Return everything known of the run as a report."""
        return Report.of_run(self.findings, self.history, self.context)

    def log(self, *, loss: Any = None, outputs: Any = None, targets: Any = None) -> None:
        """Tell the monitor what it can't see by itself, once a step and before the optimizer's step.

        Args:
            loss: Loss of the batch: a scalar tensor or number.
            outputs: Outputs of the model for the batch.
            targets: Targets of the batch.
        """
        if self._observer is not None and not self.closed and "log()" not in self._failed:
            with self.guard("log()"):
                self._observer.log(loss=loss, outputs=outputs, targets=targets)

    def end_epoch(self, **values: Any) -> None:
        """Say that an epoch has ended.

        Args:
            **values: Numbers known at its end, by name: ``val_loss``, ``val_accuracy``, ``loss``, ….

        Raises:
            InputError: If a value is not a number.
        """
        numbers = {name: as_number(name, value) for name, value in values.items()}
        if self.closed:
            return
        with self.guard("end_epoch()"):
            started = perf_counter()
            if isinstance(self._observer, EpochObserver):
                numbers = {**self._observer.epoch_values(), **numbers}
            epoch = self.history.epoch
            self.history.add_epoch(epoch, self.history.step, numbers)
            self._write({"type": "epoch", "epoch": epoch, "step": self.history.step, "values": numbers})
            self._stale = True
            forced = epoch >= self._next_epoch_check or not all(map(math.isfinite, numbers.values()))
            if forced or self.sampler.affordable():
                self._next_epoch_check = epoch + max(1, epoch // 4)
                self._check()
            self.sampler.charge(perf_counter() - started)

    def close(self) -> None:
        """Detach from the training; the findings stay readable. Closing twice does nothing."""
        self._close(finished=True)

    def _close(self, *, finished: bool) -> None:
        """Detach; a training that an exception broke off has not finished: it is judged as far as it came."""
        if self.closed:
            return
        with self.guard("close()"):
            if self._observer is not None:
                self._observer.close()
        self.closed = True
        with self.guard("the rules"):
            self.finish(finished=finished)
            _ = self.findings
        self._observer = None
        if self._log is not None:
            with self.guard("the run log"):
                self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(finished=error is None)
        errors = [f for f in self.findings if f.severity is Severity.ERROR]
        if errors and not self._quiet:
            print(f"autotrainer: {len(errors)} error(s) in this training", file=sys.stderr)
            for root, consequences in fold(errors):
                print(f"  {root}", file=sys.stderr)
                if consequences:
                    print(f"  └ leads to {', '.join(f.problem for f in consequences)}", file=sys.stderr)
            print(f"  more: monitor.report(), autotrainer explain {errors[0].problem}", file=sys.stderr)

    # -- for backends ---------------------------------------------------------------------------------------------

    @property
    def observer(self) -> Observer | None:
        """What is attached to the training; None before that and once closed."""
        return self._observer

    def attach(self, observer: Observer) -> None:
        """Keep the observer that is to be closed with this monitor."""
        self._observer = observer

    def begin(self, context: TaskContext) -> None:
        """Start or refine the run: the layers of the context become the rows of the layer table.

        Called before the first `record`, and again when more is known; layers are fixed once a step is recorded.
        """
        if not len(self.history.steps):
            epoch, step = self.history.epoch, self.history.step
            self.history = RunHistory(context.layers)
            self.history.epoch, self.history.step = epoch, step
        known = {**self.context.asked, **context.asked}
        self.context = replace(context, asked=known) if known else context
        self._write({"type": "context", "context": self.context.to_dict()})

    def finish(self, *, finished: bool = True) -> None:
        """Say, once, that the training has ended, by itself or broken off; until `close` more can be learned of it."""
        if not self._ended:
            self._ended = self._stale = True
            self.history.finished = finished
            self._write({"type": "end", "step": self.history.step, "finished": finished})

    def learn(self, facts: Mapping[str, float]) -> None:
        """Take in what was asked of data and model, by name: see `autotrainer.records.facts.FACTS`."""
        if facts:
            self.context = replace(self.context, asked={**self.context.asked, **facts})
            self._write({"type": "context", "context": self.context.to_dict()})
            self._stale = True

    def record(self, seen: Observation) -> None:
        """Take in what was seen at a sampled step, and judge if it is time to.

        Args:
            seen: The observation. Its arrays are not kept.
        """
        stats = summarize(seen, self.history.epoch, self._data, self.context)
        self.history.add_step(stats, seen.losses, self._data.targets)
        self._write(encode_step(stats, seen.losses, self._data.targets))
        self._stale = True
        if seen.step >= self._next_check or seen.loss == float("inf"):
            # Dense enough to name a problem within a tenth of the steps so far, sparse where verdicts cost most.
            self._next_check = seen.step + max(2, seen.step // (2 if seen.step < 32 else 8))
            self._check()

    def record_losses(self, losses: Sequence[tuple[int, float]]) -> None:
        """Take in (step, loss) pairs of steps that were not sampled; infinity for a loss that is not finite."""
        if losses:
            self.history.add_losses(losses)
            self._write({"type": "losses", "losses": [list(pair) for pair in losses]})
            self._stale = True

    def advance(self, step: int) -> None:
        """Say which step was the last one, sampled or not; cheap."""
        if step > self.history.step:
            self.history.step = step

    def fail(self, part: str, error: BaseException) -> None:
        """Report, once, that a part failed; the training goes on."""
        if part not in self._failed:
            self._failed.add(part)
            logger.warning("%s failed and is switched off; the training goes on: %r", part, error)

    def guard(self, part: str) -> Guard:
        """Return a context manager that keeps every `Exception` from the training and reports it through `fail`."""
        return Guard(self.fail, part)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        self._stale = False
        self._write({"type": "check", "step": self.history.step})
        self._engine.evaluate(self.history, self.context)

    def _place(self, what: Place, layer: str | None) -> str:
        if isinstance(self._observer, Locator):
            with self.guard("reading the source"):
                return self._observer.place(what, layer)
        return ""

    def _tell(self, finding: Finding) -> None:
        self._write({"type": "finding", "finding": finding.to_dict()})
        if not self._quiet and self._lines < _MAX_LOG_LINES:
            self._lines += 1
            level = logging.INFO if finding.severity is Severity.INFO else logging.WARNING
            logger.log(level, "%s (epoch %d, step %d)", finding, finding.epoch, finding.step)
        if self._on_finding is not None and "on_finding" not in self._failed:
            with self.guard("on_finding"):
                self._on_finding(finding)

    def _write(self, record: dict[str, Any]) -> None:
        if self._log is None or "the run log" in self._failed:
            return
        with self.guard("the run log"):
            self._log.write(record)


def as_number(name: str, value: Any) -> float:
    """Return what `end_epoch` was told, a number or an array or tensor of one element, as a float.

    Raises:
        InputError: If it is no number.
    """
    if isinstance(value, bool | str | bytes) or value is None:
        raise InputError(f"end_epoch({name}=…) takes a number, not {value!r}")
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"end_epoch({name}=…) takes a number, not {type(value).__name__}") from error


watched_models: WeakKeyDictionary[Any, Monitor] = WeakKeyDictionary()
"""The latest monitor of each watched model, closed ones too."""


def is_watched(model: Any) -> bool:
    """Return whether a model is being watched now."""
    monitor = watched_models.get(model)
    return monitor is not None and not monitor.closed
