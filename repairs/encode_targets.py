"""Give the loss labels in the encoding that it takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext
from autotrainer.repairs._shared.targets import fitting_code

__all__ = ["EncodeTargetsRepair"]


class EncodeTargetsRepair(Repair):
    """Give the loss labels in the encoding that it takes.

    What it does:
        One-hot rows become class indices or the other way round, two labels such as -1 and 1 become 0 and 1 or the
        other way round, and labels that don't run from 0 to C - 1 are numbered so. The loss itself stays as it is, with
        all its options. The model goes on answering in the user's labels: its largest output stands in the column of
        the label; a single one is the chance of the higher of two labels, and lies between -1 and 1 where these are.

    Why it helps:
        A loss that gets labels in another encoding fails, or minimizes something else than the user means.

    Safety:
        Safe: the same classes under other names. With numbered classes the output gets as many columns as the largest
        label asks for.

    Cost:
        None; numbered classes take one pass over the training data.

    References:
        Bishop 2006, Pattern Recognition and Machine Learning, section 4.3; Tambon et al., EMSE 2024.
    """

    name = "encode_targets"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {"target_mismatch": 0.9, "improper_loss": 0.92, "not_learning": 0.6}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose the encoding that the loss takes, unless the labels have it."""
        edit = fitting_code(context, targets, out_of_range=finding.problem == "improper_loss")
        if edit is not None:
            yield Proposal(self.name, (edit,), self.fixes[finding.problem])
