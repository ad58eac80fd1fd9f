"""What notebooks show of reports and findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autotrainer.html_fragment import badge, block, card, disclosure, line, preformatted
from autotrainer.records.findings import Finding, Severity, fold
from autotrainer.reporting import text
from autotrainer.reporting.outcome import Outcome, Points
from autotrainer.reporting.sparkline import picture

__all__ = ["finding_lines", "report_html"]

_STATUS = {"healthy": "good", "repaired": "good", "improved": "warning", "unrepaired": "error"}


def report_html(
    findings: Sequence[Finding], run: Mapping[str, Any], curves: Mapping[str, Points], outcome: Outcome | None
) -> str:
    """Return a report as a notebook shows it, short: the outcome, the roots of what was found, and the loss.

    Args:
        findings: Findings, ranked.
        run: Facts of the run, by name.
        curves: Named curves, each a sequence of (step or epoch, value).
        outcome: The outcome of a managed training; None for a watched or replayed run.
    """
    parts = [line(text.headline(findings, run))]
    parts += [line(note, quiet=True) for note in run.get("notes") or ()]
    if outcome is not None:
        parts.append(_outcome(outcome))
    parts += [picture(points, name) for name, points in curves.items() if name in ("loss", "val_loss")]
    for root, consequences in fold(findings):
        parts.append(root._repr_html_())
        if consequences:
            names = ", ".join(f"{f.problem} [{f.severity}]" for f in consequences)
            parts.append(block([disclosure(f"causes {names}", [f._repr_html_() for f in consequences])]))
    if outcome is not None and outcome.patch is not None:
        parts += [line("Changes to make in your code:"), preformatted(outcome.patch)]
    return card(parts)


def finding_lines(findings: Sequence[Finding], most: int) -> str:
    """Return one line for each problem that is present, roots only, and how many more there are."""
    roots = [(root, rest) for root, rest in fold(findings) if root.severity is not Severity.INFO]
    rows = []
    for root, rest in roots[:most]:
        causes = [line(f"└ causes {', '.join(f.problem for f in rest)}", quiet=True)] if rest else []
        rows.append(block([badge(root.severity, f"{root.code} {root.problem}"), line(root.message), *causes]))
    if roots[most:]:
        rows.append(line(f"and {text.count(len(roots) - most, 'more problem')}", quiet=True))
    return "".join(rows)


def _outcome(outcome: Outcome) -> str:
    verdict = text.verdict(outcome)
    scores = f"{text.number(outcome.baseline_score)} → {text.number(outcome.score)}"
    parts = [
        badge(_STATUS[outcome.status], outcome.status),
        line(verdict.removeprefix(f"{outcome.status}: ")),
        line(f"{outcome.judged_on} {outcome.metric}: {scores}"),
    ]
    if outcome.test_score is not None:
        tests = f"{text.number(outcome.baseline_test_score)} → {text.number(outcome.test_score)}"
        parts.append(line(f"test {outcome.metric}: {tests}"))
    tried = f" in {text.count(len(outcome.attempts), 'attempt')}" if outcome.attempts else ""
    parts.append(line(f"work: {text.work(outcome)}{tried}", quiet=True))
    return block(parts, _STATUS[outcome.status])
