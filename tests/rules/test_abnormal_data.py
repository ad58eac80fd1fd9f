from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.rules.abnormal_data import AbnormalData


def case(steps: int = 600, accuracy: float = 0.5, **values: Any) -> dict[str, Any]:
    return {"losses": lambda t: 0.7, "steps": steps, "scalars": {"accuracy": accuracy} | values}


UNKNOWN: dict[str, Any] = case(accuracy=math.nan, input_std=9e3, input_max_abs=2e4) | {
    "targets": "real",
    "loss": "custom",
}
MISSING = {
    **{"missing_code": -999.0, "missing_code_column": 3.0, "missing_code_share": 0.12},
    **{"missing_code_low": -3.1, "missing_code_high": 2.9, "missing_code_columns": 1.0},
}


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        pytest.param(case(2, input_std=70.0, input_max_abs=255.0), "warning", id="raw images, young"),
        pytest.param(case(input_std=70.0, input_max_abs=255.0), "error", id="raw images, stuck"),
        pytest.param(case(accuracy=0.95, input_std=70.0, input_max_abs=255.0), None, id="raw images, learns"),
        pytest.param(UNKNOWN | {"table": {"grad_norm": 0.0}}, "error", id="large, and no gradient"),
        pytest.param(UNKNOWN, "warning", id="large, skill unknown"),
        pytest.param(case(input_std=1e-3, input_max_abs=4e-3), "error", id="tiny, stuck"),
        pytest.param(case(accuracy=0.95, input_std=1e-3, input_max_abs=4e-3), None, id="tiny, learns"),
        pytest.param(case(input_std=0.0, input_max_abs=4e-3), None, id="a single tiny value, such as a parameter"),
        pytest.param(case(input_std=0.01, input_max_abs=0.5), None, id="sparse"),
        pytest.param(case(input_offset=40.0), "error", id="offset, stuck"),
        pytest.param(case(input_scale_ratio=1e5, input_max_abs=900.0), "error", id="scales apart, stuck"),
        pytest.param(
            case(input_scale_ratio=1e5, input_max_abs=1.0), None, id="scales apart, but small: pixels that hardly vary"
        ),
        pytest.param(case(input_rounded=0.25, input_max_abs=3.2e9), "error", id="rounded, stuck"),
        pytest.param(case(2, input_rounded=0.25, input_max_abs=3.2e9), "warning", id="rounded, young"),
        pytest.param(case(input_rounded=0.0, input_max_abs=3.2e9), None, id="large, not rounded"),
        pytest.param(case(input_std=70.0) | {"input_kind": "index"}, None, id="indices"),
        pytest.param(case(), None, id="usual scale, stuck"),
        pytest.param(case() | {"asked": MISSING}, "error", id="missing values, stuck"),
        pytest.param(
            case() | {"asked": MISSING, "input_kind": "scaled"}, "error", id="missing values, batch norm first"
        ),
        pytest.param(case() | {"asked": MISSING, "input_kind": "index"}, None, id="missing values, indices"),
        pytest.param(case(2) | {"asked": MISSING}, "warning", id="missing values, young"),
        pytest.param(case(accuracy=0.95) | {"asked": MISSING}, "info", id="missing values, learns"),
        pytest.param(case(distinct_rows=1.0, output_spread=0.0), "error", id="equal rows, stuck"),
        pytest.param(case(3, distinct_rows=1.0, output_spread=0.0), None, id="equal rows, young"),
        pytest.param(case(distinct_rows=1.0), None, id="equal rows of one input, other outputs"),
        pytest.param(case(distinct_rows=1.0, output_spread=0.0, batch_size=1.0), None, id="one row"),
        pytest.param(case(distinct_rows=32.0, output_spread=0.0), None, id="constant outputs of other rows"),
        pytest.param(case(accuracy=0.95, distinct_rows=1.0, output_spread=0.0), None, id="equal rows, learns"),
        pytest.param(
            case(input_std=8.0) | {"table": {"activation_mean_abs": [40.0, 0.5, 0.5]}},
            "error",
            id="hidden layer, stuck",
        ),
        pytest.param(
            case() | {"table": {"activation_mean_abs": [40.0, 0.5, 0.5]}}, None, id="hidden layer, inputs of unit scale"
        ),
        pytest.param(case() | {"table": {"activation_mean_abs": [0.4, 0.5, 90.0]}}, None, id="only the output"),
        pytest.param(
            case(input_std=np.nan, input_offset=np.nan, input_scale_ratio=np.nan), None, id="nothing measured"
        ),
    ],
)
def test_verdict(build: Callable[..., Any], training: dict[str, Any], expected: str | None) -> None:
    finding = AbnormalData().check(*build(**training))
    assert (finding.severity if finding else None) == expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"distinct_rows": 1.0, "output_spread": 0.0, "input_max_abs": 0.0}, "All inputs are 0, and accuracy is 0.5"),
        ({"distinct_rows": 1.0, "output_spread": 0.0, "input_max_abs": 3.0}, "All rows of the inputs are the same"),
        ({"input_std": 1e-3, "input_max_abs": 1 / 255}, "0.00392, which is 1/255, as of pixels that were divided"),
        ({"input_std": 1e-3, "input_max_abs": 4e-3}, "the largest magnitude is 0.004, and"),
    ],
)
def test_the_message_names_what_has_destroyed_the_inputs(
    build: Callable[..., Any], values: dict[str, float], words: str
) -> None:
    finding = AbnormalData().check(*build(**case(**values)))
    assert finding is not None
    assert words in finding.message
    assert bool(finding.repairs) is ("distinct_rows" not in values)


def test_divergence_makes_it_an_error_at_once(build: Callable[..., Any]) -> None:
    run = build(
        targets="real", loss="mse", steps=6, losses=lambda t: 10.0**t, scalars={"input_std": 50.0, "squared_error": 1e9}
    )
    finding = AbnormalData().check(*run)
    assert finding is not None
    assert finding.severity == "error"


def test_thresholds_are_monotone(build: Callable[..., Any]) -> None:
    run = build(**case(input_std=70.0))
    assert [AbnormalData(std=s).check(*run) is not None for s in (1e3, 100, 50, 1)] == [False, False, True, True]


def test_the_message_names_the_number_that_stands_for_missing_values(build: Callable[..., Any]) -> None:
    finding = AbnormalData().check(*build(**case(), asked=MISSING))
    assert finding is not None
    assert "Column 3 of the inputs holds -999 in 12% of the rows" in finding.message
    two = AbnormalData().check(*build(**case(), asked=MISSING | {"missing_code_columns": 2.0}))
    assert two is not None
    assert "1 other column holds such numbers" in two.message
