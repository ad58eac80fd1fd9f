from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autotrainer.records.task import TargetSummary
from autotrainer.rules.unscaled_targets import UnscaledTargets

FAR_MEAN = TargetSummary(600, 600, 2, 1, False, False, 36.0, 48.0, 42.0, 6.25)  # 17 standard deviations from 0


SERIES = TargetSummary(600, 600, 2, 1, False, False, 20.0, 80.0, 49.0, 196.0)  # 3.5 standard deviations from 0
SHORT: dict[str, Any] = {
    "targets": SERIES,
    "losses": lambda t: 1400.0,
    "scalars": {"squared_error": 1400.0, "output_spread": 0.1},
}
TINY = TargetSummary(600, 600, 2, 1, False, False, -3e-4, 3e-4, 0.0, 1e-8)


SLOW: dict[str, Any] = {"targets": "large", "losses": lambda t: 2.8e8, "scalars": {"squared_error": 2.8e8}}
SIMPLE = {"linear_score": 0.99, "trivial_score": 0.0, "held_out_rows": 200.0}


def slowly(t: int) -> float:
    return 4e9 * 0.997**t


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param({"targets": "large", "steps": 2, "scalars": {"squared_error": 4e8}}, "warning", id="young"),
        pytest.param(SLOW | {"finished": True, "asked": SIMPLE}, "error", id="far behind a simple model at the end"),
        pytest.param(SLOW | {"asked": SIMPLE}, "warning", id="far behind a simple model so far"),
        pytest.param(
            SLOW | {"finished": True, "asked": SIMPLE | {"linear_score": 0.4}},
            "warning",
            id="a simple model is no better",
        ),
        pytest.param(
            {"targets": "large", "losses": lambda t: 4e8, "scalars": {"squared_error": 4e8}}, "error", id="stuck"
        ),
        pytest.param(
            {"targets": "large", "losses": slowly, "scalars": {"squared_error": slowly}, "steps": 400},
            "error",
            id="below the mean for half of the schedule",
        ),
        pytest.param(
            {"targets": "large", "losses": slowly, "scalars": {"squared_error": slowly}, "steps": 200},
            "warning",
            id="on its way to the mean",
        ),
        pytest.param(
            {"targets": "large", "steps": 6, "losses": lambda t: 1e8 * 9.0**t, "scalars": {"squared_error": 1e20}},
            "error",
            id="diverges",
        ),
        pytest.param({"targets": "large", "scalars": {"squared_error": 1e7}}, None, id="learns"),
        pytest.param(
            {"targets": "large", "loss": "custom", "losses": lambda t: 4e8, "scalars": {"squared_error": 4e8}},
            "error",
            id="stuck with a custom squared error",
        ),
        pytest.param(
            {"targets": "large", "loss": "custom", "losses": lambda t: 1.0, "scalars": {"squared_error": 4e8}},
            None,
            id="a custom loss that does not measure distance",
        ),
        pytest.param(
            {"targets": "large", "loss": "custom", "steps": 4, "scalars": {"squared_error": 4e8}},
            "warning",
            id="a custom loss, not identified yet",
        ),
        pytest.param({"targets": "real", "losses": lambda t: 1.0, "scalars": {"squared_error": 1.0}}, None, id="unit"),
        pytest.param(
            {
                "targets": FAR_MEAN,
                "loss": "mae",
                "steps": 200,
                "losses": lambda t: 42 - 0.03 * t,
                "scalars": {"squared_error": lambda t: (42 - 0.03 * t) ** 2},
            },
            "error",
            id="outputs will not reach the mean",
        ),
        pytest.param(
            {
                "targets": FAR_MEAN,
                "loss": "mae",
                "steps": 200,
                "losses": lambda t: 42 - 0.1 * t,
                "scalars": {"squared_error": lambda t: (42 - 0.1 * t) ** 2},
            },
            "warning",
            id="outputs may reach the mean",
        ),
        pytest.param(
            {"targets": FAR_MEAN, "loss": "mae", "losses": lambda t: 8.0, "scalars": {"squared_error": 64.0}},
            None,
            id="outputs are near the mean",
        ),
        pytest.param(SHORT, "error", id="outputs of little spread, less than half way to the mean"),
        pytest.param(SHORT | {"steps": 30}, None, id="young"),
        pytest.param(
            SHORT | {"scalars": {"squared_error": 1400.0, "output_spread": 25.0}}, None, id="outputs that vary"
        ),
        pytest.param(SHORT | {"scalars": {"squared_error": 4900.0, "output_spread": 0.1}}, None, id="beyond the mean"),
        pytest.param(SHORT | {"scalars": {"squared_error": 700.0, "output_spread": 0.1}}, None, id="past half way"),
        pytest.param(
            {"targets": TINY, "losses": lambda t: 1e-5, "scalars": {"squared_error": 1e-5}}, "error", id="tiny, drowned"
        ),
        pytest.param(
            {"targets": TINY, "losses": lambda t: 1e-8, "scalars": {"squared_error": 1e-8}}, None, id="tiny, the mean"
        ),
        pytest.param({"targets": "index", "loss": "ce", "output_units": 4}, None, id="classes"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = UnscaledTargets().check(*build(**{"loss": "mse"} | case))
    assert (finding.severity if finding else None) == expected
