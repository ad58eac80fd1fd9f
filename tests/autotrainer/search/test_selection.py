"""Which of several trainings is the result, when nothing is left to gain, and whether a curve still rises."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autotrainer.adapter.spec import Evaluation, TrainingSpec
from autotrainer.edits import ClipGradients, Edit, ResizeLayers, SetLearningRate, SetMomentum
from autotrainer.records.data import ArrayData
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.task import LossInfo, TaskContext
from autotrainer.scoring.metric_selection import MetricSelection
from autotrainer.scoring.metrics import LossMetric, Metric
from autotrainer.scoring.scorer import Scorer
from autotrainer.search.candidate import Node
from autotrainer.search.refinement import still_improves
from autotrainer.search.selection import Selection, at_ceiling
from autotrainer.training.trial import Trial

CONTEXT = TaskContext(loss=LossInfo("bce", "binary_cross_entropy", "probabilities"))
RATE, CLIP, MOMENTUM, WIDER = (
    SetLearningRate(0.01),
    ClipGradients("norm", 1.0),
    SetMomentum(0.9),
    ResizeLayers(("a",), (8,)),
)


def _trial(right: int, *edits: Edit, rows: int = 100, errors: bool = False) -> tuple[Trial, Metric]:
    targets = np.tile([0, 1], rows)[:rows]
    scorer = Scorer(MetricSelection("accuracy"), CONTEXT, ArrayData(np.zeros((rows, 1)), targets))
    score = scorer.score(Evaluation(np.where(np.arange(rows) < right, targets, 1 - targets), targets, 0.0))
    findings = (Finding("p", "AT000", Severity.ERROR, 1.0, "p"),) if errors else ()
    assert scorer.metric is not None
    return Trial(TrainingSpec(9, 0, edits), None, score, findings, CONTEXT, {}, 1, False), scorer.metric


def _chosen(*trainings: tuple[Trial, Metric], given_up: int | None = None) -> list[int]:
    """Return the scores in percent of what is chosen and kept; the baseline scores 50."""
    baseline, metric = _trial(50)
    root = Node(baseline)
    nodes = [root, *(Node(trial, given_up=index == given_up) for index, (trial, _) in enumerate(trainings))]
    chosen = Selection(metric, root, None).choose(nodes)
    return [round(100 * node.trial.score.value) for node in chosen if node.trial.score is not None]


def test_best_score_wins_beyond_noise_and_the_smallest_plan_within() -> None:
    assert _chosen() == []
    assert _chosen(_trial(52, RATE)) == [], "not better than the baseline by more than noise"
    assert _chosen(_trial(80, RATE), _trial(90, RATE, CLIP)) == [90, 90]
    assert _chosen(_trial(88, RATE), _trial(90, RATE, CLIP)) == [88, 90]
    assert _chosen(_trial(88, RATE), _trial(90, CLIP), _trial(91, MOMENTUM, CLIP)) == [90, 91], "of one edit each"
    assert _chosen(_trial(88, RATE), _trial(90, WIDER)) == [88, 90], "the smaller change"


def test_training_without_error_wins_within_noise_only() -> None:
    assert _chosen(_trial(88, RATE, CLIP), _trial(90, RATE, errors=True)) == [88, 90]
    assert _chosen(_trial(80, RATE, CLIP), _trial(90, RATE, errors=True)) == [90, 90]


def test_dropped_models_count_for_the_comparison_but_are_not_chosen() -> None:
    assert _chosen(_trial(80, RATE), _trial(90, RATE, CLIP), given_up=0) == [90, 90]
    assert _chosen(_trial(88, RATE), _trial(90, RATE, CLIP), given_up=1) == [88, 88]
    assert _chosen(_trial(80, RATE), _trial(90, RATE, CLIP), given_up=1) == [80, 80], "better than nothing"


@pytest.mark.parametrize(
    ("right", "rows", "ends"),
    [(100, 100, True), (98, 100, True), (97, 100, False), (999, 1000, True), (20, 20, True), (19, 20, False)],
)
def test_ceiling_of_accuracy(right: int, rows: int, ends: bool) -> None:
    trial, metric = _trial(right, rows=rows)
    assert at_ceiling(metric, trial.score) == ends


def test_metrics_without_a_known_best_score_have_no_ceiling() -> None:
    targets, outputs = np.linspace(0, 1, 50), np.linspace(0, 1, 50)
    evaluation = Evaluation(outputs, targets, 0.0)
    context = TaskContext(loss=LossInfo("mse", "squared_error", "values"))
    for name, ends in (("r2", True), ("mse", True), ("mae", True), (lambda y, p: 1.0, False)):
        scorer = Scorer(MetricSelection(name), context, ArrayData(np.zeros((50, 1)), targets))
        score = scorer.score(evaluation)
        assert scorer.metric is not None
        assert at_ceiling(scorer.metric, score) == ends
        assert not at_ceiling(scorer.metric, None)
    loss = LossMetric("loss", "min")
    assert not at_ceiling(loss, loss.score(evaluation))


@pytest.mark.parametrize(
    ("curve", "rises"),
    [
        ([1 - math.exp(-epoch / 5) for epoch in range(40)], False),
        ([1 - math.exp(-epoch / 40) for epoch in range(40)], True),
        ([0.5, 0.6], True),
        ([0.6, 0.5], False),
        ([0.5], False),
        ([math.nan, 0.5, math.nan, 0.7], True),
        ([0.5 + 0.1 * (-1) ** epoch for epoch in range(20)], False),
    ],
)
def test_curves_that_still_rise(curve: list[float], rises: bool) -> None:
    trial, _ = _trial(50)
    for history in ({"score": curve}, {"val_loss": [-value for value in curve]}):
        trial.history = history
        assert still_improves(trial, 1) == rises
    trial.history = {"score": curve}
    if rises:
        assert not still_improves(trial, -1)
