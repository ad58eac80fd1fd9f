"""A cross-entropy over classes on rows that are not one class each: nothing is a reference of its value."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from autotrainer.records.task import LossInfo, TargetSummary
from autotrainer.scoring.constant_prediction import constant_loss

ROWS = TargetSummary(2400, 600, 2, 4, False, True, 0.0, 1.0, 0.2, 0.16, values=(0.0, 1.0), classes=2, entropy=0.5)
LOSS = LossInfo("CrossEntropyLoss", "cross_entropy", "logits", "either", 1)


@pytest.mark.parametrize(
    ("loss", "targets", "mixed"),
    [
        pytest.param(LOSS, ROWS, True, id="several labels, or none"),
        pytest.param(replace(LOSS, targets="one_hot"), replace(ROWS, integer_type=True), True, id="Keras, integers"),
        pytest.param(LOSS, replace(ROWS, one_hot=True), False, id="one-hot"),
        pytest.param(LOSS, replace(ROWS, integer_type=True), False, id="two classes at each of four steps"),
        pytest.param(replace(LOSS, family="binary_cross_entropy"), ROWS, False, id="labels by themselves"),
    ],
)
def test_loss_of_mixed_classes(loss: LossInfo, targets: TargetSummary, mixed: bool) -> None:
    assert loss.mixes_classes(targets) == mixed
    if mixed:
        assert math.isnan(constant_loss(loss, targets))
