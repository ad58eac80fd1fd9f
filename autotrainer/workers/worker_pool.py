"""Independent trainings in other processes, ahead of their turn.

Outcomes are taken in order, exactly as if each training had run when its turn came: one that the budget would have cut
short by then is run again in this process, and so is one whose process was lost. Models stay in their processes.

The result is that of one process, to the bit on equal CPUs, as far as trainings are deterministic and nothing depends
on time: with a wall-time budget, or the default one, which is a minute for short trainings, the number of attempts
depends on how fast they run.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from autotrainer.adapter.backend import Backend
from autotrainer.adapter.spec import FitRequest, TrainingSpec
from autotrainer.errors import ConfigError
from autotrainer.output import logger
from autotrainer.records.data import ArrayData
from autotrainer.training.budget import Budget, BudgetState
from autotrainer.training.trial import Failure, Trial, TrialRunner
from autotrainer.workers.ray_pool import RayPool, connect

__all__ = ["WorkerPool", "check_sendable"]

_QUEUED = 2
"""Submitted trainings per process: enough to keep it busy, few enough to end them at once."""

_MAX_LOST = 3
"""Times that a process is lost until this process runs everything: starting processes again takes longer than that."""

_PARENT_CHECK = 2.0
"""Seconds between two checks whether the parent process is alive."""

_Key = tuple[TrainingSpec, int | None]
"""Identifies a training: the arguments ``spec`` and ``until`` of `TrialRunner.run`."""
_Training = tuple[TrainingSpec, int | None, Trial | None]
"""The same with the argument ``shorter``."""


@dataclass
class WorkerPool:
    """Runs trainings in new processes with joblib's loky, or in those of a Ray cluster.

    Attributes:
        workers: Number of processes, >= 2, which start with the first trainings; or ``ray``.
        backend: The framework.
        runner: Runs trainings in this process; the others get a copy.
    """

    workers: int | Literal["ray"]
    backend: Backend
    runner: TrialRunner
    _pool: Any = field(init=False, default=None)
    _futures: dict[_Key, Any] = field(init=False, default_factory=dict)
    _submitted: set[_Key] = field(init=False, default_factory=set)
    _disabled: bool = field(init=False, default=False)
    _lost: int = field(init=False, default=0)

    def submit(self, trainings: Iterable[_Training], budget: Budget) -> None:
        """Submit trainings, each at most once, and not many more at a time than there are processes.

        Args:
            trainings: What to run.
            budget: The budget as of now: each training may use all of it.
        """
        for training in trainings:
            if self._disabled:
                return
            spec, until, shorter = training
            if (spec, until) in self._submitted:
                continue
            sent = None if shorter is None else replace(shorter, trained=None, paused=None)  # models are not sent
            try:
                if sum(not f.done() for f in self._futures.values()) >= _QUEUED * self._processes:
                    return
                self._submitted.add((spec, until))
                self._pool = self._pool or self._start()
                self._futures[spec, until] = self._pool.submit(_run, spec, until, sent, budget.state)
            except Exception as error:  # noqa: BLE001 - whatever happens to other processes, this one continues
                self._give_up(error, for_good=self._pool is None)
                return

    def take(self, spec: TrainingSpec, until: int | None, budget: Budget) -> Trial | Failure | None:
        """Return the outcome of a training whose turn has come, charged to the budget; None if it must be run here.

        Raises:
            KeyboardInterrupt: With Ctrl-C while waiting for it.
        """
        future = self._futures.pop((spec, until), None)
        if future is None:
            return None
        try:
            outcome: Trial | Failure = future.result()
        except Exception as error:  # noqa: BLE001 - as above
            self._give_up(error, for_good=isinstance(error, _SetUpError))
            return None
        cut = isinstance(outcome, Trial) and outcome.cut_short
        if not budget.timed and (cut or not budget.allows(outcome.peak)):
            return None
        budget.spend(outcome.work)
        return outcome

    def close(self) -> None:
        """Kill the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, kill_workers=True)
        self._pool = None
        self._futures.clear()

    def _give_up(self, error: Exception, *, for_good: bool) -> None:
        """Run what was submitted in this process; unless it is for good, the next rung gets new processes."""
        self._lost += 1
        self._disabled = for_good or self._lost >= _MAX_LOST
        cause = "no other process can run trainings" if for_good else "a worker process was lost"
        logger.warning("%s; its trainings run in this process: %s", cause, error)
        self.close()

    @property
    def _processes(self) -> int:
        return connect() if self.workers == "ray" else self.workers

    def _start(self) -> Any:
        import cloudpickle

        runner = self.runner
        parts = (
            runner.request,
            runner.rules,
            runner.scorer,
            runner.log_dir,
            runner.facts,
            runner.compare,
            runner.range_test,
        )
        task = cloudpickle.dumps(parts)
        settings = cloudpickle.dumps((self.backend, self.backend.process_settings()))
        arguments = (uuid.uuid4().hex, settings, task)
        if self.workers == "ray":
            return RayPool(_initialize, arguments)
        return process_pool(self.workers, _initialize_child, (os.getpid(), *arguments))


def process_pool(workers: int, initializer: Callable[..., None], arguments: tuple[Any, ...]) -> Any:
    """Return an executor with so many processes, each prepared by a call: the one use of joblib's private packages."""
    from joblib.externals.loky import ProcessPoolExecutor

    return ProcessPoolExecutor(workers, initializer=initializer, initargs=arguments)


def check_sendable(workers: int | Literal["ray"], request: FitRequest, metric: Any) -> None:
    """Check that other processes can be used, and that a request can be sent to them.

    Args:
        workers: Number of processes, or ``ray``.
        request: The request to `fit`.
        metric: Name or callable.

    Raises:
        ConfigError: If a library or the cluster is missing, or a part of the request can't be sent.
    """
    try:
        import cloudpickle

        if workers == "ray":
            connect()
        else:
            import joblib  # noqa: F401 - reports early that it is missing; the pool starts later
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
                f"{name} can't be sent to another process ({type(error).__name__}: {error}): pass one that can be "
                "pickled, for example a callable that builds it, or workers=1"
            ) from error


# -- in the other process ---------------------------------------------------------------------------------------------


class _SetUpError(Exception):
    """The process can't run any training."""


_runner: TrialRunner | None = None
_pool_name = _set_up_error = ""


def _initialize_child(parent: int, *arguments: Any) -> None:
    """Prepare a process that ends with its parent, however that ends; Ctrl-C is left to the parent."""

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    _initialize(*arguments)


def _initialize(pool_name: str, settings: bytes, task: bytes) -> None:
    """Prepare a process: the framework with its settings, and the request.

    Args:
        pool_name: A process that was prepared for this pool already stays as it is.
        settings: The backend and its settings, pickled.
        task: The arguments of `TrialRunner` except the trainer, pickled.
    """
    global _pool_name, _runner, _set_up_error
    import cloudpickle

    if _pool_name == pool_name:
        return
    _pool_name, _runner = pool_name, None
    try:
        backend, values = cloudpickle.loads(settings)
        backend.adopt_settings(values)
        request, *rest = cloudpickle.loads(task)
        trainer = backend.trainer(request)
        trainer.first = False  # the parent has run the first training
        _runner = TrialRunner(trainer, request, *rest)
    except Exception as error:  # noqa: BLE001 - raised where a training is requested
        _set_up_error = f"{type(error).__name__}: {error}"


def _run(spec: TrainingSpec, until: int | None, shorter: Trial | None, budget: BudgetState) -> Trial | Failure:
    if _runner is None:
        raise _SetUpError(f"the process could not be set up: {_set_up_error}")
    outcome = _runner.run(spec, Budget.of(budget), until, shorter=shorter)
    if isinstance(outcome, Trial):
        outcome.close()
        outcome.trained = None
    return outcome
