"""AT801: numbers that are not finite."""

from __future__ import annotations

import numpy as np

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext
from autotrainer.rules._shared.nonfinite import NONFINITE_FACTS, Origin, origin_in_history, origin_in_replay

__all__ = ["NonFinite"]

_RECENT = 3


class NonFinite(Rule):
    """Loss, gradients, weights or activations are NaN or infinite.

    What it does
        Looks for the first place where a value is not finite. A watched training shows it at its first sampled step
        with such a value, in the order in which a step makes them: weights as the steps before have left them, outputs
        in forward order, the loss, gradients in backward order. `fit` replays a training that ended so, checks every
        operation of the steps in question, and names the first that made such a value of others that were finite.

    Why it hurts
        One NaN spreads to all weights with the next step; nothing can be learned from then on.

    Evidence used
        The last sampled steps, the last losses and the last validation loss. Not finite in all of the last steps is
        an error; in some of them only, such as steps that a loss scaler skips, a warning. Of a replay: the tensor, its
        layer, the operation, and the smallest and largest values that went into it.

    Thresholds
        None: a value is finite or it is not.

    When it is wrong
        Never, as a fact; mixed precision skips single steps with infinite gradients by design. The place that a watched
        training shows is that of the first sampled step, which may be later than the first such value. A replay
        takes at most a quarter of the work of the training, so that there is none where the value came late; Keras on
        the JAX engine has none.

    Repairs
        A lower learning rate, clipped gradients, scaled inputs, a loss on logits instead of probabilities.

    References
        IEEE 754; Micikevicius et al., Mixed Precision Training, ICLR 2018.
    """

    problem = "nonfinite"
    code = "AT801"
    aliases = ("nan", "inf", "non_finite", "nan_loss")
    needs = NONFINITE_FACTS | {"loss", "grad_norm", "weight_norm", "activation_max_abs", "output_max", "epochs"}
    causes = (
        "missing_zero_grad",
        "nonfinite_data",
        "improper_output_activation",
        "improper_loss",
        "target_mismatch",
        "unscaled_targets",
        "abnormal_data",
        "learning_rate_too_high",
        "exploding_gradient",
        "divergence",
        "poor_initialization",
    )
    repairs = (
        "scale_learning_rate",
        "clip_gradients",
        "swap_optimizer",
        "fix_loss",
        "scale_inputs",
        "swap_activation",
        "raise_precision",
        "rollback",
        "skip_update",
        "warm_up_learning_rate",
    )
    static = True

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the history as it is now."""
        losses = history.losses[1][-_RECENT:]
        sampled = {name: history.scalar(name)[-_RECENT:] for name in ("loss", "grad_norm", "output_max")}
        where = {name: history.layer(name)[-_RECENT:] for name in ("weight_norm", "activation_max_abs")}
        rows = np.zeros(len(history.steps[-_RECENT:]), bool)
        for values in sampled.values():
            rows |= np.isinf(values)
        for table in where.values():
            rows |= np.isinf(table).any(axis=1)
        validation = history.epochs("val_loss")[1][-1:]
        late = bool(np.isinf(losses[-1:]).any())
        if not rows.any() and not late and not np.isinf(validation).any():
            return None
        lasting = late or bool(rows[-1:].any()) or bool(np.isinf(validation).any())
        first = self._first_step(history)
        evidence = {
            "first_step": float(first),
            "loss_not_finite": float(np.isinf(losses).mean()) if len(losses) else 0.0,
            "samples_not_finite": float(rows.mean()) if len(rows) else 0.0,
        }
        place = origin_in_replay(context) or origin_in_history(history, first)
        if not late and not rows.any():
            place = Origin(None, f"The validation loss is not finite at step {history.step}.", {})
        severity, confidence = (Severity.ERROR, 1.0) if lasting else (Severity.WARNING, 0.6)
        layers = (place.layer,) if place.layer else ()
        return self.finding(severity, confidence, place.message, evidence | dict(place.evidence), layers=layers)

    @staticmethod
    def _first_step(history: RunHistory) -> int:
        steps, losses = history.losses
        found = [int(s) for s in steps[np.isinf(losses)][:1]]
        for name in ("loss", "grad_norm", "output_max"):
            found += [int(s) for s in history.steps[np.isinf(history.scalar(name))][:1]]
        for name in ("weight_norm", "activation_max_abs"):
            found += [int(s) for s in history.steps[np.isinf(history.layer(name)).any(axis=1)][:1]]
        return min(found, default=max(0, history.step))
