"""Normalize the pre-activations of hidden layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from autotrainer.edits import InsertNormalization
from autotrainer.repair import Dimension, Finding, Proposal, Repair, TargetSummary, TaskContext
from autotrainer.repairs._shared.layers import normalizable

__all__ = ["InsertNormalizationRepair"]

_SMALL_BATCH = 8


class InsertNormalizationRepair(Repair):
    """Normalize the pre-activations of hidden layers.

    What it does:
        Inserts batch normalization before the activation of hidden dense and convolution layers that have none yet;
        layer normalization in models with recurrent or attention layers, and for batches of fewer than 8 samples,
        whose statistics are too noisy for batch normalization.

    Why it helps:
        Pre-activations keep mean 0 and variance 1, so that units neither saturate nor die, and gradients keep
        their size through many layers.

    Safety:
        Unsafe: the architecture changes; batch normalization behaves differently in training and evaluation.
        Judged by outcome.

    Cost:
        Two parameters per unit, about a tenth more time, and memory for one more activation per layer.

    References:
        Ioffe and Szegedy 2015 (1502.03167); Ba et al. 2016 (1607.06450); Wu and He 2018 (1803.08494) on small
        batches; AUTOTRAINER (ICSE 2021), table 2.
    """

    name = "insert_normalization"
    fixes: ClassVar[dict[str, float]] = {
        "no_gradient": 0.3,
        "vanishing_gradient": 0.5,
        "dying_relu": 0.55,
        "saturated_activation": 0.5,
        "dormant_neurons": 0.45,
        "representation_collapse": 0.4,
        "exploding_gradient": 0.3,
        "not_learning": 0.3,
        "worse_than_simple_model": 0.25,
        "slow_convergence": 0.2,
        "abnormal_data": 0.3,
        "abnormal_initial_loss": 0.2,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose normalization of all layers that can have it."""
        layers = tuple(layer.name for layer in normalizable(context))
        if layers:
            kind = self._kind(context)
            yield Proposal(self.name, (InsertNormalization(layers, kind),), self.fixes[finding.problem], cost=1.1)

    @staticmethod
    def _kind(context: TaskContext) -> Literal["batch", "layer"]:
        sequence = any(layer.kind in ("recurrent", "attention") for layer in context.layers)
        small = context.batch_size is not None and context.batch_size < _SMALL_BATCH
        return "layer" if sequence or small else "batch"

    def dimension(self, context: TaskContext) -> Dimension | None:
        """Normalize all hidden layers, or none."""
        layers = tuple(layer.name for layer in normalizable(context))
        return Dimension(self.name, ((InsertNormalization(layers, self._kind(context)),),)) if layers else None
