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


class _FirstEvaluation(ManagedRun):
    """Keeps the first evaluation without scoring it."""

    evaluation: Evaluation | None = None

    def end_epoch(self, epoch: int, values: Mapping[str, float], evaluation: Evaluation | None) -> bool:
        """Keep the evaluation, and end the training."""
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
    request = runner.request
    run = ManagedRun(
        trial.spec, runner.rules, Budget(math.inf), runner.scorer, request.train, request.validation,
        stop_if_stuck=False, on_epoch=on_epoch, facts=trial.context.asked,
        until=len(trial.history.get("score", ())), max_steps=trial.granted,
    )  # fmt: skip
    train = partial(runner.trainer.train, trial.spec, run)
    repeated = run_trial(train, trial.spec, run, runner.scorer, request)
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
        spec, (), Budget(math.inf), runner.scorer, request.train, request.validation, stop_if_stuck=False, max_steps=1
    )
    try:
        runner.trainer.train(spec, run)
    finally:
        run.monitor.close()
    return run.evaluation
