"""What a report needs of a managed training: its outcome and its attempts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["AttemptRow", "Outcome", "PatchStep", "Points", "plain"]

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt as a row of the report.

    Attributes:
        repairs: Names of its repairs; none for a rerun of the original training.
        score: Its validation score, or None if it failed.
        cost: Its work, relative to one original training.
        error: Why it failed, or None.
        remaining: Problems that are still errors.
        chosen: Whether it is the training that is returned.
        epochs: See `autotrainer.Attempt`.
        start: Epoch of the original training from which it continued.
        verdict: See `autotrainer.Attempt`.
        plan: Its edits in words.
    """

    repairs: tuple[str, ...]
    score: float | None
    cost: float
    error: str | None
    remaining: tuple[str, ...]
    chosen: bool
    epochs: int | None = None
    start: int = 0
    verdict: str = ""
    plan: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PatchStep:
    """One change of a patch, in words and as lines of code to paste; no lines where there is no code for it."""

    words: str
    code: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a managed training: the fields of `autotrainer.Result` in plain values, with the patch as text."""

    status: str
    stopped_by: str
    metric: str
    score: float
    baseline_score: float
    test_score: float | None
    baseline_test_score: float | None
    cost: float
    patch: str | None
    changes: tuple[str, ...]
    attempts: tuple[AttemptRow, ...]
    left_out: Mapping[str, str]
    """Reasons why repairs were not used, by the name of the repair."""
    doubtful: bool = False
    epochs: int = 0
    """Planned epochs; 0 if unknown."""
    mode: str = "max"
    baseline_epochs: int = 0
    baseline_steps: int = 0
    baseline_ended: str = ""
    rerun_scores: tuple[float, ...] = ()
    """Scores of the chosen training with other seeds."""
    baseline_rerun_scores: tuple[float, ...] = ()
    """Scores of the original training with other seeds."""
    judged_on: str = "validation"
    patch_steps: tuple[PatchStep, ...] = ()
    """The changes of the patch, one by one."""
    places: Mapping[str, str] = field(default_factory=dict)
    """File and line of the user's code that a fixed problem points to, by its name."""


def plain(value: Any) -> Any:
    """Return a value for strict JSON: NaN becomes None, infinities become strings."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
