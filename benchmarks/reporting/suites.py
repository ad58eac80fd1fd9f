"""The benchmark that rows belong to, and their tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from autotrainer.errors import ConfigError
from benchmarks.execution.pool import Row, key, read_rows

__all__ = ["read_latest", "read_suites", "suite_of", "tables_of"]


def suite_of(rows: Iterable[Row]) -> str:
    """Return the benchmark that rows belong to: ``detect``, ``repair``, ``overhead``, ``agreement``, ``calibrate``, ….

    Raises:
        ConfigError: If they belong to several benchmarks, or to an unknown one.
    """
    suites = sorted({_suite(row) for row in rows})
    if len(suites) != 1:
        raise ConfigError(f"rows of several benchmarks in one file: {', '.join(suites)}")
    return suites[0]


def read_latest(path: Path) -> list[Row]:
    """Read a file of rows; for a training repeated because its case changed, only the last row.

    Raises:
        ConfigError: If the file is missing or empty, or holds a line that is not a row.
    """
    rows = {key({**row["task"], "recipe": None}): row for row in read_rows(path)}
    if not rows:
        raise ConfigError(f"no rows in {path}")
    return list(rows.values())


def read_suites(paths: Sequence[Path]) -> dict[str, list[Row]]:
    """Read files of rows and return them by benchmark.

    Raises:
        ConfigError: If a file is missing or empty, or holds a line that is not a row.
    """
    suites: dict[str, list[Row]] = {}
    for path in paths:
        for row in read_latest(path):
            suites.setdefault(_suite(row), []).append(row)
    return suites


def tables_of(suite: str, rows: Sequence[Row]) -> str:
    """Return the tables of rows as Markdown, as the command that made them printed them.

    Raises:
        ConfigError: If the benchmark's tables need more than its rows.
    """
    if suite == "calibrate":
        raise ConfigError("there is no page for rows of calibrate: the command itself saves the curves")
    if suite == "detect":
        from benchmarks.detect.suite import report as report_detect

        return report_detect(rows)
    if suite == "scripts":
        from benchmarks.scripts.suite import report as report_scripts

        return report_scripts(rows)
    if suite == "repair":
        from benchmarks.repair.suite import report as report_repair

        return report_repair(rows)
    if suite == "agreement":
        from benchmarks.agreement.suite import report as report_agreement

        return report_agreement(rows)
    from benchmarks.execution.provenance import provenance_line
    from benchmarks.overhead.suite import summarize
    from benchmarks.reporting.published import published

    timed = [row for row in rows if not row["task"].get("memory")]
    memory = [row for row in rows if row["task"].get("memory")]
    return "\n\n".join([provenance_line(rows), summarize(timed, memory), published("overhead")])


def _suite(row: Row) -> str:
    task = row["task"]
    if "script" in task:
        return "scripts"
    for suite, part in (
        ("calibrate", "logs"),
        ("detect", "variants"),
        ("repair", "methods"),
        ("agreement", "busy"),
        ("overhead", "model"),
    ):
        if part in task and "framework" in task:
            return suite
    raise ConfigError(f"a row of an unknown benchmark: its task has {', '.join(sorted(task))}")
