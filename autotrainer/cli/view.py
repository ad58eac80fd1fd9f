"""``autotrainer view``: follow runs in a browser or a terminal."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from functools import partial

from autotrainer import registry
from autotrainer.cli.common import add_rule_selection, rule_options
from autotrainer.errors import ConfigError
from autotrainer.reporting.terminal import print_output
from autotrainer.safe_text import escaped
from autotrainer.view.run_folder import RunFolder

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "view"
HELP = "follow one or several runs, while they go on or afterwards, on a local page or in the terminal"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "paths", nargs="+", metavar="LOG_DIR_OR_FILE", help="folder that watch(log_dir=…) writes to, or a log in it"
    )
    parser.add_argument("--port", type=_port, default=0, help="port of the page; default: a free one")
    parser.add_argument("--terminal", action="store_true", help="show the runs in the terminal, not on a page")
    parser.add_argument("--no-browser", action="store_true", help="print the address of the page, but do not open it")
    add_rule_selection(parser)


def run(args: argparse.Namespace) -> int:
    """Follow the runs until Ctrl-C, and return the exit status.

    Raises:
        InputError: If a path does not exist, or an option is invalid.
        LogError: If a file is not a run log.
    """
    make_rules = partial(registry.make_rules, **rule_options(args))
    make_rules()
    folder = RunFolder(args.paths, make_rules)
    with suppress(KeyboardInterrupt):
        if args.terminal:
            _show_in_terminal(folder)
        else:
            _serve(folder, args.port, open_browser=not args.no_browser)
    return 0


def _show_in_terminal(folder: RunFolder) -> None:
    from autotrainer.view.terminal import follow

    if not sys.stdout.isatty():
        raise ConfigError("--terminal needs a terminal; `autotrainer replay LOG` prints the report of a run")
    follow(folder)


def _serve(folder: RunFolder, port: int, *, open_browser: bool) -> None:
    from autotrainer.view.page import routes
    from autotrainer.view.server import ViewServer

    with ViewServer(routes(folder), port) as server:
        paths = ", ".join(map(str, folder.paths))
        print_output(f"autotrainer: following {escaped(paths)} at {server.url} (until Ctrl-C)")
        if open_browser and _has_screen():
            import webbrowser

            webbrowser.open(server.url)
        server.serve_forever()


def _has_screen() -> bool:
    """Return whether a browser would open a window, and not take over the terminal."""
    return os.name == "nt" or sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a number from 0 to 65535 expected, not {text!r}")
    return int(text)
