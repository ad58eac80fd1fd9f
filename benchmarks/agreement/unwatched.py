"""A script for ``autotrainer run``: trains a case, given as a task in JSON, without watching it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.data.datasets import load
from benchmarks.detect.run import builder
from benchmarks.execution.runs import case_of


class _Nobody:
    """Takes what a loop reports to a monitor."""

    def log(self, **values: Any) -> None:
        """Ignore the values."""

    def end_epoch(self, **values: Any) -> None:
        """Ignore the values."""


@contextmanager
def _unwatched(*_: Any, **__: Any) -> Iterator[_Nobody]:
    yield _Nobody()


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    case, seed = case_of(task), int(task["seed"])
    builder(task["framework"]).train(case.original, load(case.original, seed), seed, _unwatched)
