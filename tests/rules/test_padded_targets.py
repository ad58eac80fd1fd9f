from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autotrainer.rules.padded_targets import PaddedTargets


def run(share: Any, accuracy: Any = 0.9, **more: Any) -> dict[str, Any]:
    """Return a training of classes whose targets hold this share of padding."""
    scalars = {"padded_targets": share, "accuracy": accuracy}
    return {"targets": "index", "loss": "ce", "output_units": 4, "scalars": scalars} | more


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(run(0.7), "warning", id="most of the loss is padding"),
        pytest.param(run(0.3), None, id="some padding"),
        pytest.param(run(0.0), None, id="none"),
        pytest.param(run(float("nan")), None, id="no sequences"),
        pytest.param(run(0.7, loss="nll"), "warning", id="log-probabilities"),
        pytest.param(run(0.7, loss="custom"), None, id="a custom loss may mask"),
        pytest.param(run(0.7, loss="bce"), None, id="labels"),
        pytest.param(run(0.26, 0.25, losses=lambda t: 1.386), None, id="little padding, nothing learned"),
        pytest.param(run(0.7, steps=1), "warning", id="one batch"),
        pytest.param(
            {**run(0.7), "steps": 1, "scalars": {"padded_targets": 0.7, "batch_size": 8}}, None, id="few sequences"
        ),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = PaddedTargets().check(*build(**case))
    assert (finding.severity if finding else None) == expected


@pytest.mark.parametrize(("epochs", "expected"), [(30, "error"), (None, "warning")])
def test_predicting_nothing_but_padding_is_an_error(
    build: Callable[..., Any], epochs: int | None, expected: str
) -> None:
    case = run(0.6, 0.25, losses=lambda t: 1.386, planned_epochs=epochs)
    finding = PaddedTargets().check(*build(**case))
    assert finding is not None
    assert finding.severity == expected
    assert "60% of the targets" in finding.message
    assert "ignore_index" in finding.message
