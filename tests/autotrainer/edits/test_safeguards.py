"""Decisions that safeguards take, the same in both backends."""

from __future__ import annotations

import math

import pytest

from autotrainer.edits import Rollback


@pytest.mark.parametrize(
    ("loss", "best", "first", "setback"),
    [
        (0.6, 0.5, 1.0, False),
        (1.01, 0.5, 1.0, True),  # more than twice the best
        (math.nan, 0.5, 1.0, True),
        (math.inf, 0.5, 1.0, True),
        (0.05, 0.001, 1.0, False),  # near zero, a tenth of the decrease so far is noise
        (0.2, 0.001, 1.0, True),
        (-1.5, -2.0, 0.0, False),
        (2.1, -2.0, 0.0, True),
    ],
)
def test_setback_of_the_training_loss(loss: float, best: float, first: float, setback: bool) -> None:
    assert Rollback(limit=2.0).is_setback(loss, best=best, first=first) is setback
