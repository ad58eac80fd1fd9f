"""Skill of a model over the trivial predictor (commonest class, mean of the targets), each way it can be measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from autotrainer.records.history import RunHistory
from autotrainer.records.signals import MAX_ROWS, Floats
from autotrainer.records.task import TaskContext
from autotrainer.rules._shared.loss_values import computes_squared_error, measures_distance
from autotrainer.rules._shared.trends import blocks, theil_sen, wilson

__all__ = ["LEAST_R2", "Witness", "targets_growth", "trivial_score", "trivial_squared_error", "witnesses"]

LEAST_R2 = -1e6
"""R² below which it is not told apart: outputs, or their squares, may not be finite."""

_PRECISE = 0.25
"""Widest half interval of skill that still counts as a measurement."""

_ENOUGH_ROWS = 64
"""Recent training rows whose accuracy makes cross-entropy unnecessary as a measure."""

_UNEQUAL = 1.5
"""Share of the commonest class ÷ that of equal ones from which weights make another answer than that one the best."""

_TELLING = 0.2
"""Skill by accuracy up to which, and upper end of that by cross-entropy from which, there may be a signal that accuracy
does not show: one that is too weak to make another class than the commonest the likeliest."""

_VALIDATION_ROWS = 200
"""Rows of a validation set, whose size is not known: cautious for the usual ones."""

_FAR = 1 + 2.33**2
"""Squared error ÷ variance of the targets up to which a model that explains nothing may serve a loss of its own: that
of the 99 % quantile of a normal distribution."""

_ATTESTED = 0.5
"""The same ratio up to which a model has learned, whatever its loss measures."""

_MOVING = 1.5
"""Growth of the targets' variance from which they are no data but move with the model, and R² says nothing: beyond
three standard errors of the variance of ten batches of 32 rows."""

_FIRST = 10
"""Losses that the start is known by."""

_VALIDATION_NOISE = 0.1
"""Half interval of R² on such a set: 1.64 √(2 ÷ rows) of the squared error, less what is common to all epochs."""


@dataclass(frozen=True, slots=True)
class Witness:
    """One measurement of skill.

    Attributes:
        score: Accuracy or R².
        low: Lower end of the 90 % interval of skill: 0 is the trivial predictor, 1 perfect.
        high: Upper end.
        skill: Best estimate.
        by_loss: Whether it is worked out from cross-entropy, the score too.
    """

    score: float
    low: float
    high: float
    skill: float
    by_loss: bool = False


def trivial_score(history: RunHistory, context: TaskContext) -> float:
    """Return the score of the trivial predictor: accuracy of the commonest class, 0 for R²; NaN if unknown."""
    kind = context.kind(history.targets)
    if kind == "regression":
        return 0.0
    if history.targets.minimum < 0 and not history.targets.signed:
        return math.nan  # masked entries count as a class in the summary, not in the accuracy
    return context.trivial_accuracy(history.targets)


def trivial_squared_error(history: RunHistory, context: TaskContext) -> float:
    """Return the loss of always giving the mean of the targets, for a mean squared error; NaN for other losses."""
    squared = context.loss.family == "squared_error" and context.loss.reduction == "mean"
    return history.targets.variance if squared and history.targets.variance > 0 else math.nan


def witnesses(history: RunHistory, context: TaskContext) -> list[Witness]:
    """Return the measurements of present skill that are precise enough to judge by.

    Cross-entropy stands in where no accuracy in training is known, and besides it where accuracy shows nothing
    (`_TELLING`): its value can mislead, accuracy can't.
    """
    if context.kind(history.targets) == "regression":
        return _precise(_squared_error(history, context))
    found = _precise(_accuracies(history, context, trivial_score(history, context)))
    unequal = history.targets.majority * history.targets.classes >= _UNEQUAL
    if context.loss.weighted and unequal:  # answers move away from the commonest class, and are right less often
        return [w for w in found if w.low > 0]
    sampled = history.scalar("accuracy")[_fresh(history)]
    batches = history.scalar("batch_size")[_fresh(history)]
    rows = np.nansum(np.minimum(batches[~np.isnan(sampled)], MAX_ROWS))
    by_loss = _entropy(history, context)
    if found and (rows >= _ENOUGH_ROWS or len(history.epochs("accuracy")[0])):
        hidden = max(w.skill for w in found) < _TELLING
        return found + [w for w in by_loss if hidden and w.high >= _TELLING and _possible(w, found, history)]
    return found + _precise(by_loss)


def _possible(by_loss: Witness, found: list[Witness], history: RunHistory) -> bool:
    """Whether a cross-entropy is below a constant's and possible with these answers: a wrong one costs ln 2 or more."""
    targets = history.targets
    wrong = 1 - max(w.score for w in found)
    common, others = targets.majority, max(1, targets.classes - 1)
    entropy = -common * math.log(common) - (1 - common) * math.log((1 - common) / others)
    return not targets.one_hot and by_loss.skill > 0 and (1 - by_loss.skill**2) * entropy >= wrong * math.log(2)


def _precise(found: list[Witness]) -> list[Witness]:
    return [w for w in found if w.high - w.low <= 2 * _PRECISE]


def _accuracies(history: RunHistory, context: TaskContext, trivial: float) -> list[Witness]:
    """Return skills from accuracies: of sampled batches, of epochs, of validation."""
    if math.isnan(trivial) or trivial >= 1:
        return []
    measured: list[tuple[float, float]] = []
    window = _fresh(history)
    values, sizes = history.scalar("accuracy")[window], history.scalar("batch_size")[window]
    rows = np.where(np.isnan(sizes), 1.0, np.clip(sizes, 1, MAX_ROWS))
    known = ~np.isnan(values)
    if known.any():
        measured.append((float(np.average(values[known], weights=rows[known])), float(rows[known].sum())))
    for name, size in (("accuracy", _train_rows(history, context)), ("val_accuracy", _VALIDATION_ROWS)):
        epochs = history.epochs(name)[1]
        late = epochs[-max(1, len(epochs) // 2) :]
        late = late[np.isfinite(late)]
        if late.size:
            measured.append((float(np.mean(late)), float(max(size, _VALIDATION_ROWS))))
    found = []
    for score, count in measured:
        low, high = ((v - trivial) / (1 - trivial) for v in wilson(min(1.0, max(0.0, score)), count, 1.64))
        if high <= 0:  # where one class is nearly all, the interval is wide, yet the judgement is sure
            low = max(low, high - _PRECISE)
        found.append(Witness(score, low, high, (score - trivial) / (1 - trivial)))
    return found


def _train_rows(history: RunHistory, context: TaskContext) -> float:
    """Return the number of training samples, as known or from batches and epochs."""
    sizes = history.scalar("batch_size")
    sizes = sizes[np.isfinite(sizes)]
    if context.train_rows or not sizes.size or not history.epoch:
        return float(context.train_rows or 0)
    return float(np.median(sizes)) * (history.step + 1) / history.epoch


def _squared_error(history: RunHistory, context: TaskContext) -> list[Witness]:
    """Return R² of the sampled batches, else from the losses, with an interval from its spread over batches.

    None where the loss takes the outputs for something else than the targets' own scale, or targets grow as those of
    reinforcement learning do; and none where a loss of one's own may want something else than the mean.
    """
    variance = history.targets.variance
    if context.loss.expects in ("logits", "log_probabilities", "log_values") or targets_growth(history) > _MOVING:
        return []
    squares = context.loss.family == "squared_error" or (context.loss.own and computes_squared_error(history))
    errors = history.scalar("squared_error")[_fresh(history)]
    errors = errors[~np.isnan(errors)]
    if len(errors) < 4 and context.loss.reduction == "mean":
        losses = _late_losses(history)
        if squares:
            errors = losses
        elif context.loss.family in ("absolute_error", "huber"):  # mean |x| of a normal distribution is 0.8 σ
            errors = (losses / 0.8) ** 2
    if not variance > 0:
        return []
    with np.errstate(all="ignore"):
        ratios = np.minimum(errors / variance, 1 - LEAST_R2)
        mean = float(ratios.mean()) if len(ratios) else math.nan
        half = 1.64 * float(ratios.std()) / math.sqrt(len(ratios)) if len(ratios) > 2 else math.inf
    held_out = history.epochs("val_loss")[1]
    held_out = held_out[len(held_out) // 2 :]
    held_out = held_out[~np.isnan(held_out)]
    unsure = not (half <= _PRECISE or mean - half >= 1)  # also where one spike dwarfs all other losses
    if unsure and held_out.size and squares:
        mean, half = float(np.minimum(np.mean(held_out), 1e300) / variance), _VALIDATION_NOISE
    if context.loss.own and not squares and _elsewhere(history, mean, half):
        return []
    # Far below the trivial predictor the interval is wide in absolute terms, yet the judgement is sure.
    half = half if mean - half < 1 else min(half, _PRECISE)
    return [Witness(1 - mean, 1 - mean - half, 1 - mean + half, 1 - mean)]


def _elsewhere(history: RunHistory, error: float, half: float) -> bool:
    """Whether a loss of one's own may succeed with outputs of such a squared error ÷ variance of the targets.

    One that measures a distance may want another value than the mean (a quantile), not far from it. To others, such as
    those that rank, squares can attest success only.
    """
    near, fell = error <= _FAR, _fell(history)
    if measures_distance(history):
        return error - half > 1 and near and fell
    return not near or (fell and not error <= _ATTESTED)


def targets_growth(history: RunHistory) -> float:
    """Return the variance of the targets in late batches ÷ that in early ones, where it rises beyond doubt; else 1."""
    spread = history.scalar("target_spread")
    known = np.isfinite(spread)
    spread, steps = spread[known], history.steps[known]
    part = len(spread) // 4
    early, late = (float(np.median(values)) if part else 0.0 for values in (spread[:part], spread[-part:]))
    if not 0 < early < late:
        return 1.0
    return (late / early) ** 2 if theil_sen(steps, spread).rising else 1.0


def _fell(history: RunHistory) -> bool:
    """Whether the loss has fallen since the start, beyond the noise of batches."""
    losses = history.losses[1][np.isfinite(history.losses[1])]
    if len(losses) < 4 * _FIRST:
        return False
    start, now = losses[:_FIRST], losses[-2 * _FIRST :]
    noise = float(np.hypot(np.std(start) / math.sqrt(_FIRST), np.std(now) / math.sqrt(2 * _FIRST)))
    return float(start.mean() - now.mean()) > 3 * noise


def _entropy(history: RunHistory, context: TaskContext) -> list[Witness]:
    """Return skill from a mean cross-entropy, against that of always answering the class frequencies.

    Accuracy above chance grows with the root of what cross-entropy gains (second order around the trivial
    predictor), so the root of the relative gain is on the scale of skill from accuracy.
    """
    targets, loss = history.targets, context.loss
    if loss.family not in ("cross_entropy", "binary_cross_entropy") or loss.reduction != "mean":
        return []
    share, others = targets.majority, max(1, targets.classes - 1)
    if not 0 < share < 1 or targets.minimum < 0:
        return []
    common = share
    if targets.one_hot and loss.family == "binary_cross_entropy":  # the mean over columns, which are mostly 0
        common, others = 1 - targets.mean, 1
    entropy = -common * math.log(common) - (1 - common) * math.log((1 - common) / others)
    losses = _late_losses(history)
    _, means = blocks(np.arange(len(losses)), losses)
    if len(means) < 4:
        return []
    middle, half = float(np.mean(means)), 1.64 * float(np.std(means)) / math.sqrt(len(means))
    low, skill, high = (
        math.copysign(math.sqrt(abs(gain)), gain)
        for gain in (1 - (middle + half) / entropy, 1 - middle / entropy, 1 - (middle - half) / entropy)
    )
    if high <= 0:
        low = max(low, high - _PRECISE)
    return [Witness(min(1.0, max(0.0, share + skill * (1 - share))), low, high, skill, by_loss=True)]


def _fresh(history: RunHistory) -> slice:
    """Return the samples of the last half of the run: none if sampling could not be afforded since."""
    return slice(int(np.searchsorted(history.steps, history.step / 2)), len(history.steps))


def _late_losses(history: RunHistory) -> Floats:
    """Return the losses of the last half of the run: of single steps, else means of epochs."""
    steps, losses = history.losses
    late = losses[steps >= history.step / 2]
    late = late[~np.isnan(late)]
    if len(late) >= 4:
        return late
    means = history.epochs("loss")[1]
    return means[len(means) // 2 :]
