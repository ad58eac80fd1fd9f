"""Set the model's mode."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import SetMode
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext

__all__ = ["SetModeRepair"]


class SetModeRepair(Repair):
    """Run the model in training mode while it trains, and in evaluation mode while it is evaluated.

    What it does:
        Sets the mode before each forward pass: training mode if gradients are recorded, otherwise evaluation mode.

    Why it helps:
        Dropout and batch normalization behave differently in the two modes. A model that trains in evaluation mode
        gets neither; one that is evaluated in training mode drops units at random while it is scored.

    Safety:
        Safe: the evidence is the mode of recorded passes. The model's own ``train()`` is called, so that parts that it
        keeps in evaluation mode on purpose stay there.

    Cost:
        None.

    References:
        PyTorch documentation, torch.nn.Module.train; Srivastava et al., JMLR 2014; Ioffe and Szegedy, ICML 2015.
    """

    name = "set_mode"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {"wrong_training_mode": 0.9}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose it."""
        yield Proposal(self.name, (SetMode(),), self.fixes[finding.problem])
