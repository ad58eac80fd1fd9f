"""``autotrainer rules``: list all problems."""

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
HELP = "list all problems that autotrainer looks for, with their thresholds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table, and return the exit status."""
    rules = registry.rules()
    if args.json:
        print_json(
            [
                {
                    "code": rule.code,
                    "problem": rule.problem,
                    "aliases": list(rule.aliases),
                    "thresholds": {name: _to_json(threshold) for name, threshold in rule.THRESHOLDS.items()},
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


def _to_json(threshold: Threshold) -> dict[str, Any]:
    """Return a threshold as JSON values; a limit that is infinite is null."""
    return {
        "default": threshold.default,
        "minimum": threshold.minimum if math.isfinite(threshold.minimum) else None,
        "maximum": threshold.maximum if math.isfinite(threshold.maximum) else None,
        "alias": threshold.alias,
        "about": threshold.about,
        "source": threshold.source,
    }
