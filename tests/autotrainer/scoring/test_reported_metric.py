"""Scores reported by the user's loop: their noise and direction."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from autotrainer.monitoring.summary import DataSummary
from autotrainer.records.task import LossInfo, TaskContext
from autotrainer.scoring.reported_metric import ReportedMetric

NAN = math.nan


@pytest.mark.parametrize(
    ("name", "new", "old", "better"),
    [
        ("accuracy", [0.5, 0.7, 0.8], [0.5, 0.5, 0.5], True),
        ("accuracy", [0.5, 0.5, 0.51], [0.5, 0.5, 0.5], False),
        ("accuracy", [0.6, 0.9, 0.6, 0.9], [0.9, 0.6, 0.9, 0.6], False),
        ("val_loss", [0.5, 0.1, 0.06], [0.5, 0.4, 0.4], True),
        ("val_loss", [0.5, 0.4, 0.4], [0.5, 0.1, 0.06], False),
        ("val_loss", [1.0, 0.6, 0.9, 0.58], [1.0, 0.9, 0.59, 0.8], False),
        # The fluctuation of a diverged training does not measure the noise of the other one.
        ("val_loss", [0.5, 0.1, 0.06], [1e9, 14.0, 13.9], True),
        ("val_loss", [1e9, 14.0, 13.9], [0.5, 0.1, 0.06], False),
        ("r2", [0.1, 0.5, 0.6], [-1e9, -300.0, -2.0], True),
        ("accuracy", [0.5, 0.7, NAN], [0.5, 0.5, 0.5], False),
        ("accuracy", [0.5, 0.5, 0.5], [0.5, 0.7, NAN], True),
        ("accuracy", [NAN, NAN], [NAN, NAN], False),
        ("accuracy", [50.0, 50.0, 51.5], [50.0, 50.0, 50.0], False),
    ],
)
def test_gain_must_exceed_fluctuation(name: str, new: list[float], old: list[float], better: bool) -> None:
    metric = ReportedMetric(name)
    assert metric.better(metric.score_history(new), metric.score_history(old)) is better


@pytest.mark.parametrize(
    ("name", "mode"), [("val_loss", "min"), ("RMSE_error", "min"), ("mae", "min"), ("f1", "max"), ("val_acc", "max")]
)
def test_mode_is_derived_from_the_name(name: str, mode: str) -> None:
    assert ReportedMetric(name).mode == mode
    assert ReportedMetric(name, "max").mode == "max"


CLASSES = TaskContext(loss=LossInfo("ce", "cross_entropy", "logits", "index"), output_units=2)
NUMBERS = TaskContext(loss=LossInfo("mse", "squared_error", "values"), output_units=1)


@pytest.mark.parametrize(
    ("name", "value", "context", "above"),
    [
        ("val_accuracy", 0.6, CLASSES, True),
        ("val_accuracy", 0.54, CLASSES, False),
        ("val_acc", 0.4, CLASSES, False),
        ("val_acc", 0.4, NUMBERS, True),
        ("val_acc", 0.4, replace(CLASSES, loss=replace(CLASSES.loss, weighted=True)), True),
        ("accuracy", NAN, CLASSES, False),
        ("balanced_accuracy", 0.4, CLASSES, True),
        ("top5_accuracy", 0.4, CLASSES, True),
        ("val_accuracy", 54.0, CLASSES, False),  # in percent
        ("val_accuracy", 60.0, CLASSES, True),
        ("r2", 0.04, NUMBERS, False),
        ("r2", 4.0, NUMBERS, True),  # it is not known what that is
        ("val_r2", 0.06, NUMBERS, True),
        ("val_loss", 0.69, CLASSES, False),
        ("val_loss", 0.6, CLASSES, True),
        ("val_loss", 1.9, CLASSES, False),
        ("val_loss", 20.0, CLASSES, True),  # summed over batches
        ("val_loss", 4.0, NUMBERS, False),
        ("val_loss", 4.0, replace(NUMBERS, loss=LossInfo()), True),
        ("val_mse", 3.9, NUMBERS, True),
        ("ranking_loss", 2.0, CLASSES, True),
        ("f1", 0.1, CLASSES, True),
    ],
)
def test_scores_at_the_level_of_a_constant_prediction(
    name: str, value: float, context: TaskContext, above: bool
) -> None:
    summary = DataSummary()
    summary.add_targets(np.tile([0, 1], 50) if context.loss.family == "cross_entropy" else np.tile([-2.0, 2.0], 50))
    metric = ReportedMetric(name)
    score = metric.score_history([value])
    constant = metric.constant_score(context, summary.targets, score)
    assert metric.above_constant(score, constant) is above
    assert metric.above_constant(None, constant) is False
