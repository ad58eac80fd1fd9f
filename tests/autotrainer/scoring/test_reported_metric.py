"""Scores that the user's loop tells, and when one training is better than another by them."""

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
        # A training that has exploded flickers wildly: that is no measure of noise.
        ("val_loss", [0.5, 0.1, 0.06], [1e9, 14.0, 13.9], True),
        ("val_loss", [1e9, 14.0, 13.9], [0.5, 0.1, 0.06], False),
        ("r2", [0.1, 0.5, 0.6], [-1e9, -300.0, -2.0], True),
        ("accuracy", [0.5, 0.7, NAN], [0.5, 0.5, 0.5], False),
        ("accuracy", [0.5, 0.5, 0.5], [0.5, 0.7, NAN], True),
        ("accuracy", [NAN, NAN], [NAN, NAN], False),
    ],
)
def test_better_by_more_than_flicker(name: str, new: list[float], old: list[float], better: bool) -> None:
    metric = ReportedMetric(name)
    assert metric.better(metric.told(new), metric.told(old)) is better


@pytest.mark.parametrize(
    ("name", "mode"), [("val_loss", "min"), ("RMSE_error", "min"), ("mae", "min"), ("f1", "max"), ("val_acc", "max")]
)
def test_the_name_says_which_way_is_better(name: str, mode: str) -> None:
    assert ReportedMetric(name).mode == mode
    assert ReportedMetric(name, "max").mode == "max"
