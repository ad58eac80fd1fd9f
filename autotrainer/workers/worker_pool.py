"""Trainings that do not depend on each other, run in other processes ahead of their turn.

What comes of it is taken in order, exactly as if it had been run when its turn came: a training that the budget would
have cut by then is run again in this process, and so is one whose process was lost. Models stay in their processes.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from autotrainer.adapter.backend import Backend
from autotrainer.adapter.spec import FitRequest, TrainingSpec
from autotrainer.errors import ConfigError
from autotrainer.records.data import ArrayData
from autotrainer.training.budget import Budget, BudgetState
from autotrainer.training.trial import Failure, Trial, TrialRunner
from autotrainer.workers.ray_pool import RayPool, cluster

__all__ = ["WorkerPool", "check_sendable"]

_QUEUED = 2
"""Trainings for each process that wait or run: enough to keep it busy, few enough to end them at once."""

_WATCH = 2.0
"""Seconds between two looks whether the parent is alive."""

_Training = tuple[TrainingSpec, int | None, Trial | None]
"""Recipe, epochs after which it ends or None, and what it goes on from or None: see `TrialRunner.run`."""

logger = logging.getLogger("autotrainer")


@dataclass
class WorkerPool:
    """Runs trainings in processes of its own, with joblib's loky, or in those of a Ray cluster.

    Attributes:
        workers: Number of processes, >= 2; they start with the first trainings. Or ``ray``.
        backend: The framework.
        runner: Runs trainings in this process, and says how.
    """

    workers: int | Literal["ray"]
    backend: Backend
    runner: TrialRunner
    _pool: Any = field(init=False, default=None)
    _open: list[tuple[tuple[TrainingSpec, int | None], Any]] = field(init=False, default_factory=list)
    _begun: list[tuple[TrainingSpec, int | None]] = field(init=False, default_factory=list)
    _useless: bool = field(init=False, default=False)

    def begin(self, trainings: Iterable[_Training], budget: Budget) -> None:
        """Begin trainings, each at most once, and not many more at a time than there are processes.

        Args:
            trainings: What to run.
            budget: What may be done as of now: each may have all of it.
        """
        for training in trainings:
            if self._useless or sum(not future.done() for _, future in self._open) >= _QUEUED * self._processes:
                return
            spec, until, after = training
            if (spec, until) in self._begun:
                continue
            self._begun.append((spec, until))
            sent = None if after is None else replace(after, trained=None, paused=None)  # models stay where they are
            try:
                self._pool = self._pool or self._start()
                self._open.append(((spec, until), self._pool.submit(_work, spec, until, sent, budget.state)))
            except Exception as error:  # noqa: BLE001 - whatever becomes of other processes, this one goes on
                self._give_up(error, for_good=self._pool is None)
                return

    def take(self, spec: TrainingSpec, until: int | None, budget: Budget) -> Trial | Failure | None:
        """Return what came of a training whose turn it is, charged to the budget; None if it is to be run here.

        Raises:
            KeyboardInterrupt: With Ctrl-C while it is waited for.
        """
        found = next((future for training, future in self._open if training == (spec, until)), None)
        if found is None:
            return None
        self._open = [entry for entry in self._open if entry[1] is not found]
        try:
            outcome: Trial | Failure = found.result()
        except Exception as error:  # noqa: BLE001 - as above
            self._give_up(error, for_good=isinstance(error, _NotSetUpError))
            return None
        cut = isinstance(outcome, Trial) and outcome.cut_short
        if not budget.timed and (cut or not budget.allows(outcome.peak)):
            return None
        budget.spend(outcome.work)
        return outcome

    def close(self) -> None:
        """End the processes, whatever they do."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, kill_workers=True)
        self._pool = None
        self._open.clear()

    def _give_up(self, error: Exception, *, for_good: bool) -> None:
        """Have this process do what others were to do; the next rung has new ones, if not for good."""
        self._useless = for_good
        lost = "no other process can run trainings" if for_good else "a worker process was lost"
        logger.warning("%s, and what it was to do is done in this one: %s", lost, error)
        self.close()

    @property
    def _processes(self) -> int:
        return cluster() if self.workers == "ray" else self.workers

    def _start(self) -> Any:
        import cloudpickle

        runner = self.runner
        task = cloudpickle.dumps((runner.request, runner.rules, runner.judge, runner.log_dir, runner.facts))
        setting = cloudpickle.dumps((self.backend, self.backend.process_settings()))
        arguments = (uuid.uuid4().hex, setting, task)
        if self.workers == "ray":
            return RayPool(_begin, arguments)
        from joblib.externals.loky import ProcessPoolExecutor

        return ProcessPoolExecutor(self.workers, initializer=_begin_child, initargs=(os.getpid(), *arguments))


def check_sendable(workers: int | Literal["ray"], request: FitRequest, metric: Any) -> None:
    """Check that there can be other processes, and that a request can be sent to them.

    Args:
        workers: Their number, or ``ray``.
        request: What `fit` was given.
        metric: Name, or callable.

    Raises:
        ConfigError: If a library or the cluster is missing, or says what can't be sent.
    """
    try:
        import cloudpickle

        if workers == "ray":
            cluster()
        else:
            import joblib  # noqa: F401 - asked for early, used once there is something to do
    except ImportError as error:
        raise ConfigError(
            f"workers={workers} needs joblib and cloudpickle: pip install 'autotrainer-monitor[parallel]', or leave "
            "workers out"
        ) from error
    parts = {
        "model": request.model, "loss": request.loss, "optimizer": request.optimizer, "step": request.step,
        "scheduler": request.scheduler, "fit_args": dict(request.fit_args), "metric": metric,
        "train_data": None if isinstance(request.train, ArrayData) else request.train,
        "validation_data": None if isinstance(request.validation, ArrayData) else request.validation,
    }  # fmt: skip
    for name, value in parts.items():
        try:
            cloudpickle.dumps(value)
        except Exception as error:
            raise ConfigError(
                f"{name} can't be sent to another process ({type(error).__name__}: {error}): give one that can be "
                "pickled, for example a callable that builds it, or workers=1"
            ) from error


# -- in the other process ---------------------------------------------------------------------------------------------


class _NotSetUpError(Exception):
    """A process that can't run any training."""


_runner: TrialRunner | None = None
_prepared = _trouble = ""


def _begin_child(parent: int, *arguments: Any) -> None:
    """Prepare a process that ends with its parent, whatever that ended by; Ctrl-C is for the parent alone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()
    _begin(*arguments)


def _begin(name: str, setting: bytes, task: bytes) -> None:
    """Prepare a process: the same packages, settings of the framework and request.

    Args:
        name: That of the pool: a process that is prepared for it stays as it is.
        setting: Backend and its settings.
        task: What a `TrialRunner` takes but its trainer.
    """
    global _prepared, _runner, _trouble
    import cloudpickle

    if _prepared == name:
        return
    _prepared, _runner = name, None
    try:
        backend, values = cloudpickle.loads(setting)
        backend.adopt_settings(values)
        request, *rest = cloudpickle.loads(task)
        trainer = backend.trainer(request)
        trainer.first = False  # the first training was its parent's
        _runner = TrialRunner(trainer, request, *rest)
    except Exception as error:  # noqa: BLE001 - told where a training is asked for
        _trouble = f"{type(error).__name__}: {error}"


def _work(spec: TrainingSpec, until: int | None, after: Trial | None, budget: BudgetState) -> Trial | Failure:
    if _runner is None:
        raise _NotSetUpError(f"it could not be set up there: {_trouble}")
    outcome = _runner.run(spec, Budget.of(budget), until, after=after)
    if isinstance(outcome, Trial):
        outcome.close()
        outcome.trained = None
    return outcome
