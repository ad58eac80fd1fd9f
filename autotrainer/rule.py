"""The base class of rules, with everything that a rule needs to import."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal

from autotrainer.edits.base import is_number, shorten
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

Place = Literal["layer", "loss", "step", "output", "optimizer", "mode"]
"""What a finding can point to in the user's code."""

DOC_SECTIONS = (
    "What it does",
    "Why it hurts",
    "Evidence used",
    "Thresholds",
    "When it is wrong",
    "Repairs",
    "References",
)
"""Headings in the docstring of every rule, in this order; ``autotrainer explain`` shows it."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold of a rule, which users can set.

    Attributes:
        default: Default value.
        about: Meaning, with the unit.
        source: Source of the default: a publication, a calibration, or a convention.
        minimum: Smallest valid value.
        maximum: Largest valid value.
        alias: Name of the same parameter in the AUTOTRAINER papers, or None.
    """

    default: float
    about: str
    source: str
    minimum: float = 0.0
    maximum: float = math.inf
    alias: str | None = None


def thresholds(**named: Threshold) -> Mapping[str, Threshold]:
    """Return thresholds by name, as the value of `Rule.THRESHOLDS`."""
    return MappingProxyType(named)


class Rule(ABC):
    """Detects one problem in the history of a run.

    A rule has no access to the framework, and no state: the engine calls `check` repeatedly on a growing history, and
    tracks when an episode of the problem begins and ends. Its docstring is its page, with the headings of
    `DOC_SECTIONS`.

    Args:
        thresholds: Values by the names in `THRESHOLDS`; the others keep their defaults.

    Raises:
        ConfigError: If a name is unknown or a value out of range.
    """

    problem: ClassVar[str]
    """Name of the problem, in snake case."""
    code: ClassVar[str]
    """Code of the problem (``AT101``), unique among all rules."""
    aliases: ClassVar[tuple[str, ...]] = ()
    """Everyday names of the problem (``nan``), which users may use instead."""
    phrases: ClassVar[tuple[str, ...]] = ()
    """Search phrases for the problem (``loss is nan``), by which ``autotrainer explain`` finds its page."""
    needs: ClassVar[frozenset[str]]
    """What `check` reads: `STEP_COLUMNS`, `LAYER_COLUMNS`, ``epochs``, and `FACTS` of the context."""
    causes: ClassVar[tuple[str, ...]] = ()
    """Problems that can be the root cause of this one, most likely first."""
    repairs: ClassVar[tuple[str, ...]] = ()
    """Names of suggested repairs, best first."""
    place: ClassVar[Place] = "layer"
    """What a finding points to in the user's code: where its first layer is created, where the loss or the optimizer's
    step is called, where the output activation is applied (``output``), where the optimizer is created, or where the
    model is put into evaluation mode or, if it never is, evaluated (``mode``)."""
    static: ClassVar[bool] = False
    """Whether forward passes before the first step can show the problem: `autotrainer.check` then runs the rule."""
    THRESHOLDS: ClassVar[Mapping[str, Threshold]] = MappingProxyType({})

    def __init__(self, **thresholds: float) -> None:
        for name, value in thresholds.items():
            threshold = self.THRESHOLDS.get(name)
            if threshold is None:
                raise ConfigError(f"unknown threshold {self.problem}.{name}: {nearest(name, self.THRESHOLDS)}")
            infinite = isinstance(value, float) and math.isinf(value)
            if not (is_number(value) or infinite) or not threshold.minimum <= value <= threshold.maximum:
                raise ConfigError(
                    f"threshold {self.problem}.{name} must be a number in "
                    f"[{threshold.minimum:g}, {threshold.maximum:g}], not {shorten(value)}"
                )
        self._values = {name: float(thresholds.get(name, t.default)) for name, t in self.THRESHOLDS.items()}

    def threshold(self, name: str) -> float:
        """Return the current value of one of `THRESHOLDS`."""
        return self._values[name]

    @abstractmethod
    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Check the current history for the problem.

        Args:
            history: All measurements so far.
            context: The training's model, loss, optimizer and data.

        Returns:
            A finding, or None if evidence is missing or insufficient.
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
        """Return a finding of this rule's problem; the engine sets step, epoch, cause and place.

        Args:
            severity: See `Severity`.
            confidence: Probability that the finding is correct; clipped to [0, 1].
            message: One sentence with the measured numbers.
            evidence: Measured numbers by name.
            layers: Names of the affected layers, the one where the problem starts first.
        """
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
        """Return the rule's page: its docstring without indentation."""
        return inspect.getdoc(cls) or ""
