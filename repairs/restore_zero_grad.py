"""Reset the gradients between steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import RestoreZeroGrad
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext

__all__ = ["RestoreZeroGradRepair"]


class RestoreZeroGradRepair(Repair):
    """Reset the gradients after each step of the optimizer.

    What it does:
        Calls the optimizer's ``zero_grad`` after each of its steps. Gradients that are accumulated over several batches
        before a step are kept.

    Why it helps:
        Without a reset each step follows the sum of all gradients since the start: steps grow and overshoot.

    Safety:
        Safe: the evidence is a step that still used the gradients of the previous step. ``fit`` always resets them.

    Cost:
        None.

    References:
        PyTorch documentation, torch.optim.Optimizer.zero_grad; Humbatova et al., ICSE 2020.
    """

    name = "restore_zero_grad"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {"missing_zero_grad": 0.9}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose it."""
        yield Proposal(self.name, (RestoreZeroGrad(),), self.fixes[finding.problem])
