"""The monitor that `watch` returns: records observations, keeps the history, and reports findings."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast
from weakref import WeakKeyDictionary, ref

from autotrainer._version import __version__
from autotrainer.adapter.observer import EpochObserver, JointObserver, Locator, Observer, ProgressObserver
from autotrainer.adapter.probed_model import ProbedModel
from autotrainer.config import log_folder
from autotrainer.edits.base import shorten
from autotrainer.errors import InputError
from autotrainer.monitoring.baseline_watch import BaselineWatch, Compare
from autotrainer.monitoring.engine import CheckSchedule, Engine
from autotrainer.monitoring.guard import Guard, StatisticGuard
from autotrainer.monitoring.late_facts import CompareLogs, CompareRows, LateFacts, RunProbes
from autotrainer.monitoring.lifetime import end_with_process, forget, weak_method
from autotrainer.monitoring.logs.log_output import LogOutput
from autotrainer.monitoring.logs.run_log import encode_step
from autotrainer.monitoring.run_state import MonitorState, fit_layers
from autotrainer.monitoring.sampler import Sampler, is_milestone
from autotrainer.monitoring.sinks.sink_group import SinkGroup
from autotrainer.monitoring.summary import DataSummary, summarize
from autotrainer.monitoring.targets.padding import without_padding
from autotrainer.monitoring.tracebacks import hide_frames
from autotrainer.output import logger
from autotrainer.records.facts import STATISTICS
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, Observation
from autotrainer.records.task import TargetSummary, TaskContext
from autotrainer.reporting.notifier import Notifier
from autotrainer.rule import Place, Rule
from autotrainer.sink import Sink

if TYPE_CHECKING:  # what shows a run takes several MB, and is loaded when it is asked for
    from autotrainer.reporting.comparison import Comparison
    from autotrainer.reporting.notebook.run_display import RunDisplay
    from autotrainer.reporting.report import Report

__all__ = ["Monitor", "as_number", "is_watched", "watched_models"]


class Monitor:
    """Watches one training run; created by `autotrainer.watch`.

    A monitor is a context manager; leaving the block closes it, prints a short summary if there are errors, and never
    suppresses an exception. Without ``with``, call `close` at the end. In a forked child process it is closed: the
    child can watch its own training.

    New findings are logged through ``logging.getLogger("autotrainer")``, at most ten per run. An exception inside the
    monitor never reaches the training: it is logged once, and the part that failed is switched off.

    Args:
        rules: Active rules.
        sampler: Decides which steps are measured.
        log_dir: Folder for the run log; None writes no file.
        on_finding: Called with each new finding.
        compare_rows: Takes a sample of the rows, a summary of all targets, and the context, and returns facts that are
            learned before the last verdict; None: no rows are kept.
        compare_logs: Takes the history, the path of the run log and the time at which it began, and returns facts about
            an earlier run that this one continues; None: earlier logs are not read.
        compare: Compares the run with its baseline, given history, context and findings; None without a baseline.
        run_probes: Takes a function that returns a copy of the model, and returns facts and the names of the inputs;
            None: the model is not probed.
        sinks: Get the measurements of sampled steps and the findings; by name.
        display: Shows the run in a notebook; None elsewhere.
        quiet: Whether to suppress log messages and the summary at the end.
        hold: Whether to write no log until `release`, as another process may report for this one, too.

    Attributes:
        history: The measurements so far.
        context: The training's model, loss, optimizer and data.
        sampler: Decides which steps are measured.
        closed: Whether the monitor has been closed.
        interrupted: Whether an exception or a signal has ended the training.

    Raises:
        ConfigError: If ``log_dir`` is not a path, or ``on_finding`` is not callable.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        sampler: Sampler,
        *,
        log_dir: str | Path | None = None,
        on_finding: Callable[[Finding], None] | None = None,
        compare_rows: CompareRows | None = None,
        compare_logs: CompareLogs | None = None,
        compare: Compare | None = None,
        run_probes: RunProbes | None = None,
        sinks: Mapping[str, Sink] | None = None,
        display: RunDisplay | None = None,
        quiet: bool = False,
        hold: bool = False,
    ) -> None:
        self.sampler = sampler
        self.history = RunHistory()
        self.context = TaskContext()
        self._engine = Engine(rules, weak_method(self._report), weak_method(self._place, default=""))
        self._data = DataSummary()
        self._statistics = StatisticGuard(weak_method(self.fail_statistic))
        self._observer: Observer | None = None
        self._late_facts = LateFacts(sampler, compare_rows, compare_logs, run_probes)
        self._first_epoch, self._earlier_targets, self._restored = 0, TargetSummary(), False
        self._notifier = Notifier(on_finding, quiet=quiet)
        self._baseline = BaselineWatch(compare, weak_method(self.guard), self._notifier.log_text)
        self._display = display
        self._stale = self._ended = False
        self._schedule = CheckSchedule()
        self._measures_epochs = self._joint = self._reports_progress = self._locates = False  # what the observer does
        self._failed: set[str] = set()
        self._inherited = False
        self.closed = self.interrupted = False
        self._follows = False
        self._log = LogOutput(log_folder(log_dir), weak_method(self.fail), hold=hold)
        self._sinks = SinkGroup(sinks or {})
        end_with_process(self, first=bool(self._sinks))

    # -- for the user ---------------------------------------------------------------------------------------------

    @property
    def findings(self) -> list[Finding]:
        """The current findings, ranked: roots before their consequences, then by severity and confidence."""
        if self._stale:
            self._check()
        return self._engine.findings

    @property
    def should_stop(self) -> bool:
        """Whether there is currently an error.

        Where several processes are watched together, it is the same in all of them at each step, so that all can stop:
        an error counts two sampled steps after the step that shows it.
        """
        observer = self._observer if self._joint else None
        agreed = None if observer is None else cast(JointObserver, observer).agreed_stop
        if agreed is not None:
            return agreed
        return any(f.severity is Severity.ERROR for f in self.findings)

    @property
    def has_error(self) -> bool:
        """Whether there was an error when the rules were evaluated last; for backends."""
        return any(f.severity is Severity.ERROR for f in self._engine.findings)

    @property
    def follows(self) -> bool:
        """Whether another process of the same training reports for this one, too."""
        return self._follows

    @property
    def needs(self) -> frozenset[str]:
        """Columns of `STEP_COLUMNS` and `LAYER_COLUMNS` worth measuring: those that the rules need.

        All columns if a run log is written, so that any rule can be evaluated on it later, with a baseline, or if there
        are no rules, as the monitor then only keeps a history. Backends skip costly columns that are not needed.
        """
        if self._log.wanted or self._baseline.active or not self._engine.rules:
            return frozenset((*STEP_COLUMNS, *LAYER_COLUMNS))
        return frozenset[str]().union(*(rule.needs for rule in self._engine.rules))

    @property
    def log_path(self) -> Path | None:
        """Path of the run log, or None."""
        return self._log.path

    def report(self) -> Report:
        """Return the report of the run so far: ``str(report)``, or save it as text, JSON or HTML."""
        from autotrainer.reporting.report import Report

        return Report.of_run(self.findings, self.history, self.context, self.comparison, self._sinks.notes)

    @property
    def comparison(self) -> Comparison | None:
        """How the run so far differs from its baseline; None without ``watch(baseline=…)``."""
        return self._baseline.compared(self.history, self.context, self.findings)

    def log(
        self, *, loss: Any = None, outputs: Any = None, targets: Any = None, losses: Mapping[str, Any] | None = None
    ) -> None:
        """Report what the monitor can't observe itself, once per step, before the optimizer's step.

        Needed only if the loss is not a module; also for outputs and targets that the loss is not called with.

        Args:
            loss: Loss of the batch: a scalar tensor or number.
            outputs: Outputs of the model for the batch, shape (rows, ...).
            targets: Targets of the batch, shape (rows, ...).
            losses: Terms of the loss by name, weighted as they are added: ``{"reconstruction": a, "kl": beta * b}``;
                scalar tensors or numbers. The loss itself is reported by ``loss``, or observed.

        Raises:
            InputError: If ``losses`` is not a mapping of names.
        """
        if losses is not None and not (isinstance(losses, Mapping) and all(isinstance(name, str) for name in losses)):
            raise InputError(f"log(losses=…) takes terms of the loss by name, not {shorten(losses)}")
        if self._observer is not None and not self.closed and "log()" not in self._failed:
            with self.guard("log()"):
                terms = {"losses": losses} if losses else {}
                self._observer.log(loss=loss, outputs=outputs, targets=targets, **terms)

    def end_epoch(self, **values: Any) -> None:
        """Mark the end of an epoch. Optional if evaluations or data loaders reveal the epochs.

        Args:
            **values: Values of the epoch by name, numbers or one-element tensors: ``val_loss``, ``val_accuracy``,
                ``loss``, ….

        Raises:
            InputError: If a value is not a number.
        """
        numbers = {name: as_number(name, value) for name, value in values.items()}
        if self.closed:
            return
        with self.guard("end_epoch()"), self.sampler.stopwatch, self.sampler.evaluations:
            if self._measures_epochs and self._observer is not None:
                numbers = {**cast(EpochObserver, self._observer).epoch_values(), **numbers}
            epoch = self.history.epoch
            self._add_epoch(epoch, self.history.step, numbers)
            if self._sinks and not self._follows:
                self._sinks.epoch(self.history.step, numbers)
            self._check_if_due(is_milestone(epoch), lost=not all(map(math.isfinite, numbers.values())))
            self._show()

    def state_dict(self) -> dict[str, Any]:
        """Return history and findings, to be stored in a checkpoint: a resumed run goes on with ``watch(state=…)``.

        The values are plain: strings, numbers, lists and dicts, at most about ten megabytes. Any format stores them,
        and reading them runs no code.
        """
        if not self.closed and self._reports_progress and self._observer is not None:
            with self.guard("state_dict()"):
                cast(ProgressObserver, self._observer).report_progress()
        current, resolved = ([finding.to_dict() for finding in part] for part in self._engine.episodes)
        return {
            "autotrainer_state": "1",
            "version": __version__,
            "history": self.history.to_dict(),
            "current": current,
            "resolved": resolved,
        }

    def close(self) -> None:
        """Detach from the training. Findings and report stay available; closing twice does nothing."""
        self._close(finished=True)

    def abandon(self, *, finished: bool) -> None:
        """Close quietly, as nobody has: nothing is logged or printed, and ``on_finding`` is not called.

        Args:
            finished: Whether no exception is known to have ended the training.
        """
        if not self.closed:
            self._notifier.mute()
            self._close(finished=finished)

    def leave(self) -> None:
        """Become inert, in a forked child process; `close` still detaches the observer."""
        self._inherited = self.closed = True
        self._notifier.mute()
        self._display = None
        self.sampler.stop()
        self._sinks.leave()
        self._log.drop()

    def __del__(self) -> None:
        if not getattr(self, "closed", True) and not sys.is_finalizing():
            with self.guard("close()"):
                self.abandon(finished=sys.exception() is None)

    def _close(self, *, finished: bool) -> None:
        """Detach; ``finished`` is False if an exception ended the training."""
        if self.closed and not (self._inherited and self._observer is not None):
            return
        self.interrupted |= not finished
        with self.guard("close()"):
            if self._observer is not None:
                self._observer.close()
        if self._inherited:
            self._observer = None
            return
        self.closed = True
        forget(self)
        self.learn(self._late_facts.not_probed())
        with self.guard("the rules"):
            self.finish(finished=finished)
            _ = self.findings
        with self.guard("the comparison with the baseline"):
            self._baseline.report(self.history, self.context, self.findings)
        self._show("interrupted" if self.interrupted else "ended")
        self._display = None
        if not (self.interrupted or self._follows):
            from autotrainer.reporting.coverage import unobserved

            for sentence in unobserved(self.history, self.context):
                self._notifier.log_text(sentence)
        self._observer = None
        self._notifier.drop_callback()
        self._log.close()
        if self._sinks:
            with self.guard("the sinks"):
                for note in self._sinks.close():
                    self._notifier.log_text(note)

    def _repr_html_(self) -> str:
        """Return the report of the run so far as a notebook shows it."""
        return self.report()._repr_html_()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        hide_frames(error)
        self._close(finished=error is None)
        with self.guard("the summary"):
            self._notifier.print_summary(self.findings)

    # -- for backends ---------------------------------------------------------------------------------------------

    @property
    def observer(self) -> Observer | None:
        """The attached observer; None before `attach` and after `close`."""
        return self._observer

    def restore(self, state: tuple[RunHistory, MonitorState]) -> None:
        """Continue an earlier part of the run, as `read_state` returns it; before `begin`."""
        self.history, stored = state
        self._first_epoch, self._earlier_targets, self._restored = self.history.epoch, self.history.targets, True
        self._schedule.first_step = self.history.step + 1
        self._late_facts.resume()
        self._engine.restore(stored.current, stored.resolved)

    def attach(self, observer: Observer) -> None:
        """Set the observer, which is closed with this monitor."""
        self._observer = observer
        self._measures_epochs, self._joint = isinstance(observer, EpochObserver), isinstance(observer, JointObserver)
        self._reports_progress, self._locates = isinstance(observer, ProgressObserver), isinstance(observer, Locator)

    def begin(self, context: TaskContext) -> None:
        """Set the context of the run; its layers become the rows of the layer table.

        Called before the first `record`, and again when more is known; the layers are fixed once a step is recorded.
        """
        if not len(self.history.steps):
            epoch, step = self.history.epoch, self.history.step
            self.history = RunHistory(context.layers)
            self.history.epoch, self.history.step = epoch, step
        facts = {**self.context.asked, **context.asked}
        fields = context.input_fields or self.context.input_fields
        self.context = replace(context, asked=facts, input_fields=fields) if facts else context
        self._write_context()

    def release(self) -> None:
        """Write and report what was held, and all from now on."""
        if not self._follows:
            self._log.release()

    def follow(self) -> None:
        """Report nothing: another process of the same training does."""
        self._follows, self._display = True, None
        self._log.drop()
        self._baseline.stop()
        self._engine.restore((), ())  # what an earlier part of the run had found
        self._late_facts.stop()
        self._notifier.mute()

    def finish(self, *, finished: bool = True) -> None:
        """Mark the training as ended, regularly or interrupted; facts can still be added until `close`."""
        if not self._ended:
            self._ended = self._stale = True
            self.interrupted |= not finished
            self.history.finished = finished
            self._log.write({"type": "end", "step": self.history.step, "finished": finished})

    def learn(self, facts: Mapping[str, float], input_fields: tuple[str, ...] = ()) -> None:
        """Add facts about data and model, by name: see `autotrainer.records.facts.FACTS`."""
        if any(self.context.asked.get(name) != value for name, value in facts.items()):
            fields = input_fields or self.context.input_fields
            self.context = replace(self.context, asked={**self.context.asked, **facts}, input_fields=fields)
            self._write_context()
            self._stale = True

    @property
    def wants_probe(self) -> bool:
        """Whether the model is to be probed, and has not been yet."""
        return self._late_facts.wants_probe and not self.closed

    def probe(self, make: Callable[[], ProbedModel | None]) -> None:
        """Probe a copy of the model, once, outside the allowed overhead.

        Args:
            make: Returns the copy.
        """
        with self.guard("the probes"):
            self.learn(*self._late_facts.probe(make))

    def record(self, observation: Observation) -> None:
        """Record a sampled step, and evaluate the rules if that is due.

        Args:
            observation: The observation. Its arrays are not kept, but for a sample of rows to compare models on.
        """
        if self._inherited or self._follows:
            return
        if self._restored:
            self._check_restored()
        observation = self._statistics.measure("padding", without_padding, observation, self.context) or observation
        stats = summarize(observation, self.history.epoch, self._data, self.context, self._statistics)
        enough = self._data.targets.rows >= self._earlier_targets.rows
        targets = self._data.targets if enough else self._earlier_targets
        self.history.add_step(stats, observation.losses, targets)
        self._log.write(encode_step(stats, observation.losses, targets))
        if self._sinks:
            with self.guard("the sinks"):
                self._sinks.step(stats, self.history.layers)
        if self.history.epoch == self._first_epoch:  # later, rows may recur in another form
            self._late_facts.add_rows(observation)
        self._stale = True
        self._check_if_due(self._schedule.due(observation.step), lost=observation.loss == math.inf)
        self._show()

    def record_losses(self, losses: Sequence[tuple[int, float]], terms: Mapping[str, float] | None = None) -> None:
        """Record (step, loss) pairs of steps that were not sampled; infinity for a loss that is not finite.

        Args:
            losses: The pairs.
            terms: Terms of the loss, by name, of the first of these steps in which one is not finite.
        """
        if losses:
            self.history.add_losses(losses, terms or {})
            self._log.write(
                {"type": "losses", "losses": [list(pair) for pair in losses], **({"terms": terms} if terms else {})}
            )
            self._stale = True
            if not self.closed:
                self._check_if_due(False, lost=any(loss == math.inf for _, loss in losses))

    def count_epochs(self, ends: Sequence[int]) -> None:
        """Count epochs that ended with these steps, without values; cheaper than `end_epoch`."""
        first, at = self.history.epoch, 0
        while at < len(ends):
            at = min(max(at, self.history.next_kept_epoch - first), len(ends) - 1)
            self._add_epoch(first + at, ends[at], {})
            at += 1

    def advance(self, step: int) -> None:
        """Set the latest step, sampled or not; cheap."""
        if step > self.history.step:
            self.history.step = step

    def note(self, sentence: str) -> None:
        """Log a sentence about the run, as findings are."""
        self._notifier.log_text(sentence)

    def fail(self, part: str, error: BaseException) -> None:
        """Log, once, that a part failed and is switched off; the training continues."""
        if part not in self._failed and not self._inherited:
            self._failed.add(part)
            logger.warning("%s failed and is switched off; the training continues: %r", part, error)

    def fail_statistic(self, statistic: str, error: Exception) -> None:
        """Log and note, once, that one of `STATISTICS` could not be measured; all others go on."""
        part = f"statistic {statistic}"
        if part in self._failed or self._inherited:
            return
        self._failed.add(part)
        with self.guard("reporting a statistic"):
            message = "the statistic %r could not be measured and is switched off; everything else is watched: %r"
            logger.warning(message, statistic, error)
            failed = int(self.context.asked.get("failed_statistics", 0.0))
            self.learn({"failed_statistics": float(failed | 1 << STATISTICS.index(statistic))})

    def guard(self, part: str) -> Guard:
        """Return a context manager that suppresses every `Exception` and reports it through `fail`."""
        return Guard(self.fail, part)

    # -- internal ---------------------------------------------------------------------------------------------------

    @property
    def _observer(self) -> Observer | None:
        return self._find_observer()

    @_observer.setter
    def _observer(self, observer: Observer | None) -> None:
        owned = getattr(observer, "owned_by_training", False)
        self._find_observer: Callable[[], Observer | None] = ref(observer) if owned else lambda: observer

    def _add_epoch(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        kept = self.history.add_epoch(epoch, step, values)
        self._log.write_epoch({"type": "epoch", "epoch": epoch, "step": step, "values": values}, kept=kept)
        self._stale |= kept

    def _check_restored(self) -> None:
        """Go on with the restored history if it is of the same layers."""
        self._restored = False
        before = self.history
        self.history, episodes = fit_layers(before, self._engine.episodes, self.context.layers)
        if self.history is not before:
            self._earlier_targets = TargetSummary()
        self._engine.restore(*episodes)

    def _check_if_due(self, due: bool, *, lost: bool) -> None:
        """Evaluate the rules where that is due, and when a loss is not finite for the first time."""
        newly_lost = self._schedule.newly_lost(lost)
        if due:
            self._schedule.advance(self.history.step)
        if newly_lost or (due and self.sampler.affordable()):
            with self.sampler.stopwatch, self.sampler.evaluations:
                self._check()
                affordable = self.sampler.affordable
                self._baseline.report_if_due(self.history, self.context, lambda: self.findings, affordable)

    def _check(self) -> None:
        if self._restored or self._follows:  # restored: nothing was measured since, and what was found stands
            self._stale = False
            return
        with self.guard("the comparison with earlier runs"):
            self.learn(self._late_facts.of_logs(self.history, self._log.path, ended=self._ended))
        if self._ended:
            with self.guard("the comparison with simple models"):
                self.learn(self._late_facts.of_rows(self.history, self.context, self._engine.rules))
        self._stale = False
        self._log.write({"type": "check", "step": self.history.step})
        with self.guard("evaluating the rules"):
            self._engine.evaluate(self.history, self.context)

    def _show(self, end: str = "") -> None:
        """Update the display; it limits its own time, which is no part of the allowance."""
        if self._display is not None and "the display" not in self._failed:
            with self.guard("the display"), self.sampler.stopwatch.paused(), self.sampler.evaluations.paused():
                self._display.update(self.history, self.context, self._engine.findings, end)

    def _place(self, what: Place, layer: str | None) -> str:
        observer = self._observer if self._locates else None
        if observer is not None:
            with self.guard("reading the source"):
                return cast(Locator, observer).place(what, layer)
        return ""

    def _report(self, finding: Finding) -> None:
        if self._inherited:
            return
        self._log.write({"type": "finding", "finding": finding.to_dict()})
        if self._sinks:
            with self.guard("the sinks"):
                self._sinks.finding(finding)
        self._notifier.log(finding)
        if "on_finding" not in self._failed:
            with self.guard("on_finding"):
                self._notifier.call(finding)

    def _write_context(self) -> None:
        if self._log.takes:  # describing thousands of layers takes a while
            self._log.write({"type": "context", "context": self.context.to_dict()})


def as_number(name: str, value: Any) -> float:
    """Return a value passed to `Monitor.end_epoch`, a number or one-element array or tensor, as a float.

    Raises:
        InputError: If it is not a number.
    """
    if isinstance(value, bool | str | bytes) or value is None:
        raise InputError(f"end_epoch({name}=…) takes a number, not {shorten(value)}")
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"end_epoch({name}=…) takes a number, not {type(value).__name__}") from error


watched_models: WeakKeyDictionary[Any, Monitor] = WeakKeyDictionary()
"""The latest monitor of each watched model, open or closed."""


def is_watched(model: Any) -> bool:
    """Return whether a model has an open monitor."""
    monitor = watched_models.get(model)
    return monitor is not None and not monitor.closed
