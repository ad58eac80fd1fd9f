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
_LEAST = 4
"""Smallest size that is tried without evidence."""
_TINY = 4
"""Size up to which it may be the cause of a poor result that nothing else explains: batch normalization then learns and
predicts with statistics of a few rows (Wu and He 2018, figure 1), and gradients are those of a few rows."""
_REFINED = 0.25
"""Probability that half or twice the size is better for a training that works."""


class ChangeBatchSizeRepair(Repair):
    """Train with larger batches.

    What it does:
        Raises the batch size to 32, or fourfold if it is at least 16 (never above a quarter of the data). For adaptive
        optimizers the learning rate grows with the square root of the factor; for SGD it stays, since the batches
        were too noisy for the rate in use. A poor result alone is reason enough only for batches of up to 4. With
        ``until="budget"``, half and twice the size in a training that works.

    Why it helps:
        The noise of a gradient falls with the square root of the batch size.

    Safety:
        Unsafe: fewer steps per epoch. Judged by outcome.

    Cost:
        No more work: the number of samples stays. More activations in memory at once.

    References:
        Smith et al. 2018 (1711.00489); Wu and He 2018, Group Normalization (1803.08494), for tiny batches; Malladi et
        al. 2022 (2205.10287) for the square root; AUTOTRAINER (ICSE 2021), table 2.
    """

    name = "change_batch_size"
    fixes: ClassVar[dict[str, float]] = {"oscillating_loss": 0.5, "not_learning": 0.3, "worse_than_simple_model": 0.35}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose one larger size."""
        size, rows = context.batch_size, context.train_rows
        if size is None or (finding.problem != "oscillating_loss" and size > _TINY):
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

    def refine(self, context: TaskContext) -> Iterable[Proposal]:
        """Propose half and twice the size."""
        size = context.batch_size
        if size is None:
            return
        for changed in (size // 2, 2 * size):
            if _LEAST <= changed <= (context.train_rows or changed) // 2:
                yield Proposal(self.name, (SetBatchSize(changed),), _REFINED)

    def dimension(self, context: TaskContext) -> Dimension | None:
        """Vary the size from a quarter of the original to four times as much."""
        size = context.batch_size
        if size is None:
            return None
        most = (context.train_rows or 4 * size) // 2
        sizes = {max(_LEAST, min(most, size * factor // 4)) for factor in (1, 2, 8, 16)} - {size}
        return Dimension(self.name, tuple((SetBatchSize(value),) for value in sorted(sizes)))
