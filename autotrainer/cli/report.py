"""``autotrainer report``: write the report of a recorded run to a file."""

from __future__ import annotations

import argparse

from autotrainer.api.replay import replay
from autotrainer.cli.common import add_rule_options, rule_options, status_of
from autotrainer.reporting.terminal import print_output
from autotrainer.safe_text import escaped

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "report"
HELP = "write the report of a recorded run as .html, .json, .sarif or .txt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("log", metavar="LOG", help="file that watch(log_dir=…) wrote")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="a .html, .json, .sarif or .txt file")
    add_rule_options(parser)


def run(args: argparse.Namespace) -> int:
    """Write the report, print its path, and return the exit status."""
    report = replay(args.log, **rule_options(args))
    print_output(f"report: {escaped(str(report.save(args.output)))}")
    return status_of(report.findings, args.fail_on)
