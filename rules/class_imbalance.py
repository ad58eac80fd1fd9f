"""AT504: classes so unequal that the rare ones are not learned."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.signals import MAX_ROWS, Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.held_out import held_out_accuracy
from autotrainer.rules._shared.loss_values import LOSS_VALUE_NEEDS, computes_cross_entropy
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.trends import recent, theil_sen, wilson

__all__ = ["ClassImbalance"]

_ROWS = 10
"""Batches with a row of a rare class, at least, that are judged: each is one row or more."""

_TRIVIAL = 0.15
"""Skill up to which a model is no better than a constant answer, as in `Outcome.stuck`."""

_EARLY = 0.1
"""Share of the schedule from which a score on validation data below that of a constant answer tells something."""

_VALIDATION_ROWS = 200
"""Rows of a validation set, whose size is not known: a small one."""

_SHARED = 100
"""Rows looked at, at least, for the shares of the classes: of fewer, one in 10 could pass for a rare class."""

_FITTED = 0.035
"""Accuracy in training below the share of the commonest class, at most, of a model that fits the training data: one
standard error of 200 rows."""

_EPOCHS = 3
"""Epochs with a score on validation data, at least."""

_MOST = 0.5
"""Share of the commonest class from which a constant answer is a bar that memorised rows do not fall below."""

_FEW_ROWS = 64
"""Rows of sampled batches, at least, whose accuracy is a measurement: its standard error is up to 0.06."""

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
        rare row; the trend of the former. Validation accuracy against that of random answers with the shares of the
        classes in training, from three epochs on: lower by two standard errors over the last half of the run, it says
        that classes are less unequal there, and that the model leans to the common one, provided that it fits the
        training data: by its accuracy there, or by a cross-entropy below that of the shares.

    Thresholds
        ``ratio``: commonest ÷ rarest class; ``accuracy``: on rare classes, at most; ``schedule``: share of the planned
        training before it is judged; ``ignored``: accuracy on rare classes up to which a model that is no better than
        always giving the commonest class is an error.

    When it is wrong
        Rare classes can be hard, whatever the weights. It is an error only where the rare classes are ignored and the
        model has learned nothing else beyond doubt, or where it fails on validation data with other shares; a long
        tail of classes is at most a warning. Weighted losses and resampling show in the accuracy on rare classes.

    Repairs
        Weights of the classes in the loss; or draw rare rows more often. Judge by a balanced score.

    References
        Japkowicz and Stephen, Intelligent Data Analysis 2002; Buda, Maki and Mazurowski, Neural Networks 2018; He and
        Garcia, IEEE TKDE 2009.
    """

    problem = "class_imbalance"
    code = "AT504"
    aliases = ("imbalance", "imbalanced", "imbalanced_data", "unbalanced_classes", "rare_class")
    needs = OUTCOME_NEEDS | LOSS_VALUE_NEEDS | frozenset({"rare_accuracy"})
    causes = ("nonfinite", "unshuffled_data")
    repairs = ("weight_classes",)
    THRESHOLDS = thresholds(
        ratio=Threshold(10, "share of the commonest ÷ the rarest class", "Buda et al. 2018", 1),
        accuracy=Threshold(0.5, "accuracy on rare classes, at most", "half of them are missed", maximum=1),
        schedule=Threshold(0.3, "share of the schedule before it is judged", "calibrated", maximum=1),
        ignored=Threshold(0.2, "accuracy on rare classes that may be an error, at most", "calibrated", maximum=1),
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
        elsewhere = self._elsewhere(history, context, result, words, evidence)
        return elsewhere or self._rare(history, result, words, evidence)

    def _elsewhere(
        self, history: RunHistory, context: TaskContext, result: Outcome, words: str, evidence: dict[str, float]
    ) -> Finding | None:
        """Find a model that fits the shares of the training classes, and fails where classes are less unequal."""
        majority, there = history.targets.majority, held_out_accuracy(history)
        epochs, (bar, noise) = len(history.epochs("val_accuracy")[1]), _at_random(history)
        lasting = held_out_accuracy(history, max(_EPOCHS, epochs // 2))
        if majority < _MOST or not (there <= bar and lasting <= bar - noise) or not result.mature(_EARLY):
            return None
        if epochs < _EPOCHS or history.targets.rows < _SHARED:  # running statistics of normalization lag at first
            return None
        here = _fits(history, context)
        if here is None:
            return None
        name, value, told = here
        message = (
            f"{words}; {told} in training, but accuracy on validation data is {there:.3g}, less than always "
            f"giving the commonest class ({majority:.3g}) would have if classes were as unequal there."
        )
        evidence = evidence | {name: value, "validation_accuracy": there}
        return self.finding(result.worst, 0.85, message, evidence)

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


def _at_random(history: RunHistory) -> tuple[float, float]:
    """Return the accuracy on equal shares of random answers with the shares of the classes, at least; and its noise.

    Not even a model that knows noisy labels by heart is worse. The noise is two standard errors.
    """
    share, others = history.targets.majority, history.targets.classes - 1
    bar = share**2 + (1 - share) ** 2 / others
    return bar, 2 * math.sqrt(bar * (1 - bar) / _VALIDATION_ROWS)


def _fits(history: RunHistory, context: TaskContext) -> tuple[str, float, str] | None:
    """Return name, value and words of what shows that training data are fitted as well as by the shares of the classes.

    None where nothing does. It is the accuracy of the latest epochs, that of the latest rows looked at, if the loss has
    not risen since, or a cross-entropy below that of the shares.
    """
    enough_accuracy, whole = history.targets.majority - _FITTED, history.epochs("accuracy")[1][-_EPOCHS:]
    if len(whole) and float(np.median(whole)) >= enough_accuracy:
        return "accuracy", float(np.median(whole)), f"accuracy is {float(np.median(whole)):.3g}"
    targets, losses = history.targets, history.losses[1][history.losses[0] >= history.step / 2]
    late = losses[np.isfinite(losses)]
    if len(late) < _ROWS:
        return None
    loss, noise = _mean(late)
    sampled, sizes = history.scalar("accuracy"), np.minimum(history.scalar("batch_size"), MAX_ROWS)
    known = np.flatnonzero(np.isfinite(sampled) & np.isfinite(sizes))[::-1]
    enough = int(np.searchsorted(np.cumsum(sizes[known]), _FEW_ROWS)) + 1
    if enough <= len(known):
        late_half = history.steps[known] >= history.step / 2
        latest = known[: max(enough, int(late_half.sum()))]
        accuracy, (before, noise_before) = float(sampled[latest].mean()), _mean(history.scalar("loss")[latest])
        if accuracy >= enough_accuracy and loss - before <= math.hypot(noise, noise_before):
            return "accuracy", accuracy, f"accuracy is {accuracy:.3g}"
    entropy = context.loss.family in ("cross_entropy", "binary_cross_entropy") and context.loss.reduction == "mean"
    entropy &= not context.loss.weighted
    if (entropy or computes_cross_entropy(history)) and loss - noise <= targets.entropy:
        return "loss", loss, f"the loss is {loss:.3g} (that of the classes' shares is {targets.entropy:.3g})"
    return None


def _mean(values: Floats) -> tuple[float, float]:
    """Return the mean and twice its standard error."""
    return float(values.mean()), 2 * float(values.std()) / math.sqrt(len(values))
