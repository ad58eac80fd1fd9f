"""Provenance of rows: commit and package versions, shown above every table."""

from __future__ import annotations

import functools
import platform
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["made_with", "provenance_line"]

_PACKAGES = ("torch", "keras", "tensorflow", "numpy")


@functools.cache
def _commit() -> str:
    def git(*arguments: str) -> str:
        completed = subprocess.run(  # nosec B603, B607
            ["git", "-C", str(Path(__file__).parent), *arguments], capture_output=True, text=True, check=True
        )
        return completed.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=10", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@functools.cache
def _versions() -> Mapping[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def made_with(module: str) -> dict[str, Any]:
    """Return the provenance of a row: ``by`` (the module that made it), ``commit`` and ``versions`` by package."""
    return {"by": module.removeprefix("benchmarks."), "commit": _commit(), "versions": dict(_versions())}


def provenance_line(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the line above a table: number, seeds, commits and versions of these rows.

    If the rows come from several commits, as after a resumed run, each commit is shown with its number of rows.
    """
    listed = list(rows)
    records = [row.get("made") or {} for row in listed]
    commits = Counter(str(record.get("commit", "unknown")) for record in records)
    seeds = sorted({row["task"]["seed"] for row in listed if "seed" in row["task"]})
    packages: dict[str, set[str]] = {}
    for record in records:
        for package, number in record.get("versions", {}).items():
            packages.setdefault(package, set()).add(number)
    commit = ", ".join(commits) if len(commits) == 1 else ", ".join(f"{c} ({n} rows)" for c, n in commits.items())
    parts = [f"{len(listed)} rows"]
    if seeds:
        parts.append(f"seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {seeds[0]}")
    parts.append(f"commit {commit}")
    parts += [f"{package} {' and '.join(sorted(numbers))}" for package, numbers in packages.items()]
    return " · ".join(parts)
