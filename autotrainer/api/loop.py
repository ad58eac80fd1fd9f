"""`Loop`: repair inside the user's own training loop."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from autotrainer import registry
from autotrainer.adapter.backend import LoopTrainer
from autotrainer.adapter.spec import LoopObjects, LoopRequest, TrainingSpec
from autotrainer.api.loop_objects import ObjectsInUse
from autotrainer.api.options import check_bool, names, whole
from autotrainer.config import switched_off
from autotrainer.diagnostics.loop_diagnostics import run_loop_diagnostics
from autotrainer.errors import ConfigError, StateError
from autotrainer.monitoring.monitor import as_number
from autotrainer.records.findings import Finding
from autotrainer.reporting.result import Result
from autotrainer.search.candidate import Candidate
from autotrainer.search.planner import Planner
from autotrainer.search.repair_loop import RepairLoop
from autotrainer.training.budget import Budget
from autotrainer.training.loop_run import LoopScore, ManagedLoopRun
from autotrainer.training.trial import Trial

__all__ = ["Loop"]

logger = logging.getLogger("autotrainer")


class Loop(ObjectsInUse):
    """Runs the epochs of the user's own PyTorch loop; where the training fails, rewinds, repairs, and goes on.

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

    The first training runs with the very objects given and draws no random number more than the plain loop would. If
    it ends with an error, or can be seen to be stuck, the next ``epoch`` is one rewound to: model, optimizer, loss,
    loader, scheduler and scaler of the loop are then repaired copies of those given, as they were then, and so are the
    random states. That is epoch 0, or, where the training went well for some epochs and then got worse, and where the
    repair is one that a running training can take (learning rate, momentum, clipping, steps left out or taken back),
    the end of those epochs. A stuck training ends its loader early. Call `end_epoch` once an epoch, use the objects
    through the loop, and step a scheduler of your own through `scheduler`.

    What your code keeps besides, such as averages of weights, the best score or a patience, belongs to one training:
    make it anew where `attempt` has changed. Stop early with `stop` rather than with ``break``.

    Each epoch of the first training without an error and with the lowest loss so far is kept on the host, the latest
    only, for that: a copy of model and optimizer; models above 1 GiB are not, and begin at epoch 0.

    Args:
        model: ``torch.nn.Module``.
        optimizer: Optimizer over ``model.parameters()``.
        loss_fn: Loss module or callable(outputs, targets).
        train_loader: Training batches, readable once an epoch anew.
        epochs: Planned epochs, >= 1.
        score: Name of the `end_epoch` value that judges; None for the first one told. Without any, the loss of the
            loss module in evaluation mode judges, else that in training.
        mode: Whether a higher (``max``) or lower (``min``) score is better; None goes by its name: lower with loss,
            error, mae or mse in it.
        scheduler: Scheduler of the optimizer, or callable(optimizer) that makes one.
        scaler: ``torch.amp.GradScaler``.
        repair: False only watches.
        strategy: See `autotrainer.fit`; so are all that follow.
        max_change: How far the model may be changed.
        extra_memory: Whether repairs may take more memory.
        keep: Layer-name patterns that nothing may touch.
        forbid: Names of repairs never to use.
        budget: Number of trainings of the given model, this one included; or wall time; None for three trainings or one
            minute, whichever is more. Validation in the user's loop is not counted.
        select: Problems to look for.
        ignore: Problems to leave out.
        thresholds: Values by ``problem.name``.
        seed: Seed of weights that repairs draw.
        log_dir: Folder for run logs, one a training from where it begins; None writes no file.
        progress: Whether to tell each attempt, through ``logging.getLogger("autotrainer")``.

    Attributes:
        attempt: Number of the present training: 0 for the one as given.

    Raises:
        InputError: If the objects do not belong together or can't be copied, or an option is wrong.
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
        if log_dir is not None and not isinstance(log_dir, str | Path):
            raise ConfigError(f"log_dir must be a folder or None, not {log_dir!r}")
        self._log_dir = None if off else log_dir
        if score is not None and not isinstance(score, str):
            raise ConfigError(f"score must be the name of an end_epoch value or None, not {score!r}")
        if mode not in (None, "max", "min"):
            raise ConfigError(f"mode must be 'max', 'min' or None, not {mode!r}")
        check_bool(repair=repair, extra_memory=extra_memory, progress=progress)
        self._progress = progress
        self._choice = LoopScore(score, mode)
        self._spec = TrainingSpec(whole("epochs", epochs, 1), whole("seed", seed, 0))
        self._budget = Budget(budget)
        kept, forbidden = names("keep", keep), names("forbid", forbid)
        backend = registry.backend_of(model)
        request = LoopRequest(
            model, optimizer, loss_fn, train_loader, self._spec.epochs, scheduler, scaler, kept, self._spec.seed
        )
        self._trainer: LoopTrainer = backend.loop(request)
        planner = Planner(registry.repairs(), self._trainer.supports, strategy, max_change, extra_memory, forbidden)
        self._course = RepairLoop(
            planner if repair and not off else None, self._budget, backend.name, self._spec.epochs
        )
        self._objects: LoopObjects = self._trainer.given
        self._kept = self._objects
        self._run: ManagedLoopRun | None = None
        self._given_run: ManagedLoopRun | None = None
        self._point = 0
        self._epoch: int | None = None
        self._goes_on = True
        self._stopped = False
        self._overruled = ""
        self._begun = False
        self._result: Result | None = None
        self.attempt = 0

    @property
    def findings(self) -> list[Finding]:
        """The verdict on the present training as of now."""
        return self._run.monitor.findings if self._run is not None else []

    @property
    def result(self) -> Result:
        """What came of it.

        Raises:
            StateError: If the epochs have not been run yet, or are not over.
        """
        if self._result is None:
            raise StateError("loop.result is there once `for epoch in loop` has ended")
        return self._result

    # -- the epochs -----------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[int]:
        """Yield the epochs of all trainings.

        Raises:
            StateError: If they have been run already.
        """
        if self._begun:
            raise StateError("this Loop has been run already: make a new one for another training")
        self._begun = True
        return self._epochs()

    def end_epoch(self, **values: Any) -> None:
        """Say that an epoch has ended. An epoch of which this is not said ends without any values.

        Args:
            **values: Numbers known at its end, by name: ``val_accuracy``, ``val_loss``, ….

        Raises:
            InputError: If a value is no number, or the one that judges is missing.
            StateError: If no epoch is running.
        """
        if self._epoch is None or self._run is None:
            raise StateError("end_epoch belongs at the end of the body of `for epoch in loop`, once")
        told = {name: as_number(name, value) for name, value in values.items()}
        epoch, run = self._epoch, self._run
        goes_on = run.end(epoch, told, finite=self._trainer.settle())
        self._overruled = self._trainer.overruled()
        self._epoch = None
        score, metric = run.history["score"][-1], self._choice.metric
        badness = -score if metric is not None and metric.mode == "max" else score
        self._goes_on = self._trainer.end_epoch(badness) and goes_on

    def stop(self) -> None:
        """End the present training with this epoch, as early stopping of one's own wants it; the loop goes on.

        Where the training has an error it is repaired, as at its planned end. A ``break`` leaves the loop for good.

        Raises:
            StateError: If no training is running.
        """
        if self._result is not None or not self._begun:
            raise StateError("stop belongs into the body of `for epoch in loop`")
        self._stopped = True

    def _epochs(self) -> Generator[int, None, None]:
        """Run trainings until one is repaired or nothing more is to be tried."""
        try:
            baseline = yield from self._train(self._spec)
            assert self._given_run is not None
            healthy = self._point if self._given_run.has_got_worse_since(self._point) else 0
            self._course.begin(baseline, self._choice.metric, self._targets, healthy)
            while (candidate := self._course.next()) is not None:
                yield from self._attempt(candidate)
        finally:  # also where the user's loop is left: the best so far is the result
            self._trainer.close()
            if hasattr(self._course, "best"):
                self._result = self._course.result()
                self._objects = self._kept

    def _attempt(self, candidate: Candidate) -> Generator[int, None, None]:
        before = self._budget.spent
        try:
            trial = yield from self._train(candidate.spec, candidate)
        except _FailedError as failed:
            self._course.fail(candidate, str(failed), before)
        except GeneratorExit:
            self._course.fail(candidate, "the loop was left", before)
            raise
        else:
            self._course.add(candidate, trial)
            if self._course.best is trial:
                self._kept = self._objects

    def _train(self, spec: TrainingSpec, candidate: Candidate | None = None) -> Generator[int, None, Trial]:
        """Run one training, the one as given where it is no candidate.

        Raises:
            _FailedError: If it can't be built, or the user's loop undoes it.
        """
        run = self._run = ManagedLoopRun(
            spec, self._rules, self._budget, self._choice, baseline=candidate is None,
            stop_if_stuck=self._course.planner is not None, log_dir=self._log_dir,
            until=None if candidate is None else candidate.epochs, baseline_run=self._given_run,
        )  # fmt: skip
        if candidate is None:
            self._given_run = run
        try:
            self._objects = self._trainer.begin(spec, run)
        except Exception as error:
            run.monitor.close()
            if candidate is None:
                raise
            raise _FailedError(f"{type(error).__name__}: {error}") from error
        if candidate is not None:
            self.attempt += 1
            if self._progress:
                said = "; ".join(map(str, self._objects.edits))
                logger.warning("attempt %d, from epoch %d: %s", self.attempt, spec.start, said)
        interrupted, self._stopped = True, False
        try:
            for epoch in range(spec.start, spec.epochs):
                if run.healthy and self._trainer.keep_point(epoch):
                    self._point = epoch
                self._epoch, self._goes_on = epoch, True
                self._trainer.begin_epoch(epoch)
                yield epoch
                if self._epoch is not None:
                    self.end_epoch()
                if self._overruled:
                    raise _FailedError(self._overruled)
                if self._stopped or not self._goes_on:
                    break
            if candidate is None and self._course.planner is not None:
                needs = self._course.planner.needs.union(*(rule.needs for rule in self._rules))
                run_loop_diagnostics(self._trainer, run, self._budget, needs, spec.seed)
            interrupted = False
        finally:
            self._epoch = None
            run.monitor.close()
            if interrupted and candidate is None:
                self._course.begin(self._ended(run, spec, interrupted), self._choice.metric, self._targets)
        return self._ended(run, spec, interrupted)

    def _ended(self, run: ManagedLoopRun, spec: TrainingSpec, interrupted: bool) -> Trial:
        context = run.monitor.context if run.monitor.context.framework != "unknown" else run.context
        trained = self._trainer.end()
        return Trial(
            spec, trained, run.score, tuple(run.monitor.findings), context, run.history, run.work,
            run.cut_short, interrupted, edits=trained.edits,
        )  # fmt: skip

    @property
    def _targets(self) -> Any:
        assert self._run is not None
        return self._run.monitor.history.targets


class _FailedError(Exception):
    """An attempt whose objects could not be made, or whose edits are not in force."""
