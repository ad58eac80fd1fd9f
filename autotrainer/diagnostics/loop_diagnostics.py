"""Diagnostics of a training in the user's own loop: see `autotrainer.diagnostics.diagnostics`.

The loop may do anything else, such as changing batches before the model sees them. So diagnostics run only if a
stand-in reproduces the loss that the loop had with its first batch. Without validation data, baseline models are scored
on training rows that they were not fitted on.
"""

from __future__ import annotations

import numpy as np

from autotrainer.adapter.loop import LoopTrainer
from autotrainer.diagnostics.diagnostics import OVERLAP_FACTS, ROWS, Diagnostics, cause_unknown, rate_in_doubt
from autotrainer.diagnostics.nonfinite_search import ended_nonfinite
from autotrainer.records.data import StreamData
from autotrainer.scoring.metric_selection import MetricSelection
from autotrainer.scoring.scorer import Scorer
from autotrainer.training.budget import Budget
from autotrainer.training.loop_run import ManagedLoopRun

__all__ = ["run_loop_diagnostics"]


def run_loop_diagnostics(
    trainer: LoopTrainer, run: ManagedLoopRun, budget: Budget, needs: frozenset[str], seed: int
) -> None:
    """Run diagnostics on a training that has ended, if its outcome calls for them, and report to its monitor.

    Args:
        trainer: Has run the training.
        run: The core's side of the training; accounts for the work.
        budget: Has the work of one baseline training.
        needs: Names of the facts that rules and repairs in force read.
        seed: Seed of the choice of rows.
    """
    monitor = run.monitor
    findings, (steps, losses) = monitor.findings, monitor.history.losses
    unknown = cause_unknown(findings, run.score is not None)
    if not (ended_nonfinite(findings) or unknown or rate_in_doubt(findings)) or not len(steps) or steps[0]:
        return
    with monitor.guard("diagnostics"), trainer.stand_in(float(losses[0])) as stand_in:
        if stand_in is None:
            return
        stand_in_trainer, trained = stand_in
        rows = stand_in_trainer.sample(StreamData(trainer.given.loader), ROWS)
        if rows is None:
            return
        monitor.finish()
        scorer = Scorer(MetricSelection("auto", None, seed), stand_in_trainer.context, rows)
        order = np.random.default_rng(seed).permutation(rows.rows)
        train, held_out = (rows.take(part) for part in np.array_split(order, 2))
        diagnostics = Diagnostics(stand_in_trainer, scorer, budget, train, held_out, needs - OVERLAP_FACTS, seed)
        diagnostics.of_training(trained, run)
