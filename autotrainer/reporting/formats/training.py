"""One training as all formats see it, and where its findings lie in the user's source."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotrainer.records.findings import Finding

__all__ = ["Location", "Training", "locate", "shown_path", "source_root"]


@dataclass(frozen=True, slots=True)
class Training:
    """One training with its findings.

    Attributes:
        name: What the training is called: the class of its model, the checked function, the log.
        findings: Its findings, ranked.
        report: Its report, as of `autotrainer.Report.to_dict`.
        file: The script or module that it belongs to; empty if unknown.
        from_log: Whether it is replayed from a log. Its name is then a path that differs from run to run.
    """

    name: str
    findings: Sequence[Finding]
    report: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""
    from_log: bool = False

    @property
    def run(self) -> Mapping[str, Any]:
        """Facts of the run by name."""
        return self.report.get("run") or {}


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a source file.

    Attributes:
        path: The file with ``/`` between its parts; relative to the root of the sources if it lies below.
        line: 1-based line; None for the file as a whole.
    """

    path: str
    line: int | None

    @property
    def relative(self) -> bool:
        """Whether the path is relative to the root of the sources."""
        return not Path(self.path).is_absolute()


def source_root() -> Path:
    """Return the folder that paths are relative to: the checkout of GitHub Actions, else the current folder."""
    try:
        folder = Path.cwd().resolve()
    except OSError:  # it has been deleted
        return Path(os.sep)
    workspace = os.environ.get("GITHUB_WORKSPACE")
    if workspace:
        with suppress(OSError):
            root = Path(workspace).resolve()
            if folder.is_relative_to(root):
                return root
    return folder


def locate(finding: Finding, training: Training, root: Path) -> Location | None:
    """Return where a finding lies: file and line if it knows them, else the file of the training.

    Args:
        finding: The finding.
        training: Its training.
        root: Root of the sources.

    Returns:
        The place; None if there is no file, as for a cell of a notebook.
    """
    file, _, line = finding.place.rpartition(":")
    if not file or file.startswith("<") or not (line.isascii() and line.isdecimal()) or int(line) < 1:
        file, line = training.file, ""
    if not file or "\0" in file:
        return None
    return Location(shown_path(file, root), int(line) if line else None)


def shown_path(file: str, root: Path) -> str:
    """Return the path of a file with ``/`` between its parts, relative to the root if it lies below."""
    path = Path(file)
    with suppress(OSError):  # the current folder has been deleted
        path = path.absolute()
        if path.resolve().is_relative_to(root):
            path = path.resolve().relative_to(root)
    return path.as_posix()
