"""The core's side of a training that a `Trainer` runs: its budget, its evaluations and its score."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from autotrainer.adapter.spec import Evaluation, Trained, TrainingSpec
from autotrainer.edits import StopEarly
from autotrainer.records.data import ArrayData, Data, finite_rows
from autotrainer.records.task import TaskContext
from autotrainer.rule import Rule
from autotrainer.scoring.metrics import Score
from autotrainer.scoring.scorer import Scorer
from autotrainer.training.base_run import BaseRun
from autotrainer.training.budget import Budget

__all__ = ["ManagedRun"]


class ManagedRun(BaseRun):
    """What the core gives a `Trainer` for one training: implements `autotrainer.adapter.Run`.

    Args:
        spec: Recipe of the training.
        rules: Rules in force; without any, nothing is measured.
        budget: Limits the work.
        scorer: Scores evaluations.
        train: Training data.
        validation: Validation data.
        checkpoints: Numbers of epochs whose scores are kept.
        **options: Those of `BaseRun`.

    Attributes:
        kept: What the trainer trains, or None before it has begun.
        scores: Scores at the checkpoints, by the number of training samples until then.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        rules: Sequence[Rule],
        budget: Budget,
        scorer: Scorer,
        train: Data,
        validation: Data,
        *,
        checkpoints: Collection[int] = (),
        **options: Any,
    ) -> None:
        super().__init__(spec, rules, budget, **options)
        self.kept: Trained | None = None
        self.scores: dict[int, Score] = {}
        self._checkpoints = frozenset(checkpoints)
        self._scorer = scorer
        self._train_rows = train.rows if isinstance(train, ArrayData) else None
        self._validation_rows = validation.rows if isinstance(validation, ArrayData) else None
        self._finite_rows = finite_rows(validation) if isinstance(validation, ArrayData) else None
        self._evaluations = 2 if any(isinstance(edit, StopEarly) for edit in spec.edits) else 1
        self._evaluated = 0

    def keep(self, trained: Trained) -> None:
        """Take what is about to be trained."""
        self.kept = trained

    def start(self, context: TaskContext, operations: float) -> None:
        """Take the context of the training and the operations of one forward pass of one sample."""
        super().start(context, operations)
        if self._baseline and self._train_rows is not None and self._validation_rows is not None:
            epoch = self._workload.of(self._train_rows, training=True)
            epoch += self._workload.of(self._validation_rows, training=False)
            self._budget.measure(self._spec.epochs * epoch)

    def spend(self, samples: int, *, training: bool) -> bool:
        """Account for a training step or a forward pass that is about to run; return whether the budget allows it."""
        if training:
            return super().spend(samples, training=True)
        work = self._workload.of(int(samples), training=False)
        self.peak = max(self.peak, self.work + work)
        if not (self._budget.timed or self._budget.allows(work)):
            return False
        self._evaluated += int(samples)
        return self._account(work)

    def end_epoch(self, epoch: int, values: Mapping[str, float], evaluation: Evaluation | None) -> bool:
        """Take the values and the evaluation of an epoch, and return whether to continue."""
        numbers = {name: float(value) for name, value in values.items()}
        score = math.nan
        if evaluation is not None:
            self.score, self.evaluation = self._scorer.score(evaluation), evaluation
            score = self.score.value
            if epoch + 1 in self._checkpoints:
                self.scores[self.samples] = self.score
            loss = float(evaluation.training_loss)
            # A loss that is not finite on rows that are not says something about the data, not about the model.
            if evaluation.loss_known and (math.isfinite(loss) or not self._finite_on_finite_rows(evaluation)):
                numbers["val_loss"] = loss
            else:
                numbers.pop("val_loss", None)
            accuracy = self._scorer.accuracy(evaluation, self.score)
            if not math.isnan(accuracy):
                numbers["val_accuracy"] = accuracy
            if self._validation_rows is None:
                self._validation_rows = self._evaluated
        self._evaluated = 0
        self.end_monitored_epoch(numbers)
        return self.conclude(epoch, numbers, score, finite=evaluation is not None and _all_finite(evaluation))

    @property
    def validation_rows(self) -> int:
        """Rows of validation data, 0 while unknown."""
        return self._validation_rows or 0

    def _finite_on_finite_rows(self, evaluation: Evaluation) -> bool:
        """Return whether every non-finite prediction is for a validation row with NaN or infinity."""
        if self._finite_rows is None or len(evaluation.outputs) <= len(self._finite_rows):
            return False
        return bool(np.isfinite(np.asarray(evaluation.outputs)[self._finite_rows]).all())

    def _reserve(self) -> int:
        return self._evaluations * self._workload.of(self.validation_rows, training=False)


def _all_finite(evaluation: Evaluation) -> bool:
    outputs = np.asarray(evaluation.outputs)
    return outputs.dtype.kind != "f" or bool(np.isfinite(outputs).all())
