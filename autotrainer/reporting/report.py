"""Reports of a run as text, JSON and HTML. They hold statistics, never samples or targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from autotrainer._version import __version__
from autotrainer.config import as_path
from autotrainer.errors import InputError, nearest
from autotrainer.records.findings import Finding
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext
from autotrainer.reporting import text
from autotrainer.reporting.charts.downsampling import points
from autotrainer.reporting.charts.run_charts import RunCharts, run_charts
from autotrainer.reporting.comparison import Comparison
from autotrainer.reporting.coverage import of_ranks, unmeasured, unobserved
from autotrainer.reporting.files import is_stream, write_atomic
from autotrainer.reporting.formats import sarif
from autotrainer.reporting.formats.json_text import indented
from autotrainer.reporting.formats.training import Training, source_root
from autotrainer.reporting.notebook.content import report_html
from autotrainer.reporting.outcome import Outcome, Points, plain
from autotrainer.reporting.page import page

__all__ = ["Report"]

FORMAT = 1
"""Version of the JSON format."""


@dataclass(frozen=True, slots=True)
class Report:
    """A report of one run: ``str(report)`` is its text form.

    Attributes:
        findings: Findings, ranked: roots before their consequences, then by severity and confidence.
        run: Facts of the run by name (``framework``, ``steps``, ``epochs``, ``layers``, …).
        curves: Curves by name (``loss``, ``val_loss``), each a sequence of (step, value) pairs, or of (epoch, value)
            pairs for a managed training; at most 400 points.
        outcome: The outcome of a managed training; None for a watched or replayed run.
        comparison: How the run differs from its baseline; None without one.
        charts: What can be drawn of the run that the findings are of; None if nothing is known.
    """

    findings: tuple[Finding, ...] = ()
    run: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Points] = field(default_factory=dict)
    outcome: Outcome | None = None
    comparison: Comparison | None = None
    charts: RunCharts | None = None

    @classmethod
    def of_run(
        cls,
        findings: Sequence[Finding],
        history: RunHistory,
        context: TaskContext,
        comparison: Comparison | None = None,
        notes: Sequence[str] = (),
    ) -> Self:
        """Build the report of a watched or replayed run.

        Args:
            findings: The findings, ranked.
            history: The measurements.
            context: The training's model, loss, optimizer and data.
            comparison: How the run differs from its baseline; None without one.
            notes: Sentences about sinks that did not get everything.
        """
        facts = {
            "framework": context.framework,
            "engine": context.engine,
            "layers": len(context.layers),
            "parameters": sum(layer.parameters for layer in context.layers),
            "loss": context.loss.name,
            "optimizer": context.optimizer.name,
            "learning_rate": context.optimizer.learning_rate,
            "steps": max(0, history.step + 1),
            "epochs": history.epoch,
            "sampled_steps": len(history.steps),
            "first_sampled_step": int(history.steps[0]) if len(history.steps) else None,
        }
        facts["unmeasured"] = list(unmeasured(history, context))
        follows = "led_by" in context.asked
        facts["notes"] = [*(() if follows else unobserved(history, context)), *of_ranks(context)]
        if follows:
            facts["reported_by_rank"] = int(context.asked["led_by"])
        if context.asked.get("ranks", 0) > 1:
            facts["processes"] = int(context.asked["ranks"])
        if "probe_seconds" in context.asked and not context.asked.get("not_probed"):
            facts["probe_seconds"] = context.asked["probe_seconds"]
        if notes:
            facts["sinks"] = list(notes)
        curves = {"loss": points(*history.losses)}
        if len(history.epochs("val_loss")[0]):
            epochs, values = history.epochs("val_loss")
            curves["val_loss"] = points([history.step_of_epoch(int(e)) for e in epochs], values)
        charts = run_charts(history, context, findings)
        return cls(tuple(findings), facts, curves, comparison=comparison, charts=charts)

    def __str__(self) -> str:
        report = text.render(self.findings, self.run, self.outcome)
        return report if self.comparison is None else f"{report}\n\n{self.comparison}"

    def _repr_html_(self) -> str:
        """Return the report as a notebook shows it."""
        return report_html(self.findings, self.run, self.curves, self.outcome)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON; NaN becomes None, infinities become strings."""
        return {
            "autotrainer_report": FORMAT,
            "version": __version__,
            "findings": [finding.to_summary() for finding in self.findings],
            "run": plain(self.run),
            "curves": plain(self.curves),
            "result": None if self.outcome is None else plain(asdict(self.outcome)),
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "charts": None if self.charts is None else plain(asdict(self.charts)),
        }

    def to_json(self) -> str:
        """Return the report as strict JSON; the key ``autotrainer_report`` holds the format version."""
        return indented(self.to_dict())

    def to_html(self) -> str:
        """Return the report as one self-contained HTML page."""
        return page.render(self.to_dict(), self.findings, self.run, self.outcome, self.comparison)

    def to_sarif(self) -> str:
        """Return the findings as SARIF 2.1.0, for code scanning and editors."""
        return sarif.render([Training("", self.findings, self.to_dict())], source_root())

    def save(self, path: str | Path) -> Path:
        """Write the report to a file. An existing file is replaced only once the new one is complete.

        Args:
            path: The file; its suffix selects the format: ``.html``, ``.json``, ``.sarif`` or ``.txt``. Missing
                folders are created.

        Returns:
            The path.

        Raises:
            InputError: If the suffix is unknown or the file can't be written.
        """
        formats = {".html": self.to_html, ".json": self.to_json, ".sarif": self.to_sarif, ".txt": self.__str__}
        path = as_path(path, "path")
        suffix = path.suffix.lower() or (".txt" if is_stream(path) else "")
        if suffix not in formats:
            hint = nearest(suffix, formats)
            raise InputError(f"can't save the report as {str(path)!r}: the suffix selects the format, {hint}")
        return write_atomic(path, formats[suffix]() + "\n")
