"""AT801: numbers that are not finite."""

from __future__ import annotations

import numpy as np

from autotrainer.findings import Finding, Severity
from autotrainer.history import RunHistory
from autotrainer.rule import Rule
from autotrainer.task import TaskContext

__all__ = ["NonFinite"]

_RECENT = 3


class NonFinite(Rule):
    """Loss, gradients, weights or activations are NaN or infinite.

    What it does
        Looks for the first place where a value is not finite: the first layer in forward order whose weights or
        output are not, else the gradients, else the loss alone.

    Why it hurts
        One NaN spreads to all weights with the next step; nothing can be learned from then on.

    Evidence used
        The last sampled steps, the last losses and the last validation loss. Not finite in all of the last steps is
        an error; in some of them only, such as steps that a loss scaler skips, a warning.

    Thresholds
        None: a value is finite or it is not.

    When it is wrong
        Never, as a fact; mixed precision skips single steps with infinite gradients by design.

    Repairs
        A lower learning rate, clipped gradients, scaled inputs, a loss on logits instead of probabilities.

    References
        IEEE 754; Micikevicius et al., Mixed Precision Training, ICLR 2018.
    """

    problem = "nonfinite"
    code = "AT801"
    aliases = ("nan", "inf", "non_finite", "nan_loss")
    needs = frozenset({"loss", "grad_norm", "weight_norm", "activation_max_abs", "output_max", "epochs"})
    causes = (
        "nonfinite_data",
        "improper_output_activation",
        "improper_loss",
        "target_mismatch",
        "unscaled_targets",
        "abnormal_data",
        "exploding_gradient",
        "poor_initialization",
    )
    repairs = ("scale_learning_rate", "clip_gradients", "swap_optimizer", "fix_loss", "scale_inputs", "swap_activation")
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
        layer, what = self._place(history)
        first = self._first_step(history)
        evidence = {
            "first_step": float(first),
            "loss_not_finite": float(np.isinf(losses).mean()) if len(losses) else 0.0,
            "samples_not_finite": float(rows.mean()) if len(rows) else 0.0,
        }
        place = f"{what} of layer {layer}" if layer else what
        verb = "is" if what == "loss" else "are"
        message = f"{place[0].upper()}{place[1:]} {verb} not finite since step {first}."
        if what == "loss" and not late and not rows.any():
            message = f"The validation loss is not finite at step {history.step}."
        severity = Severity.ERROR if lasting else Severity.WARNING
        return self.finding(severity, 1.0 if lasting else 0.6, message, evidence, layers=(layer,) if layer else ())

    @staticmethod
    def _place(history: RunHistory) -> tuple[str | None, str]:
        """Return the first layer that is not finite and what of it, at the first sample with any such value."""
        weights, outputs = np.isinf(history.layer("weight_norm")), np.isinf(history.layer("activation_max_abs"))
        gradients = np.isinf(history.layer("grad_norm"))
        for sample in range(len(history.steps)):
            for table, what in ((weights, "weights"), (outputs, "outputs"), (gradients, "gradients")):
                bad = np.flatnonzero(table[sample])
                if bad.size:
                    row = int(bad[-1] if what == "gradients" else bad[0])
                    return history.layers[row].name, what
        return None, "loss"

    @staticmethod
    def _first_step(history: RunHistory) -> int:
        steps, losses = history.losses
        found = [int(s) for s in steps[np.isinf(losses)][:1]]
        for name in ("loss", "grad_norm", "output_max"):
            found += [int(s) for s in history.steps[np.isinf(history.scalar(name))][:1]]
        return min(found, default=max(0, history.step))
