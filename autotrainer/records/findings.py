"""Findings: what a rule says about a run, and the order in which findings are told."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["Finding", "Severity", "fold", "rank_findings"]


class Severity(StrEnum):
    """How much a finding matters.

    ``error``: the result is or will be clearly worse than reachable, or can't be trusted.
    ``warning``: worth a look. ``info``: a fact.
    """

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 for errors, 1 for warnings, 2 for infos: the order of telling."""
        return ("error", "warning", "info").index(self.value)


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of one run, with its evidence.

    Attributes:
        problem: Name of the problem, as in the catalogue (``vanishing_gradient``).
        code: Its code (``AT101``).
        severity: See `Severity`.
        confidence: Probability, in [0, 1], that the finding is right.
        message: One plain sentence with the measured numbers.
        layers: Names of the layers concerned, the one where it starts first.
        step: 0-based optimizer step at which the present episode was first raised.
        epoch: 0-based epoch of that step.
        evidence: Measured numbers by name.
        repairs: Names of repairs, best first.
        caused_by: Name of the problem that is its root, or None.
        place: File and line of the user's own code that it points to (``train.py:12``); empty if not known.
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

    def __str__(self) -> str:
        return f"{self.code} {self.problem} [{self.severity}]: {self.message}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold; non-finite numbers become strings."""
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
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Finding:
        """Rebuild a finding from what `to_dict` returned."""
        return cls(
            **{
                **values,
                "severity": Severity(values["severity"]),
                "layers": tuple(values["layers"]),
                "repairs": tuple(values["repairs"]),
                "evidence": {k: float(v) for k, v in values["evidence"].items()},
            }
        )


def rank_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Order findings by severity, confidence and code, each one right after the root that it names."""
    waiting = {f.problem: f for f in sorted(findings, key=lambda f: (f.severity.rank, -f.confidence, f.code))}
    ranked: list[Finding] = []

    def tell(finding: Finding) -> None:
        if waiting.pop(finding.problem, None) is None:
            return
        if finding.caused_by in waiting:
            tell(waiting[finding.caused_by])
        ranked.append(finding)

    for finding in list(waiting.values()):
        tell(finding)
    return ranked


def fold(findings: Sequence[Finding]) -> list[tuple[Finding, list[Finding]]]:
    """Group findings: each root with all its direct and indirect consequences, in the order given."""
    by_name = {f.problem: f for f in findings}
    groups: dict[str, tuple[Finding, list[Finding]]] = {}
    for finding in findings:
        root, seen = finding, {finding.problem}
        while root.caused_by in by_name and root.caused_by not in seen:
            root = by_name[root.caused_by]
            seen.add(root.problem)
        if root.caused_by in seen:  # rules that name each other: the first one told is the root
            root = min((by_name[name] for name in seen), key=list(findings).index)
        group = groups.setdefault(root.problem, (root, []))
        if finding is not root:
            group[1].append(finding)
    return list(groups.values())
