"""The core's side of a training in the user's own loop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from autotrainer.adapter.spec import TrainingSpec
from autotrainer.errors import InputError
from autotrainer.records.findings import Finding, Severity
from autotrainer.rule import Rule
from autotrainer.scoring.metrics import Mode
from autotrainer.scoring.reported_metric import ReportedMetric
from autotrainer.training.budget import Budget
from autotrainer.training.run import BaseRun

__all__ = ["ScoreChoice", "TrainingInLoop"]

_LEARNED = 0.1
"""Share of the first step's loss by which that of an epoch is lower where something was learned."""


class ScoreChoice:
    """Which of the values that the user's loop tells judges its trainings: decided once.

    Args:
        name: Name of the value; None for the first one told, else the loss seen in evaluation mode, else that in
            training.
        mode: Whether higher or lower is better; None goes by the name.
    """

    def __init__(self, name: str | None, mode: Mode | None) -> None:
        self._wanted, self._mode = name, mode
        self.metric: ReportedMetric | None = None if name is None else ReportedMetric(name, mode)

    def check(self, told: Mapping[str, float]) -> None:
        """Check that the value that judges was told.

        Raises:
            InputError: If it was not.
        """
        if self._wanted is not None and self._wanted not in told:
            raise InputError(
                f"score={self._wanted!r} judges this training, but end_epoch was told "
                f"{', '.join(told) or 'nothing'}: call loop.end_epoch({self._wanted}=…)"
            )

    def score(self, told: Mapping[str, float], seen: Mapping[str, float]) -> float:
        """Return the score of an epoch.

        Args:
            told: What the user's loop told of it, by name.
            seen: What was seen besides.
        """
        if self.metric is None:
            name = next(iter(told), next((n for n in ("val_loss", "loss") if n in seen), None))
            if name is None:
                return math.nan
            self.metric = ReportedMetric(name, self._mode)
        return told.get(self.metric.name, seen.get(self.metric.name, math.nan))


class TrainingInLoop(BaseRun):
    """What the core gives a `LoopTrainer` for one training: implements `autotrainer.adapter.LoopRun`.

    Args:
        spec: Recipe of the training.
        rules: Rules in force; none, and nothing is measured.
        budget: What may still be done.
        choice: Says which value judges.
        baseline: Whether this is the training as given.
        stops: Whether an error that shows the training stuck ends it.
        log_dir: Folder for the run log, or None.
        until: Epochs after which it ends, or None.
        given: The training as given, where this one goes on from the epoch in which its recipe begins; or None.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        rules: Sequence[Rule],
        budget: Budget,
        choice: ScoreChoice,
        *,
        baseline: bool,
        stops: bool,
        log_dir: str | Path | None,
        until: int | None,
        given: TrainingInLoop | None = None,
    ) -> None:
        super().__init__(
            spec, rules, budget, baseline=baseline, stops=stops, log_dir=log_dir, on_finding=self._found, until=until
        )
        self.suspect = False
        self.healthy = False
        """Whether the last epoch's end is a point to come back to: no error, something learned, lowest loss so far."""
        self._lowest = math.inf
        self._choice = choice
        if given is not None and spec.start:
            self.monitor.history = given.monitor.history.before_epoch(spec.start)
            self.history = {name: values[: spec.start] for name, values in given.history.items()}
            self._epochs = spec.start

    def end(self, epoch: int, told: Mapping[str, float], *, finite: bool) -> bool:
        """Take what is known at the end of an epoch, and say whether to go on.

        Args:
            epoch: The epoch.
            told: What the user's loop told of it.
            finite: Whether all weights are finite.

        Raises:
            InputError: If the value that judges was not told.
        """
        self._choice.check(told)
        first = self.monitor.history.step_of_epoch(epoch - 1) + 1 if epoch else 0
        self.tell_monitor(told)
        seen = {}
        steps, losses = self.monitor.history.losses
        recent = losses[steps >= first]
        if len(recent):
            seen["loss"] = float(np.mean(recent))
        epochs, values = self.monitor.history.epochs("val_loss")
        if len(epochs) and epochs[-1] == epoch:
            seen["val_loss"] = float(values[-1])
        score = self._choice.score(told, seen)
        goes_on = self.conclude(epoch, {**seen, **told}, score, finite=finite)
        if self._choice.metric is not None:
            self.judged = self._choice.metric.score_history(self.history["score"])
        if epoch == 0 and len(losses):
            self._lowest = float(losses[0]) - _LEARNED * abs(float(losses[0]))
        loss = seen.get("loss", math.inf)
        self.healthy = self._baseline and self.sound and loss < self._lowest
        self._lowest = min(self._lowest, loss)
        return goes_on

    def has_got_worse_since(self, epochs: int) -> bool:
        """Say whether it has ended worse, by more than noise, than it was after so many epochs."""
        metric, scores = self._choice.metric, self.history.get("score", [])
        if metric is None or self.judged is None or not 0 < epochs <= len(scores):
            return False
        return metric.better(metric.score_history(scores[:epochs]), self.judged)

    def _work_of_epoch(self) -> int:
        """Return the work of a whole epoch, which the loader has ended early where it was suspect."""
        whole = self._workload.of(self.context.train_rows or 0, training=True) if self.suspect else 0
        return max(whole, self.work)

    def _found(self, finding: Finding) -> None:
        if self._stops and finding.problem == "nonfinite" and finding.severity is Severity.ERROR:
            self.suspect = True
