"""AT406: targets whose shape or encoding is not what loss and outputs take."""

from __future__ import annotations

import numpy as np

from autotrainer.findings import Finding, Severity
from autotrainer.history import RunHistory
from autotrainer.rule import Rule
from autotrainer.rules._outcome import OUTCOME_NEEDS, outcome
from autotrainer.signals import MAX_ROWS
from autotrainer.task import TaskContext

__all__ = ["TargetMismatch"]

_FULL_ROWS = 2
"""Fewest rows of a batch from which broadcasting can be told."""


class TargetMismatch(Rule):
    """Shape or encoding of the targets is not what the loss and the outputs take.

    What it does
        Finds targets that broadcast silently against the outputs, labels beyond the number of outputs, fractional
        labels given to a loss on class indices, and one-hot targets of another width.

    Why it hurts
        Shapes (n, 1) and (n,) broadcast to (n, n): every output is compared with every target, and the model learns
        their mean. A fractional label is cut to a whole one: labels divided by 255 all become class 0.

    Evidence used
        Shape, type and values of the targets, number of outputs; the squared error of the copied rows, compared with
        the loss that was computed from the same rows.

    Thresholds
        None: all of it are facts.

    When it is wrong
        A loss that adds further terms differs from the plain squared error too; therefore a mismatch of numbers
        counts only for plain squared-error losses of PyTorch with targets of one dimension.

    Repairs
        Give the targets the shape of the outputs; encode labels as 0 … C−1.

    References
        Tambon et al., Silent bugs in deep learning frameworks, EMSE 2024; PyTorch's own warning in mse_loss.
    """

    problem = "target_mismatch"
    code = "AT406"
    aliases = ("shape_mismatch", "broadcast", "label_mismatch", "wrong_labels", "wrong_targets")
    needs = OUTCOME_NEEDS | frozenset({"target_min", "target_max"})
    causes = ("nonfinite_data",)
    repairs = ("fix_loss",)
    static = True

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the history as it is now."""
        targets, units = history.targets, context.output_units
        if targets.count == 0:
            return None
        evidence = {
            "target_min": targets.minimum,
            "target_max": targets.maximum,
            "target_width": float(targets.width),
            "outputs": float(units or np.nan),
        }
        reason = self._encoding(history, context) or self._broadcast(history, context, evidence)
        if reason is not None:
            return self.finding(Severity.ERROR, 0.95, reason, evidence)
        skipped = self._skipped_class(history, context)
        if skipped is not None and not outcome(history, context).learned(0.5):
            return self.finding(Severity.WARNING, 0.6, skipped, evidence)
        return None

    @staticmethod
    def _encoding(history: RunHistory, context: TaskContext) -> str | None:
        """Return what is wrong with the encoding of labels, or None."""
        loss, targets, units = context.loss, history.targets, context.output_units
        if loss.family != "cross_entropy" or units is None or units < 2:
            return None
        if loss.targets == "index" or (loss.targets == "either" and targets.integer_type):
            if not targets.integral:
                return (
                    f"{loss.name} takes whole class indices, but targets run from {targets.minimum:.3g} to "
                    f"{targets.maximum:.3g} with fractions, which are cut off."
                )
            if not targets.one_hot and targets.maximum >= units:
                return f"Labels run up to {targets.maximum:.0f}, but {units} outputs take 0 to {units - 1}."
        if loss.targets == "one_hot" and targets.width not in (1, units):
            return f"Targets have {targets.width} columns and the model {units} outputs."
        return None

    @staticmethod
    def _broadcast(history: RunHistory, context: TaskContext, evidence: dict[str, float]) -> str | None:
        """Return that loss and squared error of the same rows differ, as they do where shapes broadcast, or None."""
        loss, targets = context.loss, history.targets
        plain = loss.family == "squared_error" and loss.reduction == "mean" and context.framework == "pytorch"
        if not plain or targets.rank != 1:
            return None
        size, value, error = (history.scalar(name) for name in ("batch_size", "loss", "squared_error"))
        whole = (size >= _FULL_ROWS) & (size <= MAX_ROWS) & np.isfinite(value) & np.isfinite(error)
        if whole.sum() < 2:
            return None
        with np.errstate(all="ignore"):
            apart = np.abs(value - error)[whole] / np.maximum(np.abs(value[whole]), 1e-12)
        if np.median(apart) < 1e-3:
            return None
        evidence |= {"loss": float(value[whole][-1]), "squared_error": float(error[whole][-1])}
        return (
            f"The loss is {value[whole][-1]:.3g}, but row by row it would be {error[whole][-1]:.3g}: targets of shape "
            "(n,) broadcast against outputs of shape (n, 1), and every output is compared with every target."
        )

    @staticmethod
    def _skipped_class(history: RunHistory, context: TaskContext) -> str | None:
        """Return that labels start at 1 while there is an output for 0, or None."""
        targets, units = history.targets, context.output_units
        by_index = context.loss.family in ("cross_entropy", "custom") and context.kind(targets) == "multiclass"
        if not by_index or not targets.values or targets.one_hot or units is None:
            return None
        if targets.minimum != 1 or targets.maximum != units - 1 or targets.rows < 64:
            return None
        return f"Labels run from 1 to {targets.maximum:.0f}, so output 0 of {units} is never the answer."
