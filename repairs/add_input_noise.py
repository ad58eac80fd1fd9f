"""Add noise to the inputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import AddInputNoise
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext

__all__ = ["AddInputNoiseRepair"]


class AddInputNoiseRepair(Repair):
    """Add noise to the inputs while training.

    What it does:
        Adds Gaussian noise to the inputs, with a tenth of their standard deviation, in training only.

    Why it helps:
        Training with noise acts as Tikhonov regularization: it smooths the function that the network learns.

    Safety:
        Unsafe: too much noise hides what is to be learned. Judged by outcome.

    Cost:
        One random number per input value.

    References:
        Bishop 1995, Training with noise is equivalent to Tikhonov regularization; AUTOTRAINER (ICSE 2021).
    """

    name = "add_input_noise"
    fixes: ClassVar[dict[str, float]] = {"overfitting": 0.25, "oscillating_loss": 0.1}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose one noise level; nothing for inputs that are indices."""
        if context.input_kind != "index":
            yield Proposal(self.name, (AddInputNoise(0.1),), self.fixes[finding.problem])
