from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autotrainer.records.task import OptimizerInfo
from autotrainer.rules.recreated_optimizer import RecreatedOptimizer

EACH_STEP = {"asked": {"later_optimizers": 599.0, "later_steps": 599.0}}
FEW_STEPS = {"asked": {"later_optimizers": 100.0, "later_steps": 500.0}}
EACH_EPOCH = {"asked": {"later_optimizers": 29.0, "later_steps": 580.0}}
PHASES = {"asked": {"later_optimizers": 2.0, "later_steps": 2.0}}
ADAM = {"optimizer": OptimizerInfo("adam", 0.001)}
MOMENTUM = {"optimizer": OptimizerInfo("sgd", 0.01, 0.9)}
POOR = {"epochs": {"val_accuracy": lambda epoch: 0.7}}
GOOD = {"epochs": {"val_accuracy": lambda epoch: 0.95}}
STUCK = {"losses": lambda step: 0.7, "scalars": {"accuracy": 0.5}, "finished": True}


@pytest.mark.parametrize(
    ("options", "expected", "words"),
    [
        pytest.param(
            EACH_STEP | ADAM, "warning", "599 optimizers of the same parameters took one step each", id="Adam"
        ),
        pytest.param(EACH_STEP | MOMENTUM | GOOD, "warning", "those before. Create it once", id="good score"),
        pytest.param(EACH_STEP | MOMENTUM | POOR, "error", "0.4 in validation", id="poor in validation"),
        pytest.param(EACH_STEP | MOMENTUM | STUCK, "error", "accuracy is 0.5", id="poor in training"),
        pytest.param(EACH_STEP | ADAM | POOR | {"steps": 1}, "warning", "", id="no epoch has ended"),
        pytest.param(EACH_STEP | ADAM | {"steps": 0}, "warning", "", id="nothing observed"),
        pytest.param(FEW_STEPS | ADAM, "warning", "took 5 steps each", id="five steps"),
        pytest.param(EACH_EPOCH | ADAM | POOR, None, "", id="each epoch"),
        pytest.param(PHASES | ADAM | POOR, None, "", id="phases"),
        pytest.param(EACH_STEP | {"optimizer": OptimizerInfo("sgd", 0.01)} | POOR, None, "", id="nothing to remember"),
        pytest.param(ADAM | POOR, None, "", id="one optimizer"),
    ],
)
def test_optimizers_without_memory(build: Callable[..., Any], options: Any, expected: str | None, words: str) -> None:
    finding = RecreatedOptimizer().check(*build(**options))
    assert (finding and str(finding.severity)) == expected
    assert finding is None or words in finding.message
