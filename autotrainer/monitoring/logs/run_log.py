"""The run log: one JSON object per line, appended during the run and readable after a crash.

The first line is the header ``{"autotrainer_log": 2, ...}``. The others have a ``type``: ``context``, ``step``,
``losses``, ``epoch``, ``check`` (the rules were evaluated here), ``finding``, ``end``: see `log_reader`. Numbers that
are not finite are written as ``null`` (not measured) or ``"inf"`` (measured, but not finite). The last key of a line is
its checksum: see `autotrainer.records.json_lines`. A log holds statistics, never samples or targets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autotrainer._version import __version__
from autotrainer.records.json_lines import LineFormat, LineWriter
from autotrainer.records.schema import plain
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, StepStats
from autotrainer.records.task import TargetSummary
from autotrainer.reporting.files import new_file

__all__ = ["RUN_LOG", "LogWriter", "encode_step"]

RUN_LOG = LineFormat("run log", "autotrainer_log", 2, "pass a file written by watch(log_dir=…)", unchecked=(1,))


class LogWriter:
    """Appends records to a new file in a folder, each at once.

    Args:
        folder: The folder; created if missing.

    Raises:
        OSError: If the folder or the file can't be written.
    """

    def __init__(self, folder: str | Path) -> None:
        file = new_file(folder, "run")
        self._lines = LineWriter(file, RUN_LOG)
        self.path = Path(file.name)
        columns = {"step_columns": STEP_COLUMNS, "layer_columns": LAYER_COLUMNS}
        self.write({RUN_LOG.mark: RUN_LOG.version, "version": __version__, **columns})

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record.

        Raises:
            OSError: If it can't be written.
            LogError: If it is too long to be read back.
        """
        self._lines.write(json.dumps(plain(record), separators=(",", ":"), allow_nan=False))

    def close(self) -> None:
        """Close the file."""
        self._lines.file.close()


def encode_step(stats: StepStats, losses: Any, targets: TargetSummary) -> dict[str, Any]:
    """Return the record of a sampled step."""
    return {
        "type": "step",
        "step": stats.step,
        "epoch": stats.epoch,
        "scalars": stats.scalars,
        "layers": stats.layers,
        "losses": [list(pair) for pair in losses],
        "targets": asdict(targets),
        **({"terms": dict(stats.terms)} if stats.terms else {}),
    }
