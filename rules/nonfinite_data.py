"""AT502: NaN or infinity in the data."""

from __future__ import annotations

import numpy as np

from autotrainer.records.signals import Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext

__all__ = ["NonFiniteData"]


class NonFiniteData(Rule):
    """Inputs or targets hold NaN or infinite values.

    What it does
        Counts the values of the sampled rows that are not finite.

    Why it hurts
        A single NaN in a batch makes loss, gradients and then all weights NaN.

    Evidence used
        Share of values that are not finite, of inputs and of targets, over all sampled batches; where the loss is no
        longer finite, batches of inputs that come after that (PyTorch).

    Thresholds
        None: a value is finite or it is not.

    When it is wrong
        Models that mask missing values themselves: while loss, gradients and weights stay finite it is a warning.

    Repairs
        Leave out the rows concerned, or fill them in before training.

    References
        Little and Rubin, Statistical Analysis with Missing Data, 2002.
    """

    problem = "nonfinite_data"
    code = "AT502"
    aliases = ("nan_data", "missing_values", "nan_input", "nan_in_data")
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
        """Judge the history as it is now."""
        inputs, targets = (
            self._share(history.scalar("input_nonfinite")),
            self._share(history.scalar("target_nonfinite")),
        )
        batches = context.asked.get("nonfinite_batches", 0.0)
        if not inputs and not targets and not batches:
            return None
        losses = history.losses[1]
        hurt = any(np.isinf(history.layer(column)).any() for column in ("grad_norm", "weight_norm"))
        harmless = bool(len(losses)) and bool(np.isfinite(losses).all()) and not hurt and history.step >= 50
        parts = [
            f"{100 * share:.2g}% of the {what}" for share, what in ((inputs, "inputs"), (targets, "targets")) if share
        ]
        message = f"{' and '.join(parts)} in the sampled batches are NaN or infinite."
        if not parts:
            looked = context.asked["batches_looked_through"]
            message = f"Of {looked:.0f} batches of inputs, {batches:.0f} have values that are NaN or infinite."
        return self.finding(
            Severity.WARNING if harmless else Severity.ERROR,
            0.6 if harmless else 1.0,
            message,
            {"input_nonfinite": inputs, "target_nonfinite": targets, "nonfinite_batches": batches},
        )

    @staticmethod
    def _share(values: Floats) -> float:
        known = values[np.isfinite(values)]
        return float(known.mean()) if known.size else 0.0
