"""How well a training does, for any task: skill over the trivial predictor, trend, and share of the schedule.

Symptoms alone prove little: a model can learn with vanishing gradients or dead units. Rules therefore combine them with
the outcome, which is computed here once for all rules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from autotrainer.records.findings import Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext
from autotrainer.rules._shared.layers import inputs_vary
from autotrainer.rules._shared.skill import LEAST_R2, SkillEstimate, highest, skill_estimates, trivial_score
from autotrainer.rules._shared.trends import Slope, blocks, last_median, loss_growth, recent, theil_sen
from autotrainer.rules._shared.words import about

__all__ = [
    "CAUSES_OF_NO_SKILL",
    "OUTCOME_NEEDS",
    "YOUNG_STEPS",
    "Outcome",
    "constant_outputs",
    "enough_samples",
    "equal_outputs",
    "outcome",
    "planned_share",
    "progress",
]

OUTCOME_NEEDS = frozenset(
    {"loss", "batch_size", "accuracy", "squared_error", "grad_norm", "target_spread", "input_max_abs", "epochs"}
    | {"data_loss", "output_spread", "input_std"}
)
"""Columns that the outcome is computed from."""

CAUSES_OF_NO_SKILL = (
    "missing_zero_grad",
    "wrong_backward",
    "recreated_optimizer",
    "wrong_accumulation",
    "wrong_training_mode",
    "parameters_not_optimized",
    "abnormal_normalization",
    "sibling_outlier",
    "wrong_schedule",
    "loss_term_imbalance",
    "nonfinite",
    "nonfinite_data",
    "improper_output_activation",
    "target_mismatch",
    "improper_loss",
    "padded_targets",
    "shuffled_labels",
    "unlearnable_targets",
    "rows_mixed",
    "broken_attention_mask",
    "ignored_positions",
    "insufficient_capacity",
    "unshuffled_data",
    "class_imbalance",
    "learning_rate_too_high",
    "exploding_gradient",
    "divergence",
    "dying_relu",
    "abnormal_data",
    "unscaled_targets",
    "saturated_activation",
    "dormant_neurons",
    "vanishing_gradient",
    "attention_entropy_collapse",
    "embedding_unused",
    "representation_collapse",
    "checkpoint_not_loaded",
    "poor_initialization",
    "no_gradient",
    "learning_rate_too_low",
)
"""Problems after which a model may have learned nothing, the most fundamental first."""

YOUNG_STEPS = 200
"""Steps after which a run of unknown length can be judged."""

_SAMPLES, _LAST_SAMPLES = 10, 3
"""Fewest samples for a verdict while the run goes on, which may wait, and after its end, when no further ones come."""

_OVER = 0.95
"""Share of the schedule from which further progress no longer changes the result."""

_EQUAL = 0.995
"""Ratio of two losses from which a message calls them equal."""

_CONSTANT = 1e-4
"""Spread of the outputs over rows ÷ that of the targets, at most 1, up to which the outputs are constant."""

_FEW_STEPS = 40
"""Steps before which a run is only judged near the end of a short schedule."""

_FEW_EPOCHS = 10
"""Epochs from which a run of fewer steps, such as one of full batches, is no mere trial of the program."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a training does at present.

    Attributes:
        low: Lower end of the 90 % interval of skill; skill is 0 at the level of the trivial predictor (most common
            class, mean of the targets) and 1 for a perfect model. NaN if unknown.
        high: Upper end.
        skill: Best estimate of skill.
        score: Accuracy or R², as reported to the user.
        trivial: Score of the trivial predictor.
        progress: Share of the run that is done, in [0, 1]; NaN if its length is unknown.
        steps: Optimizer steps done.
        trend: Trend of the training loss over the last half of the run, per step.
        to_come: Expected fall of the loss until the end of the schedule (if unknown: over the same number of steps
            again), as a share of its present level; 0 unless it falls significantly.
        fell: Fall of the loss over the last half of the run, as a share of its present level.
        escaping: Whether gradients grow while the loss is flat: the training is leaving a plateau.
        diverged: Whether the loss is not finite, or far above its start.
        regression: Whether the score is R².
        by_loss: Whether the score is derived from cross-entropy, as no accuracy is known.
    """

    low: float
    high: float
    skill: float
    score: float
    trivial: float
    progress: float
    steps: int
    trend: Slope
    to_come: float
    fell: float
    escaping: bool
    diverged: bool
    regression: bool
    by_loss: bool = False

    @property
    def known(self) -> bool:
        """Whether skill is known precisely enough to judge."""
        return not math.isnan(self.skill)

    def stuck(self, margin: float = 0.15) -> bool:
        """Return whether skill is certainly within a margin (on the scale of accuracy) of the trivial predictor.

        R² gets two thirds of the margin: it is a square, so the same value means more. An R² that is certainly above 0
        is not stuck: noise may leave no more to explain.
        """
        if self.regression:
            return self.high <= margin * 2 / 3 and not self.low > 0
        return self.high <= margin

    def learned(self, level: float = 0.5) -> bool:
        """Return whether skill is certainly above a level."""
        return self.low >= level

    def moving(self, to_come: float = 0.05) -> bool:
        """Return whether a verdict should wait: the loss will still fall by this share, or is leaving a plateau.

        If the trend of the loss is unknown, a verdict waits for half the schedule; at its end it never waits.
        """
        if self.progress >= _OVER:
            return False
        unknown = math.isnan(self.trend.slope) and not self.mature(0.5)
        return self.to_come >= to_come or self.escaping or unknown

    def mature(self, share: float) -> bool:
        """Return whether this share of the schedule is done; without a schedule, whether `YOUNG_STEPS` are."""
        if math.isnan(self.progress):
            return self.steps >= YOUNG_STEPS
        return self.progress >= share and (self.steps >= _FEW_STEPS or self.progress >= 0.8)

    @property
    def certainty(self) -> float:
        """Confidence in a fault that is proven by one sign: more if the outcome is a second, independent one."""
        return 0.95 if self.known and not self.learned(0.5) else 0.9

    @property
    def planned(self) -> float:
        """Steps of the whole schedule; NaN if unknown."""
        return self.steps / self.progress if self.progress > 0 else math.nan

    @property
    def worst(self) -> Severity:
        """The highest severity of a verdict by schedule: error only if the schedule is known."""
        return Severity.WARNING if math.isnan(self.progress) else Severity.ERROR

    @property
    def words(self) -> str:
        """The score as a clause of a sentence; empty if unknown."""
        if not self.known:
            return ""
        if self.regression:
            value = about(self.score, 3) if self.score > LEAST_R2 else f"below {LEAST_R2:.0g}"
            return f"R² is {value} (always predicting the mean gives 0)"
        if self.by_loss:
            ratio = 1 - math.copysign(self.skill**2, self.skill)  # skill is the root of the relative gain
            if _EQUAL <= ratio < 2 - _EQUAL:
                return "the loss is no better than a constant prediction"
            return f"the loss is {about(ratio, 3)} times that of a constant prediction"
        return f"accuracy is {self.score:.3g} (always predicting the most common class gives {self.trivial:.3g})"


def enough_samples(history: RunHistory) -> bool:
    """Return whether there are enough samples for a verdict: ten, or three in a run that has ended."""
    return len(history.steps) >= (_LAST_SAMPLES if history.finished else _SAMPLES)


def constant_outputs(history: RunHistory) -> bool:
    """Return whether the latest outputs were the same for all inputs, although inputs and targets differ."""
    return inputs_vary(history) and equal_outputs(history)


def equal_outputs(history: RunHistory) -> bool:
    """Return whether the latest outputs were the same in all rows, although the targets differ."""
    spread, target_spread = (
        float(last_median(history.scalar(name)[:, None])[0]) for name in ("output_spread", "target_spread")
    )
    return target_spread > 0 and spread <= _CONSTANT * min(target_spread, 1.0)


def progress(history: RunHistory, context: TaskContext) -> float:
    """Return the share of the planned schedule that is done, in [0, 1]; NaN if unknown.

    The length of a run that has ended is known, whatever was planned, unless it was too short to be more than a trial.
    """
    if history.finished and (history.step + 1 >= _FEW_STEPS or history.epoch >= _FEW_EPOCHS):
        return 1.0
    return planned_share(history, context)


def planned_share(history: RunHistory, context: TaskContext) -> float:
    """Return the share of the planned schedule that is done, in [0, 1]; NaN without a plan, or if it is unknown."""
    done = history.step + 1
    if context.planned_steps:
        return min(1.0, done / context.planned_steps)
    if not context.planned_epochs:
        return math.nan
    per_epoch = math.nan
    if history.has_ended(history.epoch - 1):
        per_epoch = (history.step_of_epoch(history.epoch - 1) + 1) / history.epoch
    elif context.train_rows and len(history.steps):
        size = history.scalar("batch_size")[-1]
        per_epoch = math.ceil(context.train_rows / size) if size > 0 else math.nan
    if per_epoch > 0:
        return min(1.0, done / (per_epoch * context.planned_epochs))
    return 1.0 if history.finished else math.nan


_LATEST: WeakKeyDictionary[RunHistory, tuple[tuple[int, ...], TaskContext, Outcome]] = WeakKeyDictionary()
"""Cache of the last outcome for each history: all rules of one evaluation need the same."""


def outcome(history: RunHistory, context: TaskContext) -> Outcome:
    """Return how well the training does at present.

    Args:
        history: Everything measured so far.
        context: Facts about the training.

    Returns:
        The outcome, from the last half of the run.
    """
    state = (history.changes, history.step, history.epoch, history.finished)
    cached = _LATEST.get(history)
    if cached is None or cached[0] != state or cached[1] is not context:
        cached = _LATEST[history] = (state, context, _outcome(history, context))
    return cached[2]


def _outcome(history: RunHistory, context: TaskContext) -> Outcome:
    estimates = skill_estimates(history, context)
    constant = constant_outputs(history)
    if constant:
        # Keras computes some losses from the logits before the output's activation: they may fall all the same
        estimates = [estimate for estimate in estimates if not estimate.by_loss]
    share = progress(history, context)
    done = history.step + 1
    remaining = done if math.isnan(share) or share <= 0 else done * (1 / share - 1)
    trend, level = _trend(history)
    fall = -trend.slope / abs(level) if trend.falling and level else 0.0
    best = max(estimates, key=lambda e: e.skill) if estimates else SkillEstimate(math.nan, math.nan, math.nan, math.nan)
    low = max((e.low for e in estimates), default=math.nan)
    high = highest(estimates)
    if low <= 0 < high and constant:
        high = 0.0  # by definition, whatever a few batches make it look like
    return Outcome(
        low=low,
        high=high,
        skill=best.skill if best.by_loss else float(np.fmin(best.skill, high)),
        score=best.score,
        trivial=trivial_score(history, context),
        progress=share,
        steps=done,
        trend=trend,
        to_come=fall * remaining,
        fell=fall * done / 2,
        escaping=_escaping(history),
        diverged=_diverged(history, context),
        regression=context.kind(history.targets) == "regression",
        by_loss=best.by_loss,
    )


def _trend(history: RunHistory) -> tuple[Slope, float]:
    """Return trend and present level of the loss over the last half of the run, from the least noisy series."""
    steps, losses = history.losses
    late = steps >= history.step / 2
    late[-16:] |= len(steps) == history.step + 1
    x, y = blocks(steps[late], losses[late])
    for name in ("loss", "val_loss"):
        epochs, means = history.epochs(name)
        half = len(epochs) // 2
        if len(epochs) - half > len(y) or (
            name == "loss" and len(epochs) - half >= 8 and len(losses) < history.step / 4
        ):
            x = np.array([history.step_of_epoch(int(e)) for e in epochs[half:]], np.float64)
            y = means[half:]
            break
    finite = y[np.isfinite(y)]
    level = float(np.mean(finite[-max(1, len(finite) // 3) :])) if finite.size else math.nan
    return theil_sen(x, y), level


def _escaping(history: RunHistory) -> bool:
    norms = history.scalar("grad_norm")
    window = recent(history.steps, 0.7, 8)
    with np.errstate(all="ignore"):
        logs = np.log(norms[window])
    slope = theil_sen(history.steps[window], logs)
    span = history.steps[window][-1] - history.steps[window][0] if len(history.steps) else 0
    return slope.rising and slope.slope * float(span) > math.log(1.5)


def _diverged(history: RunHistory, context: TaskContext) -> bool:
    """Return whether the last losses are not finite, or 10 times above those at the start."""
    return loss_growth(history.losses[1], context.loss.family) > 10
