"""``autotrainer demo``: the published demo cases, found and repaired."""

from __future__ import annotations

import argparse

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "demo"
HELP = "find and repair the published demo cases of AUTOTRAINER (about two minutes)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--framework", choices=("pytorch", "keras3"), help="run only this one; default: all installed")


def run(args: argparse.Namespace) -> int:
    """Run the cases and print a table."""
    from autotrainer.demo.demo import run_demo

    return run_demo(args.framework)
