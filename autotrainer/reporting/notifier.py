"""Tells the user about findings: log messages, the callback, and the summary at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from autotrainer.errors import ConfigError
from autotrainer.output import logger, print_error
from autotrainer.records.findings import Finding, Severity, fold
from autotrainer.reporting.text import count

__all__ = ["Notifier"]

_MAX_LOG_LINES = 10


class Notifier:
    """Tells the user about the findings of one run.

    Args:
        on_finding: Called with each new finding, or None.
        quiet: Whether to suppress log messages and the summary at the end.

    Raises:
        ConfigError: If ``on_finding`` is not callable.
    """

    def __init__(self, on_finding: Callable[[Finding], None] | None, *, quiet: bool) -> None:
        if on_finding is not None and not callable(on_finding):
            raise ConfigError(f"on_finding must be callable or None, not {type(on_finding).__name__}")
        self._on_finding = on_finding
        self._quiet = quiet
        self._logged = 0

    def log(self, finding: Finding) -> None:
        """Log a new finding, unless ten were logged already."""
        if not self._quiet and self._logged < _MAX_LOG_LINES:
            self._logged += 1
            level = logging.INFO if finding.severity is Severity.INFO else logging.WARNING
            logger.log(level, "%s (epoch %d, step %d)", finding, finding.epoch, finding.step)

    def log_text(self, text: str) -> None:
        """Log a message that is no finding, as a warning."""
        if not self._quiet:
            logger.warning("%s", text)

    def call(self, finding: Finding) -> None:
        """Call the callback; whatever it raises goes through."""
        if self._on_finding is not None:
            self._on_finding(finding)

    def print_summary(self, findings: Sequence[Finding]) -> None:
        """Print the errors among the findings to standard error, if there are any."""
        errors = [f for f in findings if f.severity is Severity.ERROR]
        if self._quiet or not errors:
            return
        lines = [f"autotrainer: {count(len(errors), 'error')} in this training run"]
        for root, consequences in fold(errors):
            lines.append(f"  {root}")
            if consequences:
                lines.append(f"  └ causes {', '.join(f.problem for f in consequences)}")
        lines.append(f"  more: monitor.report(), autotrainer explain {errors[0].problem}")
        print_error("\n".join(lines))

    def mute(self) -> None:
        """Log, call and print nothing from now on."""
        self._quiet, self._on_finding = True, None

    def drop_callback(self) -> None:
        """Keep no reference to the callback."""
        self._on_finding = None
