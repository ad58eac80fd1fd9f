"""What a notebook shows below a cell while it trains: one output, which is updated."""

from __future__ import annotations

from collections.abc import Sequence

from autotrainer.html_fragment import badge, card, line, meter
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext
from autotrainer.reporting.charts.downsampling import points
from autotrainer.reporting.notebook.cell_output import CellOutput
from autotrainer.reporting.notebook.content import finding_lines
from autotrainer.reporting.sparkline import picture
from autotrainer.reporting.text import count, number

__all__ = ["RunDisplay"]

_MOST_FINDINGS = 5
_VALUES = ("val_loss", "val_accuracy")


class RunDisplay:
    """Shows a watched run: how far it is, its loss, and its findings as of their last evaluation.

    Args:
        output: The output of the cell.
    """

    def __init__(self, output: CellOutput) -> None:
        self._output = output

    def update(self, history: RunHistory, context: TaskContext, findings: Sequence[Finding], end: str = "") -> None:
        """Show the run as it is now, unless that was done shortly before.

        Args:
            history: Its measurements.
            context: Its planned length.
            findings: Its findings.
            end: How it has ended, in one word; empty while it goes on. Then it is shown in any case.
        """
        if len(history.steps):
            self._output.show(lambda: _show(history, context, findings, end), at_once=bool(end))


def _show(history: RunHistory, context: TaskContext, findings: Sequence[Finding], end: str) -> tuple[str, str]:
    """Return a run as HTML and as text."""
    steps = history.step + 1
    planned = context.planned_epochs if history.epoch else None  # else nothing has shown any epoch yet
    values = {"loss": history.losses[1], **{name: history.epochs(name)[1] for name in _VALUES}}
    facts = [
        f"step {steps:,}" + (f" of {context.planned_steps:,}" if context.planned_steps else ""),
        ""
        if not history.epoch
        else (f"{history.epoch} of " if planned else "") + count(planned or history.epoch, "epoch"),
        *(f"{name} {number(float(rows[-1]))}" for name, rows in values.items() if len(rows)),
    ]
    state = end or "watching"
    text = f"autotrainer, {state}: {', '.join(filter(None, facts))}"
    severities = {finding.severity for finding in findings}
    kind = next((str(s) for s in (Severity.ERROR, Severity.WARNING) if s in severities), "good" if end else "info")
    share = history.epoch / planned if planned else steps / context.planned_steps if context.planned_steps else None
    parts = [
        f"<div>{badge(kind, state)}</div>",
        line(" · ".join(filter(None, facts))),
        "" if share is None or end else meter(share),
        picture(points(*history.losses), "loss"),
        finding_lines(findings, _MOST_FINDINGS),
    ]
    return card(parts), text
