"""Findings of rules about a run, their order, and their grouping by root cause."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from autotrainer.html_fragment import badge, block, line
from autotrainer.records.schema import rebuild
from autotrainer.safe_text import safe_line

__all__ = ["MAX_LAYERS", "Finding", "Severity", "fold", "rank_findings"]

MAX_LAYERS = 48
"""Layers of a finding that a report names; the first is the one where the problem starts."""

_MAX_SHOWN = 6
"""Layers that a notebook shows by name."""


class Severity(StrEnum):
    """How much a finding matters.

    ``error``: the result is or will be clearly worse than it could be, or can't be trusted. ``warning``: worth a
    look. ``info``: a fact, or a problem that is resolved.
    """

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """Sort key: 0 for errors, 1 for warnings, 2 for infos."""
        return ("error", "warning", "info").index(self.value)


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of one run, with its evidence.

    ``str(finding)`` is one line with code, problem, severity and message, safe to print. The fields hold names as they
    are.

    Attributes:
        problem: Name of the problem (``vanishing_gradient``); ``autotrainer explain NAME`` shows its page.
        code: Code of the problem (``AT101``).
        severity: See `Severity`.
        confidence: Probability that the finding is correct, in [0, 1].
        message: One sentence with the measured numbers.
        layers: Names of the affected layers, the one where the problem starts first.
        step: 0-based optimizer step at which the current episode of the problem was first reported.
        epoch: 0-based epoch of that step.
        evidence: Measured numbers by name.
        repairs: Names of suggested repairs, best first.
        caused_by: Name of the problem that is its root cause, or None.
        place: File and line of the user's code that it points to (``train.py:12``); empty if unknown.
        resolved_step: 0-based step by which the episode had ended; None while it lasts.
    """

    problem: str
    code: str
    severity: Severity
    confidence: float
    message: str
    layers: tuple[str, ...] = ()
    step: int = 0
    epoch: int = 0
    evidence: Mapping[str, float] = field(default_factory=dict)
    repairs: tuple[str, ...] = ()
    caused_by: str | None = None
    place: str = ""
    resolved_step: int | None = None

    def __str__(self) -> str:
        return safe_line(f"{self.code} {self.problem} [{self.severity}]: {self.message}")

    def _repr_html_(self) -> str:
        """Return the finding as a notebook shows it."""
        numbers = ", ".join(f"{name} = {value:.4g}" for name, value in self.evidence.items())
        details = {
            "at": self.place,
            "layers": ", ".join(self.layers[:_MAX_SHOWN]) + (", …" if len(self.layers) > _MAX_SHOWN else ""),
            "evidence": numbers,
            "suggested repairs": ", ".join(self.repairs) if self.severity is not Severity.INFO else "",
            "caused by": self.caused_by,
        }
        since = f"epoch {self.epoch}, step {self.step}; {self.confidence:.0%} confidence"
        parts = [
            badge(self.severity, f"{self.severity} {self.code} {self.problem}"),
            line(self.message),
            *(line(f"{name}: {value}", quiet=True) for name, value in details.items() if value),
            line(f"first seen in {since}", quiet=True),
        ]
        return block(parts, self.severity)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; evidence that is not finite becomes a string."""
        return {
            "problem": self.problem,
            "code": self.code,
            "severity": str(self.severity),
            "confidence": round(self.confidence, 4),
            "message": self.message,
            "layers": list(self.layers),
            "step": self.step,
            "epoch": self.epoch,
            "evidence": {k: v if math.isfinite(v) else str(v) for k, v in self.evidence.items()},
            "repairs": list(self.repairs),
            "caused_by": self.caused_by,
            "place": self.place,
            "resolved_step": self.resolved_step,
        }

    def to_summary(self) -> dict[str, Any]:
        """Return plain values for a report: at most `MAX_LAYERS` layers, and in ``more_layers`` how many it lacks."""
        values = self.to_dict()
        return values | {"layers": values["layers"][:MAX_LAYERS], "more_layers": max(0, len(self.layers) - MAX_LAYERS)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Finding:
        """Rebuild a finding from the values of `to_dict`.

        Raises:
            RecordError: If a value is missing or of another type.
        """
        return rebuild(cls, values)


def rank_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings by severity, confidence and code, moving each root before its first consequence."""
    waiting = {f.problem: f for f in sorted(findings, key=lambda f: (f.severity.rank, -f.confidence, f.code))}
    ranked: list[Finding] = []

    def append(finding: Finding) -> None:
        if waiting.pop(finding.problem, None) is None:
            return
        if finding.caused_by in waiting:
            append(waiting[finding.caused_by])
        ranked.append(finding)

    for finding in list(waiting.values()):
        append(finding)
    return ranked


def fold(findings: Sequence[Finding]) -> list[tuple[Finding, list[Finding]]]:
    """Group findings into roots with all their direct and indirect consequences, keeping the order."""
    by_name = {f.problem: f for f in findings}
    groups: dict[str, tuple[Finding, list[Finding]]] = {}
    for finding in findings:
        root, chain = finding, {finding.problem}
        while root.caused_by in by_name and root.caused_by not in chain:
            root = by_name[root.caused_by]
            chain.add(root.problem)
        if root.caused_by in chain:  # problems that name each other: the first in order is the root
            root = min((by_name[name] for name in chain), key=list(findings).index)
        group = groups.setdefault(root.problem, (root, []))
        if finding is not root:
            group[1].append(finding)
    return list(groups.values())
