"""``autotrainer explain``: the page of a problem or a repair."""

from __future__ import annotations

import argparse
import re
import textwrap

from autotrainer import registry
from autotrainer.cli import calibration
from autotrainer.cli.common import add_json, print_json
from autotrainer.errors import ConfigError, nearest
from autotrainer.rule import Rule

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "explain"
HELP = "explain a problem (name, code or everyday alias) or a repair"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("name", metavar="PROBLEM|REPAIR", help="as vanishing_gradient, AT101, nan, clip_gradients")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the page.

    Raises:
        ConfigError: If the name is unknown.
    """
    title, kind, page = _page(args.name.strip().lower().replace("-", "_").replace(" ", "_"), args.name)
    if args.json:
        print_json({"kind": kind, "title": title, "page": page})
    else:
        print(f"{title}\n{'=' * len(title)}\n\n{page}")
    return 0


def _page(wanted: str, given: str) -> tuple[str, str, str]:
    """Return title, kind and text of a page."""
    for rule in registry.rules():
        if wanted in (rule.problem, rule.code.lower(), *(a.lower() for a in rule.aliases)):
            return (
                f"{rule.code} {rule.problem}",
                "problem",
                rule.documentation() + _numbers(rule) + calibration.section(rule),
            )
    for repair in registry.repairs():
        if wanted == repair.name:
            fixes = ", ".join(sorted(repair.fixes, key=lambda problem: -repair.fixes[problem]))
            page = re.sub(r"^(\S.*):$", r"\1", repair.documentation(), flags=re.MULTILINE)  # headings as those of rules
            return repair.name, "repair", f"{page}\n\nAnswers\n    {fixes}"
    names = {n for rule in registry.rules() for n in (rule.problem, rule.code, *rule.aliases)}
    hint = nearest(wanted, names | {repair.name for repair in registry.repairs()})
    raise ConfigError(f"unknown problem or repair {given!r}: {hint}")


def _numbers(rule: type[Rule]) -> str:
    """Return what the page of a rule does not say itself: the thresholds' values and the repairs' names."""
    lines = []
    for name, threshold in rule.THRESHOLDS.items():
        alias = f" ({threshold.alias})" if threshold.alias else ""
        lines += textwrap.wrap(
            f"{rule.problem}.{name} = {threshold.default:g}{alias}: {threshold.about} [{threshold.source}]",
            width=110,
            initial_indent="    ",
            subsequent_indent="        ",
        )
    text = "\n\nValues\n" + "\n".join(lines) if lines else ""
    return text + (f"\n\nRepairs by name\n    {', '.join(rule.repairs)}" if rule.repairs else "")
