"""AT406: targets whose shape or encoding is not what loss and outputs take."""

from __future__ import annotations

import numpy as np

from autotrainer.records.task import TargetSummary
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext
from autotrainer.rules._shared.loss_values import BROADCAST_COLUMNS, LOSS_VALUE_NEEDS, broadcast_loss
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.words import about

__all__ = ["TargetMismatch"]

_ELEMENTWISE = ("squared_error", "absolute_error", "huber")

_FULL_ROWS = 2
"""Fewest rows of a batch from which broadcasting can be told."""


class TargetMismatch(Rule):
    """Shape or encoding of the targets is not what the loss and the outputs take.

    What it does
        Finds targets that broadcast silently against the outputs, labels beyond the number of outputs, fractional
        labels given to a loss on class indices, one-hot targets of another width, and, before training, targets of a
        shape or type that the loss refuses.

    Why it hurts
        Shapes (n, 1) and (n,) broadcast to (n, n): every output is compared with every target, and the model learns
        their mean. A fractional label is cut to a whole one: labels divided by 255 all become class 0.

    Evidence used
        Shape, type and values of the targets, number of outputs and what the loss says of them; squared error, absolute
        error and binary cross-entropy of the copied rows, row by row and each with all, compared with the loss of the
        same rows.

    Thresholds
        None: all of it are facts.

    When it is wrong
        A loss that adds further terms differs from the plain error too; therefore a mismatch of numbers counts for
        PyTorch only, where shapes are (n,) and (n, 1), and only where the loss is that of broadcast shapes. A loss
        that is neither a squared nor an absolute error nor a binary cross-entropy (Huber's) is not compared.

    Repairs
        Give the targets the shape of the outputs; encode labels as 0 … C−1.

    References
        Tambon et al., Silent bugs in deep learning frameworks, EMSE 2024; PyTorch's own warning in mse_loss.
    """

    problem = "target_mismatch"
    code = "AT406"
    aliases = ("shape_mismatch", "broadcast", "label_mismatch", "wrong_labels", "wrong_targets")
    needs = OUTCOME_NEEDS | LOSS_VALUE_NEEDS | frozenset({"target_min", "target_max"})
    causes = ("nonfinite_data",)
    repairs = ("reshape_targets", "encode_targets", "fix_loss")
    static = True
    place = "loss"

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
        reason = (
            self._encoding(history, context)
            or self._refused(history, context)
            or self._shapes(history, context, evidence)
            or self._broadcast(history, context, evidence)
        )
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
    def _refused(history: RunHistory, context: TaskContext) -> str | None:
        """Return that the loss can't be computed on these targets, and what to do, or None."""
        loss, targets = context.loss, history.targets
        if not context.loss_refusal or loss.own:
            return None
        if loss.family == "cross_entropy" and context.output_units == 1:
            return None  # the loss itself is the wrong one
        if loss.family == "binary_cross_entropy":
            ends = [float(history.scalar(name)[0]) for name in ("output_min", "output_max")]
            probable = loss.expects != "probabilities" or (ends[0] >= 0 and ends[1] <= 1)
            if not probable or targets.minimum < 0 or targets.maximum > 1:
                return None  # values out of range, whatever the shapes
        return f"{loss.name} can't be computed on {context.loss_refusal}: {_mend(targets, context)}."

    @staticmethod
    def _shapes(history: RunHistory, context: TaskContext, evidence: dict[str, float]) -> str | None:
        """Return that the shapes of outputs and targets broadcast, as far as both are known, or None."""
        targets, rank, units = history.targets, context.output_rank, context.output_units
        if rank is None or units is None or not history.scalar("batch_size")[0] >= _FULL_ROWS:
            return None
        if context.loss.family not in _ELEMENTWISE:
            return None
        column = {rank, targets.rank} == {1, 2} and (units if rank == 2 else targets.width) == 1
        if column and context.framework == "pytorch":
            evidence |= {"output_rank": float(rank), "target_rank": float(targets.rank)}
            flat, deep = ("outputs", "targets") if rank == 1 else ("targets", "outputs")
            return (
                f"{context.loss.name} gets {flat} of shape (n,) and {deep} of shape (n, 1): they broadcast to (n, n), "
                f"and every output is compared with every target; {_mend(targets, context)}."
            )
        if rank == targets.rank == 2 and targets.width != units and 1 in (targets.width, units):
            return (
                f"{context.loss.name} gets targets with {targets.width} columns and outputs with {units}: the single "
                "column is compared with each of the others; give the model as many outputs as there are columns."
            )
        return None

    @staticmethod
    def _broadcast(history: RunHistory, context: TaskContext, evidence: dict[str, float]) -> str | None:
        """Return that the loss is what it is where shapes broadcast, and not what it is row by row, or None."""
        # Outputs may have been squeezed for the loss alone: the numbers themselves must say it.
        if not (context.loss.own or context.loss.family in _ELEMENTWISE) or context.framework != "pytorch":
            return None
        found = broadcast_loss(history)
        if found is None:
            return None
        evidence |= {"loss": found.loss, found.name: found.by_rows, BROADCAST_COLUMNS[found.name]: found.broadcast}
        return (
            f"The loss is {about(found.loss, 3)}, but row by row it would be {about(found.by_rows, 3)}: outputs and "
            "targets, one of shape (n,) and one of shape (n, 1), broadcast to (n, n), and every output is compared "
            "with every target."
        )

    @staticmethod
    def _skipped_class(history: RunHistory, context: TaskContext) -> str | None:
        """Return that labels start at 1 while there is an output for 0, or None."""
        targets, units = history.targets, context.output_units
        by_index = context.loss.family in ("cross_entropy", "custom") and context.kind(targets) == "multiclass"
        if not by_index or not targets.values or targets.one_hot or units is None:
            return None
        # Class 0 may be what is masked, as with padded tokens, or the blank of connectionist temporal classification.
        if targets.masked or "ctc" in context.loss.name.lower():
            return None
        if targets.minimum != 1 or targets.maximum != units - 1 or targets.rows < 64:
            return None
        return f"Labels run from 1 to {targets.maximum:.0f}, so output 0 of {units} is never the answer."


def _mend(targets: TargetSummary, context: TaskContext) -> str:
    """Return what to do about targets of a shape or type that the loss does not take."""
    loss, units = context.loss, context.output_units
    pytorch = context.framework == "pytorch"
    wide = targets.width > 1 and targets.width == units
    if loss.family == "cross_entropy" and loss.targets == "one_hot":
        return "it takes one-hot rows, so encode class indices, or use its sparse variant"
    if loss.family == "cross_entropy" and wide:
        if loss.targets == "either":
            return "give class probabilities as floats (targets.float()), or class indices (targets.argmax(1))"
        return "it takes class indices, not one-hot rows: give targets.argmax(-1)"
    if loss.family == "cross_entropy":
        flat = ".squeeze(1)" if targets.rank == context.output_rank and targets.width == 1 else ""
        whole = ".long()" if pytorch else ""
        return f"it takes whole class indices, one for each row: give targets{flat}{whole}"
    if targets.width > 1 and units is not None and not wide:
        return f"targets have {targets.width} columns and outputs {units}"
    if targets.rank == 1 and context.output_rank == 2 and units != 1:
        return f"there is one target for each row, but outputs have {units} columns"
    if targets.rank == 1 and context.output_rank == 2 and units == 1:
        return f"give targets the shape of the outputs (targets{'.float()' if targets.integer_type else ''}[:, None])"
    if context.output_rank == 1 and targets.rank == 2:
        return "give targets the shape of the outputs (targets[:, 0])"
    if targets.integer_type and pytorch:
        return "give targets as floats (targets.float())"
    return "give targets the shape of the outputs"
