"""AT406: targets whose shape or encoding is not what loss and outputs require."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autotrainer.records.signals import ALL_PAIRS
from autotrainer.records.task import TargetSummary
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext
from autotrainer.rules._shared.loss_values import BROADCAST_COLUMNS, LOSS_VALUE_NEEDS, broadcast_loss, is_plain_entropy
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.trends import recent
from autotrainer.rules._shared.words import about

__all__ = ["TargetMismatch"]

_ELEMENTWISE = ("squared_error", "absolute_error", "huber")

_REPEATED = ("repeated_targets", "last_error", "mean_error")
"""Columns about targets that are the same for all outputs of a row."""

_LAST = 0.5
"""Error of the last output of a row ÷ mean error of all its outputs, up to which the earlier ones can't know enough."""

_MATERIAL = 0.05
"""Least mean error ÷ that of a constant prediction, or share of wrong predictions: with less, little is gained."""

_LEARNED = 0.8
"""Skill from which outputs in another order than that of the targets are only a warning."""

_SAMPLES = 3
"""Fewest samples that show these errors."""

_MIN_ROWS = 2
"""Fewest rows of a batch in which broadcasting shows."""


_REPEATS = 0.9
"""Skill that shows that a model has learned to repeat its inputs."""

_REPEATED_TOKENS = (
    "Each target is the input token at the same position, which the model sees: it learns to repeat it. "
    "Shift them by one (the targets, or the inputs of a decoder), so that each target is the next token."
)

_PAIRS = (
    "The loss is a mean over all pairs of an output and a target, as shapes (n, 1) and (n,) broadcast to (n, n): the "
    "best prediction is then the same for all inputs. Give outputs and targets, or all factors of the loss, the same "
    "shape (squeeze(1) or unsqueeze(1))."
)


class TargetMismatch(Rule):
    """The shape or encoding of the targets is not what the loss and the outputs require.

    What it does
        Finds targets that silently broadcast against the outputs, labels beyond the number of outputs, fractional
        labels for a loss on class indices, one-hot targets of the wrong width or with the classes in another
        dimension than the loss expects, and, before training, targets whose shape or type the loss rejects. A probe
        finds targets of a language model that were not shifted. In a watched training, finds one target of a row that
        is compared with the outputs of all time steps, and outputs whose axes were exchanged by a reshape (PyTorch).

    Why it hurts
        Shapes (n, 1) and (n,) broadcast to (n, n): every output is compared with every target, and the model learns
        their mean. A fractional label is truncated to a whole one: labels divided by 255 all become class 0. A time
        step that has seen half of a row can't know the target of the whole.

    Evidence used
        Shape, type and values of the targets, number of outputs, and the error that the loss raises; squared error,
        absolute error and binary cross-entropy of the sampled rows, computed row by row and for every pair of output
        and target, and compared with the loss of the same rows. PyTorch: the operations of a loss that the loop
        computes itself, where they show that every output meets every target; and reshapes of the outputs before a
        cross-entropy, which keep the order of the values. Targets that are the tokens at the same positions: in a model
        that has learned to repeat them, or by a probe in one whose outputs do not depend on later tokens. For targets
        that are the same for all outputs of each row, in models with recurrent layers or attention: the error at the
        last time step, if it is at most half of the mean error.

    Thresholds
        None: all of these are facts.

    When it is wrong
        A loss with additional terms also differs from the plain error. A mismatch of values is therefore reported only
        if the loss equals that of the broadcast shapes. Losses of Keras align shapes themselves and are not compared.
        Nor is a loss that is not a squared error, absolute error or binary cross-entropy (such as Huber's). A target
        may be repeated for all time steps on purpose (target replication): so this is a warning.

    Repairs
        Give the targets the shape of the outputs; encode labels as 0 … C−1; exchange
        the axes of outputs that were reshaped.

    References
        Tambon et al., Silent bugs in deep learning frameworks, EMSE 2024; PyTorch's own warning in mse_loss; Lipton et
        al., Learning to diagnose with LSTM recurrent neural networks, ICLR 2016, section 3.2 (target replication).
    """

    problem = "target_mismatch"
    code = "AT406"
    aliases = ("shape_mismatch", "broadcast", "label_mismatch", "wrong_labels", "wrong_targets")
    phrases = (
        "target size is different from input size",
        "shape mismatch",
        "labels out of range",
        "target out of bounds",
        "expected long got float",
        "one hot or class index",
        "broadcasting in loss",
        "labels are not shifted",
    )
    needs = OUTCOME_NEEDS | LOSS_VALUE_NEEDS
    needs |= frozenset({"target_min", "target_max", "crossed_shapes", "repeats_input", *_REPEATED})
    needs |= frozenset({"reordered_steps", "reordered_classes", "next_targets"})
    causes = ("nonfinite_data",)
    repairs = ("reshape_targets", "restore_axes", "encode_targets", "fix_loss", "resize_output_layer")
    static = True
    place = "loss"

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        targets, units = history.targets, context.output_units
        if is_plain_entropy(context) and context.asked.get("repeats_input") == 1:
            return self.finding(Severity.ERROR, 0.95, _REPEATED_TOKENS, {"repeats_input": 1.0})
        if is_plain_entropy(context) and _repeats_tokens(history, context):
            message = f"{_REPEATED_TOKENS[:-1]}, unless the model is to reconstruct its inputs."
            return self.finding(Severity.INFO, 0.6, message, {"next_targets": 2.0})
        if (history.scalar("crossed_shapes") == ALL_PAIRS).any():
            return self.finding(
                Severity.ERROR, outcome(history, context).certainty, _PAIRS, {"crossed_shapes": ALL_PAIRS}
            )
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
        result = outcome(history, context)
        if reason is not None:
            return self.finding(Severity.ERROR, result.certainty, reason, evidence)
        if "reordered_classes" in context.asked:
            return self._reordered(context, learned=result.learned(_LEARNED))
        skipped = self._skipped_class(history, context)
        if skipped is not None and not result.learned(0.5):
            return self.finding(Severity.WARNING, 0.6, skipped, evidence)
        return self._repeated(history, context)

    def _reordered(self, context: TaskContext, *, learned: bool) -> Finding:
        """Report outputs whose axes a reshape has exchanged; a model that sees whole rows may learn their new order."""
        evidence = {name: context.asked[name] for name in ("reordered_steps", "reordered_classes")}
        steps, classes = (int(value) for value in evidence.values())
        message = (
            f"A reshape (view) turns outputs of shape (n, {steps}, …) into (n, {classes}, …) before the loss: it keeps "
            "the order of the values, so that the classes of one position get those of several. Exchange the "
            "axes with permute or transpose."
        )
        severity = Severity.WARNING if learned else Severity.ERROR
        return replace(self.finding(severity, 0.6 if learned else 0.95, message, evidence), repairs=("restore_axes",))

    def _repeated(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Find one target of a row that is compared with the outputs of all of its time steps."""
        table = np.stack([history.scalar(name) for name in _REPEATED])[:, recent(history.steps)]
        table = table[:, np.isfinite(table).all(axis=0)]
        table = table[:, -max(_SAMPLES, table.shape[1] // 3) :]  # the error at the last step falls as it is learned
        sequences = any(layer.kind in ("recurrent", "attention") for layer in context.layers)
        if not sequences or context.loss.own or table.shape[1] < _SAMPLES:
            return None
        steps, last, mean = table[0, -1], float(table[1].mean()), float(table[2].mean())
        classes = context.kind(history.targets) in ("multiclass", "binary", "multilabel")
        if not last <= _LAST * mean or not mean >= _MATERIAL * (1.0 if classes else history.targets.variance):
            return None
        errors = f"{last:.1%} of the predictions are wrong, {mean:.1%}" if classes else (
            f"the squared error is {last:.3g}, {mean:.3g}"
        )  # fmt: skip
        message = (
            f"The one target of a row is compared with the outputs of all {steps:.0f} time steps: at the last step "
            f"{errors} on average over all. Unless that is meant, give the loss the last output alone "
            f"({'outputs[:, -1]' if context.framework == 'pytorch' else 'return_sequences=False'})."
        )
        return self.finding(Severity.WARNING, 0.7, message, dict(zip(_REPEATED, (steps, last, mean), strict=True)))

    @staticmethod
    def _encoding(history: RunHistory, context: TaskContext) -> str | None:
        """Return an error in the encoding of labels, or None."""
        loss, targets, units = context.loss, history.targets, context.output_units
        if loss.family != "cross_entropy" or units is None or units < 2:
            return None
        if loss.targets == "index" or (loss.targets == "either" and targets.integer_type):
            if not targets.integral:
                return (
                    f"{loss.name} expects integer class indices, but the targets have fractional values "
                    f"({targets.minimum:.3g} to {targets.maximum:.3g}), which are truncated."
                )
            if not targets.one_hot and targets.maximum >= units:
                return f"Labels go up to {targets.maximum:.0f}, but {units} outputs allow only 0 to {units - 1}."
        last = context.framework == "pytorch" and loss.class_axis < 0 and targets.rank > 2
        if last and targets.one_hot and loss.name == "CrossEntropyLoss":
            return (
                f"{loss.name} takes dimension 1 of outputs and targets for that of the classes, but the one-hot "
                "targets have the classes in the last dimension: it compares positions instead of classes; pass "
                "outputs.movedim(-1, 1) and targets.movedim(-1, 1)."
            )
        if loss.targets == "one_hot" and targets.width not in (1, units):
            return f"Targets have {targets.width} columns, but the model has {units} outputs."
        return None

    @staticmethod
    def _refused(history: RunHistory, context: TaskContext) -> str | None:
        """Return a message if the loss can't be computed on these targets."""
        loss, targets = context.loss, history.targets
        if not context.loss_refusal or loss.own:
            return None
        if loss.family == "cross_entropy" and context.output_units == 1:
            return None  # the loss itself is wrong
        if loss.family == "binary_cross_entropy":
            ends = [float(history.scalar(name)[0]) for name in ("output_min", "output_max")]
            probable = loss.expects != "probabilities" or (ends[0] >= 0 and ends[1] <= 1)
            if not probable or targets.minimum < 0 or targets.maximum > 1:
                return None  # values out of range, for any shapes
        return f"{loss.name} can't be computed on {context.loss_refusal}: {_advice(targets, context)}."

    @staticmethod
    def _shapes(history: RunHistory, context: TaskContext, evidence: dict[str, float]) -> str | None:
        """Return a message if the shapes of outputs and targets broadcast, as far as both are known."""
        targets, rank, units = history.targets, context.output_rank, context.output_units
        if context.loss.family not in _ELEMENTWISE:
            return None
        crossed = (history.scalar("crossed_shapes") == 1).any() and not context.loss.identified
        if crossed and targets.rank in (1, 2):
            rank, units = 3 - targets.rank, 1
        if rank is None or units is None or not history.scalar("batch_size")[0] >= _MIN_ROWS:
            return None
        column = {rank, targets.rank} == {1, 2} and (units if rank == 2 else targets.width) == 1
        if column and context.framework == "pytorch":
            evidence |= {"output_rank": float(rank), "target_rank": float(targets.rank)}
            flat, deep = ("outputs", "targets") if rank == 1 else ("targets", "outputs")
            return (
                f"{context.loss.name} receives {flat} of shape (n,) and {deep} of shape (n, 1): they broadcast to "
                f"(n, n), so every output is compared with every target; {_advice(targets, context)}."
            )
        if rank == targets.rank == 2 and targets.width != units and 1 in (targets.width, units):
            return (
                f"{context.loss.name} receives targets of width {targets.width} and outputs of width {units}: the "
                "single column is compared with all others; give the model as many outputs as the targets have columns."
            )
        return None

    @staticmethod
    def _broadcast(history: RunHistory, context: TaskContext, evidence: dict[str, float]) -> str | None:
        """Return a message if the value of the loss is that of broadcast shapes, not that of the rows."""
        # Outputs may have been squeezed before the loss, so the values themselves must show it.
        by_row = context.loss.own or context.loss.family in (*_ELEMENTWISE, "binary_cross_entropy")
        if not by_row or (context.framework != "pytorch" and not context.loss.own):  # those of Keras align shapes
            return None
        values = broadcast_loss(history)
        if values is None:
            return None
        evidence |= {"loss": values.loss, values.name: values.by_rows, BROADCAST_COLUMNS[values.name]: values.broadcast}
        digits = next((n for n in range(3, 6) if about(values.loss, n) != about(values.by_rows, n)), 6)
        return (
            "Outputs and targets, one of shape (n,) and one of shape (n, 1), broadcast to (n, n), so every output is "
            f"compared with every target: the loss is {about(values.loss, digits)} instead of "
            f"{about(values.by_rows, digits)}."
        )

    @staticmethod
    def _skipped_class(history: RunHistory, context: TaskContext) -> str | None:
        """Return a message if labels start at 1 although there is an output for 0."""
        targets, units = history.targets, context.output_units
        by_index = context.loss.family in ("cross_entropy", "custom") and context.kind(targets) == "multiclass"
        if not by_index or not targets.values or targets.one_hot or units is None:
            return None
        # Class 0 may be masked or left out, as for padded tokens, or be the blank of temporal classification.
        if targets.masked or context.loss.aligns or context.input_kind == "index":
            return None
        if targets.minimum != 1 or targets.maximum != units - 1 or targets.rows < 64:
            return None
        return f"Labels range from 1 to {targets.maximum:.0f}, so output 0 of {units} is never the correct class."


def _repeats_tokens(history: RunHistory, context: TaskContext) -> bool:
    """Return whether the targets of all samples are the tokens at the same positions, which the model repeats."""
    known = history.scalar("next_targets")
    known = known[np.isfinite(known)]
    same = context.input_kind == "index" and len(known) >= _SAMPLES and bool((known == 2).all())
    return same and outcome(history, context).learned(_REPEATS)


def _advice(targets: TargetSummary, context: TaskContext) -> str:
    """Return what to do about targets whose shape or type the loss does not accept."""
    loss, units = context.loss, context.output_units
    pytorch = context.framework == "pytorch"
    wide = targets.width > 1 and targets.width == units
    if loss.family == "cross_entropy" and loss.targets == "one_hot":
        return "it expects one-hot rows; encode the class indices, or use its sparse variant"
    if pytorch and loss.family == "cross_entropy" and loss.class_axis < 0 and (context.output_rank or 0) > 2:
        return (
            f"the scores of the {units} classes are in the last dimension of the outputs, but it expects them in "
            "dimension 1; pass outputs.movedim(-1, 1)"
        )
    if loss.family == "cross_entropy" and wide:
        if loss.targets == "either":
            return "pass class probabilities as floats (targets.float()), or class indices (targets.argmax(1))"
        return "it expects class indices, not one-hot rows; pass targets.argmax(-1)"
    if loss.family == "cross_entropy":
        flat = ".squeeze(1)" if targets.rank == context.output_rank and targets.width == 1 else ""
        whole = ".long()" if pytorch else ""
        return f"it expects one integer class index per row; pass targets{flat}{whole}"
    if targets.width > 1 and units is not None and not wide:
        return f"targets have {targets.width} columns, but outputs have {units}"
    if targets.rank == 1 and context.output_rank == 2 and units != 1:
        return f"there is one target per row, but outputs have {units} columns"
    if targets.rank == 1 and context.output_rank == 2 and units == 1:
        return f"give targets the shape of the outputs (targets{'.float()' if targets.integer_type else ''}[:, None])"
    if context.output_rank == 1 and targets.rank == 2:
        return "give targets the shape of the outputs (targets[:, 0])"
    if targets.integer_type and pytorch:
        return "pass targets as floats (targets.float())"
    return "give targets the shape of the outputs"
