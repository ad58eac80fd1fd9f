"""Which problems a repair of optimizer steps can't fix."""

from __future__ import annotations

from autotrainer.records.findings import Finding

__all__ = ["before_any_step"]


def before_any_step(finding: Finding) -> bool:
    """Return whether values were not finite before the first step changed any weight: no other step can fix that."""
    evidence = finding.evidence
    return finding.problem == "nonfinite" and evidence.get("first_bad_step", evidence.get("first_step")) == 0
