"""What the scripts of a page draw: taken from the JSON form of a report alone, so that the page knows nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from autotrainer.safe_text import safe_line

__all__ = ["chart_data", "script_text"]

_MAX_LANES = 12
"""Findings that are drawn on the time axis; all of them are in the list."""


def chart_data(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of the charts; every text in it is safe to show.

    Args:
        report: A report, as of `autotrainer.Report.to_dict`.

    Returns:
        ``charts`` (see `RunCharts`; None without); ``lanes``: the findings on the time axis, and ``more_lanes``: how
        many more there are; ``outcome``: metric, scores, cost and attempts of a managed training, or None;
        ``returned``: curves of the training that it returns, by epoch.
    """
    findings, outcome = report["findings"], report["result"]
    keys = ("problem", "code", "severity", "step", "epoch", "resolved_step", "caused_by")
    kept = ("metric", "mode", "baseline_score", "cost", "attempts", "epochs", "judged_on", "status")
    data = {
        "charts": report["charts"],
        "lanes": [{key: finding[key] for key in keys} for finding in findings[:_MAX_LANES]],
        "more_lanes": max(0, len(findings) - _MAX_LANES),
        "outcome": None if outcome is None else {key: outcome[key] for key in kept},
        "returned": report["curves"] if outcome is not None or report["charts"] is None else {},
    }
    safe: dict[str, Any] = _safe(data)
    return safe


def script_text(data: Any) -> str:
    """Return data as JSON for a script element: nothing in it can end the element or begin another."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _safe(value: Any) -> Any:
    if isinstance(value, str):
        return safe_line(value)
    if isinstance(value, Mapping):
        return {safe_line(str(key)): _safe(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_safe(entry) for entry in value]
    return value
