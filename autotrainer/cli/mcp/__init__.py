"""``autotrainer mcp``: a server of the Model Context Protocol, for coding agents that read runs and repair them."""

from __future__ import annotations

import argparse
from pathlib import Path

from autotrainer.cli.common import current_folder
from autotrainer.config import as_path
from autotrainer.errors import ConfigError

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "mcp"
HELP = "serve the run logs of a folder to coding agents, over the Model Context Protocol on stdin and stdout"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("root", metavar="DIR", help="folder with run logs; nothing outside of it is listed or read")
    parser.add_argument(
        "--source", metavar="DIR", help="folder with your code, for patches and fit; default: the current folder"
    )
    parser.add_argument(
        "--allow-run", action="store_true", help="let agents run MODULE:FUNCTION of the --source folder with fit"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until standard input ends, and return the exit status.

    Raises:
        ConfigError: If a folder does not exist, or the package ``mcp`` is missing.
    """
    root = _folder(args.root, "DIR")
    source = _folder(current_folder() if args.source is None else args.source, "--source")
    try:
        from autotrainer.cli.mcp.server import make_server
    except ImportError as error:
        raise ConfigError(
            f"autotrainer mcp needs the package mcp, version 2 or later ({error}): "
            "pip install 'autotrainer-monitor[mcp]'"
        ) from error
    make_server(root, source, allow_run=args.allow_run).run("stdio")
    return 0


def _folder(path: str, name: str) -> Path:
    folder = as_path(path, name).absolute()
    if not folder.is_dir():
        raise ConfigError(f"{name}: there is no folder {path!r}; give an existing one")
    return folder.resolve()
