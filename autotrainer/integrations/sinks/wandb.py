"""Weights & Biases: measurements in the history of a run, findings as alerts and in its summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotrainer.errors import ConfigError
from autotrainer.integrations._callback import require
from autotrainer.integrations.sinks._support import CopyableSink, is_alert, title
from autotrainer.records.findings import Finding, Severity

__all__ = ["WandbSink"]

_LEVELS = {Severity.ERROR: "ERROR", Severity.WARNING: "WARN", Severity.INFO: "INFO"}
_MAX_HELD = 200
"""Samples that are held for rows of their own; of more, every second one."""


class WandbSink(CopyableSink):
    """Logs to the active run of Weights & Biases, or to a new one, which is finished at the end.

    ```python
    wandb.init(project="digits")
    with autotrainer.watch(model, optimizer, sinks=["wandb"]):
        ...
    ```

    Measurements are charts over ``autotrainer/step``; in a new run all of them are kept. In a run of yours they join
    the rows that you log and start none, so that your steps stay as they are: of several samples between two of your
    ``log`` calls, the last is kept. If you have logged nothing by the end, they get rows of their own then. Each
    finding is in the summary (``autotrainer/<problem>``); roots raise an alert.

    Args:
        run: The run; None: `wandb.run`, or a new one.
        commit: Whether each sample gets a row of its own, at once, in a run of yours too: for a run in which you never
            pass ``step`` to ``log``.
        **options: Arguments of `wandb.init` for a new run (``project``, ``mode="offline"``, …).

    Raises:
        ConfigError: If the package ``wandb`` or an API key is missing, or no run can be started.
    """

    def __init__(self, run: Any = None, *, commit: bool = False, **options: Any) -> None:
        self._wandb: Any = require("wandb", "wandb")
        self._given, self._options, self._asked_commit = run, options, commit
        self._held: list[dict[str, float]] = []
        self._open()

    def _open(self) -> None:
        active = self._given if self._given is not None else self._wandb.run
        self._owned = active is None
        if active is None:
            try:
                active = self._wandb.init(**{"project": "autotrainer", "reinit": "create_new", **self._options})
            except Exception as error:
                hint = (
                    "call `wandb login` or set WANDB_API_KEY, or set WANDB_MODE=offline to keep the run on this machine"
                )
                raise ConfigError(f"sink 'wandb' can't start a run ({error}): {hint}") from error
        elif self._options:
            names = ", ".join(self._options)
            raise ConfigError(f"sink 'wandb': a run is active, so {names} can't be set: leave it out")
        self._run: Any = active
        self._commit = self._asked_commit or self._owned
        self._first = self._position()
        self._run.define_metric("autotrainer/step", hidden=True)
        self._run.define_metric("autotrainer/*", step_metric="autotrainer/step")

    def reopen(self) -> None:
        """Log to the run that is active now, or to a new one, if a training has closed this sink before."""
        if self._run is None:
            self._open()

    def scalars(self, step: int, mapping: Mapping[str, float], /) -> None:
        """Log the measurements of a step."""
        row = {**mapping, "autotrainer/step": step}
        self._run.log(row, commit=self._commit)
        if not self._commit:
            self._held.append(row)
            if len(self._held) > _MAX_HELD:
                del self._held[::2]

    def finding(self, finding: Finding, /) -> None:
        """Write a finding to the summary, and raise an alert for a root."""
        self._run.summary[f"autotrainer/{finding.problem}"] = str(finding)
        if is_alert(finding):
            self._run.alert(title(finding), f"{finding} (step {finding.step})", _LEVELS[finding.severity])

    def close(self) -> None:
        """Log what waits for rows of its own, and finish the run if this sink started it."""
        if self._held and self._first is not None and self._position() == self._first:
            for row in self._held:
                self._run.log(row, commit=True)
        self._held.clear()
        run, self._run = self._run, None
        if self._owned and run is not None:
            run.finish()

    def _position(self) -> int | None:
        """Return the step of the next row; None if it is unknown."""
        if self._commit:
            return None
        try:
            return int(self._run.step)
        except Exception:  # noqa: BLE001 - a run that several processes share has none
            return None
