"""Train the frozen parameters of a model in which nothing else can be trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import ThawLayers
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext

__all__ = ["ThawLayersRepair"]


class ThawLayersRepair(Repair):
    """Train the frozen parameters of a model in which nothing else can be trained.

    What it does:
        Where every parameter is frozen, makes all layers trainable that ``keep`` does not name. Where anything can be
        trained, frozen parameters are never changed: then this is advice, to be followed by hand.

    Why it helps:
        Without a trainable parameter there is no training at all. Code that freezes a pretrained network, and adds no
        new layer or adds it too early, leaves such a model behind.

    Safety:
        Safe: the training as it is can't run. The plan says first that frozen layers are changed.

    Cost:
        None, compared with a training of all parameters.

    References:
        PyTorch documentation, Autograd mechanics (requires_grad); Keras guide, Transfer learning and fine-tuning.
    """

    name = "thaw_layers"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {"parameters_not_optimized": 0.85}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose to train all layers, if none can be trained."""
        if context.all_frozen:
            yield Proposal(self.name, (ThawLayers(),), self.fixes[finding.problem])
