"""AT801: values that are not finite."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext
from autotrainer.rules._shared.loss_terms import first_nonfinite, quoted
from autotrainer.rules._shared.nonfinite import NONFINITE_FACTS, Origin, origin_in_history, origin_in_replay

__all__ = ["NonFinite"]

_RECENT = 3
RANK_FACTS = frozenset({"nonfinite_ranks", "nonfinite_rank", "nonfinite_rank_inputs"})


class NonFinite(Rule):
    """Loss, gradients, weights or activations are NaN or infinite.

    What it does
        Locates the first non-finite value. In a watched run, this is the first one in the first sampled step that has
        any, in the order of computation: weights as earlier steps left them, outputs in forward order, the loss,
        gradients in backward order. `fit` also replays the steps in question, checks every operation, and names the
        first that turned finite values into NaN or infinity.

    Why it hurts
        One NaN spreads to all weights with the next step. After that, the model can't learn anything.

    Evidence used
        The last sampled steps, the last losses and the last validation loss. If the latest of them is not finite, this
        is an error; if only earlier ones are not (such as steps that a loss scaler skips), it is a warning. From a
        replay: the tensor, its layer, the operation, and the smallest and largest values that went into it. Where
        several processes train together: the rank that had such a loss, inputs or outputs before the others.

    Thresholds
        None: a value is finite or it is not.

    When it is wrong
        The fact itself is never wrong, but mixed precision skips single steps with infinite gradients by design. In a
        watched run, the place is that in the first sampled step with such a value; an earlier step that was not sampled
        may have had one elsewhere. A replay may take at most a quarter of the work of the run, so there is none if the
        value appeared late, and none for Keras on the JAX backend.

    Repairs
        A lower learning rate, clipped gradients, scaled inputs, or a loss on logits instead of probabilities.

    References
        IEEE 754; Micikevicius et al., Mixed Precision Training, ICLR 2018.
    """

    problem = "nonfinite"
    code = "AT801"
    aliases = ("nan", "inf", "non_finite", "nan_loss")
    phrases = (
        "loss is nan",
        "loss becomes nan",
        "loss is inf",
        "loss goes to infinity",
        "weights are nan",
        "gradients are nan",
        "model outputs nan",
    )
    needs = (
        NONFINITE_FACTS
        | RANK_FACTS
        | {"loss", "grad_norm", "weight_norm", "activation_max_abs", "output_max", "epochs"}
    )
    causes = (
        "missing_zero_grad",
        "nonfinite_data",
        "loss_term_imbalance",
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
        losses = history.losses[1][-_RECENT:]
        sampled = {name: history.scalar(name)[-_RECENT:] for name in ("loss", "grad_norm", "output_max")}
        tables = {name: history.layer(name)[-_RECENT:] for name in ("weight_norm", "activation_max_abs")}
        rows = np.zeros(len(history.steps[-_RECENT:]), bool)
        for values in sampled.values():
            rows |= np.isinf(values)
        for table in tables.values():
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
        origin = origin_in_replay(context) or origin_in_history(history, context, first)
        if not late and not rows.any():
            origin = Origin(None, f"The validation loss is NaN or infinite at step {history.step}.", {})
        terms = first_nonfinite(history)
        if terms is not None and late:
            origin = replace(
                origin, message=f"{origin.message} Of the terms of the loss, {quoted(terms[1])} was the first."
            )
        rank = context.asked.get("nonfinite_rank")
        if rank is not None:
            several = context.asked.get("nonfinite_ranks", 1.0) - 1
            more = f" and {several:.0f} more" if several else ""
            where = (
                "its inputs were not finite" if context.asked.get("nonfinite_rank_inputs") else "the others had none"
            )
            origin = replace(origin, message=f"{origin.message} It began on rank {rank:.0f}{more}: {where}.")
            evidence["rank"] = rank
        repeated = np.isinf(losses).sum() + rows.sum() > 1
        severity, confidence = (Severity.ERROR, 1.0 if repeated else 0.9) if lasting else (Severity.WARNING, 0.6)
        layers = (origin.layer,) if origin.layer else ()
        return self.finding(severity, confidence, origin.message, evidence | dict(origin.evidence), layers=layers)

    @staticmethod
    def _first_step(history: RunHistory) -> int:
        steps, losses = history.losses
        candidates = [int(s) for s in steps[np.isinf(losses)][:1]]
        for name in ("loss", "grad_norm", "output_max"):
            candidates += [int(s) for s in history.steps[np.isinf(history.scalar(name))][:1]]
        for name in ("weight_norm", "activation_max_abs"):
            candidates += [int(s) for s in history.steps[np.isinf(history.layer(name)).any(axis=1)][:1]]
        return min(candidates, default=max(0, history.step))
