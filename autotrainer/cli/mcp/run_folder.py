"""The folder whose run logs an agent may read: what is in it, and paths that can't lead out of it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autotrainer.errors import ConfigError, LogError, nearest
from autotrainer.monitoring.logs.run_log import RUN_LOG
from autotrainer.records.findings import Finding, rank_findings
from autotrainer.records.json_lines import read_lines
from autotrainer.records.schema import RecordError
from autotrainer.records.untrusted_files import open_regular
from autotrainer.safe_text import safe_line

__all__ = ["RunFolder"]

_HEADER_BYTES = 2**16
"""The header of a run log is shorter."""
_MAX_LISTED = 10_000
"""Files that are looked at for one list."""
_SUMMARY_KEYS = ("problem", "code", "severity", "message", "step", "epoch", "place")


class RunFolder:
    """Run logs below a folder.

    A log is named by its path from the folder, made safe: that is the path itself unless it has control characters or
    is very long. Links that lead out of the folder are not followed.

    Args:
        root: The folder, resolved.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def runs(self) -> dict[str, Path]:
        """Return the run logs by name, the latest change first."""
        logs = []
        for path in self._files(".jsonl"):
            with suppress(FileNotFoundError):  # it may be deleted in the meantime
                if _is_run_log(path):
                    logs.append((-path.stat().st_mtime, path))
        return {self.name(path): path for _, path in sorted(logs)}

    def name(self, path: Path) -> str:
        """Return the name of a file below the folder."""
        return safe_line(path.relative_to(self.root).as_posix())

    def file(self, name: str) -> Path:
        """Return the file of a name.

        Raises:
            ConfigError: If there is none, or it lies outside of the folder.
        """
        try:
            path = (self.root / name).resolve()
            exists = path.is_file()
        except (OSError, ValueError, RuntimeError) as error:  # a name that no file can have; a loop of links
            raise ConfigError(f"{name!r:.200} can't be the name of a file: give one that list_runs returns") from error
        if exists and path.is_relative_to(self.root):
            return path
        if not path.is_relative_to(self.root):
            raise ConfigError(f"{name!r:.200} lies outside of the folder that this server reads")
        by_name = {self.name(path): path for path in (*self._files(".jsonl"), *self._files(".json"))}
        if name not in by_name:
            raise ConfigError(f"there is no file {name!r:.200}: {nearest(name, by_name) if by_name else 'none at all'}")
        return by_name[name]

    def summary(self, name: str, path: Path) -> dict[str, Any]:
        """Return what a log says of its run, without evaluating the rules: facts, and the findings that it recorded."""
        status = path.stat()
        changed = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="seconds")
        summary: dict[str, Any] = {"run": name, "bytes": status.st_size, "changed": changed, "framework": None}
        summary |= {"steps": 0, "epochs": 0, "ended": False, "finished": None, "findings": [], "error": None}
        findings: dict[str, Finding] = {}
        try:
            for record in _records(path):
                match record.get("type"):
                    case "context":
                        summary["framework"] = str(record.get("context", {}).get("framework"))
                    case "step" | "check" | "epoch":
                        summary["steps"] = max(summary["steps"], _whole(record.get("step")) + 1)
                        summary["epochs"] = max(summary["epochs"], _whole(record.get("epoch")))
                    case "finding":
                        finding = Finding.from_dict(record.get("finding", {}))
                        findings[finding.problem] = finding
                    case "end":
                        summary |= {"ended": True, "finished": record.get("finished", True) is True}
        except (LogError, RecordError, AttributeError, TypeError) as error:
            summary["error"] = str(error)
        severities = Counter(str(finding.severity) for finding in findings.values())
        values = [finding.to_dict() for finding in rank_findings(findings.values())]
        shown = [{key: value[key] for key in _SUMMARY_KEYS} for value in values]
        return {**summary, "findings": shown, "severities": dict(severities)}

    def new_folder(self, stem: str) -> Path:
        """Make a folder ``stem-1``, ``stem-2``, … that did not exist."""
        number = 1
        while True:
            folder = self.root / f"{stem}-{number}"
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
            else:
                return folder

    def _files(self, suffix: str) -> Iterator[Path]:
        looked_at = 0
        for folder, _, files in os.walk(self.root):
            for file in sorted(files):
                if file.endswith(suffix):
                    path = Path(folder) / file
                    looked_at += 1
                    if looked_at > _MAX_LISTED:
                        return
                    if path.is_file() and path.resolve().is_relative_to(self.root):
                        yield path


def _is_run_log(path: Path) -> bool:
    """Return whether the first line of a file is the header of a run log."""
    try:
        with open_regular(path) as file:
            header = json.loads(file.readline(_HEADER_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(header, dict) and RUN_LOG.mark in header


def _records(path: Path) -> Iterator[dict[str, Any]]:
    lines = read_lines(path, RUN_LOG)
    next(lines)
    for line in lines:
        yield line.record


def _whole(value: Any) -> int:
    return value if type(value) is int and 0 <= value < 10**13 else 0
