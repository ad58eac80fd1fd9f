"""One side of a comparison: a run with its measurements, context and findings."""

from __future__ import annotations

from dataclasses import dataclass

from autotrainer.records.findings import Finding
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext

__all__ = ["ComparedRun"]


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A recorded run, or one that goes on.

    Attributes:
        name: Its name in messages: the path of its log.
        history: Its measurements.
        context: Its model, loss, optimizer and data.
        findings: Its findings.
    """

    name: str
    history: RunHistory
    context: TaskContext
    findings: tuple[Finding, ...] = ()
