from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autotrainer.rules.wrong_backward import WrongBackward


def run(error: float, ratio: float | None = None, *names: str, **more: Any) -> dict[str, Any]:
    """Return a training whose functions were checked."""
    facts = {"backward_error": error} | ({} if ratio is None else {"backward_ratio": ratio})
    return {"asked": facts, "wrong_backward": names or ("Swish",)} | more


FAILED: dict[str, Any] = {"losses": lambda t: 0.693, "scalars": {"accuracy": 0.5}}


@pytest.mark.parametrize(
    ("case", "severity", "words"),
    [
        (run(2.0, -1.0), "warning", "has the opposite sign"),
        (run(0.5, 2.0), "warning", "is 2 times as large"),
        (run(0.3, None, "Swish", "Loss"), "warning", "of Swish (and of 1 more) is not the derivative"),
        (run(2.0, -1.0, **FAILED), "error", "accuracy is 0.5"),
        (run(2.0, -1.0, **FAILED, planned_epochs=None), "warning", "accuracy is 0.5"),
        (run(2.0, -1.0, **FAILED, steps=40), "warning", "opposite sign"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], severity: str, words: str) -> None:
    finding = WrongBackward().check(*build(**case))
    assert finding is not None
    assert finding.severity == severity
    assert words in finding.message


@pytest.mark.parametrize("case", [{}, run(1e-3), {"wrong_backward": ()}])
def test_right_gradients(build: Callable[..., Any], case: dict[str, Any]) -> None:
    assert WrongBackward().check(*build(**case)) is None
