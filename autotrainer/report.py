"""Reports: everything known of a run, as text, JSON and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from autotrainer.findings import Finding
from autotrainer.history import RunHistory
from autotrainer.task import TaskContext

__all__ = ["Report"]


@dataclass(frozen=True, slots=True)
class Report:
    """A report of one run."""

    findings: tuple[Finding, ...]

    @classmethod
    def of_run(cls, findings: Sequence[Finding], history: RunHistory, context: TaskContext) -> Self:
        """Build the report of a watched or replayed run."""
        return cls(tuple(findings))
