"""What is said of trainings of which the loss alone is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autotrainer.training.judging import _has_fallen

NOISE = np.random.default_rng(0).normal(size=60)


@pytest.mark.parametrize(
    ("losses", "last", "fallen"),
    [
        pytest.param(np.linspace(4, 2, 60), 2.0, True, id="falls"),
        pytest.param(4 + 0.5 * NOISE, 4.3, True, id="within the noise of a single batch"),
        pytest.param(np.full(60, 4.0), 4.0, False, id="stays"),
        pytest.param(4 + 0.01 * NOISE, 4.6, False, id="rises by more than the noise"),
        pytest.param(np.linspace(4, 6, 60), 6.0, False, id="rises"),
    ],
)
def test_a_fall_of_the_loss(losses: Any, last: float, fallen: bool) -> None:
    facts: dict[str, float] = {}
    history = SimpleNamespace(losses=(np.arange(60), losses))
    monitor = SimpleNamespace(history=history, learn=facts.update)
    evaluation = SimpleNamespace(training_loss=last)
    run: Any = SimpleNamespace(monitor=monitor, evaluation=evaluation, history={"loss": [last]})
    assert _has_fallen(run) is fallen
    assert ("above_constant" in facts) is not fallen
