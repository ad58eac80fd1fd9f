"""Train with another optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import SwapOptimizer
from autotrainer.repair import Dimension, Finding, Proposal, Repair, TargetSummary, TaskContext
from autotrainer.repairs._shared.rates import suitable_rate
from autotrainer.repairs._shared.steps import before_any_step

__all__ = ["SwapOptimizerRepair"]


class SwapOptimizerRepair(Repair):
    """Train with another optimizer, at a learning rate that suits it and the length of the training.

    What it does:
        Proposes Adam, then SGD with momentum 0.9, Nadam and RMSprop, without the one in use.

    Why it helps:
        Adaptive optimizers give each weight its own step size, so that badly scaled problems make progress; SGD with
        momentum is steadier where an adaptive optimizer oscillates. If a training is very slow, the usual rate of
        another optimizer is a better guess than a multiple of a rate that is too low by an unknown factor.

    Safety:
        Unsafe: another optimizer can end in a worse minimum. Judged by outcome.

    Cost:
        Up to two more numbers per weight in memory.

    References:
        Kingma and Ba 2015 (1412.6980); Sutskever et al. 2013; AUTOTRAINER (ICSE 2021), table 2.
    """

    name = "swap_optimizer"
    fixes: ClassVar[dict[str, float]] = {
        "oscillating_loss": 0.5,
        "slow_convergence": 0.65,
        "not_learning": 0.4,
        "worse_than_simple_model": 0.42,
        "exploding_gradient": 0.45,
        "nonfinite": 0.45,
        "vanishing_gradient": 0.3,
        "unscaled_targets": 0.4,
        "learning_rate_too_high": 0.45,
        "learning_rate_too_low": 0.62,
        "abnormal_update_ratio": 0.5,
        "divergence": 0.4,
        "stale_second_moment": 0.35,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose the others, in a fixed order."""
        if before_any_step(finding):
            return
        effect = self.fixes[finding.problem]
        rank = 0
        for name in ("adam", "sgd", "nadam", "rmsprop"):
            if name == context.optimizer.name:
                continue
            edit = SwapOptimizer(name, suitable_rate(name, context), momentum=0.9 if name == "sgd" else 0.0)
            yield Proposal(self.name, (edit,), effect * 0.8**rank)
            rank += 1

    def dimension(self, context: TaskContext) -> Dimension | None:
        """Vary the optimizer, each at the rate that suits it."""
        return Dimension(
            self.name,
            tuple(
                (SwapOptimizer(name, suitable_rate(name, context), momentum=0.9 if name == "sgd" else 0.0),)
                for name in ("adam", "sgd", "nadam", "rmsprop")
            ),
        )
