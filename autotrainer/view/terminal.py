"""Runs that are followed in a terminal: a table of all, and the findings of the latest."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from autotrainer.records.findings import Severity, fold
from autotrainer.reporting.sparkline import bars
from autotrainer.reporting.text import count, headline, number
from autotrainer.safe_text import safe_line
from autotrainer.view.followed_run import FollowedRun
from autotrainer.view.run_folder import RunFolder
from autotrainer.view.summary import last_loss, last_values

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["follow", "frame"]

_INTERVAL = 1.0
"""Seconds between two looks at the logs."""

_STYLES = {
    "running": "green", "reading": "cyan", "waiting": "cyan", "silent": "yellow", "finished": "", "interrupted": "red",
    "unreadable": "red",
}  # fmt: skip
_SEVERITY_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.INFO: "dim"}


def follow(folder: RunFolder) -> None:
    """Follow runs on standard output, a terminal, until Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        while True:
            complete = folder.update(_INTERVAL)
            live.update(frame(folder, console.width, console.height), refresh=True)
            if complete:
                time.sleep(_INTERVAL)


def frame(folder: RunFolder, width: int, height: int) -> RenderableType:
    """Return what the terminal shows now.

    Args:
        folder: The runs.
        width: Columns of the terminal.
        height: Its lines.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    runs = folder.latest_first()
    if not runs:
        where = ", ".join(str(path) for path in folder.paths)
        return Text(safe_line(f"no run log in {where} yet: waiting for one that watch(log_dir=…) writes"))
    shown = runs[: max(3, height // 3)]
    table = Table("run", "state", "step", "epoch", "loss", "values", "findings", box=None, header_style="bold")
    for run in shown:
        table.add_row(*_cells(run))
    hidden = len(runs) - len(shown) + folder.left_out
    more = [Text(f"and {count(hidden, 'older run')}", style="dim")] if hidden else []
    return Group(table, *more, Text(), *_details(runs[0], width, max(4, height - len(shown) - 8)))


def _cells(run: FollowedRun) -> list[RenderableType]:
    from rich.text import Text

    history, planned = run.run.history, run.run.context.planned_epochs
    findings = run.report.findings
    amounts = [(s, sum(f.severity is s for f in findings)) for s in (Severity.ERROR, Severity.WARNING)]
    text = Text(", ".join(count(n, str(s)) for s, n in amounts if n) or "–")
    text.style = next((_SEVERITY_STYLES[s] for s, n in amounts if n), "")
    values = ", ".join(f"{name} {number(value)}" for name, value in last_values(history).items())
    return [
        Text(safe_line(run.name), overflow="ellipsis", no_wrap=True),
        Text(safe_line(run.state_text), style=_STYLES[run.state], overflow="ellipsis", no_wrap=True),
        Text(f"{history.step:,}" if history.step >= 0 else "–", justify="right"),
        Text(f"{history.epoch}/{planned}" if planned else str(history.epoch), justify="right"),
        Text(number(last_loss(history)), justify="right"),
        Text(safe_line(values) or "–", overflow="ellipsis", no_wrap=True),
        text,
    ]


def _details(run: FollowedRun, width: int, lines: int) -> list[RenderableType]:
    """Return the loss and the findings of a run, roots before their consequences, in at most about so many lines."""
    from rich.text import Text

    report = run.report
    title = Text(safe_line(run.name), style="bold")
    loss = bars(report.curves.get("loss", ()), max(10, width - 30))
    rows: list[RenderableType] = [title, Text(safe_line(headline(report.findings, report.run)))]
    if run.state_hint:
        rows.append(Text(safe_line(run.state_hint), style="yellow"))
    if loss:
        rows.append(Text(f"loss {loss}", no_wrap=True, overflow="ellipsis"))
    for root, consequences in fold(report.findings)[: max(1, lines // 3)]:
        rows.append(Text(safe_line(str(root)), style=_SEVERITY_STYLES[root.severity]))
        if consequences:
            rows.append(Text(safe_line(f"  └ causes {', '.join(f.problem for f in consequences)}"), style="dim"))
        if root.severity is not Severity.INFO and root.repairs:
            rows.append(Text(safe_line(f"  suggested repairs: {', '.join(root.repairs)}"), style="dim"))
    return rows
