"""Findings as JSON: one document for all trainings of a command, described by ``findings.schema.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from autotrainer._version import __version__
from autotrainer.reporting.formats.json_text import json_text
from autotrainer.reporting.formats.training import Training, locate, shown_path

__all__ = ["SCHEMA_VERSION", "render", "schema"]

SCHEMA_VERSION = 1
"""Version of the document: a change that breaks readers raises it; keys may be added at any time."""


def render(trainings: Sequence[Training], command: str, root: Path) -> str:
    """Return the findings of all trainings as strict JSON.

    Args:
        trainings: The trainings.
        command: The command that looked for them: ``run``, ``check`` or ``replay``.
        root: Root of the sources.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "version": __version__,
        "command": command,
        "findings": list(_findings(trainings, root)),
        "trainings": [
            {
                "name": training.name,
                "file": shown_path(training.file, root) if training.file else None,
                "run": dict(training.run),
                "curves": training.report.get("curves") or {},
                "comparison": training.report.get("comparison"),
                "charts": training.report.get("charts"),
            }
            for training in trainings
        ],
    }
    return json_text(document)


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the document; ``$defs/report`` describes a report's own JSON."""
    text = files(__package__).joinpath("findings.schema.json").read_text("utf-8")
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def _findings(trainings: Sequence[Training], root: Path) -> Iterator[dict[str, Any]]:
    for number, training in enumerate(trainings):
        for finding in training.findings:
            place = locate(finding, training, root)
            yield {
                **finding.to_summary(),
                "training": number,
                "file": None if place is None else place.path,
                "line": None if place is None else place.line,
            }
