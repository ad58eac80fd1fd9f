"""Running statistics of batch normalization, as `abnormal_normalization` judges them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotrainer.records.signals import LayerInfo
from autotrainer.rules.abnormal_normalization import AbnormalNormalization

WORSE: dict[str, Any] = {
    "targets": "index",
    "loss": "ce",
    "output_units": 4,
    "scalars": {"accuracy": 0.98, "training_mode": 1.0},
    "epochs": {"val_accuracy": lambda epoch: 0.7},
    "finished": True,
}
SLIGHTLY = {"epochs": {"val_accuracy": lambda epoch: 0.88}}
AS_GOOD = {"epochs": {"val_accuracy": lambda epoch: 0.97}}


def averaging(share: float | None, **changes: Any) -> dict[str, Any]:
    norm = replace(LayerInfo("bn", "norm", "linear", 16, 32, averaging=share), **changes)
    return {"layers": (norm, LayerInfo("out", "dense", "linear", 4, 68, hidden=False))}


@pytest.mark.parametrize(
    ("options", "expected", "words"),
    [
        pytest.param(averaging(0.1), None, "", id="default of PyTorch"),
        pytest.param(averaging(0.01), None, "", id="default of Keras"),
        pytest.param(averaging(1e-3), "error", "55% of their initial values 0 and 1 after 600 batches", id="stale"),
        pytest.param(averaging(1e-3) | SLIGHTLY, "warning", "(momentum=0.001)", id="small gap"),
        pytest.param(
            averaging(1e-3) | {"framework": "keras-tensorflow"},
            "error",
            "(momentum=0.999); skill over a constant prediction is 0.973 in training and 0.6 in validation. "
            "Train longer, or set momentum=0.9.",
            id="in Keras",
        ),
        pytest.param(averaging(1e-3) | {"managed": True}, "warning", "55% of", id="fit may train longer"),
        pytest.param(
            averaging(1e-3) | {"planned_epochs": 55, "finished": False}, "warning", "55% of", id="less at the end"
        ),
        pytest.param(averaging(1e-3) | AS_GOOD, None, "", id="as good in validation"),
        pytest.param(averaging(3e-3), "warning", "16% of their", id="in part"),
        pytest.param(averaging(5e-3), None, "", id="hardly any more"),
        pytest.param(
            averaging(3e-3) | {"scalars": WORSE["scalars"] | {"backward_passes": 4.0}}, None, "", id="accumulation"
        ),
        pytest.param(averaging(0.0), "error", "100% of their", id="never updated"),
        pytest.param(averaging(0.99), "warning", "last batch, which has a share of 0.99", id="last batch alone"),
        pytest.param(averaging(0.99) | AS_GOOD, None, "", id="last batch, as good"),
        pytest.param(averaging(0.99) | {"per_epoch": 1, "planned_epochs": 600}, None, "", id="full batches"),
        pytest.param(
            averaging(0.99) | {"steps": 1500, "per_epoch": 1, "planned_epochs": 1500}, None, "", id="many full batches"
        ),
        pytest.param(averaging(None), None, "", id="all batches count alike"),
        pytest.param(averaging(1e-3, origin="trained"), None, "", id="pretrained"),
        pytest.param(averaging(1e-3, frozen=True), None, "", id="frozen"),
        pytest.param(
            averaging(1e-3) | {"scalars": WORSE["scalars"] | {"training_mode": 0.0}}, None, "", id="evaluation mode"
        ),
        pytest.param(averaging(1e-3) | {"epochs": {"value": float}}, None, "", id="no validation"),
        pytest.param(averaging(1e-3) | {"steps": 200, "finished": False}, None, "", id="early"),
    ],
)
def test_running_statistics(build: Callable[..., Any], options: Any, expected: str | None, words: str) -> None:
    case = WORSE | options
    finding = AbnormalNormalization().check(*build(table={"dead_units": np.nan}, **case))
    assert (finding and str(finding.severity)) == expected
    assert finding is None or (words in finding.message and finding.layers == ("bn",))


UNSEEN: dict[str, Any] = averaging(1e-3) | {"epochs": {"loss": lambda epoch: 0.1}}
HIDDEN = (LayerInfo("in", "dense", "linear", 16, 160), *averaging(1e-3)["layers"])


@pytest.mark.parametrize(
    ("options", "spread", "words"),
    [
        pytest.param({}, 40.0, "55% of their initial values 0 and 1 after 600 batches", id="large inputs"),
        pytest.param({}, 0.1, "inputs of bn have a standard deviation of 0.1", id="small inputs"),
        pytest.param({"framework": "keras-tensorflow"}, 40.0, "(momentum=0.999)", id="in Keras"),
        pytest.param({}, 1.3, "", id="inputs like the initial statistics"),
        pytest.param({}, np.nan, "", id="unknown inputs"),
        pytest.param({"steps": 900}, 40.0, "", id="most of the initial values gone"),
        pytest.param({"finished": False, "planned_epochs": 55}, 40.0, "", id="still running"),
        pytest.param({"managed": True}, 40.0, "", id="fit evaluates"),
        pytest.param(AS_GOOD, 40.0, "", id="as good in validation"),
        pytest.param({"epochs": {"val_loss": lambda epoch: 0.1}}, 40.0, "", id="validation loss alone"),
        pytest.param({"layers": HIDDEN[1:]}, 40.0, "", id="no layer before it"),
    ],
)
def test_running_statistics_that_no_evaluation_has_shown(
    build: Callable[..., Any], options: Any, spread: float, words: str
) -> None:
    case = WORSE | UNSEEN | {"layers": HIDDEN} | options
    finding = AbnormalNormalization().check(*build(table={"dead_units": np.nan, "activation_spread": spread}, **case))
    assert (finding is not None) == bool(words)
    assert finding is None or (words in finding.message and finding.layers == ("bn",))
    assert finding is None or str(finding.severity) == "warning"
