"""The text form of a report: problem first, its consequences folded under it, then what to do."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from autotrainer.records.findings import Finding, Severity, fold
from autotrainer.reporting.outcome import AttemptRow, Outcome
from autotrainer.reporting.terminal import clean

__all__ = ["DOUBT", "TOLD", "VERDICTS", "brief", "count", "headline", "number", "render", "repairs_of"]

TOLD = 2
"""Consequences of a root that are told whole: one dead model has many, and the rest are but named."""

DOUBT = "The gain may be luck: it is not sure at 99.9 %, and was not looked at with another seed."

VERDICTS = {"holds": "the gain holds", "refuted": "the gain does not hold"}

_WIDTH = 100


def render(findings: Sequence[Finding], run: Mapping[str, Any], outcome: Outcome | None) -> str:
    """Return a report as plain text, lines of at most about 100 characters.

    Args:
        findings: Findings, ranked.
        run: Facts of the run, by name.
        outcome: What a managed training came to; None for a watched or replayed run.
    """
    blocks = [_wrap(headline(findings, run))]
    if outcome is not None:
        blocks.append(_outcome_lines(outcome))
    blocks += [_finding_lines(root, consequences) for root, consequences in fold(findings)]
    if outcome is not None:
        blocks += _repair_blocks(outcome)
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def number(value: float | None) -> str:
    """Return a number with four significant digits; a dash for one that is not known."""
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"


def count(amount: int, noun: str) -> str:
    """Return an amount and its noun, in the plural where it has to be."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def brief(attempt: AttemptRow, outcome: Outcome) -> str:
    """Say what an attempt was for that was only to show whether it, or an earlier one, is worth more; else nothing."""
    if attempt.verdict:
        return "with another seed"
    if attempt.epochs is None:
        return ""
    whole = f" of {outcome.epochs}" if outcome.epochs else ""
    return f"tried for {attempt.epochs}{whole} {'epochs' if whole or attempt.epochs != 1 else 'epoch'}"


def repairs_of(attempt: AttemptRow) -> str:
    """Name the repairs of an attempt; the training as given, run again, has none."""
    return " + ".join(attempt.repairs) or "as given"


def headline(findings: Sequence[Finding], run: Mapping[str, Any]) -> str:
    """Return the report in one sentence: how many findings, in how long a run of which framework."""
    amounts = {s: sum(f.severity is s for f in findings) for s in Severity}
    said = [count(n, s.value if s is not Severity.INFO else "note") for s, n in amounts.items() if n]
    where = []
    if run.get("steps") is not None:
        where.append(f"in {count(run['steps'], 'step')}")
    if run.get("epochs"):
        where.append(f"({count(run['epochs'], 'epoch')})" if where else f"in {count(run['epochs'], 'epoch')}")
    if run.get("framework", "unknown") != "unknown":
        where.append(f"of a {run['framework']} training")
    if run.get("layers"):
        where.append(f"of {count(run['layers'], 'layer')}")
    return " ".join(["autotrainer:", ", ".join(said) or "no problem found", *where])


def _finding_lines(root: Finding, consequences: Sequence[Finding]) -> list[str]:
    lines = [
        f"{root.severity.upper()}  {root.code} {root.problem}   "
        f"(first seen in epoch {root.epoch}, step {root.step}; {root.confidence:.0%} sure)"
    ]
    lines += _wrap(root.message, "  ")
    if root.place:
        lines += _wrap(f"at {root.place}", "  ")
    if root.layers:
        shown = ", ".join(root.layers[:6]) + (f" and {len(root.layers) - 6} more" if len(root.layers) > 6 else "")
        lines += _wrap(f"layers: {shown}", "  ")
    if root.evidence:
        lines += _wrap("evidence: " + ", ".join(f"{k} = {number(v)}" for k, v in root.evidence.items()), "  ")
    for finding in consequences[:TOLD]:
        lines += _wrap(f"└ leads to {finding.code} {finding.problem} [{finding.severity}]: {finding.message}", "  ")
    if consequences[TOLD:]:
        named = ", ".join(f"{f.code} {f.problem} [{f.severity}]" for f in consequences[TOLD:])
        lines += _wrap(f"└ and so to {named}", "  ")
    if root.repairs and root.severity is not Severity.INFO:
        lines += _wrap(f"what helps, best first: {', '.join(root.repairs)}", "  ")
    if root.severity is not Severity.INFO:
        lines += _wrap(f"more: autotrainer explain {root.problem}", "  ")
    return lines


def _outcome_lines(outcome: Outcome) -> list[str]:
    said = {
        "healthy": "healthy: no error was found, so nothing was tried.",
        "repaired": "repaired: better by more than noise, and no error is left.",
        "improved": "improved: better by more than noise, but errors are left.",
        "unrepaired": "unrepaired: nothing tried was better by more than noise; the training as given is returned.",
    }
    if math.isnan(outcome.baseline_score):
        said["repaired"] = "repaired: the training as given came to no score; it does now, and no error is left."
        said["improved"] = "improved: the training as given came to no score; it does now, but errors are left."
    if not outcome.attempts and outcome.stopped_by != "done":
        said["unrepaired"] = (
            "unrepaired: the work was ended before the training could be called healthy or a repair be tried; "
            "the training as given is returned."
        )
    lines = _wrap(said.get(outcome.status, outcome.status))
    if outcome.doubtful:
        lines += _wrap(DOUBT, "  ")
    lines.append(f"  validation {outcome.metric}: {number(outcome.baseline_score)} → {number(outcome.score)}")
    if outcome.test_score is not None:
        before = number(outcome.baseline_test_score)
        lines.append(f"  test {outcome.metric}: {before} → {number(outcome.test_score)}")
    stopped = {"budget": "; the budget was spent", "interrupt": "; interrupted"}.get(outcome.stopped_by, "")
    lines.append(f"  work: {outcome.cost:.2f} trainings of the given model{stopped}")
    return lines


def _repair_blocks(outcome: Outcome) -> list[list[str]]:
    blocks = []
    if outcome.patch is not None:
        lines = ["What to change in your own code:"]
        blocks.append(lines + [f"  {clean(line)}" for line in outcome.patch.splitlines()])
    if outcome.attempts:
        scored = sum(a.score is not None and not a.verdict for a in outcome.attempts)
        lines = ["Attempts:", f"  {'score':>9}  {'cost':>5}  repairs"]
        for again, group in groupby(outcome.attempts, key=lambda a: bool(a.verdict)):
            rows = list(group)
            lines += [_repetition_line(rows)] if again else [_attempt_line(a, outcome) for a in rows]
        if outcome.test_score is None and scored:
            lines += _wrap(
                f"{count(scored, 'attempt')} and the training as given were compared on one validation set, so the "
                "best score there is a little too good; test_data= gives an unbiased one.",
                "  ",
            )
        blocks.append(lines)
    if outcome.left_out:
        lines = ["Left out:"]
        for name, reason in outcome.left_out.items():
            lines += _wrap(f"{name}: {reason}", "  ")
        blocks.append(lines)
    return blocks


def _attempt_line(a: AttemptRow, outcome: Outcome) -> str:
    left = f"left: {', '.join(a.remaining)}" if a.remaining else "no error left"
    left = f"failed: {a.error}" if a.error else left
    length = f"{brief(a, outcome)}; " if brief(a, outcome) else ""
    length += f"from epoch {a.start}; " if a.start else ""
    mark = "*" if a.chosen else " "
    return clean(f"{mark} {number(a.score):>9}  {a.cost:>5.2f}  {repairs_of(a)} ({length}{left})")


def _repetition_line(rows: Sequence[AttemptRow]) -> str:
    """Tell in one line what trainings with other seeds, which follow each other, came to."""
    scores: dict[str, list[str]] = {}
    for a in rows:
        scores.setdefault(repairs_of(a), []).append(number(a.score))
    told = "; ".join(f"{name} {', '.join(values)}" for name, values in scores.items())
    last = rows[-1]
    said = f": {VERDICTS[last.verdict]}" if last.verdict in VERDICTS else ""
    said += f" ({last.error})" if last.error else ""
    return clean(f"  {'':>9}  {sum(a.cost for a in rows):>5.2f}  └ with other seeds: {told}{said}")


def _wrap(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        clean(text), _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False
    ) or [indent]
