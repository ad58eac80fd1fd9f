from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.records.task import TargetSummary
from autotrainer.rules.improper_loss import ImproperLoss

FROM_ONE = TargetSummary(600, 600, 2, 1, False, True, 1.0, 2.0, 1.5, 0.25, values=(1.0, 2.0), classes=2, majority=0.5)
TWO = TargetSummary(
    600, 600, 2, 1, False, True, 0.0, 1.0, 0.5, 0.25, values=(0.0, 1.0), classes=2, majority=0.5, entropy=0.69
)
RANKED = TargetSummary(300000, 600, 2, 500, False, True, 0.0, 1.0, 0.02, 0.02, values=(0.0, 1.0), classes=2)
PADDED = TargetSummary(2400, 600, 2, 4, False, True, 0.0, 1.0, 0.2, 0.16, values=(0.0, 1.0), classes=2)
OWN: dict[str, Any] = {
    "loss": "custom",
    "targets": FROM_ONE,
    "losses": lambda t: 0.4 - t,
    "steps": 20,
    "output_activation": "sigmoid",
}
SILENT: dict[str, Any] = {
    "loss": "custom",
    "targets": TWO,
    "losses": lambda t: 6e-8,
    "scalars": {"grad_norm": 0.0, "accuracy": 0.5, "output_min": 0.3, "output_max": 0.7},
    "steps": 10,
}


def custom(entropy: Any, low: float = 0.3, high: float = 0.7, of_logits: float = 0.0) -> dict[str, Any]:
    """Return a training with a custom loss, whose rows have this binary cross-entropy."""
    return OWN | {
        "scalars": {
            "binary_entropy": entropy,
            "output_min": low,
            "output_max": high,
            "entropy_of_logits": of_logits,
        }
    }


POOR: dict[str, Any] = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.25}}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param({"loss": "bce_logits", "targets": "signed", "steps": 1}, "error", id="labels -1 and 1"),
        pytest.param({"loss": "bce", "targets": "index", "steps": 1}, "error", id="class indices"),
        pytest.param({"loss": "ce", "targets": "index", "output_units": 1, "steps": 1}, "error", id="one output"),
        pytest.param({"loss": "bce", "losses": lambda t: -0.1 * t, "steps": 20}, "error", id="negative"),
        pytest.param(
            {"loss": "mse", "targets": "one_hot", "output_units": 4, "scalars": {"squared_error": 0.19}} | POOR,
            "error",
            id="squared error for classes, at chance",
        ),
        pytest.param(
            {"loss": "mse", "targets": "multilabel", "output_units": 4, "scalars": {"accuracy": 0.5}}
            | {"losses": lambda t: 0.25},
            "error",
            id="squared error for labels, at chance",
        ),
        pytest.param({"loss": "mse", "targets": "one_hot", "output_units": 4}, None, id="squared error, learns"),
        pytest.param({"loss": "mse", "targets": "binary"}, None, id="squared error for two classes, learns"),
        pytest.param({"loss": "bce", "targets": "one_hot", "output_units": 4}, None, id="bce over one-hot, learns"),
        pytest.param(custom(lambda t: 0.4 - t), "error", id="labels from 1, in a custom binary cross-entropy"),
        pytest.param(custom(lambda t: 0.2 - t), None, id="a custom loss that is not a cross-entropy"),
        pytest.param(custom(lambda t: 0.4 - t, 0.4995, 0.5), None, id="outputs of one half: any logistic loss is ln 2"),
        pytest.param(
            custom(lambda t: 0.4 - t, 0.0, 0.0, 1.0) | {"output_activation": "linear"},
            None,
            id="logits of zero: the same",
        ),
        pytest.param(
            custom(lambda t: 0.4 - t, 0.0, 0.0, 1.0) | {"output_activation": None},
            None,
            id="logits or probabilities of zero",
        ),
        pytest.param(
            custom(lambda t: 0.4 - t, -1.0, 2.0, 1.0) | {"output_activation": "linear"},
            "error",
            id="labels from 1, logits",
        ),
        pytest.param(custom(np.nan), None, id="probabilities of 0 and 1: clips unknown"),
        pytest.param(
            custom(lambda t: 0.4) | {"targets": TWO, "losses": lambda t: 0.4},
            None,
            id="labels 0 and 1 in a custom binary cross-entropy",
        ),
        pytest.param(SILENT, "error", id="one unit normalized by itself"),
        pytest.param(SILENT | {"output_units": 2}, None, id="two units, all margins kept"),
        pytest.param(SILENT | {"scalars": {**SILENT["scalars"], "accuracy": 0.99}}, None, id="solved from the start"),
        pytest.param(SILENT | {"scalars": {**SILENT["scalars"], "grad_norm": 0.1}}, None, id="gradients"),
        pytest.param(SILENT | {"losses": lambda t: 0.69}, None, id="a loss that is not zero: gradients lost elsewhere"),
        pytest.param(
            SILENT | {"scalars": {**SILENT["scalars"], "output_max": 0.3}}, None, id="outputs that do not differ"
        ),
        pytest.param({"loss": "ce", "targets": "multilabel", "output_units": 4, "steps": 1}, "error", id="many labels"),
        pytest.param({"loss": "ce", "targets": RANKED, "output_units": 500, "steps": 1}, None, id="many items, ranked"),
        pytest.param({"loss": "ce", "targets": PADDED, "output_units": 4, "steps": 1}, None, id="one-hot, or none"),
        pytest.param({"loss": "ce", "targets": "one_hot", "output_units": 4}, None, id="ce over one-hot"),
        pytest.param({"loss": "bce", "targets": "multilabel", "output_units": 4}, None, id="bce over many labels"),
        pytest.param(
            {"loss": "cce", "targets": "multilabel", "output_units": 4, "steps": 1, "output_activation": "sigmoid"},
            "error",
            id="probabilities of many labels, divided by their sum",
        ),
        pytest.param(
            {"loss": "cce", "targets": "one_hot", "output_units": 4, "steps": 1, "output_activation": "sigmoid"},
            None,
            id="probabilities of one class, divided by their sum",
        ),
        pytest.param({"loss": "bce"}, None, id="bce"),
        pytest.param({"loss": "ce", "targets": "index", "output_units": 4}, None, id="ce"),
        pytest.param({"loss": "mse", "targets": "real", "scalars": {"squared_error": 2.0}}, None, id="regression"),
        pytest.param({"loss": "custom", "losses": lambda t: -1.0}, None, id="a loss that may be negative"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = ImproperLoss().check(*build(**case))
    assert (finding.severity if finding else None) == expected


@pytest.mark.parametrize(
    ("scalars", "expected"),
    [
        pytest.param({"accuracy": 0.5, "squared_error": 0.3}, "error", id="at chance"),
        pytest.param({"accuracy": 0.95, "squared_error": 0.03}, None, id="learned by itself"),
        pytest.param({"accuracy": 0.5}, "info", id="labels that are not compared with the outputs"),
        pytest.param({"accuracy": 0.5, "squared_error": 0.3, "targets_ignored": 0.0}, None, id="targets are used"),
    ],
)
def test_loss_that_ignores_the_targets(
    build: Callable[..., Any], scalars: dict[str, float], expected: str | None
) -> None:
    case = {"loss": "custom", "losses": lambda t: 0.7, "scalars": {"targets_ignored": 1.0, **scalars}}
    finding = ImproperLoss().check(*build(**case))
    assert (finding.severity if finding else None) == expected
