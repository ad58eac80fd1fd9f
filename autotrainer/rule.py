"""The base of all rules, and all that a rule needs to import: one problem each, a pure function of a run's history."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal

from autotrainer.errors import ConfigError, nearest
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext

__all__ = [
    "DOC_SECTIONS",
    "Finding",
    "Place",
    "Rule",
    "RunHistory",
    "Severity",
    "TaskContext",
    "Threshold",
    "thresholds",
]

Place = Literal["layer", "loss", "step"]
"""What of the user's code a finding can point to."""

DOC_SECTIONS = (
    "What it does",
    "Why it hurts",
    "Evidence used",
    "Thresholds",
    "When it is wrong",
    "Repairs",
    "References",
)
"""Headings that the docstring of every rule has, in this order: it is the page that ``explain`` shows."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """A number that a rule compares with.

    Attributes:
        default: Its value unless the user says otherwise.
        about: What it is, with its unit.
        source: Where the default comes from.
        minimum: Smallest value that makes sense.
        maximum: Largest value that makes sense.
        alias: Name of the same parameter in the AUTOTRAINER papers, if it has one.
    """

    default: float
    about: str
    source: str
    minimum: float = 0.0
    maximum: float = math.inf
    alias: str | None = None


def thresholds(**named: Threshold) -> Mapping[str, Threshold]:
    """Return the table of a rule's thresholds, by name: the value of `Rule.THRESHOLDS`."""
    return MappingProxyType(named)


class Rule(ABC):
    """One problem: when a history shows it, and with what evidence.

    A rule sees neither framework nor adapter. It keeps no state: the engine calls `check` again and again on a
    growing history, and judges when an episode begins and ends.

    Args:
        thresholds: Values by the names in `THRESHOLDS`; the rest keep their defaults.

    Raises:
        ConfigError: If a name is unknown or a value out of range.
    """

    problem: ClassVar[str]
    code: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    phrases: ClassVar[tuple[str, ...]] = ()
    """What people type who have the problem and not its name (``loss is nan``): ``explain`` finds the page by it."""
    needs: ClassVar[frozenset[str]]
    """Columns of `STEP_COLUMNS` and `LAYER_COLUMNS`, ``epochs``, and `FACTS` of the context, that `check` reads."""
    causes: ClassVar[tuple[str, ...]] = ()
    """Problems that can be the root of this one, likeliest first."""
    repairs: ClassVar[tuple[str, ...]] = ()
    """Names of repairs, best first."""
    place: ClassVar[Place] = "layer"
    """What of the user's code a finding points to: where its first layer is made, or where the loss or the optimizer's
    step is called."""
    static: ClassVar[bool] = False
    """Whether `check` can already tell something from forward passes before the first step."""
    THRESHOLDS: ClassVar[Mapping[str, Threshold]] = MappingProxyType({})

    def __init__(self, **thresholds: float) -> None:
        for name, value in thresholds.items():
            known = self.THRESHOLDS.get(name)
            if known is None:
                raise ConfigError(f"unknown threshold {self.problem}.{name}: {nearest(name, self.THRESHOLDS)}")
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not known.minimum <= value <= known.maximum:
                raise ConfigError(
                    f"threshold {self.problem}.{name} must be a number in "
                    f"[{known.minimum:g}, {known.maximum:g}], not {value!r}"
                )
        self._values = {name: float(thresholds.get(name, t.default)) for name, t in self.THRESHOLDS.items()}

    def threshold(self, name: str) -> float:
        """Return the value in force of one of `THRESHOLDS`."""
        return self._values[name]

    @abstractmethod
    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the history as it is now.

        Args:
            history: Everything measured so far.
            context: What is known of the training.

        Returns:
            A finding, or None where the evidence is missing or does not suffice.
        """

    def finding(
        self,
        severity: Severity,
        confidence: float,
        message: str,
        evidence: Mapping[str, float],
        *,
        layers: tuple[str, ...] = (),
    ) -> Finding:
        """Build a finding of this rule's problem; the engine sets step, epoch and cause."""
        return Finding(
            problem=self.problem,
            code=self.code,
            severity=severity,
            confidence=min(1.0, max(0.0, confidence)),
            message=message,
            layers=layers,
            evidence={name: float(value) for name, value in evidence.items()},
            repairs=self.repairs,
        )

    @classmethod
    def documentation(cls) -> str:
        """Return the rule's page: its docstring, cleaned."""
        return inspect.getdoc(cls) or ""
