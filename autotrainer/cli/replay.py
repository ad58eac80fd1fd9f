"""``autotrainer replay``: evaluate a recorded run again."""

from __future__ import annotations

import argparse

from autotrainer.api.replay import replay
from autotrainer.cli.common import add_format, add_json, add_rule_options, formatted, rule_options, status_of
from autotrainer.reporting.formats.training import Training
from autotrainer.reporting.terminal import print_output

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "replay"
HELP = "evaluate a recorded run again, from the log that watch(log_dir=…) wrote"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("log", metavar="LOG", help="file that watch(log_dir=…) wrote")
    parser.add_argument(
        "--replica", action="append", metavar="LOG", default=[], help="log of another process of the same training run"
    )
    parser.add_argument("--previous", metavar="LOG", help="log of an earlier run that this one may continue")
    add_rule_options(parser)
    output = parser.add_mutually_exclusive_group()
    add_format(output)
    add_json(output)


def run(args: argparse.Namespace) -> int:
    """Print the report of the run, and return the exit status."""
    report = replay(args.log, replicas=args.replica, previous=args.previous, **rule_options(args))
    if args.format == "text":
        print_output(report.to_json() if args.json else report)
    else:
        training = Training(args.log, report.findings, report.to_dict(), from_log=True)
        print_output(formatted(args.format, [training], NAME))
    return status_of(report.findings, args.fail_on)
