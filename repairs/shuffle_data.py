"""Shuffle the training rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import ShuffleData
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext

__all__ = ["ShuffleDataRepair"]


class ShuffleDataRepair(Repair):
    """Shuffle the training rows.

    What it does:
        Puts the rows in a new random order in each epoch: a PyTorch loader gets a random sampler, arrays in Keras get
        ``shuffle=True``, a ``tf.data.Dataset`` a shuffle buffer as large as the data. Validation data keep their order.

    Why it helps:
        Batches of a single class pull the model to that class and back again with the next; what was learned first in
        an epoch is forgotten at its end, and the statistics of batch normalization do not fit mixed batches.

    Safety:
        Safe: the same rows, each once per epoch. Data whose order carries meaning from batch to batch, as in stateful
        recurrent layers, are not shuffled.

    Cost:
        None; a ``tf.data.Dataset`` is kept in memory.

    References:
        Bengio 2012, Practical recommendations (1206.5533), section 2.3; Meng et al. 2019 (1709.10432).
    """

    name = "shuffle_data"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {"unshuffled_data": 0.9}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose it."""
        yield Proposal(self.name, (ShuffleData(),), self.fixes[finding.problem])
