"""Leave out training rows that hold NaN or infinity."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import DropBadRows
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext

__all__ = ["DropBadRowsRepair"]


class DropBadRowsRepair(Repair):
    """Leave out training rows that hold NaN or infinity.

    What it does:
        Trains only on rows whose inputs and targets are all finite, and reports how many were left out. Validation data
        stay unchanged: a prediction that is not finite counts as wrong.

    Why it helps:
        A single NaN in a batch makes loss, gradients and then all weights NaN.

    Safety:
        Safe if few rows are affected; not applied if more than half of them are. Rows with missing values may differ
        from the others: imputing the values keeps their information.

    Cost:
        One pass over the training data, and less work in each epoch.

    References:
        Little and Rubin 2002, Statistical Analysis with Missing Data, chapter 3 (complete cases).
    """

    name = "drop_bad_rows"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {"nonfinite_data": 0.9, "nonfinite": 0.6}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose to leave them out; the backend checks whether there are any."""
        yield Proposal(self.name, (DropBadRows(),), self.fixes[finding.problem])
