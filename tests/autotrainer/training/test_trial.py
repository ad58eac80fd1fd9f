"""One managed training: when it is stuck, what it accounts for, and what its score is."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from autotrainer.adapter import Trainer
from autotrainer.adapter.spec import Evaluation, FitRequest, Trained, TrainingSpec
from autotrainer.edits import Edit, StopEarly
from autotrainer.records.data import ArrayData, Data
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import LossInfo, OptimizerInfo, TaskContext
from autotrainer.rule import Rule
from autotrainer.scoring.metric_selection import MetricSelection
from autotrainer.scoring.scorer import Scorer
from autotrainer.testing import FakeBackend, FakeModel, Outcome
from autotrainer.training.budget import Budget
from autotrainer.training.run import ManagedMonitor, ManagedRun
from autotrainer.training.trial import run_trial

ROWS = 40
DATA = ArrayData(np.zeros((ROWS, 2)), np.tile([0, 1], ROWS // 2))
CONTEXT = TaskContext(
    loss=LossInfo("bce", "binary_cross_entropy", "probabilities"), optimizer=OptimizerInfo("sgd", 0.1)
)


class Stuck(Rule):
    """Reports an error as sure as the epochs say."""

    problem = "not_learning"
    code = "AT303"
    needs = frozenset({"epochs"})

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        values = history.epochs("sure")[1]
        return self.finding(Severity.ERROR, values[-1], "stuck", {}) if values.size else None


def _judge(metric: Any = "auto") -> Scorer:
    return Scorer(MetricSelection(metric), CONTEXT, DATA)


def _run(judge: Scorer, *edits: Edit, epochs: int = 30, budget: float = 100.0, **options: Any) -> ManagedRun:
    return ManagedRun(TrainingSpec(epochs, 0, edits), [Stuck()], Budget(budget), judge, DATA, DATA, **options)


def _evaluation(accuracy: float, loss: float = 0.5) -> Evaluation:
    outputs = np.where(np.arange(ROWS) < accuracy * ROWS, DATA.targets, 1 - DATA.targets).astype(float)
    return Evaluation(outputs, DATA.targets, loss)


@pytest.mark.parametrize(
    ("sure", "baseline", "epochs"),
    [(0.97, True, 1), (0.9, True, 5), (0.8, True, 10), (0.97, False, 1), (0.9, False, 3), (0.8, False, 5)],
)
def test_patience_goes_by_confidence(sure: float, baseline: bool, epochs: int) -> None:
    run = _run(_judge(), baseline=baseline)
    run.start(CONTEXT, 1)
    for epoch in range(30):
        if not run.end_epoch(epoch, {"loss": 1.0, "sure": sure}, _evaluation(0.5)):
            break
    assert epoch + 1 == epochs
    assert run.stuck


def test_without_stopping_an_error_ends_nothing() -> None:
    run = _run(_judge(), stops=False)
    run.start(CONTEXT, 1)
    assert all(run.end_epoch(epoch, {"loss": 1.0, "sure": 0.99}, _evaluation(0.5)) for epoch in range(30))


def test_the_rules_get_accuracy_whatever_the_metric() -> None:
    run = _run(_judge("mse"))
    run.start(CONTEXT, 1)
    run.end_epoch(0, {"loss": 1.0}, _evaluation(0.75, 0.3))
    assert run.monitor.history.epochs("val_accuracy")[1].tolist() == [0.75]
    assert run.monitor.history.epochs("val_loss")[1].tolist() == [0.3]
    assert run.history == {"loss": [1.0], "val_loss": [0.3], "val_accuracy": [0.75], "score": [0.25]}


def test_an_attempts_course_is_that_of_its_own_loss_and_the_metric_that_of_the_given_one() -> None:
    run = _run(_judge("loss"))
    run.start(CONTEXT, 1)
    run.end_epoch(0, {"loss": 1.0}, replace(_evaluation(0.75, 0.3), trained_loss=0.9))
    assert run.monitor.history.epochs("val_loss")[1].tolist() == [0.9]
    assert run.history["val_loss"] == [0.9]
    assert run.history["score"] == [0.3]


def test_values_that_come_late_keep_their_epoch() -> None:
    run = _run(_judge())
    run.start(CONTEXT, 1)
    run.end_epoch(0, {"loss": 1.0}, None)
    run.end_epoch(1, {"loss": 0.5, "lr": 0.1}, _evaluation(0.75))
    assert np.isnan(run.history["lr"][0])
    assert run.history["lr"][1:] == [0.1]
    assert len(run.history["score"]) == 2


def test_what_the_trainer_knows_completes_what_is_observed() -> None:
    monitor = ManagedMonitor([], _run(_judge()).monitor.sampler, quiet=True)
    monitor.given = replace(CONTEXT, output_units=3, planned_epochs=7)
    layers = (LayerInfo("a", "dense"),)
    monitor.begin(TaskContext("x", layers=layers, output_activation="relu"))
    seen = monitor.context
    assert (seen.layers, seen.output_activation, seen.output_units) == (layers, "relu", 3)
    assert (seen.loss, seen.optimizer, seen.planned_epochs, seen.managed) == (CONTEXT.loss, CONTEXT.optimizer, 7, True)


class Restoring(Trainer):
    """Ends with other weights than those of its last epoch."""

    context = CONTEXT

    def supports(self, edit: Edit) -> Any:
        return True

    def train(self, spec: TrainingSpec, run: Any) -> Trained:
        run.start(CONTEXT, 1)
        run.end_epoch(0, {"loss": 1.0}, _evaluation(0.5, 1.0))

        def evaluate(data: Data) -> Evaluation:
            assert isinstance(data, ArrayData)
            return _evaluation(0.9, 0.1 + 0.001 * float(data.rows))

        return Trained(None, None, spec.edits, lambda inputs: np.zeros(1), evaluate)


@pytest.mark.parametrize(("edits", "score", "work"), [((), 0.5, 0), ((StopEarly(2),), 0.9, ROWS)])
def test_restored_weights_are_scored_anew(edits: tuple[Edit, ...], score: float, work: int) -> None:
    judge = _judge()
    spec, run = TrainingSpec(1, 0, edits), _run(judge, *edits)
    trial = run_trial(partial(Restoring().train, spec, run), spec, run, judge, DATA)
    assert trial.judged is not None
    assert (trial.judged.value, trial.work) == (score, work)


def test_a_loss_gets_blocks_if_the_budget_allows() -> None:
    for budget, blocks in ((100.0, 20), (0.1, None)):
        judge = _judge("loss")
        spec, run = TrainingSpec(1, 0), _run(judge, baseline=True, budget=budget)
        trial = run_trial(partial(Restoring().train, spec, run), spec, run, judge, DATA)
        assert trial.judged is not None
        rows = trial.judged.rows
        assert (None if rows is None else len(rows)) == blocks
        assert trial.judged.value == 1.0


@pytest.mark.parametrize("operations", [1.0, 7.0])
def test_enough_is_held_back_for_a_last_evaluation(operations: float) -> None:
    request = FitRequest(FakeModel(lambda edits: Outcome(operations=operations)), DATA, DATA, None, None, 10, 4)
    trainer, judge = FakeBackend().trainer(request), _judge()
    for budget in (0.03, 0.11, 0.5, 0.99):
        run = _run(judge, epochs=10, budget=budget, baseline=True)
        trial = run_trial(partial(trainer.train, TrainingSpec(10, 0), run), TrainingSpec(10, 0), run, judge, DATA)
        assert trial.cut_short
        assert len(trial.history["val_loss"]) == len(trial.history["loss"])
        assert not np.isnan(trial.history["val_loss"][-1])
