"""Trainings that are run again: of those from a journal or another process, only the best needs a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from autotrainer.adapter.spec import Evaluation, TrainingSpec
from autotrainer.training.budget import Budget
from autotrainer.training.run import ManagedRun
from autotrainer.training.trial import Trial, TrialRunner, run_trial

__all__ = ["reference_evaluation", "rerun"]


class _Rerun(ManagedRun):
    """Grants as many steps and epochs as a training had; nothing is charged."""

    def __init__(self, trial: Trial, runner: TrialRunner, on_epoch: Callable[[int, float], None] | None) -> None:
        request = runner.request
        super().__init__(
            trial.spec, runner.rules, Budget(math.inf), runner.scorer, request.train, request.validation,
            stop_if_stuck=False, on_epoch=on_epoch, facts=trial.context.asked,
            until=len(trial.history.get("score", ())),
        )  # fmt: skip
        self._steps = trial.granted

    def spend(self, samples: int, *, training: bool) -> bool:
        """Grant an evaluation, and a step if the training had it."""
        self.cut_short |= training and self.granted >= self._steps
        return super().spend(samples, training=training)


class _FirstEvaluation(ManagedRun):
    """Grants one step, and keeps the evaluation after it."""

    evaluation: Evaluation | None = None

    def spend(self, samples: int, *, training: bool) -> bool:
        """Grant an evaluation, and the first step."""
        self.cut_short |= training and self.granted > 0
        return super().spend(samples, training=training)

    def end_epoch(self, epoch: int, values: Mapping[str, float], evaluation: Evaluation | None) -> bool:
        """Keep the evaluation."""
        self.evaluation = evaluation
        return False


def rerun(runner: TrialRunner, trial: Trial, on_epoch: Callable[[int, float], None] | None = None) -> Trial:
    """Run a training again exactly as before, whatever ended it; nothing is charged.

    Args:
        runner: Runs it.
        trial: The training as it is recorded.
        on_epoch: Called at the end of each epoch with (epoch, score).

    Returns:
        The trial, with its model.

    Raises:
        KeyboardInterrupt: With Ctrl-C.
        Exception: Whatever the trainer raises.
    """
    run = _Rerun(trial, runner, on_epoch)
    train = partial(runner.trainer.train, trial.spec, run)
    repeated = run_trial(train, trial.spec, run, runner.scorer, runner.request.validation)
    if repeated.interrupted:
        raise KeyboardInterrupt
    return repeated


def reference_evaluation(runner: TrialRunner, spec: TrainingSpec) -> Evaluation | None:
    """Return an evaluation after one training step, with the types and shapes of any other; nothing is charged.

    Args:
        runner: Runs trainings.
        spec: Recipe of a training that can be run.
    """
    request, spec = runner.request, replace(spec, rehearsal=True)
    run = _FirstEvaluation(
        spec, (), Budget(math.inf), runner.scorer, request.train, request.validation, stop_if_stuck=False
    )
    try:
        runner.trainer.train(spec, run)
    finally:
        run.monitor.close()
    return run.evaluation
