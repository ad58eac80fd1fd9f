"""AT512: a training that gets the same batch in each step."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.signals import MAX_ROWS
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.held_out import held_out_accuracy, held_out_skill
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.trends import recent

__all__ = ["RepeatedBatch"]

_SAMPLES, _STEPS = 10, 50
"""Fewest sampled steps, and fewest steps, for a verdict."""

_EQUAL = 1e-5
"""Relative difference of the targets' spread that summation in another order leaves."""

_BATCHES = ("epoch_batches", "restarted_batches", "dataset_batches")
"""Facts on how many batches there are."""

_HALF = 0.5
"""Share of the schedule before which a gap between training and validation is no evidence of harm; and least share of
the rows of a batch that differ from each other: of inputs with few values, all batches hold the same ones."""


class RepeatedBatch(Rule):
    """Each step trains on the same batch.

    What it does
        Counts the different rows among the inputs of all sampled steps. If there are no more after many steps than in
        the first one, it compares the score in training with that in validation, and looks for further data.

    Why it hurts
        The model memorizes these few rows and learns nothing of all others. The training loss falls to zero and looks
        perfect, while the score on other rows stays low: it looks like overfitting, but neither dropout nor weight
        decay helps. Common causes: ``next(iter(loader))`` in the loop without shuffling, which begins again in each
        step; a first batch that was kept; ``take(1)``, left over from a trial, before ``repeat()``.

    Evidence used
        The number of different rows, bit by bit, and the spread of the targets, in sampled steps that are not all the
        same distance into an epoch; skill in training and in validation. Further data are known if the data loader has
        more than one batch, or a ``tf.data`` set more than the one that ``take(1)`` leaves.

    Thresholds
        ``gap``: skill in training − skill in validation.

    When it is wrong
        Few rows may be all there are, and then each step is a full batch: without further data, this is at most a
        warning, for batches that are copied whole (up to 256 rows) and epochs of several steps. To overfit a single
        batch is a good test of a program: without a score on other rows, it is reported only if each step begins a new
        pass of a loader that has several batches. Random augmentation hides that the rows are the same.

    Repairs
        None. By hand: iterate over the loader (``for batch in loader``) with ``shuffle=True``, and remove ``take``.

    References
        Karpathy, A Recipe for Training Neural Networks, 2019 (overfit one batch, then train on all data); PyTorch
        documentation, torch.utils.data; TensorFlow guide, tf.data.
    """

    problem = "repeated_batch"
    code = "AT512"
    aliases = ("same_batch", "one_batch", "repeated_data")
    phrases = (
        "same batch every step",
        "next(iter(loader)) in the loop",
        "trains on one batch only",
        "dataloader returns the same batch",
        "take(1).repeat()",
    )
    needs = OUTCOME_NEEDS | frozenset({"distinct_rows", "backward_passes", *_BATCHES})
    place = "step"
    THRESHOLDS = thresholds(
        gap=Threshold(0.1, "skill in training − in validation, at least", "gap of `overfitting`", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        rows = _rows_of_one_batch(history)
        if not rows or context.optimizer.several or context.managed or (context.train_rows or math.inf) <= rows:
            return None
        passes = history.scalar("backward_passes")
        if (passes > 1).any():
            return None  # a step has several batches, of which one is sampled
        batches = max(context.asked.get(name, 1.0) for name in _BATCHES)
        known = 1 < batches < math.inf
        lengths = history.steps_per_epoch
        steps = float(np.median(lengths)) if len(lengths) else math.nan
        apart = np.gcd.reduce(np.diff(history.steps))
        if any(length > 1 and apart % length == 0 for length in (batches, steps)):
            return None  # sampled at the same place of each epoch
        result = outcome(history, context)
        validation = held_out_skill(history, context)
        gap = result.skill - validation
        poor = gap >= self.threshold("gap") and result.mature(_HALF)
        restarted = known and "restarted_batches" in context.asked
        if not (poor if not math.isnan(gap) else restarted) or not (known or (steps > 1 and rows <= MAX_ROWS)):
            return None
        evidence = {"rows": rows, "sampled_steps": len(history.steps), "batches": batches if known else math.nan}
        message = f"All {len(history.steps)} sampled steps had the same {rows:.0f} rows as inputs"
        message += f", although the data have {batches:.0f} batches" if known else ""
        if restarted:
            message += " (each step begins a new pass of the loader)"
        if poor:
            evidence |= {"skill": result.skill, "validation_skill": validation}
            message += f"; {_scores(history, context, result.skill, validation)}"
        advice = (
            "Remove take(1)" if "dataset_batches" in context.asked else "Iterate over the data: for batch in loader"
        )
        severity = result.worst if poor and known else Severity.WARNING
        return self.finding(severity, 0.95 if known else 0.5, f"{message}. {advice}.", evidence)


def _scores(history: RunHistory, context: TaskContext, training: float, validation: float) -> str:
    """Return the scores in training and validation as a clause, where skills are given."""
    name = "R²" if context.kind(history.targets) == "regression" else "skill over a constant prediction"
    accuracy, sampled = held_out_accuracy(history, context), history.scalar("accuracy")[recent(history.steps)]
    if name != "R²" and math.isfinite(accuracy) and np.isfinite(sampled).any():
        name, training, validation = "accuracy", float(np.nanmean(sampled)), accuracy
    return f"{name} is {training:.3g} in training and {validation:.3g} in validation"


def _rows_of_one_batch(history: RunHistory) -> float:
    """Return the size of the batch that all sampled steps had; 0 if they had several, or that is unknown."""
    columns = [history.scalar(name) for name in ("distinct_rows", "batch_size", "target_spread")]
    measured = np.isfinite(columns).all(axis=0)
    if measured.sum() < _SAMPLES or history.step + 1 < _STEPS:
        return 0.0
    distinct, sizes, spread = (column[measured] for column in columns)
    size = float(sizes[-1])
    if np.ptp(distinct) or distinct[-1] < max(2.0, _HALF * min(size, MAX_ROWS)) or (sizes != size).any():
        return 0.0
    return size if np.ptp(spread) <= _EQUAL * np.abs(spread).max() else 0.0
