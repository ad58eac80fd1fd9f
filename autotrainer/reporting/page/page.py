"""Puts a report on one page that needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from autotrainer._version import __version__
from autotrainer.records.findings import Finding, Severity
from autotrainer.reporting import text
from autotrainer.reporting.comparison import Comparison
from autotrainer.reporting.outcome import Outcome
from autotrainer.reporting.page.assets import LIBRARY, LIBRARY_VERSION, SCRIPTS, asset, content_policy
from autotrainer.reporting.page.chart_data import chart_data, script_text
from autotrainer.reporting.page.highlight import highlighted
from autotrainer.reporting.page.story import chains, gains, since, story, title
from autotrainer.reporting.text import number
from autotrainer.safe_text import escaped, safe_line, safe_text

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["render"]

_MAX_LAYERS = 6
_OPEN = 3
"""Findings of no other cause whose details are open from the start."""


def render(
    report: Mapping[str, Any],
    findings: Sequence[Finding],
    run: Mapping[str, Any],
    outcome: Outcome | None,
    comparison: Comparison | None = None,
) -> str:
    """Return a report as an HTML page.

    Args:
        report: The report, as of `autotrainer.Report.to_dict`: what the charts draw.
        findings: Its findings, ranked.
        run: Facts of its run, by name.
        outcome: Its outcome; None for a watched or replayed run.
        comparison: How the run differs from its baseline; None without one.
    """
    scripts = [asset(LIBRARY), *map(asset, SCRIPTS)]
    data = chart_data(report)
    charts = data["charts"] or {}
    last_step = charts.get("last_step", run["steps"] - 1 if run.get("steps") else None)
    facts = dict(run) if outcome is None else {**run, **_outcome_facts(outcome)}
    brief = story(findings, run, last_step, outcome)
    return _template().render(
        policy=content_policy(*scripts),
        style=asset("page.css"),
        scripts=scripts,
        data=script_text(data),
        has_curves=bool(charts.get("curves") or data["returned"]),
        has_layers=bool(charts.get("layers")),
        headline=text.headline(findings, run),
        brief=brief,
        findings=findings,
        counts=[(str(s), n) for s in Severity if (n := sum(f.severity is s for f in findings))],
        chains=chains(findings),
        facts={title(k): _fact(v) for k, v in facts.items() if k not in _ELSEWHERE and _is_known(v)},
        unseen=[*(run.get("notes") or ()), *(f"Not measured: {name}." for name in charts.get("unmeasured", ()))],
        measured=bool(charts),
        sinks=run.get("sinks") or (),
        outcome=outcome,
        comparison=comparison,
        last_step=last_step,
        gains=gains,
        opened=[f for f in findings if f.caused_by is None and f.severity is not Severity.INFO][:_OPEN],
        count=text.count,
        max_layers=_MAX_LAYERS,
        text=text,
        since=since,
        title=title,
        version=__version__,
        library=LIBRARY_VERSION,
    )


_ELSEWHERE = ("notes", "unmeasured", "sinks")
"""Facts of the run that have a section of their own."""


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_safe
    )
    environment.filters |= {"number": number, "safe_text": safe_text, "code": _code, "words": _words}
    return environment.from_string(files(__package__).joinpath("report.html.j2").read_text("utf-8"))


def _code(lines: Sequence[str]) -> str:
    return highlighted([escaped(line) for line in lines])


def _words(text: str) -> str:
    """Return text as HTML in which the names between backticks are code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(safe_line(text)))


def _safe(value: object) -> object:
    """Return a value as it is shown: text as one safe line, unless the template has escaped it already."""
    return safe_line(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _outcome_facts(outcome: Outcome) -> dict[str, object]:
    names = ("baseline_epochs", "baseline_steps", "cost", "stopped_by")
    return {name: value for name in names if (value := getattr(outcome, name))}


def _is_known(value: object) -> bool:
    return value not in (None, "unknown") and value == value  # NaN is not equal to itself


def _fact(value: object) -> str:
    return number(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
