"""AT305: a loss that goes up and stays up."""

from __future__ import annotations

import numpy as np

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.skill import targets_growth
from autotrainer.rules._shared.steps import STEP_NEEDS, steps_taken
from autotrainer.rules._shared.trends import blocks
from autotrainer.rules._shared.words import about

__all__ = ["Divergence"]

_LEAST = 48
"""Losses before which nothing is said, two for each part: the first steps of a healthy training go up and down."""

_LOST = 0.5
"""Share of what the loss had fallen that must be lost again."""

_FAR = 0.1
"""Longest step ÷ length of the weights below which a loss without targets grows for another reason than its steps, as
the values of states do with the returns of a policy: that of `learning_rate_too_high`."""

_ABOVE = 1.5
"""Loss ÷ that of the untrained model from which the result is worse than none, whatever the batches."""


class Divergence(Rule):
    """The training loss rises and stays up: the model gets worse than it was.

    What it does
        Divides the losses so far into up to 24 parts and compares the last five of them with the best one.

    Why it hurts
        More of the same training makes the model worse still.

    Evidence used
        Mean losses of the parts, relative to the best one and to the first losses; whether they come down again; the
        outcome: skill over the trivial predictor.

    Thresholds
        ``factor``: loss ÷ its best, in each of the last ``windows`` of the 24 parts.

    When it is wrong
        A loss that has nearly vanished doubles easily: it must also have lost half of what it had gained. An error
        needs a loss 1.5 times above that of the untrained model and a measure of skill that shows nothing learned.
        Losses around or below zero and those of several optimizers (adversarial training) are left out, and so are
        targets that grow (values in reinforcement learning): by as much as their variance, a loss may. One whose
        targets are not known counts only where a step has changed the weights by a tenth of their size. Training data
        that grow harder (curricula) are a warning.

    Repairs
        A lower learning rate, gradient clipping, another optimizer.

    References
        MosaicML llm-foundry, LossSpike callback: 2 × the running loss, for several windows; Cohen et al., ICLR 2021.
    """

    problem = "divergence"
    code = "AT305"
    aliases = ("diverging", "diverged", "loss_explodes", "rising_loss")
    needs = OUTCOME_NEEDS | STEP_NEEDS
    causes = (
        "nonfinite_data",
        "target_mismatch",
        "improper_output_activation",
        "improper_loss",
        "poor_initialization",
        "unscaled_targets",
        "abnormal_data",
        "missing_zero_grad",
        "unshuffled_data",
        "learning_rate_too_high",
        "exploding_gradient",
        "attention_entropy_collapse",
        "stale_second_moment",
        "gradient_spike",
    )
    repairs = (
        "scale_learning_rate",
        "clip_gradients",
        "swap_optimizer",
        "rollback",
        "warm_up_learning_rate",
        "tune_adam",
        "skip_update",
        "reset_optimizer_state",
    )
    place = "step"
    THRESHOLDS = thresholds(
        factor=Threshold(2, "loss ÷ its best", "llm-foundry: outlier multiplier", 1),
        windows=Threshold(5, "parts of the run, of 24, in which it is that high", "llm-foundry: patience", 1, 12),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the history as it is now."""
        losses = history.losses[1]
        losses = losses[np.isfinite(losses)]
        if len(losses) < _LEAST or context.optimizer.several:
            return None
        _, parts = blocks(np.arange(len(losses)), losses)
        last = int(self.threshold("windows"))
        late, best = parts[-last:], float(parts[:-last].min())
        start = float(np.median(losses[:5]))
        low = float(late.min())
        usual = best * max(1.0, targets_growth(history))
        if best <= 0 or low < self.threshold("factor") * usual or low < best + _LOST * (start - best):
            return None
        if not history.targets.count and steps_taken(history).largest < _FAR:
            return None
        rising = bool(late[-1] >= 0.8 * late.max())
        result = outcome(history, context)
        if result.learned(0.8) or not (rising or low >= _ABOVE * start):
            return None
        lost = result.known and result.high <= 0.15
        error = lost and low >= _ABOVE * start
        evidence = {"loss": float(late[-1]), "best": best, "start": start, "rise": low / best}
        message = (
            f"The loss is {about(late[-1], 3)} at step {history.step}, {about(late[-1] / best)} times its best so far"
        )
        message += f", and was {start:.3g} at the start" if low >= start else ""
        message += f"; {result.words}" if error else ""
        return self.finding(
            Severity.ERROR if error else Severity.WARNING, 0.9 if error else 0.6, message + ".", evidence
        )
