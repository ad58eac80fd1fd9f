"""Which benchmark rows are of, and their tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from autotrainer.errors import ConfigError
from benchmarks.execution.pool import Row, key, read_rows

__all__ = ["read_last", "read_suites", "suite_of", "tables_of"]


def suite_of(rows: Iterable[Row]) -> str:
    """Return the benchmark that rows are of: ``detect``, ``repair``, ``overhead`` or ``calibrate``.

    Raises:
        ConfigError: If they are of several, or of none that is known.
    """
    found = sorted({_suite(row) for row in rows})
    if len(found) != 1:
        raise ConfigError(f"rows of several benchmarks in one file: {', '.join(found)}")
    return found[0]


def read_last(path: Path) -> list[Row]:
    """Read a file of rows; of a training that was run again because its case was changed, the last row.

    Raises:
        ConfigError: If the file is missing, empty or holds what is no row.
    """
    rows = {key({**row["task"], "recipe": None}): row for row in read_rows(path)}
    if not rows:
        raise ConfigError(f"no rows in {path}")
    return list(rows.values())


def read_suites(paths: Sequence[Path]) -> dict[str, list[Row]]:
    """Read files of rows and return them by benchmark.

    Raises:
        ConfigError: If a file is missing, empty or holds what is no row.
    """
    found: dict[str, list[Row]] = {}
    for path in paths:
        for row in read_last(path):
            found.setdefault(_suite(row), []).append(row)
    return found


def tables_of(suite: str, rows: Sequence[Row]) -> str:
    """Return the tables of rows as Markdown, as the command that made them prints them.

    Raises:
        ConfigError: If the benchmark's tables need more than its rows.
    """
    if suite == "calibrate":
        raise ConfigError("rows of calibrate make no page: the command saves its curves itself")
    if suite == "detect":
        from benchmarks.detect.suite import report

        return report(rows)
    if suite == "repair":
        from benchmarks.repair.suite import report as repaired

        return repaired(rows)
    from benchmarks.execution.provenance import told
    from benchmarks.overhead.suite import summarize
    from benchmarks.reporting.published import published

    timed = [row for row in rows if not row["task"].get("memory")]
    kept = [row for row in rows if row["task"].get("memory")]
    return "\n\n".join([told(rows), summarize(timed, kept), published("overhead")])


def _suite(row: Row) -> str:
    task = row["task"]
    for suite, part in (("calibrate", "logs"), ("detect", "variants"), ("repair", "methods"), ("overhead", "model")):
        if part in task and "framework" in task:
            return suite
    raise ConfigError(f"a row of no known benchmark: its task has {', '.join(sorted(task))}")
