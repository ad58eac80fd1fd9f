"""What notebooks show of reports and plans, and one output of a cell that is updated while it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, Self
from uuid import uuid4

from autotrainer.html_fragment import badge, block, card, disclosure, line, preformatted
from autotrainer.records.findings import Finding, Severity, fold
from autotrainer.reporting import text
from autotrainer.reporting.outcome import Outcome, Points
from autotrainer.reporting.sparkline import picture

__all__ = ["CellOutput", "finding_lines", "report_html"]

_STATUS = {"healthy": "good", "repaired": "good", "improved": "warning", "unrepaired": "error"}

_INTERVAL, _SHARE = 1.0, 1e-3
"""Least seconds between two updates of an output, and share of the time that they take at most."""


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


class CellOutput:
    """One output of the notebook cell that runs, updated at most once a second and in at most a thousandth of the time.

    Args:
        ipython: The package ``IPython``, which the notebook has imported.
        clock: Returns the time in seconds.
    """

    def __init__(self, ipython: Any, clock: Callable[[], float] = perf_counter) -> None:
        self._ipython, self._clock = ipython, clock
        self._identity = uuid4().hex
        self._shown, self._next = False, -1.0

    @classmethod
    def of_running_cell(cls) -> Self | None:
        """Return a new output, or None outside of notebooks; nothing is shown until `show` is called."""
        ipython = sys.modules.get("IPython")
        shell = None if ipython is None else ipython.get_ipython()
        return None if shell is None or not hasattr(shell, "kernel") else cls(ipython)  # else a terminal

    def show(self, make: Callable[[], tuple[str, str]], *, at_once: bool = False) -> None:
        """Show something new, unless the last time was too short ago.

        Args:
            make: Returns it as HTML and as text, for frontends without HTML.
            at_once: Whether to show it in any case.
        """
        begin = self._clock()
        if begin < self._next and not at_once:
            return
        html, plain = make()
        self._ipython.display.display(
            {"text/html": html, "text/plain": plain}, raw=True, display_id=self._identity, update=self._shown
        )
        self._shown = True
        end = self._clock()
        self._next = end + max(_INTERVAL, (end - begin) / _SHARE)
