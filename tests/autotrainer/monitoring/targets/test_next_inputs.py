"""Targets of sequences that are their next inputs, or their inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autotrainer.monitoring.targets.next_inputs import next_targets

TOKENS = np.random.default_rng(0).integers(0, 9, (6, 9))


@pytest.mark.parametrize(
    ("inputs", "targets", "expected"),
    [
        pytest.param(TOKENS[:, :-1], TOKENS[:, 1:], 1, id="next tokens"),
        pytest.param(TOKENS[:, :-1], TOKENS[:, 1:].ravel(), 1, id="of all rows, one after the other"),
        pytest.param(TOKENS[:, :-1].T, TOKENS[:, 1:].T, 1, id="time first"),
        pytest.param(TOKENS[:, :-1, None], TOKENS[:, None, 1:], 1, id="axes of length 1"),
        pytest.param(TOKENS[:, :-1], np.where(TOKENS[:, 1:] < 4, -100, TOKENS[:, 1:]), 1, id="some are masked"),
        pytest.param(TOKENS[:, :-1], TOKENS[:, :-1], 2, id="the same tokens"),
        pytest.param(TOKENS[:, :-1], TOKENS[:, ::-1][:, :-1], 0, id="other tokens"),
        pytest.param(TOKENS[:, :-1], TOKENS[:, 0], np.nan, id="classes of rows"),
        pytest.param(np.ones((6, 8)), np.ones((6, 8)), np.nan, id="nothing changes"),
    ],
)
def test_targets_that_are_the_next_inputs(inputs: Any, targets: Any, expected: float) -> None:
    np.testing.assert_equal(next_targets(inputs, targets, by_steps=True), expected)
