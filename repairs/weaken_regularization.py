"""Weaken the regularization of a model that can't even fit its training data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import DropPenalties, Edit, LimitDropout, SetWeightDecay
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext
from autotrainer.repairs._shared.rates import ADAPTIVE

__all__ = ["WeakenRegularizationRepair"]

_USUAL_DROPOUT = 0.2
"""The lowest rate of the range in which results are flat (Srivastava et al. 2014, section 7.3)."""
_HIGH_DROPOUT = 0.6
"""The highest rate of that range."""
_USUAL_DECAY = {True: 1e-2, False: 1e-4}
"""Weight decay by whether the optimizer is adaptive: PyTorch's default for AdamW, and that of residual networks."""
_HIGH_DECAY = 10
"""Weight decay ÷ the usual one from which it may be the cause of a poor result that nothing else explains."""


class WeakenRegularizationRepair(Repair):
    """Weaken the regularization of a model that can't even fit its training data.

    What it does:
        Lowers dropout rates to 0.2, lowers the weight decay to a usual value (0.01 with adaptive optimizers, 1e-4 with
        SGD), and leaves out penalties of weights that the model adds to the loss: whichever the evidence names. Where
        nothing but a poor result is known, only a dropout rate above 0.6, a weight decay of ten times the usual value
        and penalties are taken for a possible cause.

    Why it helps:
        Regularization keeps a model from fitting noise. Too much of it keeps a model from fitting anything: units that
        are nearly always dropped pass no signal on, and weights shrink faster than they learn.

    Safety:
        Safe if the evidence names it: weights that have shrunk, or dropout that keeps almost nothing. The model may
        overfit afterwards, which validation data show.

    Cost:
        None.

    References:
        Srivastava et al., JMLR 2014, section 7.3; Loshchilov and Hutter 2019 (1711.05101); He et al. 2016 (1512.03385),
        section 3.4; Goodfellow et al., Deep Learning, 2016, section 5.2.
    """

    name = "weaken_regularization"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {
        "insufficient_capacity": 0.85,
        "abnormal_update_ratio": 0.85,
        "not_learning": 0.4,
        "slow_convergence": 0.3,
        "worse_than_simple_model": 0.4,
        "representation_collapse": 0.3,
        "vanishing_gradient": 0.3,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose to weaken what the evidence names, or else what is far stronger than usual."""
        named = finding.problem in ("insufficient_capacity", "abnormal_update_ratio")
        edits = self._named(finding, context) if named else self._suspect(context)
        if edits:
            yield Proposal(self.name, tuple(edits), self.fixes[finding.problem])

    @staticmethod
    def _named(finding: Finding, context: TaskContext) -> list[Edit]:
        edits: list[Edit] = []
        if "dropout" in finding.evidence:
            edits.append(LimitDropout(_USUAL_DROPOUT))
        if "penalty" in finding.evidence:
            edits.append(DropPenalties())
        if "weight_decay" in finding.evidence or "decay" in finding.evidence:
            usual = _USUAL_DECAY[context.optimizer.name in ADAPTIVE]
            edits.append(SetWeightDecay(min(usual, context.optimizer.weight_decay / 10)))
        return edits

    @staticmethod
    def _suspect(context: TaskContext) -> list[Edit]:
        edits: list[Edit] = []
        if (context.dropout or 0.0) > _HIGH_DROPOUT:
            edits.append(LimitDropout(_USUAL_DROPOUT))
        usual = _USUAL_DECAY[context.optimizer.name in ADAPTIVE]
        if context.optimizer.weight_decay >= _HIGH_DECAY * usual:
            edits.append(SetWeightDecay(usual))
        if context.penalized:
            edits.append(DropPenalties())
        return edits
