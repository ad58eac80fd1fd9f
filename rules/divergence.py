"""AT305: a loss that rises and stays high."""

from __future__ import annotations

import numpy as np

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.skill import targets_growth
from autotrainer.rules._shared.steps import STEP_NEEDS, steps_taken
from autotrainer.rules._shared.trends import blocks
from autotrainer.rules._shared.words import about

__all__ = ["Divergence"]

_MIN_LOSSES = 48
"""Fewest losses for a verdict, two for each block: the first losses of a healthy training go up and down."""

_LOST = 0.5
"""Share of the previous fall of the loss that must be lost again."""

_FAR = 0.1
"""Largest step ÷ norm of the weights, as in `learning_rate_too_high`, below which a loss without targets grows for
another reason than its steps, as the values of states do with the returns of a policy."""

_ABOVE = 1.5
"""Loss ÷ that of the untrained model from which the model is certainly worse than untrained."""


class Divergence(Rule):
    """The training loss rises and stays high: the model becomes worse than it was.

    What it does
        Divides the losses so far into up to 24 blocks and compares the last five of them with the best one.

    Why it hurts
        Longer training makes the model even worse.

    Evidence used
        Mean losses of the blocks, relative to the best one and to the first losses; whether they come down again; the
        outcome: skill over the trivial predictor.

    Thresholds
        ``factor``: loss ÷ its best, in each of the last ``windows`` of the 24 blocks.

    When it is wrong
        A loss close to zero doubles easily: it must also have lost half of its previous fall. An error requires a loss
        1.5 times that of the untrained model and a measure of skill that shows nothing learned. Losses at or below zero
        and those of several optimizers (adversarial training) are left out. If targets grow (values in reinforcement
        learning), the loss may grow by as much as their variance. A loss whose targets are unknown counts only if a
        step has changed the weights by a tenth of their norm. Training data that becomes harder (curricula) is a
        warning.

    Repairs
        A lower learning rate, gradient clipping, or another optimizer.

    References
        MosaicML llm-foundry, LossSpike callback: 2 × the running loss, for several windows; Cohen et al., ICLR 2021.
    """

    problem = "divergence"
    code = "AT305"
    aliases = ("diverging", "diverged", "loss_explodes", "rising_loss")
    phrases = (
        "loss goes up",
        "loss increases",
        "loss explodes",
        "loss is increasing",
        "loss diverges",
        "training loss increases",
        "loss becomes huge",
        "loss blows up",
    )
    needs = OUTCOME_NEEDS | STEP_NEEDS
    causes = (
        "parameters_not_optimized",
        "nonfinite_data",
        "loss_term_imbalance",
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
        windows=Threshold(
            5, "number of the last blocks, of 24, in which it is that high", "llm-foundry: patience", 1, 12
        ),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        losses = history.losses[1]
        losses = losses[np.isfinite(losses)]
        if len(losses) < _MIN_LOSSES or context.optimizer.several:
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
            f"The loss diverges: it is {about(late[-1], 3)} at step {history.step}, {about(late[-1] / best)} times its "
            "best value so far"
        )
        message += f", and was {start:.3g} at the start" if low >= start else ""
        message += f"; {result.words}" if error else ""
        return self.finding(
            Severity.ERROR if error else Severity.WARNING, 0.9 if error else 0.6, message + ".", evidence
        )
