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
from autotrainer.scoring.scorer import FITTED
from autotrainer.training.base_run import BaseRun
from autotrainer.training.budget import Budget

__all__ = ["LoopScore", "ManagedLoopRun"]

_LEARNED = 0.1
"""Relative decrease of the loss, from the first step to an epoch's mean, that shows that something was learned."""


class LoopScore:
    """Selects the value that scores the epochs of the user's loop; decided once.

    Args:
        name: Name of an `end_epoch` value; None for the first one reported, else the loss observed in evaluation mode,
            else the training loss.
        mode: Whether higher or lower is better; None goes by the name.

    Attributes:
        metric: Compares scores; None until the value is decided.
    """

    def __init__(self, name: str | None, mode: Mode | None) -> None:
        self._name, self._mode = name, mode
        self.metric: ReportedMetric | None = None if name is None else ReportedMetric(name, mode)

    def check(self, reported: Mapping[str, float]) -> None:
        """Check that a value chosen by name was reported.

        Raises:
            InputError: If it was not.
        """
        if self._name is not None and self._name not in reported:
            raise InputError(
                f"score={self._name!r} is not among the values passed to end_epoch ({', '.join(reported) or 'none'}): "
                f"call loop.end_epoch({self._name}=…)"
            )

    def score(self, reported: Mapping[str, float], observed: Mapping[str, float]) -> float:
        """Return the score of an epoch, NaN if it has none.

        Args:
            reported: Values that the user's loop passed to `end_epoch`, by name.
            observed: ``loss`` and ``val_loss``, as far as they were observed.
        """
        if self.metric is None:
            name = next(iter(reported), next((n for n in ("val_loss", "loss") if n in observed), None))
            if name is None:
                return math.nan
            self.metric = ReportedMetric(name, self._mode)
        return reported.get(self.metric.name, observed.get(self.metric.name, math.nan))


class ManagedLoopRun(BaseRun):
    """What the core gives a `LoopTrainer` for one training: implements `autotrainer.adapter.LoopRun`.

    Args:
        spec: Recipe of the training.
        rules: Rules in force; without any, nothing is measured.
        budget: Limits the work.
        loop_score: Selects the value that scores its epochs.
        baseline: Whether this is the baseline training.
        stop_if_stuck: Whether an error that shows the training is stuck ends it.
        log_dir: Folder for the run log, or None.
        until: Number of epochs after which it ends, or None.
        baseline_run: The baseline training, if this one continues it from the epoch where its recipe begins; or None.

    Attributes:
        suspect: Whether values are known to be non-finite.
        healthy: Whether the end of the last epoch is a healthy point: no error, something learned, and the lowest
            loss so far.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        rules: Sequence[Rule],
        budget: Budget,
        loop_score: LoopScore,
        *,
        baseline: bool,
        stop_if_stuck: bool,
        log_dir: str | Path | None,
        until: int | None,
        baseline_run: ManagedLoopRun | None = None,
    ) -> None:
        super().__init__(
            spec, rules, budget, baseline=baseline, stop_if_stuck=stop_if_stuck, log_dir=log_dir,
            on_finding=self._on_finding, until=until,
        )  # fmt: skip
        self.suspect = False
        self.healthy = False
        self._lowest = math.inf
        self._loop_score = loop_score
        if baseline_run is not None and spec.start:
            self.monitor.history = baseline_run.monitor.history.until(spec.start)
            self.history = {name: values[: spec.start] for name, values in baseline_run.history.items()}
            self._epochs = spec.start

    def end(self, epoch: int, reported: Mapping[str, float], *, finite: bool) -> bool:
        """End an epoch, and return whether to continue.

        Args:
            epoch: The epoch.
            reported: Values that the user's loop passed to `end_epoch`, by name.
            finite: Whether all weights are finite.

        Raises:
            InputError: If the value that is the score was not reported.
        """
        self._loop_score.check(reported)
        first = self.monitor.history.step_of_epoch(epoch - 1) + 1 if epoch else 0
        self.end_monitored_epoch(reported)
        observed = {}
        steps, losses = self.monitor.history.losses
        of_epoch = losses[steps >= first]
        if len(of_epoch):
            observed["loss"] = float(np.mean(of_epoch))
        epochs, values = self.monitor.history.epochs("val_loss")
        if len(epochs) and epochs[-1] == epoch:
            observed["val_loss"] = float(values[-1])
        score = self._loop_score.score(reported, observed)
        goes_on = self.conclude(epoch, {**observed, **reported}, score, finite=finite)
        if self._loop_score.metric is not None:
            self.score = self._loop_score.metric.score_history(self.history["score"])
        if epoch == 0 and len(losses):
            self._lowest = float(losses[0]) - _LEARNED * abs(float(losses[0]))
        loss = observed.get("loss", math.inf)
        self.healthy = self._baseline and self.sound and loss < self._lowest
        self._lowest = min(self._lowest, loss)
        return goes_on

    def judge(self) -> bool:
        """Return whether the score is clearly better than that of a constant prediction, and report both as facts."""
        metric, constant = self._loop_score.metric, self.constant_score
        if metric is None or self.score is None:
            return metric is None
        targets, squared = self.monitor.history.targets, self.monitor.context.loss.family == "squared_error"
        if (
            constant == 0 and targets.mean and squared and not metric.is_share
        ):  # all targets are the same, such as that of a single row
            better = self.score.value <= FITTED * targets.mean**2
        else:
            better = metric.above_constant(self.score, constant)
        if math.isnan(constant):
            return better and bool(self.monitor.context.asked.get("above_constant", 1.0))
        if math.isfinite(self.score.value):
            value = metric.in_unit(self.score)
            self.monitor.learn({"above_constant": float(better), "metric_score": value, "constant_score": constant})
        return better

    @property
    def constant_score(self) -> float:
        """Score of the best constant prediction; NaN if it is unknown."""
        metric = self._loop_score.metric
        if metric is None:
            return math.nan
        return metric.constant_score(self.monitor.context, self.monitor.history.targets, self.score)

    @property
    def share_score(self) -> float:
        """The score as a share, if it is an accuracy or R²; else NaN."""
        metric = self._loop_score.metric
        if metric is None or self.score is None or not metric.is_share:
            return math.nan
        return metric.in_unit(self.score)

    def has_got_worse_since(self, epochs: int) -> bool:
        """Return whether its score at the end is worse, by more than noise, than after so many epochs."""
        metric, scores = self._loop_score.metric, self.history.get("score", [])
        if metric is None or self.score is None or not 0 < epochs <= len(scores):
            return False
        return metric.better(metric.score_history(scores[:epochs]), self.score)

    def _work_of_epoch(self) -> int:
        """Return the work of one full epoch, even if the loader ended early because of suspect values."""
        full = self._workload.of(self.context.train_rows or 0, training=True) if self.suspect else 0
        return max(full, self.work)

    def _on_finding(self, finding: Finding) -> None:
        if self._stop_if_stuck and finding.problem == "nonfinite" and finding.severity is Severity.ERROR:
            self.suspect = True
