"""Train longer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar

from autotrainer.edits import ExtendTraining
from autotrainer.repair import Dimension, Finding, Proposal, Repair, Risk, TargetSummary, TaskContext

__all__ = ["ExtendTrainingRepair"]

_SHORT = 100
"""Steps below which a whole training is hardly ever long enough: the threshold of `too_few_epochs`."""
_FACTORS, _SHORT_FACTORS = (2, 4), (4, 10, 2)
_LEAST, _MOST = 1.25, 10.0
"""Smallest and largest extrapolated length ÷ present length: a smaller one gains little, and a larger one has little to
do with the curve so far."""
_CERTAIN = 3.0
"""Upper ÷ lower end of the interval of the length, at most, if it is certain."""
_REFINED = 0.7
"""Probability that twice as many epochs are better where score or loss still improve."""
_CONSEQUENCE = 0.5
"""Probability of success if another problem is the root cause ÷ that if the length itself is."""


class ExtendTrainingRepair(Repair):
    """Train for more epochs.

    What it does:
        If the learning curve can be extrapolated with certainty, trains until a tenth of the fall still to come is
        left. Else trains for two or four times as many epochs; also ten times as many if the whole training is shorter
        than 100 steps. A constant learning rate stays constant; the cosine of another repair is stretched. With
        ``until="budget"``, twice the epochs of a training that works, if its score or loss still improves at its end.

    Why it helps:
        A training that ends while loss and score still improve misses what further epochs would gain. It is among the
        most common real faults, and the simplest to fix.

    Safety:
        Safe if the evidence is that the loss still falls: the best epoch of a longer training is no worse. The extra
        epochs count against the budget. A user's schedule that is made for the original length is never run beyond it;
        the report says why.

    Cost:
        Proportional to the number of epochs.

    References:
        Humbatova et al., Taxonomy of Real Faults in Deep Learning Systems, ICSE 2020; Cao et al., DeepFD, ICSE 2022;
        Domhan, Springenberg and Hutter, IJCAI 2015 (extrapolation of learning curves).
    """

    name = "extend_training"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {
        "too_few_epochs": 0.75,
        "slow_convergence": 0.35,
        "worse_than_simple_model": 0.35,
        "learning_rate_too_low": 0.15,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose the shortest extension first; the budget ends those that cost too much."""
        planned = context.planned_epochs
        if planned is None:
            return
        effect = self.fixes[finding.problem]
        if finding.caused_by is not None:
            effect *= _CONSEQUENCE
        steps = finding.evidence.get("steps", context.planned_steps or _SHORT)
        factors = _extrapolated(finding.evidence) or (_FACTORS if steps >= _SHORT else _SHORT_FACTORS)
        for rank, factor in enumerate(factors):
            epochs = math.ceil(factor * planned)
            yield Proposal(self.name, (ExtendTraining(epochs),), effect * 0.8**rank, cost=epochs / planned)

    def refine(self, context: TaskContext) -> Iterable[Proposal]:
        """Propose twice as many epochs."""
        if context.planned_epochs is not None:
            yield Proposal(self.name, (ExtendTraining(2 * context.planned_epochs),), _REFINED, cost=2.0)

    def dimension(self, context: TaskContext) -> Dimension | None:
        """Train longer, or not."""
        planned = context.planned_epochs
        factors = _FACTORS if (context.planned_steps or _SHORT) >= _SHORT else _SHORT_FACTORS
        edits = () if planned is None else tuple((ExtendTraining(k * planned),) for k in sorted(factors))
        return Dimension(self.name, edits) if edits else None


def _extrapolated(evidence: Mapping[str, float]) -> tuple[float, ...]:
    """Return the lengths to which the learning curve leads, relative to the present one; empty if they are uncertain.

    If the upper end of the interval is far longer than the best estimate, it comes second.
    """
    names = ("needed_length", "shortest_length", "longest_length")
    needed, shortest, longest = (evidence.get(name, math.nan) for name in names)
    if not longest <= _CERTAIN * shortest:
        return ()
    first, last = (min(max(length, _LEAST), _MOST) for length in (needed, longest))
    return (first, last) if last >= 1.5 * first else (first,)
