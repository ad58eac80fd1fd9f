"""AT503: rows that come sorted by class."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.signals import MAX_ROWS, MAX_VALUES, Floats
from autotrainer.records.task import TargetSummary
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.held_out import held_out_accuracy, held_out_skill
from autotrainer.rules._shared.loss_values import LOSS_VALUE_NEEDS, computes_cross_entropy
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome

__all__ = ["UnshuffledData"]

_SAMPLES = 3
"""Batches, at least, that are compared with all rows."""

_ONE_CLASS_ROWS = 100
"""Rows in a row of one class from which that is no chance, though that class had nine tenths of all rows: 3e-5."""

_LATE_LOSSES, _NOT_NINE_TENTHS = 10, 0.75
"""Losses of the second half of the run, at least, and validation accuracy, at most, that tell that no class has nine
tenths of all rows: always answering it would have 0.9, with two standard errors of 20 rows."""

_COMPOSED = 0.5
"""Part of the threshold for losses of one's own: contrastive ones take batches of a few classes, several rows each."""

_EARLY, _HALF = 0.1, 0.5
"""Share of the schedule before which a poor validation score is no evidence of harm yet; and until which only a
very poor one is."""

_VERY_POOR = 0.5


class UnshuffledData(Rule):
    """Batches hold far fewer classes than the data: rows come sorted or in runs, not shuffled.

    What it does
        Compares the entropy of the classes in each batch with what a random batch of that size would have.

    Why it hurts
        The gradient of a batch that holds one class says "always answer this one"; the next batch says the opposite.
        The model forgets what it learned of the classes that come first in an epoch, the score of a batch flatters it,
        and statistics of batch normalization fit no mixed batch.

    Evidence used
        Entropy of the classes of sampled batches, entropy of the classes of all rows seen so far; validation accuracy.
        The mean entropy of random batches is at least that of all rows less log(1 + (classes − 1) ÷ rows), its variance
        at most (v + (classes − 1) ÷ 2 rows) ÷ rows with v the variance of the surprisal, known for two classes and
        bounded for more: the test holds for small batches and many classes too. Where all rows so far are of one
        class, although the model tells several apart, that counts from 100 rows on; after the first epoch only where
        neither the loss nor the validation accuracy fit data of which one class has nine tenths.

    Thresholds
        ``z``: standard errors below the entropy of random batches; ``share``: entropy of the batches ÷ that of all
        rows; ``skill``: skill on validation data up to which it is an error in the second half of the schedule.

    When it is wrong
        Batches composed on purpose (a curriculum; a few classes each, for contrastive losses: with a loss of one's own
        half the share counts). Only tasks with one class a row are judged, and no trainings with several optimizers:
        batches of a GAN are all real or all made. Without validation accuracy, or with a good one, it is a warning:
        with small steps the order matters little. Whole arrays given to ``check`` say nothing of the order in
        training, and batches of one row can't be judged.

    Repairs
        Shuffled rows: ``shuffle=True`` in the loader, a buffer as large as the data set.

    References
        Paninski, Neural Computation 2003 (bias of the entropy of samples); Reeb and Wolf, IEEE Trans. Inf. Theory 2015
        (largest variance of the surprisal); Bengio, Practical recommendations, 2012, section 2.3; Kemker et al., AAAI
        2018 (forgetting).
    """

    problem = "unshuffled_data"
    code = "AT503"
    aliases = ("unshuffled", "not_shuffled", "sorted_data", "sorted_labels", "no_shuffle", "shuffle")
    needs = OUTCOME_NEEDS | LOSS_VALUE_NEEDS | frozenset({"class_entropy"})
    causes = ()
    repairs = ("shuffle_data",)
    static = True
    THRESHOLDS = thresholds(
        z=Threshold(5, "standard errors below random batches", "catalogue of problems"),
        share=Threshold(0.5, "entropy of batches ÷ that of all rows, at most", "catalogue of problems", maximum=1),
        skill=Threshold(0.85, "skill on validation data that is an error, at most", "calibrated", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the history as it is now."""
        targets = history.targets
        if context.arrays or context.optimizer.several or not _one_class_a_row(targets, context):
            return None  # several optimizers: a GAN's batches are all real or all made
        if targets.classes < 2:
            return self._one_class(history, context)
        # All samples: where classes drift, as the actions of a policy, batches differ from all rows in the end alone.
        seen, rows = history.scalar("class_entropy"), history.scalar("batch_size")
        known = np.isfinite(seen) & (rows > 1)
        if known.sum() < _SAMPLES:
            return None
        entropy, rows = float(seen[known].mean()), _copied(rows[known], targets)
        others = targets.classes - 1
        expected = float((targets.entropy - np.log1p(others / rows)).mean())
        variance = float(((_surprisal_variance(targets) + others / (2 * rows)) / rows).mean()) / int(known.sum())
        z = (expected - entropy) / math.sqrt(variance)
        share = entropy / targets.entropy if targets.entropy > 0 else math.nan
        few = self.threshold("share") * (1 if context.loss.classifies else _COMPOSED)
        if not (z > self.threshold("z") and share <= few):
            return None
        result = outcome(history, context)
        held = held_out_skill(history, context)
        needed = self.threshold("skill") if result.mature(_HALF) else _VERY_POOR
        poor = held <= needed and result.progress >= _EARLY
        poor |= result.known and result.stuck() and result.mature(_EARLY) and not result.moving()
        severity = result.worst if poor else Severity.WARNING
        message = (
            f"Batches hold {share:.0%} of the variety of classes that all rows have (entropy {entropy:.3g} of "
            f"{targets.entropy:.3g}, random batches have at least {expected:.3g}): rows are not shuffled"
        )
        message += f", and validation accuracy is {held_out_accuracy(history):.3g}." if poor and held == held else "."
        evidence = {"batch_entropy": entropy, "entropy": targets.entropy, "expected_entropy": expected, "z": z}
        return self.finding(severity, 0.95 if poor else 0.8, message, evidence | {"validation_skill": held})

    def _one_class(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Find that all rows looked at, of the first epoch alone, are of one class: sorted, or very unequal."""
        rows, several = history.targets.rows, context.output_units is None or context.output_units > 1
        several |= not context.loss.classifies or context.loss.family == "binary_cross_entropy"
        if not (context.loss.classifies or computes_cross_entropy(history)):
            return None  # a loss of one's own that needs no targets is given placeholders
        if rows < _ONE_CLASS_ROWS or not several or len(history.steps) < _SAMPLES:
            return None
        evidence = {"rows": rows, "batch_entropy": 0.0}
        message = f"The first {rows} rows are all of one class: they seem to be sorted, not shuffled"
        if not history.epoch:
            return self.finding(Severity.WARNING, 0.6, f"{message}.", evidence)
        steps, losses = history.losses
        late, held = losses[(steps >= history.step / 2) & np.isfinite(losses)], held_out_accuracy(history)
        if history.steps[-1] > history.step_of_epoch(0) or len(late) < _LATE_LOSSES:
            return None
        if context.loss.reduction != "mean" or context.loss.weighted:
            return None
        loss, noise = float(late.mean()), 2 * float(late.std()) / math.sqrt(len(late))
        result = outcome(history, context)
        if not (held <= _NOT_NINE_TENTHS and loss - noise > _nine_tenths_entropy(context) and result.mature(_EARLY)):
            return None
        message += (
            f", since neither a loss of {loss:.3g} nor a validation accuracy of {held:.3g} fit a class that is nine "
            "tenths of all."
        )
        return self.finding(result.worst, 0.85, message, evidence | {"loss": loss, "validation_accuracy": held})


def _nine_tenths_entropy(context: TaskContext) -> float:
    """Return the cross-entropy of knowing but the shares, of classes of which one has nine tenths, at most."""
    others = max(1, (context.output_units or 2) - 1)
    return -0.9 * math.log(0.9) - 0.1 * math.log(0.1 / others)


def _one_class_a_row(targets: TargetSummary, context: TaskContext) -> bool:
    if not context.loss.classifies and context.loss.family != "custom":
        return False
    single = targets.rank == 1 or (targets.rank == 2 and (targets.width == 1 or targets.one_hot))
    return single and not targets.masked and context.kind(targets) in ("multiclass", "binary")


def _copied(rows: Floats, targets: TargetSummary) -> Floats:
    """Return how many rows of batches were looked at."""
    most = min(MAX_ROWS, max(1, MAX_VALUES // targets.width))
    return np.clip(rows, 1, most)


def _surprisal_variance(targets: TargetSummary) -> float:
    """Return the variance of −log p(class): of two classes; of more, its upper bound (Reeb and Wolf 2015)."""
    share, classes = targets.majority, targets.classes
    if classes == 2:
        return share * (1 - share) * math.log(share / (1 - share)) ** 2
    return math.log(classes - 1) ** 2 / 4 + 1
