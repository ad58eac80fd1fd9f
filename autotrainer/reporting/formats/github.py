"""Findings as workflow commands of GitHub Actions, which show them as annotations beside the source.

Whatever a name or message holds stays data: the parts are made printable, and escaped as the runner expects.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autotrainer.records.findings import Finding, Severity
from autotrainer.reporting.formats.training import Training, locate
from autotrainer.reporting.text import headline
from autotrainer.safe_text import escaped, safe_line

__all__ = ["render"]

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


def render(trainings: Sequence[Training], root: Path) -> str:
    """Return one line for each training, and one annotation for each finding.

    Args:
        trainings: The trainings.
        root: Root of the sources.
    """
    lines = []
    for number, training in enumerate(trainings, start=1):
        name = f" (training {number} of {len(trainings)}: {training.name})" if len(trainings) > 1 else ""
        lines.append(safe_line(f"{headline(training.findings, training.run)}{name}"))
        lines += [_annotation(finding, training, root) for finding in training.findings]
    return "\n".join(lines)


def _annotation(finding: Finding, training: Training, root: Path) -> str:
    place = locate(finding, training, root)
    properties = {"title": safe_line(f"{finding.code} {finding.problem}")}
    if place is not None:
        line = {} if place.line is None else {"line": str(place.line)}
        properties = {"file": escaped(place.path), **line, **properties}
    parts = [finding.message]
    if finding.caused_by is not None:
        parts.append(f"Caused by {finding.caused_by}.")
    if finding.repairs:
        parts.append(f"Suggested repairs: {', '.join(finding.repairs)}")
    message = "\n".join(map(safe_line, parts))
    listed = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{_COMMANDS[finding.severity]} {listed}::{_data(message)}"


def _data(text: str) -> str:
    """Escape text as ``@actions/core`` does, so that it can't end the line and begin another command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
