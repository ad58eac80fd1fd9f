from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.records.task import OptimizerInfo
from autotrainer.rules.bad_resume import BadResume

EARLIER = {
    "resumed_steps": 400.0,
    "resumed_complete": 0.0,
    "resumed_within_epoch": 1.0,
    "resumed_loss": 0.5,
    "resumed_loss_noise": 0.1,
    "resumed_first_loss": 0.5,
    "resumed_rate": 0.01,
    "resumed_optimizer_steps": 400.0,
    "resumed_scheduler_steps": 400.0,
    "resumed_same_batches": 0.0,
}
SCHEDULED = {"optimizer": OptimizerInfo("adam", 0.01, scheduled=True)}


def run(memory: float = 400, schedule: float = 400, **facts: float) -> dict[str, Any]:
    """Return a run that continues another one with so many steps in the memory of the optimizer and the scheduler."""
    counts = {"optimizer_steps": lambda t: memory + t + 1, "scheduler_steps": lambda t: schedule + t}
    return {"scalars": counts, "asked": EARLIER | facts, **SCHEDULED}


def alone(memory: float, schedule: float) -> dict[str, Any]:
    return run(memory, schedule) | {"asked": {}}


JUMP = {"resumed_first_loss": 0.9}
FLAT = {"losses": lambda t: 0.9, "finished": True}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param({}, None, id="a run from the start"),
        pytest.param(run(), None, id="everything was kept"),
        pytest.param(run(memory=0), "warning", id="the memory of the optimizer was lost"),
        pytest.param(run(schedule=0), "warning", id="the schedule begins again"),
        pytest.param(run(resumed_same_batches=1.0), "warning", id="the data begin again"),
        pytest.param(run(resumed_same_batches=1.0, resumed_within_epoch=0.0), None, id="the same order in a new epoch"),
        pytest.param(run(memory=0, resumed_complete=1.0), "info", id="a second phase"),
        pytest.param(run(resumed_rate=0.001), "warning", id="the rate is back"),
        pytest.param(run(**JUMP), "warning", id="the loss jumps"),
        pytest.param(run(memory=0, **JUMP) | FLAT, "error", id="the loss jumps for good"),
        pytest.param(run(memory=0, **JUMP) | {"finished": True}, "warning", id="the loss jumps, and comes back"),
        pytest.param(run(resumed_first_loss=0.65, resumed_loss_noise=0.6), None, id="noise"),
        pytest.param(run(resumed_first_loss=0.55, resumed_loss_noise=0.01), None, id="a small rise"),
        pytest.param(alone(0, 400), "warning", id="a scheduler of 400 steps, an optimizer without any"),
        pytest.param(alone(400, 0), "info", id="an optimizer of 400 steps, a new scheduler"),
        pytest.param(alone(400, 400), None, id="both go on"),
        pytest.param(alone(0, 0), None, id="both begin"),
        pytest.param(
            {"scalars": {"optimizer_steps": lambda t: t + 1, "scheduler_steps": lambda t: 32 * (t + 1) - 1}},
            None,
            id="a scheduler that is stepped 32 times for each step",
        ),
        pytest.param(
            run(resumed_first_loss=np.inf) | {"losses": lambda t: np.inf, "finished": True}, None, id="no finite loss"
        ),
        pytest.param(alone(np.nan, 400), None, id="an optimizer without a counter"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = BadResume().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_message_says_what_was_lost(build: Callable[..., Any]) -> None:
    finding = BadResume().check(*build(**run(memory=0, schedule=0, resumed_rate=0.001, **JUMP)))
    assert finding is not None
    for words in ("400 steps", "memory of the optimizer", "0.01 again, after 0.001", "from 0.5 to 0.9"):
        assert words in finding.message
