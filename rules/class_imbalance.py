"""AT504: classes so imbalanced, by rows or by their weights in the loss, that the rare ones are not learned."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.signals import MAX_ROWS, Floats
from autotrainer.records.task import TargetSummary
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.held_out import held_out_accuracy
from autotrainer.rules._shared.loss_values import LOSS_VALUE_NEEDS
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.trends import recent, theil_sen, wilson

__all__ = ["ClassImbalance"]

_ROWS = 10
"""Fewest batches with a row of a rare class: each counts as one row, and may hold more."""

_TRIVIAL = 0.15
"""Skill up to which a model is no better than a constant prediction, as in `Outcome.stuck`."""

_EARLY = 0.1
"""Share of the schedule from which a validation score below that of a constant prediction is evidence."""

_VALIDATION_ROWS = 200
"""Assumed size of a validation set, which is not known: a small one."""

_SHARE_ROWS = 100
"""Fewest sampled rows that show the class shares: among fewer, a class of one row in ten could pass for a rare one."""

_FITTED = 0.035
"""How far a model that fits the training data may stay below the share of the most common class with its training
accuracy: one standard error of 200 rows."""

_EPOCHS = 3
"""Fewest epochs with a validation score."""

_MOST = 0.5
"""Share of the most common class from which a model that memorizes rows does no worse than a constant prediction."""

_ACCURACY_ROWS = 64
"""Fewest rows of sampled batches whose accuracy counts as measured: its standard error is up to 0.06."""

_TOKENS = 10
"""Most classes of sequences whose rare ones are judged: those of text have a long tail that is seldom likeliest."""

_GAP = 0.3
"""Least accuracy on all rows − accuracy on rare classes: with less, the model is simply not good."""

_WEIGHTS = ("weight_slope", "weight_correlation", "weight_ratio", "class_ratio")
"""Columns about weights of classes."""

_TIMES = 2
"""Least ratio of frequencies, and of weights, of two classes whose weights may make a difference."""

_ALIGNED = 0.9
"""Correlation between the logarithms of weights and frequencies of classes from which one follows the other."""

_OUTCOME = frozenset({"balanced_score", "simple_balanced_score", "balanced_gap", "balanced_gap_low"})
"""Facts of the outcome."""

_PROPORTIONAL = 0.15
"""How far the slope between these logarithms may be from 1 for weights that are proportional to the frequencies: the
standard error of the frequency of a class of 50 rows."""


class ClassImbalance(Rule):
    """Some classes are rare, and the model does poorly on them; or the loss gives the rare classes the small weights.

    What it does
        Compares the accuracy on rare classes, those at most a tenth as frequent as the most common one, with that on
        all rows. Compares the weights of classes in the loss with their frequencies.

    Why it hurts
        Accuracy looks good while the rare class, often the one that matters, is hardly ever recognized. Weights that
        rise with the frequency make it worse: a class that has a tenth of the rows and a ninth of the weight of the
        others counts for a hundredth of the loss.

    Evidence used
        Weights of classes: those of a cross-entropy (``weight``, ``pos_weight``) in PyTorch, the weights of rows in
        Keras (``class_weight``, ``sample_weight``) if all rows of a class have the same; and the frequencies of the
        classes among the sampled rows. Balanced weights fall as the frequency rises.

        Shares of the most common and the rarest class among the sampled rows. Accuracy on rare classes and on all rows
        of sampled batches over the last half of the run; for rare classes, also its trend, and its Wilson interval for
        the number of batches that held a rare row. From three epochs on, validation accuracy is also compared with
        random guesses drawn with the class shares of the training data. If it stays two standard errors below these
        over the last half of the run, the classes are less imbalanced there and the model favors the common one. This
        only counts if the model fits the training data: by its accuracy there, or by a cross-entropy below that of the
        class shares.

        At the end of a training that `fit` judges by balanced accuracy: that of the network and of simple models with
        weighted classes, on the same held-out rows, and the standard error of the difference.

    Thresholds
        ``ratio``: share of the most common ÷ rarest class. ``accuracy``: largest accuracy on rare classes.
        ``schedule``: share of the planned training before this is judged. ``ignored``: accuracy on rare classes up to
        which this is an error for a model that is no better than always predicting the most common class.
        ``inverted``: slope of the logarithm of the weight over that of the frequency: −1 if all classes count alike, 0
        for equal weights, 1 for weights proportional to the frequencies. ``gap``: lead of a simple model in balanced
        accuracy that is an error.

    When it is wrong
        Rare classes can be hard however they are weighted: of sequences with more than ten classes, whose tokens have a
        long tail by nature, only the validation accuracy is judged. This is an error only where rare classes are
        ignored and the model is no better than a constant prediction, where it fails on validation data with other
        class shares, or where simple models show that they can be recognized; a long tail of classes is at most a
        warning. The effect of weighted losses and resampling shows in the accuracy on rare classes. Weights that say
        what errors cost may favor a common class on purpose: so they are a warning, and an error only if rare classes
        are ignored.

    Repairs
        Weight the classes in the loss, or sample rare rows more often. Judge the model by a balanced score. Inverted
        weights: divide by the number of rows of each class instead of multiplying, and give the weights in the order of
        the classes; for a binary cross-entropy, ``pos_weight`` is negatives ÷ positives.

    References
        Japkowicz and Stephen, Intelligent Data Analysis 2002; Buda, Maki and Mazurowski, Neural Networks 2018; He and
        Garcia, IEEE TKDE 2009.
    """

    problem = "class_imbalance"
    code = "AT504"
    aliases = ("imbalance", "imbalanced", "imbalanced_data", "unbalanced_classes", "rare_class")
    phrases = (
        "predicts only the majority class",
        "minority class is ignored",
        "rare class is never predicted",
        "high accuracy but low recall",
        "low f1 score",
        "classes are not balanced",
        "class weights are inverted",
    )
    needs = OUTCOME_NEEDS | LOSS_VALUE_NEEDS | _OUTCOME | frozenset({"balanced_crossed", "rare_accuracy", *_WEIGHTS})
    causes = ("nonfinite", "unshuffled_data")
    repairs = ("weight_classes",)
    static = True
    place = "loss"
    THRESHOLDS = thresholds(
        ratio=Threshold(10, "share of the most common ÷ the rarest class", "Buda et al. 2018", 1),
        accuracy=Threshold(0.5, "accuracy on rare classes, at most", "half of them are missed", maximum=1),
        schedule=Threshold(0.3, "share of the schedule before it is judged", "calibrated", maximum=1),
        ignored=Threshold(0.2, "accuracy on rare classes up to which it may be an error", "calibrated", maximum=1),
        gap=Threshold(0.1, "balanced accuracy of a simple model less that of the network", "as AT306", maximum=1),
        inverted=Threshold(0.35, "slope of log weight over log frequency", "equal weights have 0, square roots 0.5"),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        inverted = self._by_weights(history, context)
        found = self._by_rows(history, context)
        found = self._by_outcome(history, context) or found
        worse = found is not None and found.severity is Severity.ERROR
        return found if inverted is None or (worse and inverted.severity is not Severity.ERROR) else inverted

    def _by_rows(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Find rare classes that are not learned."""
        targets = history.targets
        imbalanced = targets.classes >= 2 and targets.majority >= self.threshold("ratio") * targets.rarest
        if not imbalanced or math.isnan(context.trivial_accuracy(targets)):
            return None
        evidence = {"majority": targets.majority, "rarest": targets.rarest}
        times = f"{targets.majority / targets.rarest:.3g} times as frequent as the rarest"
        result = outcome(history, context)
        validation = self._by_validation(history, context, result, times, evidence)
        if validation is not None or _are_tokens(targets):
            return validation
        return self._by_training(history, result, times, evidence)

    def _by_outcome(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Find rare classes that a simple model recognizes clearly better, all classes being equally important."""
        facts = {name: context.asked[name] for name in sorted(_OUTCOME & set(context.asked))}
        if len(facts) < len(_OUTCOME):
            return None
        if not (facts["balanced_gap_low"] > 0 and facts["balanced_gap"] >= self.threshold("gap")):
            return None
        targets = history.targets
        crossed = context.asked.get("balanced_crossed")
        where = "training rows that it has not seen (cross-validation)" if crossed else "the same held-out rows"
        message = (
            f"Rare classes are missed, although they can be recognized: balanced accuracy, the mean over classes, is "
            f"{facts['balanced_score']:.3g}, and that of a simple model with weighted classes "
            f"{facts['simple_balanced_score']:.3g} on {where}. The most common class is "
            f"{targets.majority / targets.rarest:.3g} times as frequent as the rarest."
        )
        evidence = {"majority": targets.majority, "rarest": targets.rarest, **facts}
        return self.finding(Severity.ERROR, 0.9, message, evidence)

    def _by_weights(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Find weights in the loss that rise with the frequency of the classes."""
        measured = np.flatnonzero(np.isfinite([history.scalar(name) for name in _WEIGHTS]).all(axis=0))
        if not len(measured) or history.targets.rows < _SHARE_ROWS:
            return None
        slope, correlation, weight, times = (float(history.scalar(name)[measured[-1]]) for name in _WEIGHTS)
        targets = history.targets
        two = targets.classes == 2 and (targets.width == 1 or targets.one_hot)  # which lie on a line in any case
        least = self.threshold("ratio") if two else _TIMES
        enough = correlation >= _ALIGNED and weight >= _TIMES and times >= least
        if not enough or slope < self.threshold("inverted"):
            return None
        result = outcome(history, context)
        rare, high = _rare_accuracy(history)
        missed = rare <= self.threshold("ignored") and high <= self.threshold("accuracy")  # the weights say why
        harms = missed and result.mature(self.threshold("schedule")) and not result.moving()
        proportional = abs(slope - 1) <= _PROPORTIONAL
        message = (
            f"The weights in the loss favor the common classes: the most common class is {times:.3g} times as frequent "
            f"as the rarest, and its weight is {weight:.3g} times as large, so it counts {weight * times:.3g} times as "
            "much. Weights that balance classes fall as the frequency rises. Unless they are costs of errors, invert "
            "them."
        )
        evidence = {"weight_ratio": weight, "class_ratio": times, "weight_slope": slope}
        if harms:
            message += f" Accuracy on rare classes is {rare:.3g}."
            evidence["rare_accuracy"] = rare
        severity = result.worst if harms else Severity.WARNING
        return self.finding(severity, 0.9 if proportional or harms else 0.7, message, evidence)

    def _by_validation(
        self, history: RunHistory, context: TaskContext, result: Outcome, times: str, evidence: dict[str, float]
    ) -> Finding | None:
        """Find a model that fits the class shares of the training data, and fails where classes are less imbalanced."""
        majority, accuracy = history.targets.majority, held_out_accuracy(history, context)
        epochs, (bar, noise) = len(history.epochs("val_accuracy")[1]), _random_accuracy(history)
        lasting = held_out_accuracy(history, context, max(_EPOCHS, epochs // 2))
        if majority < _MOST or not (accuracy <= bar and lasting <= bar - noise) or not result.mature(_EARLY):
            return None
        if epochs < _EPOCHS or history.targets.rows < _SHARE_ROWS:  # running statistics of normalization lag at first
            return None
        fit = _training_fit(history, context)
        if fit is None:
            return None
        name, value, description = fit
        message = (
            f"The model favors the most common class, which is {times}: {description} in training, but accuracy on "
            f"validation data is {accuracy:.3g}, where always predicting that class would reach {majority:.3g} if "
            "classes were as imbalanced."
        )
        evidence = evidence | {name: value, "validation_accuracy": accuracy}
        return self.finding(result.worst, 0.85, message, evidence)

    def _by_training(
        self, history: RunHistory, result: Outcome, times: str, evidence: dict[str, float]
    ) -> Finding | None:
        """Find rare classes that are not recognized in training."""
        window = recent(history.steps)
        rare, all_rows = history.scalar("rare_accuracy")[window], history.scalar("accuracy")[window]
        measured, (share, high) = np.isfinite(rare), _rare_accuracy(history)
        if math.isnan(share) or not result.mature(self.threshold("schedule")):
            return None
        overall = float(np.nanmean(all_rows))
        if high > self.threshold("accuracy") or not overall - share >= _GAP:
            return None
        if result.moving() and theil_sen(history.steps[window][measured], rare[measured]).rising:
            return None
        trivial = not result.known or result.skill <= _TRIVIAL  # one very common class makes the skill interval wide
        ignored = high <= self.threshold("ignored") and trivial and not result.moving()
        message = (
            f"The model does poorly on rare classes: accuracy is {share:.3g} on them and {overall:.3g} on all rows; "
            f"the most common class is {times}."
        )
        evidence = evidence | {"rare_accuracy": share, "rare_accuracy_high": high, "accuracy": overall}
        severity = result.worst if ignored else Severity.WARNING
        return self.finding(severity, 0.85 if ignored else 0.7, message, evidence)


def _rare_accuracy(history: RunHistory) -> tuple[float, float]:
    """Return the accuracy on rare classes over the last half of the run, and its upper bound; NaN if unknown."""
    rare = history.scalar("rare_accuracy")[recent(history.steps)]
    rare = rare[np.isfinite(rare)]
    if len(rare) < _ROWS:
        return math.nan, math.nan
    return float(rare.mean()), wilson(float(rare.mean()), len(rare), 1.64)[1]


def _are_tokens(targets: TargetSummary) -> bool:
    """Return whether targets are sequences of many classes."""
    steps = targets.rank > 2 if targets.one_hot else targets.width > 1
    return steps and targets.classes > _TOKENS


def _random_accuracy(history: RunHistory) -> tuple[float, float]:
    """Return the least accuracy of random guesses drawn with the class shares, and two standard errors of it.

    The rows have the same class shares. Not even a model that has memorized noisy labels does worse.
    """
    share, others = history.targets.majority, history.targets.classes - 1
    bar = share**2 + (1 - share) ** 2 / others
    return bar, 2 * math.sqrt(bar * (1 - bar) / _VALIDATION_ROWS)


def _training_fit(history: RunHistory, context: TaskContext) -> tuple[str, float, str] | None:
    """Return name, value and description of what shows that the model fits training data as well as class shares do.

    That is the accuracy of the latest epochs, the accuracy of the latest sampled rows, if the loss has not risen since,
    or a cross-entropy below that of the class shares. None if nothing shows it.
    """
    enough_accuracy, latest_epochs = history.targets.majority - _FITTED, history.epochs("accuracy")[1][-_EPOCHS:]
    if len(latest_epochs) and float(np.median(latest_epochs)) >= enough_accuracy:
        return "accuracy", float(np.median(latest_epochs)), f"accuracy is {float(np.median(latest_epochs)):.3g}"
    targets, losses = history.targets, history.losses[1][history.losses[0] >= history.step / 2]
    late = losses[np.isfinite(losses)]
    if len(late) < _ROWS:
        return None
    loss, noise = _mean(late)
    sampled, sizes = history.scalar("accuracy"), np.minimum(history.scalar("batch_size"), MAX_ROWS)
    measured = np.flatnonzero(np.isfinite(sampled) & np.isfinite(sizes))[::-1]
    enough = int(np.searchsorted(np.cumsum(sizes[measured]), _ACCURACY_ROWS)) + 1
    if enough <= len(measured):
        late_half = history.steps[measured] >= history.step / 2
        latest = measured[: max(enough, int(late_half.sum()))]
        accuracy, (before, noise_before) = float(sampled[latest].mean()), _mean(history.scalar("loss")[latest])
        if accuracy >= enough_accuracy and loss - before <= math.hypot(noise, noise_before):
            return "accuracy", accuracy, f"accuracy is {accuracy:.3g}"
    entropy = context.loss.family in ("cross_entropy", "binary_cross_entropy") and context.loss.plain
    if entropy and loss - noise <= targets.entropy:
        return "loss", loss, f"the loss is {loss:.3g} (predicting the class shares would give {targets.entropy:.3g})"
    return None


def _mean(values: Floats) -> tuple[float, float]:
    """Return the mean and twice its standard error."""
    return float(values.mean()), 2 * float(values.std()) / math.sqrt(len(values))
