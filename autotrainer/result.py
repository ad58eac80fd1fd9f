"""What `fit` returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from autotrainer.findings import Finding
from autotrainer.plan import RepairPlan

__all__ = ["Attempt", "Result"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One repaired training that was tried.

    Attributes:
        plan: What it changed.
        score: Its validation score, or None if it failed.
        error: Why it failed, or None.
        findings: What its own monitor found.
        cost: Its work, in trainings of the given model.
    """

    plan: RepairPlan
    score: float | None
    error: str | None
    findings: tuple[Finding, ...]
    cost: float


@dataclass(slots=True)
class Result:
    """What a managed training came to."""

    status: Literal["healthy", "repaired", "improved", "unrepaired"]
    stopped_by: Literal["done", "budget", "interrupt"]
    model: Any
    optimizer: Any
    history: Mapping[str, Sequence[float]]
    score: float
    baseline_score: float
    test_score: float | None
    baseline_test_score: float | None
    findings: list[Finding]
    plan: RepairPlan | None
    attempts: list[Attempt] = field(default_factory=list)
    cost: float = 0.0
