"""AT504: classes so unequal that the rare ones are not learned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from autotrainer.findings import Finding, Severity
from autotrainer.history import RunHistory
from autotrainer.rule import Rule, Threshold
from autotrainer.rules._held_out import held_out_accuracy
from autotrainer.rules._outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._trends import recent, theil_sen, wilson
from autotrainer.task import TaskContext

__all__ = ["ClassImbalance"]

_ROWS = 10
"""Batches with a row of a rare class, at least, that are judged: each is one row or more."""

_TRIVIAL = 0.15
"""Skill up to which a model is no better than a constant answer, as in `Outcome.stuck`."""

_EARLY = 0.1
"""Share of the schedule from which a score on validation data below that of a constant answer tells something."""

_WORSE = 0.07
"""Accuracy by which the validation score must be below that of random answers with the shares of the classes: two
standard errors of 200 rows, a small validation set. Where the classes of both have equal shares, not even a model that
knows noisy labels by heart gets there."""

_EPOCHS = 3
"""Epochs with a score on validation data, at least."""

_MOST = 0.5
"""Share of the commonest class from which a constant answer is a bar that memorised rows do not fall below."""

_APART = 0.3
"""Accuracy on all rows − accuracy on rare classes, at least: else the model is just not good."""


class ClassImbalance(Rule):
    """Some classes are rare, and the model is bad at them.

    What it does
        Compares the accuracy on classes that are at most a tenth as frequent as the commonest with that on all rows.

    Why it hurts
        Accuracy looks good while the rare class, often the one that matters, is hardly ever recognised.

    Evidence used
        Shares of the commonest and the rarest class among the rows seen; accuracy on rare classes and on all rows of
        sampled batches over the last half of the run, with the Wilson interval of the number of batches that held a
        rare row; the trend of the former. Validation accuracy against that of random answers with the shares of
        the classes in training, from three epochs on: lower by 0.07, it says that classes are less unequal there, and
        that the model leans to the common one.

    Thresholds
        ``ratio``: commonest ÷ rarest class; ``accuracy``: on rare classes, at most; ``schedule``: share of the planned
        training before it is judged; ``ignored``: accuracy on rare classes up to which a model that is no better than
        always giving the commonest class is an error.

    When it is wrong
        Rare classes can be hard, whatever the weights. It is an error only where the rare classes are ignored and the
        model has learned nothing else beyond doubt, or where it fails on validation data with other shares; a long
        tail of classes is at most a warning. Weighted losses and resampling show in the accuracy on rare classes.

    Repairs
        None of its own: weight the classes in the loss, or draw rare rows more often, and judge by a balanced score.

    References
        Japkowicz and Stephen, Intelligent Data Analysis 2002; Buda, Maki and Mazurowski, Neural Networks 2018; He and
        Garcia, IEEE TKDE 2009.
    """

    problem = "class_imbalance"
    code = "AT504"
    aliases = ("imbalance", "imbalanced", "imbalanced_data", "unbalanced_classes", "rare_class")
    needs = OUTCOME_NEEDS | frozenset({"rare_accuracy"})
    causes = ("nonfinite", "unshuffled_data")
    repairs = ()
    THRESHOLDS: ClassVar[Mapping[str, Threshold]] = MappingProxyType(
        {
            "ratio": Threshold(10, "share of the commonest ÷ the rarest class", "Buda et al. 2018", 1),
            "accuracy": Threshold(0.5, "accuracy on rare classes, at most", "half of them are missed", maximum=1),
            "schedule": Threshold(0.3, "share of the schedule before it is judged", "calibrated", maximum=1),
            "ignored": Threshold(
                0.2, "accuracy on rare classes that may be an error, at most", "calibrated", maximum=1
            ),
        }
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the history as it is now."""
        targets = history.targets
        unequal = targets.classes >= 2 and targets.majority >= self.threshold("ratio") * targets.rarest
        if not unequal or math.isnan(context.trivial_accuracy(targets)):
            return None
        evidence = {"majority": targets.majority, "rarest": targets.rarest}
        words = f"The commonest class is {targets.majority / targets.rarest:.3g} times as frequent as the rarest"
        result = outcome(history, context)
        return self._elsewhere(history, result, words, evidence) or self._rare(history, result, words, evidence)

    def _elsewhere(
        self, history: RunHistory, result: Outcome, words: str, evidence: dict[str, float]
    ) -> Finding | None:
        """Find a model that fits the shares of the training classes, and fails where classes are less unequal."""
        majority, there = history.targets.majority, held_out_accuracy(history)
        sampled = history.scalar("accuracy")[recent(history.steps)]
        if majority < _MOST or not there <= self._at_random(history) - _WORSE or not result.mature(_EARLY):
            return None
        if len(history.epochs("val_accuracy")[1]) < _EPOCHS:  # running statistics of normalization lag at first
            return None
        here = float(np.mean(sampled[np.isfinite(sampled)])) if np.isfinite(sampled).any() else math.nan
        if not here >= majority - _WORSE / 2:
            return None
        message = (
            f"{words}; accuracy is {here:.3g} in training, but {there:.3g} on validation data, less than always giving "
            f"the commonest class ({majority:.3g}) would have if classes were as unequal there."
        )
        evidence = evidence | {"accuracy": here, "validation_accuracy": there}
        return self.finding(result.worst, 0.85, message, evidence)

    @staticmethod
    def _at_random(history: RunHistory) -> float:
        """Return the accuracy of random answers with the shares of the classes, at least: that of pure memory."""
        share, others = history.targets.majority, history.targets.classes - 1
        return share**2 + (1 - share) ** 2 / others

    def _rare(self, history: RunHistory, result: Outcome, words: str, evidence: dict[str, float]) -> Finding | None:
        """Find rare classes that are not recognised in training."""
        window = recent(history.steps)
        rare, all_rows = history.scalar("rare_accuracy")[window], history.scalar("accuracy")[window]
        known = np.isfinite(rare)
        count = int(known.sum())
        if count < _ROWS or not result.mature(self.threshold("schedule")):
            return None
        share, overall = float(rare[known].mean()), float(np.nanmean(all_rows))
        high = wilson(share, count, 1.64)[1]
        if high > self.threshold("accuracy") or not overall - share >= _APART:
            return None
        if result.moving() and theil_sen(history.steps[window][known], rare[known]).rising:
            return None
        trivial = not result.known or result.skill <= _TRIVIAL  # the interval of skill is wide where one class is most
        ignored = high <= self.threshold("ignored") and trivial and not result.moving()
        message = f"{words}; accuracy is {share:.3g} on rare classes and {overall:.3g} on all rows."
        evidence = evidence | {"rare_accuracy": share, "rare_accuracy_high": high, "accuracy": overall}
        severity = result.worst if ignored else Severity.WARNING
        return self.finding(severity, 0.85 if ignored else 0.7, message, evidence)
