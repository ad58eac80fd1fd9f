"""AT413: gradients of several batches that are added up on a wrong scale, or not all used."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.signals import Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.steps import STEP_NEEDS, steps_taken
from autotrainer.rules._shared.words import about

__all__ = ["WrongAccumulation"]

_MIN_SAMPLES = 4
"""Fewest sampled steps that show how a loop accumulates."""

_FEW_SAMPLES = 2
"""The same for gradients that are reset before a step: one step could be an exception."""

_SEVERAL = 3
"""Backward passes of a step that are taken for those of several batches where the batches are not counted: two are
usual in adversarial training."""

_NEAR = 0.05
"""Relative difference of two factors up to which they are equal."""

_FAST = 0.1
"""Largest step ÷ weights, as in `learning_rate_too_high`, that shows that the sum is too large a gradient."""

_SCALE_FREE = frozenset(
    {"adam", "adamw", "nadam", "radam", "adamax", "rmsprop", "adagrad", "adadelta", "lamb", "lion", "adafactor", "muon"}
)
"""Optimizers whose steps hardly depend on the scale of the gradients."""


class WrongAccumulation(Rule):
    """Gradients of several batches are accumulated on a wrong scale, or some batches are in no step of their epoch.

    What it does
        Counts the backward passes and batches for each step of the optimizer, and compares their number with the
        constant that each loss is multiplied by and with what is done to the gradients before the step. Finds gradients
        of batches that are reset before a step takes them, as by ``optimizer.step()`` outside of the loop over batches.

    Why it hurts
        A sum of the gradients of k batches is k times the gradient of one large batch: without a division by k, plain
        gradient descent takes steps that are k times too large, and clips more. Divided twice, they are k times too
        small. Batches at the end of an epoch that no step follows are computed in vain, or, if gradients are not reset,
        distort the first step of the next epoch.

    Evidence used
        Backward passes before and since the gradients were reset, batches that the data loader delivers for each step
        and for an epoch, the constant factor on the loss in the autograd graph, gradients before the step relative to
        what the backward passes left, the kind of optimizer, the size of the steps, and the outcome. In Keras, the
        number of batches that the optimizer averages.

    Thresholds
        ``scale``: gradient of a step ÷ mean gradient of its batches, from which (or, as its inverse, up to which) it is
        wrong; ``dropped``: share of the batches of an epoch that no step of it uses; ``good_score`` from which all of
        this is a fact.

    When it is wrong
        The learning rate may have been chosen for the sum: unless the outcome is poor it is a fact. It is an error only
        if the loss diverges, or a model without skill takes large steps. Optimizers that normalize gradients, such as
        Adam, hardly notice the scale, and neither do gradients that are clipped in every step. Losses that are sums
        over rows are not judged.

    Repairs
        A learning rate that fits the sum. By hand: divide each loss by the number of batches, and take a step after the
        last batch of an epoch, too.

    References
        PyTorch documentation, "Automatic mixed precision examples" (gradient accumulation); Goyal et al., arXiv
        1706.02677 (rate and batch size).
    """

    problem = "wrong_accumulation"
    code = "AT413"
    aliases = ("gradient_accumulation", "accumulation_steps", "loss_not_divided", "accumulated_batches")
    phrases = (
        "gradient accumulation loss scale",
        "divide loss by accumulation steps",
        "gradient accumulation different results",
        "last batches not used",
    )
    needs = OUTCOME_NEEDS | STEP_NEEDS
    needs |= {"backward_passes", "discarded_passes", "loss_factor", "gradient_factor"}
    needs |= {"grad_norm", "loader_batches", "epoch_batches"}
    causes = ("missing_zero_grad",)
    repairs = ("scale_learning_rate",)
    place = "step"
    THRESHOLDS = thresholds(
        scale=Threshold(1.5, "gradient of a step ÷ mean gradient of its batches", "2 is the least wrong number", 1.0),
        dropped=Threshold(0.05, "share of the batches of an epoch", "less hardly matters", maximum=1.0),
        good_score=Threshold(0.7, "skill that is good enough", "Theta of AUTOTRAINER", maximum=1.0),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        return (
            self._never(history, context)
            or self._reset(history)
            or self._discarded(history, context)
            or self._scaled(history, context)
            or self._dropped(history, context)
        )

    def _never(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Return a finding if the optimizer averages more batches than there are."""
        batches = context.optimizer.accumulation
        whole = history.step + 1 if history.finished else context.planned_steps or math.inf
        if not 1 <= whole < batches:
            return None
        message = (
            f"The weights are never updated: the optimizer averages the gradients of {batches} batches before each "
            f"update, but the training has {whole:.0f}."
        )
        return self.finding(Severity.ERROR, 0.95, message, {"batches_per_update": batches, "batches": whole})

    def _reset(self, history: RunHistory) -> Finding | None:
        """Return a finding if gradients are reset between the backward pass and the step."""
        passes, factors = (_finite(history.scalar(name)) for name in ("backward_passes", "gradient_factor"))
        norms = _finite(history.scalar("grad_norm"))
        if len(factors) < _FEW_SAMPLES or factors.any() or norms.any() or not len(passes) or not passes.min() >= 1:
            return None
        message = (
            "The gradients are reset between the backward pass and the step, so the optimizer gets none: call "
            "zero_grad() before backward(), or after step()."
        )
        return self.finding(Severity.ERROR, 0.95, message, {"gradient_factor": 0.0})

    def _discarded(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Return a finding if the gradients of most batches are reset before a step takes them."""
        resets, passes = (_finite(history.scalar(name)) for name in ("discarded_passes", "backward_passes"))
        if len(resets) < _FEW_SAMPLES or not len(passes) or context.optimizer.several:
            return None  # not known, or adversaries, which have passes that others need
        lost, used = float(np.median(resets)), float(np.median(passes))
        factors = _finite(history.scalar("gradient_factor"))
        if lost + used < _SEVERAL or (len(factors) and not abs(np.median(factors) - 1) <= _NEAR):
            return None  # an adversary's passes, or another gradient is put together of those of all passes
        batches = _batches_per_step(history)
        if not math.isfinite(batches) and not np.isfinite(history.scalar("loader_batches")).any():
            batches = context.asked.get("epoch_batches", math.nan)  # the loader has ended before each step
        # Several passes of one batch are meant: perturbed weights, or the gradients of several tasks one by one.
        if lost < 1 or not used <= lost or not abs(batches / (lost + used) - 1) <= _NEAR:
            return None
        result = outcome(history, context)
        message = (
            f"A step follows every {about(batches)} batches, but the gradients are reset before each of these: only "
            f"the {'last one' if used == 1 else f'last {used:.0f}'} of them is used. Call optimizer.step() after each "
            "backward pass, or zero_grad() only after the step"
        )
        message += f"; {result.words}." if result.words and not result.learned(self.threshold("good_score")) else "."
        severity = Severity.WARNING if result.learned(self.threshold("good_score")) else Severity.ERROR
        evidence = {"batches_per_step": batches, "discarded": lost / (lost + used)}
        return self.finding(severity, 0.9, message, evidence)

    def _scaled(self, history: RunHistory, context: TaskContext) -> Finding | None:
        passes, factors = (_finite(history.scalar(name)) for name in ("backward_passes", "loss_factor"))
        if len(passes) < _MIN_SAMPLES or len(factors) < _MIN_SAMPLES or context.loss.reduction == "sum":
            return None
        count, factor = float(np.median(passes)), float(np.median(factors))
        if count < 2:
            return None
        batches = _batches_per_step(history)
        of_batches = abs(batches / count - 1) <= _NEAR if math.isfinite(batches) else count >= _SEVERAL
        if not of_batches or factor <= 0:
            return None
        divisor = round(1 / factor)
        if divisor < 1 or abs(divisor * factor - 1) > _NEAR:
            return None  # no whole number: the weight of a loss
        ratios = _finite(history.scalar("gradient_factor"))
        ratio = float(np.median(ratios)) if ratios.size else 1.0
        if ratio < 1 - _NEAR or ratio > 1 + _NEAR:
            return None  # divided before the step, or clipped
        scale = count * factor
        limit = self.threshold("scale")
        if 1 / limit < scale < limit:
            return None
        result = outcome(history, context)
        severity = self._severity(history, context, result, large=scale > 1)
        divided = "is not divided" if divisor == 1 else f"is divided by {divisor}"
        message = (
            f"Each step adds up the gradients of {count:.0f} batches, but the loss of each {divided}: the gradient is "
            f"{about(scale)} times that of their mean"
        )
        if severity is Severity.INFO and context.optimizer.name in _SCALE_FREE:
            message += f", which {context.optimizer.name} hardly notices"
        elif severity is Severity.ERROR and result.words:
            message += f"; {result.words}"
        evidence = {"passes": count, "loss_factor": factor, "scale": scale}
        return self.finding(severity, 0.9, message + ".", evidence)

    def _severity(self, history: RunHistory, context: TaskContext, result: Outcome, *, large: bool) -> Severity:
        if context.optimizer.name in _SCALE_FREE or result.learned(self.threshold("good_score")):
            return Severity.INFO
        fast = steps_taken(history).largest >= _FAST
        if large and (result.diverged or (fast and result.known and result.stuck() and result.mature(0.15))):
            return result.worst
        return Severity.WARNING if result.known and result.mature(0.15) else Severity.INFO

    def _dropped(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Return a finding if the last batches of each epoch are in none of its steps."""
        whole = context.asked.get("epoch_batches", math.nan)
        passes = _finite(history.scalar("backward_passes"))
        ends = history.epoch_ends
        if not math.isfinite(whole) or len(passes) < _MIN_SAMPLES or len(ends) < 2:
            return None
        count, steps = round(float(np.median(passes))), round(float(np.median(history.steps_per_epoch)))
        left = whole - count * steps
        if count < 2 or steps < 1 or not abs(_batches_per_step(history) / count - 1) <= _NEAR:
            return None
        if left <= 0 or left >= count or left / whole < self.threshold("dropped"):
            return None
        first = history.scalar("backward_passes")[np.isin(history.steps, ends + 1)]
        carried = bool(np.isfinite(first).any()) and float(np.nanmedian(first)) == count + left
        fate = "are added to the first step of the next epoch" if carried else "are not used"
        result = outcome(history, context)
        poor = result.known and result.mature(0.15) and not result.learned(self.threshold("good_score"))
        message = (
            f"The optimizer takes a step after every {count} batches, so the last {left:.0f} of the {whole:.0f} "
            f"batches of an epoch {fate}."
        )
        evidence = {"batches": whole, "batches_per_step": count, "dropped": left / whole, "carried": float(carried)}
        return self.finding(Severity.WARNING if poor and not carried else Severity.INFO, 0.8, message, evidence)


def _finite(values: Floats) -> Floats:
    kept: Floats = values[np.isfinite(values)]
    return kept


def _batches_per_step(history: RunHistory) -> float:
    """Return how many batches the data loader delivers for each step; NaN if unknown."""
    delivered = history.scalar("loader_batches")
    known = np.isfinite(delivered)
    steps, delivered = np.diff(history.steps[known]), np.diff(delivered[known])
    within = delivered > 0  # else an epoch has ended in between
    return float(np.median(delivered[within] / steps[within])) if within.any() else math.nan
