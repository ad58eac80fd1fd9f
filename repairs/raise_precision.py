"""Train in single precision."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import RaisePrecision
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext

__all__ = ["RaisePrecisionRepair"]


class RaisePrecisionRepair(Repair):
    """Train in single precision where half precision overflows.

    What it does:
        Converts weights, inputs and arithmetic to float32.

    Why it helps:
        float16 ends at 65504 and rounds values below 6e-8 to 0: sums, exponentials and gradients of a correct model can
        leave that range. In float32 they do not.

    Safety:
        Unsafe only in that it may hide another cause for longer, such as a learning rate that is too high. Judged by
        outcome. The model returns float32.

    Cost:
        Twice the memory; slower on hardware with fast half precision. bfloat16 has the same range at half the memory.

    References:
        Micikevicius et al., ICLR 2018 (1710.03740), section 3; Kalamkar et al. 2019 (1905.12322), on bfloat16.
    """

    name = "raise_precision"
    needs = frozenset({"first_bad_half"})
    fixes: ClassVar[dict[str, float]] = {"loss_scale_collapse": 0.7, "nonfinite": 0.7}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose it; for values that are not finite only if the first of them arose in half precision."""
        if finding.problem == "nonfinite" and not context.asked.get("first_bad_half", 0.0):
            return
        yield Proposal(self.name, (RaisePrecision(),), self.fixes[finding.problem])
