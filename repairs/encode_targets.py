"""Encode the labels as the loss expects them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext
from autotrainer.repairs._shared.targets import fitting_encoding

__all__ = ["EncodeTargetsRepair"]


class EncodeTargetsRepair(Repair):
    """Encode the labels as the loss expects them.

    What it does:
        Converts one-hot rows to class indices or the reverse, and two labels such as -1 and 1 to 0 and 1 or the
        reverse; labels that don't run from 0 to C - 1 are renumbered. The loss itself stays, with all its options. The
        model still answers in the original labels: its largest output is in the column of the label. A single output is
        the probability of the higher label, and lies between -1 and 1 if these are the labels.

    Why it helps:
        A loss that gets labels in another encoding fails, or minimizes something other than intended.

    Safety:
        Safe: the same classes under other names. With renumbered classes the output gets as many columns as the largest
        label requires.

    Cost:
        None; renumbered classes take one pass over the training data.

    References:
        Bishop 2006, Pattern Recognition and Machine Learning, section 4.3; Tambon et al., EMSE 2024.
    """

    name = "encode_targets"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {"target_mismatch": 0.9, "improper_loss": 0.92, "not_learning": 0.6}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose the encoding that the loss expects, unless the labels already have it."""
        edit = fitting_encoding(context, targets, out_of_range=finding.problem == "improper_loss")
        if edit is not None:
            yield Proposal(self.name, (edit,), self.fixes[finding.problem])
