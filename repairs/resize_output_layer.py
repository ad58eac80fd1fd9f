"""Give the output as many units as the targets need."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import Edit, ReshapeTargets, ResizeOutputLayer, SetOutputActivation
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext
from autotrainer.repairs._shared.heads import fitting_head, fitting_units, keeps_loss, with_units
from autotrainer.repairs._shared.targets import outside_range

__all__ = ["ResizeOutputLayerRepair"]


class ResizeOutputLayerRepair(Repair):
    """Give the output as many units as the targets need.

    What it does:
        Gives the layer that makes the output one unit for each class, label or column of the targets, with the output
        activation and the loss that fit: softmax and cross-entropy for class indices under a single sigmoid unit. Units
        that remain keep their weights, if there are several before and after; new ones get the default initialization
        of the layer. The user's targets stay unchanged.

    Why it helps:
        One unit can tell two classes apart, not three, whatever the loss. A loss that compares a single column with
        several by broadcasting is smallest at the mean of all of them.

    Safety:
        Safe: follows from the targets. The output has another shape than before, so that code that uses it has to
        change: the largest output is in the column of the predicted class. Layers that are frozen, kept, or share
        weights are never changed.

    Cost:
        None, but for the weights of the new units.

    References:
        Bishop 2006, Pattern Recognition and Machine Learning, section 4.3.4; Humbatova et al., Taxonomy of Real Faults
        in Deep Learning Systems, ICSE 2020, on wrong output layers.
    """

    name = "resize_output_layer"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {
        "target_mismatch": 0.85,
        "improper_loss": 0.95,
        "improper_output_activation": 0.95,
        "worse_than_simple_model": 0.3,
        "not_learning": 0.3,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose the number of units that the targets need, unless the output has it."""
        units = fitting_units(context, targets)
        if units is None:
            return
        resized = with_units(context, units)
        head = fitting_head(resized, targets)
        if head is None:
            return
        edits: list[Edit] = [ResizeOutputLayer(units)]
        if resized.kind(targets) == "regression" and not context.loss.classifies:
            if outside_range(context.output_activation, targets.minimum, targets.maximum):
                edits.append(SetOutputActivation("linear"))
            if targets.rank == 1 and context.framework == "pytorch":
                edits.append(ReshapeTargets())
        else:
            activation, loss = head.edits
            edits += [] if context.output_activation == head.activation else [activation]
            edits += [] if keeps_loss(head, context, targets) else [loss]
        yield Proposal(self.name, tuple(edits), self.fixes[finding.problem])
