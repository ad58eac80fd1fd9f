from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autotrainer.records.findings import Finding, Severity
from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import LossInfo, OptimizerInfo, TargetSummary, TaskContext


@pytest.fixture
def finding() -> Callable[..., Finding]:
    def build(problem: str, **values: Any) -> Finding:
        return Finding(problem, "AT000", Severity.ERROR, 0.9, "a message", **values)

    return build


@pytest.fixture
def context() -> Callable[..., TaskContext]:
    """A small sigmoid classifier with one output unit, unless the test changes it."""

    def build(**values: Any) -> TaskContext:
        layers = (
            LayerInfo("fc1", "dense", "sigmoid", 32, 100),
            LayerInfo("fc2", "dense", "sigmoid", 32, 1056),
            LayerInfo("out", "dense", "sigmoid", 1, 33, hidden=False),
        )
        defaults: dict[str, Any] = {
            "layers": layers,
            "loss": LossInfo("bce", "binary_cross_entropy", "probabilities"),
            "optimizer": OptimizerInfo("sgd", 0.01),
            "output_activation": "sigmoid",
            "output_units": 1,
            "planned_epochs": 100,
            "planned_steps": 10_000,
            "train_rows": 800,
            "batch_size": 8,
            "input_kind": "values",
        }
        return TaskContext(**{**defaults, **values})

    return build


@pytest.fixture
def targets() -> Callable[..., TargetSummary]:
    """Summaries of targets by their kind."""
    kinds: dict[str, dict[str, Any]] = {
        "binary": {"minimum": 0.0, "maximum": 1.0, "values": (0.0, 1.0), "classes": 2, "integral": True},
        "signed": {"minimum": -1.0, "maximum": 1.0, "values": (-1.0, 1.0), "classes": 2, "integral": True},
        "index": {"minimum": 0.0, "maximum": 2.0, "values": (0.0, 1.0, 2.0), "classes": 3, "integral": True},
        "from_one": {"minimum": 1.0, "maximum": 3.0, "values": (1.0, 2.0, 3.0), "classes": 3, "integral": True},
        "one_hot": {"minimum": 0.0, "maximum": 1.0, "one_hot": True, "width": 3, "classes": 3, "rank": 2},
        "real": {"minimum": -3.7, "maximum": 8.2, "mean": 2.0, "variance": 4.0},
        "large": {"minimum": 4e4, "maximum": 6e4, "mean": 5e4, "variance": 16e6},
    }

    def build(kind: str) -> TargetSummary:
        return TargetSummary(**{"count": 100, "rows": 100, "rank": 1, **kinds[kind]})

    return build
