from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.records.task import OptimizerInfo
from autotrainer.rules.wrong_accumulation import WrongAccumulation

FAIR = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.68}}


def loop(
    passes: float, factor: float, *, ratio: Any = 1.0, batches: float | None = None, **case: Any
) -> dict[str, Any]:
    """Return a run with this many backward passes a step; 20 steps are an epoch."""
    delivered = passes if batches is None else batches
    scalars = {
        "backward_passes": passes,
        "loss_factor": factor,
        "gradient_factor": ratio,
        "loader_batches": lambda t: (t % 20 + 1) * delivered,
        **case.pop("scalars", {}),
    }
    return {"scalars": scalars, **case}


POOR = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.68}}
FAST = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5}, "table": {"update_ratio": 0.3}}
ADAM = {"optimizer": OptimizerInfo("adam", 0.001)}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(loop(1, 1, **POOR), None, id="no accumulation"),
        pytest.param(loop(0, 1, **POOR), None, id="no backward pass was seen"),
        pytest.param(loop(4, 0.25, **POOR), None, id="divided"),
        pytest.param(loop(4, 1, ratio=0.25, **POOR), None, id="divided before the step"),
        pytest.param(loop(4, 1, ratio=lambda t: 0.3 + 0.2 * np.sin(t), **POOR), None, id="clipped"),
        pytest.param(loop(4, 1), "info", id="a sum, but it learns"),
        pytest.param(loop(4, 1, **POOR), "warning", id="a sum"),
        pytest.param(loop(4, 1, **FAST), "error", id="a sum, large steps and no skill"),
        pytest.param(loop(4, 1, planned_epochs=None, **FAST), "warning", id="the same without a plan"),
        pytest.param(loop(4, 1, **FAST, **ADAM), "info", id="a sum, which Adam normalizes"),
        pytest.param(loop(8, 0.25, **POOR), "warning", id="divided by the wrong number"),
        pytest.param(loop(4, 1 / 16, **POOR), "warning", id="divided twice"),
        pytest.param(loop(4, 0.7, **POOR), None, id="the weight of a loss"),
        pytest.param(loop(2, 1, batches=1, **POOR), None, id="two losses of one batch"),
        pytest.param(loop(2, 1, batches=np.nan, **POOR), None, id="two passes of unknown batches"),
        pytest.param(loop(4, 1, batches=np.nan, **POOR), "warning", id="four passes of unknown batches"),
        pytest.param(loop(4, np.nan, **POOR), None, id="a loss that is a sum over rows"),
        pytest.param(loop(4, 1, steps=2, **POOR), None, id="young"),
        pytest.param(loop(4, 0.25, asked={"epoch_batches": 83.0}), None, id="few batches are left"),
        pytest.param(loop(10, 0.1, asked={"epoch_batches": 209.0}), None, id="4 percent"),
        pytest.param(loop(20, 0.05, asked={"epoch_batches": 419.0}), None, id="not quite 5 percent"),
        pytest.param(loop(30, 1 / 30, asked={"epoch_batches": 629.0}, per_epoch=20), None, id="29 of 629 batches"),
        pytest.param(
            {"optimizer": OptimizerInfo("adam", 0.1, accumulation=900), "planned_steps": 600}, "error", id="k"
        ),
        pytest.param({"optimizer": OptimizerInfo("adam", 0.1, accumulation=90), "planned_steps": 600}, None, id="fits"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = WrongAccumulation().check(*build(**case))
    assert (finding.severity if finding else None) == expected


@pytest.mark.parametrize(
    ("scalars", "expected"),
    [
        pytest.param({"gradient_factor": 0.0, "grad_norm": np.nan}, "error", id="gradients are removed"),
        pytest.param({"gradient_factor": 0.0, "grad_norm": 0.0}, "error", id="they are set to zero"),
        pytest.param({"gradient_factor": 0.0, "grad_norm": 0.4}, None, id="one layer is masked"),
        pytest.param({"gradient_factor": 0.0, "grad_norm": np.nan, "backward_passes": 0.0}, None, id="no pass"),
    ],
)
def test_gradients_that_are_reset_after_the_backward_pass(
    build: Callable[..., Any], scalars: dict[str, Any], expected: str | None
) -> None:
    finding = WrongAccumulation().check(*build(scalars={"backward_passes": 1.0, **scalars}))
    assert (finding.severity if finding else None) == expected


def resetting(lost: float, used: float, **case: Any) -> dict[str, Any]:
    """Return a run whose steps use the last of the batches that the loader delivers for each."""
    scalars = {"discarded_passes": lost, **case.pop("scalars", {})}
    return loop(used, 1, **{"batches": lost + used, "scalars": scalars, **case})


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(resetting(43, 1), "warning", id="the last batch, and it learns"),
        pytest.param(resetting(43, 1, **POOR), "error", id="the last batch"),
        pytest.param(
            resetting(43, 1, scalars={"loader_batches": np.nan}, asked={"epoch_batches": 44.0}),
            "warning",
            id="one step an epoch",
        ),
        pytest.param(resetting(1, 1, batches=1), None, id="two passes of each batch, as with perturbed weights"),
        pytest.param(resetting(3, 1, batches=np.nan), None, id="unknown batches"),
        pytest.param(resetting(0, 1), None, id="nothing is reset"),
        pytest.param(
            resetting(1, 1, optimizer=OptimizerInfo("adam", 1e-3, several=True)), None, id="adversarial training"
        ),
    ],
)
def test_gradients_that_are_reset_before_a_step(
    build: Callable[..., Any], case: dict[str, Any], expected: str | None
) -> None:
    finding = WrongAccumulation().check(*build(**case))
    assert (finding.severity if finding else None) == expected
    assert finding is None or finding.evidence["discarded"] == pytest.approx(43 / 44)


@pytest.mark.parametrize(("first", "words"), [(10, "are not used"), (17, "first step of the next epoch")])
@pytest.mark.parametrize(("case", "severity"), [({}, "info"), (POOR, "warning")])
def test_last_batches_of_an_epoch(
    build: Callable[..., Any], case: dict[str, Any], severity: str, first: int, words: str
) -> None:
    scalars = {
        **case.get("scalars", {}),
        "backward_passes": lambda t: first if t and t % 5 == 0 else 10,
        "loss_factor": 0.1,
        "gradient_factor": 1.0,
        "loader_batches": lambda t: (t % 5 + 1) * 10,
    }
    finding = WrongAccumulation().check(
        *build(**{**case, "scalars": scalars, "asked": {"epoch_batches": 57.0}, "per_epoch": 5, "steps": 150})
    )
    assert finding is not None
    assert words in finding.message
    assert finding.severity == (severity if first == 10 else "info")
    assert finding.evidence["dropped"] == pytest.approx(7 / 57)
