"""``autotrainer compare``: compare recorded runs with a baseline."""

from __future__ import annotations

import argparse

from autotrainer.api.compare import compare
from autotrainer.cli.common import add_json, add_rule_options, rule_options
from autotrainer.errors import ConfigError
from autotrainer.reporting.terminal import print_output

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "compare"
HELP = (
    "compare recorded runs: BASELINE RUN, or BASELINE… --with RUN…; exit status 1 if the runs are worse: a metric is, "
    "beyond chance, or an error is new"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "logs", nargs="+", metavar="LOG", help="the log of the baseline and that of the run; with --with, baseline only"
    )
    parser.add_argument(
        "--with", dest="runs", nargs="+", metavar="RUN", help="logs of several runs, to compare with those before"
    )
    parser.add_argument(
        "--metric", action="append", metavar="NAME", default=[], help="metric that decides; default: all of the runs"
    )
    add_rule_options(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the comparison, and return the exit status.

    Raises:
        ConfigError: If it is not clear which log is the baseline, or an option is invalid.
        LogError: If a log can't be read.
    """
    baseline, runs = args.logs, args.runs
    if runs is None:
        if len(baseline) != 2:
            raise ConfigError(
                f"compare takes BASELINE RUN, or BASELINE… --with RUN… for several a side, not {len(baseline)} logs"
            )
        baseline, runs = baseline[:1], baseline[1:]
    comparison = compare(baseline, runs, metrics=args.metric, fail_on=args.fail_on, **rule_options(args))
    print_output(comparison.to_json() if args.json else comparison.text)
    return int(comparison.worse)
