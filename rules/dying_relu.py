"""AT201: ReLU units that output zero for every input."""

from __future__ import annotations

import numpy as np

from autotrainer.records.signals import DEAD_WINDOW
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import names, weight_layers
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.trends import last_median

__all__ = ["DyingReLU"]


class DyingReLU(Rule):
    """Units of a ReLU layer output zero for every input and can no longer learn.

    What it does
        For each layer whose activation has a zero region, measures the share of units that were zero on every sample of
        several batches.

    Why it hurts
        A unit that is always zero has no gradient. If a whole layer is dead, no signal passes: the output is the same
        for all inputs, and all layers before it stop learning.

    Evidence used
        Share of dead units of each layer over the last sampled batches; whether the gradients of all layers up to it
        are exactly zero; the outcome. Sparse inputs and embeddings have no influence: dead units are counted, not
        zeros.

    Thresholds
        ``dead_units`` is gamma of AUTOTRAINER, here a share of the units of one layer; ``epochs`` is alpha_3.
        ``schedule``: share of the planned training after which a poor outcome makes it an error.

    When it is wrong
        In healthy networks, up to half of the units of a layer can be dead: without a poor outcome, only a layer that
        is entirely dead is an error, and only if the layers before it receive no gradient (no skip connection bypasses
        it).

    Repairs
        Another activation (LeakyReLU, SELU), normalization, new initial weights, or a lower learning rate.

    References
        Lu et al., Dying ReLU and Initialization, 2019; Zhang et al., AUTOTRAINER, ICSE 2021, section III.
    """

    problem = "dying_relu"
    code = "AT201"
    aliases = ("dead_relu", "dying_relus", "dead_units", "dying")
    phrases = (
        "dead relu",
        "relu dies",
        "dead neurons",
        "neurons are dead",
        "relu outputs only zeros",
        "activations are all zero",
    )
    needs = OUTCOME_NEEDS | frozenset({"dead_units"})
    causes = (
        "missing_zero_grad",
        "nonfinite_data",
        "improper_output_activation",
        "abnormal_data",
        "unscaled_targets",
        "insufficient_capacity",
        "abnormal_update_ratio",
        "unshuffled_data",
        "learning_rate_too_high",
        "exploding_gradient",
        "poor_initialization",
        "abnormal_initial_loss",
    )
    repairs = (
        "swap_activation",
        "insert_normalization",
        "reinitialize",
        "scale_learning_rate",
        "swap_optimizer",
        "revive_units",
        "warm_up_learning_rate",
        "add_residual",
        "resize_hidden_layers",
    )
    THRESHOLDS = thresholds(
        dead_units=Threshold(0.7, "share of dead units in a layer", "AUTOTRAINER", maximum=1, alias="gamma"),
        epochs=Threshold(0, "epochs before a verdict", "AUTOTRAINER", alias="alpha_3"),
        schedule=Threshold(
            0.12,
            "share of the schedule before an error",
            "benchmark goal: an error within a fifth of the run",
            maximum=1,
        ),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        if len(history.steps) < DEAD_WINDOW or history.epoch < self.threshold("epochs"):
            return None
        dead = last_median(history.layer("dead_units"), 3)
        hidden = [row for row, layer in enumerate(history.layers) if layer.hidden and np.isfinite(dead[row])]
        affected = [row for row in hidden if dead[row] >= self.threshold("dead_units") and dead[row] > 0]
        if not affected:
            return None
        worst = max(affected, key=lambda row: float(dead[row]))
        share, result = float(dead[worst]), outcome(history, context)
        cut_off = share >= 1 and self._no_gradient_before(history, worst)
        poor = result.stuck(0.2) and not result.moving(0.1)
        if cut_off and not result.learned(0.3):
            severity, confidence = Severity.ERROR, 0.97
        elif poor and result.mature(self.threshold("schedule")):
            severity, confidence = result.worst, 0.85
        elif share >= 0.9 and not result.learned(0.5):
            severity, confidence = Severity.WARNING, 0.5
        else:
            return None
        message = f"{share:.0%} of the units of layer {history.layers[worst].name} are dead (zero for every input)"
        if cut_off:
            message += ", and no layer before it receives a gradient"
        if severity is Severity.ERROR and result.words:
            message += f"; {result.words}"
        evidence = {
            "dead_units": share,
            "affected_layers": float(len(affected)),
            "relu_layers": float(len(hidden)),
        }
        order = [worst, *[row for row in affected if row != worst]]
        return self.finding(severity, confidence, message + ".", evidence, layers=names(history, order))

    @staticmethod
    def _no_gradient_before(history: RunHistory, row: int) -> bool:
        """Return whether all weight layers up to this one had gradients of exactly zero in the last samples."""
        before = [r for r in weight_layers(history) if r <= row]
        norms = last_median(history.layer("grad_norm")[:, before], 3)
        return bool(before) and bool((norms == 0).all())
