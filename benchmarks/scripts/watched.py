"""Runs a program that watches itself: ``python -m benchmarks.scripts.watched REPORT.json PROGRAM.py [ARGS…]``.

The exit status is that of ``autotrainer run``: 1 if a monitor of the program has an error.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import autotrainer

__all__ = ["main", "run_program"]


def run_program(path: Path, arguments: list[str]) -> tuple[list[autotrainer.Monitor], float | None]:
    """Run a program; return the monitors among its variables, and its ``score`` on held-out rows, if it has one."""
    sys.argv = [str(path), *arguments]
    names: dict[str, Any] = runpy.run_path(str(path), run_name="__main__")
    monitors = [value for value in names.values() if isinstance(value, autotrainer.Monitor)]
    score = names.get("score")
    return monitors, None if score is None else float(score)


def main(arguments: list[str]) -> int:
    """Run the program, and write its report with the held-out score.

    Returns:
        The exit status.
    """
    report, program, *rest = arguments
    monitors, score = run_program(Path(program), rest)
    failed = False
    for number, monitor in enumerate(monitors, start=1):
        path = Path(report) if number == 1 else Path(report).with_stem(f"{Path(report).stem}-{number}")
        path.write_text(json.dumps({**monitor.report().to_dict(), "score": score}), encoding="utf-8")
        failed |= any(finding.severity == "error" for finding in monitor.findings)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
