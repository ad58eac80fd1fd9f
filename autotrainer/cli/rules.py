"""``autotrainer rules``: all problems that are looked for."""

from __future__ import annotations

import argparse
import math
from typing import Any

from autotrainer import registry
from autotrainer.cli.common import add_json, print_json
from autotrainer.reporting.terminal import print_table
from autotrainer.rule import Threshold

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "rules"
HELP = "list the problems that are looked for, with their thresholds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    rules = registry.rules()
    if args.json:
        print_json(
            [
                {
                    "code": rule.code,
                    "problem": rule.problem,
                    "aliases": list(rule.aliases),
                    "thresholds": {name: _threshold(told) for name, told in rule.THRESHOLDS.items()},
                    "repairs": list(rule.repairs),
                }
                for rule in rules
            ]
        )
        return 0
    rows = []
    for rule in rules:
        thresholds = ", ".join(
            f"{name}={t.default:g}" + (f" ({t.alias})" if t.alias else "") for name, t in rule.THRESHOLDS.items()
        )
        rows.append((rule.code, rule.problem, thresholds))
    print_table(("code", "problem", "thresholds"), rows)
    return 0


def _threshold(told: Threshold) -> dict[str, Any]:
    """Return a threshold as JSON has it; null where its range is open."""
    return {
        "default": told.default,
        "minimum": told.minimum if math.isfinite(told.minimum) else None,
        "maximum": told.maximum if math.isfinite(told.maximum) else None,
        "alias": told.alias,
        "about": told.about,
        "source": told.source,
    }
