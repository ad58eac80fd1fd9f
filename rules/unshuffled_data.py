"""AT503: rows that are sorted by class."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.signals import MAX_ROWS, MAX_VALUES, Floats
from autotrainer.records.task import TargetSummary
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.held_out import held_out_accuracy, held_out_skill
from autotrainer.rules._shared.loss_values import LOSS_VALUE_NEEDS
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome

__all__ = ["UnshuffledData"]

_SAMPLES = 3
"""Fewest batches that are compared with all rows."""

_ONE_CLASS_ROWS = 100
"""Consecutive rows of one class that are not due to chance, even if that class has nine tenths of all rows: 3e-5."""

_LATE_LOSSES, _NOT_NINE_TENTHS = 10, 0.75
"""Fewest losses of the second half of the run, and largest validation accuracy, that show that no class has nine tenths
of all rows: always predicting it would reach 0.9, with two standard errors of 20 rows."""

_LARGEST = 0.03
"""Share of the late losses that are those of batches after a change of class: a few of each class."""

_PAIRS, _SAME_CLASS = 8, 0.8
"""Fewest pairs of consecutive batches of one class, and share of them with the same one, that show sorted rows rather
than batches of one group each."""

_CUSTOM_LOSS = 0.5
"""Factor of ``share`` for custom losses: contrastive ones use batches of a few classes, with several rows each."""

_EARLY, _HALF = 0.1, 0.5
"""Share of the schedule before which a poor validation score is no evidence of harm, and until which only a very poor
one is."""

_VERY_POOR = 0.5
"""Validation skill up to which a score is very poor."""


class UnshuffledData(Rule):
    """Batches hold far fewer classes than the whole data: rows are sorted or grouped, not shuffled.

    What it does
        Compares the entropy of the classes in each batch with that of a random batch of the same size.

    Why it hurts
        The gradient of a batch with a single class says "always predict this one"; the next batch says the opposite.
        The model forgets what it learned about the classes that come first in an epoch, its score on a batch looks too
        good, and batch normalization statistics do not fit mixed batches.

    Evidence used
        Entropy of the classes in sampled batches, entropy of the classes of all rows sampled so far; validation
        accuracy. The mean entropy of random batches is at least that of all rows minus log(1 + (classes − 1) ÷ rows),
        its variance at most (v + (classes − 1) ÷ 2 rows) ÷ rows, where v is the variance of the surprisal, known for
        two classes and bounded for more: the test also holds for small batches and many classes. If all rows so far are
        of one class although the model distinguishes several, this is reported from 100 rows on; after the first epoch,
        only if neither the loss nor the validation accuracy fits data in which one class has nine tenths of the rows.

    Thresholds
        ``z``: standard errors below the entropy of random batches. ``share``: entropy of the batches ÷ that of all
        rows. ``skill``: skill on validation data up to which this is an error in the second half of the schedule.

    When it is wrong
        Batches composed on purpose: a curriculum, or a few classes each for contrastive losses (with a custom loss,
        ``share`` is halved). Only tasks with one class per row and runs with one optimizer are judged, as the batches
        of a GAN are all real or all generated. Without validation accuracy, or with a good one, this is a warning: with
        small steps, the order matters little. Whole arrays given to ``check`` do not show the order in training, and
        batches of one row can't be judged.

    Repairs
        Shuffle the rows: ``shuffle=True`` in the loader, or a shuffle buffer as large as the data set.

    References
        Paninski, Neural Computation 2003 (bias of the entropy of samples); Reeb and Wolf, IEEE Trans. Inf. Theory 2015
        (largest variance of the surprisal); Bengio, Practical recommendations, 2012, section 2.3; Kemker et al., AAAI
        2018 (forgetting).
    """

    problem = "unshuffled_data"
    code = "AT503"
    aliases = ("unshuffled", "not_shuffled", "sorted_data", "sorted_labels", "no_shuffle", "shuffle")
    phrases = (
        "forgot to shuffle",
        "data sorted by class",
        "data ordered by label",
        "batches contain only one class",
        "predicts only the last class it saw",
        "shuffle=false",
    )
    needs = OUTCOME_NEEDS | LOSS_VALUE_NEEDS | frozenset({"class_entropy", "direct_loss", "target_min", "target_max"})
    causes = ("repeated_batch",)
    repairs = ("shuffle_data",)
    static = True
    THRESHOLDS = thresholds(
        z=Threshold(5, "standard errors below random batches", "convention"),
        share=Threshold(0.5, "entropy of batches ÷ that of all rows, at most", "convention", maximum=1),
        skill=Threshold(0.85, "validation skill up to which it is an error", "calibrated", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        targets = history.targets
        if context.arrays or context.optimizer.several or not _one_class_a_row(targets, context):
            return None  # several optimizers: a GAN's batches are all real or all generated
        if targets.classes < 2:
            return self._one_class(history, context)
        # All samples: where classes drift, as the actions of a policy do, only late batches differ from all rows.
        entropies, rows = history.scalar("class_entropy"), history.scalar("batch_size")
        measured = np.isfinite(entropies) & (rows > 1)
        if measured.sum() < _SAMPLES:
            return None
        entropy, rows = float(entropies[measured].mean()), _copied(rows[measured], targets)
        others = targets.classes - 1
        expected = float((targets.entropy - np.log1p(others / rows)).mean())
        variance = float(((_surprisal_variance(targets) + others / (2 * rows)) / rows).mean()) / int(measured.sum())
        z = (expected - entropy) / math.sqrt(variance)
        z = max(z, _excess_of_one_class(entropies[measured], rows, targets))
        share = entropy / targets.entropy if targets.entropy > 0 else math.nan
        limit = self.threshold("share") * (1 if context.loss.classifies else _CUSTOM_LOSS)
        if not (z > self.threshold("z") and share <= limit):
            return None
        result = outcome(history, context)
        skill = held_out_skill(history, context)
        needed = self.threshold("skill") if result.mature(_HALF) else _VERY_POOR
        poor = skill <= needed and result.progress >= _EARLY
        poor |= result.known and result.stuck() and result.mature(_EARLY) and not result.moving()
        forgotten = math.nan if poor else _forgotten(history, context)
        severity = result.worst if poor or forgotten == forgotten else Severity.WARNING
        message = (
            f"Rows are not shuffled: the entropy of the classes is {entropy:.3g} in a batch and {targets.entropy:.3g} "
            f"in all rows (random batches would have at least {expected:.3g})"
        )
        message += (
            f", and validation accuracy is {held_out_accuracy(history, context):.3g}."
            if poor and skill == skill
            else f", and the loss still rises to {forgotten:.3g} where the classes change, which is worse than chance."
            if forgotten == forgotten
            else "."
        )
        poor |= forgotten == forgotten
        evidence = {"batch_entropy": entropy, "entropy": targets.entropy, "expected_entropy": expected, "z": z}
        return self.finding(severity, 0.95 if poor else 0.8, message, evidence | {"validation_skill": skill})

    def _one_class(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Find that all sampled rows, of the first epoch only, are of one class: sorted, or very imbalanced."""
        rows, several = history.targets.rows, context.output_units is None or context.output_units > 1
        several |= not context.loss.classifies or context.loss.family == "binary_cross_entropy"
        if not context.loss.classifies:
            return None  # a custom loss that needs no targets is given placeholders
        if rows < _ONE_CLASS_ROWS or not several or len(history.steps) < _SAMPLES:
            return None
        if any(layer.frozen and not layer.hidden for layer in context.layers):
            return None  # a generator, whose samples a network that others train is to take for real
        if (history.scalar("direct_loss") == 0).any():
            return None  # one of several calls, such as that for generated samples, or the opinion of an adversary
        evidence = {"rows": rows, "batch_entropy": 0.0}
        message = f"Rows seem to be sorted by class, not shuffled: the first {rows} are all of one class"
        if not history.epoch:
            return self.finding(Severity.WARNING, 0.6, f"{message}.", evidence)
        steps, losses = history.losses
        late, accuracy = losses[(steps >= history.step / 2) & np.isfinite(losses)], held_out_accuracy(history, context)
        if history.steps[-1] > history.step_of_epoch(0) or len(late) < _LATE_LOSSES:
            return None
        if not context.loss.plain:
            return None
        loss, noise = float(late.mean()), 2 * float(late.std()) / math.sqrt(len(late))
        result = outcome(history, context)
        if not (
            accuracy <= _NOT_NINE_TENTHS and loss - noise > _nine_tenths_entropy(context) and result.mature(_EARLY)
        ):
            return None
        message += (
            f". Class imbalance does not explain it: neither a loss of {loss:.3g} nor a validation accuracy of "
            f"{accuracy:.3g} fits data in which one class has nine tenths of the rows."
        )
        return self.finding(result.worst, 0.85, message, evidence | {"loss": loss, "validation_accuracy": accuracy})


def _excess_of_one_class(entropies: Floats, rows: Floats, targets: TargetSummary) -> float:
    """Return by how many standard errors more batches hold a single class than random ones would.

    A random batch does so with probability Σ pᵐ, at most pᵐ⁻¹ of the most common class. Small batches, whose entropy is
    biased, show more by this.
    """
    chance = targets.majority ** (rows - 1)
    variance = float((chance * (1 - chance)).sum())
    return float((entropies <= 0).sum() - chance.sum()) / math.sqrt(variance) if variance > 0 else math.nan


def _forgotten(history: RunHistory, context: TaskContext) -> float:
    """Return the mean of the largest late losses, if the model is worse than chance in some batches but not in most.

    So it is where each class is forgotten until its rows come again. NaN otherwise, and where batches of one class do
    not come in runs.
    """
    steps, losses = history.losses
    late = losses[(steps >= history.step / 2) & np.isfinite(losses)]
    if not context.loss.plain or history.epoch < 2 or len(late) * _LARGEST < 2 or not _in_runs(history):
        return math.nan
    largest = np.sort(late)[-int(_LARGEST * len(late)) :]
    chance = history.targets.entropy
    return float(largest.mean()) if float(largest.mean()) > chance > 2 * float(np.median(late)) else math.nan


def _in_runs(history: RunHistory) -> bool:
    """Return whether consecutive batches of class indices hold one and the same class, nearly always."""
    lowest, highest = history.scalar("target_min"), history.scalar("target_max")
    pairs = (np.diff(history.steps) == 1) & (lowest == highest)[1:] & (lowest == highest)[:-1]
    return int(pairs.sum()) >= _PAIRS and float((np.diff(lowest)[pairs] == 0).mean()) >= _SAME_CLASS


def _nine_tenths_entropy(context: TaskContext) -> float:
    """Return the largest cross-entropy of predicting just the class shares, where one class has nine tenths."""
    others = max(1, (context.output_units or 2) - 1)
    return -0.9 * math.log(0.9) - 0.1 * math.log(0.1 / others)


def _one_class_a_row(targets: TargetSummary, context: TaskContext) -> bool:
    if not context.loss.classifies and context.loss.family != "custom":
        return False
    single = targets.rank == 1 or (targets.rank == 2 and (targets.width == 1 or targets.one_hot))
    return single and not targets.masked and context.kind(targets) in ("multiclass", "binary")


def _copied(rows: Floats, targets: TargetSummary) -> Floats:
    """Return how many rows of each batch were copied."""
    most = min(MAX_ROWS, max(1, MAX_VALUES // targets.width))
    return np.clip(rows, 1, most)


def _surprisal_variance(targets: TargetSummary) -> float:
    """Return the variance of −log p(class): of two classes; of more, its upper bound (Reeb and Wolf 2015)."""
    share, classes = targets.majority, targets.classes
    if classes == 2:
        return share * (1 - share) * math.log(share / (1 - share)) ** 2
    return math.log(classes - 1) ** 2 / 4 + 1
