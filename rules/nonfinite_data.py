"""AT502: NaN or infinite values in the data."""

from __future__ import annotations

import numpy as np

from autotrainer.records.signals import Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext

__all__ = ["NonFiniteData"]


class NonFiniteData(Rule):
    """Inputs or targets contain NaN or infinite values.

    What it does
        Counts the values of the sampled rows that are not finite.

    Why it hurts
        A single NaN in a batch turns the loss, the gradients and then all weights into NaN.

    Evidence used
        Share of values that are not finite among the inputs and among the targets, over all sampled batches. Once the
        loss is no longer finite, also later batches of inputs (PyTorch).

    Thresholds
        None: a value is finite or it is not.

    When it is wrong
        Models that mask missing values themselves: if loss, gradients and weights are still finite after 50 steps, this
        is a warning.

    Repairs
        Leave out the affected rows, or fill in the values before training.

    References
        Little and Rubin, Statistical Analysis with Missing Data, 2002.
    """

    problem = "nonfinite_data"
    code = "AT502"
    aliases = ("nan_data", "missing_values", "nan_input", "nan_in_data")
    phrases = (
        "nan in the data",
        "input contains nan",
        "labels contain nan",
        "missing values in csv",
        "infinite values in dataset",
    )
    needs = frozenset(
        {
            "input_nonfinite",
            "target_nonfinite",
            "loss",
            "grad_norm",
            "weight_norm",
            "batches_looked_through",
            "nonfinite_batches",
        }
    )
    repairs = ("drop_bad_rows",)
    static = True

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        inputs, targets = (
            self._share(history.scalar("input_nonfinite")),
            self._share(history.scalar("target_nonfinite")),
        )
        batches = context.asked.get("nonfinite_batches", 0.0)
        if not inputs and not targets and not batches:
            return None
        losses = history.losses[1]
        damaged = any(np.isinf(history.layer(column)).any() for column in ("grad_norm", "weight_norm"))
        harmless = bool(len(losses)) and bool(np.isfinite(losses).all()) and not damaged and history.step >= 50
        parts = [
            f"{100 * share:.2g}% of the {kind} values"
            for share, kind in ((inputs, "input"), (targets, "target"))
            if share
        ]
        message = f"{' and '.join(parts)} in the sampled batches are NaN or infinite."
        if not parts:
            checked = context.asked["batches_looked_through"]
            message = f"Inputs contain NaN or infinite values, in {batches:.0f} of {checked:.0f} batches."
        return self.finding(
            Severity.WARNING if harmless else Severity.ERROR,
            0.6 if harmless else 1.0,
            message,
            {"input_nonfinite": inputs, "target_nonfinite": targets, "nonfinite_batches": batches},
        )

    @staticmethod
    def _share(values: Floats) -> float:
        finite = values[np.isfinite(values)]
        return float(finite.mean()) if finite.size else 0.0
