"""The command line. Exit status 0: nothing found or all repaired; 1: errors remain; 2: bad input, in one line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from autotrainer._version import __version__
from autotrainer.cli import check, demo, explain, replay, report, reproduce, rules, run
from autotrainer.errors import AutotrainerError, ConfigError, nearest
from autotrainer.reporting.terminal import print_safely

__all__ = ["main"]

COMMANDS = (demo, run, check, rules, explain, replay, report, reproduce)
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
        names = [command.NAME for command in COMMANDS]
        if arguments and not arguments[0].startswith("-") and arguments[0] not in names:
            raise ConfigError(f"unknown command {arguments[0]!r}: {nearest(arguments[0], names)}")
        args = _parser().parse_args(arguments)
        status: int = args.run(args)
        sys.stdout.flush()
    except AutotrainerError as error:
        print_safely(f"autotrainer: {error}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        print_safely("autotrainer: interrupted", sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has closed the pipe, as in `autotrainer rules | head`
        _drop_output()
        return 0
    except OSError as error:
        _drop_output()
        print_safely(f"autotrainer: can't write the output: {error.strerror or error}", sys.stderr)
        return 2
    return status


def _drop_output() -> None:
    """Discard the rest of the output, so that flushing it at the end of the process does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
