"""AT102: gradients and weights that grow without bound."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.signals import Floats, LayerInfo
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import names, weight_layers
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.trends import geometric_mean, growth, last_median, loss_growth, recent
from autotrainer.rules._shared.words import about

__all__ = ["ExplodingGradient"]

_FAR = 3.0
"""Weight norm ÷ root of the units from which weights are too large; standard initializers give about 1, to which tiny
weights may grow."""

_FEWEST_WEIGHTS = 8
"""Parameters of a layer from which the norm of a step ÷ that of the weights says something: a single one passes zero on
its way, as the logarithm of a scale does."""

_DEAD_SAMPLES = 3
"""Samples in which all gradients must be exactly zero for the model to count as dead."""

_DOUBLED = 2.0
"""Growth of a layer's weights from which a step as large as the weights explains a dead model."""

_EXTREME = 1000.0
"""Growth of a custom loss that a moving target (values in reinforcement learning) does not explain."""

_GOOD = 0.8
"""Skill from which large weights do not matter."""


class ExplodingGradient(Rule):
    """Gradients grow without bound and move the weights far away.

    What it does
        Compares gradients, weights and loss with the start of the run, and looks for steps that are larger than the
        weights they change.

    Why it hurts
        Steps overshoot more and more: the loss grows until it is NaN or infinite, or the model ends in a dead region
        where no gradient is left.

    Evidence used
        Growth of the total gradient norm, of the loss (medians of samples) and of the weights; the update ratio; a
        gradient that is NaN or infinite after finite ones; the ratio of first to last layer, only if the model also has
        no skill and its steps are large. Weights far beyond the size that any initializer gives make a poor score an
        error even if the loss has settled, and so does such a step after which all gradients are exactly zero.

    Thresholds
        ``growth`` of the gradient norm together with ``loss_growth``; ``weight_growth`` of any layer and
        ``update_ratio`` for steps as large as the weights; ``schedule``: share of the planned training from which a
        poor score after such steps is an error; ``ratio`` is beta_3 of AUTOTRAINER, ``epochs`` is alpha_2.

    When it is wrong
        Gradients that grow while the loss falls are healthy, and so is a ratio above 70: neither is reported on its
        own. A custom loss may follow a moving target (values in reinforcement learning): growth of less than a
        thousandfold is a warning, and a loss that goes below zero (a likelihood, a policy) is not judged by its growth.
        Weights that start at zero, and layers of fewer than eight parameters, such as the scales of a kernel, have no
        size to grow from.

    Repairs
        A lower learning rate, gradient clipping, another activation, or normalization.

    References
        Pascanu et al., ICML 2013; Zhang et al., AUTOTRAINER, ICSE 2021, section III.
    """

    problem = "exploding_gradient"
    code = "AT102"
    aliases = ("exploding", "exploding_gradients", "explode")
    phrases = (
        "gradients explode",
        "gradient norm too large",
        "gradient is huge",
        "gradient is inf",
        "weights become huge",
        "weights explode",
    )
    needs = OUTCOME_NEEDS | frozenset({"weight_norm", "update_ratio"})
    causes = (
        "nonfinite_data",
        "loss_term_imbalance",
        "unscaled_targets",
        "abnormal_data",
        "improper_output_activation",
        "improper_loss",
        "target_mismatch",
        "poor_initialization",
        "missing_zero_grad",
        "learning_rate_too_high",
        "abnormal_initial_loss",
    )
    repairs = (
        "scale_learning_rate",
        "swap_activation",
        "clip_gradients",
        "insert_normalization",
        "swap_optimizer",
        "warm_up_learning_rate",
        "skip_update",
        "rollback",
        "scale_output_layer",
    )
    THRESHOLDS = thresholds(
        growth=Threshold(10, "growth of the gradient norm since the start", "10 × the running norm", 1),
        loss_growth=Threshold(10, "growth of the loss since the start", "calibrated", 1),
        weight_growth=Threshold(10, "growth of a layer's weight norm since the start", "calibrated", 1),
        update_ratio=Threshold(1.0, "size of a step ÷ weights", "1,000 times the usual 1e-3"),
        schedule=Threshold(0.25, "share of the schedule before a poor score is an error", "calibrated", maximum=1),
        ratio=Threshold(70, "gradient norm of first ÷ last layer", "AUTOTRAINER", 1, alias="beta_3"),
        epochs=Threshold(0, "epochs before a verdict", "AUTOTRAINER", alias="alpha_2"),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        rows = weight_layers(history)
        if not rows or len(history.steps) < 2 or history.epoch < self.threshold("epochs"):
            return None
        gradient = history.scalar("grad_norm")
        _, losses = history.losses
        evidence = {"growth": growth(gradient), "loss_growth": loss_growth(losses, context.loss.family)}
        result = outcome(history, context)
        custom = context.loss.own and not result.known
        verdict = self._by_growth(history, evidence, gradient, custom)
        verdict = verdict or self._by_weights(history, rows, evidence, result)
        verdict = verdict or self._by_ratio(history, rows, evidence, result)
        if verdict is None:
            return None
        severity, confidence, message = verdict
        return self.finding(severity, confidence, message, evidence, layers=names(history, self._origin(history, rows)))

    def _by_growth(
        self, history: RunHistory, evidence: dict[str, float], gradient: Floats, custom: bool
    ) -> tuple[Severity, float, str] | None:
        grown, lost = evidence["growth"], evidence["loss_growth"]
        finite = gradient[np.isfinite(gradient)]
        if len(finite) < 2:
            return None
        at = f"by step {history.step}"
        if not np.isfinite(gradient[-1]) and not np.isnan(gradient[-1]):
            before = float(finite.max() / finite[0]) if finite[0] > 0 else math.nan
            if before >= self.threshold("growth"):
                message = f"The gradient norm grew {about(before)}-fold and became NaN or infinite {at}."
                return Severity.ERROR, 0.97, message
            return None
        if grown >= self.threshold("growth") and lost >= self.threshold("loss_growth"):
            message = f"The gradient norm grew {about(grown)}-fold and the loss {about(lost)}-fold {at}."
            certain = not custom or lost >= _EXTREME
            return (Severity.ERROR, 0.95, message) if certain else (Severity.WARNING, 0.5, message)
        return None

    def _by_weights(
        self, history: RunHistory, rows: list[int], evidence: dict[str, float], result: Outcome
    ) -> tuple[Severity, float, str] | None:
        dead = bool((history.layer("grad_norm")[-_DEAD_SAMPLES:, rows] == 0).all())
        rows = [row for row in rows if _has_size(history.layers[row])]
        weights = history.layer("weight_norm")[:, rows]
        steps = history.layer("update_ratio")[:, rows]
        with np.errstate(all="ignore"):
            start, now = weights[0], last_median(weights, 3)
            grown = np.where((start > 1e-3) & np.isfinite(now), now / start, np.nan)  # others: nonfinite
            largest = float(np.nanmax(grown)) if not np.isnan(grown).all() else math.nan
            ratio = float(np.max(steps[np.isfinite(steps)], initial=0.0))
        evidence |= {"weight_growth": largest, "largest_update_ratio": ratio}
        if dead and ratio >= self.threshold("update_ratio") and largest >= _DOUBLED and result.high <= 0.15:
            text = (
                f"A step changed a layer's weights by {about(ratio)} times their norm, and all gradients are now zero"
            )
            return Severity.ERROR, 0.9, f"{text}{'; ' + result.words if result.words else ''}."
        if not largest >= self.threshold("weight_growth") or not ratio >= self.threshold("update_ratio"):
            return None
        text = (
            f"A step changed a layer's weights by {about(ratio)} times their norm, and weights have grown "
            f"{about(largest)}-fold"
        )
        if result.diverged or result.high <= 0.15 or evidence["loss_growth"] >= self.threshold("loss_growth"):
            return Severity.ERROR, 0.85, f"{text}{'; ' + result.words if result.words else ''}."
        usual = np.sqrt([history.layers[row].units or 1 for row in rows])
        far = bool((now / usual)[grown >= self.threshold("weight_growth")].max(initial=0.0) >= _FAR)
        if result.learned(_GOOD if far else 0.5):
            return None
        settled = result.known and result.mature(self.threshold("schedule")) and not result.moving(0.1)
        if far and settled and not result.learned(0.5):
            return result.worst, 0.8, f"{text}; {result.words} after {result.steps} steps."
        return Severity.WARNING, 0.6, f"{text}."

    def _by_ratio(
        self, history: RunHistory, rows: list[int], evidence: dict[str, float], result: Outcome
    ) -> tuple[Severity, float, str] | None:
        if len(rows) < 2:
            return None
        window = recent(history.steps)
        norms = geometric_mean(history.layer("grad_norm")[window])[rows]
        moved = float(last_median(history.layer("update_ratio")[:, rows[0]]))
        with np.errstate(all="ignore"):
            ratio = float(norms[0] / norms[-1])
        evidence["ratio"] = ratio
        large = ratio >= self.threshold("ratio") and math.isfinite(ratio) and moved >= 0.03
        if not (large and result.stuck() and result.mature(0.12)) or result.to_come > 0.1:
            return None
        message = (
            f"The gradient norm of the first layer is {about(ratio)} times that of the last one, a step changes its "
            f"weights by {moved:.2g} times their norm, and {result.words}."
        )
        return result.worst, 0.6, message

    @staticmethod
    def _origin(history: RunHistory, rows: list[int]) -> list[int]:
        """Return up to three layers, by the growth of their gradient, the largest first."""
        norms = history.layer("grad_norm")[:, rows]
        finite = np.isfinite(norms).all(axis=1)
        if finite.sum() < 2:
            return rows[-1:]
        with np.errstate(all="ignore"):
            grown = norms[finite][-1] / np.maximum(norms[finite][0], 1e-30)
        return [rows[i] for i in np.argsort(-grown, kind="stable")[:3]]


def _has_size(layer: LayerInfo) -> bool:
    """Return whether the initial weights of a layer have a size with which steps and later weights can be compared."""
    return layer.parameters >= _FEWEST_WEIGHTS and layer.start != "zero"
