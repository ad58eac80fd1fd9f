"""A report in brief: what is wrong, since when, why, and what to do."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotrainer import registry
from autotrainer.records.findings import Finding, Severity, fold
from autotrainer.reporting import text
from autotrainer.reporting.outcome import Outcome
from autotrainer.reporting.text import count, number

__all__ = ["Link", "Story", "chains", "gains", "since", "story", "title"]

_MAX_REPAIRS, _MAX_NAMES = 3, 5


@dataclass(frozen=True, slots=True)
class Story:
    """A report in brief.

    Attributes:
        status: ``error``, ``warning``, ``good`` (nothing was found, or it is repaired) or ``unknown`` (nothing was
            measured).
        title: The problem in two or three words.
        what: What is wrong, with the measured numbers.
        since: Since when, and whether it lasts.
        why: Sentences about the cause and what it leads to.
        todo: (what to do, why it helps) pairs.
        others: The findings beside this one, in words; empty without any.
    """

    status: str
    title: str
    what: str
    since: str = ""
    why: tuple[str, ...] = ()
    todo: tuple[tuple[str, str], ...] = ()
    others: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """A finding in a chain of causes, with the findings that it causes."""

    finding: Finding
    causes: tuple[Link, ...]


def story(findings: Sequence[Finding], run: Mapping[str, Any], last_step: int | None, outcome: Outcome | None) -> Story:
    """Return a report in brief.

    Args:
        findings: Findings, ranked.
        run: Facts of the run, by name.
        last_step: Its last step; None if it is unknown.
        outcome: The outcome of a managed training; None for a watched or replayed run.
    """
    groups = [(root, rest) for root, rest in fold(findings) if root.severity is not Severity.INFO]
    if not groups:
        return _without_findings(run, outcome)
    (root, rest), *other_groups = groups
    worst = min((each.severity for each in (root, *rest)), key=lambda severity: severity.rank)
    why = [_about(root.problem, "Why it hurts"), *([f"Leads to {_names(rest)}."] if rest else [])]
    repaired = outcome is not None and outcome.status in ("repaired", "improved")
    others = sum(1 + len(rest) for _, rest in other_groups)
    return Story(
        status="good" if outcome is not None and outcome.status == "repaired" else str(worst),
        title=_capitalized(title(root.problem)),
        what=root.message,
        since=since(root, last_step),
        why=tuple(filter(None, why)),
        todo=_patch(outcome) if outcome is not None and repaired else _suggestions(root),
        others=count(others, "other finding") if others else "",
    )


def since(finding: Finding, last_step: int | None) -> str:
    """Return since when, and until when, a problem was seen, in words.

    Args:
        finding: The problem.
        last_step: The last step of the run; None if it is unknown.
    """
    begin = f"step {finding.step:,} (epoch {finding.epoch})"
    if finding.resolved_step is not None:
        return f"From {begin} to step {finding.resolved_step:,}, by which it was resolved."
    if last_step is None or last_step <= finding.step:
        return f"Since {begin}."
    return f"From {begin} to the latest step, {last_step:,}."


def title(name: str) -> str:
    """Return a name in snake case as words."""
    return name.replace("_", " ")


def chains(findings: Sequence[Finding]) -> list[Link]:
    """Return the chains of causes of two findings or more, roots first."""
    return [_link(root, rest) for root, rest in fold(findings) if rest]


def _link(finding: Finding, others: Sequence[Finding]) -> Link:
    direct = [other for other in others if other.caused_by == finding.problem]
    below = [other for other in others if other not in direct]
    return Link(finding, tuple(_link(each, below) for each in direct))


def _capitalized(words: str) -> str:
    return words[:1].upper() + words[1:]


def _without_findings(run: Mapping[str, Any], outcome: Outcome | None) -> Story:
    if outcome is not None and outcome.status == "unrepaired":
        return Story("warning", "Unrepaired", text.verdict(outcome))
    if run.get("sampled_steps") == 0:
        return Story("unknown", "Nothing measured", "No training step was measured, so nothing can be said about it.")
    scope = [count(run[key], noun) for key, noun in (("steps", "step"), ("epochs", "epoch")) if run.get(key)]
    seen = f" in {' and '.join(scope)}" if scope else ""
    return Story("good", "No problem found", f"No rule has found an error or a warning{seen}.")


def _names(findings: Sequence[Finding]) -> str:
    names = [title(f.problem) for f in findings]
    if len(names) > _MAX_NAMES:
        names = [*names[: _MAX_NAMES - 1], f"{len(names) - _MAX_NAMES + 1} more"]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _patch(outcome: Outcome) -> tuple[tuple[str, str], ...]:
    steps = [(step.words, "") for step in outcome.patch_steps]
    more = [(f"{count(len(steps) - _MAX_REPAIRS, 'further change')}", "")] if len(steps) > _MAX_REPAIRS else []
    return (*steps[:_MAX_REPAIRS], *more)


def gains(outcome: Outcome) -> list[str]:
    """Return what the returned training reaches against the original one, in words."""
    lines = [f"{outcome.judged_on} {outcome.metric}: {number(outcome.baseline_score)} → {number(outcome.score)}"]
    if outcome.test_score is not None:
        lines.append(f"test {outcome.metric}: {number(outcome.baseline_test_score)} → {number(outcome.test_score)}")
    return lines


def _suggestions(root: Finding) -> tuple[tuple[str, str], ...]:
    summaries = {repair.name: inspect.getdoc(type(repair) if not isinstance(repair, type) else repair) or ""
                 for repair in registry.repairs()}  # fmt: skip
    return tuple(
        (_capitalized(title(name)), _first_line(summaries.get(name, ""))) for name in root.repairs[:_MAX_REPAIRS]
    )


def _about(problem: str, heading: str) -> str:
    """Return the paragraph under a heading of a rule's page; empty if there is none."""
    pages = {rule.problem: rule.documentation() for rule in registry.rules()}
    match = re.search(rf"^{heading}\n((?:    .*\n|\n)+)", pages.get(problem, "") + "\n", re.MULTILINE)
    return " ".join(match[1].split("\n\n")[0].split()).replace("``", "") if match else ""


def _first_line(page: str) -> str:
    return page.split("\n\n")[0].replace("\n", " ").replace("``", "")
