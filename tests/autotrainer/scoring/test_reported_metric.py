"""Scores reported by the user's loop: their noise and direction."""

from __future__ import annotations

import math

import pytest

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


@pytest.mark.parametrize(
    ("name", "value", "trivial", "above"),
    [
        ("val_accuracy", 0.6, 0.5, True),
        ("val_accuracy", 0.5, 0.5, False),
        ("val_acc", 0.4, 0.5, False),
        ("val_acc", 0.4, NAN, True),
        ("accuracy", NAN, 0.5, False),
        ("balanced_accuracy", 0.4, 0.5, True),
        ("top5_accuracy", 0.4, 0.5, True),
        ("r2", 0.04, NAN, False),
        ("val_r2", 0.06, NAN, True),
        ("val_loss", 2.0, 0.5, True),
        ("f1", 0.1, 0.5, True),
    ],
)
def test_scores_at_the_level_of_a_constant_prediction(name: str, value: float, trivial: float, above: bool) -> None:
    metric = ReportedMetric(name)
    assert metric.above_trivial(metric.score_history([value]), trivial) is above
    assert metric.above_trivial(None, trivial) is False
