"""Trackio: measurements in a run, findings as alerts and texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotrainer.errors import ConfigError
from autotrainer.integrations._callback import require
from autotrainer.integrations.sinks._support import CopyableSink, is_alert, title
from autotrainer.records.findings import Finding, Severity

__all__ = ["TrackioSink"]
_MAX_HELD = 200
"""Rows that wait for the first one of the user; of more, every second one."""


class TrackioSink(CopyableSink):
    """Logs to the active run of Trackio, or to a new one, which is finished at the end.

    ```python
    trackio.init(project="digits")
    with autotrainer.watch(model, optimizer, sinks=["trackio"]):
        ...
    ```

    In a run of yours, measurements have the step of your last ``log`` call, so that your steps stay as they are, and
    wait for the first one; ``autotrainer/step`` is the optimizer step. Each finding is a text; roots raise an alert.

    Args:
        run: The run; None: the active one, or a new one.
        **options: Arguments of `trackio.init` for a new run (``project``, ``space_id``, …).

    Raises:
        ConfigError: If the package ``trackio`` is missing, or no run can be started.
    """

    def __init__(self, run: Any = None, **options: Any) -> None:
        trackio = self._trackio = require("trackio", "trackio")
        self._given, self._options = run, options
        self._held: list[tuple[int, dict[str, Any]]] = []
        self._levels = {
            Severity.ERROR: trackio.AlertLevel.ERROR,
            Severity.WARNING: trackio.AlertLevel.WARN,
            Severity.INFO: trackio.AlertLevel.INFO,
        }
        self._open()

    def _open(self) -> None:
        current = require("trackio.context_vars", "trackio").current_run
        active = self._given if self._given is not None else current.get()
        self._owned = active is None
        if active is None:
            defaults = {"project": "autotrainer", "auto_log_gpu": False, "auto_log_cpu": False}
            try:
                active = self._trackio.init(**{**defaults, **self._options})
            except Exception as error:
                hint = "check the project, and the token if it is a Space (`hf auth login`)"
                raise ConfigError(f"sink 'trackio' can't start a run ({error}): {hint}") from error
            current.set(None)  # a run that the user starts meanwhile would finish it
        elif self._options:
            names = ", ".join(self._options)
            raise ConfigError(f"sink 'trackio': a run is active, so {names} can't be set: leave it out")
        self._run: Any = active
        self._first = self._next_step

    def reopen(self) -> None:
        """Log to the run that is active now, or to a new one, if a training has closed this sink before."""
        if self._run is None:
            self._open()

    def scalars(self, step: int, mapping: Mapping[str, float], /) -> None:
        """Log the measurements of a step."""
        self._log(step, dict(mapping))

    def finding(self, finding: Finding, /) -> None:
        """Log a finding as text, and raise an alert for a root."""
        text = str(finding)
        self._log(finding.step, {f"autotrainer/{finding.problem}": text})
        if is_alert(finding):
            self._run.alert(title(finding), text, level=self._levels[finding.severity], step=finding.step)

    def close(self) -> None:
        """Log what waits, and finish the run if this sink started it."""
        for step, row in self._held:
            self._run.log(row, step=step)
        self._held.clear()
        run, self._run = self._run, None
        if self._owned and run is not None:
            run.finish()

    @property
    def _next_step(self) -> int:
        """Step of a row that the user logs without one; a larger step of ours would shift it."""
        return int(getattr(self._run, "_next_step", 0))

    def _log(self, step: int, values: dict[str, Any]) -> None:
        row = {**values, "autotrainer/step": step}
        position = self._next_step
        if self._owned:
            self._run.log(row, step=step)
        elif position == self._first:  # the user has logged nothing yet
            self._held.append((step, row))
            if len(self._held) > _MAX_HELD:
                del self._held[::2]
        else:
            for held in (*(held for _, held in self._held), row):
                self._run.log(held, step=position - 1)
            self._held.clear()
