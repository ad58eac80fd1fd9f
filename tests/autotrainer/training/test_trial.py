"""One managed training: when it is stuck, which work it accounts for, and how it is scored."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from autotrainer.adapter import Trainer
from autotrainer.adapter.spec import Evaluation, FitRequest, Trained, TrainingSpec
from autotrainer.edits import Edit, Rollback, StopEarly
from autotrainer.records.data import ArrayData, Data
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import LAYER_COLUMNS, LayerInfo, Observation
from autotrainer.records.task import LossInfo, OptimizerInfo, TaskContext
from autotrainer.rule import Rule
from autotrainer.scoring.metric_selection import MetricSelection
from autotrainer.scoring.scorer import Scorer
from autotrainer.testing import FakeBackend, FakeModel, Outcome
from autotrainer.training.base_run import ManagedMonitor
from autotrainer.training.budget import Budget
from autotrainer.training.judging import judge
from autotrainer.training.run import ManagedRun
from autotrainer.training.trial import run_trial

ROWS = 40
DATA = ArrayData(np.zeros((ROWS, 2)), np.tile([0, 1], ROWS // 2))
REQUEST = FitRequest(None, DATA, DATA, None, None, 1, 4)
CONTEXT = TaskContext(
    loss=LossInfo("bce", "binary_cross_entropy", "probabilities"), optimizer=OptimizerInfo("sgd", 0.1)
)


class Stuck(Rule):
    """Reports an error with the confidence that an epoch's value says."""

    problem = "not_learning"
    code = "AT303"
    needs = frozenset({"epochs"})

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        values = history.epochs("confidence")[1]
        return self.finding(Severity.ERROR, values[-1], "stuck", {}) if values.size else None


def _scorer(metric: Any = "auto") -> Scorer:
    return Scorer(MetricSelection(metric), CONTEXT, DATA)


def _run(scorer: Scorer, *edits: Edit, epochs: int = 30, budget: float = 100.0, **options: Any) -> ManagedRun:
    return ManagedRun(TrainingSpec(epochs, 0, edits), [Stuck()], Budget(budget), scorer, DATA, DATA, **options)


def _evaluation(accuracy: float, loss: float = 0.5) -> Evaluation:
    outputs = np.where(np.arange(ROWS) < accuracy * ROWS, DATA.targets, 1 - DATA.targets).astype(float)
    return Evaluation(outputs, DATA.targets, loss)


@pytest.mark.parametrize(
    ("confidence", "baseline", "patience"),
    [(0.97, True, 1), (0.9, True, 5), (0.8, True, 10), (0.97, False, 1), (0.9, False, 3), (0.8, False, 5)],
)
def test_patience_depends_on_confidence(confidence: float, baseline: bool, patience: int) -> None:
    run = _run(_scorer(), baseline=baseline)
    run.start(CONTEXT, 1)
    for epoch in range(30):
        if not run.end_epoch(epoch, {"loss": 1.0, "confidence": confidence}, _evaluation(0.5)):
            break
    assert epoch + 1 == patience
    assert run.stuck


def _steps(run: ManagedRun, steps: int, *, weights: float, gradients: float) -> int:
    """Take steps of one long epoch with these norms until the run allows no more; return their number."""
    run.start(replace(CONTEXT, layers=(LayerInfo("a", "dense"),)), 1)
    for step in range(steps):
        if not run.spend(4, training=True):
            return step
        table = np.full((1, len(LAYER_COLUMNS)), np.nan)
        table[0, LAYER_COLUMNS.index("weight_norm")] = weights
        run.monitor.record(Observation(step=step, layers=table, loss=1.0, scalars={"grad_norm": gradients}))
    return steps


@pytest.mark.parametrize(("baseline", "first"), [(False, 16), (True, 128)])
def test_nonfinite_weights_end_a_training_within_an_epoch(baseline: bool, first: int) -> None:
    run = _run(_scorer(), budget=1e6, baseline=baseline)
    assert _steps(run, 300, weights=np.inf, gradients=1.0) == first
    assert not run.end_epoch(0, {"loss": np.nan}, _evaluation(0.5))
    assert (run.stuck, run.partial, run.cut_short, run.granted, run.samples) == (True, True, False, first, 4 * first)


@pytest.mark.parametrize(
    ("weights", "edits", "options"),
    [(1.0, (), {}), (np.inf, (Rollback(),), {}), (np.inf, (), {"stop_if_stuck": False})],
)
def test_a_state_that_may_pass_ends_nothing_within_an_epoch(
    weights: float, edits: tuple[Edit, ...], options: dict[str, Any]
) -> None:
    run = _run(_scorer(), *edits, budget=1e6, **options)
    assert _steps(run, 100, weights=weights, gradients=1.0) == 100
    assert not run.stuck


def test_a_training_is_halted_within_an_epoch_and_at_its_end() -> None:
    halted = _run(_scorer(), budget=1e6, halt=lambda run: run.samples >= 40, checkpoints=(1,))
    assert _steps(halted, 100, weights=1.0, gradients=1.0) == 10
    assert not halted.end_epoch(0, {"loss": 1.0}, _evaluation(0.5))
    assert (halted.halted, halted.partial, halted.stuck) == (True, True, False)
    ended = _run(_scorer(), halt=lambda run: len(run.history["score"]) == 2, checkpoints=(1, 2))
    ended.start(CONTEXT, 1)
    assert ended.spend(40, training=True)
    assert ended.end_epoch(0, {"loss": 1.0}, _evaluation(0.5))
    assert ended.spend(40, training=True) == (len(ended.history["score"]) != 2)
    assert not ended.end_epoch(1, {"loss": 1.0}, _evaluation(0.75))
    assert (ended.halted, ended.partial) == (True, False)
    assert {samples: score.value for samples, score in ended.scores.items()} == {40: 0.5, 80: 0.75}


def test_errors_do_not_end_a_training_without_stop_if_stuck() -> None:
    run = _run(_scorer(), stop_if_stuck=False)
    run.start(CONTEXT, 1)
    assert all(run.end_epoch(epoch, {"loss": 1.0, "confidence": 0.99}, _evaluation(0.5)) for epoch in range(30))


def test_rules_get_accuracy_with_any_metric() -> None:
    run = _run(_scorer("mse"))
    run.start(CONTEXT, 1)
    run.end_epoch(0, {"loss": 1.0}, _evaluation(0.75, 0.3))
    assert run.monitor.history.epochs("val_accuracy")[1].tolist() == [0.75]
    assert run.monitor.history.epochs("val_loss")[1].tolist() == [0.3]
    assert run.history == {"loss": [1.0], "val_loss": [0.3], "val_accuracy": [0.75], "score": [0.25]}


def test_rules_get_the_trained_loss_and_the_metric_the_original_one() -> None:
    run = _run(_scorer("loss"))
    run.start(CONTEXT, 1)
    run.end_epoch(0, {"loss": 1.0}, replace(_evaluation(0.75, 0.3), trained_loss=0.9))
    assert run.monitor.history.epochs("val_loss")[1].tolist() == [0.9]
    assert run.history["val_loss"] == [0.9]
    assert run.history["score"] == [0.3]


def test_history_is_padded_for_late_values() -> None:
    run = _run(_scorer())
    run.start(CONTEXT, 1)
    run.end_epoch(0, {"loss": 1.0}, None)
    run.end_epoch(1, {"loss": 0.5, "lr": 0.1}, _evaluation(0.75))
    assert np.isnan(run.history["lr"][0])
    assert run.history["lr"][1:] == [0.1]
    assert len(run.history["score"]) == 2


def test_trainer_context_completes_observed_context() -> None:
    monitor = ManagedMonitor([], _run(_scorer()).monitor.sampler, quiet=True)
    monitor.trainer_context = replace(CONTEXT, output_units=3, planned_epochs=7)
    layers = (LayerInfo("a", "dense"),)
    monitor.begin(TaskContext("x", layers=layers, output_activation="relu"))
    merged = monitor.context
    assert (merged.layers, merged.output_activation, merged.output_units) == (layers, "relu", 3)
    assert (merged.loss, merged.optimizer) == (CONTEXT.loss, CONTEXT.optimizer)
    assert (merged.planned_epochs, merged.managed) == (7, True)


class Restoring(Trainer):
    """Returns other weights than those of its last epoch."""

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
def test_restored_weights_are_scored_again(edits: tuple[Edit, ...], score: float, work: int) -> None:
    scorer = _scorer()
    spec, run = TrainingSpec(1, 0, edits), _run(scorer, *edits)
    trial = run_trial(partial(Restoring().train, spec, run), spec, run, scorer, REQUEST)
    assert trial.score is not None
    assert (trial.score.value, trial.work) == (score, work)


def test_loss_gets_blocks_within_the_budget() -> None:
    for budget, blocks in ((100.0, 20), (0.1, None)):
        scorer = _scorer("loss")
        spec, run = TrainingSpec(1, 0), _run(scorer, baseline=True, budget=budget)
        trial = run_trial(partial(Restoring().train, spec, run), spec, run, scorer, REQUEST)
        assert trial.score is not None
        rows = trial.score.rows
        assert (None if rows is None else len(rows)) == blocks
        assert trial.score.value == 1.0


@pytest.mark.parametrize("operations", [1.0, 7.0])
def test_work_is_reserved_for_a_last_evaluation(operations: float) -> None:
    request = FitRequest(FakeModel(lambda edits: Outcome(operations=operations)), DATA, DATA, None, None, 10, 4)
    trainer, scorer = FakeBackend().trainer(request), _scorer()
    for budget in (0.03, 0.11, 0.5, 0.99):
        run = _run(scorer, epochs=10, budget=budget, baseline=True)
        trial = run_trial(partial(trainer.train, TrainingSpec(10, 0), run), TrainingSpec(10, 0), run, scorer, REQUEST)
        assert trial.cut_short
        assert len(trial.history["val_loss"]) == len(trial.history["loss"])
        assert not np.isnan(trial.history["val_loss"][-1])


def test_a_model_that_separates_sorted_classes_uses_its_inputs() -> None:
    labels = (np.arange(ROWS) >= ROWS // 2 - 2).astype(np.int64)  # one block of neighbouring rows has both
    validation = ArrayData(labels[:, None] * 1.0, labels)
    context = replace(CONTEXT, loss=replace(CONTEXT.loss, weighted=True))
    scorer = Scorer(MetricSelection("loss"), context, validation)

    def evaluate(data: Data) -> Evaluation:
        assert isinstance(data, ArrayData)
        return Evaluation(data.inputs, data.targets, float(np.abs(data.inputs[:, 0] - data.targets).mean()))

    run = _run(scorer)
    run.start(context, 1)
    run.score = scorer.score(evaluate(validation))
    trained = Trained(None, None, (), lambda inputs: np.zeros(1), evaluate)
    assert judge(trained, run, scorer, replace(REQUEST, validation=validation))
