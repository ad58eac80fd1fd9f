"""JSON lines: one object per line, appended to a file and complete after a crash."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotrainer._version import __version__
from autotrainer.config import as_path
from autotrainer.errors import ConfigError
from autotrainer.integrations.sinks._support import CopyableSink
from autotrainer.records.findings import Finding

__all__ = ["JsonLinesSink"]

VERSION = 1
"""Version of the format."""


class JsonLinesSink(CopyableSink):
    """Appends measurements and findings to a file, one JSON object per line.

    ```python
    with autotrainer.watch(model, optimizer, sinks=[JsonLinesSink("run.jsonl")]):
        ...
    ```

    The ``type`` of a line is ``run`` (the first of each run, with the ``version`` of the format), ``scalars`` (with
    ``step`` and ``values``), ``finding`` (with the fields of `autotrainer.Finding`) or ``end``. All have ``time``, in
    seconds since the epoch. Values that are not finite are strings: ``"inf"``.

    Args:
        path: The file, which is created or appended to.

    Raises:
        ConfigError: If it can't be written.
    """

    def __init__(self, path: str | Path = "autotrainer.jsonl") -> None:
        self._path = as_path(path, "path")
        self._open()

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)  # nothing is left in a buffer, which a fork would double
        except OSError as error:
            raise ConfigError(f"{str(self._path)!r} can't be written ({error}): choose another file") from error
        self._write({"type": "run", "version": VERSION, "autotrainer": __version__, "process": os.getpid()})

    def reopen(self) -> None:
        """Open the file again, if a training has closed this sink before."""
        if self._file.closed:
            self._open()

    def scalars(self, step: int, mapping: Mapping[str, float], /) -> None:
        """Append the measurements of a step."""
        values = {name: value if math.isfinite(value) else str(value) for name, value in mapping.items()}
        self._write({"type": "scalars", "step": step, "values": values})

    def finding(self, finding: Finding, /) -> None:
        """Append a finding."""
        self._write({"type": "finding", **finding.to_dict()})

    def close(self) -> None:
        """Append the end, and close the file."""
        if not self._file.closed:
            self._write({"type": "end"})
            self._file.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        line = json.dumps({**record, "time": round(time.time(), 3)}, separators=(",", ":"), allow_nan=False)
        self._file.write(line.encode("ascii") + b"\n")
