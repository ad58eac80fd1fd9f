"""AT418: padding that counts in the loss."""

from __future__ import annotations

import numpy as np

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.loss_values import LOSS_VALUE_NEEDS, is_plain_entropy
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome

__all__ = ["PaddedTargets"]

_SEQUENCES = 16
"""Fewest sampled sequences."""

_NOISE = 0.03
"""How far the accuracy of a model that always predicts padding may be above the share of padding in a few batches."""


class PaddedTargets(Rule):
    """Padding counts in the loss as if it were data.

    What it does
        Looks for padding at one end of the sequences whose targets are all of one class, and for losses that do not
        leave it out.

    Why it hurts
        A model predicts padding easily, so that loss and accuracy look good whatever it does with the tokens; their
        gradients are averaged with those of the padding, which are soon zero: with 80 % padding, a fifth is left. Early
        in training, the model learns to predict padding everywhere.

    Evidence used
        The class indices that the loss takes for each time step, without those that it ignores (``ignore_index``,
        ``ignore_class``, a Keras mask, weights of zero), and the inputs. Padding is a run of one value at the same end
        of sequences of unequal length that stands nowhere else: in the inputs or, if these have other positions, in the
        targets of at least ten classes. The first target of each run does not count, as it may stand for the end. For
        an error, accuracy: no better than predicting padding everywhere.

    Thresholds
        ``share``: share of padding in the targets from which it is reported; ``schedule``: share of the planned
        training from which it is an error if the model predicts padding alone.

    When it is wrong
        Where the model has to write padding itself, as without an end token, some of it belongs in the loss. A loss
        that a program masks after it was computed (``reduction="none"``), or a custom one, is not judged.

    Repairs
        Advice only: leave padding out of loss and metrics. PyTorch: ``ignore_index`` of the loss, or targets of -100
        there. Keras: ``mask_zero=True``, ``ignore_class``, or sample weights of 0 for these time steps.

    References
        PyTorch, `torch.nn.CrossEntropyLoss`, argument ``ignore_index``; Keras guide "Masking and padding".
    """

    problem = "padded_targets"
    code = "AT418"
    aliases = ("padding_in_loss", "unmasked_loss", "missing_ignore_index", "padding_not_masked")
    phrases = (
        "loss includes padding",
        "padding counts in the loss",
        "model predicts only padding",
        "ignore_index for pad token",
        "mask padding in loss",
        "accuracy is high because of padding",
    )
    needs = OUTCOME_NEEDS | LOSS_VALUE_NEEDS | frozenset({"padded_targets", "batch_size"})
    repairs = ()
    static = True
    place = "loss"
    THRESHOLDS = thresholds(
        share=Threshold(0.5, "share of padding in the targets", "most of the loss is padding", maximum=1),
        schedule=Threshold(
            0.15, "share of the schedule before an error", "benchmark goal: an error within a fifth", maximum=1
        ),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        shares = history.scalar("padded_targets")
        measured = np.isfinite(shares)
        shares, sequences = shares[measured], np.nansum(history.scalar("batch_size")[measured])
        plain = is_plain_entropy(context) and not context.loss.identified and context.loss.reduction != "none"
        if not sequences >= _SEQUENCES or not plain:
            return None
        share = float(np.median(shares))
        if share < self.threshold("share"):
            return None
        result = outcome(history, context)
        alone = result.known and result.stuck() and result.score <= share + _NOISE
        alone &= result.mature(self.threshold("schedule")) and not result.moving()
        how = "ignore_index" if context.framework == "pytorch" else "mask_zero=True, ignore_class or sample weights"
        message = (
            f"{share:.0%} of the targets are padding of sequences, which counts in the loss: predicting it everywhere "
            f"gives at least this accuracy. Leave it out of loss and metrics ({how})."
        )
        evidence = {"padded_targets": share}
        if alone:
            message += f" Now accuracy is {result.score:.0%}."
            evidence["accuracy"] = result.score
        return self.finding(result.worst if alone else Severity.WARNING, 0.9, message, evidence)
