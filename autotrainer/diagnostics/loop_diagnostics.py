"""Diagnostics of a training in the user's own loop: see `autotrainer.diagnostics.diagnostics`.

The loop may do anything else, such as changing batches before the model sees them. So diagnostics run only if a
stand-in reproduces the loss that the loop had with its first batch. Without validation data, the model and baseline
models are compared on training rows that the latter were not fitted on.
"""

from __future__ import annotations

import math

import numpy as np

from autotrainer.adapter.loop import LoopTrainer
from autotrainer.adapter.spec import Trained
from autotrainer.diagnostics.diagnostics import GOOD_SCORE, OVERLAP_FACTS, ROWS, Diagnostics
from autotrainer.diagnostics.probes import probe_training
from autotrainer.records.data import ArrayData, StreamData
from autotrainer.records.facts import PROBE_FACTS
from autotrainer.scoring.metric_selection import MetricSelection
from autotrainer.scoring.scorer import Scorer
from autotrainer.training.budget import Budget
from autotrainer.training.loop_run import ManagedLoopRun

__all__ = ["run_loop_diagnostics"]

_SHARE, _MIN_ROWS = 0.025, 20
"""Maximum work of an evaluation of the model, in baseline trainings; and rows that are evaluated in any case."""


def run_loop_diagnostics(
    trainer: LoopTrainer, run: ManagedLoopRun, budget: Budget, needs: frozenset[str], seed: int, *, repairs: bool
) -> None:
    """Run diagnostics on a training that has ended, and report to its monitor; but for probes, unless it came out well.

    Args:
        trainer: Has run the training.
        run: The core's side of the training; accounts for the work.
        budget: Has the work of one baseline training.
        needs: Names of the facts that rules and repairs in force read.
        seed: Seed of the choice of rows.
        repairs: Whether repairs follow; if not, only probes are run.
    """
    monitor = run.monitor
    if needs.intersection(PROBE_FACTS):
        probe_training(trainer.probed, run, budget)
    if not repairs:
        return
    steps, losses = monitor.history.losses
    if not len(steps) or steps[0] or (run.share_score >= GOOD_SCORE and not monitor.findings):
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
        affordable = max(_MIN_ROWS, int(_SHARE * (budget.unit or 0) / run.operations))
        held_out = held_out.take(np.arange(min(held_out.rows, affordable)))
        if not budget.allows(held_out.rows * run.operations):
            return
        _judge(trained, run, scorer, held_out)
        diagnostics = Diagnostics(stand_in_trainer, scorer, budget, train, held_out, needs - OVERLAP_FACTS, seed)
        diagnostics.of_training(trained, run)


def _judge(trained: Trained, run: ManagedLoopRun, scorer: Scorer, rows: ArrayData) -> None:
    """Report how the model compares with a constant prediction on training rows."""
    if not rows.rows or not run.spend(rows.rows, training=False):
        return
    run.evaluation = trained.evaluate(rows)
    judgement = scorer.judge(scorer.score(run.evaluation))
    if not math.isnan(run.constant_score):
        return  # it is known how the score that the loop reports compares
    if not math.isnan(judgement.constant) and (judgement.decisive or judgement.clear):
        run.monitor.learn(
            {
                "above_constant": float(judgement.clear),
                "metric_score": judgement.score,
                "constant_score": judgement.constant,
                "judged_rows": float(rows.rows),
                "judged_in_training": 1.0,
            }
        )
