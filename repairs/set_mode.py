"""Set the model's mode."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import SetMode
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext

__all__ = ["SetModeRepair"]


class SetModeRepair(Repair):
    """Run the model in training mode while it trains, and in evaluation mode while it is judged.

    What it does:
        Sets the mode before each pass of the training: training mode where gradients are recorded, else evaluation
        mode.

    Why it helps:
        Dropout and batch normalization do different things in the two. A model that trains in evaluation mode has
        neither; one that is judged in training mode drops units at random while it is scored.

    Safety:
        Safe: the evidence is the mode of passes that were seen. A model's own ``train()`` is called, so that parts it
        holds in evaluation mode on purpose stay there.

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
