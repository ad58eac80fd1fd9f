"""What several commands share: selection of rules, exit status, and formats of the output."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from autotrainer.errors import ConfigError
from autotrainer.records.findings import Finding, Severity
from autotrainer.reporting.formats import document, github, sarif
from autotrainer.reporting.formats.training import Training, source_root
from autotrainer.reporting.terminal import print_output

__all__ = [
    "add_format",
    "add_json",
    "add_rule_options",
    "add_rule_selection",
    "current_folder",
    "formatted",
    "print_failure",
    "print_json",
    "rule_options",
    "status_of",
]


_FORMATS = ("text", "json", "sarif", "github")


def add_format(parser: argparse._ActionsContainer) -> None:
    """Add ``--format``."""
    parser.add_argument(
        "--format",
        choices=_FORMATS,
        default="text",
        help="text; json, described by a schema; sarif, for code scanning; github, annotations in GitHub Actions",
    )


def formatted(name: str, trainings: Sequence[Training], command: str) -> str:
    """Return the findings of trainings in a format other than text.

    Args:
        name: ``json``, ``sarif`` or ``github``.
        trainings: The trainings.
        command: The command that looked for them.
    """
    root = source_root()
    formats: dict[str, Callable[[], str]] = {
        "json": lambda: document.render(trainings, command, root),
        "sarif": lambda: sarif.render(trainings, root),
        "github": lambda: github.render(trainings, root),
    }
    return formats[name]()


def print_failure(format_name: str, error: Exception) -> None:
    """Print what a format has for a command that has failed: SARIF says so, which code scanning then shows."""
    if format_name == "sarif":
        print_output(sarif.render([], source_root(), str(error)))


def add_json(parser: argparse._ActionsContainer) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def add_rule_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that select rules and decide the exit status."""
    add_rule_selection(parser)
    parser.add_argument(
        "--fail-on", choices=("error", "warning"), default="error", help="lowest severity for exit status 1"
    )


def add_rule_selection(parser: argparse.ArgumentParser) -> None:
    """Add the options that select rules."""
    parser.add_argument(
        "--select", action="append", metavar="NAME", help="look only for this problem: name, code or code prefix"
    )
    parser.add_argument("--ignore", action="append", metavar="NAME", default=[], help="do not look for this problem")
    parser.add_argument(
        "--threshold", action="append", metavar="NAME=VALUE", default=[], help="set a threshold, by problem.name"
    )


def rule_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the values of `add_rule_selection` as ``select``, ``ignore`` and ``thresholds``.

    Raises:
        ConfigError: If a threshold is not NAME=VALUE with a number.
    """
    thresholds = {}
    for option in args.threshold:
        name, _, value = option.partition("=")
        try:
            thresholds[name] = float(value)
        except ValueError as error:
            raise ConfigError(
                f"--threshold takes NAME=VALUE with a number, such as vanishing_gradient.ratio=1e-4, not {option!r}"
            ) from error
    return {"select": args.select, "ignore": args.ignore, "thresholds": thresholds}


def status_of(findings: Iterable[Finding], fail_on: str) -> int:
    """Return 1 if there is a finding of this severity or worse, else 0."""
    return int(any(f.severity.rank <= Severity(fail_on).rank for f in findings))


def print_json(value: Any) -> None:
    """Print strict JSON."""
    print_output(json.dumps(value, indent=2, allow_nan=False))


def current_folder() -> str:
    """Return the path of the current folder, or ``.`` if it has been deleted."""
    try:
        return os.getcwd()
    except OSError:
        return "."
