"""Skill of a model over the trivial predictor (most common class, mean of the targets), by each available measure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotrainer.records.history import RunHistory
from autotrainer.records.signals import MAX_ROWS, Floats
from autotrainer.records.task import TaskContext
from autotrainer.rules._shared.loss_values import measures_distance
from autotrainer.rules._shared.trends import blocks, theil_sen, wilson

__all__ = [
    "LEAST_R2",
    "VALIDATION_NOISE",
    "VALIDATION_ROWS",
    "SkillEstimate",
    "epoch_accuracies",
    "held_out_losses",
    "highest",
    "root_of_gain",
    "skill_estimates",
    "targets_growth",
    "trivial_score",
    "trivial_squared_error",
]

LEAST_R2 = -1e6
"""Lower limit of R²: outputs, or their squares, may not be finite."""

_PRECISE = 0.25
"""Widest half interval of skill that counts as a measurement."""

_ENOUGH_ROWS = 64
"""Recent training rows from which accuracy is used instead of cross-entropy."""

_UNEQUAL = 1.5
"""Share of the most common class ÷ share in balanced classes from which class weights favour other predictions."""

_HIDDEN = 0.2
"""Highest skill by accuracy, and lowest upper end of skill by cross-entropy, with which the model may have found a
signal that accuracy does not show: one too weak to make any other class than the most common one the likeliest."""

VALIDATION_ROWS = 200
"""Rows assumed for a validation set, whose size is unknown: a cautious value."""

_FAR = 1 + 2.33**2
"""Largest squared error ÷ variance of the targets with which a model that explains nothing may still minimize a custom
loss: that of the 99 % quantile of a normal distribution."""

_LEARNED = 0.5
"""Largest such ratio that shows learning, whatever the loss measures."""

_SAME_BATCHES, _EQUAL_MOMENTS = 5, 1e-5
"""Samples whose moments must be equal, and the relative difference that summation in another order leaves."""

_MOVING, _MOVING_ROWS = 1.5, 320
"""Growth of the targets' variance from which they depend on the model, so that R² is meaningless: three standard errors
of the variance of ten batches of 32 rows. With fewer rows, standard errors grow by the root of the ratio."""

_FIRST = 10
"""Number of losses that represent the start."""

VALIDATION_NOISE = 0.1
"""Half interval of R² on such a set: 1.64 √(2 ÷ rows) of the squared error, less the part common to all epochs."""


@dataclass(frozen=True, slots=True)
class SkillEstimate:
    """One measurement of skill.

    Attributes:
        score: Accuracy or R².
        low: Lower end of the 90 % interval of skill: 0 is the trivial predictor, 1 perfect.
        high: Upper end.
        skill: Best estimate.
        by_loss: Whether skill and score are derived from cross-entropy.
    """

    score: float
    low: float
    high: float
    skill: float
    by_loss: bool = False


def trivial_score(history: RunHistory, context: TaskContext) -> float:
    """Return the score of the trivial predictor: accuracy of the most common class, 0 for R²; NaN if unknown."""
    kind = context.kind(history.targets)
    if kind == "regression":
        return 0.0
    if history.targets.minimum < 0 and not history.targets.signed:
        return math.nan  # the summary counts masked entries as a class, accuracy does not
    return context.trivial_accuracy(history.targets)


def trivial_squared_error(history: RunHistory, context: TaskContext) -> float:
    """Return the mean squared error of always predicting the mean of the targets; NaN for other losses."""
    squared = context.loss.family == "squared_error" and context.loss.reduction == "mean"
    return history.targets.variance if squared and history.targets.variance > 0 else math.nan


def skill_estimates(history: RunHistory, context: TaskContext) -> list[SkillEstimate]:
    """Return the estimates of present skill that are precise enough to judge by.

    Cross-entropy replaces an unknown training accuracy, and supplements one that shows nothing (`_HIDDEN`): its value
    can mislead, accuracy can't.
    """
    if context.loss.margin is not None and context.loss.margin > 0:
        return _precise(_by_margin(history, context, context.loss.margin))
    if context.kind(history.targets) == "regression":
        return _precise(_squared_error(history, context)) or _precise(_deviance(history, context))
    by_accuracy = _precise(_accuracies(history, context, trivial_score(history, context)))
    if context.loss.own and max((e.skill for e in by_accuracy), default=1.0) < _HIDDEN and _falls_late(history):
        return []  # such as a loss that ranks: it succeeds, and the accuracy is none
    unequal = history.targets.majority * history.targets.classes >= _UNEQUAL
    if context.loss.weighted and unequal:  # predictions move to rare classes and are correct less often
        return [estimate for estimate in by_accuracy if estimate.low > 0]
    sampled = history.scalar("accuracy")[_fresh(history)]
    batches = history.scalar("batch_size")[_fresh(history)]
    rows = np.nansum(np.minimum(batches[~np.isnan(sampled)], MAX_ROWS))
    by_loss = _entropy(history, context)
    if by_accuracy and (rows >= _ENOUGH_ROWS or len(history.epochs("accuracy")[0])):
        if max(estimate.skill for estimate in by_accuracy) >= _HIDDEN:
            return by_accuracy
        accuracy = max(estimate.score for estimate in by_accuracy)
        return by_accuracy + [e for e in by_loss if e.high >= _HIDDEN and _possible(e, accuracy, history)]
    return by_accuracy + _precise(by_loss)


def highest(estimates: Sequence[SkillEstimate]) -> float:
    """Return the upper end of skill by all estimates: of the mean of accuracies, if they agree; else the largest.

    An estimate from few rows alone could never show that nothing has been learned. Estimates agree if they differ by no
    more than the half interval of their difference (fixed-effect meta-analysis: Cochran, Biometrics 1954). They may
    share rows, as sampled batches are part of an epoch, so the interval of their mean is that of the most precise one.
    Cross-entropy stands alone: it may show a signal that accuracy does not.
    """
    largest = max((e.high for e in estimates), default=math.nan)
    halves = [(e.high - e.low) / 2 for e in estimates]
    if len(estimates) < 2 or any(e.by_loss for e in estimates) or not all(0 < half < math.inf for half in halves):
        return largest
    middles = [(e.high + e.low) / 2 for e in estimates]
    pairs = list(zip(middles, halves, strict=True))
    if any(abs(a - b) > math.hypot(p, q) for a, p in pairs for b, q in pairs):
        return largest
    weights = [1 / half / half for half in halves]
    mean = sum(w * m for w, m in zip(weights, middles, strict=True)) / sum(weights)
    return min(largest, mean + min(halves))


def _possible(by_loss: SkillEstimate, accuracy: float, history: RunHistory) -> bool:
    """Return whether a cross-entropy beats a constant prediction and fits the accuracy.

    Each wrong prediction costs ln 2 or more.
    """
    targets = history.targets
    wrong = 1 - accuracy
    common, others = targets.majority, max(1, targets.classes - 1)
    entropy = -common * math.log(common) - (1 - common) * math.log((1 - common) / others)
    return not targets.one_hot and by_loss.skill > 0 and (1 - by_loss.skill**2) * entropy >= wrong * math.log(2)


def _precise(estimates: list[SkillEstimate]) -> list[SkillEstimate]:
    return [estimate for estimate in estimates if estimate.high - estimate.low <= 2 * _PRECISE]


def _accuracies(history: RunHistory, context: TaskContext, trivial: float) -> list[SkillEstimate]:
    """Return estimates from the accuracies of sampled batches, of epochs, and on validation data."""
    if math.isnan(trivial) or trivial >= 1:
        return []
    measured: list[tuple[float, float]] = []
    window = _fresh(history)
    values, sizes = history.scalar("accuracy")[window], history.scalar("batch_size")[window]
    rows = np.where(np.isnan(sizes), 1.0, np.clip(sizes, 1, MAX_ROWS))
    valid = ~np.isnan(values)
    if valid.any():
        score = float(np.average(values[valid], weights=rows[valid]))
        measured.append((score, math.inf if _same_rows(history) else float(rows[valid].sum())))
    for name, size in (("accuracy", _train_rows(history, context)), ("val_accuracy", VALIDATION_ROWS)):
        epochs = epoch_accuracies(history, context, name)
        late = epochs[-max(1, len(epochs) // 2) :]
        late = late[np.isfinite(late)]
        if late.size:
            measured.append((float(np.mean(late)), float(max(size, VALIDATION_ROWS))))
    estimates = []
    for score, count in measured:
        low, high = ((v - trivial) / (1 - trivial) for v in wilson(min(1.0, max(0.0, score)), count, 1.64))
        if high <= 0:  # with one dominant class the interval is wide, yet the verdict is certain
            low = max(low, high - _PRECISE)
        estimates.append(SkillEstimate(score, low, high, (score - trivial) / (1 - trivial)))
    return estimates


def epoch_accuracies(history: RunHistory, context: TaskContext, name: str) -> Floats:
    """Return the accuracies of epochs that others have computed; empty where they may mean something else.

    With several labels a row, accuracy is the mean over labels here, but often the share of rows with all labels right,
    or that of rows whose largest output is right (Keras).

    Args:
        history: The history.
        context: The training's model, loss, optimizer and data.
        name: ``accuracy`` or ``val_accuracy``.
    """
    ambiguous = context.kind(history.targets) == "multilabel" and not context.managed
    return np.zeros(0) if ambiguous else history.epochs(name)[1]


def _same_rows(history: RunHistory) -> bool:
    """Return whether every batch holds the same rows, all of them copied: the score on them is exact.

    Moments of inputs and targets that are equal in every sample would differ between random batches.
    """
    moments = np.array([history.scalar(name) for name in ("batch_size", "target_spread", "input_max_abs")])
    moments = moments[:, np.isfinite(moments).all(axis=0)]
    if moments.shape[1] < _SAME_BATCHES or not 2 <= moments[0].max() <= MAX_ROWS:
        return False
    return bool((np.ptp(moments, axis=1) <= _EQUAL_MOMENTS * np.abs(moments).max(axis=1)).all())


def _train_rows(history: RunHistory, context: TaskContext) -> float:
    """Return the number of training samples, as declared or from batches and epochs."""
    sizes = history.scalar("batch_size")
    sizes = sizes[np.isfinite(sizes)]
    if context.train_rows or not sizes.size or not history.epoch:
        return float(context.train_rows or 0)
    return float(np.median(sizes)) * (history.step + 1) / history.epoch


def _squared_error(history: RunHistory, context: TaskContext) -> list[SkillEstimate]:
    """Return R² of the sampled batches, else from the losses, with an interval from its spread over batches.

    Empty if the loss expects outputs on another scale than the targets, if targets grow as in reinforcement learning,
    or if a custom loss may have another optimum than the mean.
    """
    variance = history.targets.variance
    as_probabilities = context.loss.family == "binary_cross_entropy" and not context.loss.identified
    logits = context.loss.expects == "logits" and not as_probabilities  # whose squared error means nothing
    if logits or context.loss.expects in ("log_probabilities", "log_values") or _targets_move(history):
        return []
    squares = context.loss.family == "squared_error"
    errors = history.scalar("squared_error")[_fresh(history)]
    errors = errors[~np.isnan(errors)]
    losses = _late_losses(history, context) if len(errors) < 4 else np.zeros(0)
    if len(losses):
        if squares:
            errors = losses
        elif context.loss.family == "absolute_error" and history.targets.deviation > 0:
            errors = (losses / history.targets.deviation) ** 2 * variance
        elif context.loss.family == "huber" and not context.loss.weighted:  # at most x² / 2
            errors = 2 * losses
    if not variance > 0:
        return []
    with np.errstate(all="ignore"):
        ratios = _at_end(np.minimum(errors / variance, 1 - LEAST_R2))
        mean = float(ratios.mean()) if len(ratios) else math.nan
        half = 1.64 * float(ratios.std()) / math.sqrt(len(ratios)) if len(ratios) > 2 else math.inf
        if 0 < len(ratios) <= 2 and _same_rows(history):
            mean, half = float(ratios[-1]), 0.0
    held_out = held_out_losses(history, context)
    held_out = held_out[len(held_out) // 2 :]
    held_out = held_out[~np.isnan(held_out)]
    unsure = not (half <= _PRECISE or mean - half >= 1)  # also if one spike dwarfs all other losses
    if unsure and held_out.size and squares:
        mean, half = float(np.minimum(np.mean(held_out), 1e300) / variance), VALIDATION_NOISE
    if context.loss.own and _other_optimum(history, mean, half):
        return []
    # Far below the trivial predictor the interval is wide in absolute terms, yet the verdict is certain.
    half = half if mean - half < 1 else min(half, _PRECISE)
    return [SkillEstimate(1 - mean, 1 - mean - half, 1 - mean + half, 1 - mean)]


def _at_end(values: Floats) -> Floats:
    """Return the last third of values that follow a trend: their mean is far from the present level."""
    if len(values) < 4:
        return values
    trend = theil_sen(np.arange(len(values)), values)
    return values[-max(3, len(values) // 3) :] if trend.falling or trend.rising else values


def _other_optimum(history: RunHistory, error: float, half: float) -> bool:
    """Return whether a custom loss may be succeeding with this squared error ÷ variance of the targets.

    A loss that measures a distance may have another optimum than the mean (a quantile), not far from it. For others,
    such as ranking losses, the squared error can only confirm success.
    """
    near, fell = error <= _FAR, _fell(history)
    if measures_distance(history):
        return error - half > 1 and near and fell
    return not near or (fell and not error <= _LEARNED)


def targets_growth(history: RunHistory) -> float:
    """Return the variance of the targets in late batches ÷ that in early ones, if it rises significantly; else 1."""
    spread = history.scalar("target_spread")
    valid = np.isfinite(spread)
    spread, steps = spread[valid], history.steps[valid]
    part = len(spread) // 4
    early, late = (float(np.median(values)) if part else 0.0 for values in (spread[:part], spread[-part:]))
    if not 0 < early < late:
        return 1.0
    return (late / early) ** 2 if theil_sen(steps, spread).rising else 1.0


def _targets_move(history: RunHistory) -> bool:
    """Return whether the variance of the targets grows by more than samples of so few rows can show by chance.

    Samples of equal spread show the same rows: where batches keep their order in all epochs, as after
    `keras.utils.set_random_seed`, sampled steps may meet one small batch again and again.
    """
    growth = targets_growth(history)
    if growth <= _MOVING:
        return False
    spread, sizes = history.scalar("target_spread"), history.scalar("batch_size")
    valid = np.isfinite(spread)
    spread, sizes = spread[valid], np.where(sizes[valid] >= 1, sizes[valid], 1.0)
    part = len(spread) // 4
    rows = []
    for chosen in (slice(part), slice(-part, None)):
        first = np.unique(spread[chosen], return_index=True)[1]
        rows.append(float(sizes[chosen][first].sum()))
    return growth > 1 + (_MOVING - 1) * math.sqrt(max(1.0, _MOVING_ROWS / min(rows)))


def _fell(history: RunHistory) -> bool:
    """Return whether the loss has fallen since the start, beyond the noise of batches."""
    losses = history.losses[1][np.isfinite(history.losses[1])]
    if len(losses) < 4 * _FIRST:
        return False
    start, now = losses[:_FIRST], losses[-2 * _FIRST :]
    noise = float(np.hypot(np.std(start) / math.sqrt(_FIRST), np.std(now) / math.sqrt(2 * _FIRST)))
    return float(start.mean() - now.mean()) > 3 * noise


def _falls_late(history: RunHistory) -> bool:
    """Return whether the loss has halved since the first part of the run, after the shock of the start.

    A fifth is enough of a loss that does not grow with the distance of outputs and targets, such as a contrastive one
    of distances, which are to be small where the target is 1.
    """
    steps, losses = history.losses
    length = history.step + 1
    early = losses[(steps >= 0.05 * length) & (steps < 0.2 * length)]
    late = losses[steps >= 0.75 * length]
    early, late = early[np.isfinite(early)], late[np.isfinite(late)]
    if len(early) < 4 or len(late) < 4 or (early < 0).any() or (late < 0).any():
        return False
    fall = float(early.mean() - late.mean())
    noise = math.hypot(float(early.std()) / math.sqrt(len(early)), float(late.std()) / math.sqrt(len(late)))
    left = 0.8 if measures_distance(history) is False else 0.5
    return late.mean() <= left * early.mean() and fall > 3 * noise


def _by_margin(history: RunHistory, context: TaskContext, margin: float) -> list[SkillEstimate]:
    """Return skill from a loss that is its margin if the outputs are equal for all inputs; see `_relative_gain`."""
    low, skill, high = _relative_gain(_late_losses(history, context), margin)
    return [SkillEstimate(skill, low, high, skill, by_loss=True)]


def root_of_gain(loss: float, trivial: float) -> float:
    """Return the root of the relative gain over the loss of a constant prediction, with the sign of the gain.

    Accuracy above chance grows with the root of the gain in a cross-entropy or squared error (which is of second order
    around the constant prediction), so the root is on the scale of skill by accuracy.
    """
    gain = 1 - loss / trivial
    return math.copysign(math.sqrt(abs(gain)), gain)


def _relative_gain(losses: Floats, trivial: float) -> tuple[float, float, float]:
    """Return low end, estimate and high end of `root_of_gain` over several losses; NaN with fewer than four."""
    _, means = blocks(np.arange(len(losses)), losses)
    if len(means) < 4:
        return math.nan, math.nan, math.nan
    middle, half = float(np.mean(means)), 1.64 * float(np.std(means)) / math.sqrt(len(means))
    low, skill, high = (root_of_gain(middle + d, trivial) for d in (half, 0, -half))
    return (max(low, high - _PRECISE) if high <= 0 else low), skill, high


def _deviance(history: RunHistory, context: TaskContext) -> list[SkillEstimate]:
    """Return the share of the deviance that is explained, an R² for cross-entropies of fractions and Poisson losses.

    The constant prediction has the entropy of the means, a perfect one that of the values themselves (Cameron and
    Windmeijer, Journal of Econometrics 1997). For counts y of mean m, both differ by about Var(y) / 2m.
    """
    targets, loss = history.targets, context.loss
    if loss.weighted or not loss.standard:
        return []
    if loss.family == "binary_cross_entropy":
        trivial, span = targets.column_entropy, targets.column_entropy - targets.value_entropy
    elif loss.family == "poisson" and targets.width == 1 and targets.minimum >= 0 and targets.mean > 0:
        trivial, span = targets.mean * (1 - math.log(targets.mean)), targets.variance / (2 * targets.mean)
    else:
        return []
    losses = _late_losses(history, context)
    _, means = blocks(np.arange(len(losses)), losses)
    if not span > 0 or len(means) < 4:
        return []
    middle, half = float(np.mean(means)), 1.64 * float(np.std(means)) / math.sqrt(len(means)) / span
    skill = min(1.0, (trivial - middle) / span)
    half = half if skill + half > 0 else min(half, _PRECISE)
    return [SkillEstimate(skill, skill - half, skill + half, skill)]


def _entropy(history: RunHistory, context: TaskContext) -> list[SkillEstimate]:
    """Return skill from a mean cross-entropy or squared error over that of always predicting the class frequencies."""
    targets, loss = history.targets, context.loss
    if loss.family not in ("cross_entropy", "binary_cross_entropy", "squared_error") or not loss.standard:
        return []
    share, others = targets.majority, max(1, targets.classes - 1)
    if not 0 < share < 1 or (targets.minimum < 0 and not targets.signed) or loss.mixes_classes(targets):
        return []
    trivial = -share * math.log(share) - (1 - share) * math.log((1 - share) / others)  # at most, as others may differ
    labels = targets.rows if targets.one_hot else targets.count
    trivial = float(np.fmin(trivial, targets.entropy + others / (2 * labels)))  # less the bias (Miller 1955)
    if loss.family == "squared_error":
        trivial = targets.variance
        if not trivial > 0 or not (targets.binary or targets.signed):
            return []
    elif targets.signed:
        return []
    elif loss.family == "binary_cross_entropy" and targets.column_entropy > 0:
        trivial = targets.column_entropy
    low, skill, high = _relative_gain(_late_losses(history, context), trivial)
    return [SkillEstimate(min(1.0, max(0.0, share + skill * (1 - share))), low, high, skill, by_loss=True)]


def _fresh(history: RunHistory) -> slice:
    """Return the samples of the last half of the run; empty if the sampler had no time for any."""
    return slice(int(np.searchsorted(history.steps, history.step / 2)), len(history.steps))


def held_out_losses(history: RunHistory, context: TaskContext) -> Floats:
    """Return the mean validation losses of the outputs alone; empty if only sums are known, or those with penalties.

    Evaluations of managed trainings are means without penalties.
    """
    alone = history.epochs("val_data_loss")[1]
    unknown = (context.loss.composite or context.loss.reduction == "sum") and not context.managed
    return alone if len(alone) or unknown else history.epochs("val_loss")[1]


def _late_losses(history: RunHistory, context: TaskContext) -> Floats:
    """Return the losses of the outputs alone in the last half of the run: of single steps, else means of epochs.

    Where the loss of a step is not a mean or holds more, those of the sampled steps, if they are known by themselves.
    """
    loss = context.loss
    alone = history.scalar("data_loss")[_fresh(history)]
    alone = alone[~np.isnan(alone)]
    if len(alone) and (loss.weighted or loss.composite or loss.reduction != "mean"):
        return alone
    if loss.composite or loss.reduction != "mean":
        return np.zeros(0)
    steps, losses = history.losses
    late = losses[steps >= history.step / 2]
    late = late[~np.isnan(late)]
    if len(late) >= 4:
        return late
    means = history.epochs("loss")[1]
    return means[len(means) // 2 :]
