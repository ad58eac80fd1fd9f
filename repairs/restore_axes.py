"""Exchange the axes of outputs that were only reshaped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import RestoreAxes
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext

__all__ = ["RestoreAxesRepair"]


class RestoreAxesRepair(Repair):
    """Exchange the axes of outputs that the model only reshaped.

    What it does:
        Where a model reshapes (views) outputs of shape (n, positions, …, classes) as (n, classes, positions, …), reads
        them in their first shape again and moves the axis of the classes, as `permute` and `movedim` do (PyTorch).

    Why it helps:
        A reshape keeps the order of the values: what the loss then takes for the classes of one position are values of
        several positions, which no model of single positions can learn.

    Safety:
        Safe: the graph of the loss shows the reshape. The outputs keep their shape.

    Cost:
        None.

    References:
        PyTorch documentation, CrossEntropyLoss (shape of the input), Tensor.view and Tensor.permute.
    """

    name = "restore_axes"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {"target_mismatch": 0.95}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose it where the evidence holds the lengths of the exchanged axes."""
        classes, steps = (finding.evidence.get(name) for name in ("reordered_classes", "reordered_steps"))
        if classes is not None and steps is not None:
            yield Proposal(self.name, (RestoreAxes(int(classes), int(steps)),), self.fixes[finding.problem])
