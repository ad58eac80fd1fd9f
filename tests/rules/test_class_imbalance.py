from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotrainer.records.task import TargetSummary
from autotrainer.rules.class_imbalance import ClassImbalance


def two(majority: float) -> TargetSummary:
    """Return the summary of labels of which this share is 0."""
    return TargetSummary(
        600,
        600,
        2,
        1,
        False,
        True,
        0.0,
        1.0,
        1 - majority,
        majority * (1 - majority),
        values=(0.0, 1.0),
        classes=2,
        majority=majority,
        rarest=1 - majority,
    )


TAIL = TargetSummary(600, 600, 1, 1, True, True, 0.0, 39.0, classes=40, majority=0.35, rarest=0.001)


SHARES = replace(two(0.95), entropy=0.2)


def early(step: int) -> float:
    """Return an accuracy that was measured in the first epoch alone."""
    return 0.97 if step < 10 else np.nan


def run(
    rare: Any, accuracy: Any, targets: TargetSummary | None = None, losses: Any = lambda t: 0.2, **more: Any
) -> dict[str, Any]:
    """Return a training with these accuracies on rare classes and on all rows."""
    scalars = {"rare_accuracy": rare, "accuracy": accuracy}
    return {"targets": targets or two(0.95), "scalars": scalars, "losses": losses} | more


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(run(0.0, 0.95), "error", id="rare class ignored, as good as a constant prediction"),
        pytest.param(run(0.0, 0.95, planned_epochs=None), "warning", id="no schedule"),
        pytest.param(run(0.0, 0.95, steps=120), None, id="young"),
        pytest.param(run(0.3, 0.96), "warning", id="rare class half ignored"),
        pytest.param(run(0.9, 0.98), None, id="rare class learned"),
        pytest.param(run(0.0, 0.85, two(0.85)), None, id="ratio of six to one"),
        pytest.param(run(0.0, 0.3, TAIL, loss="ce", output_units=40), None, id="nothing learned of any class"),
        pytest.param(run(0.1, 0.8, TAIL, loss="ce", output_units=40), "warning", id="long tail, the rest is learned"),
        pytest.param(
            run(lambda t: t / 600, lambda t: 0.95 + t / 2e4, losses=lambda t: 0.2 - 3e-4 * t, steps=400),
            None,
            id="rare class is being learned",
        ),
        pytest.param(run(np.nan, 0.95), None, id="no rare row sampled"),
        pytest.param(
            run(0.9, 1.0, epochs={"val_accuracy": lambda e: 0.6}), "error", id="validation data with other shares"
        ),
        pytest.param(
            run(np.nan, 1.0, epochs={"val_accuracy": lambda e: 0.6}, steps=120), "error", id="other shares, early"
        ),
        pytest.param(
            run(np.nan, 1.0, epochs={"val_accuracy": lambda e: 0.6}, steps=45, per_epoch=20, planned_epochs=10),
            None,
            id="first epochs: running statistics lag",
        ),
        pytest.param(
            run(0.9, 1.0, two(0.92), epochs={"val_accuracy": lambda e: 0.84}),
            None,
            id="noisy labels memorized: as good as random guesses on validation data",
        ),
        pytest.param(run(0.9, 1.0, epochs={"val_accuracy": lambda e: 0.93}), None, id="good on validation data"),
        pytest.param(run(0.9, 0.6, epochs={"val_accuracy": lambda e: 0.6}), None, id="as bad in training"),
        pytest.param(
            run(0.9, 1.0, TAIL, loss="ce", output_units=40, epochs={"val_accuracy": lambda e: 0.2}),
            None,
            id="memorized: no class has most rows",
        ),
        pytest.param(
            run(np.nan, np.nan, SHARES, epochs={"val_accuracy": lambda e: 0.6}, losses=lambda t: 0.15, loss="bce"),
            "error",
            id="few rows sampled, the loss shows that training data are fitted",
        ),
        pytest.param(
            run(np.nan, np.nan, SHARES, epochs={"val_accuracy": lambda e: 0.6}, losses=lambda t: 0.5, loss="bce"),
            None,
            id="few rows sampled, training data not fitted",
        ),
        pytest.param(
            run(np.nan, np.nan, SHARES, epochs={"val_accuracy": lambda e: 0.6}, losses=lambda t: 0.15, loss="custom"),
            None,
            id="few rows sampled, unknown loss",
        ),
        pytest.param(
            run(np.nan, early, epochs={"val_accuracy": lambda e: 0.6}, losses=lambda t: 0.15),
            "error",
            id="rows sampled early, the loss has not risen since",
        ),
        pytest.param(
            run(np.nan, early, epochs={"val_accuracy": lambda e: 0.6}, losses=lambda t: 0.15 + t / 600),
            None,
            id="rows sampled early, the loss has risen since",
        ),
        pytest.param(
            run(0.9, 1.0, epochs={"val_accuracy": lambda e: 0.95 if e > 25 else 0.6}),
            None,
            id="good on validation data in the end",
        ),
        pytest.param({"targets": "real", "loss": "mse", "scalars": {"rare_accuracy": 0.0}}, None, id="regression"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = ClassImbalance().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def weighted(slope: float, weight: float, times: float = 19.0, rare: Any = 0.5, **more: Any) -> dict[str, Any]:
    """Return a training whose loss weights its classes."""
    scalars = {"weight_slope": slope, "weight_correlation": more.pop("correlation", 1.0), "weight_ratio": weight}
    scalars |= {"class_ratio": times, "rare_accuracy": rare, "accuracy": 0.9}
    return {"targets": two(0.9), "scalars": scalars, "losses": lambda t: 0.2} | more


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(weighted(1, 9), "warning", id="proportional to the frequency"),
        pytest.param(weighted(1, 9, rare=0.0), "error", id="and the rare class is ignored"),
        pytest.param(
            weighted(1, 9, rare=lambda t: 0.0 if t > 450 else math.nan), "error", id="in ten batches that have it"
        ),
        pytest.param(weighted(1, 9, rare=lambda t: 0.0 if t > 580 else math.nan), "warning", id="in few batches"),
        pytest.param(weighted(1, 9, rare=0.0, planned_epochs=None), "warning", id="no schedule"),
        pytest.param(weighted(1, 9, rare=0.0, steps=60), "warning", id="young"),
        pytest.param(weighted(0.5, 3), "warning", id="square root of the frequency"),
        pytest.param(weighted(0.2, 1.6), None, id="mild"),
        pytest.param(weighted(0, 1), None, id="equal"),
        pytest.param(weighted(-1, 1 / 9), None, id="balanced"),
        pytest.param(weighted(-0.5, 1 / 3), None, id="half balanced"),
        pytest.param(weighted(1, 1.5, 1.5), None, id="hardly imbalanced"),
        pytest.param(weighted(1, 3, 3), None, id="two classes, whose weights may be costs"),
        pytest.param(weighted(0.6, 9, 40, correlation=0.5), None, id="costs of many classes"),
        pytest.param(weighted(1, 9, targets=replace(two(0.9), rows=60)), None, id="few rows"),
    ],
)
def test_weights_in_the_loss(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = ClassImbalance().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_message_has_the_numbers(build: Callable[..., Any]) -> None:
    finding = ClassImbalance().check(*build(**run(0.0, 0.95)))
    assert finding is not None
    assert "19 times as frequent" in finding.message
    assert finding.evidence["rare_accuracy"] == 0


def rare(balanced: float, simple: float, low: float, **more: float) -> dict[str, Any]:
    """Return a finished training of which balanced accuracies are known."""
    facts = {"balanced_score": balanced, "simple_balanced_score": simple, "balanced_gap": simple - balanced}
    return {"targets": two(0.95), "losses": lambda t: 0.1, "asked": facts | {"balanced_gap_low": low} | more}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(rare(0.66, 0.82, 0.05), "held-out rows", id="recognized by a simple model"),
        pytest.param(rare(0.66, 0.82, 0.05, balanced_crossed=1), "cross-validation", id="among training rows"),
        pytest.param(rare(0.66, 0.82, -0.01), None, id="within noise"),
        pytest.param(rare(0.78, 0.82, 0.01), None, id="hardly better"),
        pytest.param(rare(0.84, 0.82, -0.05), None, id="the network is better"),
    ],
)
def test_rare_classes_that_a_simple_model_recognizes(
    build: Callable[..., Any], case: dict[str, Any], expected: str | None
) -> None:
    finding = ClassImbalance().check(*build(**case))
    assert (finding is None) == (expected is None)
    if finding is not None and expected is not None:
        assert finding.severity == "error"
        assert expected in finding.message
