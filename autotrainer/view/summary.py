"""The list of runs: what a line shows of each."""

from __future__ import annotations

import math
from typing import Any

from autotrainer.records.findings import Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.schema import plain
from autotrainer.view.followed_run import FollowedRun
from autotrainer.view.run_folder import RunFolder

__all__ = ["last_loss", "last_values", "list_runs", "summary"]

_MAX_VALUES = 4
"""Last values of epochs that the line of a run shows."""


def list_runs(folder: RunFolder) -> dict[str, Any]:
    """Return all runs, each with what a line shows of it, for JSON."""
    return {
        "paths": [str(path) for path in folder.paths],
        "left_out": folder.left_out,
        "runs": [{"id": folder.number_of(run), **summary(run)} for run in folder.latest_first()],
    }


def summary(run: FollowedRun) -> dict[str, Any]:
    """Return what a line shows of a run, for JSON."""
    history, context = run.run.history, run.run.context
    findings = run.report.findings
    line: dict[str, Any] = plain(
        {
            "name": run.name,
            "version": run.version,
            "state": run.state,
            "state_text": run.state_text,
            "state_hint": run.state_hint,
            "written": run.modified,
            "step": history.step,
            "epoch": history.epoch,
            "epochs": context.planned_epochs,
            "loss": last_loss(history),
            "values": last_values(history),
            "optimizer": context.optimizer.name,
            "learning_rate": context.optimizer.learning_rate,
            "findings": {str(s): sum(f.severity is s for f in findings) for s in Severity},
            "first": str(findings[0]) if findings and findings[0].severity is not Severity.INFO else "",
        }
    )
    return line


def last_loss(history: RunHistory) -> float | None:
    """Return the latest loss, infinity if it is not finite; None if none is known."""
    losses = history.losses[1]
    return float(losses[-1]) if len(losses) else None


def last_values(history: RunHistory) -> dict[str, float]:
    """Return the latest of up to four values of epochs, those of the validation if there are any."""
    names = [name for name in history.epoch_names if name.startswith("val_")] or list(history.epoch_names)
    values = {name: history.epochs(name)[1] for name in names[:_MAX_VALUES]}
    return {name: float(rows[-1]) for name, rows in values.items() if len(rows) and not math.isnan(rows[-1])}
