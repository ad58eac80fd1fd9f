"""AT601: a model that gets worse on validation data while it gets better on training data."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.signals import MAX_DISTINCT
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.held_out import (
    held_out_accuracy,
    held_out_high,
    held_out_skill,
    uninformed_held_out,
)
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.skill import VALIDATION_ROWS, trivial_score, trivial_squared_error
from autotrainer.rules._shared.trends import recent, theil_sen
from autotrainer.rules._shared.words import about

__all__ = ["Overfitting"]

_HARMLESS = 0.4
"""Confidence where it is no error: a loss that rises while accuracy holds has hardly ever made the result worse."""

_FEW_SAMPLES = 10
"""Sampled steps, in the last half of the training, without a new row, from which further ones hardly have any."""

_MEMORY = 0.2
"""Accuracy gap from which a model that is no better than a constant prediction on validation data has memorized the
training data: twice the usual one, and out of reach where nearly all rows are of one class."""

_CHANCE, _HALF = 0.15, 0.5
"""Margin of `Outcome.stuck`, and share of the run after which a model has only memorized: if skill on training data is
certainly above the margin, and on validation data certainly not."""

_FAIR = 0.3
"""Skill up to which an accuracy above chance does not count where the validation loss is no better than that of a
constant prediction, as in `slow_convergence`."""

_UNEQUAL = 1.5
"""Share of the most common class ÷ share in balanced classes from which a constant prediction may be worth less on
validation data than on training data."""

_COST = 0.02
"""Drop of validation accuracy or R² that nobody would mind; for other losses, the rise as a share of the initial
loss."""

_NORMAL = 1.64
"""Normal quantile of the noise of an accuracy: one-sided 5 %."""


class Overfitting(Rule):
    """The model gets worse on validation data, or learns nothing for them, while it gets better on training data.

    What it does
        Finds the best evaluation and looks at the trend since then. Compares score and loss in validation with those of
        a constant prediction.

    Why it hurts
        Every further epoch makes the model worse on data that it has not seen.

    Evidence used
        Rise of the validation loss above its best value, and its trend since; trend of the training loss over the same
        epochs; the gap between training and validation accuracy.

    Thresholds
        ``rise``: rise of the validation loss relative to its best value. ``evaluations``: evaluations since the best.
        ``gap``: training − validation accuracy, as in AUTOTRAINER's code (0.1, and 0.07 where training accuracy is
        above 0.9). ``fall``: drop of validation accuracy (in regression: R²) from its best value that makes this an
        error.

    When it is wrong
        Cross-entropy on validation data rises with growing confidence even while accuracy improves. Therefore, where
        accuracy is known, there must also be an accuracy gap, and it is a fact, not a warning, unless validation
        accuracy has dropped beyond its noise; in regression, R² must have dropped by 0.02; other losses must have risen
        by 2 % of the initial loss, and by ``fall`` for a warning. It is an error only where validation accuracy
        or R² itself has clearly dropped, or where the score in validation is no better than that of a constant
        prediction.

    Repairs
        Dropout, weight decay, stopping at the best epoch, or noise on the inputs.

    References
        Prechelt, Early Stopping – But When?, 1998; code of AUTOTRAINER (which never reports it).
    """

    problem = "overfitting"
    code = "AT601"
    aliases = ("overfit", "overfitted")
    phrases = (
        "validation loss goes up",
        "validation loss increases",
        "validation loss increases while training loss decreases",
        "training accuracy high but validation accuracy low",
        "gap between training and validation accuracy",
        "model memorizes the training data",
        "model does not generalize",
        "good on training data but bad on test data",
    )
    needs = OUTCOME_NEEDS | frozenset({"above_constant", "distinct_rows"})
    causes = (
        "nonfinite_data",
        "repeated_batch",
        "validation_mismatch",
        "shuffled_labels",
        "wrong_training_mode",
        "abnormal_normalization",
        "unlearnable_targets",
        "unshuffled_data",
        "class_imbalance",
    )
    repairs = ("add_dropout", "regularize_weights", "stop_early", "add_input_noise")
    THRESHOLDS = thresholds(
        rise=Threshold(0.1, "relative rise of the validation loss over its best", "calibrated"),
        evaluations=Threshold(4, "evaluations since the best", "Prechelt 1998, UP criterion", 2),
        gap=Threshold(0.1, "training − validation accuracy", "code of AUTOTRAINER", maximum=1),
        fall=Threshold(0.1, "fall of validation accuracy (R²) from its best that is an error", "calibrated", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        return self._by_rise(history, context) or self._by_score(history, context)

    def _by_score(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Return a finding if what was learned on training data is worth nothing on validation data."""
        result = outcome(history, context)
        high = held_out_high(history, context)
        limit = _CHANCE * (2 / 3 if result.regression else 1)  # as for `Outcome.stuck`
        uninformed = limit < high < result.low and uninformed_held_out(history, context)
        if uninformed:
            limit = _FAIR
        if not result.learned(_CHANCE) or not result.mature(_HALF) or not high <= limit:
            return None
        targets = history.targets
        if targets.classes and targets.majority * targets.classes > _UNEQUAL:
            return None  # validation data may have other shares of classes
        held_out = held_out_skill(history, context)
        validation = held_out if result.regression else held_out_accuracy(history, context)
        trivial = "always predicting the mean" if result.regression else "a constant prediction"
        worth = f"its loss in validation is no better than that of {trivial}" if uninformed else ""
        worth = worth or f"in validation it is no better than {trivial}"
        message = f"The model memorizes its training data: {worth}"
        if not math.isnan(validation):
            name = "R²" if result.regression else "accuracy"
            message += f" ({name} is {about(result.score, 3)} in training and {about(validation, 3)} in validation)"
        message += "."
        evidence = {"skill": result.skill, "validation_skill": held_out, "validation_skill_high": high}
        return self.finding(result.worst, 0.85, message, evidence)

    def _by_rise(self, history: RunHistory, context: TaskContext) -> Finding | None:
        epochs, losses = history.epochs("val_loss")
        if len(losses) < self.threshold("evaluations") + 2 or not np.isfinite(losses).all():
            return None
        best = int(np.argmin(losses))
        since = len(losses) - 1 - best
        scale = max(abs(float(losses[best])), 1e-12)
        now = float(np.median(losses[-3:]))
        rise = (now - float(losses[best])) / scale
        if since < self.threshold("evaluations") or rise < self.threshold("rise"):
            return None
        lost = rise * scale / trivial_squared_error(history, context)  # of R²
        classes = context.kind(history.targets) in ("multiclass", "binary", "multilabel")
        by_accuracy = classes and "val_accuracy" in history.epoch_names  # the gap of accuracy decides
        start = history.losses[1][:5]
        start = np.abs(start[np.isfinite(start)])
        if lost < _COST or (not by_accuracy and start.size and rise * scale < _COST * float(np.median(start))):
            return None
        if since >= 3 and not theil_sen(epochs[best:], losses[best:]).slope > 0:
            return None
        if not self._training_falls(history, int(epochs[best])):
            return None
        train, held_out = self._accuracy(history, "accuracy"), self._accuracy(history, "val_accuracy")
        gap = train - held_out
        needed = self.threshold("gap") * (0.7 if train > 0.9 else 1.0)
        if gap < needed:
            return None
        _, accuracies = history.epochs("val_accuracy")
        constant = context.asked.get("above_constant") == 0  # compared with the best constant on the same rows
        useless = gap >= _MEMORY and (
            constant or float(np.mean(accuracies[-since - 1 :])) <= trivial_score(history, context)
        )
        smooth = np.convolve(accuracies, np.ones(3) / 3, "valid") if len(accuracies) >= 3 else accuracies
        fall = float(np.max(smooth) - held_out) if len(smooth) else lost
        noise = _NORMAL * math.sqrt(max(0.0, held_out * (1 - held_out)) / VALIDATION_ROWS)  # NaN if it is unknown
        if math.isnan(fall):  # no score is known: by the rise of the loss as a share of the initial one
            clear = not start.size or rise * scale >= self.threshold("fall") * float(np.median(start))
        else:
            clear = fall >= max(_COST, noise)
        severity = Severity.WARNING if clear else Severity.INFO
        severity = Severity.ERROR if fall >= self.threshold("fall") or useless else severity
        message = (
            f"The model overfits: the validation loss was best after epoch {int(epochs[best])} "
            f"({about(losses[best], 3)}) and is now {rise:.0%} above that ({about(now, 3)}), while the training loss "
            "fell"
        )
        message += f"; accuracy is {train:.3g} in training and {held_out:.3g} in validation" if gap == gap else ""
        message += ", no better than a constant prediction." if useless else "."
        message += _few_rows(history, context)
        evidence = {"best_epoch": float(epochs[best]), "rise": rise, "accuracy_gap": gap, "fall": fall}
        confidence = min(0.95, 0.6 + since / 50) if severity is Severity.ERROR else _HARMLESS
        return self.finding(severity, confidence, message, evidence)

    @staticmethod
    def _accuracy(history: RunHistory, name: str) -> float:
        """Return the mean of the last three epochs; training accuracy falls back on the last sampled batches."""
        values = history.epochs(name)[1][-3:]
        if not len(values) and name == "accuracy":
            sampled = history.scalar("accuracy")[-10:]
            values = sampled[~np.isnan(sampled)]
        return float(np.mean(values)) if len(values) else math.nan

    @staticmethod
    def _training_falls(history: RunHistory, best: int) -> bool:
        steps, losses = history.losses
        at = history.step_of_epoch(best)
        before, after = losses[(steps <= at) & (steps > at * 0.8)], losses[steps > at]
        after = after[len(after) // 2 :]
        if not len(before) or not len(after):
            return False
        return bool(np.mean(after) < np.mean(before))


def _few_rows(history: RunHistory, context: TaskContext) -> str:
    """Return a sentence if the last half of a training of unknown size has brought no new row; else nothing."""
    counts = history.scalar("distinct_rows")[recent(history.steps)]
    counts = counts[np.isfinite(counts)]
    if context.train_rows is not None or len(counts) < _FEW_SAMPLES or np.ptp(counts) or counts[-1] >= MAX_DISTINCT:
        return ""
    return f" The training has only {counts[-1]:.0f} different rows: check that its data are all loaded."
