"""Train with larger batches."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import Edit, SetBatchSize, SetLearningRate
from autotrainer.repair import Dimension, Finding, Proposal, Repair, TargetSummary, TaskContext
from autotrainer.repairs._shared.rates import ADAPTIVE

__all__ = ["ChangeBatchSizeRepair"]

_USUAL = 32


class ChangeBatchSizeRepair(Repair):
    """Train with larger batches.

    What it does:
        Raises the batch size to 32, or fourfold if it is at least 16 (never above a quarter of the data). For adaptive
        optimizers the learning rate grows with the square root of the factor; for SGD it stays, since the batches
        were too noisy for the rate in use.

    Why it helps:
        The noise of a gradient falls with the square root of the batch size.

    Safety:
        Unsafe: fewer steps per epoch. Judged by outcome.

    Cost:
        No more work: the number of samples stays. More activations in memory at once.

    References:
        Smith et al. 2018 (1711.00489); Malladi et al. 2022 (2205.10287) for the square root; AUTOTRAINER (ICSE
        2021), table 2.
    """

    name = "change_batch_size"
    fixes: ClassVar[dict[str, float]] = {"oscillating_loss": 0.5}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose one larger size."""
        size, rows = context.batch_size, context.train_rows
        if size is None:
            return
        larger = _USUAL if size < _USUAL // 2 else 4 * size
        if rows is not None:
            larger = min(larger, rows // 4)
        if larger <= size:
            return
        edits: tuple[Edit, ...] = (SetBatchSize(larger),)
        rate = float(f"{context.optimizer.learning_rate * math.sqrt(larger / size):.2g}")
        if context.optimizer.name in ADAPTIVE and 0 < rate < math.inf:
            edits = (*edits, SetLearningRate(rate))
        yield Proposal(self.name, edits, self.fixes[finding.problem])

    def dimension(self, context: TaskContext) -> Dimension | None:
        """Vary the size from a quarter of the original to four times as much."""
        size = context.batch_size
        if size is None:
            return None
        most = (context.train_rows or 4 * size) // 2
        sizes = {max(4, min(most, size * factor // 4)) for factor in (1, 2, 8, 16)} - {size}
        return Dimension(self.name, tuple((SetBatchSize(value),) for value in sorted(sizes)))
