"""``autotrainer check``: check a training setup before the first step."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stderr, redirect_stdout

from autotrainer.api.check import check
from autotrainer.cli.common import (
    add_format,
    add_json,
    add_rule_options,
    formatted,
    print_json,
    rule_options,
    status_of,
)
from autotrainer.cli.entry_point import call_with_entry_point, entry_point_file
from autotrainer.records.findings import Finding
from autotrainer.reporting.formats.training import Training
from autotrainer.reporting.report import Report
from autotrainer.reporting.terminal import print_output

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "check"
HELP = "check a training setup before the first step: MODULE:FUNCTION returns the arguments of autotrainer.check"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "target",
        metavar="MODULE:FUNCTION",
        help="function that returns a dict of check's arguments, or (model, data, …)",
    )
    add_rule_options(parser)
    output = parser.add_mutually_exclusive_group()
    add_format(output)
    add_json(output)


def run(args: argparse.Namespace) -> int:
    """Print the findings, and return the exit status."""
    options = {name: value for name, value in rule_options(args).items() if value}
    # what the module prints is not part of the report, and what it does to the streams ends here
    with redirect_stdout(sys.stderr), redirect_stderr(sys.stderr):
        findings: list[Finding] = call_with_entry_point(args.target, check, options)
    if args.json:
        print_json([finding.to_summary() for finding in findings])
    elif args.format == "text":
        print_output(Report(tuple(findings)))
    else:
        report = Report(tuple(findings)).to_dict()
        training = Training(args.target, findings, report, entry_point_file(args.target))
        print_output(formatted(args.format, [training], NAME))
    return status_of(findings, args.fail_on)
