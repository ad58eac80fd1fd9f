"""``autotrainer reproduce``: repair a training setup of the original AUTOTRAINER."""

from __future__ import annotations

import argparse
from pathlib import Path

from autotrainer.cli.common import add_json
from autotrainer.demo.reproduce import BUILTIN_MODEL, read_config, reproduce
from autotrainer.errors import ConfigError
from autotrainer.reporting.terminal import import_quietly, print_output
from autotrainer.safe_text import escaped

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "reproduce"
HELP = "repair a training setup of the original AUTOTRAINER, from its model and configuration files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--model", required=True, metavar="FILE", help=f".h5 or .keras, or {BUILTIN_MODEL}")
    parser.add_argument("--config", required=True, metavar="FILE", help=".pkl (plain values only) or .json")
    parser.add_argument("--out", metavar="DIR", help="folder for the repaired model; default: reproduced/<model>")
    parser.add_argument("--data", metavar="DIR", help="folder of the MNIST files; default: $AUTOTRAINER_DATA")
    parser.add_argument("--budget", type=float, metavar="N", help="budget in training runs of the original model")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the report and the output folder, and return the exit status.

    Raises:
        InputError: If an argument can't be used, or Keras is not installed.
    """
    name = Path(args.model.removeprefix("builtin:")).stem.strip(".") or "model"
    out = Path(args.out or Path("reproduced") / name)
    config = read_config(args.config)
    try:
        import_quietly("keras")
    except ImportError as error:
        raise ConfigError(f"reproduce needs Keras 3 ({error}): pip install 'autotrainer-monitor[keras]'") from error
    result = reproduce(args.model, config, out, args.data, args.budget)
    report = result.report()
    print_output(report.to_json() if args.json else f"{report}\n\nsaved in {escaped(str(out))}")
    return 0 if result.status in ("healthy", "repaired") else 1
