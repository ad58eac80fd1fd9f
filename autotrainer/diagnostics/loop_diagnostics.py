"""Questions about a training in the user's own loop: see `autotrainer.diagnostics.diagnostics`.

What the loop does besides can't be known: it may change batches before the model sees them. So nothing is asked unless
a stand-in gives the loss that the loop had with its first batch. There are no validation data to ask about: simple
models are judged on training rows that they have not seen.
"""

from __future__ import annotations

import numpy as np

from autotrainer.adapter.backend import LoopTrainer
from autotrainer.diagnostics.diagnostics import OF_BOTH, ROWS, Diagnostics, rate_in_doubt, suspicious
from autotrainer.diagnostics.nonfinite_search import broken
from autotrainer.records.data import StreamData
from autotrainer.scoring.metric_selection import MetricSelection
from autotrainer.scoring.scorer import Scorer
from autotrainer.training.budget import Budget
from autotrainer.training.loop_run import TrainingInLoop

__all__ = ["ask"]


def ask(trainer: LoopTrainer, run: TrainingInLoop, budget: Budget, needs: frozenset[str], seed: int) -> None:
    """Ask about a training that has ended, where there is something to ask, and tell its monitor.

    Args:
        trainer: Has run it.
        run: What is known of it; accounts for the work.
        budget: Knows how much work one training as given is.
        needs: Names of facts that rules and repairs in force read.
        seed: Seed of the choice of rows.
    """
    monitor = run.monitor
    findings, (steps, losses) = monitor.findings, monitor.history.losses
    doubtful = broken(findings) or suspicious(findings, run.judged is not None) or rate_in_doubt(findings)
    if not doubtful or not len(steps) or steps[0]:
        return
    with monitor.guard("asking"), trainer.stand_in(float(losses[0])) as found:
        rows = None if found is None else found[0].sample(StreamData(trainer.given.loader), ROWS)
        if found is None or rows is None:
            return
        monitor.finish()
        judge = Scorer(MetricSelection("auto", None, seed), found[0].context, rows)
        order = np.random.default_rng(seed).permutation(rows.rows)
        train, others = (rows.take(part) for part in np.array_split(order, 2))
        Diagnostics(found[0], judge, budget, train, others, needs - OF_BOTH, seed).of_training(found[1], run)
