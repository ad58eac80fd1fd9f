"""``autotrainer explain``: the page of a problem or a repair, by its name or by what people type who don't know it."""

from __future__ import annotations

import argparse
import re
import textwrap
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from autotrainer import registry
from autotrainer._version import __version__
from autotrainer.cli import calibration
from autotrainer.cli.common import add_json, print_json
from autotrainer.cli.page_search import SearchPage, clear_best, search
from autotrainer.errors import ConfigError
from autotrainer.repair import Repair
from autotrainer.reporting.terminal import print_output
from autotrainer.rule import Rule

__all__ = ["HELP", "NAME", "Page", "add_arguments", "explanation", "problem_page", "repair_page", "run"]

NAME = "explain"
HELP = "explain a problem or a repair, by name, code, alias, or in your own words: explain loss is nan"

SCHEMA_VERSION = 1
"""Version of the JSON: a change that breaks readers raises it; keys may be added at any time."""

_SUGGESTIONS = 3
_REPAIR_WEIGHT = 0.7
"""Weight of a repair's page in a search: people describe the symptom more often than the remedy."""


@dataclass(frozen=True, slots=True)
class Page:
    """The page of a problem or a repair.

    Attributes:
        kind: Which of the two.
        title: Its name, with the code of a problem.
        text: Its text: a summary, then headings, each followed by indented lines.
    """

    kind: Literal["problem", "repair"]
    title: str
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "name",
        metavar="PROBLEM|REPAIR|WORDS",
        nargs="+",
        help="such as vanishing_gradient, AT101, nan, clip_gradients, or a description: accuracy stuck",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the page.

    Raises:
        ConfigError: If the name is unknown and the words fit no page clearly better than others.
    """
    found = explanation(" ".join(args.name))
    if args.json:
        print_json(found)
    else:
        title, query = found["title"], found.get("best_match_for")
        match = "" if query is None else f"Best match for {query!r}: {title}\n\n"
        print_output(f"{match}{title}\n{'=' * len(title)}\n\n{found['page']}")
    return 0


def explanation(query: str) -> dict[str, Any]:
    """Return the page of a problem or a repair, as ``--json`` prints it: see ``$defs/explanation`` of the JSON Schema.

    Args:
        query: A name, code or alias, or a description in words.

    Raises:
        ConfigError: If the name is unknown and the words fit no page clearly better than others.
    """
    query = " ".join(query.split())
    named = _named(query)
    page = _best_match(query) if named is None else named
    head = {"schema_version": SCHEMA_VERSION, "version": __version__}
    best_match = {"best_match_for": query} if named is None else {}
    return {**head, "kind": page.kind, "title": page.title, "page": page.text, **best_match}


def problem_page(rule: type[Rule]) -> Page:
    """Return the page of a problem: its documentation, thresholds, repairs and calibration.

    Raises:
        ConfigError: If the calibration stored beside the rule can't be read.
    """
    text = rule.documentation() + _thresholds_and_repairs(rule) + calibration.section(rule)
    return Page("problem", f"{rule.code} {rule.problem}", text)


def repair_page(repair: type[Repair]) -> Page:
    """Return the page of a repair: its documentation, and the problems that it addresses, likeliest first."""
    text = re.sub(r"^(\S.*):$", r"\1", repair.documentation(), flags=re.MULTILINE)  # headings as those of rules
    problems = ", ".join(sorted(repair.fixes, key=lambda problem: -repair.fixes[problem]))
    return Page("repair", repair.name, f"{text}\n\nProblems it addresses\n    {problems}")


def _named(query: str) -> Page | None:
    """Return the page of exactly this name, code or alias."""
    name = query.lower().replace("-", "_").replace(" ", "_")
    for rule in registry.rules():
        if name in (rule.problem, rule.code.lower(), *(alias.lower() for alias in rule.aliases)):
            return problem_page(rule)
    for repair in registry.repairs():
        if name == repair.name:
            return repair_page(repair)
    return None


def _best_match(query: str) -> Page:
    """Return the page that fits the words clearly better than others.

    Raises:
        ConfigError: If there is none; it offers the best few.
    """
    pages = _search_pages()
    matches = search(query, pages)
    mistyped_name = re.fullmatch(r"[a-z]+(_[a-z]+)+", query)  # whoever types a name wants that page and no other
    best = None if mistyped_name else clear_best(matches)
    page = _named(best.name) if best else None
    if page is not None:
        return page
    names = [match.name for match in matches[:_SUGGESTIONS]]
    names = names or get_close_matches(query, [page.name for page in pages], n=_SUGGESTIONS, cutoff=0.0)
    *others, last = names
    raise ConfigError(f"no clear match for {query!r}: did you mean {', '.join(others)}{' or ' * bool(others)}{last}?")


def _search_pages() -> list[SearchPage]:
    pages = []
    for rule in registry.rules():
        title, _, body = rule.documentation().partition("\n")
        pages.append(SearchPage(rule.problem, rule.aliases, rule.phrases, title, body))
    for repair in registry.repairs():
        title, _, body = repair.documentation().partition("\n")
        pages.append(SearchPage(repair.name, (), (), title, body, _REPAIR_WEIGHT))
    return pages


def _thresholds_and_repairs(rule: type[Rule]) -> str:
    """Return what the documentation of a rule leaves out: the thresholds' values and the repairs' names."""
    lines = []
    for name, threshold in rule.THRESHOLDS.items():
        alias = f" ({threshold.alias})" if threshold.alias else ""
        lines += textwrap.wrap(
            f"{rule.problem}.{name} = {threshold.default:g}{alias}: {threshold.about} [{threshold.source}]",
            width=110,
            initial_indent="    ",
            subsequent_indent="        ",
        )
    text = "\n\nThreshold values\n" + "\n".join(lines) if lines else ""
    return text + (f"\n\nRepairs by name\n    {', '.join(rule.repairs)}" if rule.repairs else "")
