"""`Loop`: repair inside the user's own PyTorch training loop."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from autotrainer import registry
from autotrainer.adapter.loop import LoopTrainer
from autotrainer.adapter.spec import LoopObjects, LoopRequest, TrainingSpec
from autotrainer.api.loop_objects import ObjectsInUse
from autotrainer.api.options import check_keep, check_loss, names
from autotrainer.config import log_folder, switched_off
from autotrainer.diagnostics.loop_diagnostics import run_loop_diagnostics
from autotrainer.edits.base import Count, Whole, checked, shorten
from autotrainer.errors import ConfigError, StateError
from autotrainer.monitoring.monitor import as_number
from autotrainer.output import logger
from autotrainer.records.findings import Finding
from autotrainer.reporting.charts.run_charts import run_charts
from autotrainer.reporting.result import Result
from autotrainer.scoring.metrics import Mode
from autotrainer.search.candidate import Candidate
from autotrainer.search.experience import Experience
from autotrainer.search.planner import Planner, unprepared
from autotrainer.search.repair_loop import RepairLoop, Until
from autotrainer.training.budget import Budget
from autotrainer.training.loop_run import LoopScore, ManagedLoopRun
from autotrainer.training.progress import Progress
from autotrainer.training.trial import Trial

__all__ = ["Loop"]


class Loop(ObjectsInUse):
    """Yields the epochs of the user's PyTorch loop; if the training fails, rewinds it, repairs it and continues.

    ```python
    loop = autotrainer.Loop(model, optimizer, loss_fn, train_loader, epochs=30)
    for epoch in loop:
        for x, y in loop.train_loader:
            loop.optimizer.zero_grad()
            loss = loop.loss_fn(loop.model(x), y)
            loss.backward()
            loop.optimizer.step()
        loop.end_epoch(val_accuracy=evaluate(loop.model, val_loader))
    loop.result
    ```

    The first training uses the objects passed in, and draws the same random numbers as the plain loop. If it ends with
    an error, or is found to be stuck, the next ``epoch`` is an earlier one: model, optimizer, loss, loader, scheduler
    and scaler of the loop are then repaired copies of the original ones, restored to that epoch together with the
    random states. That is epoch 0; or, if the training went well for some epochs before it got worse, the end of those
    epochs, for repairs that a running training can take (learning rate, momentum, clipping, skipped or reverted steps).
    A stuck training ends its loader early. Call `end_epoch` once per epoch, use the objects through the loop, and step
    your own scheduler through `scheduler`. Stepping an object that a repair has replaced raises `StateError`.

    Any other state in your code, such as averaged weights, the best score or a patience counter, belongs to one
    training: reset it when `attempt` changes. To stop early, call `stop` rather than ``break``.

    To restart from a later epoch, the loop keeps one checkpoint of model and optimizer in host memory: that of the
    latest error-free epoch with the lowest loss so far. Models above 1 GiB have none and restart at epoch 0.

    Args:
        model: ``torch.nn.Module``.
        optimizer: Optimizer over ``model.parameters()``.
        loss_fn: Loss module, or callable(outputs, targets).
        train_loader: Training batches, re-iterable.
        epochs: Planned number of epochs, >= 1.
        score: Name of the `end_epoch` value by which trainings are compared; None for the first value passed. Without
            any value it is the loss of the loss module in evaluation mode, or else in training mode.
        mode: Whether higher (``max``) or lower (``min``) scores are better; None decides by the name: lower if it
            contains loss, error, mae or mse.
        scheduler: Scheduler of the optimizer, or callable(optimizer) that returns one.
        scaler: ``torch.amp.GradScaler``.
        repair: False only watches.
        strategy: See `autotrainer.fit`, as for all arguments below.
        max_change: How much repairs may change, 0 to 3.
        extra_memory: Whether repairs may use more memory.
        keep: Layer-name patterns of layers that repairs must not change.
        forbid: Names of repairs that must not be used.
        until: ``healthy`` or ``budget``.
        budget: Total work as a multiple of the original training, which is included; or a wall time. None allows three
            trainings or one minute, whichever is more. Validation in the user's loop is not counted.
        select: Problems to detect.
        ignore: Problems to skip.
        thresholds: Values by ``problem.name``.
        seed: Seed of weights that repairs initialize.
        log_dir: Folder for run logs, one per training; None writes no file.
        progress: Whether to log each attempt through ``logging.getLogger("autotrainer")``, and to show the trainings
            below the cell of a notebook.

    Attributes:
        attempt: Number of the current training: 0 for the original one.

    Raises:
        InputError: If the objects do not belong together or can't be copied, or an option is invalid.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        loss_fn: Any,
        train_loader: Any,
        *,
        epochs: int,
        score: str | None = None,
        mode: Literal["max", "min"] | None = None,
        scheduler: Any = None,
        scaler: Any = None,
        repair: bool = True,
        strategy: Literal["balance", "structure", "efficiency"] = "balance",
        max_change: int = 3,
        extra_memory: bool = True,
        keep: str | Iterable[str] = (),
        forbid: str | Iterable[str] = (),
        until: Literal["healthy", "budget"] = "healthy",
        budget: float | timedelta | None = None,
        select: str | Iterable[str] | None = None,
        ignore: str | Iterable[str] = (),
        thresholds: Mapping[str, float] | None = None,
        seed: int = 0,
        log_dir: str | Path | None = None,
        progress: bool = True,
    ) -> None:
        off = switched_off()
        rules = registry.make_rules(select, ignore, thresholds)
        self._rules = () if off else tuple(rules)
        log_dir = log_folder(log_dir)
        self._log_dir = None if off else log_dir
        if score is not None and not isinstance(score, str):
            raise ConfigError(f"score must be the name of an end_epoch value or None, not {shorten(score)}")
        repair, extra_memory = checked("repair", repair, bool), checked("extra_memory", extra_memory, bool)
        self._logs_attempts = checked("progress", progress, bool)
        self._progress = Progress(self._logs_attempts, bar=False)
        self._loop_score = LoopScore(score, checked("mode", mode, Mode | None))
        self._spec = TrainingSpec(checked("epochs", epochs, Count), checked("seed", seed, Whole))
        self._budget = Budget(budget)
        check_loss("loss_fn", loss_fn)
        kept, forbidden = names("keep", keep), names("forbid", forbid)
        backend = registry.backend_of(model)
        check_keep(kept, [layer.name for layer in backend.layers(model)])
        request = LoopRequest(
            model, optimizer, loss_fn, train_loader, self._spec.epochs, scheduler, scaler, kept, self._spec.seed
        )
        planner = Planner(
            registry.repairs(), unprepared, strategy, max_change, extra_memory, forbidden, Experience.installed()
        )
        self._trainer: LoopTrainer = backend.loop(request)
        planner.supports = self._trainer.supports
        self._repair_loop = RepairLoop(
            planner if repair and not off else None, self._budget, backend.name, self._spec.epochs,
            until=checked("until", until, Until),
        )  # fmt: skip
        self._objects: LoopObjects = self._trainer.given
        self._best_objects = self._objects
        self._kept: list[tuple[Trial, LoopObjects]] = []
        self._run: ManagedLoopRun | None = None
        self._baseline_run: ManagedLoopRun | None = None
        self._checkpoint_epoch = 0
        self._epoch: int | None = None
        self._continues = True
        self._stopped = False
        self._overruled = ""
        self._started = False
        self._result: Result | None = None
        self.attempt = 0

    @property
    def findings(self) -> list[Finding]:
        """The current findings on the current training, ranked."""
        return self._run.monitor.findings if self._run is not None else []

    @property
    def result(self) -> Result:
        """The result: status, model, scores, findings, plan, attempts.

        Raises:
            StateError: If the loop has not ended.
        """
        if self._result is None:
            raise StateError("loop.result is available only after `for epoch in loop` has ended")
        return self._result

    # -- the epochs -----------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[int]:
        """Yield the epochs of all trainings, each 0-based within its training.

        Raises:
            StateError: If the loop has been run before.
        """
        if self._started:
            raise StateError("this Loop has already been run: create a new one for another training")
        self._started = True
        return self._epochs()

    def end_epoch(self, **values: Any) -> None:
        """Mark the end of an epoch. Without this call, an epoch ends without values.

        Args:
            **values: Values of the epoch by name, numbers or one-element tensors: ``val_accuracy``, ``val_loss``, ….

        Raises:
            InputError: If a value is not a number, or the ``score`` is missing.
            StateError: If no epoch is running.
        """
        if self._epoch is None or self._run is None:
            raise StateError("call end_epoch once, at the end of the body of `for epoch in loop`")
        numbers = {name: as_number(name, value) for name, value in values.items()}
        epoch, run = self._epoch, self._run
        continues = run.end(epoch, numbers, finite=self._trainer.settle())
        self._overruled = self._trainer.overruled()
        self._epoch = None
        score, metric = run.history["score"][-1], self._loop_score.metric
        self._progress.update(epoch, score)
        badness = -score if metric is not None and metric.mode == "max" else score
        self._continues = self._trainer.end_epoch(badness) and continues

    def stop(self) -> None:
        """End the current training after this epoch, for custom early stopping; the loop itself continues.

        If the training has an error, it is repaired as at its planned end. A ``break`` ends the whole loop instead.

        Raises:
            StateError: If no training is running.
        """
        if self._result is not None or not self._started:
            raise StateError("call stop inside the body of `for epoch in loop`")
        self._stopped = True

    def _epochs(self) -> Generator[int, None, None]:
        """Run trainings until one is repaired or no attempt is left."""
        try:
            baseline = yield from self._train(self._spec)
            assert self._baseline_run is not None
            healthy = self._checkpoint_epoch if self._baseline_run.has_got_worse_since(self._checkpoint_epoch) else 0
            self._repair_loop.begin(baseline, self._loop_score.metric, self._targets, healthy)
            while (candidate := self._repair_loop.next()) is not None:
                yield from self._attempt(candidate)
        finally:  # also if the user leaves the loop: the result is the best training so far
            self._trainer.close()
            self._progress.stop()
            if hasattr(self._repair_loop, "best"):
                self._result = self._repair_loop.result()
                self._objects = self._best_objects

    def _attempt(self, candidate: Candidate) -> Generator[int, None, None]:
        spent_before = self._budget.spent
        try:
            trial = yield from self._train(candidate.spec, candidate)
        except _FailedError as failed:
            self._repair_loop.fail(candidate, str(failed), spent_before)
        except GeneratorExit:
            self._repair_loop.fail(candidate, "the loop was left", spent_before)
            raise
        else:
            self._repair_loop.add(candidate, trial)
            self._kept = [(t, objects) for t, objects in (*self._kept, (trial, self._objects)) if t.trained is not None]
            of_best = (objects for kept, objects in self._kept if kept is self._repair_loop.best)
            self._best_objects = next(of_best, self._best_objects)

    def _train(self, spec: TrainingSpec, candidate: Candidate | None = None) -> Generator[int, None, Trial]:
        """Run one training: that of a candidate, or the original one.

        Raises:
            _FailedError: If its objects can't be created, or the user's loop overrides an edit.
        """
        run = self._run = ManagedLoopRun(
            spec, self._rules, self._budget, self._loop_score, baseline=candidate is None,
            stop_if_stuck=self._repair_loop.planner is not None, log_dir=self._log_dir,
            until=None if candidate is None else candidate.epochs, baseline_run=self._baseline_run,
        )  # fmt: skip
        if candidate is None:
            self._baseline_run = run
        try:
            self._objects = self._trainer.begin(spec, run)
        except Exception as error:
            run.monitor.close()
            if candidate is None:
                raise
            raise _FailedError(f"{type(error).__name__}: {error}") from error
        if candidate is not None:
            self.attempt += 1
            if self._logs_attempts:
                changes = "; ".join(map(str, self._objects.edits))
                logger.warning("attempt %d, from epoch %d: %s", self.attempt, spec.start, changes)
        title, until = (
            ("baseline training", None) if candidate is None else (f"attempt {self.attempt}", candidate.epochs)
        )
        self._progress.begin(title, until or spec.epochs)
        interrupted, self._stopped, above = True, False, True
        try:
            for epoch in range(spec.start, spec.epochs):
                if run.healthy and self._trainer.keep_point(epoch):
                    self._checkpoint_epoch = epoch
                self._epoch, self._continues = epoch, True
                self._trainer.begin_epoch(epoch)
                yield epoch
                if self._epoch is not None:
                    self.end_epoch()
                if self._overruled:
                    raise _FailedError(self._overruled)
                if self._stopped or not self._continues:
                    break
            if candidate is None:
                planner = self._repair_loop.planner
                needs = frozenset[str]().union(*(rule.needs for rule in self._rules))
                needs |= frozenset() if planner is None else planner.needs
                repairs = planner is not None
                run_loop_diagnostics(self._trainer, run, self._budget, needs, spec.seed, repairs=repairs)
            interrupted = False
            run.monitor.finish()
            above = run.judge()
        finally:
            self._epoch = None
            run.monitor.close()
            if interrupted and candidate is None:
                ended = self._ended(run, spec, interrupted, above)
                self._repair_loop.begin(ended, self._loop_score.metric, self._targets)
        return self._ended(run, spec, interrupted, above)

    def _ended(self, run: ManagedLoopRun, spec: TrainingSpec, interrupted: bool, above: bool) -> Trial:
        context = run.monitor.context if run.monitor.context.framework != "unknown" else run.context
        trained = self._trainer.end()
        return Trial(
            spec, trained, run.score, tuple(run.monitor.findings), context, run.history, run.work,
            run.cut_short, interrupted, edits=trained.edits,
            above_trivial=above, granted=run.monitor.history.step + 1 if run.judged else run.granted,
            charts=None if spec.edits else run_charts(run.monitor.history, context, run.monitor.findings),
        )  # fmt: skip

    @property
    def _targets(self) -> Any:
        assert self._run is not None
        return self._run.monitor.history.targets


class _FailedError(Exception):
    """An attempt whose objects can't be created, or whose edits the user's loop overrides."""
