"""The command line. Exit status 0: nothing found or all repaired; 1: errors remain; 2: bad input, in one line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from autotrainer._version import __version__
from autotrainer.cli import check, compare, demo, explain, mcp, replay, report, reproduce, rules, run, view
from autotrainer.cli.common import print_failure
from autotrainer.errors import AutotrainerError, ConfigError, nearest
from autotrainer.output import print_error
from autotrainer.reporting.terminal import drop_output, flush_output
from autotrainer.safe_text import safe_line

__all__ = ["main"]

COMMANDS = (demo, run, check, rules, explain, replay, compare, report, view, mcp, reproduce)
"""One module per command: ``NAME``, ``HELP``, ``add_arguments(parser)``, ``run(args) -> status``."""


class _Parser(argparse.ArgumentParser):
    """A parser that raises usage errors as `ConfigError`: one line, status 2."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Arguments without the program's name; None for those of the process.

    Returns:
        The exit status.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if sys.stdout is None:  # closed by the caller, for example with `>&-`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - open until the process ends
    try:
        status = _run(arguments)
        error = flush_output()
    except SystemExit:  # after --help or --version
        status, error = 0, flush_output()
        if error is None:
            raise
    except AutotrainerError as invalid:
        print_error(f"autotrainer: {invalid}")
        return 2
    except KeyboardInterrupt:
        print_error("autotrainer: interrupted")
        return 130
    except OSError as raised:
        status, error = 0, raised
    except ValueError as raised:
        if not sys.stdout.closed:
            raise
        status, error = 0, raised
    return status if error is None else _output_failed(error, status)


def _output_failed(error: Exception, status: int) -> int:
    """Report that the output can't be written, and return the exit status.

    Args:
        error: The error.
        status: Exit status of the command; 0 if the error has ended it.
    """
    drop_output()
    if isinstance(error, BrokenPipeError):  # the reader has read enough, as in `autotrainer rules | head -1`
        return status
    reason = getattr(error, "strerror", None) or error
    where = getattr(error, "filename", None)
    failed = "can't write the output" if where is None else f"can't use {where}"
    print_error(f"autotrainer: {safe_line(f'{failed}: {reason}')}")
    return status or 2


def _run(arguments: Sequence[str]) -> int:
    """Run one command, and return the exit status.

    Raises:
        AutotrainerError: If the arguments are invalid, or the command can't be run with them.
        OSError: If the output can't be written.
    """
    names = [command.NAME for command in COMMANDS]
    if arguments and not arguments[0].startswith("-") and arguments[0] not in names:
        raise ConfigError(f"unknown command {arguments[0]!r}: {nearest(arguments[0], names)}")
    args = _parser().parse_args(arguments)
    if args.run is not run.run and getattr(sys.stdout, "errors", None) == "strict":
        with suppress(Exception):  # it may be of any type
            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        status: int = args.run(args)
    except AutotrainerError as error:
        print_failure(getattr(args, "format", ""), error)
        raise
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="autotrainer",
        description="Watches neural-network training, names what goes wrong, and repairs it.",
        epilog="Exit status: 0 if nothing was found or all was repaired, 1 if errors remain, 2 for bad input.",
    )
    parser.add_argument("--version", action="version", version=f"autotrainer {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        subparser = commands.add_parser(command.NAME, help=command.HELP, description=command.HELP)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser
