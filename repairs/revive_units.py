"""Reinitialize dormant units."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import ReviveUnits
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext

__all__ = ["ReviveUnitsRepair"]

_MIN_EPOCHS = 4
"""Shortest training, in epochs, in which a reinitialized unit has time to learn."""


class ReviveUnitsRepair(Repair):
    """Reinitialize the incoming weights of dormant units between epochs (ReDo).

    What it does:
        At the end of each epoch in the first three quarters of the training, draws new incoming weights for each unit
        whose mean output is at most a fortieth of its layer's mean (mostly dead units), with the initializer that suits
        the activation. Its bias becomes zero and its optimizer state is cleared. Other units stay unchanged.

    Why it helps:
        A dead unit has no gradient and so can never recover by itself. After the reinitialization the layer uses its
        whole width again, and the other units keep what they have learned.

    Safety:
        Unsafe: outgoing weights stay, so the output shifts a little with each unit. Frozen layers, layers that ``keep``
        names and recurrent layers are left out. Units that are rarely active for good reason are reinitialized again
        and again. Judged by outcome.

    Cost:
        A sum over the units' outputs in some batches per epoch; in Keras a forward pass of one batch, which counts as
        work.

    References:
        Sokar et al., The Dormant Neuron Phenomenon, ICML 2023 (2302.12902), algorithm 1; Lu et al. 2019 (1903.06733).
    """

    name = "revive_units"
    fixes: ClassVar[dict[str, float]] = {"dying_relu": 0.5, "dormant_neurons": 0.5, "representation_collapse": 0.2}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose to revive the layers that the finding names, and those that feed them."""
        if context.planned_epochs is not None and context.planned_epochs < _MIN_EPOCHS:
            return
        layers = tuple(
            layer.name
            for layer in context.layers
            if layer.hidden and not layer.frozen and layer.kind in ("dense", "conv")
            if layer.activation not in (None, "linear", "softmax", "log_softmax")
        )
        if layers:
            yield Proposal(self.name, (ReviveUnits(layers),), self.fixes[finding.problem])
